//! Instants, local times and durations as users write them.

use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta};
use toml::value::{Datetime, Offset};

use crate::model::Time;

/// The longest duration: ten years and a bit. Longer ones belong into the lifetime.
const LONGEST: Duration = Duration::from_secs(3660 * 24 * 3600);

/// What is wrong with a value, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mistake {
    pub message: String,
    pub help: String,
}

impl Mistake {
    pub fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { message: message.into(), help: help.into() }
    }
}

/// Reads a whole number above zero with one unit, `s m h d`; at most 3660 days.
pub(super) fn duration(text: &str) -> Result<Duration, Mistake> {
    let no_duration = || {
        let message = format!("{text:?} is no duration");
        Mistake::new(message, duration_help(text))
    };
    let unit = text.chars().last().ok_or_else(no_duration)?;
    let digits = text.strip_suffix(unit).unwrap_or_default();
    let seconds = unit_seconds(unit).ok_or_else(no_duration)?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(no_duration());
    }
    let total = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(seconds));
    match total.map(Duration::from_secs) {
        Some(Duration::ZERO) => {
            Err(Mistake::new(format!("{text:?} is no time at all"), "a duration is more than zero"))
        }
        Some(duration) if duration <= LONGEST => Ok(duration),
        Some(_) | None => Err(Mistake::new(format!("{text:?} is too long"), "a duration is at most 3660d")),
    }
}

fn unit_seconds(unit: char) -> Option<u64> {
    match unit {
        's' => Some(1),
        'm' => Some(60),
        'h' => Some(3600),
        'd' => Some(24 * 3600),
        _ => None,
    }
}

/// Proposes the sum for `1h30m`, and the rule for everything else.
fn duration_help(text: &str) -> String {
    let rule = "a duration is a whole number and one unit of s, m, h, d, for example \"90m\"";
    match compound_seconds(text).filter(|sum| *sum > 0) {
        Some(sum) if sum % 3600 == 0 => format!("write \"{}h\": {rule}", sum / 3600),
        Some(sum) if sum % 60 == 0 => format!("write \"{}m\": {rule}", sum / 60),
        Some(sum) => format!("write \"{sum}s\": {rule}"),
        None => rule.to_owned(),
    }
}

fn compound_seconds(text: &str) -> Option<u64> {
    if text.len() > 40 {
        return None;
    }
    let lower = text.to_lowercase().replace(' ', "");
    let parts = lower.split_inclusive(|c: char| c.is_ascii_alphabetic());
    parts.into_iter().try_fold(0u64, |sum, part| {
        let unit = part.chars().last()?;
        let number: u64 = part.strip_suffix(unit)?.parse().ok()?;
        sum.checked_add(number.checked_mul(unit_seconds(unit)?)?)
    })
}

/// Reads `HH:MM` or `HH:MM:SS`.
pub(super) fn local_time(text: &str) -> Result<NaiveTime, Mistake> {
    let two_digits = |part: &str| -> Option<u32> {
        let plain = part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| part.parse().ok()).flatten()
    };
    let parts: Option<Vec<u32>> = text.split(':').map(two_digits).collect();
    let time = match parts.as_deref() {
        Some([hour, minute]) => NaiveTime::from_hms_opt(*hour, *minute, 0),
        Some([hour, minute, second]) => NaiveTime::from_hms_opt(*hour, *minute, *second),
        Some(_) | None => None,
    };
    time.ok_or_else(|| {
        let help = match text {
            "24:00" | "24:00:00" => "midnight is \"00:00\"",
            _ => "write the hour and the minute with two digits each, from \"00:00\" to \"23:59\", or add seconds",
        };
        Mistake::new(format!("{text:?} is no local time"), help)
    })
}

/// The instant that a TOML date-time with an offset names.
pub(super) fn instant(written: &Datetime) -> Result<Time, Mistake> {
    let (Some(date), Some(time), Some(offset)) = (written.date, written.time, written.offset) else {
        return Err(without_offset(written));
    };
    let second = time.second.unwrap_or(0);
    if second == 60 {
        return Err(Mistake::new(
            format!("{written} is a leap second"),
            "write the second before it or after it: clocks of Linux have no leap seconds",
        ));
    }
    let nanosecond = time.nanosecond.unwrap_or(0);
    let minutes = match offset {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(minutes),
    };
    NaiveDate::from_ymd_opt(i32::from(date.year), u32::from(date.month), u32::from(date.day))
        .and_then(|day| {
            let (hour, minute) = (u32::from(time.hour), u32::from(time.minute));
            day.and_hms_nano_opt(hour, minute, u32::from(second), nanosecond)
        })
        .and_then(|local| local.checked_sub_signed(TimeDelta::minutes(minutes)))
        .map(|utc| utc.and_utc())
        .ok_or_else(|| Mistake::new(format!("{written} does not exist"), "look at a calendar"))
        .and_then(|instant| in_range(written, instant))
}

