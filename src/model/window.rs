//! When a service is open: lifetimes, windows, exceptions.

use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use chrono::NaiveTime;
use chrono_tz::Tz;

use super::Time;

/// A half-open span of time `[opens_at, closes_at)` that is not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    opens_at: Time,
    closes_at: Time,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it ends at {closes_at}, which is not after its beginning at {opens_at}")]
pub struct SpanError {
    pub opens_at: Time,
    pub closes_at: Time,
}

impl Span {
    pub fn new(opens_at: Time, closes_at: Time) -> Result<Self, SpanError> {
        if opens_at < closes_at {
            Ok(Self { opens_at, closes_at })
        } else {
            Err(SpanError { opens_at, closes_at })
        }
    }

    pub fn opens_at(self) -> Time {
        self.opens_at
    }

    pub fn closes_at(self) -> Time {
        self.closes_at
    }

    pub fn contains(self, instant: Time) -> bool {
        self.opens_at <= instant && instant < self.closes_at
    }

    /// The part of this span that lies in the other one.
    pub fn clip(self, bounds: Self) -> Option<Self> {
        Self::new(self.opens_at.max(bounds.opens_at), self.closes_at.min(bounds.closes_at)).ok()
    }
}

/// `[commission, decommission)` of a service.
pub type Lifetime = Span;

/// A cron expression of five or six fields, as the `cron` crate reads it once days of the week are names.
///
/// It compares and hashes by its text. A clone shares everything.
#[derive(Debug, Clone)]
pub struct CronExpression(Arc<Parsed>);

#[derive(Debug)]
struct Parsed {
    text: String,
    schedule: cron::Schedule,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CronError(pub String);

impl CronExpression {
    /// `text` is what the user wrote; `normalised` is the same with six or seven fields for the `cron` crate.
    pub fn new(text: &str, normalised: &str) -> Result<Self, CronError> {
        let schedule = cron::Schedule::from_str(normalised).map_err(|error| CronError(error.to_string()))?;
        Ok(Self(Arc::new(Parsed { text: text.to_owned(), schedule })))
    }

    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// The local times at which it fires; feed it with local time dressed up as UTC.
    pub fn schedule(&self) -> &cron::Schedule {
        &self.0.schedule
    }
}

impl PartialEq for CronExpression {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}
impl Eq for CronExpression {}
impl Hash for CronExpression {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text().hash(state);
    }
}

/// How a recurring window ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Until {
    /// After so much elapsed time; more than zero.
    Elapsed(std::time::Duration),
    /// At the next such local time after the opening.
    LocalTime(NaiveTime),
}

/// When a window opens and closes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Opening {
    Recurring { cron: CronExpression, until: Until, timezone: Tz },
    Absolute(Span),
}

/// One `[[window]]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Window {
    pub name: Option<String>,
    pub opening: Opening,
}
