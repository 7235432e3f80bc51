//! Pure: how fast what others did is repaired.
//!
//! At once, as long as that is seldom. A program that edits our table in a loop gets an answer to each edit all the same, but with
//! a rest in between, so that both together do not eat the processor: the rest is what the table may be other than it should be.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// So many repairs within [`RECENT`] are no accident, nor are fewer that took so long together.
const MANY: usize = 256;
const LONG: Duration = Duration::from_secs(3);
const RECENT: Duration = Duration::from_secs(10);
/// A rest is so many times what the repair took, as long as that is short, and three times that at least.
const REST: u32 = 9;
const SHORT: Duration = Duration::from_millis(40);
/// Between two tries of a repair that failed.
const RETRY: Duration = Duration::from_millis(100);
const LONG_RETRY: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub struct Pace {
    /// When each ended, and how long it took.
    repairs: VecDeque<(Instant, Duration)>,
    rests_until: Option<Instant>,
    failures: u32,
}

impl Pace {
    pub fn rests(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| now < until)
    }

    pub fn rests_until(&self) -> Option<Instant> {
        self.rests_until
    }

    /// Somebody does it again and again.
    pub fn is_fight(&self, now: Instant) -> bool {
        let recent = self.repairs.iter().filter(|(at, _)| now.duration_since(*at) < RECENT);
        let (count, took) =
            recent.fold((0, Duration::ZERO), |(count, all), (_, took)| (count + 1, all + *took));
        count >= MANY || took >= LONG
    }

    /// Nobody did anything of late.
    pub fn is_quiet(&self, now: Instant) -> bool {
        self.repairs.back().is_none_or(|(at, _)| now.duration_since(*at) >= RECENT)
    }

    /// A repair that ended now took so long.
    pub fn repaired(&mut self, now: Instant, took: Duration) {
        self.failures = 0;
        self.repairs.push_back((now, took));
        if self.repairs.len() > MANY {
            self.repairs.pop_front();
        }
        let rest = (took * REST).min(SHORT.max(took * 3));
        self.rests_until = self.is_fight(now).then_some(now + rest);
    }

    /// A repair failed.
    pub fn failed(&mut self, now: Instant) {
        self.failures += 1;
        self.rests_until = Some(now + if self.failures > 10 { LONG_RETRY } else { RETRY });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repair_now_and_then_waits_for_nothing() {
        let (mut pace, begin) = (Pace::default(), Instant::now());
        for second in 0..1_000 {
            let now = begin + Duration::from_secs(second);
            assert!(!pace.rests(now) && !pace.is_fight(now));
            pace.repaired(now, Duration::from_millis(3));
        }
    }

    #[test]
    fn in_a_fight_the_processor_rests_most_of_the_time() {
        for took in [Duration::from_millis(2), Duration::from_millis(300)] {
            let (mut pace, begin) = (Pace::default(), Instant::now());
            let (mut now, mut busy) = (begin, Duration::ZERO);
            while now < begin + Duration::from_secs(200) {
                if pace.rests(now) {
                    now = pace.rests_until().unwrap();
                }
                now += took;
                busy += took;
                pace.repaired(now, took);
            }
            let share = busy.as_secs_f64() / (now - begin).as_secs_f64();
            assert!(share < 0.3, "{took:?}: {share}");
        }
    }

    #[test]
    fn a_rest_is_no_longer_than_a_short_while_unless_the_repair_is() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        for _ in 0..=MANY {
            pace.repaired(now, Duration::from_millis(10));
        }
        assert!(pace.rests(now) && pace.is_fight(now));
        assert!(!pace.rests(now + SHORT));
        assert!(!pace.is_fight(now + RECENT) && pace.is_quiet(now + RECENT) && !pace.is_quiet(now));
    }

    #[test]
    fn what_failed_is_tried_again_soon_and_later_less_often() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.failed(now);
        assert!(!pace.rests(now + RETRY));
        (0..20).for_each(|_| pace.failed(now));
        assert!(pace.rests(now + RETRY) && !pace.rests(now + LONG_RETRY));
    }
}
