//! The only place of these tests that reads a clock or waits.

use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

pub type Time = DateTime<Utc>;

/// How often a condition is looked at.
const GLANCE: Duration = Duration::from_millis(20);

/// How many times as long as elsewhere a test waits here: `PICOSEG_PATIENCE`, for machines that are emulated. Only waits
/// become longer, not what the product promises.
static PATIENCE: LazyLock<u32> = LazyLock::new(|| {
    let said = std::env::var("PICOSEG_PATIENCE").ok();
    said.map_or(1, |times| times.parse().expect("PICOSEG_PATIENCE is a number"))
});

/// A limit that suits this machine.
pub fn patient(usual: Duration) -> Duration {
    usual * *PATIENCE
}

/// The time in so many milliseconds on a usual machine, as a test needs them to get ready.
pub fn soon(milliseconds: i64) -> Time {
    in_ms(milliseconds * i64::from(*PATIENCE))
}

pub fn now() -> Time {
    Utc::now()
}

/// The time in so many milliseconds; negative: ago.
pub fn in_ms(milliseconds: i64) -> Time {
    now() + TimeDelta::milliseconds(milliseconds)
}

/// As a schedule writes it.
pub fn rfc3339(time: Time) -> String {
    time.to_rfc3339_opts(SecondsFormat::Nanos, true)
}

/// Waits until the wall clock has reached `time`: for what only the passing of time brings about.
pub fn reach(time: Time) {
    while let Ok(left) = (time - now()).to_std() {
        if left.is_zero() {
            return;
        }
        thread::sleep(left.min(Duration::from_millis(200)));
    }
}

/// The first `Some` of `probe`, or `None` when there is none within a [`patient`] `limit`.
pub fn within<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let limit = patient(limit);
    let start = Instant::now();
    loop {
        let found = probe();
        if found.is_some() || start.elapsed() >= limit {
            return found;
        }
        thread::sleep(GLANCE);
    }
}

/// The first `Some` of `probe`.
///
/// # Panics
/// When there is none within `limit`.
pub fn eventually<T>(what: &str, limit: Duration, probe: impl FnMut() -> Option<T>) -> T {
    within(limit, probe).unwrap_or_else(|| panic!("not within {limit:?}: {what}"))
}

/// Waits until `probe` is true.
///
/// # Panics
/// When it is not within `limit`.
pub fn until(what: &str, limit: Duration, mut probe: impl FnMut() -> bool) {
    eventually(what, limit, || probe().then_some(()));
}
