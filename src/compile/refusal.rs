//! From a remote address to the service that owns it, and from there by time to a reason.

use std::collections::{BTreeMap, BTreeSet};

use super::counts::service_counter;
use super::shared::{Rule, chain, goto, no_attempt, not_in};
use super::{Governing, Input, fresh, names, tls};
use crate::model::{Direction, Family, Mode, Prefix, Reason, Service, ServiceState, Time};
use crate::ranges;
use crate::ruleset::{Element, Key, Load, Ruleset, Statement, Verdict};

pub fn add(input: &Input<'_>, services: &[Governing<'_>], ruleset: &mut Ruleset) {
    let holds = fresh::is_in(ruleset);
    for governing in services.iter().filter(|governing| !governing.exact) {
        add_chains_of(input, governing, holds, ruleset);
    }
    for family in Family::ALL {
        add_gate(services, family, ruleset);
        add_owners(input, services, family, holds, ruleset);
    }
}

/// Adds the chains that refuse what belongs to a service. `holds`: the first segment of a connection to an address that was
/// just learned is held.
pub fn add_chains_of(input: &Input<'_>, governing: &Governing<'_>, holds: bool, ruleset: &mut Ruleset) {
    for direction in Direction::ALL {
        let name = names::refusal_chain(&governing.standing.service.name, direction);
        counting_chain(ruleset, name, reasons(input, &[governing], direction, holds));
    }
}

/// Adds the chains that refuse what belongs to several services together.
pub fn add_tie(input: &Input<'_>, owners: &[Governing<'_>], holds: bool, ruleset: &mut Ruleset) {
    let owners: Vec<_> = owners.iter().collect();
    for direction in Direction::ALL {
        let name = tie_chain(&owners, direction);
        counting_chain(ruleset, name, reasons(input, &owners, direction, holds));
    }
}

/// Adds a chain with the counters that its rules name.
fn counting_chain(ruleset: &mut Ruleset, name: String, rules: Vec<Rule>) {
    let counters = rules.iter().flatten().filter_map(|statement| match statement {
        Statement::Count(counter) => Some(counter.clone()),
        _ => None,
    });
    ruleset.counters.extend(counters);
    chain(ruleset, name, rules);
}

