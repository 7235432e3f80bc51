//! From an address to its class: a set for each octal digit of a class's number that is not zero holds the addresses of its
//! services, and a tree of chains goes from digit to digit, since nft has no way to say "jump to the chain of this number"
//! without a verdict for each address.

use std::collections::{BTreeMap, BTreeSet};

use super::super::shared::{Rule, back, chain as add_chain, goto, lookup};
use super::super::{names, refusal};
use super::classes::{Classes, FIRST, SHUT, chain};
use super::elements;
use super::ways::entry;
use crate::model::{Direction, Family, Prefix, Reason, Service};
use crate::ruleset::{Key, Load, Name, Part, Ruleset, Side};

/// Bits of a digit: with eight rules for each the tree stays far below the sixteen chains that the kernel follows
/// (`NFT_JUMP_STACK_SIZE`), and a packet meets half of them.
const BITS: u32 = 3;

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

/// Takes out what leads to no class any more: chains of trees that a table has and a part, which has new trees, does not, and
/// sets of digits.
pub fn prune_trees(classes: &Classes, in_force: &Ruleset, part: &mut Part) {
    for (purpose, _) in PURPOSES {
        let prefix = format!("exact-{purpose}-");
        let chains = in_force.chains.range(prefix.clone()..).map(|(name, _)| name);
        let old = chains.take_while(|name| name.starts_with(&prefix));
        part.gone_chains.extend(old.filter(|name| !part.wanted.chains.contains_key(*name)).cloned());
    }
    let numbers = (0..FIRST).chain(classes.iter().map(|(number, _)| number));
    let needed: BTreeSet<String> = numbers.flat_map(digit_sets_of).collect();
    for family in Family::ALL {
        let prefix = digit_sets(family);
        let names = in_force.sets.range(prefix.clone()..).map(|(name, _)| name);
        let all = names.take_while(|name| name.starts_with(&prefix));
        part.gone.extend(all.filter(|name| !needed.contains(*name)).cloned());
    }
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

/// The leaves for packets that travel one way.
type Leaves = fn(&Classes, Direction) -> Vec<Leaf>;

/// What ways to classes are for, by what the names of their chains begin with (`exact-PURPOSE-`), and their leaves.
const PURPOSES: [(&str, Leaves); 2] = [("grants", granting), ("refuse", refusing)];

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
        let numbers = (0..FIRST).chain(classes.iter().map(|(number, _)| number));
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
