//! Whether a window opens at all in a lifetime.
//!
//! Not the schedule: this answers yes or no for a diagnostic, and where the answer would cost too much it is yes.

use std::ops::Range;

use chrono::{DateTime, NaiveDateTime, NaiveTime, TimeDelta, TimeZone as _, Utc};
use chrono_tz::Tz;

use crate::model::{CronExpression, Lifetime, Opening, Span, Time, Until};

/// How many openings are looked at for one file.
pub(super) struct Budget(u32);

impl Default for Budget {
    fn default() -> Self {
        Self(200_000)
    }
}

impl Budget {
    fn spend(&mut self) -> Option<()> {
        self.0 = self.0.checked_sub(1)?;
        Some(())
    }
}

/// The spans in order, overlapping and touching ones joined.
pub(super) fn merge(spans: impl Iterator<Item = Span>) -> Vec<Span> {
    let mut sorted: Vec<Span> = spans.collect();
    sorted.sort();
    let mut merged: Vec<Span> = Vec::new();
    for span in sorted {
        match merged.last_mut() {
            Some(last) if span.opens_at() <= last.closes_at() => {
                let end = last.closes_at().max(span.closes_at());
                *last = Span::new(last.opens_at(), end).unwrap_or(*last);
            }
            Some(_) | None => merged.push(span),
        }
    }
    merged
}

/// True unless no part of the window lies in the lifetime and outside of `closed`, which is merged.
pub(super) fn any(opening: &Opening, lifetime: Lifetime, closed: &[Span], budget: &mut Budget) -> bool {
    match opening {
        Opening::Absolute(span) => {
            let part = span.clip(lifetime);
            part.is_some_and(|part| covering(part, closed).is_none())
        }
        Opening::Recurring { cron, until, timezone } => {
            let recurring = Recurring { cron, until: *until, timezone: *timezone };
            recurring.opens(lifetime, closed, budget).unwrap_or(true)
        }
    }
}

/// The closed span that has all of this one.
fn covering(part: Span, closed: &[Span]) -> Option<Span> {
    let after = closed.partition_point(|one| one.opens_at() <= part.opens_at());
    let candidate = closed.get(after.checked_sub(1)?)?;
    (part.closes_at() <= candidate.closes_at()).then_some(*candidate)
}

struct Recurring<'w> {
    cron: &'w CronExpression,
    until: Until,
    timezone: Tz,
}

