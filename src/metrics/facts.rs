//! What the daemon tells, as plain values: everything that metrics and dashboard are made of.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::histogram::Histogram;
use crate::model::{Direction, Reason, ServiceName, ServiceState, Time};
use crate::store::{AttemptTotal, LatestAttempt, Verdict};

/// A question for the loop.
#[derive(Debug)]
pub struct Ask {
    /// Also what only the dashboard shows and costs a look into the rows of attempts.
    pub late: bool,
    pub reply: oneshot::Sender<Facts>,
}

/// The way to the loop.
pub type Line = mpsc::Sender<Ask>;

/// The daemon at one instant.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    pub now: Time,
    /// The host's name.
    pub host: String,
    pub version: String,
    pub started_at: Time,
    pub enforcing: bool,
    pub in_force_since: Time,
    /// Why the kernel's table could not be read.
    pub table_error: Option<String>,
    pub config_error: Option<String>,
    pub store_error: Option<String>,
    pub weaker: Vec<String>,
    /// By name.
    pub services: Vec<Service>,
    pub segments: usize,
    pub next_transition: Option<Transition>,
    /// `None`: the store could not be asked.
    pub attempts: Option<Vec<AttemptTotal>>,
    /// Refused packets without a detailed record.
    pub lost_details: u64,
    /// Records that the kernel made and nobody got.
    pub details_overrun: u64,
    pub commits: Commits,
    pub drift: u64,
    pub drift_at: Option<Time>,
    pub clock_steps: u64,
    /// When the store last had decisions on the disk.
    pub last_sync: Option<Time>,
    /// `None`: the store could not be asked.
    pub ledger: Option<LedgerHead>,
    pub unresolved_subjects: usize,
    pub unresolved_services: usize,
    pub host_names: usize,
    pub host_names_failing: usize,
    /// The latest sources after a decommission; `None`: not asked for, or the store could not be asked.
    pub late: Option<Vec<LatestAttempt>>,
}

/// A service and what time will bring for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    pub name: ServiceName,
    pub provider: String,
    pub enforcing: bool,
    pub state: ServiceState,
    /// When it opens next, unless it is open.
    pub opens_at: Option<Time>,
    /// When the opening now in force ends.
    pub closes_at: Option<Time>,
    /// When it is decommissioned, or was.
    pub decommission: Time,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    pub at: Time,
    pub service: ServiceName,
    pub to: ServiceState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerHead {
    pub seq: u64,
    /// `None` for an empty ledger.
    pub at: Option<Time>,
}

/// Transactions with the kernel.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Commits {
    pub done: u64,
    pub failed: u64,
    pub durations: Histogram,
}

impl Commits {
    pub fn note(&mut self, done: bool, took: Duration) {
        match done {
            true => {
                self.done += 1;
                self.durations.observe(took);
            }
            false => self.failed += 1,
        }
    }
}

impl Facts {
    pub fn count(&self, state: ServiceState) -> usize {
        self.services.iter().filter(|service| service.state == state).count()
    }

    /// Refused packets by direction and reason.
    pub fn refused(&self, direction: Direction, reason: Reason) -> Option<u64> {
        let fits = |total: &&AttemptTotal| {
            (total.direction, total.reason, total.verdict) == (direction, reason, Verdict::Refused)
        };
        self.attempts.as_ref().map(|totals| totals.iter().filter(fits).map(|total| total.count).sum())
    }
}
