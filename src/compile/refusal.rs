//! From a remote address to the service that owns it, and from there by time to a reason.

use std::collections::BTreeSet;

use super::shared::{chain, goto, lookup, not_in};
use super::{Input, Standing, names};
use crate::model::{Direction, Family, Mode, Prefix, Reason, ServiceState, Time};
use crate::ranges;
use crate::ruleset::{Element, Key, Load, Rule, Ruleset, Statement, Verdict};
use crate::schedule;

pub fn add(input: &Input<'_>, ruleset: &mut Ruleset) {
    let governing: Vec<_> =
        input.services.iter().filter(|standing| standing.governs(input.now)).copied().collect();
    for standing in &governing {
        for direction in Direction::ALL {
            let rules = reasons(input, std::slice::from_ref(standing), direction);
            chain(ruleset, names::refusal_chain(&standing.service.name, direction), rules);
        }
    }
    for family in Family::ALL {
        add_gate(&governing, family, ruleset);
        add_owners(input, &governing, family, ruleset);
    }
}

/// The networks (/16, IPv6 /32) that contain anything governed.
fn add_gate(governing: &[Standing<'_>], family: Family, ruleset: &mut Ruleset) {
    let host_bits = match family {
        Family::V4 => 16,
        Family::V6 => 96,
    };
    let prefixes = governing.iter().flat_map(|standing| standing.service.prefixes());
    let networks: BTreeSet<u128> = prefixes
        .filter(|prefix| prefix.family() == family)
        .flat_map(|prefix| (prefix.first() >> host_bits)..=(prefix.last() >> host_bits))
        .collect();
    if let Some(set) = ruleset.sets.get_mut(&format!("governed{}", names::digit(family))) {
        let key = |network: u128| Key::builder().address(family, network << host_bits).build();
        set.elements.extend(networks.into_iter().map(|network| (key(network), Element::default())));
    }
}

fn add_owners(input: &Input<'_>, governing: &[Standing<'_>], family: Family, ruleset: &mut Ruleset) {
    for (first, last, owners) in owners(governing, family) {
        for direction in Direction::ALL {
            let target = refusal_target(input, governing, &owners, direction, ruleset);
            let single = first == last;
            let map = format!(
                "refuse-{}{}{}",
                names::way(direction),
                names::digit(family),
                if single { "" } else { "-net" }
            );
            let key = |number| Key::builder().address(family, number).build();
            let element = Element {
                last: (!single).then(|| key(last)),
                verdict: Some(Verdict::Goto(target)),
                ..Element::default()
            };
            if let Some(set) = ruleset.sets.get_mut(&map) {
                set.elements.insert(key(first), element);
            }
        }
    }
}

