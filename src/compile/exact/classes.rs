//! Classes: services with the same timetable and lifetime, refused alike, share the chains that ask for the time. What is
//! shut has no timetable: each way of being shut is a class too, with a number that never changes and no chains.
//!
//! A class has a number, which its addresses spell (see [`super::trees`]) and which it keeps as long as it is in the table, so that
//! a new one moves no address of another. A class that nobody is in any more stays until a new one makes the trees anew:
//! who was suspended comes back to it, and going there and back is some elements.
//!
//! The kernel keeps the sets of a table in a list that each rule with a set walks (`nft_set_lookup_global`: 24 s for 10,000
//! lifetimes with a set each). So a lifetime is no set: its chain asks the wall clock, and one set of the numbers
//! of classes, which expire with their lifetimes, counts elapsed time for all. Windows have a set, which those with the
//! same ones share.

use std::collections::{BTreeMap, BTreeSet};

use super::super::shared::{Rule, back, chain as add_chain, goto, not_in};
use super::super::{Governing, Input, Standing, names, refusal};
use super::lifetimes::{LIFETIMES, lifetime_key};
use super::ways::grants_chain;
use crate::model::{Direction, Service, ServiceState};
use crate::ruleset::{Chain, Load, Name, Part, Ruleset, Statement};

/// What the names of the chains of classes begin with.
const CLASS: &str = "class-";

/// What is shut, enforced or observed; its number is its place in this list.
pub const SHUT: [(ServiceState, bool); 6] = [
    (ServiceState::Suspended, false),
    (ServiceState::Decommissioned, false),
    (ServiceState::Unapproved, false),
    (ServiceState::Suspended, true),
    (ServiceState::Decommissioned, true),
    (ServiceState::Unapproved, true),
];

/// The first number of a class with a timetable.
pub const FIRST: u32 = SHUT.len() as u32;

/// The class of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Class {
    /// By its number.
    Shut(u32),
    /// By its identifier: see [`identifier`].
    Timed(String),
}

impl Class {
    pub(super) fn of(input: &Input<'_>, governing: &Governing<'_>) -> Self {
        let service = governing.standing.service;
        let observes = refusal::observes(input, service);
        let shut = SHUT
            .iter()
            .zip(0..)
            .find(|((state, observed), _)| governing.shut == Some(*state) && *observed == observes);
        match shut {
            Some((_, number)) => Self::Shut(number),
            None => Self::Timed(identifier(&governing.open, &how(input, service))),
        }
    }

    /// What a class with a timetable is called.
    pub fn timed(&self) -> Option<&str> {
        match self {
            Self::Shut(_) => None,
            Self::Timed(identifier) => Some(identifier),
        }
    }
}

/// The digest of the timetable and lifetime (`open-DIGEST`), and [`how`] it is judged.
fn identifier(open: &str, how: &str) -> String {
    format!("{}{how}", digest_of(open))
}

fn digest_of(open: &str) -> &str {
    open.strip_prefix(names::OPEN).and_then(|rest| rest.strip_prefix('-')).unwrap_or(open)
}

/// What beside the timetable tells classes apart, in letters that no digest has: `o` for observed; `p` for pending: a
/// lifetime that began stays begun, so that turning the clock back does not make it pending again.
fn how(input: &Input<'_>, service: &Service) -> String {
    let observes = refusal::observes(input, service);
    let pending = service.lifetime.opens_at() > input.now;
    [(observes, 'o'), (pending, 'p')].into_iter().filter_map(|(is, letter)| is.then_some(letter)).collect()
}

/// The number of each class with a timetable.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Classes {
    numbers: BTreeMap<String, u32>,
    identifiers: BTreeMap<u32, String>,
    /// No smaller number is free.
    free: u32,
}

impl Classes {
    /// Reads them from the names of a table's chains.
    pub fn of(ruleset: &Ruleset) -> Self {
        let mut classes = Self::default();
        for (name, _) in chains(&ruleset.chains) {
            let numbered = name.strip_prefix(CLASS).and_then(|name| name.split_once('-'));
            if let Some((number, identifier)) = numbered
                && let Ok(number) = number.parse()
            {
                classes.insert(identifier.to_owned(), number);
            }
        }
        classes
    }

    fn insert(&mut self, identifier: String, number: u32) {
        self.identifiers.insert(number, identifier.clone());
        self.numbers.insert(identifier, number);
    }

