//! Local ports that stay reachable whatever the schedules say, except for addresses that a service lists for that
//! very port: there its schedule rules.

use super::shared::{Rule, accept, back, chain, flags_other_than_first, jump, lookup};
use super::{Input, names};
use crate::model::{Direction, Family, Policy, Port, PortRange, Protocol, Settings};
use crate::ranges;
use crate::ruleset::{Element, Field, Key, Load, Ruleset, Set, Side, Statement, protocol};

pub fn add(input: &Input<'_>, ruleset: &mut Ruleset) {
    for family in Family::ALL {
        let digit = names::digit(family);
        ruleset.sets.insert(format!("scheduled{digit}"), scheduled(input, family));
        ruleset.sets.insert(format!("failsafe{digit}"), from(input, family));
    }
    for (name, remote, local) in
        [("failsafe-in", Side::Source, Side::Destination), ("failsafe-out", Side::Destination, Side::Source)]
    {
        let mut rules = Vec::new();
        for family in Family::ALL {
            let digit = names::digit(family);
            let address = Load::Address(family, remote);
            let scheduled = [address, Load::Protocol, Load::Port(local)];
            rules.push(vec![lookup(&scheduled, format!("scheduled{digit}")), back()]);
            rules.push(vec![lookup(&[address], format!("failsafe{digit}")), accept()]);
        }
        chain(ruleset, name, rules);
    }
}

/// The rules that let fail-safe packets of a way through.
pub fn rules(settings: &Settings, way: Direction) -> Vec<Rule> {
    let (side, then) = match way {
        Direction::Egress => (Side::Source, "failsafe-out"),
        Direction::Ingress => (Side::Destination, "failsafe-in"),
    };
    let numbered = settings.failsafe.ports.iter().filter_map(|port| Some((transport(port)?, port.range)));
    let rule = |(number, range)| {
        let mut rule = vec![Statement::Port { protocol: number, side, range }];
        // A process that binds to the port must not connect out from it.
        if side == Side::Source && number == protocol::TCP {
            rule.push(flags_other_than_first());
        }
        rule.push(jump(then));
        rule
    };
    numbered.map(rule).collect()
}

/// True when a policy has ports that the fail-safe keeps reachable.
pub fn shares(settings: &Settings, policy: &Policy) -> bool {
    let safe = &settings.failsafe.ports;
    safe.iter().any(|safe| policy.ports.iter().any(|port| common(safe, port).is_some()))
}

fn transport(port: &Port) -> Option<u8> {
    match port.protocol {
        Protocol::Tcp => Some(protocol::TCP),
        Protocol::Udp => Some(protocol::UDP),
        Protocol::Icmp => None,
    }
}

fn from(input: &Input<'_>, family: Family) -> Set {
    let prefixes = input.settings.failsafe.from.iter().filter(|prefix| prefix.family() == family);
    let mut set = Set::plain(&[Field::Address(family)]).with_intervals();
    for segment in ranges::sweep(prefixes.map(|prefix| (prefix.first(), prefix.last(), ()))) {
        let key = |number| Key::builder().address(family, number).build();
        let element = Element { last: Some(key(within(family, segment.last))), ..Element::default() };
        set.elements.insert(key(segment.first), element);
    }
    set
}

/// The last address of the family, for a range that reaches the end of the numbers.
fn within(family: Family, number: u128) -> u128 {
    match family {
        Family::V4 => number.min(u128::from(u32::MAX)),
        Family::V6 => number,
    }
}

/// The addresses that services list for fail-safe ports, with these ports.
fn scheduled(input: &Input<'_>, family: Family) -> Set {
    let mut set = Set::plain(&[Field::Address(family), Field::Protocol, Field::Port]).with_intervals();
    for number in [protocol::TCP, protocol::UDP] {
        for (first, last, ports) in listed(input, family, number) {
            let key =
                |address, port| Key::builder().address(family, address).protocol(number).port(port).build();
            let element = Element { last: Some(key(last, ports.high())), ..Element::default() };
            set.elements.insert(key(first, ports.low()), element);
        }
    }
    set
}

fn listed(input: &Input<'_>, family: Family, number: u8) -> Vec<(u128, u128, PortRange)> {
    let failsafe: Vec<_> =
        input.settings.failsafe.ports.iter().filter(|port| transport(port) == Some(number)).collect();
    let policies = input
        .services
        .iter()
        .filter(|standing| standing.governs(input.now))
        .flat_map(|standing| &standing.service.policies)
        .filter(|policy| policy.id.direction == Direction::Ingress);
    let ranges = policies.flat_map(|policy| {
        let ports: Vec<_> = failsafe
            .iter()
            .flat_map(|safe| policy.ports.iter().filter_map(|port| common(safe, port)))
            .collect();
        let prefixes = policy.prefixes.iter().filter(|prefix| prefix.family() == family);
        prefixes
            .flat_map(move |prefix| {
                let prefix = (prefix.first(), prefix.last());
                ports.clone().into_iter().map(move |ports| (prefix.0, prefix.1, ports))
            })
            .collect::<Vec<_>>()
    });
    super::grants::disjoint(ranges.map(|(first, last, ports)| (first, last, ports, ())))
        .into_iter()
        .map(|(first, last, ports, _)| (first, last, ports))
        .collect()
}

fn common(left: &Port, right: &Port) -> Option<PortRange> {
    let (low, high) = (left.range.low().max(right.range.low()), left.range.high().min(right.range.high()));
    (left.protocol == right.protocol).then(|| PortRange::new(low, high).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_part_of_two_ports_is_their_overlap() {
        let port = |text: &str| Port::parse(text).unwrap();
        assert_eq!(common(&port("22/tcp"), &port("*/tcp")), PortRange::new(22, 22).ok());
        assert_eq!(common(&port("22/tcp"), &port("22/udp")), None);
        assert_eq!(common(&port("22/tcp"), &port("23-30/tcp")), None);
    }
}
