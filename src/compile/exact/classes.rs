//! Classes: services that are open, closed and over at the same times, and refused alike, share the chains that ask for
//! the time.
//!
//! Each has a number. A set for each of its octal digits that is not zero holds the addresses of its services, and a tree
//! of chains goes from digit to digit. Numbers stay with a class as long as it is in the table, so that a new one moves no
//! address of another.

use std::collections::{BTreeMap, BTreeSet};

use super::super::shared::{Rule, back, chain as add_chain, goto, lookup, not_in};
use super::super::{Governing, Input, names, refusal};
use super::elements;
use super::ways::{entry, grants_chain};
use crate::model::{Direction, Family, Prefix, Service};
use crate::ruleset::{Key, Load, Name, Part, Ruleset, Set, Side, Statement};

/// What the names of the chains of classes begin with.
const CLASS: &str = "class-";

/// What ways to classes are for; the names of their chains begin with `exact-PURPOSE-`.
const PURPOSES: [&str; 2] = ["grants", "refuse"];

/// Bits of a digit: with eight rules for each the tree stays far below the sixteen chains that the kernel follows
/// (`NFT_JUMP_STACK_SIZE`), and a packet meets half of them.
const BITS: u32 = 3;

/// The number of each class, by its digest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Classes {
    numbers: BTreeMap<String, u32>,
}

impl Classes {
    /// Reads them from the names of a table's chains.
    pub fn of(ruleset: &Ruleset) -> Self {
        let chains = ruleset.chains.range(CLASS.to_owned()..).map(|(name, _)| name);
        let names = chains.map_while(|name| name.strip_prefix(CLASS));
        let numbered = names.filter_map(|name| {
            let (number, digest) = name.split_once('-')?;
            Some((digest.to_owned(), number.parse().ok()?))
        });
        // Behind a digest stands the way of a chain that refuses.
        Self { numbers: numbered.filter(|(digest, _)| !digest.contains('-')).collect() }
    }

    /// Takes a class out; returns its chains.
    fn remove(&mut self, number: u32) -> Vec<String> {
        let gone: Vec<String> =
            self.numbers.iter().filter(|(_, n)| **n == number).map(|(d, _)| d.clone()).collect();
        self.numbers.retain(|_, one| *one != number);
        let chains = gone.into_iter().map(|digest| chain(number, &digest));
        chains.flat_map(|name| ["", "-out", "-in"].map(|end| format!("{name}{end}"))).collect()
    }

    /// Takes over the numbers of classes that are still there.
    pub fn keep(&mut self, known: &Self, digests: &[String]) {
        for digest in digests {
            if let Some(number) = known.numbers.get(digest) {
                self.numbers.insert(digest.clone(), *number);
            }
        }
    }

    /// The number of a class, and whether it was given just now: the smallest that is free.
    pub fn number(&mut self, digest: &str) -> (u32, bool) {
        if let Some(number) = self.numbers.get(digest) {
            return (*number, false);
        }
        let taken: BTreeSet<u32> = self.numbers.values().copied().collect();
        let number = (0..).find(|number| !taken.contains(number)).unwrap_or_default();
        self.numbers.insert(digest.to_owned(), number);
        (number, true)
    }
}

/// What decides how a service's packets are judged, beside its endpoints and processes.
pub fn digest(input: &Input<'_>, governing: &Governing<'_>, holds: bool) -> String {
    let lifetime = governing.standing.service.lifetime;
    let begins = (lifetime.opens_at() > input.now).then(|| lifetime.opens_at());
    let times = match governing.shut {
        Some(state) => format!("{state:?}"),
        None => format!("{} {begins:?}", governing.open),
    };
    let how = format!("{:?} {} {holds}", lifetime.closes_at(), refusal::observes(input, governing));
    names::digest("", [times.as_str(), how.as_str()]).split_off(1)
}

pub fn chain(number: u32, digest: &str) -> String {
    format!("{CLASS}{number}-{digest}")
}

