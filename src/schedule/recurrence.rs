//! The openings of one recurring window.
//!
//! Firings of one day whose openings run into each other by local time form a *run*: the same on every date, so found
//! once. On a date a run is one opening; only where the clock is put back inside it, it is taken apart.

use std::ops::Range;
use std::time::Duration;

use chrono::{NaiveDate, NaiveTime, TimeDelta};
use chrono_tz::Tz;

use super::calendar::Calendar;
use super::local_time;
use crate::model::{CronExpression, Span, Time, Until};

/// Any time of day comes again within two days: a day has at most 24 hours more when clocks are put back, and where
/// a whole day is missing its end stands for it.
const LONGEST_UNTIL: TimeDelta = TimeDelta::hours(48);

/// Dates differ from zone to zone by a day at most; one more for a day that is missing.
const ZONES_APART: TimeDelta = TimeDelta::days(2);

/// A recurring window, ready to be asked.
pub struct Recurrence<'a> {
    calendar: Calendar<'a>,
    /// Indices into the times of the calendar, ascending.
    runs: Vec<Range<usize>>,
    until: Until,
    zone: Tz,
}

impl<'a> Recurrence<'a> {
    pub fn new(cron: &'a CronExpression, until: Until, zone: Tz) -> Self {
        let calendar = Calendar::new(cron);
        let runs = runs(calendar.times(), until);
        Self { calendar, runs, until, zone }
    }

    /// No opening is longer.
    pub fn reach(&self) -> TimeDelta {
        match self.until {
            Until::Elapsed(duration) => elapsed(duration),
            Until::LocalTime(_) => LONGEST_UNTIL,
        }
    }

    /// The openings by time, from those that begin after `start` on; earlier ones may be missing.
    /// Those that open before `limit` are all there, later ones may be missing.
    pub fn openings(&self, start: Time, limit: Time) -> impl Iterator<Item = Span> {
        let first = local_time::shown(self.zone, start.max(Time::UNIX_EPOCH));
        let last = limit.checked_add_signed(ZONES_APART).unwrap_or(limit);
        self.calendar
            .dates(first.date(), last.date_naive())
            .flat_map(move |date| self.runs.iter().map(move |run| (date, self.times(run))))
            .skip_while(move |(date, times)| times.last().is_none_or(|last| date.and_time(*last) < first))
            .flat_map(|(date, times)| self.on(date, times))
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
            let closes_at = self.closes_at(last_opens_at);
            return closes_at.and_then(|at| Span::new(opens_at, at).ok()).into_iter().collect();
        }
        let (early, late) = times.split_at(times.len() / 2);
        [self.on(date, early), self.on(date, late)].concat()
    }

    /// Whether a run whose first and last firings are these has no pause. `local` is the distance on the clock: unless
    /// more time has elapsed, the clock was not put back in between, and distances of firings are what they seem.
    fn runs_through(&self, first: Time, last: Time, local: TimeDelta) -> bool {
        match self.until {
            Until::Elapsed(duration) => last - first <= local.max(elapsed(duration)),
            Until::LocalTime(_) => self.closes_at(first).is_some_and(|closes_at| closes_at >= last),
        }
    }

    fn closes_at(&self, opens_at: Time) -> Option<Time> {
        match self.until {
            Until::Elapsed(duration) => {
                Some(opens_at.checked_add_signed(elapsed(duration)).unwrap_or(Time::MAX_UTC))
            }
            Until::LocalTime(time) => local_time::next(self.zone, time, opens_at),
        }
    }
}

fn elapsed(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}

fn runs(times: &[NaiveTime], until: Until) -> Vec<Range<usize>> {
    let continues = |earlier: &NaiveTime, later: &NaiveTime| match until {
        Until::Elapsed(duration) => *later - *earlier <= elapsed(duration),
        Until::LocalTime(time) => !(*earlier < time && time <= *later),
    };
    let lengths = times.chunk_by(continues).map(<[NaiveTime]>::len);
    let ranges = lengths.scan(0, |end, length| {
        let begin = *end;
        *end += length;
        Some(begin..*end)
    });
    ranges.collect()
}
