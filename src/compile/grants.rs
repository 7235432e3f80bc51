//! Policies: a chain for each policy and protocol, and the maps that lead to them.

use std::collections::{BTreeMap, BTreeSet};

use super::shared::{Rule, accept, back, chain, echo_request, goto, jump, not_in, opening_and_answering};
use super::{Governing, Input, accounts, names, places, subjects, through, tls};
use crate::model::{Direction, Family, Policy, PortRange, Prefix, Protocol};
use crate::ranges::{self, Segment};
use crate::ruleset::{Element, Key, Load, Name, Ruleset, Statement, Verdict, protocol};

pub fn add(input: &Input<'_>, services: &[Governing<'_>], ruleset: &mut Ruleset) {
    let mut endpoints = Endpoints::new(Maps::Local);
    for governing in services.iter().filter(|governing| !governing.exact) {
        add_chains_of(input, governing, ruleset);
        governing.standing.service.policies.iter().for_each(|policy| endpoints.collect(policy));
    }
    endpoints.add(ruleset);
}

/// Adds what leads from one address to the policies of these services that list it by itself.
pub fn add_single(services: &[Governing<'_>], single: Prefix, ruleset: &mut Ruleset) {
    let mut endpoints = Endpoints::new(Maps::Local);
    let policies = services.iter().flat_map(|governing| &governing.standing.service.policies);
    for policy in policies.filter(|policy| policy.prefixes.binary_search(&single).is_ok()) {
        endpoints.collect_of(policy, &[single]);
    }
    endpoints.add(ruleset);
}

/// Adds the chains of every policy of a service.
pub fn add_chains_of(input: &Input<'_>, governing: &Governing<'_>, ruleset: &mut Ruleset) {
    for policy in &governing.standing.service.policies {
        add_policy_chains(input, governing, policy, ruleset);
    }
}

pub fn add_policy_chains(
    input: &Input<'_>,
    governing: &Governing<'_>,
    policy: &Policy,
    ruleset: &mut Ruleset,
) {
    let protocols: BTreeSet<_> = policy.ports.iter().map(|port| port.protocol).collect();
    for protocol in protocols {
        let rules = match governing.shut {
            None => policy_rules(input, governing, policy, protocol, ruleset),
            Some(_) => vec![],
        };
        chain(ruleset, names::policy_chain(policy, protocol), rules);
        through::add_policy_chains(input, governing, policy, protocol, ruleset);
    }
}

/// Nothing passes outside of the windows; inside, the subject does.
fn policy_rules(
    input: &Input<'_>,
    governing: &Governing<'_>,
    policy: &Policy,
    protocol: Protocol,
    ruleset: &mut Ruleset,
) -> Vec<Rule> {
    let mut rules = vec![unless_open(governing, policy)];
    rules.extend(match protocol {
        _ if accounts::is_account(&policy.subject) => accounts::add_rules(input, policy, protocol, ruleset),
        Protocol::Tcp => segments(input, policy),
        Protocol::Udp => datagrams(input, policy),
        Protocol::Icmp => echo(input, policy),
    });
    rules
}

/// Returns outside of the policy's windows.
pub fn unless_open(governing: &Governing<'_>, policy: &Policy) -> Rule {
    let open = match &policy.windows {
        None => governing.open.clone(),
        Some(which) => names::open(governing.standing.service, Some(which)),
    };
    vec![not_in(&[Load::Time], open), back()]
}

fn segments(input: &Input<'_>, policy: &Policy) -> Vec<Rule> {
    let admitted = match tls::applies(policy, Protocol::Tcp) {
        true => goto(tls::CHAIN),
        false => accept(),
    };
    let mut rules = asked(input, policy, admitted);
    if !rules.is_empty() && !policy.subject.is_any_process() {
        rules.push(vec![goto(format!("remnant-{}", policy.id.direction))]);
    }
    rules
}

fn datagrams(input: &Input<'_>, policy: &Policy) -> Vec<Rule> {
    let mut rules = asked(input, policy, goto(format!("udp-{}", policy.id.direction)));
    let ours_ask = policy.id.direction == Direction::Egress;
    if ours_ask && !rules.is_empty() && !policy.subject.is_any_process() {
        rules.push(vec![goto("udp-late")]);
    }
    rules
}

/// The rules that end with this verdict for the policy's subject.
fn asked(input: &Input<'_>, policy: &Policy, verdict: Statement) -> Vec<Rule> {
    let questions = places::questions(input, &policy.subject);
    questions
        .into_iter()
        .map(|mut rule| {
            rule.push(verdict.clone());
            rule
        })
        .collect()
}

/// Requests that we send are asked for their process. Those that come in are answered by the kernel, not by a
/// process, and replies to ours meet no socket that nftables could find: for both the grant itself must do.
fn echo(input: &Input<'_>, policy: &Policy) -> Vec<Rule> {
    let direction = policy.id.direction;
    let shared = goto(format!("echo-{direction}"));
    let (opens, answers) = opening_and_answering(direction);
    let mut rules = Vec::new();
    match direction {
        Direction::Egress => {
            for family in Family::ALL {
                for mut rule in places::questions(input, &policy.subject) {
                    rule.splice(0..0, [opens.clone(), echo_request(family)]);
                    rule.push(shared.clone());
                    rules.push(rule);
                }
            }
            rules.push(vec![answers, shared]);
        }
        Direction::Ingress if subjects::is_local(input, &policy.subject) => rules.push(vec![shared]),
        Direction::Ingress => {}
    }
    rules
}

/// First and last address, ports, and the index of the policy's chain.
type AddressBox = (u128, u128, PortRange, usize);

/// Which maps lead to which chains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Maps {
    /// For the packets of local sockets.
    Local,
    /// For packets that are forwarded to the remote side, or from it.
    Through(Direction),
}