impl Recurring<'_> {
    /// `None` when the budget is spent.
    fn opens(&self, lifetime: Lifetime, closed: &[Span], budget: &mut Budget) -> Option<bool> {
        let mut from = lifetime.opens_at().checked_sub_signed(self.longest())?;
        loop {
            let (at, span) = match self.next(from, lifetime, budget)? {
                Some(next) => next,
                None => return Some(false),
            };
            let Some(part) = span.clip(lifetime) else {
                from = at.checked_add_signed(TimeDelta::seconds(1))?;
                continue;
            };
            let Some(obstacle) = covering(part, closed) else {
                return Some(true);
            };
            // What opens before this and is over by the end of the obstacle is covered by it as well.
            let beyond = obstacle.closes_at().checked_sub_signed(self.longest())?;
            from = beyond.max(at.checked_add_signed(TimeDelta::seconds(1))?);
        }
    }

    /// The longest that one opening lasts. A local time comes within a day, or two where a zone leaves out a whole day.
    fn longest(&self) -> TimeDelta {
        match self.until {
            Until::Elapsed(duration) => TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX),
            Until::LocalTime(_) => TimeDelta::hours(50),
        }
    }

    /// The first opening at `from` or later: the instant at which the cron fires, and the span.
    fn next(&self, from: Time, lifetime: Lifetime, budget: &mut Budget) -> Option<Option<(Time, Span)>> {
        let before = from.checked_sub_signed(TimeDelta::seconds(1))?;
        let local = before.with_timezone(&self.timezone).naive_local();
        for fire in self.cron.schedule().after(&local.and_utc()) {
            budget.spend()?;
            let opens_at = self.instant(fire.naive_utc())?;
            if opens_at >= lifetime.closes_at() {
                return Some(None);
            }
            let closes_at = self.closes_at(opens_at, fire.naive_utc())?;
            if let Ok(span) = Span::new(opens_at, closes_at) {
                return Some(Some((opens_at.max(from), span)));
            }
        }
        Some(None)
    }

    fn closes_at(&self, opens_at: Time, local: NaiveDateTime) -> Option<Time> {
        match self.until {
            Until::Elapsed(duration) => opens_at.checked_add_signed(TimeDelta::from_std(duration).ok()?),
            Until::LocalTime(time) => self.next_local(opens_at, local, time),
        }
    }

    fn next_local(&self, opens_at: Time, local: NaiveDateTime, time: NaiveTime) -> Option<Time> {
        let today = local.date().and_time(time);
        let first = if today > local { today } else { today.checked_add_signed(TimeDelta::days(1))? };
        let closes_at = self.instant(first)?;
        if closes_at > opens_at {
            return Some(closes_at);
        }
        self.instant(first.checked_add_signed(TimeDelta::days(1))?)
    }

    /// The first instant of a local time; in a gap the first instant after it.
    fn instant(&self, local: NaiveDateTime) -> Option<Time> {
        let found = self.timezone.from_local_datetime(&local).earliest();
        match found {
            Some(instant) => Some(instant.with_timezone(&Utc)),
            None => self.end_of_gap(local),
        }
    }

    /// Halves the time around a gap until its end is known to the second.
    fn end_of_gap(&self, local: NaiveDateTime) -> Option<Time> {
        let around = local.and_utc().timestamp();
        let mut range: Range<i64> = around.checked_sub(3 * 86_400)?..around.checked_add(3 * 86_400)?;
        while range.end - range.start > 1 {
            let middle = range.start + (range.end - range.start) / 2;
            let shown = DateTime::from_timestamp(middle, 0)?.with_timezone(&self.timezone);
            if shown.naive_local() >= local {
                range.end = middle;
            } else {
                range.start = middle;
            }
        }
        DateTime::from_timestamp(range.end, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn span(from: &str, to: &str) -> Span {
        Span::new(from.parse().unwrap(), to.parse().unwrap()).unwrap()
    }

    fn daily(cron: &str, hours: u64, timezone: Tz) -> Opening {
        Opening::Recurring {
            cron: super::super::cron::parse(cron).unwrap(),
            until: Until::Elapsed(Duration::from_secs(hours * 3600)),
            timezone,
        }
    }

    fn opens(opening: &Opening, lifetime: Span, closed: &[Span]) -> bool {
        any(opening, lifetime, &merge(closed.iter().copied()), &mut Budget::default())
    }

    #[test]
    fn an_opening_before_the_lifetime_may_reach_into_it() {
        let lifetime = span("2026-01-01T12:00:00Z", "2026-01-01T13:00:00Z");
        assert!(opens(&daily("0 9 * * *", 4, Tz::UTC), lifetime, &[]));
        assert!(!opens(&daily("0 9 * * *", 3, Tz::UTC), lifetime, &[]));
        assert!(!opens(&daily("0 13 * * *", 3, Tz::UTC), lifetime, &[]));
    }

    #[test]
    fn exceptions_that_cover_every_opening_leave_none() {
        let lifetime = span("2026-01-01T00:00:00Z", "2026-01-03T00:00:00Z");
        let nine = daily("0 9 * * *", 1, Tz::UTC);
        let first = span("2026-01-01T09:00:00Z", "2026-01-01T10:00:00Z");
        let second = span("2026-01-02T08:00:00Z", "2026-01-02T11:00:00Z");
        assert!(opens(&nine, lifetime, &[first]));
        assert!(!opens(&nine, lifetime, &[first, second]));
        assert!(!opens(&daily("* * * * * *", 1, Tz::UTC), lifetime, &[lifetime]));
    }

    #[test]
    fn a_gap_opens_at_its_end() {
        // Europe/Berlin has no 02:30 on this day; 03:00 is 01:00 UTC.
        let gap = daily("30 2 * * *", 1, Tz::Europe__Berlin);
        assert!(opens(&gap, span("2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"), &[]));
        assert!(!opens(&gap, span("2026-03-29T00:00:00Z", "2026-03-29T01:00:00Z"), &[]));
        // Samoa left out the 30th of December 2011.
        let day = daily("0 12 30 12 *", 1, Tz::Pacific__Apia);
        assert!(opens(&day, span("2011-12-30T10:00:00Z", "2011-12-30T10:01:00Z"), &[]));
    }

    #[test]
    fn a_close_by_the_clock_is_the_next_such_time() {
        let overnight = Opening::Recurring {
            cron: super::super::cron::parse("0 22 * * *").unwrap(),
            until: Until::LocalTime(NaiveTime::from_hms_opt(6, 0, 0).unwrap()),
            timezone: Tz::Europe__Berlin,
        };
        assert!(opens(&overnight, span("2026-01-02T04:59:00Z", "2026-01-02T06:00:00Z"), &[]));
        assert!(!opens(&overnight, span("2026-01-02T05:00:00Z", "2026-01-02T06:00:00Z"), &[]));
    }
}
