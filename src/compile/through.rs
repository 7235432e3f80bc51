//! Policies of containers that have a network of their own: their packets are forwarded, and no socket of this host
//! belongs to them.
//!
//! What is forwarded is asked for the container's address instead, on the way out before any masquerading, on the way in
//! after any translation: so the port of an ingress policy is the container's own. Chains that ask for sockets cannot
//! even be reachable from the forward hook, hence maps and chains of their own for each way a packet travels. A chain
//! that served both ways would have to take either end for the container, and a container whose own address lies in a
//! prefix that it may connect to would be open to everyone.
//!
//! Nothing of this is in the table while no policy names a container.

use super::grants::{Endpoints, Maps, unless_open};
use super::shared::{
    ERRORS, Rule, accept, add_lookups, chain, dispatch, echo_reply, echo_request, goto, jump, lookup, other,
    update,
};
use super::{Governing, Input, flows, names, subjects, tls};
use crate::model::{Direction, Family, Policy, Prefix, Protocol, Subject};
use crate::ruleset::{Field, Load, Ruleset, Set, Side, Statement, protocol};

/// What the names of the chains for forwarded packets begin with.
const PREFIX: &str = "through-";

/// Adds what leads to the chains of containers' policies.
pub fn add(services: &[Governing<'_>], ruleset: &mut Ruleset) {
    let all = services.iter().flat_map(|governing| &governing.standing.service.policies);
    let policies: Vec<&Policy> = all.filter(|policy| is_about_container(policy)).collect();
    if policies.is_empty() {
        return;
    }
    for family in Family::ALL {
        add_maps(family, ruleset);
        let map = |direction, way| names::endpoints_through(direction, way, family);
        add_lookups(family, PREFIX, &map, ruleset);
        Direction::ALL.into_iter().for_each(|way| add_dispatch(family, way, ruleset));
    }
    add_datagrams(ruleset);
    add_echo(ruleset);
    if policies.iter().any(|policy| tls::applies(policy, Protocol::Tcp)) {
        tls::add_through(ruleset);
    }
    for way in Direction::ALL {
        let mut endpoints = Endpoints::new(Maps::Through(way));
        policies.iter().for_each(|policy| endpoints.collect(policy));
        endpoints.add(ruleset);
    }
}

/// Adds what leads from one address to the policies of containers that list it by itself.
pub fn add_single(services: &[Governing<'_>], single: Prefix, ruleset: &mut Ruleset) {
    let all = services.iter().flat_map(|governing| &governing.standing.service.policies);
    let lists =
        |policy: &&Policy| is_about_container(policy) && policy.prefixes.binary_search(&single).is_ok();
    let policies: Vec<&Policy> = all.filter(lists).collect();
    add_maps(single.family(), ruleset);
    for way in Direction::ALL {
        let mut endpoints = Endpoints::new(Maps::Through(way));
        policies.iter().for_each(|policy| endpoints.collect_of(policy, &[single]));
        endpoints.add(ruleset);
    }
}

fn is_about_container(policy: &Policy) -> bool {
    matches!(policy.subject, Subject::Container(_))
}

/// Adds the chains of a policy for one protocol, where its subject is a container.
pub fn add_policy_chains(
    input: &Input<'_>,
    governing: &Governing<'_>,
    policy: &Policy,
    protocol: Protocol,
    ruleset: &mut Ruleset,
) {
    if !is_about_container(policy) {
        return;
    }
    for way in Direction::ALL {
        let rules = match governing.shut {
            None => policy_rules(input, governing, policy, protocol, way),
            Some(_) => vec![],
        };
        chain(ruleset, names::through_chain(policy, protocol, way), rules);
    }
}

/// Nothing passes outside of the windows; inside, the container does.
fn policy_rules(
    input: &Input<'_>,
    governing: &Governing<'_>,
    policy: &Policy,
    protocol: Protocol,
    way: Direction,
) -> Vec<Rule> {
    let local = other(Side::remote(way));
    let verdict = admitted(policy, protocol, way);
    let is_container = |address| vec![Statement::Address { side: local, address }, verdict.clone()];
    let mut rules = vec![unless_open(governing, policy)];
    rules.extend(subjects::addresses(input, &policy.subject).map(is_container));
    rules
}

/// Who opens a connection has been seen to by the way that led here.
fn admitted(policy: &Policy, protocol: Protocol, way: Direction) -> Statement {
    let direction = policy.id.direction;
    match protocol {
        Protocol::Tcp if tls::applies(policy, protocol) => goto(match way {
            Direction::Egress => tls::THROUGH,
            Direction::Ingress => tls::ARRIVING,
        }),
        Protocol::Tcp => accept(),
        Protocol::Udp => goto(datagrams(direction, way)),
        Protocol::Icmp => goto(echo(direction, way)),
    }
}

fn datagrams(direction: Direction, way: Direction) -> String {
    format!("{PREFIX}udp-{direction}-{}", names::way(way))
}

fn echo(direction: Direction, way: Direction) -> String {
    format!("{PREFIX}echo-{direction}-{}", names::way(way))
}

fn add_maps(family: Family, ruleset: &mut Ruleset) {
    let endpoint = [Field::Address(family), Field::Protocol, Field::Port];
    let address = [Field::Address(family)];
    for way in Direction::ALL {
        for direction in Direction::ALL {
            let name = names::endpoints_through(direction, way, family);
            ruleset.sets.insert(format!("{name}-net"), Set::verdicts(&endpoint).with_intervals());
            ruleset.sets.insert(name, Set::verdicts(&endpoint));
        }
        ruleset.sets.insert(names::errors_through(way, family, true), Set::verdicts(&address));
        ruleset
            .sets
            .insert(names::errors_through(way, family, false), Set::verdicts(&address).with_intervals());
    }
}

/// Puts the question for grants before the refusal of what is forwarded. ICMP errors are admitted to and from whom an
/// open grant names: no socket tells whether they are about something.
fn add_dispatch(family: Family, way: Direction, ruleset: &mut Ruleset) {
    let (name, digit) = (names::way(way), names::digit(family));
    let grants = format!("{PREFIX}grants-{name}{digit}");
    if let Some(chain) = ruleset.chains.get_mut(&grants) {
        let remote = [Load::Address(family, Side::remote(way))];
        for (_, low, high) in ERRORS.into_iter().filter(|(of, ..)| *of == family) {
            for single in [true, false] {
                let types = Statement::IcmpType { family, low, high };
                let map = names::errors_through(way, family, single);
                chain.rules.push(vec![types, dispatch(&remote, map)].into());
            }
        }
    }
    // A packet between two governed addresses passes if either way admits it.
    let ways = match way {
        Direction::Egress => vec!["out", "in"],
        Direction::Ingress => vec!["in"],
    };
    let asked = ways.into_iter().map(|name| vec![jump(format!("{PREFIX}grants-{name}{digit}"))].into());
    if let Some(chain) = ruleset.chains.get_mut(&format!("{PREFIX}{name}{digit}")) {
        chain.rules.splice(0..0, asked);
    }
}

/// The opening side records the flow, the other side must find it; errors about either pass.
fn add_datagrams(ruleset: &mut Ruleset) {
    for direction in Direction::ALL {
        let set = |family| format!("udp-{}{}", names::way(direction), names::digit(family));
        for way in Direction::ALL {
            let flow = |family| flows::flow(family, Side::remote(way));
            let mut rules: Vec<Rule> = [protocol::ICMP, protocol::ICMPV6]
                .map(|number| vec![Statement::Protocol(number), accept()])
                .into();
            match way == direction {
                true => {
                    rules.extend(Family::ALL.map(|family| vec![update(set(family), &flow(family))]));
                    rules.push(vec![accept()]);
                }
                false => {
                    rules
                        .extend(Family::ALL.map(|family| vec![lookup(&flow(family), set(family)), accept()]));
                }
            }
            chain(ruleset, datagrams(direction, way), rules);
        }
    }
}

/// Echo requests open, their replies answer.
fn add_echo(ruleset: &mut Ruleset) {
    for direction in Direction::ALL {
        let set = |family| format!("echo-{}{}", names::way(direction), names::digit(family));
        for way in Direction::ALL {
            let key = |family| [Load::Address(family, Side::remote(way)), Load::EchoId(family)];
            let rules = match way == direction {
                true => {
                    let record = |family| vec![echo_request(family), update(set(family), &key(family))];
                    let admit = |family| vec![echo_request(family), accept()];
                    [Family::ALL.map(record), Family::ALL.map(admit)].concat()
                }
                false => Family::ALL
                    .map(|family| vec![echo_reply(family), lookup(&key(family), set(family)), accept()])
                    .into(),
            };
            chain(ruleset, echo(direction, way), rules);
        }
    }
}