/// What to write in place of a time in quotes.
pub(super) fn unquoted_help(text: &str) -> String {
    match text.parse::<Datetime>().map(|written| (instant(&written), written)) {
        Ok((Ok(_), written)) => format!("remove the quotes: {written}"),
        Ok((Err(mistake), _)) => format!("remove the quotes; {}", mistake.help),
        Err(_) => {
            "write a time with an offset and without quotes, for example 2026-01-01T00:00:00Z".to_owned()
        }
    }
}

/// The kernel counts wall-clock time in 63 bits of nanoseconds from 1970: an instant outside of them could not be armed.
fn in_range(written: &Datetime, instant: Time) -> Result<Time, Mistake> {
    let known = DateTime::UNIX_EPOCH..DateTime::from_timestamp_nanos(i64::MAX);
    if known.contains(&instant) {
        return Ok(instant);
    }
    Err(Mistake::new(
        format!("{written} is out of range"),
        "the kernel's clock knows the years from 1970 to 2261",
    ))
}

/// A local time is a different instant on every host: the mistake that the format exists to prevent.
fn without_offset(written: &Datetime) -> Mistake {
    let (kind, example) = match (written.date, written.time) {
        (Some(_), Some(_)) => ("time", format!("{written}Z")),
        (Some(_), None) => ("date", format!("{written}T00:00:00Z")),
        (None, _) => ("time of day", "2026-01-01T00:00:00Z".to_owned()),
    };
    let message = match kind {
        "time" => format!("{written} has no offset from UTC"),
        kind => format!("{written} is only a {kind}"),
    };
    let help = format!("write an instant with its offset: {example} for UTC, or +01:00 in place of Z");
    Mistake::new(message, help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_one_number_and_one_unit() {
        for (text, seconds) in [("1s", 1), ("90m", 5400), ("9h", 32400), ("365d", 31_536_000), ("007s", 7)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "",
            "9",
            "h",
            "0h",
            "+1h",
            "-1h",
            "1.5h",
            "1h30m",
            "9 h",
            "9H",
            "1w",
            "3661d",
            "99999999999999999999s",
            "18446744073709551615d",
            "１h",
            "1ħ",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_compound_duration_gets_its_sum_proposed() {
        assert!(duration("1h30m").unwrap_err().help.starts_with("write \"90m\""));
        assert!(duration("9H").unwrap_err().help.starts_with("write \"9h\""));
        assert!(duration("1m 1s").unwrap_err().help.starts_with("write \"61s\""));
        assert!(duration("one hour").unwrap_err().help.starts_with("a duration is"));
    }

    #[test]
    fn a_local_time_has_two_digits_each() {
        assert_eq!(local_time("18:00"), Ok(NaiveTime::from_hms_opt(18, 0, 0).unwrap()));
        assert_eq!(local_time("23:59:59"), Ok(NaiveTime::from_hms_opt(23, 59, 59).unwrap()));
        for text in ["", "18", "9:00", "24:00", "18:60", "18:00:60", "18:00:00:00", "6pm", "+1:00"] {
            assert!(local_time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_instant_needs_an_offset_and_the_kernels_range() {
        let at = |text: &str| instant(&text.parse().unwrap());
        assert_eq!(at("2026-01-01T01:00:00.5+01:00").unwrap().to_rfc3339(), "2026-01-01T00:00:00.500+00:00");
        for text in [
            "2026-01-01T00:00:00",
            "2026-01-01",
            "10:00:00",
            "2026-12-31T23:59:60Z",
            "0001-01-01T00:00:00Z",
            "9999-12-31T23:59:59Z",
            "0000-01-01T00:00:00+23:59",
        ] {
            assert!(at(text).is_err(), "{text}");
        }
    }
}
