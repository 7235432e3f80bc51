//! What a request asks of the daemon's loop, and how the loop answers.

use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::audit;
use super::explain::Question;
use crate::model::{OrderKind, ServiceName, Time};
use crate::store::AttemptFilter;

/// One question or order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    Status,
    Services,
    Show(ServiceName),
    Report(ServiceName),
    Attempts(AttemptFilter),
    Explain(Question),
    Audit(audit::Question),
    /// Who talks to which provider; `None`: of all services.
    Flows(Option<ServiceName>),
    /// What `Apply` would do.
    Plan,
    /// Waits until a cgroup is in force.
    Settle(Settle),
    /// Loads the files.
    Apply {
        by: String,
        /// How long the files stay unless somebody confirms them; `None`: for good.
        confirm: Option<Duration>,
    },
    /// Keeps files that wait for it.
    Confirm {
        by: String,
    },
    /// Prolongs an opening.
    Extend {
        service: ServiceName,
        until: Time,
        by: String,
        reason: String,
    },
    Order {
        service: ServiceName,
        kind: OrderKind,
        by: String,
        reason: String,
    },
}

/// A cgroup as whoever asks sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settle {
    /// Below the root of the hierarchy, normalised.
    pub cgroup: String,
    /// The inode number of its directory: a path that is made again has another.
    pub id: u64,
}

/// How an answer ends; each has an HTTP status and an exit code of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// 200, exit 0.
    Done,
    /// 404, exit 1: there is no such service or cgroup.
    Unknown,
    /// 409, exit 1: it cannot be done in the present state.
    Conflict,
    /// 422, exit 78: the body holds diagnostics.
    Invalid,
    /// 500, exit 1.
    Failed,
}

/// The answer: its end and its JSON body.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub outcome: Outcome,
    pub body: Value,
}

/// A question on its way to the loop.
#[derive(Debug)]
pub struct Asked {
    pub ask: Ask,
    pub reply: oneshot::Sender<Answer>,
}

/// The way to the loop; bounded, so that a flood of requests waits at the sockets and not in memory.
pub type Line = mpsc::Sender<Asked>;
