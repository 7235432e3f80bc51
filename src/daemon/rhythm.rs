//! Pure: when the kernel's counts are looked at.
//!
//! Whatever is counted as refused goes to the log as well, unless its limits are reached; and they are reached only while records
//! come, or as long after them as an address is remembered. So a log that was silent for longer tells of the next refusal, and
//! nobody looks without a reason. A log that cannot be read tells nothing.

use std::time::{Duration, Instant};

use super::counts::{QUIET, SOON};
use crate::compile::DETAILS_TIMEOUT;

/// How long nothing was refused until only the log tells; longer than [`DETAILS_TIMEOUT`].
const CALM: Duration = Duration::from_secs(DETAILS_TIMEOUT.as_secs() + 10);

#[derive(Debug)]
pub struct Rhythm {
    next: Option<Instant>,
    looked: Instant,
    /// When it was last known that something was refused, or not known that nothing was.
    stirred: Instant,
    /// Nothing was to be read at the last look.
    quiet: bool,
    /// Only the log tells.
    calm: bool,
}

impl Rhythm {
    pub fn new(now: Instant) -> Self {
        Self { next: Some(now), looked: now, stirred: now, quiet: false, calm: false }
    }

    /// When to look; `None`: when something tells.
    pub fn due(&self) -> Option<Instant> {
        self.next
    }

    /// Looks at that time or before.
    pub fn by(&mut self, at: Instant) {
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }

    /// Looks soon, since somebody wants to know.
    pub fn wanted(&mut self, now: Instant) {
        self.by(now.max(self.looked + QUIET[0]));
    }

    /// Records came. True: nothing was refused until then.
    pub fn logged(&mut self, now: Instant) -> bool {
        self.stirred = now;
        if std::mem::take(&mut self.quiet) {
            self.by(now + SOON);
        }
        std::mem::take(&mut self.calm)
    }

    /// It was looked. `after`: until the next look. `quiet`: nothing was there that is not on record. `tells`: the log can be read.
    pub fn looked(&mut self, now: Instant, after: Duration, quiet: bool, tells: bool) {
        (self.looked, self.quiet) = (now, quiet);
        if !quiet || !tells {
            self.stirred = now;
        }
        self.calm = now.duration_since(self.stirred) >= CALM;
        self.next = (!self.calm).then_some(now + after);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: Duration = QUIET[0];

    /// Looks whenever it is due until nothing is due any more, for ten minutes at most. Returns how long that was.
    fn looks(rhythm: &mut Rhythm, begin: Instant, tells: bool) -> Duration {
        let mut now = begin;
        while let Some(next) = rhythm.due()
            && now < begin + Duration::from_secs(600)
        {
            now = next;
            rhythm.looked(now, LOOK, true, tells);
        }
        now - begin
    }

    #[test]
    fn when_nothing_was_refused_for_longer_than_the_log_remembers_only_the_log_tells() {
        let begin = Instant::now();
        let mut rhythm = Rhythm::new(begin);
        let active = looks(&mut rhythm, begin, true);
        assert!(active > DETAILS_TIMEOUT && active < 2 * DETAILS_TIMEOUT, "{active:?}");
        let now = begin + Duration::from_secs(5_000);
        assert!(rhythm.logged(now));
        assert_eq!(rhythm.due(), Some(now + SOON));
        assert!(!rhythm.logged(now), "it is not the first record");
        rhythm.looked(now + SOON, LOOK, false, true);
        assert_eq!(rhythm.due(), Some(now + SOON + LOOK));
        assert!(looks(&mut rhythm, now, true) > DETAILS_TIMEOUT);
    }

    #[test]
    fn what_a_look_finds_keeps_it_looking() {
        let begin = Instant::now();
        let mut rhythm = Rhythm::new(begin);
        let now = begin + looks(&mut rhythm, begin, true);
        rhythm.by(now);
        rhythm.looked(now, LOOK, false, true);
        assert!(looks(&mut rhythm, now, true) > DETAILS_TIMEOUT);
    }

    #[test]
    fn a_log_that_cannot_be_read_tells_nothing() {
        let begin = Instant::now();
        assert!(looks(&mut Rhythm::new(begin), begin, false) >= Duration::from_secs(600));
    }

    #[test]
    fn whoever_asks_again_and_again_makes_nobody_look_more_often() {
        let begin = Instant::now();
        let mut rhythm = Rhythm::new(begin);
        let now = begin + looks(&mut rhythm, begin, true);
        rhythm.wanted(now);
        assert_eq!(rhythm.due(), Some(now + LOOK), "it was looked just now");
        let later = now + Duration::from_secs(100);
        rhythm.looked(now + LOOK, LOOK, true, true);
        rhythm.wanted(later);
        assert_eq!(rhythm.due(), Some(later));
    }
}
