//! Steps the wall clock of this machine, and sends it to sleep: only where that harms nobody.

use std::cell::Cell;
use std::fs;
use std::time::Duration;

use chrono::TimeDelta;
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use super::clock::{self, Time};
use super::skipped;

/// The right to step the clock; it is set right again on drop.
pub struct WallClock {
    /// What the wall clock was ahead of the time since the boot.
    ahead: TimeDelta,
    stepped: Cell<bool>,
}

impl WallClock {
    /// `None`, after saying so, on any machine but a virtual one that was made for it by `scripts/test-kernels`.
    pub fn take() -> Option<Self> {
        let meant = std::env::var("PICOSEG_CLOCK").is_ok_and(|value| value == "really");
        let command_line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
        if !meant || !command_line.split_whitespace().any(|word| word == "picoseg.guest") {
            skipped("it steps the clock of the machine: scripts/test-kernels runs it in a virtual one");
            return None;
        }
        Some(Self { ahead: elapsed_offset(), stepped: Cell::default() })
    }

    pub fn step(&self, by: TimeDelta) {
        self.stepped.set(true);
        set(clock::now() + by);
    }

    pub fn was_stepped(&self) -> bool {
        self.stepped.get()
    }

    /// Suspends the machine to memory for so long. One that wakes before its alarm, as emulated ones do at times, is sent to
    /// sleep again.
    pub fn sleep(&self, seconds: u64) {
        let alarm = |at: u64| fs::write("/sys/class/rtc/rtc0/wakealarm", at.to_string());
        let until = alarm_clock() + seconds;
        while alarm_clock() < until {
            alarm(0).expect("no alarm");
            alarm(until.max(alarm_clock() + 2)).expect("an alarm");
            // Busy while something that wakes it is under way.
            if let Err(error) = fs::write("/sys/power/state", "mem") {
                assert_eq!(error.raw_os_error(), Some(libc::EBUSY), "{error}");
            }
        }
    }
}

/// The seconds of the clock that runs, and wakes, while the machine sleeps.
fn alarm_clock() -> u64 {
    let text = fs::read_to_string("/sys/class/rtc/rtc0/since_epoch").expect("a clock that wakes");
    text.trim().parse().expect("seconds")
}

impl Drop for WallClock {
    fn drop(&mut self) {
        let boot = Time::UNIX_EPOCH + since_boot();
        set(boot + self.ahead);
    }
}

/// The time since the boot, suspended time included: no step of the wall clock touches it.
pub fn since_boot() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).expect("below a second"))
}

fn elapsed_offset() -> TimeDelta {
    clock::now() - (Time::UNIX_EPOCH + since_boot())
}

fn set(time: Time) {
    let time = Timespec { tv_sec: time.timestamp(), tv_nsec: time.timestamp_subsec_nanos().into() };
    clock_settime(ClockId::Realtime, time).expect("root sets the clock");
}
