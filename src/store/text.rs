//! How values stand in columns.

use chrono::{DateTime, SecondsFormat, Utc};

use super::error::Fault;
use crate::model::{OrderKind, ServiceName, Time};

/// RFC 3339, UTC, always nine digits of nanoseconds: for the years 0 to 9999 texts sort like the times they say.
pub(super) fn from_time(time: Time) -> String {
    time.to_rfc3339_opts(SecondsFormat::Nanos, true)
}

pub(super) fn to_time(text: &str) -> Result<Time, Fault> {
    // Not `parse_from_rfc3339`: a clock that stands beyond the year 9999 has to read back, too.
    text.parse::<DateTime<Utc>>().map_err(|error| Fault::Value(format!("{text:?} is not a time: {error}")))
}

pub(super) fn to_service(text: &str) -> Result<ServiceName, Fault> {
    ServiceName::new(text).map_err(|error| Fault::Value(error.to_string()))
}

pub(super) fn to_order_kind(text: &str) -> Option<OrderKind> {
    [OrderKind::Suspend, OrderKind::Resume, OrderKind::Decommission]
        .into_iter()
        .find(|kind| kind.as_str() == text)
}

/// SQLite's integers are signed; a count beyond them stays at the largest.
pub(super) fn from_count(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(super) fn to_count(number: i64) -> Result<u64, Fault> {
    u64::try_from(number).map_err(|_| Fault::Value(format!("{number} is below zero")))
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_with_nanoseconds_and_read_back() {
        let text = "2026-01-02T03:04:05.000000006Z";
        let time = to_time(text).unwrap_or_else(|_| panic!("{text}"));
        assert_eq!(from_time(time), text);
        assert!(to_time("yesterday").is_err());
    }

    #[test]
    fn hex_keeps_leading_zeros() {
        assert_eq!(hex(&[0, 15, 255]), "000fff");
    }
}
