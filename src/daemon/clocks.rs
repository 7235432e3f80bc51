//! Pure: how the wall clock goes beside elapsed time, and what a clock that was turned back must not prolong.
//!
//! An opening ends at the earlier of the two clocks. In the kernel that comes by itself: the rule looks at the wall clock, the
//! element's timeout counts elapsed time, and a clock that is turned back makes neither longer as long as nobody arms the element
//! anew. Here is what the daemon has to remember for that: by when, in elapsed time, the openings end that were open when
//! the clock was turned back. Those that open later go by the wall clock as it is then.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::TimeDelta;

use crate::model::{Reading, Time};

/// Two clocks that differ by less go together: they cannot be read at the very same moment.
const TOGETHER: TimeDelta = TimeDelta::milliseconds(1);
/// Closes further away than this after a step are left to the kernel's timeouts.
const DAY: TimeDelta = TimeDelta::hours(24);

#[derive(Debug)]
pub struct Pace {
    /// The last look at the clocks after which no step was found.
    seen: Reading,
    back: Option<TurnedBack>,
}

#[derive(Debug)]
struct TurnedBack {
    /// What the wall clock would say if it had not been turned back.
    line: Reading,
    /// The ends of the openings that were open then.
    closes: BTreeSet<Time>,
}

/// The wall clock was stepped, or the host was suspended.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    /// What the wall clock would say now.
    pub would_be: Time,
    /// It is at least so late, by one clock or the other.
    pub at_least: Time,
    /// Timeouts in the kernel are to be counted anew. Never when that could make one longer.
    pub rearm: bool,
}

/// What the wall clock would say if nobody had stepped it between two readings; `None` when nobody has.
pub fn stepped_between(before: &Reading, now: &Reading) -> Option<Time> {
    let would_be = before.would_be(now)?;
    ((now.wall - would_be).abs() > TOGETHER).then_some(would_be)
}

impl Pace {
    pub fn new(seen: Reading) -> Self {
        Self { seen, back: None }
    }

    /// Looks at the clocks. A reading behind a step is left out: the kernel is about to tell of it.
    pub fn look(&mut self, now: Reading) {
        if stepped_between(&self.seen, &now).is_none() {
            self.seen = now;
        }
    }

    /// Takes a step over. `ends` says when what is open at an instant ends.
    pub fn stepped(&mut self, now: Reading, ends: impl FnOnce(Time) -> BTreeSet<Time>) -> Step {
        let would_be = self.seen.would_be(&now).unwrap_or(now.wall);
        let turned_back = now.wall + TOGETHER < would_be;
        if turned_back {
            self.turned_back(Reading { wall: would_be, ..now.clone() }, ends(would_be));
        } else if self.at_least(&now) <= now.wall + TOGETHER {
            self.back = None;
        }
        self.seen = now;
        let rearm = !turned_back && self.back.is_none();
        Step { would_be, at_least: would_be.max(self.seen.wall), rearm }
    }

    /// The openings that end at `closes` do so when `line` has come to their ends. Those of an earlier step have a line of theirs,
    /// which is further ahead; the later ones then follow that.
    pub fn turned_back(&mut self, line: Reading, closes: BTreeSet<Time>) {
        let until = line.wall + DAY;
        let closes = closes.into_iter().filter(|close| *close <= until);
        match &mut self.back {
            Some(back) => back.closes.extend(closes),
            None => self.back = Some(TurnedBack { line, closes: closes.collect() }),
        }
        self.forget();
    }

    /// The time from which timeouts are to be counted: the later of the clocks.
    pub fn at_least(&self, now: &Reading) -> Time {
        let line = self.back.as_ref().and_then(|back| back.line.would_be(now));
        line.map_or(now.wall, |line| line.max(now.wall))
    }

    /// In how much time the next opening ends by elapsed time, and at what time by its schedule.
    pub fn next_close(&self, now: &Reading) -> Option<(Duration, Time)> {
        let close = *self.back.as_ref()?.closes.first()?;
        Some(((close - self.at_least(now)).to_std().unwrap_or_default(), close))
    }

