//! Pure: what the kernel counted and what it logged become rows.
//!
//! Bounded: of a flood of made-up sources only so many are remembered, and the records of others explain nothing.
//!
//! The kernel counts every refused packet by remote address and protocol (`hosts`), and by port as well (`ports`);
//! log records say more of some of them. A key's total comes from the counts alone. Records say how it is split:
//! what they do not explain is a remainder without user, port or local address. A record that arrives later than
//! its packet was counted moves one from the remainder to its own row, so the sum never changes.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::compile::Charged;
use crate::model::{Direction, Reason, Time};
use crate::store::{AttemptKey, Change, Process};

/// What is counted together. `port` is the destination port; none for protocols without, and for fragments.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    pub charged: Charged,
    pub direction: Direction,
    pub reason: Reason,
    pub remote: IpAddr,
    pub protocol: u8,
    pub port: Option<u16>,
}

/// What a log record adds to a target.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Detail {
    pub local: Option<IpAddr>,
    pub uid: Option<u32>,
    /// `unit:x.service`, `container:ID` or `cgroup:/path`; not where the row names a subject itself.
    pub subject: Option<Arc<str>>,
}

/// Changes of rows: by how much, signed.
pub type Changes = BTreeMap<AttemptKey, Change>;

/// The most targets that are remembered.
const MOST: usize = 4_096;

/// The running split of the targets that were counted or logged of late.
#[derive(Debug, Default)]
pub struct Tally {
    targets: HashMap<Target, Split>,
}

#[derive(Debug, Default)]
struct Split {
    /// The row that everything of this target belongs to, without details. When it changes, a new split begins.
    row: Option<AttemptKey>,
    total: i64,
    explained: i64,
    remainder: i64,
    /// Records whose packets are not counted yet.
    waiting: BTreeMap<Detail, Waiting>,
    touched: Option<Time>,
}

#[derive(Debug, Default)]
struct Waiting {
    count: i64,
    /// The process that was seen last.
    process: Process,
}

impl Tally {
    /// Takes log records in; [`Tally::settle`] puts them into rows once their packets are counted. False: there is no room.
    pub fn explain(&mut self, target: Target, detail: Detail, process: Process, now: Time) -> bool {
        if self.targets.len() >= MOST && !self.targets.contains_key(&target) {
            return false;
        }
        let split = self.targets.entry(target).or_default();
        let waiting = split.waiting.entry(detail).or_default();
        waiting.count += 1;
        waiting.process.see(process);
        split.touched = Some(now);
        true
    }

    /// Takes in what the kernel counted since the last time, and returns what changes in which row. `row` gives the
    /// row of a target: its service, policy and verdict, without details.
    pub fn settle(
        &mut self,
        counted: impl IntoIterator<Item = (Target, i64)>,
        row: &dyn Fn(&Target) -> Option<AttemptKey>,
        now: Time,
    ) -> Changes {
        let mut changes = Changes::new();
        for (target, packets) in counted {
            let Some(row) = row(&target) else { continue };
            let mut passing = Split::default();
            let is_known = self.targets.len() < MOST || self.targets.contains_key(&target);
            let split = match is_known {
                true => self.targets.entry(target.clone()).or_default(),
                false => &mut passing,
            };
            split.belong(row);
            split.total += packets;
            split.touched = Some(now);
            split.settle(&target, &mut changes);
        }
        changes.retain(|_, change| change.count != 0);
        changes
    }

    /// What records change that came after their packets were counted.
    pub fn settle_late(&mut self) -> Changes {
        let mut changes = Changes::new();
        for (target, split) in self.targets.iter_mut().filter(|(_, split)| !split.waiting.is_empty()) {
            split.settle(target, &mut changes);
        }
        changes.retain(|_, change| change.count != 0);
        changes
    }