impl Maps {
    fn chain(self, policy: &Policy, protocol: Protocol) -> String {
        match self {
            Self::Local => names::policy_chain(policy, protocol),
            Self::Through(way) => names::through_chain(policy, protocol, way),
        }
    }

    fn endpoints(self, direction: Direction, family: Family) -> String {
        match self {
            Self::Local => names::endpoints(direction, family),
            Self::Through(way) => names::endpoints_through(direction, way, family),
        }
    }

    fn errors(self, family: Family, single: bool) -> String {
        match self {
            Self::Local => names::errors(family, single),
            Self::Through(way) => names::errors_through(way, family, single),
        }
    }

    /// Errors about TCP are admitted by local sockets themselves.
    fn asks_for_errors(self, protocol: Protocol) -> bool {
        match (self, protocol) {
            (Self::Local, Protocol::Udp) | (Self::Through(_), Protocol::Tcp | Protocol::Udp) => true,
            (Self::Local, Protocol::Tcp) | (Self::Local | Self::Through(_), Protocol::Icmp) => false,
        }
    }
}

/// Addresses and ports of all policies on the way into the maps, each with the index of its policy's chain.
pub struct Endpoints {
    maps: Maps,
    exact: BTreeMap<(Family, Direction), Vec<(Key, usize)>>,
    ranges: BTreeMap<(Family, Direction, u8), Vec<AddressBox>>,
    /// Whose ICMP errors are admitted by which chain: single addresses, and ranges.
    errors: BTreeMap<Prefix, Vec<usize>>,
    errors_net: BTreeMap<Family, Vec<(u128, u128, usize)>>,
    chains: Vec<Name>,
}

impl Endpoints {
    pub fn new(maps: Maps) -> Self {
        Self {
            maps,
            exact: BTreeMap::new(),
            ranges: BTreeMap::new(),
            errors: BTreeMap::new(),
            errors_net: BTreeMap::new(),
            chains: Vec::new(),
        }
    }

    pub fn collect(&mut self, policy: &Policy) {
        self.collect_of(policy, &policy.prefixes);
    }

    /// Takes these of the policy's prefixes.
    pub fn collect_of(&mut self, policy: &Policy, prefixes: &[Prefix]) {
        let direction = policy.id.direction;
        for port in &policy.ports {
            let chain = self.chain(self.maps.chain(policy, port.protocol));
            for prefix in prefixes {
                let family = prefix.family();
                let number = number(port.protocol, family);
                match (self.maps.asks_for_errors(port.protocol), prefix.address()) {
                    (true, Some(_)) => self.errors.entry(*prefix).or_default().push(chain),
                    (true, None) => {
                        let errors = self.errors_net.entry(family).or_default();
                        errors.push((prefix.first(), prefix.last(), chain));
                    }
                    (false, _) => {}
                }
                let exact = prefix.address().is_some() && port.protocol != Protocol::Icmp;
                match (exact, port.range.single()) {
                    (true, Some(single)) => {
                        let key = key(family, prefix.first(), number, single);
                        self.exact.entry((family, direction)).or_default().push((key, chain));
                    }
                    (true, None) | (false, _) => {
                        let range = (prefix.first(), prefix.last(), port.range, chain);
                        self.ranges.entry((family, direction, number)).or_default().push(range);
                    }
                }
            }
        }
    }

    fn chain(&mut self, name: String) -> usize {
        if self.chains.last().map(|last| &**last) != Some(&*name) {
            self.chains.push(name.into());
        }
        self.chains.len() - 1
    }

