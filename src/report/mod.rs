//! The decommission report: one body, and four ways to read it that all say the same.
//!
//! Pure: the daemon collects the body, whoever shows it renders it from the body alone.
//!
//! | file | duty |
//! |---|---|
//! | `series` | counts by hour to the bars of the chart |
//! | `words` | numbers, times and sentences |
//! | [`text`], [`markdown`], [`html`] | one format each |
//! | `chart` | the chart as SVG |

mod chart;
pub mod html;
pub mod markdown;
pub mod series;
pub mod text;
mod words;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::model::Time;

/// The body of `GET /v1/report/NAME`. Absent facts are `null`, never missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub schema: u32,
    pub service: String,
    pub provider: String,
    /// Who answers for the service.
    pub owner: String,
    pub description: Option<String>,
    pub ticket: Option<String>,
    pub compliance: Vec<String>,
    /// The state now.
    pub state: String,
    /// `observe`: nothing was closed or refused, only recorded as if it were.
    pub mode: String,
    /// The beginning of the lifetime.
    pub commissioned_at: Time,
    /// `None`: access has not ended.
    pub decommissioned_at: Option<Time>,
    /// The end of the lifetime by the schedule.
    pub planned_end: Time,
    /// `order`, `time`, `file` or `removed`; `None` like `decommissioned_at`.
    pub cause: Option<String>,
    /// Who ordered it; `None` where time or a file ended the lifetime.
    pub order: Option<Order>,
    /// Who had the files loaded that ended it, where a file did.
    pub applied: Option<Applied>,
    /// `None`: not decommissioned, or nothing on record.
    pub teardown: Option<Teardown>,
    /// Until when the provider stays refused and watched; `None`: for ever, or not decommissioned.
    pub watched_until: Option<Time>,
    /// What was refused since, without `at_close`: by source and direction, the largest first. Sources beyond those told
    /// apart come last, as `other`.
    pub attempts: Vec<Attempt>,
    /// The sum over `attempts`.
    pub attempts_total: u64,
    /// How many sources are behind `attempts`, as far as they are told apart.
    pub sources_total: u64,
    pub series: Option<Series>,
    pub ledger: Ledger,
    /// The latest signed head of the ledger.
    pub checkpoint: Option<Checkpoint>,
    /// False: something waits for the store, and is not in the ledger yet.
    pub recorded: bool,
    pub ruleset_digest: String,
    pub host: String,
    pub picoseg_version: String,
    pub generated_at: Time,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// `user (uid 1000)`.
    pub by: String,
    pub reason: String,
}

/// A ledger entry that says whose files were loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    pub by: String,
    pub at: Time,
    pub seq: u64,
    /// `config.applied`, or `daemon.started`: the files had changed before the daemon started.
    pub kind: String,
}

/// The proof that nothing was left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Teardown {
    pub sockets_closed: u64,
    pub flows_removed: u64,
    /// What was left; empty is the proof.
    pub residue: Vec<String>,
    pub completed_at: Time,
    /// Packets refused in the first two seconds after the close, when what was in flight still arrives; in no other
    /// number of the report. `None`: nobody told them apart, and they count as attempts.
    pub at_close: Option<u64>,
}

/// What one remote address sent, or was sent, after the decommission.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// An address, or `other`.
    pub remote: String,
    /// `ingress`: the provider tried to reach this host. `egress`: this host tried to reach the provider.
    pub direction: String,
    pub count: u64,
    /// How many sources these are, as far as they are told apart.
    pub sources: u64,
    pub first_seen: Time,
    pub last_seen: Time,
}

/// Attempts over time: what the chart shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Series {
    /// How long each bucket is.
    pub step_seconds: u64,
    /// The sources that are told apart, the largest first; what all others sent comes after them.
    pub sources: Vec<Stream>,
    pub buckets: Vec<Bucket>,
}

/// One source in one direction.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stream {
    pub remote: String,
    pub direction: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    pub at: Time,
    /// One for each of `sources`, then that of all others.
    pub counts: Vec<u64>,
}

/// Where this stands in the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// The first and the last entry about the service.
    pub first_seq: Option<u64>,
    pub last_seq: Option<u64>,
    /// The head of the whole ledger when the report was made.
    pub head_seq: u64,
    pub head_hash: String,
    /// How many entries are about the service.
    pub entries_total: u64,
    /// The latest of them.
    pub entries: Vec<Reference>,
}

/// One entry of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    pub seq: u64,
    /// As the ledger has it.
    pub at: String,
    pub kind: String,
    pub actor: String,
    pub hash: String,
}

/// A signed head of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    pub seq: u64,
    pub at: String,
    pub hash: String,
    pub key: String,
    pub signature: String,
}

/// How many addresses are behind rows: one that stands in both directions counts once.
pub fn distinct_sources(attempts: &[Attempt]) -> u64 {
    let (others, told_apart): (Vec<_>, Vec<_>) =
        attempts.iter().partition(|attempt| attempt.remote == "other");
    let told_apart: BTreeSet<_> = told_apart.iter().map(|attempt| &attempt.remote).collect();
    told_apart.len() as u64 + others.iter().map(|attempt| attempt.sources).sum::<u64>()
}

impl Report {
    /// What was refused in one direction, taken together.
    fn sum(&self, direction: &str) -> Option<Attempt> {
        self.attempts.iter().filter(|attempt| attempt.direction == direction).cloned().reduce(|a, b| {
            Attempt {
                count: a.count + b.count,
                sources: a.sources + b.sources,
                first_seen: a.first_seen.min(b.first_seen),
                last_seen: a.last_seen.max(b.last_seen),
                ..a
            }
        })
    }

    fn is_observed(&self) -> bool {
        self.mode == "observe"
    }
}
