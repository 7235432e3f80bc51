//! Attempts: refused packets and observed flows, aggregated by everything but their times.
//!
//! They are written together with the counters they come from ([`Store::add_counts`]), so that a crash between the two
//! neither loses nor repeats a packet.
//!
//! | file | duty |
//! |---|---|
//! | `attempt_changes` | writes changes of rows |
//! | `attempt_cap` | pure: how many rows there may be, and what becomes of the others |
//! | `attempt_totals` | sums for ever |
//! | `attempt_hours` | sums by hour |
//! | `attempt_query` | which rows to read |
//! | `later_attempts` | what came after a decommission |
//! | `retention` | removes what is old |

use std::net::IpAddr;

use super::baselines::{self, Baseline};
use super::{Store, StoreError, attempt_changes, attempt_hours, attempt_totals};
use crate::model::{Direction, Reason, ServiceName, Source, Time};

/// What became of the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    Refused,
    /// It passed, since the mode is to observe.
    Observed,
}

impl Verdict {
    pub const ALL: [Self; 2] = [Self::Refused, Self::Observed];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Observed => "observed",
        }
    }
}

/// What attempts have in common that are counted in one row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptKey {
    /// `None` where a segment refused.
    pub service: Option<ServiceName>,
    pub provider: Option<String>,
    /// `NAME/egress/0`, or `segment/NAME`.
    pub policy: Option<String>,
    pub direction: Direction,
    pub reason: Reason,
    pub verdict: Verdict,
    /// `tcp`, `udp`, `icmp`, or what the packet was else.
    pub protocol: String,
    pub remote: Source,
    pub remote_port: Option<u16>,
    pub local: Option<IpAddr>,
    pub local_port: Option<u16>,
    pub subject: Option<String>,
    pub uid: Option<u32>,
    /// The other services that list the address, sorted.
    pub also: Vec<ServiceName>,
}

/// One row: how many, and from when to when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub key: AttemptKey,
    pub count: u64,
    /// How many of them came in the moments after a close, when what was in flight still arrives.
    pub at_close: u64,
    pub first_seen: Time,
    pub last_seen: Time,
    /// When the first came that is not one of those at a close.
    pub first_late: Option<Time>,
    /// The process that was seen last.
    pub process: Process,
}

/// A process as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Process {
    pub pid: Option<u32>,
    pub exe: Option<String>,
}

/// By how much a row counts further.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Change {
    /// Signed: what turns out to belong to another row goes from this one.
    pub count: i64,
    /// How much of it came in the moments after a close.
    pub at_close: i64,
    /// What is not known leaves what is on record.
    pub process: Process,
}

impl Change {
    /// Takes in a later change of the same row.
    pub fn add(&mut self, later: Self) {
        self.count += later.count;
        self.at_close += later.at_close;
        let Process { pid, exe } = later.process;
        self.process = Process { pid: pid.or(self.process.pid), exe: exe.or(self.process.exe.take()) };
    }
}

impl Store {
    /// Adds changes to the counts of rows, and writes the counters they come from, in one transaction: a crash neither
    /// loses nor repeats a packet. A row that comes down to zero goes; beyond a million rows what has none counts in
    /// [`AttemptKey::folded`]. Each key stands once.
    ///
    /// Decisions wait for it: give ten thousand rows at most (some tenths of a second).
    pub async fn add_counts(
        &self,
        changes: &[(AttemptKey, Change)],
        baselines: &[Baseline],
        at: Time,
    ) -> Result<(), StoreError> {
        self.insist_on_log().await?;
        self.in_bulk("write the attempts", async {
            let mut transaction = self.begin().await?;
            attempt_changes::add(&mut transaction, changes, at).await?;
            attempt_totals::add(&mut transaction, changes).await?;
            attempt_hours::add(&mut transaction, changes, at).await?;
            baselines::put(&mut transaction, baselines).await?;
            transaction.commit().await?;
            Ok(())
        })
        .await
    }
}
