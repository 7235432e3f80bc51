//! The local dates and times of day at which a cron expression fires.
//!
//! The `cron` crate reads the expression; its sets are used directly. Its iterator gives the same firings one by one,
//! but a cron expression is a set of dates times a set of times of day: whoever knows that can settle a whole day of
//! `* * * * * *` at once, which keeps every answer of this module bounded. A test holds the two together.

use chrono::{Datelike, NaiveDate, NaiveTime};
use cron::{Schedule, TimeUnitSpec};

use crate::model::CronExpression;

/// The years the `cron` crate knows; outside of them nothing fires, so nothing opens.
const FIRST_YEAR: i32 = 1970;
const LAST_YEAR: i32 = 2100;

/// A cron expression as dates times times of day; all in local time.
pub struct Calendar<'a> {
    schedule: &'a Schedule,
    months: u64,
    days_of_month: u64,
    /// 1 is Sunday.
    days_of_week: u64,
    times: Vec<NaiveTime>,
}

impl<'a> Calendar<'a> {
    pub fn new(cron: &'a CronExpression) -> Self {
        let schedule = cron.schedule();
        Self {
            schedule,
            months: bits(schedule.months()),
            days_of_month: bits(schedule.days_of_month()),
            days_of_week: bits(schedule.days_of_week()),
            times: times(schedule),
        }
    }

    /// The times of day at which it fires, ascending; the same on every date.
    pub fn times(&self) -> &[NaiveTime] {
        &self.times
    }

    /// The dates in `[from, to]` on which it fires, ascending.
    pub fn dates(&self, from: NaiveDate, to: NaiveDate) -> impl Iterator<Item = NaiveDate> {
        let first = NaiveDate::from_ymd_opt(FIRST_YEAR, 1, 1).map_or(from, |first| first.max(from));
        first
            .iter_days()
            .take_while(move |date| *date <= to && date.year() <= LAST_YEAR)
            .filter(|date| self.fires_on(*date))
    }

    /// Day of month and day of week together mean both.
    fn fires_on(&self, date: NaiveDate) -> bool {
        has(self.months, date.month())
            && has(self.days_of_month, date.day())
            && has(self.days_of_week, date.weekday().number_from_sunday())
            && self.schedule.years().includes(date.year().unsigned_abs())
    }
}

/// Every field but the year has ordinals below 64.
fn bits(field: &impl TimeUnitSpec) -> u64 {
    field.iter().fold(0, |set, ordinal| set | 1 << ordinal)
}

fn has(set: u64, ordinal: u32) -> bool {
    set & 1 << ordinal != 0
}

fn times(schedule: &Schedule) -> Vec<NaiveTime> {
    let (minutes, seconds) = (schedule.minutes(), schedule.seconds());
    let (minutes, seconds): (Vec<_>, Vec<_>) = (minutes.iter().collect(), seconds.iter().collect());
    let mut times = Vec::new();
    for hour in schedule.hours().iter() {
        for minute in &minutes {
            let time = |second: &u32| NaiveTime::from_hms_opt(hour, *minute, *second);
            times.extend(seconds.iter().filter_map(time));
        }
    }
    times
}

#[cfg(test)]
mod tests {
    use chrono::NaiveDateTime;

    use super::super::fixture::cron;
    use super::*;

    fn firings(cron: &CronExpression, from: &str, count: usize) -> Vec<NaiveDateTime> {
        let from: NaiveDate = from.parse().unwrap();
        let calendar = Calendar::new(cron);
        calendar
            .dates(from, NaiveDate::MAX)
            .flat_map(|date| calendar.times().iter().map(move |time| date.and_time(*time)))
            .take(count)
            .collect()
    }

    fn by_the_crate(cron: &CronExpression, from: &str, count: usize) -> Vec<NaiveDateTime> {
        let from: NaiveDate = from.parse().unwrap();
        let midnight = from.and_time(NaiveTime::MIN).and_utc();
        let just_before = midnight - chrono::TimeDelta::nanoseconds(1);
        let firings = cron.schedule().after(&just_before);
        firings.map(|firing| firing.naive_utc()).take(count).collect()
    }

    #[test]
    fn it_fires_exactly_when_the_crate_says() {
        let expressions = [
            "0 0 9 * * Mon-Fri",
            "0 */15 * * * *",
            "*/7 */11 */5 * * *",
            "0 0 0 31 * *",
            "0 30 23 29 Feb *",
            "0 0 9 1-7 * Mon",
            "59 59 23 31 Dec *",
            "0 0 12 29-31 Jan,Feb,Apr *",
            "0 0 0 */10 */5 Sun,Wed",
            "* * * * * *",
            "5/20 10-50/13 1,2,22 * Mar-Nov/2 Sat",
            "0 0 8 * * * 2027-2029",
        ];
        for text in expressions {
            let cron = cron(text);
            for from in ["1970-01-01", "2023-12-31", "2024-02-28", "2026-04-30", "2100-12-30"] {
                assert_eq!(firings(&cron, from, 300), by_the_crate(&cron, from, 300), "{text} from {from}");
            }
        }
    }

    #[test]
    fn a_day_of_month_and_a_day_of_week_together_mean_both() {
        let first_mondays = firings(&cron("0 0 9 1-7 * Mon"), "2026-01-01", 3);
        let expected = ["2026-01-05T09:00:00", "2026-02-02T09:00:00", "2026-03-02T09:00:00"];
        assert_eq!(first_mondays, expected.map(|text| text.parse().unwrap()));
    }

    #[test]
    fn nothing_fires_before_1970_or_after_2100() {
        let daily = cron("0 0 0 * * *");
        assert_eq!(firings(&daily, "1960-01-01", 1), ["1970-01-01T00:00:00".parse().unwrap()]);
        assert_eq!(firings(&daily, "2100-12-31", 9).len(), 1);
        assert_eq!(firings(&daily, "2101-01-01", 1), []);
        assert_eq!(firings(&daily, "-0400-01-01", 1).len(), 1);
    }

    #[test]
    fn a_date_that_never_comes_ends_the_search() {
        assert_eq!(firings(&cron("0 0 0 30 Feb *"), "2026-01-01", 1), []);
    }
}
