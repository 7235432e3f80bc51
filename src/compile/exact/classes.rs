//! Classes: services with the same timetable and lifetime, refused alike, share the chains that ask for the time. What is
//! shut has no timetable: each way of being shut is a class too, with a number that never changes and no chains.
//!
//! A set for each octal digit of a class's number that is not zero holds the addresses of its services, and a tree of
//! chains goes from digit to digit. Numbers stay with a class as long as it is in the table, so that a new one moves no
//! address of another. A class that nobody is in any more stays until a new one makes the trees anew: who was suspended
//! comes back to it, and going there and back is some elements.
//!
//! The kernel keeps the sets of a table in a list that each rule with a set walks (`nft_set_lookup_global`: 24 s for 10,000
//! lifetimes with a set each). So a lifetime is no set: its chain asks the wall clock, and one set of the numbers
//! of classes, which expire with their lifetimes, counts elapsed time for all. Windows have a set, which those with the
//! same ones share.

use std::collections::{BTreeMap, BTreeSet};

use super::super::shared::{Rule, back, chain as add_chain, goto, lookup, not_in};
use super::super::{Governing, Input, Openings, Standing, names, refusal, windows};
use super::elements;
use super::ways::{entry, grants_chain};
use crate::model::{Direction, Family, Mode, Prefix, Reason, Service, ServiceState, Time};
use crate::ruleset::{Chain, Element, Field, Key, Load, Name, Part, Ruleset, Set, Side, Statement};

/// What the names of the chains of classes begin with.
const CLASS: &str = "class-";

/// The numbers of the classes whose lifetime is not over by elapsed time.
pub const LIFETIMES: &str = "lifetimes";

/// Bits of a digit: with eight rules for each the tree stays far below the sixteen chains that the kernel follows
/// (`NFT_JUMP_STACK_SIZE`), and a packet meets half of them.
const BITS: u32 = 3;

/// What is shut, enforced or observed; its number is its place in this list.
const SHUT: [(ServiceState, bool); 6] = [
    (ServiceState::Suspended, false),
    (ServiceState::Decommissioned, false),
    (ServiceState::Unapproved, false),
    (ServiceState::Suspended, true),
    (ServiceState::Decommissioned, true),
    (ServiceState::Unapproved, true),
];

/// The first number of a class with a timetable.
const FIRST: u32 = SHUT.len() as u32;

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
        let observes = refusal::observes(input, governing);
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
    let observes = [input.settings.enforcement.mode, service.mode].contains(&Mode::Observe);
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
    fn iter(&self) -> impl Iterator<Item = (u32, &str)> {
        self.identifiers.iter().map(|(number, identifier)| (*number, identifier.as_str()))
    }
}

pub fn chain(number: u32, identifier: &str) -> String {
    format!("{CLASS}{number}-{identifier}")
}

/// The chains of classes that ask whether they are open.
fn chains(all: &BTreeMap<String, Chain>) -> impl Iterator<Item = (&String, &Chain)> {
    let of_classes = all.range(CLASS.to_owned()..).take_while(|(name, _)| name.starts_with(CLASS));
    // Behind an identifier stands the way of a chain that refuses.
    of_classes.filter(|(name, _)| name[CLASS.len()..].matches('-').count() == 1)
}

/// Those of a table after a part of it changed.
fn chains_after<'a>(in_force: &'a Ruleset, part: &'a Part) -> impl Iterator<Item = (&'a String, &'a Chain)> {
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

/// The number that an address is listed with.
fn number_of(address: &Key, family: Family, in_force: &Ruleset) -> u32 {
    let prefix = digit_sets(family);
    let sets = in_force.sets.range(prefix.clone()..).take_while(|(name, _)| name.starts_with(&prefix));
    let listed = sets.filter(|(_, set)| set.elements.contains_key(address));
    listed.filter_map(|(name, _)| name[prefix.len()..].strip_prefix('d')?.split_once('-')).fold(
        0,
        |number, (place, digit)| {
            let place: u32 = place.parse().unwrap_or(0);
            number | digit.parse::<u32>().unwrap_or(0) << (place * BITS)
        },
    )
}

