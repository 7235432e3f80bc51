//! Several windows as one stream of openings that neither overlap nor touch.
//!
//! What one window opens inside an opening of another is jumped over, not walked through: beside a window that is open
//! for a year, one that opens every second costs nothing.

use std::iter::Peekable;

use super::recurrence::Recurrence;
use super::spans::prolong;
use crate::model::{Span, Time};

/// So many openings that touch are joined to one, in each direction of time; it takes some ten milliseconds.
///
/// What one window opens on one day without a pause counts as one, so only windows that take turns without a pause for
/// many years, or every few minutes, get there: such an opening ends early, and another begins at that very instant.
pub const MOST_JOINS: usize = 20_000;

/// The openings of several sources: merged, by time.
pub struct Merged<'w> {
    sources: Vec<Source<'w>>,
}

impl<'w> Merged<'w> {
    pub fn new(sources: impl Iterator<Item = Source<'w>>) -> Self {
        let sources = sources.collect();
        Self { sources }
    }

    /// Leaves out what has closed by `end`.
    pub fn skip_closed_by(&mut self, end: Time) {
        self.sources.iter_mut().for_each(|source| source.skip_closed_by(end));
    }

    fn earliest(&mut self) -> Option<Span> {
        let heads = self.sources.iter_mut();
        let heads = heads.filter_map(|source| Some((source.spans.peek()?.opens_at(), source)));
        let (_, first) = heads.min_by_key(|(opens_at, _)| *opens_at)?;
        first.spans.next()
    }

    /// Until when any source prolongs an opening that closes at `end`.
    fn prolongs(&mut self, end: Time) -> Option<Time> {
        let sources = self.sources.iter_mut();
        sources.filter_map(|source| source.prolongs(end)).max()
    }
}

impl Iterator for Merged<'_> {
    type Item = Span;

    fn next(&mut self) -> Option<Span> {
        let mut merged = self.earliest()?;
        for _ in 0..MOST_JOINS {
            let Some(later) = self.prolongs(merged.closes_at()) else {
                break;
            };
            merged = prolong(merged, later);
        }
        Some(merged)
    }
}

/// Some openings by `opens_at`: those of one recurring window, or any others.
pub struct Source<'w> {
    spans: Peekable<Box<dyn Iterator<Item = Span> + 'w>>,
    /// What it can jump with, and its limit.
    recurring: Option<(&'w Recurrence<'w>, Time)>,
}

impl<'w> Source<'w> {
    pub fn of(spans: impl Iterator<Item = Span> + 'w) -> Self {
        let spans: Box<dyn Iterator<Item = Span>> = Box::new(spans);
        Self { spans: spans.peekable(), recurring: None }
    }

    /// The openings that close at `from` or later and open before `limit`; some others before them.
    pub fn recurring(recurrence: &'w Recurrence<'w>, from: Time, limit: Time) -> Self {
        let spans = recurrence.openings(from, limit);
        Self {
            recurring: Some((recurrence, limit)),
            ..Self::of(spans.take_while(move |span| span.opens_at() < limit))
        }
    }

    fn prolongs(&mut self, end: Time) -> Option<Time> {
        self.skip_closed_by(end);
        let touching = self.spans.next_if(|span| span.opens_at() <= end);
        touching.map(Span::closes_at)
    }

    /// One is stepped over; from two on a jump is cheaper than it looks.
    fn skip_closed_by(&mut self, end: Time) {
        let is_closed = |span: &Span| span.closes_at() <= end;
        let stepped = self.spans.next_if(is_closed).is_some();
        if stepped
            && self.spans.peek().is_some_and(is_closed)
            && let Some((recurrence, limit)) = self.recurring
        {
            *self = Self::recurring(recurrence, end, limit);
        }
        while self.spans.next_if(is_closed).is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chrono_tz::UTC;

    use super::super::fixture::cron;
    use super::*;
    use crate::model::Until;

    fn at(second: i64) -> Time {
        Time::from_timestamp(second, 0).unwrap()
    }

    fn span(opens_at: i64, closes_at: i64) -> Span {
        Span::new(at(opens_at), at(closes_at)).unwrap()
    }

    #[test]
    fn several_sources_become_one_stream_without_overlaps() {
        let sources = [
            vec![span(0, 1), span(4, 5), span(20, 21)],
            vec![],
            vec![span(1, 3), span(6, 9), span(7, 8), span(9, 10)],
            vec![span(0, 2)],
        ];
        let merged = Merged::new(sources.into_iter().map(|spans| Source::of(spans.into_iter())));
        assert_eq!(merged.collect::<Vec<_>>(), [span(0, 3), span(4, 5), span(6, 10), span(20, 21)]);
    }

    #[test]
    fn no_source_gives_no_opening() {
        assert_eq!(Merged::new(std::iter::empty()).count(), 0);
    }

    #[test]
    fn openings_inside_a_long_one_are_jumped_over() {
        let every_other = cron("*/2 * * * * *");
        let second = Until::Elapsed(Duration::from_secs(1));
        let recurrence = Recurrence::new(&every_other, second, UTC);
        let (year, limit) = (365 * 86_400, at(100 * 365 * 86_400));
        let sources = [Source::of([span(0, year)].into_iter()), Source::recurring(&recurrence, at(0), limit)];
        let merged: Vec<_> = Merged::new(sources.into_iter()).take(2).collect();
        assert_eq!(merged, [span(0, year + 1), span(year + 2, year + 3)]);
    }
}
