//! The wall clock: what it says, and that somebody moved it.
//!
//! The only place outside the daemon's loop that may look at a clock.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rustix::io::Errno;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};

use crate::model::{Reading, Time};

/// Returns the time of the wall clock (`CLOCK_REALTIME`), in nanoseconds.
///
/// A clock outside the range of [`Time`] reads as the end of time: everything is over then, nothing opens.
pub fn now() -> Time {
    let now = clock_gettime(ClockId::Realtime);
    u32::try_from(now.tv_nsec)
        .ok()
        .and_then(|nanoseconds| Time::from_timestamp(now.tv_sec, nanoseconds))
        .unwrap_or(Time::MAX_UTC)
}

/// Returns what both clocks say.
pub fn reading() -> Reading {
    /// Empty where nobody tells it; then it is the same boot as long as elapsed time does not go back. Our units hide that
    /// part of `/proc` (`ProcSubset=pid`) and have systemd tell it, which writes no hyphens.
    static BOOT: LazyLock<Arc<str>> = LazyLock::new(|| {
        let told = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        let told = told.ok().or_else(|| std::env::var("PICOSEG_BOOT_ID").ok());
        told.unwrap_or_default().trim_end().replace('-', "").into()
    });
    let elapsed = clock_gettime(ClockId::Boottime);
    let (seconds, nanoseconds) = (u64::try_from(elapsed.tv_sec), u32::try_from(elapsed.tv_nsec));
    let elapsed = Duration::new(seconds.unwrap_or_default(), nanoseconds.unwrap_or_default());
    Reading { wall: now(), boot: Arc::clone(&BOOT), elapsed }
}

/// What ended a wait of [`ClockWatch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tick {
    /// The wall clock reached the instant.
    Due,
    /// The wall clock was set, or the host came back from a suspend: every timeout in the kernel is off.
    ClockStepped,
}

/// An alarm on the wall clock that also goes off when the clock is stepped, once for each step.
#[derive(Debug)]
pub struct ClockWatch {
    fd: OwnedFd,
}

impl ClockWatch {
    /// Watches for steps; no instant is due until [`ClockWatch::arm`].
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let watch = Self { fd: timerfd_create(TimerfdClockId::Realtime, flags)? };
        watch.arm(Time::MAX_UTC)?;
        Ok(watch)
    }

    /// Goes off at the instant, at once when it has passed; replaces the instant before.
    ///
    /// Returns [`Tick::ClockStepped`] when the clock was stepped since the last call to this or to
    /// [`ClockWatch::read`]: the kernel tells it here instead of there. The alarm is set all the same.
    pub fn arm(&self, at: Time) -> io::Result<Option<Tick>> {
        match self.set(at) {
            // The kernel (fs/timerfd.c, timerfd_setup) forgets the step by telling it.
            Err(Errno::CANCELED) => {
                self.set(at)?;
                Ok(Some(Tick::ClockStepped))
            }
            other => Ok(other.map(|()| None)?),
        }
    }

    fn set(&self, at: Time) -> Result<(), Errno> {
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        let alarm = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: kernel_time(at) };
        timerfd_settime(&self.fd, flags, &alarm).map(|_| ())
    }

    /// Says what happened; `EWOULDBLOCK` when nothing did.
    pub fn read(&self) -> io::Result<Tick> {
        loop {
            return match rustix::io::read(&self.fd, &mut [0u8; 8]) {
                Ok(_) => Ok(Tick::Due),
                Err(Errno::CANCELED) => Ok(Tick::ClockStepped),
                Err(Errno::INTR) => continue,
                Err(other) => Err(other.into()),
            };
        }
    }
}

/// The first instant is 1 ns: zero would switch the alarm off, and the kernel knows no time before 1970.
fn kernel_time(at: Time) -> Timespec {
    let seconds = at.timestamp();
    let nanoseconds = i64::from(at.timestamp_subsec_nanos().min(999_999_999));
    match (seconds, nanoseconds) {
        (i64::MIN..0, _) | (0, 0) => Timespec { tv_sec: 0, tv_nsec: 1 },
        (tv_sec, tv_nsec) => Timespec { tv_sec, tv_nsec },
    }
}

impl AsFd for ClockWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};

    /// Waits until the alarm goes off; at most 5 seconds.
    fn wait(watch: &ClockWatch) -> usize {
        let patience = Timespec { tv_sec: 5, tv_nsec: 0 };
        poll(&mut [PollFd::new(watch, PollFlags::IN)], Some(&patience)).unwrap()
    }

    #[test]
    fn nothing_is_due_until_it_is_armed() {
        let watch = ClockWatch::new().unwrap();
        assert_eq!(watch.read().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn it_goes_off_at_the_instant_and_not_before() {
        let watch = ClockWatch::new().unwrap();
        let at = now() + std::time::Duration::from_millis(30);
        assert_eq!(watch.arm(at).unwrap(), None);
        assert_eq!(wait(&watch), 1);
        assert!(now() >= at);
        assert_eq!(watch.read().unwrap(), Tick::Due);
        assert_eq!(watch.read().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn an_instant_in_the_past_is_due_at_once_even_before_1970() {
        let watch = ClockWatch::new().unwrap();
        for past in [now(), Time::UNIX_EPOCH, Time::MIN_UTC] {
            watch.arm(past).unwrap();
            assert_eq!(wait(&watch), 1, "{past}");
            assert_eq!(watch.read().unwrap(), Tick::Due);
        }
    }

    #[test]
    fn a_later_instant_replaces_an_earlier_one() {
        let watch = ClockWatch::new().unwrap();
        watch.arm(now()).unwrap();
        watch.arm(Time::MAX_UTC).unwrap();
        assert_eq!(watch.read().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
