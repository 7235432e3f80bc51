//! How many rows of attempts there may be: sources that change for months must not fill the disk.
//!
//! Beyond the limits a change of a row that does not exist counts in the row for other sources of the same service,
//! direction, reason and verdict. What is taken back is taken from the row itself as far as it has it, and else from
//! that one: whatever was folded there finds its way, also when there is room again meanwhile. Sums are always exact.

use std::collections::{BTreeMap, HashMap};

use super::attempt_totals;
use super::attempts::{AttemptKey, Change};
use crate::model::Source;

/// How many rows there may be: all in all, and of one service, so that one that is flooded leaves room for the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    pub all: u64,
    pub service: u64,
}

/// A million rows are half a gigabyte.
pub(super) const LIMITS: Limits = Limits { all: 1_000_000, service: 200_000 };

/// What a row has on record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct OnRecord {
    pub count: i64,
    pub at_close: i64,
}

/// How many rows there are: all in all, and by service.
#[derive(Debug, Clone, Default)]
pub(super) struct Room {
    all: u64,
    rows: BTreeMap<String, u64>,
}

impl AttemptKey {
    /// The row for other sources: that of attempts like this one that have no row of their own.
    pub fn folded(&self) -> Self {
        // A segment is told by the policy alone.
        let policy = self.policy.clone().filter(|_| self.service.is_none());
        Self {
            service: self.service.clone(),
            provider: self.provider.clone(),
            policy,
            direction: self.direction,
            reason: self.reason,
            verdict: self.verdict,
            protocol: "other".to_owned(),
            remote: Source::Other,
            remote_port: None,
            local: None,
            local_port: None,
            subject: None,
            uid: None,
            also: vec![],
        }
    }
}

impl Room {
    pub fn new(rows: BTreeMap<String, u64>) -> Self {
        Self { all: rows.values().sum(), rows }
    }

    /// Takes the place of a new row, if there is one.
    fn take(&mut self, key: &AttemptKey, limits: Limits) -> bool {
        let rows = self.rows.entry(attempt_totals::service(key).to_owned()).or_default();
        let is_free = self.all < limits.all && *rows < limits.service;
        if is_free {
            self.all += 1;
            *rows += 1;
        }
        is_free
    }
}

/// Says which rows change by how much; changes of rows for other sources are added to `folded`.
pub(super) fn fold(
    changes: &[(AttemptKey, Change)],
    known: &HashMap<usize, OnRecord>,
    room: &mut Room,
    limits: Limits,
    folded: &mut BTreeMap<AttemptKey, Change>,
) -> Vec<(AttemptKey, Change)> {
    let mut own = Vec::with_capacity(changes.len());
    for (index, (key, change)) in changes.iter().enumerate() {
        let (mine, rest) = match known.get(&index) {
            Some(row) => split(change, *row),
            None if is_growth(change) && room.take(key, limits) => (Some(change.clone()), None),
            None => (None, Some(change.clone())),
        };
        own.extend(mine.map(|change| (key.clone(), change)));
        if let Some(rest) = rest {
            let Change { count, at_close, .. } = rest;
            folded.entry(key.folded()).or_default().add(Change { count, at_close, ..Change::default() });
        }
    }
    own
}

fn is_growth(change: &Change) -> bool {
    change.count > 0 && change.at_close >= 0
}

/// What a row can bear of a change, and the rest.
fn split(change: &Change, row: OnRecord) -> (Option<Change>, Option<Change>) {
    let count = change.count.max(-row.count);
    let at_close = change.at_close.max(-row.at_close);
    let rest =
        Change { count: change.count - count, at_close: change.at_close - at_close, ..Change::default() };
    let is_rest = rest.count != 0 || rest.at_close != 0;
    (Some(Change { count, at_close, ..change.clone() }), is_rest.then_some(rest))
}
