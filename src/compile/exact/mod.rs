//! Services whose endpoints are single addresses and ports over TCP: all that is particular to one of them is elements
//! of sets that all share, so that a change of one is a handful of elements however many there are.
//!
//! The kernel looks at every chain at each commit, and at all rules and all elements with verdicts as soon as one that
//! leads somewhere is added: 100 ms with a chain for each of 10,000 services, some microseconds without. So there are no chains for
//! a service. What is the same for many, their timetable and lifetime or why they are shut, is a class ([`classes`]), and the number
//! of an address's class is spelled by the sets that hold the address ([`trees`]).
//!
//! That takes some lookups. So what is open right now is asked for first ([`ways`]): `now-egress4-l2` holds cgroup, remote
//! address and port, its elements expire by elapsed time, and one reading of the wall clock guards all of them: it is
//! valid until the next of them closes. After that, with nobody there to renew it, the long way decides: a class asks for
//! its own windows. Thus a dead daemon makes these packets slower and nothing else.
//!
//! Not here, because it needs more than elements: ranges of addresses or ports, UDP and ICMP, names, `tls`, windows of a policy's
//! own, users, groups, containers, any process, and addresses that several services list.

mod classes;
mod elements;
mod lifetimes;
mod trees;
mod ways;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::{Governing, Input, Place, windows};
use crate::model::{Family, Prefix, Protocol, Service, ServiceName, Subject};
use crate::ruleset::{Part, Ruleset, Set};

use classes::Class;
pub use classes::{Askers, Classes};
use elements::Placed;
pub use lifetimes::{ends, ends_after, shut_set};
use ways::Kind;
pub use ways::{address_set, entry, follows_time};

/// True when the service could be told by elements alone, as long as nobody else lists any of its addresses.
pub fn fits(service: &Service) -> bool {
    service.watched.is_empty()
        && service.policies.iter().all(|policy| {
            let subject = match &policy.subject {
                Subject::Unit(_) | Subject::Exe { .. } => true,
                Subject::Cgroup(_) => !policy.subject.is_any_process(),
                Subject::User(_) | Subject::Group(_) | Subject::Container(_) => false,
            };
            let single =
                |port: &crate::model::Port| port.protocol == Protocol::Tcp && port.range.single().is_some();
            subject
                && !policy.tls
                && policy.names.is_empty()
                && policy.windows.is_none()
                && !policy.is_any()
                && policy.prefixes.iter().all(|prefix| prefix.address().is_some())
                && policy.ports.iter().all(single)
        })
}

/// The services of these that are told by elements alone.
pub fn among<'a>(services: impl Iterator<Item = &'a Service> + Clone) -> impl Fn(&Service) -> bool {
    let mut listed: BTreeMap<Prefix, (&ServiceName, bool)> = BTreeMap::new();
    for service in services {
        for prefix in service.prefixes().filter(|prefix| prefix.address().is_some()) {
            let (first, shared) = listed.entry(prefix).or_insert((&service.name, false));
            *shared |= **first != service.name;
        }
    }
    let shared: BTreeSet<Prefix> =
        listed.into_iter().filter(|(_, (_, shared))| *shared).map(|(prefix, _)| prefix).collect();
    move |service| fits(service) && !service.prefixes().any(|prefix| shared.contains(&prefix))
}

/// True when the table in force tells the service by elements alone.
pub fn is_in(in_force: &Ruleset, service: &Service) -> bool {
    let listed = |prefix: Prefix| {
        let set = in_force.sets.get(&address_set(prefix.family()));
        set.is_some_and(|set| set.elements.contains_key(&elements::address(prefix)))
    };
    fits(service) && service.prefixes().next().is_some_and(listed)
}

