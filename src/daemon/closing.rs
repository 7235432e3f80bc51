//! Pure: which part of what is refused was still in flight at a close.
//!
//! Whoever sends does not know of the close before a reset reaches him: for two seconds what comes is no attempt of
//! somebody who was told. Only reading the kernel's counts at the end of these two seconds tells both apart, so each close
//! asks for one read at that instant. What was read until then is booked as `at_close`.
//!
//! ```text
//!      close                      ends          ends + LATE
//!        |--- booked as at_close --|--- booked, too ---|--- later attempts
//!                                      (one read)
//! ```
//! Exactness: that of the one read, some milliseconds; a loop that is busy for longer than [`LATE`] books what came since the
//! read before as later attempts, and so does a daemon that was not there. Nothing is ever hidden that came later.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::model::{Reason, ServiceName, Time};
use crate::store::{AttemptKey, Change, Closing};

/// How much later than wanted the last read may come.
pub const LATE: Duration = Duration::from_millis(400);

/// How long rows of a close are remembered: log records say later of some of their packets that they belong to other rows.
const MEMORY: Duration = Duration::from_secs(60);

/// Rows that are remembered at most.
const ROWS: usize = 16_384;

/// The closes whose two seconds are not over, or not booked yet.
#[derive(Debug, Default)]
pub struct Closings {
    open: Vec<Open>,
    /// What was booked in which row.
    booked: BTreeMap<AttemptKey, i64>,
    forget_at: Option<Instant>,
    /// Booked to the end, and not on record yet.
    ended: Vec<Closing>,
}

#[derive(Debug)]
struct Open {
    closing: Closing,
    ends: Instant,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// What is read was read before the end.
    Runs,
    /// What is read came until the end.
    Ends,
    /// What is read may have come after the end.
    Over,
}

impl Closings {
    /// Begins a close. `left`: how much of its two seconds is left.
    pub fn begin(&mut self, service: ServiceName, reason: Reason, at: Time, now: Instant, left: Duration) {
        let closing = Closing { service, reason, at, at_close: 0 };
        self.open.push(Open { closing, ends: now + left, phase: Phase::Runs });
    }

    /// When the kernel's counts have to be read next.
    pub fn due(&self) -> Option<Instant> {
        self.open.iter().filter(|open| open.phase == Phase::Runs).map(|open| open.ends).min()
    }

    /// Begins a round: the kernel's counts are read now. [`Closings::end_round`] when all that was read is booked.
    pub fn read(&mut self, now: Instant) {
        for open in self.open.iter_mut().filter(|open| open.phase == Phase::Runs && now >= open.ends) {
            open.phase = if now <= open.ends + LATE { Phase::Ends } else { Phase::Over };
        }
        if self.forget_at.is_some_and(|at| now >= at) {
            self.booked.clear();
            self.forget_at = None;
        }
    }

    /// Says of each change how much of it came at a close: of all that was read in this round.
    pub fn book(&mut self, changes: &mut BTreeMap<AttemptKey, Change>) {
        let mut moved: BTreeMap<AttemptKey, i64> = BTreeMap::new();
        for (key, change) in changes.iter_mut() {
            if self.take(key, change.count) {
                change.at_close = change.count;
                self.remember(key, change.count);
            } else if change.count < 0 {
                change.at_close = -self.give_back(key, -change.count);
                *moved.entry(whose(key)).or_default() -= change.at_close;
            }
        }
        for (key, change) in changes.iter_mut().filter(|(_, change)| change.at_close == 0) {
            let Some(left) = moved.get_mut(&whose(key)) else { continue };
            change.at_close = change.count.clamp(0, *left);
            *left -= change.at_close;
            self.remember(key, change.at_close);
        }
    }

    /// All that was read in this round is booked.
    pub fn end_round(&mut self) {
        for open in self.open.extract_if(.., |open| open.phase != Phase::Runs) {
            self.forget_at = Some(open.ends + MEMORY);
            if open.phase == Phase::Ends {
                self.ended.push(open.closing);
            }
        }
    }

    /// Something that was booked may not be on record, and is read again: of no open close is known any more what came when.
    pub fn give_up(&mut self) {
        self.open.clear();
        self.booked.clear();
    }

    /// What was booked to the end since the last call.
    pub fn take_ended(&mut self) -> Vec<Closing> {
        std::mem::take(&mut self.ended)
    }

    /// Takes back what could not be put on record.
    pub fn keep_ended(&mut self, ended: Vec<Closing>) {
        self.ended.extend(ended);
    }

