//! The openings of a service: its windows merged, exceptions cut out, both ends cut off by the lifetime.

use std::iter;

use super::merged::{MOST_JOINS, Merged, Source};
use super::recurrence::Recurrence;
use super::spans::{merge, sort};
use crate::model::{Lifetime, Opening, Service, Span, Time, Window};

/// The openings of the windows `which` (`None`: all) of the service that have an instant in `[from, to)`, by time.
///
/// They are merged where they overlap or touch, exceptions are cut out, the lifetime cuts off both ends. They are not
/// cut at `from` and `to`: each has its real `opens_at` and `closes_at`. A service without windows is open for its whole
/// lifetime; an index that names no window opens nothing. Recurring windows open from 1970 to 2100 only.
///
/// Costs what lies in the span, which for a window that opens every other second is much: the caller chooses `to`.
pub fn openings(service: &Service, which: Option<&[usize]>, from: Time, to: Time) -> Vec<Span> {
    let windows = Windows::of(service, which);
    let openings = windows.openings(from);
    openings.take_while(|opening| from < to && opening.opens_at() < to).collect()
}

/// The same for all windows, whatever the lifetime is: services of many lifetimes have these in common. Without windows it is
/// all time.
pub fn timetable(service: &Service, from: Time, to: Time) -> Vec<Span> {
    let Ok(always) = Span::new(Time::UNIX_EPOCH, Time::from_timestamp_nanos(i64::MAX)) else { return vec![] };
    let openings = Windows::within(always, service, None);
    let openings = openings.openings(from);
    openings.take_while(|opening| from < to && opening.opens_at() < to).collect()
}

/// Some windows of a service, ready to be asked.
pub struct Windows<'a> {
    lifetime: Lifetime,
    recurrences: Vec<Recurrence<'a>>,
    /// By `opens_at`.
    absolutes: Vec<Span>,
    /// Merged, by time.
    exceptions: Vec<Span>,
}

impl<'a> Windows<'a> {
    pub fn of(service: &'a Service, which: Option<&[usize]>) -> Self {
        Self::within(service.lifetime, service, which)
    }

    fn within(lifetime: Lifetime, service: &'a Service, which: Option<&[usize]>) -> Self {
        let chosen = chosen(service, which);
        let whole = service.windows.is_empty().then_some(lifetime);
        Self {
            lifetime,
            recurrences: chosen.iter().copied().filter_map(recurrence).collect(),
            absolutes: sort(chosen.iter().copied().filter_map(absolute).chain(whole)),
            exceptions: merge(service.exceptions.iter().copied()),
        }
    }

    /// Whether any window is open at an instant.
    pub fn cover(&self, at: Time) -> bool {
        let contains = |span: &Span| span.contains(at);
        let recurs = |recurrence: &Recurrence| {
            let openings = recurrence.openings(at, at);
            openings.take_while(|span| span.opens_at() <= at).any(|span| span.contains(at))
        };
        self.lifetime.contains(at)
            && !self.exceptions.iter().any(contains)
            && (self.absolutes.iter().any(contains) || self.recurrences.iter().any(recurs))
    }

    /// The openings that close after `from`, by time, to the end of the lifetime.
    pub fn openings(&self, from: Time) -> impl Iterator<Item = Span> {
        let from = from.max(self.lifetime.opens_at());
        let before = Span::new(self.beginning(from), from).ok();
        let sources = self.sources(from).chain([Source::of(before.into_iter())]);
        let openings = Openings { windows: self, merged: Merged::new(sources), rest: None };
        openings
            .filter_map(|opening| opening.clip(self.lifetime))
            .filter(move |opening| opening.closes_at() > from)
    }

    /// All that opens in the lifetime and closes at `from` or later; some openings before.
    fn sources(&self, from: Time) -> impl Iterator<Item = Source<'_>> {
        let limit = self.lifetime.closes_at();
        let recurring = self.recurrences.iter();
        let recurring = recurring.map(move |recurrence| Source::recurring(recurrence, from, limit));
        iter::once(Source::of(self.absolutes.iter().copied())).chain(recurring)
    }

    /// When what is open just before `at` began to be open; `at` itself where nothing is. Goes back opening by opening,
    /// not beyond the commission.
    fn beginning(&self, at: Time) -> Time {
        let begins = iter::successors(Some(at), |begin| self.earlier(*begin));
        begins.take(MOST_JOINS).last().unwrap_or(at)
    }

    /// When the first opening began that is open just before `at`.
    fn earlier(&self, at: Time) -> Option<Time> {
        let is_open = |span: &Span| span.opens_at() < at && at <= span.closes_at();
        let recurring = self.recurrences.iter().filter_map(|recurrence| {
            let openings = recurrence.openings(at, at);
            openings.take_while(|span| span.opens_at() < at).find(is_open)
        });
        let absolute = self.absolutes.iter().copied().find(is_open);
        let begins = recurring.chain(absolute).map(Span::opens_at);
        begins.min().filter(|_| self.lifetime.opens_at() < at)
    }

    fn first_exception_in(&self, span: Span) -> Option<Span> {
        let ended = self.exceptions.partition_point(|exception| exception.closes_at() <= span.opens_at());
        let next = self.exceptions.get(ended).copied();
        next.filter(|exception| exception.opens_at() < span.closes_at())
    }
}