/// Adds everything of these services to a whole table.
pub fn add(input: &Input<'_>, services: &[Governing<'_>], ruleset: &mut Ruleset) {
    let services: Vec<_> = services.iter().filter(|governing| governing.exact).collect();
    let of: Vec<Class> = services.iter().map(|governing| Class::of(input, governing)).collect();
    let mut classes = input.classes.kept(of.iter().filter_map(Class::timed));
    let mut sets: BTreeMap<String, Placed> = BTreeMap::new();
    let mut lived = lifetimes::lifetimes();
    let mut made = BTreeSet::new();
    for (governing, class) in services.iter().zip(&of) {
        let number = classes.number(class);
        if let Some(identifier) = class.timed()
            && made.insert(number)
        {
            classes::add_chains(input, governing, (number, identifier), ruleset);
            lived.elements.extend(lifetimes::lifetime(input, number, governing.standing.service));
        }
        let open = lifetimes::open_until(input, governing, |name| ruleset.sets.get(name));
        let places = |subject: &Subject| input.resolution.get(subject).map_or(&[][..], |places| places);
        elements::collect(
            governing.standing.service,
            Some((number, lifetimes::shut_until(governing))),
            governing.shut.is_none(),
            open,
            &places,
            &mut sets,
        );
    }
    for family in Family::ALL {
        sets.entry(address_set(family)).or_insert_with(|| Placed::new(elements::addresses(family)));
        let shut = || Placed::new(lifetimes::shut_addresses(family));
        sets.entry(lifetimes::shut_set(family)).or_insert_with(shut);
    }
    for (name, placed) in sets {
        ruleset.sets.insert(name, placed.into_set());
    }
    ruleset.sets.insert(lifetimes::LIFETIMES.to_owned(), lived);
    trees::add_trees(&classes, None, ruleset);
    let windows = windows::within(ruleset.sets.iter(), input.now);
    let within = lifetimes::within(input, windows, lifetimes::begins(ruleset), lifetimes::ends(ruleset));
    let shapes = [Kind::Now, Kind::Armed].map(|kind| ways::shape(kind, ruleset.sets.keys()));
    ways::add(input.settings, &shapes, within, ruleset);
}

/// Services as the table in force has them, and where their subjects are in it.
pub struct Former<'a> {
    pub services: Vec<&'a Service>,
    pub places: &'a dyn Fn(&Subject) -> &'a [Place],
}