    /// True when the change belongs to a close.
    fn take(&mut self, key: &AttemptKey, count: i64) -> bool {
        let fits = |open: &&mut Open| {
            Some(&open.closing.service) == key.service.as_ref()
                && open.closing.reason == key.reason
                && open.phase != Phase::Over
        };
        let Some(open) = self.open.iter_mut().find(fits) else { return false };
        open.closing.at_close += count;
        true
    }

    fn remember(&mut self, key: &AttemptKey, count: i64) {
        if self.booked.len() < ROWS || self.booked.contains_key(key) {
            *self.booked.entry(key.clone()).or_default() += count;
        }
    }

    fn give_back(&mut self, key: &AttemptKey, wanted: i64) -> i64 {
        let Some(booked) = self.booked.get_mut(key) else { return 0 };
        let given = wanted.min(*booked).max(0);
        *booked -= given;
        given
    }
}

/// What rows have in common between which packets move: all that the kernel counts by.
fn whose(key: &AttemptKey) -> AttemptKey {
    AttemptKey { local: None, uid: None, subject: None, policy: None, also: Vec::new(), ..key.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Direction;
    use crate::store::Verdict;

    const GRACE: Duration = Duration::from_secs(2);

    fn stripe() -> ServiceName {
        ServiceName::new("stripe").unwrap()
    }

    fn key(reason: Reason, uid: Option<u32>) -> AttemptKey {
        AttemptKey {
            service: Some(stripe()),
            provider: None,
            policy: None,
            direction: Direction::Egress,
            reason,
            verdict: Verdict::Refused,
            protocol: "tcp".into(),
            remote: "192.0.2.1".parse().unwrap(),
            remote_port: Some(443),
            local: None,
            local_port: None,
            subject: None,
            uid,
            also: vec![],
        }
    }

    fn closings(start: Instant) -> Closings {
        let mut closings = Closings::default();
        closings.begin(stripe(), Reason::Expired, Time::UNIX_EPOCH, start, GRACE);
        closings
    }

    /// What is at a close of changes of `expired` rows: of nobody, then of users.
    fn book<const N: usize>(closings: &mut Closings, counts: [i64; N]) -> [i64; N] {
        let users = |index: usize| (index > 0).then_some(u32::try_from(index).unwrap());
        let keys: [AttemptKey; N] = std::array::from_fn(|index| key(Reason::Expired, users(index)));
        let change = |count| Change { count, ..Change::default() };
        let mut changes: BTreeMap<_, _> = keys.iter().cloned().zip(counts.map(change)).collect();
        closings.book(&mut changes);
        closings.end_round();
        keys.map(|key| changes[&key].at_close)
    }

    #[test]
    fn what_is_read_until_the_end_is_at_the_close_and_what_is_read_after_it_is_not() {
        let start = Instant::now();
        let mut closings = closings(start);
        assert_eq!(closings.due(), Some(start + GRACE));
        closings.read(start + GRACE / 2);
        assert_eq!(book(&mut closings, [3]), [3]);
        closings.read(start + GRACE);
        assert_eq!(closings.due(), None, "it is read");
        assert_eq!(book(&mut closings, [4]), [4]);
        closings.read(start + GRACE * 2);
        assert_eq!(book(&mut closings, [5]), [0]);
        assert_eq!(closings.take_ended().iter().map(|c| c.at_close).collect::<Vec<_>>(), [7]);
        assert_eq!(closings.take_ended(), []);
    }

    #[test]
    fn a_read_that_comes_too_late_hides_nothing() {
        let start = Instant::now();
        let mut closings = closings(start);
        closings.read(start + GRACE + LATE * 2);
        assert_eq!(book(&mut closings, [9]), [0]);
        assert_eq!(closings.take_ended(), [], "nobody says that they were told apart");
    }

    #[test]
    fn other_reasons_and_services_are_not_at_the_close() {
        let mut closings = closings(Instant::now());
        let mut other = key(Reason::Expired, None);
        other.service = None;
        let change = Change { count: 2, ..Change::default() };
        let mut changes =
            BTreeMap::from([(key(Reason::Closed, None), change.clone()), (other, change.clone())]);
        closings.book(&mut changes);
        assert!(changes.values().all(|booked| *booked == change));
    }

    #[test]
    fn a_packet_of_the_close_that_moves_to_its_own_row_later_stays_one_of_the_close() {
        let start = Instant::now();
        let mut closings = closings(start);
        closings.read(start + GRACE);
        assert_eq!(book(&mut closings, [5]), [5]);
        assert_eq!(book(&mut closings, [-3, 2, 1]), [-3, 2, 1]);
        assert_eq!(
            book(&mut closings, [-3, 4]),
            [-2, 2],
            "two of the close are left; one is new, one came later"
        );
        closings.read(start + GRACE + MEMORY);
        assert_eq!(book(&mut closings, [0, -1, 1]), [0, 0, 0], "forgotten");
    }
}
