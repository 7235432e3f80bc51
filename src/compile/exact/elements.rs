//! What of the shared sets belongs to one service.

use std::collections::BTreeMap;

use super::super::Place;
use super::lifetimes;
use super::trees::{self, digits};
use super::ways::{self, Kind};
use crate::model::{Family, Policy, Prefix, Service, Subject, Time};
use crate::ruleset::{Element, Field, Key, KeyBuilder, Ruleset, Set};

/// Elements on their way into a set.
pub struct Placed {
    pub declaration: Set,
    pub elements: Vec<(Key, Element)>,
}

impl Placed {
    pub fn new(declaration: Set) -> Self {
        Self { declaration, elements: Vec::new() }
    }

    pub fn into_set(self) -> Set {
        Set { elements: self.elements.into_iter().collect(), ..self.declaration }
    }
}

pub fn address(prefix: Prefix) -> Key {
    Key::builder().address(prefix.family(), prefix.first()).build()
}

/// A set of addresses, empty.
pub fn addresses(family: Family) -> Set {
    Set::plain(&[Field::Address(family)])
}

/// Adds the elements of a service. `class`: the number of its class, and when it ends if it is shut until then; `None` leaves
/// its addresses out. `granted`: nothing shuts it; `open`: when its opening ends, if it has one right now.
pub fn collect<'a>(
    service: &Service,
    class: Option<(u32, Option<Time>)>,
    granted: bool,
    open: Option<Time>,
    places: &dyn Fn(&Subject) -> &'a [Place],
    sets: &mut BTreeMap<String, Placed>,
) {
    if let Some((number, ends)) = class {
        // For people: the chains of a class name no service.
        let element = Element { comment: Some(service.name.as_str().into()), ..Element::default() };
        for family in Family::ALL {
            let prefixes = service.prefixes().filter(|prefix| prefix.family() == family);
            let keys: Vec<Key> = prefixes.map(address).collect();
            if keys.is_empty() {
                continue;
            }
            for (place, digit) in digits(number) {
                let set = placed(sets, trees::digit_set(family, place, digit), || addresses(family));
                set.extend(keys.iter().map(|key| (key.clone(), Element::default())));
            }
            if ends.is_some() {
                let shut = Element { closes_at: ends, ..Element::default() };
                let set = placed(sets, lifetimes::shut_set(family), || lifetimes::shut_addresses(family));
                set.extend(keys.iter().map(|key| (key.clone(), shut.clone())));
            }
            let set = placed(sets, ways::address_set(family), || addresses(family));
            set.extend(keys.into_iter().map(|key| (key, element.clone())));
        }
    }
    if !granted {
        return;
    }
    for policy in &service.policies {
        for family in Family::ALL {
            collect_grants(policy, family, open, places(&policy.subject), sets);
        }
    }
}

/// Adds who may use which endpoints of a family, by a policy.
fn collect_grants(
    policy: &Policy,
    family: Family,
    open: Option<Time>,
    places: &[Place],
    sets: &mut BTreeMap<String, Placed>,
) {
    let direction = policy.id.direction;
    let prefixes = policy.prefixes.iter().filter(|prefix| prefix.family() == family);
    let ports = || policy.ports.iter().filter_map(|port| port.range.single());
    let remote: Vec<(u128, u16)> =
        prefixes.flat_map(|prefix| ports().map(|port| (prefix.first(), port))).collect();
    if remote.is_empty() {
        return;
    }
    let keys = |begin: KeyBuilder| {
        remote.iter().map(move |(address, port)| begin.clone().address(family, *address).port(*port).build())
    };
    let set = placed(sets, ways::endpoint_set(direction, family), || endpoints(family));
    set.extend(keys(Key::builder()).map(|key| (key, Element::default())));
    for place in places {
        let Place::Cgroup(place) = place else { continue };
        if place.level == 0 {
            continue;
        }
        let keys = || keys(Key::builder().cgroup(place.id));
        let armed = Element { comment: Some(place.path.as_str().into()), ..Element::default() };
        let name = |kind| ways::grant_set(kind, direction, family, place.level);
        if open.is_some() {
            let now = Element { closes_at: open, ..armed.clone() };
            let set = placed(sets, name(Kind::Now), || grants(family).with_expiry());
            set.extend(keys().map(|key| (key, now.clone())));
        }
        let set = placed(sets, name(Kind::Armed), || grants(family));
        set.extend(keys().map(|key| (key, armed.clone())));
    }
}

/// Adds the addresses of a service to all sets of addresses: for what is to be taken out.
pub fn of_any_class(service: &Service, in_force: &Ruleset, sets: &mut BTreeMap<String, Placed>) {
    for family in Family::ALL {
        let prefixes = service.prefixes().filter(|prefix| prefix.family() == family);
        let keys: Vec<Key> = prefixes.map(address).collect();
        if keys.is_empty() {
            continue;
        }
        let digits = trees::digit_sets(family);
        let names = in_force.sets.range(digits.clone()..).map(|(name, _)| name);
        let names = names.take_while(|name| name.starts_with(&digits)).cloned();
        for name in names.chain([ways::address_set(family), lifetimes::shut_set(family)]) {
            let set = placed(sets, name, || addresses(family));
            set.extend(keys.iter().map(|key| (key.clone(), Element::default())));
        }
    }
}

fn endpoints(family: Family) -> Set {
    Set::plain(&[Field::Address(family), Field::Port])
}

fn grants(family: Family) -> Set {
    Set::plain(&[Field::Cgroup, Field::Address(family), Field::Port])
}

/// The elements on their way into a set.
fn placed(
    sets: &mut BTreeMap<String, Placed>,
    name: String,
    declaration: impl Fn() -> Set,
) -> &mut Vec<(Key, Element)> {
    &mut sets.entry(name).or_insert_with(|| Placed::new(declaration())).elements
}
