//! Local times of a zone as instants.
//!
//! A clock that is put forward leaves a gap, sometimes of a whole day (Pacific/Apia, 2011-12-30); one that is put back
//! shows the same times twice. Both answers here follow from one rule, which keeps the order of local times: a local
//! time happens when the clock first shows it *or a later time*.

use chrono::{
    DateTime, FixedOffset, LocalResult, NaiveDate, NaiveDateTime, NaiveTime, Offset, TimeDelta, TimeZone,
};
use chrono_tz::Tz;

use crate::model::Time;

/// No clock is further from UTC than this, also not across a gap of a whole day.
const FARTHEST: TimeDelta = TimeDelta::hours(48);

/// What a clock of the zone shows at an instant.
pub fn shown(zone: Tz, at: Time) -> NaiveDateTime {
    at.with_timezone(&zone).naive_local()
}

/// The instant of a local time: in an overlap its first pass, in a gap the first instant that exists after it.
///
/// Never decreases as `local` grows, so firings in local order are firings in order.
pub fn first_instant(zone: Tz, local: NaiveDateTime) -> Time {
    passes(zone, local).0
}

/// The first instant strictly after `after` at which the clock shows `time`. A pass of an overlap counts like any
/// other; where `time` lies in a gap, the end of the gap stands for it.
pub fn next(zone: Tz, time: NaiveTime, after: Time) -> Option<Time> {
    dates_around(shown(zone, after).date())
        .flat_map(|date| {
            let (first, second) = passes(zone, date.and_time(time));
            [Some(first), second]
        })
        .flatten()
        .filter(|instant| *instant > after)
        .min()
}

/// The day before, because an overlap at midnight repeats it; two days ahead, because a gap can swallow one.
fn dates_around(date: NaiveDate) -> impl Iterator<Item = NaiveDate> {
    date.pred_opt().into_iter().chain(date.iter_days().take(3))
}

/// The first instant of a local time, and the second where the clock shows it twice.
fn passes(zone: Tz, local: NaiveDateTime) -> (Time, Option<Time>) {
    let instant = |offset: FixedOffset| (local - offset).and_utc();
    match zone.offset_from_local_datetime(&local) {
        LocalResult::Single(only) => (instant(only.fix()), None),
        LocalResult::Ambiguous(one, other) => {
            let (one, other) = (instant(one.fix()), instant(other.fix()));
            (one.min(other), Some(one.max(other)))
        }
        LocalResult::None => (end_of_gap(zone, local), None),
    }
}

/// The first instant whose local time is after `local`, to the second: historic clocks were moved by odd seconds.
///
/// Bisection needs a single change of the clock within reach; since 1970 any two of one zone are a week apart or more.
fn end_of_gap(zone: Tz, local: NaiveDateTime) -> Time {
    let is_past = |second: i64| {
        DateTime::from_timestamp(second, 0).is_some_and(|instant| shown(zone, instant) >= local)
    };
    let mut before = (local - FARTHEST).and_utc().timestamp();
    let mut past = (local + FARTHEST).and_utc().timestamp();
    while past - before > 1 {
        let middle = before + (past - before) / 2;
        if is_past(middle) {
            past = middle;
        } else {
            before = middle;
        }
    }
    DateTime::from_timestamp(past, 0).unwrap_or(Time::MAX_UTC)
}

#[cfg(test)]
mod tests {
    use chrono_tz::{Africa, America, Antarctica, Australia, Europe, Pacific};

    use super::super::fixture::at;
    use super::*;

    fn local(text: &str) -> NaiveDateTime {
        text.parse().unwrap()
    }

    #[test]
    fn an_ordinary_local_time_is_one_instant() {
        assert_eq!(first_instant(Europe::Berlin, local("2026-07-01T09:00:00")), at("2026-07-01T07:00:00Z"));
    }

    #[test]
    fn a_local_time_in_a_gap_is_the_end_of_the_gap() {
        for inside in ["2026-03-29T02:00:00", "2026-03-29T02:30:00", "2026-03-29T02:59:59"] {
            assert_eq!(first_instant(Europe::Berlin, local(inside)), at("2026-03-29T01:00:00Z"), "{inside}");
        }
        assert_eq!(first_instant(Europe::Berlin, local("2026-03-29T01:59:59")), at("2026-03-29T00:59:59Z"));
        assert_eq!(first_instant(Europe::Berlin, local("2026-03-29T03:00:00")), at("2026-03-29T01:00:00Z"));
    }

