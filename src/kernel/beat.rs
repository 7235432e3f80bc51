//! A timer that goes off again and again, by the kernel's clock for elapsed time.
//!
//! Not one of tokio's: their wheel has steps of 4 s, 64 ms and 1 ms, so that a wait of a minute wakes the process up to three times.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// Readable when its time has come.
#[derive(Debug)]
pub struct Beat {
    fd: OwnedFd,
}

impl Beat {
    /// Goes off after each such interval.
    pub fn every(interval: Duration) -> io::Result<Self> {
        let fd = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        let interval = Timespec {
            tv_sec: i64::try_from(interval.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(interval.subsec_nanos()),
        };
        let alarm = Itimerspec { it_interval: interval, it_value: interval };
        timerfd_settime(&fd, TimerfdTimerFlags::empty(), &alarm)?;
        Ok(Self { fd })
    }

    /// Takes note of it; true when it went off since the last call.
    pub fn went_off(&self) -> bool {
        rustix::io::read(&self.fd, &mut [0u8; 8]).is_ok()
    }
}

impl AsFd for Beat {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    #[test]
    fn it_goes_off_again_and_again() {
        let beat = Beat::every(Duration::from_millis(20)).unwrap();
        for _ in 0..2 {
            let patience = Timespec { tv_sec: 10, tv_nsec: 0 };
            assert_eq!(poll(&mut [PollFd::new(&beat, PollFlags::IN)], Some(&patience)), Ok(1));
            assert!(beat.went_off());
        }
        let beat = Beat::every(Duration::from_secs(3_600)).unwrap();
        assert!(!beat.went_off());
    }
}
