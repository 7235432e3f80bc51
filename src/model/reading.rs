//! A look at both clocks of a host at the same moment.

use std::sync::Arc;
use std::time::Duration;

use super::Time;

/// What the wall clock said, and how much time had elapsed since the boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    pub wall: Time,
    /// The kernel's id of this boot: elapsed times of different boots have nothing in common.
    pub boot: Arc<str>,
    /// Since the boot, suspended time included (`CLOCK_BOOTTIME`). NTP slews it as it slews the wall clock, so that only
    /// steps part the two.
    pub elapsed: Duration,
}

impl Reading {
    /// Returns what the wall clock would say at `later` if nobody had stepped it since; `None` after another boot.
    pub fn would_be(&self, later: &Self) -> Option<Time> {
        let passed = later.elapsed.checked_sub(self.elapsed).filter(|_| self.boot == later.boot)?;
        self.wall.checked_add_signed(chrono::TimeDelta::from_std(passed).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    fn reading(boot: &str, wall: i64, elapsed: u64) -> Reading {
        let wall = Time::UNIX_EPOCH + TimeDelta::seconds(wall);
        Reading { wall, boot: boot.into(), elapsed: Duration::from_secs(elapsed) }
    }

    #[test]
    fn the_wall_clock_goes_on_with_elapsed_time() {
        let later = reading("a", 0, 25);
        assert_eq!(reading("a", 100, 20).would_be(&later), Some(reading("a", 105, 0).wall));
        assert_eq!(reading("b", 100, 20).would_be(&later), None, "another boot");
        assert_eq!(reading("a", 100, 26).would_be(&later), None, "not later");
    }
}