    /// The number of a class that has one.
    pub fn known(&self, class: &Class) -> Option<u32> {
        match class {
            Class::Shut(number) => Some(*number),
            Class::Timed(identifier) => self.numbers.get(identifier).copied(),
        }
    }

    pub fn knows(&self, identifier: &str) -> bool {
        self.numbers.contains_key(identifier)
    }

    /// Takes a class out; returns its chains.
    fn remove(&mut self, number: u32) -> Vec<String> {
        let Some(identifier) = self.identifiers.remove(&number) else { return vec![] };
        self.numbers.remove(&identifier);
        self.free = self.free.min(number);
        let name = chain(number, &identifier);
        ["", "-out", "-in"].map(|end| format!("{name}{end}")).into()
    }

    /// The same numbers for those of these classes that are known; no others.
    pub fn kept<'a>(&self, identifiers: impl Iterator<Item = &'a str>) -> Self {
        let mut kept = Self::default();
        for identifier in identifiers {
            if let Some(number) = self.numbers.get(identifier)
                && !kept.knows(identifier)
            {
                kept.insert(identifier.to_owned(), *number);
            }
        }
        kept
    }

    /// The number of a class; one without gets the smallest that is free.
    pub fn number(&mut self, class: &Class) -> u32 {
        if let Some(known) = self.known(class) {
            return known;
        }
        self.free = self.free.max(FIRST);
        while self.identifiers.contains_key(&self.free) {
            self.free += 1;
        }
        class.timed().into_iter().for_each(|identifier| self.insert(identifier.to_owned(), self.free));
        self.free
    }

    /// The classes with a timetable, by number.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &str)> {
        self.identifiers.iter().map(|(number, identifier)| (*number, identifier.as_str()))
    }
}

pub fn chain(number: u32, identifier: &str) -> String {
    format!("{CLASS}{number}-{identifier}")
}

/// The chains of classes that ask whether they are open.
pub fn chains(all: &BTreeMap<String, Chain>) -> impl Iterator<Item = (&String, &Chain)> {
    let of_classes = all.range(CLASS.to_owned()..).take_while(|(name, _)| name.starts_with(CLASS));
    // Behind an identifier stands the way of a chain that refuses.
    of_classes.filter(|(name, _)| name.bytes().filter(|byte| *byte == b'-').count() == 2)
}

/// Those of a table after a part of it changed.
pub fn chains_after<'a>(
    in_force: &'a Ruleset,
    part: &'a Part,
) -> impl Iterator<Item = (&'a String, &'a Chain)> {
    let stays = |name: &String| !part.gone_chains.contains(name) && !part.wanted.chains.contains_key(name);
    chains(&in_force.chains).filter(move |(name, _)| stays(name)).chain(chains(&part.wanted.chains))
}

/// True when a class asks for a set of openings after a part changed.
fn asks_for(set: &str, in_force: &Ruleset, part: &Part) -> bool {
    chains_after(in_force, part).any(|(_, chain)| sets_of(chain).any(|asked| **asked == *set))
}

/// The sets of openings that the chain of a class asks for.
fn sets_of(chain: &Chain) -> impl Iterator<Item = &Name> {
    chain.rules.iter().flat_map(|rule| rule.iter()).filter_map(|statement| match statement {
        Statement::Lookup { set, .. } if **set != *LIFETIMES => Some(set),
        _ => None,
    })
}