/// Merged spans with exceptions cut out of them.
struct Openings<'w> {
    windows: &'w Windows<'w>,
    merged: Merged<'w>,
    /// What is left of a span behind an exception.
    rest: Option<Span>,
}

impl Iterator for Openings<'_> {
    type Item = Span;

    fn next(&mut self) -> Option<Span> {
        loop {
            let span = self.rest.take().or_else(|| self.merged.next())?;
            let Some(exception) = self.windows.first_exception_in(span) else {
                return Some(span);
            };
            self.go_behind(exception, span);
            if let Ok(ahead) = Span::new(span.opens_at(), exception.opens_at()) {
                return Some(ahead);
            }
        }
    }
}

impl Openings<'_> {
    /// Goes on at the end of the exception. Whatever opens and closes inside it is skipped, not walked through.
    fn go_behind(&mut self, exception: Span, span: Span) {
        let end = exception.closes_at();
        self.rest = Span::new(end, span.closes_at()).ok();
        if self.rest.is_none() {
            self.merged = Merged::new(self.windows.sources(end));
            self.merged.skip_closed_by(end);
        }
    }
}

fn chosen<'a>(service: &'a Service, which: Option<&[usize]>) -> Vec<&'a Window> {
    match which {
        None => service.windows.iter().collect(),
        Some(which) => which.iter().filter_map(|index| service.windows.get(*index)).collect(),
    }
}

fn recurrence(window: &Window) -> Option<Recurrence<'_>> {
    match &window.opening {
        Opening::Recurring { cron, until, timezone } => Some(Recurrence::new(cron, *until, *timezone)),
        Opening::Absolute(_) => None,
    }
}

