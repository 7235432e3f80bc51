//! Which cgroups subjects are in: elements of a set for each depth (`places-l2`: cgroup and subject), that the rules of all
//! policies ask.
//!
//! A unit that is restarted has another id, and a rule that names it would have to be another one: the kernel then checks all
//! chains, 90 ms with 10,000 services. An element is less than a millisecond. For the same reason the rules of a
//! subject that is gone stay: see [`Levels`]. Rejected: a set for each subject. The kernel keeps the sets of a table in a list
//! and walks it for every mention: with 10,000 sets a load took half a minute.

use std::collections::BTreeSet;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::shared::lookup;
use super::{Governing, Input, Place, Resolution};
use crate::model::{Direction, Policy, Protocol, Subject};
use crate::ruleset::{Element, Field, Key, Load, Part, Ruleset, Set, Statement};

/// The depths of cgroups at which subjects were before, and for which they are asked for still. A clone shares everything.
pub type Levels = imbl::OrdMap<Arc<Subject>, BTreeSet<u32>>;

/// Where a subject is in a table.
pub struct Whereabouts<'a> {
    pub subject: &'a Subject,
    pub places: &'a [Place],
    /// At which depths it is asked for.
    pub levels: BTreeSet<u32>,
}

/// At which depths a subject is asked for.
pub fn levels(resolution: &Resolution, left: &Levels, subject: &Subject) -> BTreeSet<u32> {
    let now = resolution.get(subject).into_iter().flat_map(|places| places.iter());
    let now = now.filter_map(|place| Some(cgroup(place)?.0));
    now.chain(left.get(subject).into_iter().flatten().copied()).collect()
}

/// The ways to ask a packet for a subject: each is the beginning of a rule that goes on when the packet's socket
/// was created in the subject. Any process needs no question; a subject that was never seen has none.
pub fn questions(input: &Input<'_>, subject: &Subject) -> Vec<Vec<Statement>> {
    if subject.is_any_process() {
        return vec![Vec::new()];
    }
    let [high, low] = number(subject).map(Load::Number);
    let question = |level| vec![lookup(&[Load::Cgroup { level }, high, low], set(level))];
    levels(input.resolution, input.left, subject).into_iter().map(question).collect()
}

/// Adds the sets, filled, for the policies that ask them.
pub fn add(input: &Input<'_>, services: &[Governing<'_>], ruleset: &mut Ruleset) {
    let services = services.iter().filter(|governing| !governing.exact);
    let policies = services.flat_map(|governing| &governing.standing.service.policies);
    let subjects: BTreeSet<&Subject> = policies.map(|policy| &policy.subject).collect();
    for subject in subjects.into_iter().filter(|subject| !subject.is_any_process()) {
        for level in levels(input.resolution, input.left, subject) {
            ruleset.sets.entry(set(level)).or_insert_with(declaration);
        }
        for (name, key, element) in elements(subject, input.resolution.get(subject).map_or(&[], |p| p)) {
            if let Some(set) = ruleset.sets.get_mut(&name) {
                set.elements.insert(key, element);
            }
        }
    }
}

/// Adds what changes in the sets when a subject moves. `named`: a policy that asks the sets names it, now. False when a set may
/// be left that nobody asks any more: then everything has to be compiled.
pub fn follow(
    input: &Input<'_>,
    before: &Whereabouts<'_>,
    named: bool,
    in_force: &Ruleset,
    part: &mut Part,
) -> bool {
    let held = |name: &String| in_force.sets.get(name).map(|set| &set.elements);
    for (name, key, _) in elements(before.subject, before.places) {
        if held(&name).is_some_and(|elements| elements.contains_key(&key)) {
            part.elements.entry(name).or_default().insert(key, None);
        }
    }
    if !named {
        return before.levels.iter().all(|level| {
            let name = set(*level);
            let gone = part
                .elements
                .get(&name)
                .map_or(0, |changed| changed.values().filter(|e| e.is_none()).count());
            held(&name).is_none_or(|elements| elements.len() > gone)
        });
    }
    for level in levels(input.resolution, input.left, before.subject) {
        if held(&set(level)).is_none() {
            part.wanted.sets.entry(set(level)).or_insert_with(declaration);
        }
    }
    let now = input.resolution.get(before.subject).map_or(&[][..], |places| places);
    for (name, key, element) in elements(before.subject, now) {
        match part.wanted.sets.get_mut(&name) {
            Some(set) => set.elements.insert(key, element),
            None => drop(part.elements.entry(name).or_default().insert(key, Some(element))),
        }
    }
    true
}

/// True when the rules of the policy are the same wherever its subject is at these depths.
pub fn is_in_sets(policy: &Policy) -> bool {
    let by_cgroup = match &policy.subject {
        Subject::Unit(_) | Subject::Cgroup(_) | Subject::Exe { .. } => true,
        Subject::User(_) | Subject::Group(_) | Subject::Container(_) => false,
    };
    // Echo requests from outside are admitted as long as the subject is there.
    let asks = policy.id.direction == Direction::Egress;
    by_cgroup && (asks || policy.ports.iter().all(|port| port.protocol != Protocol::Icmp))
}

fn set(level: u32) -> String {
    format!("places-l{level}")
}

fn declaration() -> Set {
    Set::plain(&[Field::Cgroup, Field::Number, Field::Number])
}

fn elements(subject: &Subject, places: &[Place]) -> impl Iterator<Item = (String, Key, Element)> {
    let [high, low] = number(subject);
    places.iter().filter_map(cgroup).map(move |(level, id, path)| {
        let key = Key::builder().cgroup(id).number(high).number(low).build();
        (set(level), key, Element { comment: Some(path.into()), ..Element::default() })
    })
}

/// Depth, id and path of a cgroup in which the subject is right now. The root holds everybody.
fn cgroup(place: &Place) -> Option<(u32, u64, &str)> {
    match place {
        Place::Cgroup(place) if place.level > 0 => Some((place.level, place.id, &place.path)),
        Place::Cgroup(_) | Place::Former(_) | Place::User(_) | Place::Group(_) | Place::Address(_) => None,
    }
}

/// Stands for a subject in keys: the first 64 bits of its SHA-256. That two of 10,000 subjects share one has a probability of
/// three in a million million.
fn number(subject: &Subject) -> [u32; 2] {
    let hash = Sha256::digest(subject.to_string().as_bytes());
    let part = |at: usize| hash[at..at + 4].iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
    [part(0), part(4)]
}