/// Adds these services as they are now to a part, in place of what they were.
pub fn add_services(
    input: &Input<'_>,
    former: &Former<'_>,
    services: &[&Governing<'_>],
    askers: Askers<'_>,
    in_force: &Ruleset,
    part: &mut Part,
) {
    let of: Vec<Class> = services.iter().map(|governing| Class::of(input, governing)).collect();
    let left = trees::numbers_of(&former.services, in_force);
    let mut asked = classes::leave(input, &left, &of, askers, in_force, part);
    let anew = of.iter().filter_map(Class::timed).any(|identifier| !input.classes.knows(identifier));
    let mut classes = Cow::Borrowed(input.classes);
    if anew {
        let (tidied, theirs) = classes::tidy(input, &of, askers, in_force, part);
        classes = Cow::Owned(tidied);
        asked.extend(theirs);
    }
    let mut before = BTreeMap::new();
    for service in &former.services {
        elements::collect(service, None, true, Some(input.now), former.places, &mut before);
        elements::of_any_class(service, in_force, &mut before);
    }
    let mut wanted = BTreeMap::new();
    for (governing, class) in services.iter().zip(&of) {
        let number = classes.known(class).unwrap_or_else(|| {
            let number = classes.to_mut().number(class);
            let identifier = class.timed().unwrap_or_default();
            classes::add_chains(input, governing, (number, identifier), &mut part.wanted);
            number
        });
        if class.timed().is_some() {
            let lifetime = lifetimes::lifetime(input, number, governing.standing.service);
            let lived = part.elements.entry(lifetimes::LIFETIMES.to_owned()).or_default();
            lived.extend(lifetime.map(|(key, element)| (key, Some(element))));
        }
        let open = lifetimes::open_until(input, governing, |name| set_of(name, in_force, part));
        let places = |subject: &Subject| input.resolution.get(subject).map_or(&[][..], |places| places);
        let granted = governing.shut.is_none();
        let class = Some((number, lifetimes::shut_until(governing)));
        elements::collect(governing.standing.service, class, granted, open, &places, &mut wanted);
    }
    if anew {
        trees::add_trees(&classes, Some(in_force), &mut part.wanted);
        trees::prune_trees(&classes, in_force, part);
    }
    classes::end_openings(input, asked, services, askers, in_force, part);
    change(&before, wanted, in_force, part);
}

/// Adds what is gone when the classes are gone that nobody is in.
pub fn tidy(input: &Input<'_>, askers: Askers<'_>, in_force: &Ruleset, part: &mut Part) {
    let (classes, asked) = classes::tidy(input, &[], askers, in_force, part);
    trees::add_trees(&classes, Some(in_force), &mut part.wanted);
    trees::prune_trees(&classes, in_force, part);
    classes::end_openings(input, asked, &[], askers, in_force, part);
}

/// Adds what changes when a subject of this service moves; `before`: where it was.
pub fn move_subject(
    input: &Input<'_>,
    governing: &Governing<'_>,
    (subject, before): (&Subject, &[Place]),
    in_force: &Ruleset,
    part: &mut Part,
) {
    let service = governing.standing.service;
    let open = lifetimes::open_until(input, governing, |name| set_of(name, in_force, part));
    let resolved = |subject: &Subject| input.resolution.get(subject).map_or(&[][..], |places| places);
    let mut wanted = BTreeMap::new();
    elements::collect(service, None, governing.shut.is_none(), open, &resolved, &mut wanted);
    let before = |other: &Subject| if other == subject { before } else { &[] };
    let mut old = BTreeMap::new();
    elements::collect(service, None, true, Some(input.now), &before, &mut old);
    change(&old, wanted, in_force, part);
}

/// Completes a part with the rules that follow from what it does to the sets.
pub fn finish(input: &Input<'_>, in_force: &Ruleset, part: &mut Part) {
    for name in emptied(in_force, part) {
        part.elements.remove(&name);
        part.gone.insert(name);
    }
    let stay = in_force.sets.iter();
    let stay = stay.filter(|(name, _)| !part.wanted.sets.contains_key(*name) && !part.gone.contains(*name));
    let all: BTreeMap<&String, &Set> = stay.chain(part.wanted.sets.iter()).collect();
    let windows = windows::within(all.iter().map(|(name, set)| (*name, *set)), input.now);
    let (begins, ends) = (lifetimes::begins_after(in_force, part), lifetimes::ends_after(in_force, part));
    let within = lifetimes::within(input, windows, begins, ends);
    let shapes = [Kind::Now, Kind::Armed].map(|kind| ways::shape(kind, all.keys().copied()));
    ways::add(input.settings, &shapes, within, &mut part.wanted);
}

/// The sets of grants of which nothing is left.
fn emptied(in_force: &Ruleset, part: &Part) -> Vec<String> {
    let shared = part.elements.iter().filter(|(name, _)| ways::is_of_grants(name));
    let empty = shared.filter(|(name, elements)| {
        let Some(held) = in_force.sets.get(*name) else { return false };
        let gone =
            elements.iter().filter(|(key, element)| element.is_none() && held.elements.contains_key(key));
        gone.count() == held.elements.len() && elements.values().all(Option::is_none)
    });
    empty.map(|(name, _)| name.clone()).collect()
}

fn set_of<'a>(name: &str, in_force: &'a Ruleset, part: &'a Part) -> Option<&'a Set> {
    part.wanted.sets.get(name).or_else(|| in_force.sets.get(name))
}

/// Takes out what was, and puts in what is wanted.
fn change(
    before: &BTreeMap<String, Placed>,
    wanted: BTreeMap<String, Placed>,
    in_force: &Ruleset,
    part: &mut Part,
) {
    for (name, placed) in before {
        let Some(held) = in_force.sets.get(name) else { continue };
        let elements = part.elements.entry(name.clone()).or_default();
        for (key, _) in placed.elements.iter().filter(|(key, _)| held.elements.contains_key(key)) {
            elements.entry(key.clone()).or_insert(None);
        }
    }
    for (name, placed) in wanted {
        if in_force.sets.contains_key(&name) {
            let elements = part.elements.entry(name).or_default();
            elements.extend(placed.elements.into_iter().map(|(key, element)| (key, Some(element))));
        } else {
            let set = part.wanted.sets.entry(name).or_insert_with(|| placed.declaration.clone());
            set.elements.extend(placed.elements);
        }
    }
}
