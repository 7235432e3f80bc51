//! Counts by hour to at most [`BUCKETS`] bars over the whole time since the decommission.

use std::collections::BTreeMap;

use chrono::TimeDelta;

use super::{Bucket, Series, Stream};
use crate::model::Time;

/// The most bars.
pub const BUCKETS: i64 = 60;

/// The most sources that are told apart.
pub const SOURCES: usize = 5;

/// What one source sent in one hour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hour {
    pub at: Time,
    pub stream: Stream,
    pub count: u64,
}

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;

/// How long a bar may be: hours, days, weeks, four weeks, 52 weeks.
const STEPS: [i64; 6] = [HOUR, 6 * HOUR, DAY, 7 * DAY, 28 * DAY, 364 * DAY];

/// Until when what was in flight at a close is booked.
const AT_CLOSE: TimeDelta = TimeDelta::seconds(10);

/// Monday, the fifth day after the Unix epoch began: weeks begin there.
const MONDAY: i64 = 4 * DAY;

/// The bars from one time to another. `at_close`: what of the counts was in flight at the beginning; it is taken out.
pub fn series(mut hours: Vec<Hour>, at_close: &[(Stream, u64)], from: Time, until: Time) -> Series {
    take_out(&mut hours, at_close, from + AT_CLOSE);
    let step = step(from, until);
    let largest = largest(&hours);
    let mut bars: BTreeMap<i64, Vec<u64>> = BTreeMap::new();
    let (mut bar, end) = (floor(from, step), floor(until.max(from), step));
    while bar <= end {
        bars.insert(bar, vec![0; largest.len() + 1]);
        bar += step;
    }
    for hour in hours {
        // What the clock says is not always in order: it counts at the nearest end.
        let at = floor(hour.at, step).clamp(floor(from, step), end);
        let place = largest.iter().position(|stream| *stream == hour.stream).unwrap_or(largest.len());
        if let Some(count) = bars.get_mut(&at).and_then(|counts| counts.get_mut(place)) {
            *count += hour.count;
        }
    }
    let buckets =
        bars.into_iter().filter_map(|(at, counts)| Some(Bucket { at: Time::from_timestamp(at, 0)?, counts }));
    Series { step_seconds: step.unsigned_abs(), buckets: buckets.collect(), sources: largest }
}

/// First from what the source sent, then from what sources sent that stand together.
fn take_out(hours: &mut [Hour], at_close: &[(Stream, u64)], until: Time) {
    hours.sort_by_key(|hour| hour.at);
    for (stream, count) in at_close {
        let mut left = *count;
        for alone in [true, false] {
            let fits = |hour: &&mut Hour| {
                let remote = if alone { stream.remote.as_str() } else { "other" };
                hour.at <= until && hour.stream.direction == stream.direction && hour.stream.remote == remote
            };
            for hour in hours.iter_mut().filter(fits) {
                let taken = hour.count.min(left);
                hour.count -= taken;
                left -= taken;
            }
        }
    }
}

fn largest(hours: &[Hour]) -> Vec<Stream> {
    let mut sums: BTreeMap<&Stream, u64> = BTreeMap::new();
    for hour in hours.iter().filter(|hour| hour.stream.remote != "other" && hour.count > 0) {
        *sums.entry(&hour.stream).or_default() += hour.count;
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    sums.into_iter().take(SOURCES).map(|(stream, _)| stream.clone()).collect()
}

/// The shortest one that takes few enough bars.
fn step(from: Time, until: Time) -> i64 {
    let span = (until - from).max(TimeDelta::zero()).num_seconds();
    STEPS.into_iter().find(|step| span / step < BUCKETS - 1).unwrap_or(364 * DAY)
}

fn floor(at: Time, step: i64) -> i64 {
    let origin = if step > DAY { MONDAY } else { 0 };
    let seconds = at.timestamp() - origin;
    seconds - seconds.rem_euclid(step) + origin
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Time {
        text.parse().unwrap()
    }

    fn stream(remote: &str) -> Stream {
        Stream { remote: remote.to_owned(), direction: "ingress".to_owned() }
    }

    fn hour(time: &str, remote: &str, count: u64) -> Hour {
        Hour { at: at(time), stream: stream(remote), count }
    }

    #[test]
    fn bars_are_few_whatever_the_span_and_begin_where_people_look_for_them() {
        let from = at("2026-03-04T05:06:07Z");
        for (days, step, first) in [
            (0, HOUR, "2026-03-04T05:00:00Z"),
            (2, HOUR, "2026-03-04T05:00:00Z"),
            (10, 6 * HOUR, "2026-03-04T00:00:00Z"),
            (40, DAY, "2026-03-04T00:00:00Z"),
            (365, 7 * DAY, "2026-03-02T00:00:00Z"),
            (1_500, 28 * DAY, "2026-02-16T00:00:00Z"),
        ] {
            let series = series(vec![], &[], from, from + TimeDelta::days(days));
            assert_eq!(series.step_seconds, step.unsigned_abs(), "{days} days");
            assert_eq!(series.buckets[0].at, at(first), "{days} days");
            assert!(series.buckets.len() <= 60, "{days} days");
        }
    }

    #[test]
    fn the_largest_sources_stand_alone_and_the_rest_together() {
        let mut hours: Vec<_> =
            (1..=8).map(|n| hour("2026-03-04T05:00:00Z", &format!("192.0.2.{n}"), n)).collect();
        hours.push(hour("2026-03-04T06:00:00Z", "other", 100));
        let (from, until) = (at("2026-03-04T05:06:07Z"), at("2026-03-04T07:00:00Z"));
        let series = series(hours, &[], from, until);
        let names: Vec<_> = series.sources.iter().map(|stream| stream.remote.as_str()).collect();
        assert_eq!(names, ["192.0.2.8", "192.0.2.7", "192.0.2.6", "192.0.2.5", "192.0.2.4"]);
        let counts: Vec<_> = series.buckets.iter().map(|bucket| bucket.counts.clone()).collect();
        assert_eq!(counts, [vec![8, 7, 6, 5, 4, 6], vec![0, 0, 0, 0, 0, 100], vec![0; 6]]);
    }

    #[test]
    fn what_was_in_flight_at_the_close_is_in_no_bar() {
        let hours = vec![
            hour("2026-03-04T05:00:00Z", "192.0.2.1", 5),
            hour("2026-03-04T05:00:00Z", "other", 9),
            hour("2026-03-04T06:00:00Z", "192.0.2.1", 5),
        ];
        let at_close = [(stream("192.0.2.1"), 7), (stream("192.0.2.2"), 4)];
        let (from, until) = (at("2026-03-04T05:59:59Z"), at("2026-03-04T06:30:00Z"));
        let series = series(hours, &at_close, from, until);
        let counts: Vec<_> = series.buckets.iter().map(|bucket| bucket.counts.clone()).collect();
        assert_eq!(counts, [[0, 5], [3, 0]]);
    }
}
