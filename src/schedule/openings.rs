//! The openings of a service: its windows merged, exceptions cut out, both ends cut off by the lifetime.

use chrono::TimeDelta;

use super::recurrence::Recurrence;
use super::spans::{Spans, interleave, merge};
use crate::model::{Lifetime, Opening, Service, Span, Time, Window};

/// Where the search for the beginning of an opening starts to look; it doubles.
const FIRST_LOOK_BACK: TimeDelta = TimeDelta::hours(1);

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
    openings.take_while(|opening| opening.opens_at() < to).collect()
}

/// Some windows of a service, ready to be asked.
pub struct Windows<'a> {
    lifetime: Lifetime,
    recurrences: Vec<Recurrence<'a>>,
    /// By `opens_at`.
    absolutes: Vec<Span>,
    /// Merged, by time.
    exceptions: Vec<Span>,
    /// No opening of a recurrence is longer.
    reach: TimeDelta,
}

impl<'a> Windows<'a> {
    pub fn of(service: &'a Service, which: Option<&[usize]>) -> Self {
        let chosen = chosen(service, which);
        let recurrences: Vec<_> = chosen.iter().copied().filter_map(recurrence).collect();
        let whole = service.windows.is_empty().then_some(service.lifetime);
        Self {
            lifetime: service.lifetime,
            reach: recurrences.iter().map(Recurrence::reach).max().unwrap_or_default(),
            recurrences,
            absolutes: sorted(chosen.into_iter().filter_map(absolute).chain(whole)),
            exceptions: merge(sorted(service.exceptions.iter().copied()).into_iter()).collect(),
        }
    }

    /// Whether any window is open at an instant.
    pub fn cover(&self, at: Time) -> bool {
        let excepted = || self.exceptions.iter().any(|exception| exception.contains(at));
        let in_a_window = || {
            let start = before(at, self.reach);
            self.firings(start, after(at)).any(|span| span.contains(at))
        };
        self.lifetime.contains(at) && !excepted() && in_a_window()
    }

    /// The openings that close after `from`, by time, to the end of the lifetime.
    pub fn openings(&self, from: Time) -> impl Iterator<Item = Span> {
        let from = from.max(self.lifetime.opens_at());
        let openings = Openings {
            windows: self,
            merged: self.merged(self.beginning(from), self.lifetime.closes_at()),
            rest: None,
        };
        openings.filter(move |opening| opening.closes_at() > from)
    }

    /// From where on firings must be known so that the opening around `from` shows its real beginning.
    ///
    /// What fired before `start` has closed by `start + reach`: an opening that begins after that is whole. One that
    /// does not may have begun earlier, so look twice as far back, at most to the commission.
    fn beginning(&self, from: Time) -> Time {
        let mut look_back = FIRST_LOOK_BACK.max(self.reach);
        loop {
            let whole_after = before(from, look_back);
            let start = before(whole_after, self.reach);
            let may_be_cut = |span: Span| span.opens_at() <= whole_after && span.closes_at() >= from;
            if whole_after < self.lifetime.opens_at() || !self.merged(start, after(from)).any(may_be_cut) {
                return start;
            }
            look_back = look_back.checked_mul(2).unwrap_or(TimeDelta::MAX);
        }
    }

    fn merged(&self, start: Time, limit: Time) -> Spans<'_> {
        Box::new(merge(self.firings(start, limit)))
    }

    /// What each firing after `start` and before `limit` opens, and the absolute windows before `limit`; by time.
    fn firings(&self, start: Time, limit: Time) -> impl Iterator<Item = Span> {
        let absolutes: Spans<'_> = Box::new(self.absolutes.iter().copied());
        let recurring = self
            .recurrences
            .iter()
            .map(|recurrence| -> Spans<'_> { Box::new(recurrence.openings(start, limit)) });
        let sources = std::iter::once(absolutes).chain(recurring).collect();
        interleave(sources).take_while(move |span| span.opens_at() < limit)
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
    merged: Spans<'w>,
    /// What is left of a span behind an exception.
    rest: Option<Span>,
}

impl Iterator for Openings<'_> {
    type Item = Span;

    fn next(&mut self) -> Option<Span> {
        loop {
            let span = self.uncut()?;
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
    fn uncut(&mut self) -> Option<Span> {
        let lifetime = self.windows.lifetime;
        let rest = self.rest.take();
        rest.or_else(|| self.merged.find_map(|span| span.clip(lifetime)))
    }

    /// Goes on at the end of the exception. Whatever opens and closes inside it is skipped, not walked through.
    fn go_behind(&mut self, exception: Span, span: Span) {
        let end = exception.closes_at();
        self.rest = Span::new(end, span.closes_at()).ok();
        if self.rest.is_none() {
            let windows = self.windows;
            let merged = windows.merged(before(end, windows.reach), windows.lifetime.closes_at());
            self.merged = Box::new(merged.filter(move |span| span.closes_at() > end));
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

fn sorted(spans: impl Iterator<Item = Span>) -> Vec<Span> {
    let mut spans: Vec<_> = spans.collect();
    spans.sort_unstable();
    spans
}

fn before(at: Time, distance: TimeDelta) -> Time {
    at.checked_sub_signed(distance).unwrap_or(Time::MIN_UTC)
}

/// The smallest limit that is not before `at`.
fn after(at: Time) -> Time {
    at.checked_add_signed(TimeDelta::nanoseconds(1)).unwrap_or(Time::MAX_UTC)
}