/// The numbers of the classes in which the table in force has these services.
pub fn numbers_of(services: &[&Service], in_force: &Ruleset) -> BTreeSet<u32> {
    let first = services.iter().filter_map(|service| service.prefixes().next());
    first.map(|first: Prefix| number_of(&elements::address(first), first.family(), in_force)).collect()
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

/// Takes out what leads to no class any more: chains of trees that a table has and a part, which has new trees, does not, and
/// sets of digits.
pub fn prune_trees(classes: &Classes, in_force: &Ruleset, part: &mut Part) {
    for (purpose, _) in PURPOSES {
        let prefix = format!("exact-{purpose}-");
        let chains = in_force.chains.range(prefix.clone()..).map(|(name, _)| name);
        let old = chains.take_while(|name| name.starts_with(&prefix));
        part.gone_chains.extend(old.filter(|name| !part.wanted.chains.contains_key(*name)).cloned());
    }
    let numbers = (0..FIRST).chain(classes.identifiers.keys().copied());
    let needed: BTreeSet<String> = numbers.flat_map(digit_sets_of).collect();
    for family in Family::ALL {
        let prefix = digit_sets(family);
        let names = in_force.sets.range(prefix.clone()..).map(|(name, _)| name);
        let all = names.take_while(|name| name.starts_with(&prefix));
        part.gone.extend(all.filter(|name| !needed.contains(*name)).cloned());
    }
}

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

fn lifetime_key(number: u32) -> Key {
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

fn begin_of(chain: &Chain) -> Option<Time> {
    chain.rules.iter().flat_map(|rule| rule.iter()).find_map(|statement| match statement {
        Statement::Before(begin) => Some(*begin),
        _ => None,
    })
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

/// The digits of a number that are not zero, with their places.
pub fn digits(number: u32) -> impl Iterator<Item = (u32, u32)> {
    let places = 0..u32::BITS.div_ceil(BITS);
    places.map(move |place| (place, digit(number, place))).filter(|(_, digit)| *digit != 0)
}

fn digit(number: u32, place: u32) -> u32 {
    number.checked_shr(place * BITS).unwrap_or(0) & ((1 << BITS) - 1)
}

/// What the names of the sets of digits begin with.
pub fn digit_sets(family: Family) -> String {
    format!("exact{}-", names::digit(family))
}

/// The addresses of the classes with this digit in this place.
pub fn digit_set(family: Family, place: u32, digit: u32) -> String {
    format!("{}d{place}-{digit}", digit_sets(family))
}

/// The sets that hold the addresses of a class, beside the one that holds all.
pub fn digit_sets_of(number: u32) -> impl Iterator<Item = String> {
    let of = move |family| digits(number).map(move |(place, digit)| digit_set(family, place, digit));
    Family::ALL.into_iter().flat_map(of)
}

/// Where the tree of a purpose leads from the number of a class; `None`: back.
type Leaf = (u32, Option<Name>);

/// What ways to classes are for, by what the names of their chains begin with (`exact-PURPOSE-`), and their leaves.
const PURPOSES: [(&str, fn(&Classes, Direction) -> Vec<Leaf>); 2] =
    [("grants", granting), ("refuse", refusing)];

fn granting(classes: &Classes, _: Direction) -> Vec<Leaf> {
    let shut = (0..FIRST).map(|number| (number, None));
    shut.chain(classes.iter().map(|(number, id)| (number, Some(chain(number, id).into())))).collect()
}

/// Both families share the chains that they lead to.
fn refusing(classes: &Classes, way: Direction) -> Vec<Leaf> {
    let shut = (0..).zip(SHUT).map(|(number, (state, observes))| {
        let reason: Reason = state.reason();
        (number, Some(refusal::exact_reason_chain(way, reason, observes).into()))
    });
    let timed = classes.iter().map(|(number, identifier)| {
        (number, Some(format!("{}-{}", chain(number, identifier), names::way(way)).into()))
    });
    shut.chain(timed).collect()
}

/// Adds the ways from addresses to the chains of their classes, and the sets that they ask and that are not there yet.
pub fn add_trees(classes: &Classes, in_force: Option<&Ruleset>, ruleset: &mut Ruleset) {
    let ways =
        Direction::ALL.map(|way| (way, PURPOSES.map(|(purpose, leaves)| (purpose, leaves(classes, way)))));
    for family in Family::ALL {
        let mut sets = BTreeMap::new();
        let numbers = (0..FIRST).chain(classes.identifiers.keys().copied());
        for place_and_digit in numbers.flat_map(digits) {
            sets.entry(place_and_digit).or_insert_with(|| {
                let name = digit_set(family, place_and_digit.0, place_and_digit.1);
                if in_force.is_none_or(|in_force| !in_force.sets.contains_key(&name)) {
                    ruleset.sets.entry(name.clone()).or_insert_with(|| elements::addresses(family));
                }
                Name::from(name)
            });
        }
        for (way, purposes) in &ways {
            let address = Load::Address(family, Side::remote(*way));
            for (purpose, leaves) in purposes {
                let tree = Tree { entry: entry(purpose, names::way(*way), family), sets: &sets, address };
                let rules = tree.rules(u32::BITS.div_ceil(BITS), leaves, ruleset);
                add_chain(ruleset, tree.entry, rules);
            }
        }
    }
}

struct Tree<'a> {
    entry: String,
    /// The sets of digits, by place and digit.
    sets: &'a BTreeMap<(u32, u32), Name>,
    address: Load,
}

impl Tree<'_> {
    /// The rules that tell these leaves apart, whose numbers differ in the places below this one only.
    fn rules(&self, places: u32, leaves: &[Leaf], ruleset: &mut Ruleset) -> Vec<Rule> {
        if let [] | [_] = leaves {
            return leaves
                .iter()
                .filter_map(|(_, leaf)| Some(vec![goto(Name::clone(leaf.as_ref()?))]))
                .collect();
        }
        let place = places.saturating_sub(1);
        let groups: Vec<_> = leaves.chunk_by(|(a, _), (b, _)| digit(*a, place) == digit(*b, place)).collect();
        if groups.len() == 1 && place > 0 {
            return self.rules(place, leaves, ruleset);
        }
        // Who is in no set has a zero: everybody here has some class.
        let mut zero = None;
        let (mut rules, mut back_again) = (Vec::with_capacity(groups.len()), Vec::new());
        for group in groups {
            let Some((number, leaf)) = group.first() else { continue };
            let then = match group {
                [_] => leaf.clone().map(goto),
                _ if group.iter().all(|(_, leaf)| leaf.is_none()) => None,
                _ => {
                    let prefix = number.checked_shr(place * BITS).unwrap_or(0);
                    let child = format!("{}-{place}-{prefix}", self.entry);
                    let below = self.rules(place, group, ruleset);
                    add_chain(ruleset, child.clone(), below);
                    Some(goto(child))
                }
            };
            let Some(set) = self.sets.get(&(place, digit(*number, place))) else {
                zero = then;
                continue;
            };
            let is_here = lookup(&[self.address], Name::clone(set));
            match then {
                Some(then) => rules.push(vec![is_here, then]),
                None => back_again.push(vec![is_here, back()]),
            }
        }
        if let Some(zero) = zero {
            rules.extend(back_again);
            rules.push(vec![zero]);
        }
        rules
    }
}
