//! When a service is open: `[lifetime]`, `[[window]]`, `[[except]]`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::str::FromStr as _;

use chrono_tz::Tz;

use super::openings::{self, Budget};
use super::reader::{Table, Value, later};
use super::time::{Mistake, local_time};
use super::{cron, nearest};
use crate::model::{CronExpression, Opening, Span, Time, Until, Window};

pub(super) const LIFETIME_KEYS: [&str; 2] = ["commission", "decommission"];
pub(super) const WINDOW_KEYS: [&str; 7] = ["name", "cron", "duration", "until", "timezone", "open", "close"];
pub(super) const EXCEPT_KEYS: [&str; 2] = ["open", "close"];

/// The longest name of a window, in characters.
const MAX_NAME: usize = 63;

/// A span and where its two ends are written.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub span: Span,
    opens: Range<usize>,
    closes: Range<usize>,
}

/// One `[[window]]` as far as it could be read.
struct Entry {
    name: Option<String>,
    opening: Option<Opening>,
    /// Where it says when it opens.
    at: Range<usize>,
}

impl Entry {
    /// The window, when it was in order.
    fn into_window(self) -> Option<Window> {
        let Self { name, opening, .. } = self;
        opening.map(|opening| Window { name, opening })
    }
}

/// Reads `[lifetime]`.
pub(super) fn lifetime(root: &Table<'_>) -> Option<Placed> {
    let help = "nothing is open-ended: write [lifetime] with commission and decommission";
    let table = root.required("lifetime", help)?.table("[lifetime]", &LIFETIME_KEYS)?;
    span(&table, "commission", "decommission")
}

/// Reads every `[[except]]`.
pub(super) fn exceptions(root: &Table<'_>) -> Vec<Placed> {
    let tables = root.get("except").map(|value| value.tables("[[except]]", &EXCEPT_KEYS));
    tables.unwrap_or_default().iter().filter_map(|table| span(table, "open", "close")).collect()
}

/// Every `[[window]]` in file order, the broken ones too: a policy may name them.
#[derive(Default)]
pub(super) struct Windows {
    entries: Vec<Entry>,
    by_name: BTreeMap<String, usize>,
}

impl Windows {
    /// The index of the window with this name.
    pub fn index(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    pub fn names(&self) -> Vec<&str> {
        self.by_name.keys().map(String::as_str).collect()
    }

    /// The windows that were in order.
    pub fn into_windows(self) -> Vec<Window> {
        self.entries.into_iter().filter_map(Entry::into_window).collect()
    }

    fn add(&mut self, table: &Table<'_>) {
        let entry = window(table);
        let index = self.entries.len();
        let before = entry.name.clone().and_then(|name| self.by_name.insert(name, index));
        if let (Some(_), Some(value)) = (before, table.get("name")) {
            value.error("another window of this file has this name", "give each window a name of its own");
        }
        self.entries.push(entry);
    }
}

/// Reads every `[[window]]`.
pub(super) fn windows(root: &Table<'_>) -> Windows {
    let tables = root.get("window").map(|value| value.tables("[[window]]", &WINDOW_KEYS));
    let mut windows = Windows::default();
    for table in tables.unwrap_or_default() {
        if !root.report().is_full() {
            windows.add(&table);
        }
    }
    windows
}

/// Reports what never opens: a window outside of the lifetime, and one that exceptions cover.
pub(super) fn check_openings(root: &Table<'_>, lifetime: &Placed, windows: &Windows, exceptions: &[Placed]) {
    let closed = openings::merge(exceptions.iter().map(|one| one.span));
    if windows.entries.is_empty() {
        check_lifetime(root, lifetime, exceptions, &closed);
    }
    let mut budget = Budget::default();
    for entry in &windows.entries {
        let Some(opening) = entry.opening.as_ref().filter(|_| !root.report().is_full()) else {
            continue;
        };
        if !openings::any(opening, lifetime.span, &[], &mut budget) {
            report_outside(root, entry, opening, lifetime);
        } else if !openings::any(opening, lifetime.span, &closed, &mut budget) {
            let at = last_of(&entry.at, exceptions.iter().filter(|one| may_meet(one, opening)));
            let message = format!("the window never opens: exceptions cover all of {}", describe(opening));
            root.report().error(at, message, "shorten an exception, or remove the window");
        }
    }
}

/// True when the exception may cut something out of the window.
fn may_meet(exception: &Placed, opening: &Opening) -> bool {
    match opening {
        Opening::Absolute(span) => exception.span.clip(*span).is_some(),
        Opening::Recurring { .. } => true,
    }
}

fn describe(opening: &Opening) -> String {
    match opening {
        Opening::Absolute(span) => format!("{} to {}", rfc3339(span.opens_at()), rfc3339(span.closes_at())),
        Opening::Recurring { cron, .. } => format!("{:?}", cron.text()),
    }
}

fn check_lifetime(root: &Table<'_>, lifetime: &Placed, exceptions: &[Placed], closed: &[Span]) {
    let whole = Opening::Absolute(lifetime.span);
    if !openings::any(&whole, lifetime.span, closed, &mut Budget::default()) {
        let at = last_of(&lifetime.closes, exceptions.iter());
        let message = "the service never opens: exceptions cover its whole lifetime";
        let help = "shorten an exception, or suspend the service with state = \"suspended\"";
        root.report().error(at, message, help);
    }
}

/// A conflict points at the later of the two.
fn last_of<'r>(at: &'r Range<usize>, exceptions: impl Iterator<Item = &'r Placed>) -> &'r Range<usize> {
    exceptions.fold(at, |last, one| later(last, &one.opens))
}

fn report_outside(root: &Table<'_>, entry: &Entry, opening: &Opening, lifetime: &Placed) {
    let (message, conflict) = match opening {
        Opening::Absolute(span) if span.closes_at() <= lifetime.span.opens_at() => {
            ("the window never opens: it ends before the lifetime begins", &lifetime.opens)
        }
        Opening::Absolute(_) => {
            ("the window never opens: it begins after the lifetime has ended", &lifetime.closes)
        }
        Opening::Recurring { .. } => {
            ("the window never opens: its cron does not fire in the lifetime", &lifetime.closes)
        }
    };
    let Placed { span, .. } = lifetime;
    let help =
        format!("the lifetime goes from {} to {}", rfc3339(span.opens_at()), rfc3339(span.closes_at()));
    root.report().error(later(&entry.at, conflict), message, help);
}

fn rfc3339(time: Time) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)
}