/// The owners of every governed address: those who list it with the longest prefix. Disjoint, in order.
fn owners(governing: &[Standing<'_>], family: Family) -> Vec<(u128, u128, Vec<usize>)> {
    let listed = governing.iter().enumerate().flat_map(|(index, standing)| {
        let prefixes = standing.service.prefixes().filter(|prefix| prefix.family() == family);
        prefixes.map(move |prefix: Prefix| (prefix.first(), prefix.last(), (prefix.length(), index)))
    });
    let mut result: Vec<(u128, u128, Vec<usize>)> = Vec::new();
    for segment in ranges::sweep(listed) {
        let longest = segment.covers.iter().map(|(length, _)| *length).max();
        let owners: Vec<_> =
            segment.covers.iter().filter(|(length, _)| Some(*length) == longest).map(|(_, i)| *i).collect();
        // Single addresses have a map of their own and must not melt into their neighbours.
        let single = |first: u128, last: u128| first == last;
        match result.last_mut() {
            Some((from, to, same))
                if *same == owners
                    && to.checked_add(1) == Some(segment.first)
                    && !single(*from, *to)
                    && !single(segment.first, segment.last) =>
            {
                *to = segment.last;
            }
            Some(_) | None => result.push((segment.first, segment.last, owners)),
        }
    }
    result
}

fn refusal_target(
    input: &Input<'_>,
    governing: &[Standing<'_>],
    owners: &[usize],
    direction: Direction,
    ruleset: &mut Ruleset,
) -> String {
    let standings: Vec<_> = owners.iter().filter_map(|index| governing.get(*index)).copied().collect();
    if let [only] = standings.as_slice() {
        return names::refusal_chain(&only.service.name, direction);
    }
    let members: Vec<_> =
        standings.iter().map(|s| names::refusal_chain(&s.service.name, direction)).collect();
    let name = names::digest("tie", members.iter().map(String::as_str));
    if !ruleset.chains.contains_key(&name) {
        let rules = reasons(input, &standings, direction);
        chain(ruleset, name.clone(), rules);
    }
    name
}

/// The rules that find the reason by time. Among several owners the first in the order of states decides, then the
/// first by name; the owners come sorted by name.
fn reasons(input: &Input<'_>, owners: &[Standing<'_>], direction: Direction) -> Vec<Rule> {
    // One owner is closed when it is nothing else, which the last rule says.
    let closed_is_the_rest = owners.len() == 1;
    let states = ServiceState::ALL.into_iter().filter(|s| !(closed_is_the_rest && *s == ServiceState::Closed));
    let mut rules = Vec::new();
    for state in states {
        for standing in owners {
            let then = goto(reason_chain(input, standing, state.reason(), direction));
            let Some(tests) = tests(input, standing, state) else { continue };
            let certain = tests.is_empty();
            let mut rule = tests;
            rule.push(then);
            rules.push(rule);
            if certain {
                return rules;
            }
        }
    }
    let fallback = owners.first().map(|standing| reason_chain(input, standing, Reason::Closed, direction));
    rules.extend(fallback.map(|chain| vec![goto(chain)]));
    rules
}

fn reason_chain(input: &Input<'_>, standing: &Standing<'_>, reason: Reason, direction: Direction) -> String {
    let observed = [input.settings.enforcement.mode, standing.service.mode].contains(&Mode::Observe);
    match observed {
        true => names::observed_chain(direction, reason),
        false => names::reason_chain(direction, reason),
    }
}

/// What must be true for the service to be in this state, from now on and by the kernel's clock alone. `None`: it
/// cannot be. Nothing: it is, whatever the clock says.
fn tests(input: &Input<'_>, standing: &Standing<'_>, state: ServiceState) -> Option<Vec<Statement>> {
    let lifetime = standing.service.lifetime;
    let open = names::open(standing.service, None);
    let now = schedule::state(standing.service, standing.record, standing.approved, input.now);
    let live = match now {
        ServiceState::Open | ServiceState::Closed | ServiceState::Pending => true,
        ServiceState::Decommissioned | ServiceState::Suspended | ServiceState::Unapproved => false,
    };
    let ends = lifetime.closes_at();
    match state {
        ServiceState::Decommissioned if now == state => Some(vec![]),
        ServiceState::Decommissioned => Some(vec![Statement::From(ends)]),
        ServiceState::Suspended | ServiceState::Unapproved => (now == state).then(Vec::new),
        ServiceState::Pending if live && !begun(lifetime.opens_at(), input.now) => {
            Some(vec![Statement::Before(lifetime.opens_at())])
        }
        ServiceState::Pending => None,
        ServiceState::Closed => live.then(|| {
            let mut tests = vec![not_in(&[Load::Time], open)];
            if !begun(lifetime.opens_at(), input.now) {
                tests.push(Statement::From(lifetime.opens_at()));
            }
            tests
        }),
        ServiceState::Open => live.then(|| vec![lookup(&[Load::Time], open)]),
    }
}

/// A lifetime that began stays begun: turning the clock back does not make it pending again.
fn begun(commission: Time, now: Time) -> bool {
    commission <= now
}
