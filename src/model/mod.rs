//! The words of the domain as types. Invariants live in the constructors: after them nobody checks again.
//!
//! Knows no other module of this crate. Deliberately absent: clocks, files, the kernel.

mod direction;
mod endpoint;
mod host_name;
mod name;
mod order;
mod port;
mod reading;
mod record;
mod segment;
mod service;
mod settings;
mod source;
mod subject;
mod window;

pub use direction::{Direction, Family, Mode, Reason, ServiceState};
pub use endpoint::{Endpoint, ListName, Prefix, PrefixError};
pub use host_name::HostName;
pub use name::{NameError, ServiceName};
pub use order::{Order, OrderKind};
pub use port::{Port, PortError, PortRange, Protocol};
pub use reading::Reading;
pub use record::{Cause, Decommissioned, Extended, Record, Suspended};
pub use segment::{Allow, Segment, SegmentName};
pub use service::{FileState, Policy, PolicyId, Service, Services, Watch};
pub use settings::{Approval, Attempts, Enforcement, Failsafe, Metrics, Notify, Paths, Refusal, Settings};
pub use source::{Source, Sources, SourcesError};
pub use subject::{Digest, Subject, SubjectError};
pub use window::{CronError, CronExpression, Lifetime, Opening, Span, SpanError, Until, Window};

/// A point in time: UTC, nanoseconds.
pub type Time = chrono::DateTime<chrono::Utc>;
