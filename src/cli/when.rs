//! Times as written and as printed.

use std::str::FromStr;

use chrono::SecondsFormat;

use crate::model::Time;

/// An instant as somebody wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    Now,
    At(Time),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "write RFC 3339 with an offset, for example 2026-01-01T09:00:00Z or 2026-01-01T10:00:00+01:00, or now"
)]
pub struct WhenError;

impl When {
    pub fn at(self, now: Time) -> Time {
        match self {
            Self::Now => now,
            Self::At(instant) => instant,
        }
    }
}

impl FromStr for When {
    type Err = WhenError;

    fn from_str(text: &str) -> Result<Self, WhenError> {
        match text {
            "now" => Ok(Self::Now),
            _ => {
                let instant = chrono::DateTime::parse_from_rfc3339(text).map_err(|_| WhenError)?;
                Ok(Self::At(instant.to_utc()))
            }
        }
    }
}

/// RFC 3339 in UTC, with as many digits as the instant needs.
pub fn print(instant: Time) -> String {
    instant.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// The same, or a dash.
pub fn print_or_dash(instant: Option<Time>) -> String {
    instant.map_or_else(|| "-".to_owned(), print)
}

/// The same in whole seconds: for tables.
pub fn print_seconds(instant: Time) -> String {
    instant.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// The same, or a dash.
pub fn print_seconds_or_dash(instant: Option<Time>) -> String {
    instant.map_or_else(|| "-".to_owned(), print_seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_printed_in_utc() {
        let When::At(instant) = "2026-01-01T00:30:00+01:00".parse().unwrap() else { panic!("an instant") };
        assert_eq!(print(instant), "2025-12-31T23:30:00Z");
        assert_eq!(print_or_dash(None), "-");
    }
}
