//! The openings of one recurring window.
//!
//! Firings of one day whose openings run into each other by local time form a *run*: the same on every date, so found
//! once. On a date a run is one opening; only where the clock is put back inside it, it is taken apart.

use std::ops::Range;

use chrono::{NaiveDate, NaiveDateTime, NaiveTime, TimeDelta};
use chrono_tz::Tz;

use super::calendar::Calendar;
use super::local_time;
use crate::model::{CronExpression, Span, Time, Until};

/// Any time of day comes again within two days: since 1970 clocks were put back by some hours at most, and where a
/// whole day is missing, its end stands for the times in it.
const LONGEST_TO_A_LOCAL_TIME: TimeDelta = TimeDelta::hours(48);

/// The date that a zone shows differs from that of UTC by one at most; one more where a day is missing.
const DATES_APART: TimeDelta = TimeDelta::days(2);

/// Nothing fires before 1970 or after 2100 in any zone; the clocks of other millennia need not be known.
const EARLIEST: TimeDelta = TimeDelta::days(-1);
const LATEST: TimeDelta = TimeDelta::days(48_000);

/// A recurring window, ready to be asked.
pub struct Recurrence<'a> {
    calendar: Calendar<'a>,
    /// Indices into the times of the calendar, ascending.
    runs: Vec<Range<usize>>,
    end: End,
    zone: Tz,
}

/// How an opening ends.
#[derive(Clone, Copy)]
enum End {
    /// After so much elapsed time.
    After(TimeDelta),
    /// When the clock next shows this.
    At(NaiveTime),
}

impl<'a> Recurrence<'a> {
    pub fn new(cron: &'a CronExpression, until: Until, zone: Tz) -> Self {
        let calendar = Calendar::new(cron);
        let end = End::of(until);
        Self { runs: runs(calendar.times(), end), calendar, end, zone }
    }

    /// The openings by time: all that close at `from` or later and open before `limit`; some others before and after them.
    pub fn openings(&self, from: Time, limit: Time) -> impl Iterator<Item = Span> {
        let first = self.first_of_interest(from);
        let last = limit.checked_add_signed(DATES_APART).unwrap_or(limit).date_naive();
        self.calendar
            .dates(first.date(), last)
            .flat_map(move |date| {
                let runs = self.runs_from(date, first).iter();
                runs.map(move |run| (date, self.times(run)))
            })
            .flat_map(|(date, times)| self.on(date, times))
    }

    /// The local time from which on firings may close at `from` or later. What fires at earlier local times does so at
    /// earlier instants, so it suffices to ask what the clock shows just before the longest opening.
    fn first_of_interest(&self, from: Time) -> NaiveDateTime {
        let reach = match self.end {
            End::After(elapsed) => elapsed,
            End::At(_) => LONGEST_TO_A_LOCAL_TIME,
        };
        let earliest = Time::UNIX_EPOCH + EARLIEST;
        let just_longer = reach.checked_add(&TimeDelta::nanoseconds(1)).unwrap_or(reach);
        let opened = from.checked_sub_signed(just_longer).unwrap_or(earliest);
        local_time::shown(self.zone, opened.clamp(earliest, Time::UNIX_EPOCH + LATEST))
    }

    /// The runs of a date that do not lie wholly before a local time.
    fn runs_from(&self, date: NaiveDate, first: NaiveDateTime) -> &[Range<usize>] {
        let is_before = |run: &Range<usize>| {
            let last = self.times(run).last();
            last.is_some_and(|last| date.and_time(*last) < first)
        };
        let skipped = self.runs.partition_point(is_before);
        self.runs.get(skipped..).unwrap_or_default()
    }

    fn times(&self, run: &Range<usize>) -> &[NaiveTime] {
        self.calendar.times().get(run.clone()).unwrap_or_default()
    }

    /// The openings of a part of a run on one date; halved until each half is one opening.
    fn on(&self, date: NaiveDate, times: &[NaiveTime]) -> Vec<Span> {
        let (Some(first), Some(last)) = (times.first(), times.last()) else {
            return Vec::new();
        };
        let opens_at = local_time::first_instant(self.zone, date.and_time(*first));
        let last_opens_at = local_time::first_instant(self.zone, date.and_time(*last));
        if times.len() == 1 || self.runs_through(opens_at, last_opens_at, *last - *first) {
            return self.opening(opens_at, last_opens_at).into_iter().collect();
        }
        let (early, late) = times.split_at(times.len() / 2);
        [self.on(date, early), self.on(date, late)].concat()
    }

    /// Whether a run whose first and last firings are these has no pause. `local` is their distance on the clock: unless
    /// more time has elapsed, the clock was not put back in between, and no two firings are further apart than they seem.
    fn runs_through(&self, first: Time, last: Time, local: TimeDelta) -> bool {
        match self.end {
            End::After(elapsed) => last - first <= local.max(elapsed),
            End::At(_) => self.closes_at(first).is_some_and(|closes_at| last <= closes_at),
        }
    }

    fn opening(&self, opens_at: Time, last_opens_at: Time) -> Option<Span> {
        Span::new(opens_at, self.closes_at(last_opens_at)?).ok()
    }