    pub fn add(self, ruleset: &mut Ruleset) {
        let Self { maps, exact, ranges, errors, errors_net, chains } = self;
        for ((family, direction), mut keys) in exact {
            let map = maps.endpoints(direction, family);
            keys.sort_unstable();
            for same in keys.chunk_by(|(a, _), (b, _)| a == b) {
                let Some((key, _)) = same.first() else { continue };
                let verdict = verdict(ruleset, &chains, same.iter().map(|(_, chain)| *chain));
                insert(ruleset, &map, key.clone(), Element { verdict, ..Element::default() });
            }
        }
        for ((family, direction, number), ranges) in ranges {
            let map = format!("{}-net", maps.endpoints(direction, family));
            for (first, last, ports, tags) in disjoint(ranges) {
                let verdict = verdict(ruleset, &chains, tags.into_iter());
                let last = Some(key(family, last, number, ports.high()));
                let element = Element { last, verdict, ..Element::default() };
                insert(ruleset, &map, key(family, first, number, ports.low()), element);
            }
        }
        let address = |family, number| Key::builder().address(family, number).build();
        for (single, tags) in errors {
            let family = single.family();
            let verdict = verdict(ruleset, &chains, tags.into_iter());
            let element = Element { verdict, ..Element::default() };
            insert(ruleset, &maps.errors(family, true), address(family, single.first()), element);
        }
        for (family, ranges) in errors_net {
            for Segment { first, last, covers } in ranges::sweep(ranges) {
                let verdict = verdict(ruleset, &chains, covers.into_iter());
                let element = Element { last: Some(address(family, last)), verdict, ..Element::default() };
                insert(ruleset, &maps.errors(family, false), address(family, first), element);
            }
        }
    }
}

/// The way to the chains of these indices.
fn verdict(ruleset: &mut Ruleset, chains: &[Name], tags: impl Iterator<Item = usize>) -> Option<Verdict> {
    let targets = tags.filter_map(|tag| chains.get(tag).cloned()).collect();
    Some(Verdict::Jump(target(ruleset, targets)))
}

fn insert(ruleset: &mut Ruleset, map: &str, key: Key, element: Element) {
    if let Some(set) = ruleset.sets.get_mut(map) {
        set.elements.insert(key, element);
    }
}

fn key(family: Family, address: u128, protocol: u8, port: u16) -> Key {
    Key::builder().address(family, address).protocol(protocol).port(port).build()
}

pub fn number(protocol: Protocol, family: Family) -> u8 {
    match (protocol, family) {
        (Protocol::Tcp, _) => protocol::TCP,
        (Protocol::Udp, _) => protocol::UDP,
        (Protocol::Icmp, Family::V4) => protocol::ICMP,
        (Protocol::Icmp, Family::V6) => protocol::ICMPV6,
    }
}

/// The chain to jump to: the policy's own, or one that tries several policies in turn.
pub fn target(ruleset: &mut Ruleset, mut targets: Vec<Name>) -> Name {
    targets.sort_unstable();
    targets.dedup();
    if let [only] = targets.as_slice() {
        return only.clone();
    }
    let name = names::digest("both", targets.iter().map(|target| &**target));
    if !ruleset.chains.contains_key(&name) {
        let rules = targets.into_iter().map(|target| vec![jump(target)]).collect();
        chain(ruleset, name.clone(), rules);
    }
    name.into()
}

/// Cuts boxes of addresses and ports into disjoint ones, each with everything that covers it: the kernel's interval
/// sets take no overlaps, and a packet passes if any of the grants admits it.
pub fn disjoint<T: Ord + Copy>(
    boxes: impl IntoIterator<Item = (u128, u128, PortRange, T)>,
) -> Vec<(u128, u128, PortRange, Vec<T>)> {
    let tagged = boxes.into_iter().map(|(first, last, ports, tag)| (first, last, (ports, tag)));
    let mut result = Vec::new();
    for Segment { first, last, covers } in ranges::sweep(tagged) {
        let ports =
            covers.into_iter().map(|(ports, tag)| (u128::from(ports.low()), u128::from(ports.high()), tag));
        for piece in ranges::sweep(ports) {
            result.push((first, last, port_range(&piece), piece.covers));
        }
    }
    result
}

fn port_range<T>(piece: &Segment<T>) -> PortRange {
    // The pieces come from 16-bit ports; port 0 occurs only in a range that covers them all.
    let narrow = |number: u128| u16::try_from(number).unwrap_or(u16::MAX);
    PortRange::from_zero(narrow(piece.first), narrow(piece.last))
}