fn tie_chain(owners: &[&Governing<'_>], direction: Direction) -> String {
    let members: Vec<_> =
        owners.iter().map(|owner| names::refusal_chain(&owner.standing.service.name, direction)).collect();
    names::digest("tie", members.iter().map(String::as_str))
}

/// The networks (/16, IPv6 /32) that contain anything governed.
fn add_gate(services: &[Governing<'_>], family: Family, ruleset: &mut Ruleset) {
    let host_bits = match family {
        Family::V4 => 16,
        Family::V6 => 96,
    };
    let prefixes = services.iter().flat_map(|governing| governing.standing.service.prefixes());
    let networks: BTreeSet<u128> = prefixes
        .filter(|prefix| prefix.family() == family)
        .flat_map(|prefix| (prefix.first() >> host_bits)..=(prefix.last() >> host_bits))
        .collect();
    if let Some(set) = ruleset.sets.get_mut(&format!("governed{}", names::digit(family))) {
        let key = |network: u128| Key::builder().network(family, network << host_bits).build();
        set.elements.extend(networks.into_iter().map(|network| (key(network), Element::default())));
    }
}

/// Single addresses have a map of their own, which is asked first and decides: ranges go on around them.
fn add_owners(
    input: &Input<'_>,
    services: &[Governing<'_>],
    family: Family,
    holds: bool,
    ruleset: &mut Ruleset,
) {
    let mut singles: BTreeMap<Prefix, Vec<&Governing<'_>>> = BTreeMap::new();
    for governing in services.iter().filter(|governing| !governing.exact) {
        let prefixes = governing.standing.service.prefixes().filter(|prefix| prefix.family() == family);
        for single in prefixes.filter(|prefix| prefix.address().is_some()).collect::<BTreeSet<_>>() {
            singles.entry(single).or_default().push(governing);
        }
    }
    for (single, owners) in singles {
        add_single(input, &owners, single, holds, ruleset);
    }
    for (first, last, owners) in owners(services, family) {
        let owners: Vec<_> = owners.iter().filter_map(|index| services.get(*index)).collect();
        add_element(input, &owners, (family, first, Some(last)), holds, ruleset);
    }
}

/// Adds what leads from one address to those who list it by itself, sorted by name.
pub fn add_single(
    input: &Input<'_>,
    owners: &[&Governing<'_>],
    single: Prefix,
    holds: bool,
    ruleset: &mut Ruleset,
) {
    add_element(input, owners, (single.family(), single.first(), None), holds, ruleset);
}

fn add_element(
    input: &Input<'_>,
    owners: &[&Governing<'_>],
    (family, first, last): (Family, u128, Option<u128>),
    holds: bool,
    ruleset: &mut Ruleset,
) {
    for direction in Direction::ALL {
        let target = refusal_target(input, owners, direction, holds, ruleset);
        let net = if last.is_some() { "-net" } else { "" };
        let map = format!("refuse-{}{}{net}", names::way(direction), names::digit(family));
        let key = |number| Key::builder().address(family, number).build();
        let verdict = Some(Verdict::Goto(target.into()));
        let element = Element { last: last.map(key), verdict, ..Element::default() };
        if let Some(set) = ruleset.sets.get_mut(&map) {
            set.elements.insert(key(first), element);
        }
    }
}

/// The owners of every governed range: those who list it with the longest prefix. Disjoint, in order.
fn owners(services: &[Governing<'_>], family: Family) -> Vec<(u128, u128, Vec<usize>)> {
    let listed = services.iter().enumerate().flat_map(|(index, governing)| {
        let prefixes = governing.standing.service.prefixes().filter(|prefix| prefix.family() == family);
        let ranges = prefixes.filter(|prefix| prefix.address().is_none());
        ranges.map(move |prefix: Prefix| (prefix.first(), prefix.last(), (prefix.length(), index)))
    });
    let mut result: Vec<(u128, u128, Vec<usize>)> = Vec::new();
    for segment in ranges::sweep(listed) {
        let longest = segment.covers.iter().map(|(length, _)| *length).max();
        let owners: Vec<_> =
            segment.covers.iter().filter(|(length, _)| Some(*length) == longest).map(|(_, i)| *i).collect();
        match result.last_mut() {
            Some((_, to, same)) if *same == owners && to.checked_add(1) == Some(segment.first) => {
                *to = segment.last;
            }
            Some(_) | None => result.push((segment.first, segment.last, owners)),
        }
    }
    result
}

fn refusal_target(
    input: &Input<'_>,
    owners: &[&Governing<'_>],
    direction: Direction,
    holds: bool,
    ruleset: &mut Ruleset,
) -> String {
    if let [only] = owners {
        return names::refusal_chain(&only.standing.service.name, direction);
    }
    let name = tie_chain(owners, direction);
    if !ruleset.chains.contains_key(&name) {
        counting_chain(ruleset, name.clone(), reasons(input, owners, direction, holds));
    }
    name
}

/// The rules that find the reason by time. Among several owners the first in the order of states decides, then the
/// first by name; the owners come sorted by name. Each rule counts for its owner, behind what is no attempt.
fn reasons(input: &Input<'_>, owners: &[&Governing<'_>], direction: Direction, holds: bool) -> Vec<Rule> {
    let refused = |owner: &Governing<'_>, reason| {
        let count = Statement::Count(service_counter(&owner.standing.service.name, direction, reason));
        vec![count, goto(reason_chain(reason, direction, observes(input, owner.standing.service)))]
    };
    let no_attempt =
        |owner: &Governing<'_>| no_attempt(direction, observes(input, owner.standing.service), holds);
    let first = owners.first().and_then(|owner| no_attempt(owner));
    let alike = owners.iter().all(|owner| no_attempt(owner) == first);
    let mut rules: Vec<Rule> = first.filter(|_| alike).into_iter().collect();
    for state in ServiceState::ALL {
        for owner in owners {
            let Some(mut rule) = tests(input, owner, state) else { continue };
            let certain = rule.is_empty();
            if !alike {
                rules.extend(no_attempt(owner).map(|exempt| [rule.clone(), exempt].concat()));
            }
            if state == ServiceState::Open && direction == Direction::Egress && asks_for_tls(owners) {
                rules.extend(tls::plaintext(&refused(owner, Reason::Plaintext)));
            }
            rule.extend(refused(owner, state.reason()));
            rules.push(rule);
            if certain {
                return rules;
            }
        }
    }
    rules.extend(owners.first().map(|owner| refused(owner, Reason::Closed)));
    rules
}

/// The chain that refuses for a class because of a state: which service it is, the address tells whoever reads the counts.
pub fn reason_of_class(
    input: &Input<'_>,
    governing: &Governing<'_>,
    state: ServiceState,
    direction: Direction,
) -> String {
    exact_reason_chain(direction, state.reason(), observes(input, governing.standing.service))
}

pub fn exact_reason_chain(direction: Direction, reason: Reason, observes: bool) -> String {
    names::exact_reason_chain(&reason_chain(reason, direction, observes))
}

/// Whichever of them asked: the refusal belongs to the first.
fn asks_for_tls(owners: &[&Governing<'_>]) -> bool {
    owners.iter().any(|owner| owner.shut.is_none() && tls::is_asked_for(owner.standing.service))
}

fn reason_chain(reason: Reason, direction: Direction, observes: bool) -> String {
    match observes {
        true => names::observed_chain(direction, reason),
        false => names::reason_chain(direction, reason),
    }
}

/// True when what the service refuses is counted and admitted all the same.
pub fn observes(input: &Input<'_>, service: &Service) -> bool {
    [input.settings.enforcement.mode, service.mode].contains(&Mode::Observe)
}

/// What must be true for the service to be in this state, from now on and by the kernel's clock alone. `None`: it
/// cannot be. Nothing: it is, whatever the clock says.
pub fn tests(input: &Input<'_>, owner: &Governing<'_>, state: ServiceState) -> Option<Vec<Statement>> {
    let lifetime = owner.standing.service.lifetime;
    let now = owner.shut;
    let live = now.is_none();
    let ends = lifetime.closes_at();
    match state {
        ServiceState::Decommissioned if now == Some(state) => Some(vec![]),
        ServiceState::Decommissioned => Some(vec![Statement::From(ends)]),
        ServiceState::Suspended | ServiceState::Unapproved => (now == Some(state)).then(Vec::new),
        ServiceState::Pending if live && !begun(lifetime.opens_at(), input.now) => {
            Some(vec![Statement::Before(lifetime.opens_at())])
        }
        ServiceState::Pending => None,
        ServiceState::Closed => live.then(|| {
            let mut tests = vec![not_in(&[Load::Time], &*owner.open)];
            if !begun(lifetime.opens_at(), input.now) {
                tests.push(Statement::From(lifetime.opens_at()));
            }
            tests
        }),
        // What is left: every mention of a set of openings costs at a load.
        ServiceState::Open => live.then(Vec::new),
    }
}

/// A lifetime that began stays begun: turning the clock back does not make it pending again.
fn begun(commission: Time, now: Time) -> bool {
    commission <= now
}