    fn closes_at(&self, opens_at: Time) -> Option<Time> {
        match self.end {
            End::After(elapsed) => Some(opens_at.checked_add_signed(elapsed).unwrap_or(Time::MAX_UTC)),
            End::At(time) => local_time::next(self.zone, time, opens_at),
        }
    }
}

impl End {
    fn of(until: Until) -> Self {
        match until {
            Until::Elapsed(duration) => Self::After(TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)),
            Until::LocalTime(time) => Self::At(time),
        }
    }
}

fn runs(times: &[NaiveTime], end: End) -> Vec<Range<usize>> {
    let continues = |earlier: &NaiveTime, later: &NaiveTime| match end {
        End::After(elapsed) => *later - *earlier <= elapsed,
        End::At(time) => !(*earlier < time && time <= *later),
    };
    let lengths = times.chunk_by(continues).map(<[NaiveTime]>::len);
    let ranges = lengths.scan(0, |end, length| {
        let begin = *end;
        *end += length;
        Some(begin..*end)
    });
    ranges.collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chrono_tz::{Africa, America, Australia, Europe, Pacific};

    use super::super::fixture::{at, cron, minutes, span, until};
    use super::*;

    /// What opens in a span, not merged.
    fn openings(text: &str, until: Until, zone: Tz, within: Span) -> Vec<Span> {
        let cron = cron(text);
        let recurrence = Recurrence::new(&cron, until, zone);
        let openings = recurrence.openings(within.opens_at(), within.closes_at());
        openings.filter(|opening| within.contains(opening.opens_at())).collect()
    }

    #[test]
    fn a_duration_is_elapsed_time_also_where_the_clock_changes() {
        let forward = span("2026-03-28T12:00:00Z", "2026-03-29T12:00:00Z");
        let opened = openings("0 0 1 * * *", minutes(120), Europe::Berlin, forward);
        assert_eq!(opened, [span("2026-03-29T00:00:00Z", "2026-03-29T02:00:00Z")]);
        let back = span("2026-10-24T12:00:00Z", "2026-10-25T12:00:00Z");
        let opened = openings("0 0 1 * * *", minutes(120), Europe::Berlin, back);
        assert_eq!(opened, [span("2026-10-24T23:00:00Z", "2026-10-25T01:00:00Z")]);
    }

    #[test]
    fn an_end_at_a_local_time_follows_the_clock() {
        let forward = span("2026-03-28T12:00:00Z", "2026-03-29T12:00:00Z");
        let opened = openings("0 0 1 * * *", until("04:00"), Europe::Berlin, forward);
        assert_eq!(opened, [span("2026-03-29T00:00:00Z", "2026-03-29T02:00:00Z")]);
        let back = span("2026-10-24T12:00:00Z", "2026-10-25T12:00:00Z");
        let opened = openings("0 0 1 * * *", until("04:00"), Europe::Berlin, back);
        assert_eq!(opened, [span("2026-10-24T23:00:00Z", "2026-10-25T03:00:00Z")]);
    }

    #[test]
    fn a_window_over_midnight_ends_on_the_next_day() {
        let within = span("2026-07-01T12:00:00Z", "2026-07-02T12:00:00Z");
        let opened = openings("0 0 22 * * *", until("06:00"), Europe::Berlin, within);
        assert_eq!(opened, [span("2026-07-01T20:00:00Z", "2026-07-02T04:00:00Z")]);
    }

    #[test]
    fn a_window_that_ends_when_it_opens_is_open_for_a_day() {
        let within = span("2026-07-01T12:00:00Z", "2026-07-02T12:00:00Z");
        let opened = openings("0 0 22 * * *", until("22:00"), Europe::Berlin, within);
        assert_eq!(opened, [span("2026-07-01T20:00:00Z", "2026-07-02T20:00:00Z")]);
    }

    #[test]
    fn firings_in_one_gap_open_together() {
        let within = span("2026-03-28T12:00:00Z", "2026-03-29T12:00:00Z");
        let opened = openings("0 10,50 2 * * *", minutes(15), Europe::Berlin, within);
        let once = span("2026-03-29T01:00:00Z", "2026-03-29T01:15:00Z");
        assert_eq!(opened, [once, once]);
    }

    #[test]
    fn a_missing_day_opens_at_its_end() {
        let within = span("2011-12-30T00:00:00Z", "2011-12-31T00:00:00Z");
        let opened = openings("0 0 9 30 * *", minutes(60), Pacific::Apia, within);
        assert_eq!(opened, [span("2011-12-30T10:00:00Z", "2011-12-30T11:00:00Z")]);
    }

    #[test]
    fn a_repeated_hour_opens_once() {
        let within = span("2026-10-24T22:00:00Z", "2026-10-25T03:00:00Z");
        let opened = openings("0 30 2 * * *", minutes(10), Europe::Berlin, within);
        assert_eq!(opened, [span("2026-10-25T00:30:00Z", "2026-10-25T00:40:00Z")]);
    }

    #[test]
    fn the_second_pass_of_a_repeated_hour_is_a_pause_of_an_every_minute_window() {
        let within = span("2026-10-24T22:00:00Z", "2026-10-25T22:59:59Z");
        let opened = openings("0 * * * * *", minutes(1), Europe::Berlin, within);
        let (first, last) = (opened.first().unwrap(), opened.last().unwrap());
        assert_eq!((first.opens_at(), last.closes_at()), (within.opens_at(), at("2026-10-25T23:00:00Z")));
        let pause = span("2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z");
        assert!(opened.iter().all(|opening| opening.clip(pause).is_none()));
        let pauses = opened.windows(2).filter(|pair| pair[0].closes_at() < pair[1].opens_at());
        assert_eq!(pauses.count(), 1);
        assert!(opened.len() < 40, "{} openings for one day", opened.len());
    }

    #[test]
    fn the_end_can_be_the_second_pass_of_a_local_time() {
        let within = span("2026-10-24T22:00:00Z", "2026-10-25T03:00:00Z");
        let opened = openings("0 45 2 * * *", until("02:30"), Europe::Berlin, within);
        assert_eq!(opened, [span("2026-10-25T00:45:00Z", "2026-10-25T01:30:00Z")]);
    }

    #[test]
    fn a_second_pass_can_end_an_opening_before_the_next_firing_of_that_day() {
        let within = span("2026-10-24T22:00:00Z", "2026-10-25T12:00:00Z");
        let opened = openings("0 45 2,5 * * *", until("02:30"), Europe::Berlin, within);
        let short = span("2026-10-25T00:45:00Z", "2026-10-25T01:30:00Z");
        let long = span("2026-10-25T04:45:00Z", "2026-10-26T01:30:00Z");
        assert_eq!(opened, [short, long]);
    }

    #[test]
    fn an_end_in_a_gap_is_the_first_instant_that_exists() {
        let within = span("2026-03-28T12:00:00Z", "2026-03-29T12:00:00Z");
        let opened = openings("0 0 1 * * *", until("02:30"), Europe::Berlin, within);
        assert_eq!(opened, [span("2026-03-29T00:00:00Z", "2026-03-29T01:00:00Z")]);
    }

    #[test]
    fn where_beginning_and_end_fall_into_one_gap_the_next_day_ends_it() {
        let within = span("2026-03-28T12:00:00Z", "2026-03-29T12:00:00Z");
        let opened = openings("0 10 2 * * *", until("02:30"), Europe::Berlin, within);
        assert_eq!(opened, [span("2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z")]);
    }

    #[test]
    fn a_gap_at_midnight_opens_on_the_day_that_is_left() {
        // Santiago goes from midnight to 01:00 on 2026-09-06.
        let within = span("2026-09-05T12:00:00Z", "2026-09-06T12:00:00Z");
        let opened = openings("0 15 0 6 Sep *", minutes(5), America::Santiago, within);
        assert_eq!(opened, [span("2026-09-06T04:00:00Z", "2026-09-06T04:05:00Z")]);
    }

    #[test]
    fn half_an_hour_of_daylight_saving_is_half_an_hour() {
        let within = span("2026-04-04T12:00:00Z", "2026-04-04T18:00:00Z");
        let opened = openings("0 45 1 * * *", minutes(10), Australia::Lord_Howe, within);
        assert_eq!(opened, [span("2026-04-04T14:45:00Z", "2026-04-04T14:55:00Z")]);
    }

    #[test]
    fn a_pause_of_daylight_saving_for_ramadan_is_followed() {
        let within = span("2026-02-14T00:00:00Z", "2026-02-16T00:00:00Z");
        let opened = openings("0 0 9 * * *", minutes(60), Africa::Casablanca, within);
        let (before, after) = (
            span("2026-02-14T08:00:00Z", "2026-02-14T09:00:00Z"),
            span("2026-02-15T09:00:00Z", "2026-02-15T10:00:00Z"),
        );
        assert_eq!(opened, [before, after]);
    }

    #[test]
    fn what_opened_long_ago_and_closes_at_the_very_instant_is_found() {
        let from = at("2026-03-29T01:15:00Z");
        let cron = cron("0 30 2 * * *");
        let recurrence = Recurrence::new(&cron, minutes(15), Europe::Berlin);
        let first = recurrence.openings(from, from).next();
        assert_eq!(first, Some(span("2026-03-29T01:00:00Z", "2026-03-29T01:15:00Z")));
    }

    #[test]
    fn the_ends_of_time_are_no_error() {
        let cron = cron("0 0 0 * * *");
        let for_ever = Recurrence::new(&cron, Until::Elapsed(Duration::MAX), Europe::Berlin);
        let first = Span::new(at("1969-12-31T23:00:00Z"), Time::MAX_UTC).unwrap();
        assert_eq!(for_ever.openings(Time::MIN_UTC, Time::MAX_UTC).next(), Some(first));
        assert_eq!(for_ever.openings(Time::MAX_UTC, Time::MAX_UTC).next(), Some(first));
        let short = Recurrence::new(&cron, minutes(5), Europe::Berlin);
        assert_eq!(short.openings(Time::MAX_UTC, Time::MAX_UTC).next(), None);
    }
}
