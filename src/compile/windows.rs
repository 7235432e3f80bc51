//! Window sets: the only part of the table that follows the time.

use std::collections::BTreeMap;

use super::{Governing, Input, Openings, exact, names};
use crate::model::{Service, Span, Time};
use crate::ruleset::{Element, Field, Key, Part, Ruleset, Set, Value};
use crate::schedule;

/// How long after a close outgoing segments of existing connections are dropped without a reset, so that the
/// teardown can tell both ends: our own reset would end the local socket before anyone told the provider.
pub const CUT_GRACE: chrono::TimeDelta = chrono::TimeDelta::seconds(2);

/// The set of instants at which something has just closed.
pub const CLOSING: &str = "closing";

pub fn add(input: &Input<'_>, services: &[Governing<'_>], ruleset: &mut Ruleset) {
    for governing in services {
        add_sets_of(input, governing, ruleset);
    }
}

/// Adds what has just closed, or will: all else that opens stands in the table.
pub fn add_all_closing(input: &Input<'_>, ruleset: &mut Ruleset) {
    let lifetimes = exact::ends(ruleset);
    let closing = closing_set(closes(&ruleset.sets).chain(near(input, lifetimes)), input);
    ruleset.sets.insert(CLOSING.into(), closing);
}

/// Those of these times that come within the horizon.
fn near(input: &Input<'_>, ends: impl Iterator<Item = Time>) -> impl Iterator<Item = Time> {
    let horizon = input.now + input.settings.enforcement.arm_ahead;
    ends.filter(move |end| *end <= horizon)
}

/// Adds the sets by which a service opens, unless it is shut.
pub fn add_sets_of(input: &Input<'_>, governing: &Governing<'_>, ruleset: &mut Ruleset) {
    if governing.shut.is_some() {
        return;
    }
    let service = governing.standing.service;
    if governing.exact {
        if let Some(name) = governing.timetable.as_ref().filter(|name| !ruleset.sets.contains_key(*name)) {
            let set = window_set(&armed_whenever(input, service));
            ruleset.sets.insert(name.clone(), set);
        }
        return;
    }
    let mut add = |name: &str, which| {
        if !ruleset.sets.contains_key(name) {
            ruleset.sets.insert(name.to_owned(), window_set(&armed(input, service, which)));
        }
    };
    add(&governing.open, None);
    for which in service.policies.iter().filter_map(|policy| policy.windows.as_deref()) {
        add(&names::open(service, Some(which)), Some(which));
    }
}

/// Adds the closes of the part and of all that stays in force beside it.
pub fn add_closing(input: &Input<'_>, in_force: &Ruleset, part: &mut Part) {
    let stays = |name: &&String| !part.wanted.sets.contains_key(*name) && !part.gone.contains(*name);
    let beside = opening_sets(&in_force.sets).filter(|(name, _)| stays(name)).flat_map(|(_, set)| ends(set));
    let lifetimes = near(input, exact::ends_after(in_force, part));
    let closes = beside.chain(closes(&part.wanted.sets)).chain(lifetimes).collect::<Vec<_>>();
    part.wanted.sets.insert(CLOSING.into(), closing_set(closes.into_iter(), input));
}

fn opening_sets(sets: &BTreeMap<String, Set>) -> impl Iterator<Item = (&String, &Set)> {
    sets.range(names::OPEN.to_owned()..).take_while(|(name, _)| name.starts_with(names::OPEN))
}

fn closes(sets: &BTreeMap<String, Set>) -> impl Iterator<Item = Time> {
    opening_sets(sets).flat_map(|(_, set)| ends(set))
}

fn ends(set: &Set) -> impl Iterator<Item = Time> {
    set.elements.values().filter_map(|element| element.closes_at)
}

/// When the opening ends that a set of openings has at an instant.
pub fn closes_at(set: &Set, now: Time) -> Option<Time> {
    opening_at(set, now).map(|(_, closes_at)| closes_at)
}

fn opening_at(set: &Set, now: Time) -> Option<(Time, Time)> {
    let key = Key::builder().time(now).build();
    let (first, element) = set.elements.range(..=key).next_back()?;
    let [Value::Time(opens_at)] = first.decode(&set.fields)?[..] else { return None };
    let opens_at = Time::from_timestamp_nanos(i64::try_from(opens_at).ok()?);
    let closes_at = element.closes_at.filter(|closes_at| now < *closes_at)?;
    Some((opens_at, closes_at))
}

/// Since when, and until when, everything that is open at an instant by some sets is open together; `None`: nothing is. Sets
/// that are no openings do not count.
pub fn within<'a>(sets: impl Iterator<Item = (&'a String, &'a Set)>, now: Time) -> Option<(Time, Time)> {
    let openings = sets.filter(|(name, _)| name.starts_with(names::OPEN));
    let at = openings.filter_map(|(_, set)| opening_at(set, now));
    at.reduce(|(from, to), (opens_at, closes_at)| (from.max(opens_at), to.min(closes_at)))
}

/// The openings that belong into the kernel now.
fn armed(input: &Input<'_>, service: &Service, which: Option<&[usize]>) -> Vec<Span> {
    armed_of(input, &|from, to| schedule::openings(service, which, from, to))
}

/// The same whatever the lifetime is.
fn armed_whenever(input: &Input<'_>, service: &Service) -> Vec<Span> {
    armed_of(input, &|from, to| schedule::timetable(service, from, to))
}

fn armed_of(input: &Input<'_>, openings: &dyn Fn(Time, Time) -> Vec<Span>) -> Vec<Span> {
    let horizon = input.now + input.settings.enforcement.arm_ahead;
    let spans = live_openings(openings, input.now, horizon);
    match input.openings {
        Openings::Armed => spans,
        Openings::Since(instant) => spans.into_iter().filter(|span| span.opens_at() <= instant).collect(),
        Openings::Never => Vec::new(),
    }
}

/// Those that closed within the grace belong to it: their instants are still in [`CLOSING`].
fn live_openings(openings: &dyn Fn(Time, Time) -> Vec<Span>, now: Time, horizon: Time) -> Vec<Span> {
    // The instant at the horizon itself belongs to it.
    let end = horizon + chrono::TimeDelta::nanoseconds(1);
    openings(now - CUT_GRACE, end).into_iter().filter(|span| span.closes_at() + CUT_GRACE > now).collect()
}

fn window_set(spans: &[Span]) -> Set {
    let mut set = Set::plain(&[Field::Time]).with_intervals().with_expiry();
    set.elements.extend(spans.iter().map(|span| window(span.opens_at(), span.closes_at())));
    set
}

fn closing_set(closes: impl Iterator<Item = Time>, input: &Input<'_>) -> Set {
    let mut closes: Vec<Time> =
        closes.chain(input.cut_at).filter(|close| *close + CUT_GRACE > input.now).collect();
    closes.sort_unstable();
    let mut merged: Vec<(Time, Time)> = Vec::new();
    for close in closes {
        match merged.last_mut() {
            Some((_, end)) if close <= *end => *end = close + CUT_GRACE,
            Some(_) | None => merged.push((close, close + CUT_GRACE)),
        }
    }
    let mut set = Set::plain(&[Field::Time]).with_intervals().with_expiry();
    set.elements.extend(merged.into_iter().map(|(from, to)| window(from, to)));
    set
}

/// `[from, to)` as a closed range of nanoseconds that also ends by elapsed time.
fn window(from: Time, to: Time) -> (Key, Element) {
    let element = Element {
        last: Some(Key::builder().time_before(to).build()),
        closes_at: Some(to),
        ..Element::default()
    };
    (Key::builder().time(from).build(), element)
}