    /// Counts the records that wait for packets which nobody counts any more: the table that did was deleted.
    pub fn rescue(&mut self, row: &dyn Fn(&Target) -> Option<AttemptKey>, now: Time) -> Changes {
        let waiting = self.targets.iter().filter(|(_, split)| !split.waiting.is_empty());
        let packets = |split: &Split| split.waiting.values().map(|waiting| waiting.count).sum();
        let orphans: Vec<(Target, i64)> =
            waiting.map(|(target, split)| (target.clone(), packets(split))).collect();
        self.settle(orphans, row, now)
    }

    /// Forgets targets that were quiet since an instant; what was written stays written.
    pub fn forget(&mut self, since: Time) {
        self.targets.retain(|_, split| split.touched.is_none_or(|at| at >= since));
        if self.targets.capacity() > 4 * self.targets.len() {
            self.targets.shrink_to_fit();
        }
    }

    /// Forgets everything: what was settled last is not written.
    pub fn clear(&mut self) {
        self.targets.clear();
    }
}

impl Split {
    fn belong(&mut self, row: AttemptKey) {
        if self.row.is_none() {
            self.row = Some(row);
        } else if self.row.as_ref() != Some(&row) {
            let waiting = std::mem::take(&mut self.waiting);
            *self = Self { row: Some(row), waiting, ..Self::default() };
        }
    }

    fn settle(&mut self, target: &Target, changes: &mut Changes) {
        let Some(row) = &self.row else { return };
        for (detail, waiting) in &mut self.waiting {
            let explained = waiting.count.min(self.total - self.explained).max(0);
            waiting.count -= explained;
            self.explained += explained;
            let process = waiting.process.clone();
            let change = Change { count: explained, process, ..Change::default() };
            changes.entry(detailed(row, target, detail)).or_default().add(change);
        }
        self.waiting.retain(|_, waiting| waiting.count > 0);
        let remainder = (self.total - self.explained).max(0);
        changes.entry(row.clone()).or_default().count += remainder - self.remainder;
        self.remainder = remainder;
    }
}