/// Reads two keys that must be there and stand in order.
fn span(table: &Table<'_>, from: &str, to: &str) -> Option<Placed> {
    let help = |key: &str| format!("write {key} with an offset, for example {key} = 2026-01-01T00:00:00Z");
    let opens = table.required(from, &help(from));
    let closes = table.required(to, &help(to));
    // Both are read before either can end this, so that both are reported.
    let opens = opens.and_then(|value| Some((value.instant()?, value.at().clone())));
    let closes = closes.and_then(|value| Some((value.instant()?, value.at().clone())));
    let ((opens_at, opens), (closes_at, closes)) = (opens?, closes?);
    match Span::new(opens_at, closes_at) {
        Ok(span) => Some(Placed { span, opens, closes }),
        Err(_) => {
            let message = format!("`{to}` is not after `{from}`");
            let help = format!("{from} is {}, {to} is {}", rfc3339(opens_at), rfc3339(closes_at));
            table.report().error(later(&opens, &closes), message, help);
            None
        }
    }
}

fn window(table: &Table<'_>) -> Entry {
    let name = table.get("name").and_then(|value| value.text(MAX_NAME));
    let cron = table.get("cron");
    let absolute = table.get("open").or_else(|| table.get("close"));
    let at = cron.as_ref().or(absolute.as_ref());
    let at = at.map_or(table.header(), Value::at).clone();
    let opening = match (cron, absolute) {
        (Some(cron), Some(absolute)) => {
            let message = format!("a window has either `cron` or `{}`", absolute.name());
            let help = "keep one: a window recurs or is open once";
            table.report().error(later(cron.key(), absolute.key()), message, help);
            None
        }
        (Some(cron), None) => recurring(table, &cron),
        (None, Some(_)) => once(table),
        (None, None) => {
            let message = "[[window]] has neither `cron` nor `open` and `close`".to_owned();
            let help = "say when it opens; without any window the service is open for its whole lifetime";
            table.missing(&["cron", "open", "close"], message, help);
            // What it says beside may be wrong as well.
            let _ = (timezone(table), written_until(table));
            None
        }
    };
    Entry { name, opening, at }
}

fn once(table: &Table<'_>) -> Option<Opening> {
    for key in ["duration", "until", "timezone"] {
        if let Some(value) = table.get(key) {
            let message = format!("`{key}` belongs to a window with `cron`");
            let help = "remove it: `open` and `close` are instants";
            table.report().error(value.key(), message, help);
        }
    }
    span(table, "open", "close").map(|placed| Opening::Absolute(placed.span))
}

fn recurring(table: &Table<'_>, cron: &Value<'_>) -> Option<Opening> {
    let cron = expression(cron);
    let timezone = timezone(table);
    let until = until(table);
    Some(Opening::Recurring { cron: cron?, until: until?, timezone: timezone? })
}

fn expression(value: &Value<'_>) -> Option<CronExpression> {
    match cron::parse(value.string()?) {
        Ok(expression) => Some(expression),
        Err(mistakes) => {
            for mistake in mistakes {
                value.error(mistake.message, mistake.help);
            }
            None
        }
    }
}

fn timezone(table: &Table<'_>) -> Option<Tz> {
    match table.get("timezone") {
        Some(value) => value.read(zone),
        None => Some(Tz::UTC),
    }
}

fn zone(text: &str) -> Result<Tz, Mistake> {
    Tz::from_str(text).map_err(|_| {
        let message = format!("{text:?} is no time zone of the IANA database");
        Mistake::new(message, nearest::zone_help(text))
    })
}

fn until(table: &Table<'_>) -> Option<Until> {
    if table.get("duration").is_none() && table.get("until").is_none() {
        let message = "[[window]] has neither `duration` nor `until`".to_owned();
        let help = "say when it closes: duration = \"9h\", or until = \"18:00\"";
        table.missing(&["duration", "until"], message, help);
    }
    written_until(table)
}

/// The end as far as one is written.
fn written_until(table: &Table<'_>) -> Option<Until> {
    let (duration, until) = (table.get("duration"), table.get("until"));
    if let (Some(duration), Some(until)) = (&duration, &until) {
        let message = "a window has either `duration` or `until`";
        let help = "keep one: elapsed time, or the local time of the close";
        table.report().error(later(duration.key(), until.key()), message, help);
    }
    let elapsed = duration.and_then(|value| value.duration()).map(Until::Elapsed);
    let local = until.and_then(|value| value.read(local_time)).map(Until::LocalTime);
    elapsed.or(local)
}