fn absolute(window: &Window) -> Option<Span> {
    match &window.opening {
        Opening::Recurring { .. } => None,
        Opening::Absolute(span) => Some(*span),
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use chrono_tz::{Europe, UTC};

    use super::super::fixture::{absolute, at, minutes, recurring, service, span, until};
    use super::*;

    fn office() -> Window {
        recurring("0 0 9 * * Mon-Fri", minutes(9 * 60), Europe::Berlin)
    }

    fn on(service: &Service, from: &str, to: &str) -> Vec<Span> {
        openings(service, None, at(from), at(to))
    }

    #[test]
    fn office_hours_open_on_working_days_by_local_time() {
        let opened = on(&service(vec![office()]), "2026-03-27T00:00:00Z", "2026-03-31T00:00:00Z");
        let friday = span("2026-03-27T08:00:00Z", "2026-03-27T17:00:00Z");
        let monday_in_summer = span("2026-03-30T07:00:00Z", "2026-03-30T16:00:00Z");
        assert_eq!(opened, [friday, monday_in_summer]);
    }

    #[test]
    fn an_opening_keeps_its_ends_where_the_question_is_narrower() {
        let service = service(vec![office()]);
        let opened = on(&service, "2026-07-01T10:00:00Z", "2026-07-01T10:00:01Z");
        assert_eq!(opened, [span("2026-07-01T07:00:00Z", "2026-07-01T16:00:00Z")]);
    }

    #[test]
    fn an_opening_that_only_touches_the_question_is_left_out() {
        let service = service(vec![office()]);
        assert_eq!(on(&service, "2026-07-01T16:00:00Z", "2026-07-02T07:00:00Z"), []);
        assert_eq!(on(&service, "2026-07-01T10:00:00Z", "2026-07-01T10:00:00Z"), []);
        assert_eq!(on(&service, "2026-07-01T12:00:00Z", "2026-07-01T10:00:00Z"), []);
    }

    #[test]
    fn without_windows_it_is_open_for_the_whole_lifetime() {
        let service = service(Vec::new());
        assert_eq!(on(&service, "1900-01-01T00:00:00Z", "2200-01-01T00:00:00Z"), [service.lifetime]);
        assert_eq!(on(&service, "2027-01-01T00:00:00Z", "2200-01-01T00:00:00Z"), []);
    }

    #[test]
    fn the_lifetime_cuts_off_both_ends() {
        let windows = vec![recurring("0 0 12 31 Dec *", minutes(2 * 24 * 60), UTC)];
        let opened = on(&service(windows), "2025-01-01T00:00:00Z", "2028-01-01T00:00:00Z");
        let first = span("2026-01-01T00:00:00Z", "2026-01-02T12:00:00Z");
        let last = span("2026-12-31T12:00:00Z", "2027-01-01T00:00:00Z");
        assert_eq!(opened, [first, last]);
    }

    #[test]
    fn windows_that_overlap_or_touch_are_one_opening() {
        let windows = vec![
            recurring("0 0 9 * * Wed", minutes(60), UTC),
            absolute("2026-07-01T09:30:00Z", "2026-07-01T11:00:00Z"),
            recurring("0 0 11 * * Wed", until("12:00"), UTC),
        ];
        let opened = on(&service(windows), "2026-07-01T00:00:00Z", "2026-07-02T00:00:00Z");
        assert_eq!(opened, [span("2026-07-01T09:00:00Z", "2026-07-01T12:00:00Z")]);
    }

    #[test]
    fn exceptions_cut_after_windows_have_merged() {
        let mut service = service(vec![office()]);
        service.exceptions = vec![
            span("2026-07-01T12:00:00Z", "2026-07-01T13:00:00Z"),
            span("2026-07-01T09:00:00Z", "2026-07-01T10:00:00Z"),
            span("2026-07-01T09:30:00Z", "2026-07-01T11:00:00Z"),
            span("2026-07-02T00:00:00Z", "2026-07-03T08:00:00Z"),
        ];
        let opened = on(&service, "2026-07-01T00:00:00Z", "2026-07-04T00:00:00Z");
        let expected = [
            span("2026-07-01T07:00:00Z", "2026-07-01T09:00:00Z"),
            span("2026-07-01T11:00:00Z", "2026-07-01T12:00:00Z"),
            span("2026-07-01T13:00:00Z", "2026-07-01T16:00:00Z"),
            span("2026-07-03T08:00:00Z", "2026-07-03T16:00:00Z"),
        ];
        assert_eq!(opened, expected);
    }

    #[test]
    fn an_exception_beyond_the_decommission_ends_the_openings() {
        let mut service = service(Vec::new());
        service.exceptions = vec![span("2026-12-01T00:00:00Z", "2028-01-01T00:00:00Z")];
        let opened = on(&service, "2026-01-01T00:00:00Z", "2030-01-01T00:00:00Z");
        assert_eq!(opened, [span("2026-01-01T00:00:00Z", "2026-12-01T00:00:00Z")]);
    }

    #[test]
    fn an_exception_and_a_window_that_both_span_the_decommission_end_the_openings() {
        let mut service = service(vec![recurring("0 0 20 * * *", minutes(10 * 60), UTC)]);
        service.exceptions = vec![span("2026-12-31T12:00:00Z", "2027-01-01T01:00:00Z")];
        let opened = on(&service, "2026-12-31T00:00:00Z", "2030-01-01T00:00:00Z");
        assert_eq!(opened, [span("2026-12-30T20:00:00Z", "2026-12-31T06:00:00Z")]);
    }

    #[test]
    fn a_policy_may_use_some_of_the_windows() {
        let day = |day| recurring(&format!("0 0 9 {day} Jul *"), minutes(60), UTC);
        let service = service(vec![day(1), day(2), day(3)]);
        let of = |which: &[usize]| {
            let opened =
                openings(&service, Some(which), at("2026-01-01T00:00:00Z"), at("2027-01-01T00:00:00Z"));
            opened.into_iter().map(|opening| opening.opens_at()).collect::<Vec<_>>()
        };
        assert_eq!(of(&[2, 0]), [at("2026-07-01T09:00:00Z"), at("2026-07-03T09:00:00Z")]);
        assert!(of(&[]).is_empty());
        assert!(of(&[3]).is_empty());
    }

    #[test]
    fn minutes_that_touch_all_year_are_one_opening() {
        let service = service(vec![recurring("0 * * * * *", minutes(1), UTC)]);
        assert_eq!(on(&service, "2026-07-01T00:00:00Z", "2026-07-01T00:00:01Z"), [service.lifetime]);
    }

    #[test]
    fn an_exception_of_years_over_short_openings_is_jumped_over() {
        let mut service = service(vec![recurring("0 */2 * * * *", minutes(1), UTC)]);
        service.exceptions = vec![span("2026-01-01T00:00:00Z", "2026-12-31T00:00:30Z")];
        let opened = on(&service, "2026-01-01T00:00:00Z", "2026-12-31T00:01:00Z");
        assert_eq!(opened, [span("2026-12-31T00:00:30Z", "2026-12-31T00:01:00Z")]);
    }

    #[test]
    fn windows_that_take_turns_for_ever_cost_a_bounded_time_and_lose_no_instant() {
        let even = recurring("0 */2 * * * *", minutes(1), UTC);
        let odd = recurring("0 1/2 * * * *", minutes(1), UTC);
        let opened = on(&service(vec![even, odd]), "2026-07-01T00:00:00Z", "2026-07-02T00:00:00Z");
        let day = span("2026-07-01T00:00:00Z", "2026-07-02T00:00:00Z");
        assert!(opened.iter().any(|opening| opening.clip(day) == Some(day)), "{opened:?}");
        assert!(opened.iter().all(|opening| opening.closes_at() - opening.opens_at() > TimeDelta::days(20)));
    }

    #[test]
    fn nothing_opens_after_the_year_2100() {
        let mut service = service(vec![recurring("0 0 0 * * *", minutes(60), UTC)]);
        service.lifetime = span("2026-01-01T00:00:00Z", "2900-01-01T00:00:00Z");
        let opened = on(&service, "2100-12-31T00:00:00Z", "2900-01-01T00:00:00Z");
        assert_eq!(opened, [span("2100-12-31T00:00:00Z", "2100-12-31T01:00:00Z")]);
    }
}