    /// What ended until `now` is over.
    pub fn passed(&mut self, now: Time) {
        if let Some(back) = &mut self.back {
            back.closes.retain(|close| *close > now);
        }
        self.forget();
    }

    fn forget(&mut self) {
        self.back.take_if(|back| back.closes.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In seconds.
    fn wall(seconds: i64) -> Time {
        Time::UNIX_EPOCH + TimeDelta::seconds(seconds)
    }

    fn reading(at: i64, elapsed: u64) -> Reading {
        Reading { wall: wall(at), boot: "a".into(), elapsed: Duration::from_secs(elapsed) }
    }

    fn ends(closes: &[i64]) -> impl FnOnce(Time) -> BTreeSet<Time> {
        let closes = closes.iter().copied().map(wall).collect();
        move |_| closes
    }

    #[test]
    fn what_is_open_when_the_clock_is_turned_back_ends_by_elapsed_time() {
        let mut pace = Pace::new(reading(1000, 0));
        pace.look(reading(1010, 10));
        let step = pace.stepped(reading(960, 20), ends(&[1030, 1100]));
        assert_eq!(step, Step { would_be: wall(1020), at_least: wall(1020), rearm: false });
        assert_eq!(pace.next_close(&reading(960, 20)), Some((Duration::from_secs(10), wall(1030))));
        // Also when the wall clock has come to where the other one was then.
        assert_eq!(pace.next_close(&reading(1025, 85)), Some((Duration::ZERO, wall(1030))));
        pace.passed(wall(1030));
        assert_eq!(pace.next_close(&reading(970, 30)), Some((Duration::from_secs(70), wall(1100))));
        pace.passed(wall(1100));
        assert_eq!(pace.next_close(&reading(1040, 100)), None);
        assert_eq!(pace.at_least(&reading(1040, 100)), wall(1040), "what opens now goes by the wall clock");
    }

    #[test]
    fn no_small_step_prolongs_what_an_earlier_one_did_not() {
        let mut pace = Pace::new(reading(1000, 0));
        pace.stepped(reading(995, 5), ends(&[1100]));
        assert!(!pace.stepped(reading(1003, 8), ends(&[1100])).rearm, "still behind");
        let late = pace.stepped(reading(990, 10), ends(&[1100]));
        assert_eq!(late.would_be, wall(1005));
        assert_eq!(pace.next_close(&reading(990, 10)), Some((Duration::from_secs(90), wall(1100))));
        assert!(pace.stepped(reading(1020, 12), ends(&[1100])).rearm, "ahead of both");
        assert_eq!(pace.next_close(&reading(1020, 12)), None, "the wall clock closes");
    }

    #[test]
    fn forward_and_after_a_suspend_everything_is_armed_anew() {
        let mut pace = Pace::new(reading(1000, 0));
        let forward = Step { would_be: wall(1010), at_least: wall(4610), rearm: true };
        assert_eq!(pace.stepped(reading(4610, 10), ends(&[5000])), forward);
        let suspended = Step { would_be: wall(5010), at_least: wall(5010), rearm: true };
        assert_eq!(pace.stepped(reading(5010, 410), ends(&[6000])), suspended);
    }

    #[test]
    fn a_look_behind_a_step_does_not_hide_it() {
        let mut pace = Pace::new(reading(1000, 0));
        pace.look(reading(940, 1));
        assert_eq!(pace.stepped(reading(941, 2), ends(&[])).would_be, wall(1002));
        assert_eq!(stepped_between(&reading(0, 0), &reading(10, 10)), None);
    }

    #[test]
    fn a_year_that_ends_far_away_holds_nothing_back() {
        let mut pace = Pace::new(reading(1000, 0));
        pace.stepped(reading(900, 0), ends(&[1000 + 40_000_000]));
        assert_eq!(pace.at_least(&reading(900, 0)), wall(900));
    }
}