fn detailed(row: &AttemptKey, _target: &Target, detail: &Detail) -> AttemptKey {
    let subject = row.subject.clone().or_else(|| detail.subject.as_deref().map(str::to_owned));
    AttemptKey { local: detail.local, uid: detail.uid, subject, ..row.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Verdict;
    use proptest::prelude::*;

    fn target() -> Target {
        Target {
            charged: Charged::ByAddress,
            direction: Direction::Egress,
            reason: Reason::Closed,
            remote: "192.0.2.1".parse().unwrap(),
            protocol: 6,
            port: Some(443),
        }
    }

    fn row(target: &Target) -> Option<AttemptKey> {
        Some(AttemptKey {
            service: None,
            provider: None,
            policy: None,
            direction: target.direction,
            reason: target.reason,
            verdict: Verdict::Refused,
            protocol: "tcp".into(),
            remote: target.remote.into(),
            remote_port: target.port,
            local: None,
            local_port: None,
            subject: None,
            uid: None,
            also: vec![],
        })
    }

    fn detail(uid: u32) -> Detail {
        Detail { uid: Some(uid), ..Detail::default() }
    }

    fn now() -> Time {
        Time::UNIX_EPOCH
    }

    fn add(rows: &mut BTreeMap<AttemptKey, i64>, changes: Changes) {
        for (key, change) in changes {
            *rows.entry(key).or_default() += change.count;
        }
    }

    #[test]
    fn a_late_record_moves_its_packet_out_of_the_remainder() {
        let (mut tally, mut rows) = (Tally::default(), BTreeMap::new());
        add(&mut rows, tally.settle([(target(), 5)], &row, now()));
        assert!(tally.explain(target(), detail(33), Process::default(), now()));
        add(&mut rows, tally.settle_late());
        let counts: Vec<_> = rows.values().copied().collect();
        assert_eq!(counts.iter().sum::<i64>(), 5);
        assert!(counts.contains(&4) && counts.contains(&1));
    }

    #[test]
    fn a_record_whose_packet_is_not_counted_yet_waits() {
        let mut tally = Tally::default();
        assert!(tally.explain(target(), detail(33), Process::default(), now()));
        assert!(tally.settle_late().is_empty());
        let rows = tally.settle([(target(), 1)], &row, now());
        assert_eq!(rows.len(), 1);
        assert_eq!(rows.keys().next().unwrap().uid, Some(33));
    }

    #[test]
    fn records_whose_packets_nobody_counts_any_more_are_counted_once() {
        let (mut tally, mut rows) = (Tally::default(), BTreeMap::new());
        for _ in 0..3 {
            tally.explain(target(), detail(33), Process::default(), now());
        }
        add(&mut rows, tally.settle([(target(), 1)], &row, now()));
        add(&mut rows, tally.rescue(&row, now()));
        add(&mut rows, tally.rescue(&row, now()));
        assert_eq!(
            rows.into_iter().map(|(key, count)| (key.uid, count)).collect::<Vec<_>>(),
            [(Some(33), 3)]
        );
    }

    #[test]
    fn a_row_has_the_process_that_was_seen_last_and_keeps_a_subject_of_its_own() {
        let mut tally = Tally::default();
        let seen = |pid| Process { pid: Some(pid), exe: None };
        let detail = Detail { subject: Some("unit:a.service".into()), ..detail(33) };
        for process in [seen(1), seen(2), Process::default()] {
            tally.explain(target(), detail.clone(), process, now());
        }
        let rows = tally.settle([(target(), 3)], &row, now());
        let (key, change) = rows.first_key_value().unwrap();
        assert_eq!((key.subject.as_deref(), change.count), (Some("unit:a.service"), 3));
        assert_eq!(change.process, seen(2));
        let mut tally = Tally::default();
        tally.explain(target(), detail, seen(1), now());
        let segment =
            |target: &Target| Some(AttemptKey { subject: Some("unit:s.slice".into()), ..row(target)? });
        let rows = tally.settle([(target(), 1)], &segment, now());
        assert_eq!(rows.keys().next().unwrap().subject.as_deref(), Some("unit:s.slice"));
    }

    #[test]
    fn what_there_is_no_room_for_is_counted_without_details() {
        let mut tally = Tally::default();
        let number =
            |number: u32| Target { remote: std::net::Ipv4Addr::from_bits(number).into(), ..target() };
        let all = (0..MOST as u32).map(|one| (number(one), 1));
        assert_eq!(tally.settle(all, &row, now()).len(), MOST);
        let more = number(1 << 20);
        assert!(!tally.explain(more.clone(), detail(33), Process::default(), now()));
        let rows = tally.settle([(more, 3), (number(7), 2)], &row, now());
        assert_eq!(rows.values().map(|change| change.count).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(tally.targets.len(), MOST);
    }

    proptest! {
        #[test]
        fn the_sum_is_what_the_kernel_counted_whatever_the_records_say(
            steps in prop::collection::vec((0i64..50, prop::collection::vec((0u32..3, 0usize..3), 0..60)), 1..12),
        ) {
            let (mut tally, mut rows, mut sent) = (Tally::default(), BTreeMap::new(), 0);
            for (packets, records) in steps {
                for (uid, subject) in records {
                    let subject = [None, Some("unit:a.service"), Some("unit:b.service")][subject];
                    let detail = Detail { subject: subject.map(Arc::from), ..detail(uid) };
                    tally.explain(target(), detail, Process { pid: Some(uid), exe: None }, now());
                }
                add(&mut rows, tally.settle_late());
                sent += packets;
                add(&mut rows, tally.settle([(target(), packets)], &row, now()));
                prop_assert_eq!(rows.values().sum::<i64>(), sent);
                prop_assert!(rows.values().all(|count| *count >= 0));
            }
        }
    }
}