/// The sets of openings that classes ask whose chains stay.
pub fn open_sets<'a>(in_force: &'a Ruleset, part: &'a Part) -> impl Iterator<Item = &'a Name> {
    let of = |ruleset: &'a Ruleset| {
        let chains = ruleset.chains.range(CLASS.to_owned()..);
        chains.take_while(|(name, _)| name.starts_with(CLASS))
    };
    let stay = of(in_force).filter(|(name, _)| !part.gone_chains.contains(*name));
    let statements =
        stay.chain(of(&part.wanted)).flat_map(|(_, chain)| chain.rules.iter().flat_map(|rule| rule.iter()));
    statements.filter_map(|statement| match statement {
        Statement::Lookup { set, .. } => Some(set),
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

/// Takes the classes out of a part that these services leave and in which nobody else is. True when there was one.
pub fn leave(
    classes: &mut Classes,
    services: &[&Service],
    digests: &[String],
    in_force: &Ruleset,
    part: &mut Part,
) -> bool {
    let first = |service: &&Service| service.prefixes().next();
    let number = |first: Prefix| number_of(&elements::address(first), first.family(), in_force);
    let mut left: BTreeSet<u32> = services.iter().filter_map(first).map(number).collect();
    let wanted: BTreeSet<u32> =
        digests.iter().filter_map(|digest| classes.numbers.get(digest)).copied().collect();
    left.retain(|number| !wanted.contains(number));
    if left.is_empty() {
        return false;
    }
    let leaving: BTreeSet<Key> =
        services.iter().flat_map(|service| service.prefixes()).map(elements::address).collect();
    left.retain(|number| is_deserted(*number, &leaving, in_force));
    for number in &left {
        part.gone_chains.extend(classes.remove(*number));
    }
    let needed: BTreeSet<String> =
        classes.numbers.values().flat_map(|number| digit_sets_of(*number)).collect();
    let unused = left.iter().flat_map(|number| digit_sets_of(*number)).filter(|set| !needed.contains(set));
    part.gone.extend(unused);
    !left.is_empty()
}

/// True when no address but those that leave is listed with this number: told from the smallest set it must be in.
fn is_deserted(number: u32, leaving: &BTreeSet<Key>, in_force: &Ruleset) -> bool {
    !Family::ALL.into_iter().any(|family| {
        let all = digits(number).map(|(place, digit)| digit_set(family, place, digit));
        let mut sets: Vec<&Set> =
            all.chain([super::address_set(family)]).filter_map(|name| in_force.sets.get(&name)).collect();
        sets.sort_by_key(|set| set.elements.len());
        let Some((smallest, others)) = sets.split_first() else { return false };
        let mut addresses = smallest.elements.keys();
        addresses.any(|address| {
            !leaving.contains(address)
                && others.iter().all(|set| set.elements.contains_key(address))
                && number_of(address, family, in_force) == number
        })
    })
}

/// The chains of trees that a table has and a part, which has new trees, does not.
pub fn prune_trees(in_force: &Ruleset, part: &mut Part) {
    for purpose in PURPOSES {
        let prefix = format!("exact-{purpose}-");
        let chains = in_force.chains.range(prefix.clone()..).map(|(name, _)| name);
        let old = chains.take_while(|name| name.starts_with(&prefix));
        part.gone_chains.extend(old.filter(|name| !part.wanted.chains.contains_key(*name)).cloned());
    }
}

/// Adds the chains of the class of a service: whether it is open, and why it is not.
pub fn add_chains(
    input: &Input<'_>,
    governing: &Governing<'_>,
    (number, digest): (u32, &str),
    holds: bool,
    ruleset: &mut Ruleset,
) {
    let name = chain(number, digest);
    let open = match governing.shut {
        Some(_) => vec![],
        None => vec![
            vec![not_in(&[Load::Time], &*governing.open), back()],
            vec![Statement::Leaving, goto(grants_chain("out"))],
            vec![goto(grants_chain("in"))],
        ],
    };
    for direction in Direction::ALL {
        let rules = refusal::reasons_of_class(input, governing, direction, holds);
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

/// Adds the ways from addresses to the chains of their classes, and the sets that they ask and that are not there yet.
pub fn add_trees(classes: &Classes, in_force: Option<&Ruleset>, ruleset: &mut Ruleset) {
    let mut all: Vec<(u32, &str)> =
        classes.numbers.iter().map(|(digest, number)| (*number, digest.as_str())).collect();
    all.sort_unstable();
    for family in Family::ALL {
        for (number, _) in &all {
            for (place, digit) in digits(*number) {
                let name = digit_set(family, place, digit);
                if in_force.is_none_or(|in_force| !in_force.sets.contains_key(&name)) {
                    ruleset.sets.entry(name).or_insert_with(|| elements::addresses(family));
                }
            }
        }
        for way in Direction::ALL {
            let name = names::way(way);
            let address = Load::Address(family, Side::remote(way));
            for purpose in PURPOSES {
                let leaf = |(number, digest): (u32, &str)| match purpose {
                    "grants" => goto(chain(number, digest)),
                    _ => goto(format!("{}-{name}", chain(number, digest))),
                };
                let tree = Tree { entry: entry(purpose, name, family), family, address, leaf: &leaf };
                let rules = tree.rules(u32::BITS.div_ceil(BITS), &all, ruleset);
                add_chain(ruleset, tree.entry.clone(), rules);
            }
        }
    }
}

struct Tree<'a> {
    entry: String,
    family: Family,
    address: Load,
    leaf: &'a dyn Fn((u32, &str)) -> Statement,
}

impl Tree<'_> {
    /// The rules that tell these classes apart, which differ in the places below this one only.
    fn rules(&self, places: u32, classes: &[(u32, &str)], ruleset: &mut Ruleset) -> Vec<Rule> {
        match classes {
            [] => return vec![],
            [only] => return vec![vec![(self.leaf)(*only)]],
            _ => {}
        }
        let place = places.saturating_sub(1);
        let groups: Vec<_> =
            classes.chunk_by(|(a, _), (b, _)| digit(*a, place) == digit(*b, place)).collect();
        if groups.len() == 1 && place > 0 {
            return self.rules(place, classes, ruleset);
        }
        let mut rules = Vec::new();
        for group in groups {
            let Some((number, digest)) = group.first() else { continue };
            let then = match group {
                [_] => (self.leaf)((*number, digest)),
                _ => {
                    let child =
                        format!("{}-{place}-{}", self.entry, number.checked_shr(place * BITS).unwrap_or(0));
                    let below = self.rules(place, group, ruleset);
                    add_chain(ruleset, child.clone(), below);
                    goto(child)
                }
            };
            match digit(*number, place) {
                // Who is in none of the others: everybody here has some class.
                0 => rules.push(vec![then]),
                digit => {
                    let set = digit_set(self.family, place, digit);
                    rules.insert(0, vec![lookup(&[self.address], set), then]);
                }
            }
        }
        rules
    }
}