/// Says whether a set of openings, by its name, has a service that asks for it and of which something is true.
pub type Askers<'a> = &'a dyn Fn(&str, &dyn Fn(&Standing<'_>) -> bool) -> bool;

/// True when a service is in the class: one of `touched`, or one that the table in force has.
fn is_occupied(
    input: &Input<'_>,
    identifier: &str,
    touched: &[Class],
    askers: Askers<'_>,
    in_force: &Ruleset,
) -> bool {
    let digest = identifier.trim_end_matches(['o', 'p']);
    touched.iter().any(|class| class.timed() == Some(identifier))
        || askers(&format!("{}-{digest}", names::OPEN), &|standing| {
            standing.may_open(input.now)
                && identifier[digest.len()..] == how(input, standing.service)
                && super::is_in(in_force, standing.service)
        })
}

/// Ends the lifetimes of the classes that services leave, if nobody else is in them. Returns the sets of openings of those.
pub fn leave(
    input: &Input<'_>,
    left: &BTreeSet<u32>,
    touched: &[Class],
    askers: Askers<'_>,
    in_force: &Ruleset,
    part: &mut Part,
) -> BTreeSet<Name> {
    let known = left.iter().filter_map(|number| input.classes.identifiers.get_key_value(number));
    let deserted = known.filter(|(_, identifier)| !is_occupied(input, identifier, touched, askers, in_force));
    let mut asked = BTreeSet::new();
    for (number, identifier) in deserted {
        end(*number, part);
        let chain = in_force.chains.get(&chain(*number, identifier));
        asked.extend(chain.into_iter().flat_map(sets_of).cloned());
    }
    asked
}

fn end(number: u32, part: &mut Part) {
    part.elements.entry(LIFETIMES.to_owned()).or_default().insert(lifetime_key(number), None);
}

/// Takes the classes out that nobody is in. Returns the others, and the sets of openings that these asked for.
pub fn tidy(
    input: &Input<'_>,
    touched: &[Class],
    askers: Askers<'_>,
    in_force: &Ruleset,
    part: &mut Part,
) -> (Classes, BTreeSet<Name>) {
    let deserted = input.classes.iter();
    let deserted =
        deserted.filter(|(_, identifier)| !is_occupied(input, identifier, touched, askers, in_force));
    let (mut classes, mut asked) = (input.classes.clone(), BTreeSet::new());
    for (number, _) in deserted {
        end(number, part);
        for name in classes.remove(number) {
            asked.extend(in_force.chains.get(&name).into_iter().flat_map(sets_of).cloned());
            part.gone_chains.insert(name);
        }
    }
    (classes, asked)
}

/// Empties those of these sets of openings by which nobody opens any more, or takes them out where no class asks for them.
pub fn end_openings(
    input: &Input<'_>,
    sets: BTreeSet<Name>,
    services: &[&Governing<'_>],
    askers: Askers<'_>,
    in_force: &Ruleset,
    part: &mut Part,
) {
    for set in sets {
        let opens = |one: &Governing<'_>| one.shut.is_none() && one.timetable.as_deref() == Some(&*set);
        let other = |one: &Standing<'_>| one.may_open(input.now) && super::is_in(in_force, one.service);
        if services.iter().any(|one| opens(one)) || askers(&set, &other) {
            continue;
        }
        match in_force.sets.get(&*set) {
            Some(held) if asks_for(&set, in_force, part) => {
                part.wanted.sets.insert(set.to_string(), held.declaration());
            }
            Some(_) | None => drop(part.gone.insert(set.to_string())),
        }
    }
}

/// Adds the chains of the class of a service: whether it is open, and why it is not.
pub fn add_chains(
    input: &Input<'_>,
    governing: &Governing<'_>,
    (number, identifier): (u32, &str),
    ruleset: &mut Ruleset,
) {
    let name = chain(number, identifier);
    let lifetime = governing.standing.service.lifetime;
    let (before, over) = (Statement::Before(lifetime.opens_at()), Statement::From(lifetime.closes_at()));
    let elapsed = not_in(&[Load::Number(number)], LIFETIMES);
    let between = governing.timetable.as_deref().map(|set| not_in(&[Load::Time], set));
    let mut open: Vec<Rule> = [&before, &over, &elapsed]
        .into_iter()
        .chain(&between)
        .map(|shut| vec![shut.clone(), back()])
        .collect();
    open.extend([vec![Statement::Leaving, goto(grants_chain("out"))], vec![goto(grants_chain("in"))]]);
    let begins = match input.now < lifetime.opens_at() {
        true => ServiceState::Pending,
        // The clock was turned back.
        false => ServiceState::Closed,
    };
    for direction in Direction::ALL {
        let refused =
            |state: ServiceState| goto(refusal::reason_of_class(input, governing, state, direction));
        let mut rules = vec![
            vec![over.clone(), refused(ServiceState::Decommissioned)],
            vec![before.clone(), refused(begins)],
        ];
        let closed = [&elapsed].into_iter().chain(&between);
        rules.extend(closed.map(|shut| vec![shut.clone(), refused(ServiceState::Closed)]));
        rules.push(vec![refused(ServiceState::Open)]);
        add_chain(ruleset, format!("{name}-{}", names::way(direction)), rules);
    }
    add_chain(ruleset, name, open);
}