    #[test]
    fn gaps_of_half_an_hour_two_hours_and_a_whole_day_are_found_exactly() {
        let lord_howe = first_instant(Australia::Lord_Howe, local("2026-10-04T02:15:00"));
        assert_eq!(lord_howe, at("2026-10-03T15:30:00Z"));
        let troll = first_instant(Antarctica::Troll, local("2026-03-29T01:30:00"));
        assert_eq!(troll, at("2026-03-29T01:00:00Z"));
        for inside in ["2011-12-30T00:00:00", "2011-12-30T12:00:00", "2011-12-30T23:59:59"] {
            assert_eq!(first_instant(Pacific::Apia, local(inside)), at("2011-12-30T10:00:00Z"), "{inside}");
        }
    }

    #[test]
    fn a_gap_that_ends_within_a_minute_is_found_to_the_second() {
        // Liberia gave up its offset of -00:44:30 at midnight of 1972-01-07.
        let monrovia = first_instant(Africa::Monrovia, local("1972-01-07T00:20:00"));
        assert_eq!(monrovia, at("1972-01-07T00:44:30Z"));
    }

    #[test]
    fn a_repeated_local_time_is_its_first_pass() {
        assert_eq!(first_instant(Europe::Berlin, local("2026-10-25T02:30:00")), at("2026-10-25T00:30:00Z"));
        assert_eq!(first_instant(Europe::Dublin, local("2026-10-25T01:30:00")), at("2026-10-25T00:30:00Z"));
    }

    #[test]
    fn the_next_local_time_is_strictly_later() {
        let six = local("2026-07-01T18:00:00").time();
        let next_six = |after| next(Europe::Berlin, six, at(after));
        assert_eq!(next_six("2026-07-01T15:59:59Z"), Some(at("2026-07-01T16:00:00Z")));
        assert_eq!(next_six("2026-07-01T16:00:00Z"), Some(at("2026-07-02T16:00:00Z")));
    }

    #[test]
    fn the_next_local_time_can_be_the_second_pass() {
        let half_past_two = local("2026-10-25T02:30:00").time();
        let after = |text| next(Europe::Berlin, half_past_two, at(text));
        assert_eq!(after("2026-10-25T00:29:59Z"), Some(at("2026-10-25T00:30:00Z")));
        assert_eq!(after("2026-10-25T00:30:00Z"), Some(at("2026-10-25T01:30:00Z")));
        assert_eq!(after("2026-10-25T01:30:00Z"), Some(at("2026-10-26T01:30:00Z")));
    }

    #[test]
    fn the_next_local_time_can_belong_to_the_day_before() {
        // St. John's went from 00:01 on 2010-11-07 back to 23:01 on the day before.
        let half_past_eleven = local("2010-11-06T23:30:00").time();
        let after_midnight = at("2010-11-07T02:30:30Z");
        assert_eq!(shown(America::St_Johns, after_midnight), local("2010-11-07T00:00:30"));
        let next = next(America::St_Johns, half_past_eleven, after_midnight);
        assert_eq!(next, Some(at("2010-11-07T03:00:00Z")));
    }

    #[test]
    fn midnight_can_come_twice() {
        // Havana goes from 01:00 on 2026-11-01 back to midnight.
        let early = local("2026-11-01T00:30:00").time();
        let next = next(America::Havana, early, at("2026-11-01T04:45:00Z"));
        assert_eq!(next, Some(at("2026-11-01T05:30:00Z")));
    }

    #[test]
    fn the_next_local_time_in_a_missing_day_is_the_end_of_that_day() {
        let six = local("2011-12-30T18:00:00").time();
        let after = |text| next(Pacific::Apia, six, at(text));
        assert_eq!(after("2011-12-30T09:00:00Z"), Some(at("2011-12-30T10:00:00Z")));
        assert_eq!(after("2011-12-30T10:00:00Z"), Some(at("2011-12-31T04:00:00Z")));
    }
}
