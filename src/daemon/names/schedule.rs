//! When which name is asked for again. Pure: the time comes in.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::model::HostName;

/// Between two questions for a name whose answers hold shorter or longer.
const SHORTEST: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(3600);

/// After the first failure; twice as long after each further one.
const RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// What a question came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// The answer holds that long.
    Answered(Duration),
    Failed,
}

/// The names that are asked for.
#[derive(Debug, Default)]
pub struct Schedule {
    names: BTreeMap<HostName, State>,
    due: BTreeSet<(Instant, HostName)>,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    /// `None` while it is being asked for.
    due: Option<Instant>,
    failures: u32,
}

impl Schedule {
    /// Asks for these names from now on; new ones at once.
    pub fn set(&mut self, names: &BTreeSet<HostName>, now: Instant) {
        let gone: Vec<_> = self.names.keys().filter(|name| !names.contains(*name)).cloned().collect();
        for name in gone {
            if let Some(due) = self.names.remove(&name).and_then(|state| state.due) {
                self.due.remove(&(due, name));
            }
        }
        for name in names {
            if !self.names.contains_key(name) {
                self.names.insert(name.clone(), State { due: Some(now), failures: 0 });
                self.due.insert((now, name.clone()));
            }
        }
    }

    /// Everything at once: other resolvers may answer otherwise.
    pub fn all_at(&mut self, now: Instant) {
        self.due.clear();
        for (name, state) in &mut self.names {
            state.failures = 0;
            if state.due.is_some() {
                state.due = Some(now);
                self.due.insert((now, name.clone()));
            }
        }
    }

    pub fn first(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// The next name that is due, which is being asked for from now on.
    pub fn next(&mut self, now: Instant) -> Option<HostName> {
        if self.first()? > now {
            return None;
        }
        let (_, name) = self.due.pop_first()?;
        if let Some(state) = self.names.get_mut(&name) {
            state.due = None;
        }
        Some(name)
    }

    /// Notes what became of a question; false when nobody wants the name any more. `jitter`: 0 to 1, so that names
    /// do not stay in step.
    pub fn done(&mut self, name: &HostName, asked: Asked, now: Instant, jitter: f64) -> bool {
        let Some(state) = self.names.get_mut(name) else { return false };
        let pause = match asked {
            Asked::Answered(holds) => {
                state.failures = 0;
                holds.clamp(SHORTEST, LONGEST)
            }
            Asked::Failed => {
                let pause = RETRY.saturating_mul(1 << state.failures.min(6)).min(LONGEST_RETRY);
                state.failures = state.failures.saturating_add(1);
                pause
            }
        };
        let due = now + pause + pause.mul_f64(jitter / 10.0);
        state.due = Some(due);
        self.due.insert((due, name.clone()));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(texts: &[&str]) -> BTreeSet<HostName> {
        texts.iter().map(|text| HostName::new(text).unwrap()).collect()
    }

    #[test]
    fn a_name_is_asked_for_again_when_its_answer_is_over() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        schedule.set(&names(&["a.example.com", "b.example.com"]), now);
        let first = schedule.next(now).unwrap();
        let second = schedule.next(now).unwrap();
        assert_eq!(schedule.next(now), None, "both are being asked for");
        assert!(schedule.done(&first, Asked::Answered(Duration::from_secs(30)), now, 0.0));
        assert!(schedule.done(&second, Asked::Answered(Duration::ZERO), now, 0.0));
        assert_eq!(schedule.first(), Some(now + SHORTEST), "not more often");
        assert_eq!(schedule.next(now + SHORTEST), Some(second));
        assert_eq!(schedule.next(now + Duration::from_secs(29)), None);
        assert_eq!(schedule.next(now + Duration::from_secs(30)), Some(first));
    }

    #[test]
    fn failures_are_asked_for_again_less_and_less_often() {
        let (mut schedule, mut now) = (Schedule::default(), Instant::now());
        schedule.set(&names(&["a.example.com"]), now);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let name = schedule.next(now).unwrap();
            schedule.done(&name, Asked::Failed, now, 0.0);
            pauses.push((schedule.first().unwrap() - now).as_secs());
            now = schedule.first().unwrap();
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        schedule.all_at(now);
        assert_eq!(schedule.first(), Some(now));
    }

    #[test]
    fn nobody_asks_for_a_name_that_is_gone() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        schedule.set(&names(&["a.example.com", "b.example.com"]), now);
        let asked = schedule.next(now).unwrap();
        schedule.set(&names(&[]), now);
        assert_eq!(schedule.first(), None);
        assert!(!schedule.done(&asked, Asked::Failed, now, 0.0));
        assert_eq!(schedule.first(), None);
    }
}
