//! What of the shared sets belongs to one service.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::Place;
use super::lifetimes;
use super::trees::{self, digits};
use super::ways::{self, Kind};
use crate::model::{Family, Prefix, Service, Subject, Time};
use crate::ruleset::{Element, Field, Key, Ruleset, Set};

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
        let name: Arc<str> = service.name.as_str().into();
        for prefix in service.prefixes() {
            let family = prefix.family();
            let key = address(prefix);
            for (place, digit) in digits(number) {
                put(
                    sets,
                    trees::digit_set(family, place, digit),
                    || addresses(family),
                    key.clone(),
                    Element::default(),
                );
            }
            if ends.is_some() {
                let element = Element { closes_at: ends, ..Element::default() };
                put(
                    sets,
                    lifetimes::shut_set(family),
                    || lifetimes::shut_addresses(family),
                    key.clone(),
                    element,
                );
            }
            let element = Element { comment: Some(Arc::clone(&name)), ..Element::default() };
            put(sets, ways::address_set(family), || addresses(family), key, element);
        }
    }
    if !granted {
        return;
    }
    for policy in &service.policies {
        let direction = policy.id.direction;
        let cgroups: Vec<(u32, u64, Arc<str>)> = places(&policy.subject)
            .iter()
            .filter_map(|place| match place {
                Place::Cgroup(place) if place.level > 0 => {
                    Some((place.level, place.id, place.path.as_str().into()))
                }
                Place::Cgroup(_)
                | Place::Former(_)
                | Place::User(_)
                | Place::Group(_)
                | Place::Address(_) => None,
            })
            .collect();
        for prefix in &policy.prefixes {
            for port in policy.ports.iter().filter_map(|port| port.range.single()) {
                let family = prefix.family();
                let endpoint = Key::builder().address(family, prefix.first()).port(port).build();
                put(
                    sets,
                    ways::endpoint_set(direction, family),
                    || endpoints(family),
                    endpoint,
                    Element::default(),
                );
                for (level, id, path) in &cgroups {
                    let key = Key::builder().cgroup(*id).address(family, prefix.first()).port(port).build();
                    let comment = Some(Arc::clone(path));
                    let element = Element { comment: comment.clone(), ..Element::default() };
                    let name = |kind| ways::grant_set(kind, direction, family, *level);
                    put(sets, name(Kind::Armed), || grants(family), key.clone(), element);
                    if open.is_some() {
                        let element = Element { closes_at: open, comment, ..Element::default() };
                        put(sets, name(Kind::Now), || grants(family).with_expiry(), key, element);
                    }
                }
            }
        }
    }
}

/// Adds the addresses of a service to all sets of addresses: for what is to be taken out.
pub fn of_any_class(service: &Service, in_force: &Ruleset, sets: &mut BTreeMap<String, Placed>) {
    for family in Family::ALL {
        for name in [ways::address_set(family), lifetimes::shut_set(family)] {
            for prefix in service.prefixes().filter(|prefix| prefix.family() == family) {
                put(sets, name.clone(), || addresses(family), address(prefix), Element::default());
            }
        }
        let prefix = trees::digit_sets(family);
        let names = in_force.sets.range(prefix.clone()..).map(|(name, _)| name);
        for name in names.take_while(|name| name.starts_with(&prefix)) {
            for prefix in service.prefixes().filter(|prefix| prefix.family() == family) {
                put(sets, name.clone(), || addresses(family), address(prefix), Element::default());
            }
        }
    }
}

fn endpoints(family: Family) -> Set {
    Set::plain(&[Field::Address(family), Field::Port])
}

fn grants(family: Family) -> Set {
    Set::plain(&[Field::Cgroup, Field::Address(family), Field::Port])
}

fn put(
    sets: &mut BTreeMap<String, Placed>,
    name: String,
    declaration: impl Fn() -> Set,
    key: Key,
    element: Element,
) {
    sets.entry(name).or_insert_with(|| Placed::new(declaration())).elements.push((key, element));
}
