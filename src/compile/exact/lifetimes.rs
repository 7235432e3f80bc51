//! Lifetimes: the chains of classes ask the wall clock, and sets of what expires with a lifetime count elapsed time.

use super::super::{Governing, Input, Openings, names, windows};
use super::classes::{chains, chains_after};
use super::elements;
use crate::model::{Family, Service, ServiceState, Time};
use crate::ruleset::{Chain, Element, Field, Key, Part, Ruleset, Set, Statement};

/// The numbers of the classes whose lifetime is not over by elapsed time.
pub const LIFETIMES: &str = "lifetimes";

/// When the lifetime of a service ends, if it may be armed.
fn armed_until(input: &Input<'_>, service: &Service) -> Option<Time> {
    let lifetime = service.lifetime;
    let may = match input.openings {
        Openings::Armed => true,
        Openings::Since(instant) => lifetime.opens_at() <= instant,
        Openings::Never => false,
    };
    // Windows have sets that say what is near enough to be armed.
    let is_near = || lifetime.opens_at() <= input.now + input.settings.enforcement.arm_ahead;
    let armed = may && input.now < lifetime.closes_at() && (!service.windows.is_empty() || is_near());
    armed.then(|| lifetime.closes_at())
}

/// When the opening ends that a service has right now. `set`: finds a set of openings.
pub fn open_until<'a>(
    input: &Input<'_>,
    governing: &Governing<'_>,
    set: impl Fn(&str) -> Option<&'a Set>,
) -> Option<Time> {
    let service = governing.standing.service;
    let end = armed_until(input, service).filter(|_| governing.shut.is_none())?;
    if input.now < service.lifetime.opens_at() {
        return None;
    }
    match &governing.timetable {
        None => Some(end),
        Some(name) => windows::closes_at(set(name)?, input.now).map(|closes_at| closes_at.min(end)),
    }
}

pub fn lifetime_key(number: u32) -> Key {
    Key::builder().number(number).build()
}

/// What the set of lifetimes has for the class of a service.
pub fn lifetime(input: &Input<'_>, number: u32, service: &Service) -> Option<(Key, Element)> {
    let closes_at = armed_until(input, service)?;
    Some((lifetime_key(number), Element { closes_at: Some(closes_at), ..Element::default() }))
}

/// When the lifetime of a service ends that is shut until then by something else.
pub fn shut_until(governing: &Governing<'_>) -> Option<Time> {
    match governing.shut? {
        ServiceState::Suspended | ServiceState::Unapproved => {
            Some(governing.standing.service.lifetime.closes_at())
        }
        ServiceState::Decommissioned | ServiceState::Pending | ServiceState::Closed | ServiceState::Open => {
            None
        }
    }
}

/// The addresses of what is suspended or unapproved and whose lifetime is not over by elapsed time: what is over says so,
/// with nobody there to move it to another class.
pub fn shut_set(family: Family) -> String {
    format!("{LIFETIMES}{}", names::digit(family))
}

pub fn shut_addresses(family: Family) -> Set {
    elements::addresses(family).with_expiry()
}

pub fn lifetimes() -> Set {
    Set::plain(&[Field::Number]).with_expiry()
}

/// The ends of the lifetimes that a table has after a part changed.
pub fn ends_after<'a>(in_force: &'a Ruleset, part: &'a Part) -> impl Iterator<Item = Time> + 'a {
    let changed = part.elements.get(LIFETIMES);
    let held = in_force.sets.get(LIFETIMES).into_iter().flat_map(|set| set.elements.iter());
    let stay = held.filter(move |(key, _)| !changed.is_some_and(|changed| changed.contains_key(*key)));
    let new = changed.into_iter().flat_map(|changed| changed.values().flatten());
    stay.map(|(_, element)| element).chain(new).filter_map(|element| element.closes_at)
}

/// The ends of the lifetimes of a whole table.
pub fn ends(ruleset: &Ruleset) -> impl Iterator<Item = Time> {
    let set = ruleset.sets.get(LIFETIMES).into_iter();
    set.flat_map(|set| set.elements.values()).filter_map(|element| element.closes_at)
}

/// When the lifetimes of classes begin.
pub fn begins(ruleset: &Ruleset) -> impl Iterator<Item = Time> {
    chains(&ruleset.chains).filter_map(|(_, chain)| begin_of(chain))
}

pub fn begins_after<'a>(in_force: &'a Ruleset, part: &'a Part) -> impl Iterator<Item = Time> + 'a {
    chains_after(in_force, part).filter_map(|(_, chain)| begin_of(chain))
}

/// Since when, and until when, all that is open now stays as it is. `windows`: as far as windows go.
pub fn within(
    input: &Input<'_>,
    windows: Option<(Time, Time)>,
    begins: impl Iterator<Item = Time>,
    ends: impl Iterator<Item = Time>,
) -> Option<(Time, Time)> {
    let begin = begins.filter(|begin| *begin <= input.now).max();
    let end = ends.filter(|end| input.now < *end).min();
    let lifetimes = begin.zip(end);
    match (windows, lifetimes) {
        (Some((from, to)), Some((begin, end))) => Some((from.max(begin), to.min(end))),
        (one, None) | (None, one) => one,
    }
}

/// It is the first that the chain of a class asks for.
fn begin_of(chain: &Chain) -> Option<Time> {
    match chain.rules.first()?.first()? {
        Statement::Before(begin) => Some(*begin),
        _ => None,
    }
}
