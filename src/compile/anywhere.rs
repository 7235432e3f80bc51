//! Policies for `any` address: they govern their subject and ports instead of addresses.
//!
//! An open one admits like any grant, also to addresses that services list, by the same chains of its policy. When none
//! does, the packets of its subject on its ports are refused, in an order of states and names like that of the owners of
//! an address. A packet is known to be of a subject by its socket ([`super::nests`]); where the subject is no cgroup (any
//! process, users, groups), the rules ask for it themselves, and their number grows with such policies only.
//!
//! What has no socket in a cgroup (remnants of connections, echo replies) is nobody's: it is refused for the sake of its
//! address only. There the open policies are tried by port, which is a path for such packets alone.

use std::collections::{BTreeMap, BTreeSet};

use super::counts::{Charged, CountSets};
use super::segments::not_first;
use super::shared::{
    self, Rule, back, chain, dispatch, echo_reply, echo_request, errors_of, goto, icmp_of, in_a_cgroup, jump,
    reset_segment,
};
use super::{Governing, Input, Place, fresh, grants, names, refusal, subjects, tls};
use crate::model::{Direction, Family, Mode, Policy, PortRange, Protocol, Reason, ServiceState, Subject};
use crate::ranges;
use crate::ruleset::{Account, Element, Field, Key, Load, Ruleset, Set, Side, Statement, Verdict, protocol};

/// A policy for any address, with what its packets are asked for beside their ports.
pub struct Anywhere<'a> {
    governing: &'a Governing<'a>,
    pub policy: &'a Policy,
    /// Each is the beginning of a rule; `None`: the socket's cgroup has told already.
    questions: Option<Vec<Vec<Statement>>>,
}

/// Every policy for any address, in the order of services and files.
pub fn policies<'a>(input: &Input<'_>, services: &'a [Governing<'a>]) -> Vec<Anywhere<'a>> {
    let all = services.iter().flat_map(|governing| {
        let policies = governing.standing.service.policies.iter().filter(|policy| policy.is_any());
        policies.map(move |policy| (governing, policy))
    });
    let one = |(governing, policy): (&'a Governing<'a>, &'a Policy)| {
        let questions = match &policy.subject {
            Subject::User(_) | Subject::Group(_) => Some(accounts(input, &policy.subject)),
            subject if subject.is_any_process() => Some(vec![Vec::new()]),
            Subject::Unit(_) | Subject::Cgroup(_) | Subject::Exe { .. } | Subject::Container(_) => None,
        };
        Anywhere { governing, policy, questions }
    };
    all.map(one).collect()
}

/// The ways to ask a live socket for its owner. Sockets that were closed, and packets without one, have none.
fn accounts(input: &Input<'_>, subject: &Subject) -> Vec<Vec<Statement>> {
    let owner = |place: &Place| match place {
        Place::User(id) => Some(vec![Statement::Owner(Account::User(*id))]),
        Place::Group(id) => Some(vec![Statement::Owner(Account::Group(*id))]),
        Place::Cgroup(_) | Place::Former(_) | Place::Address(_) => None,
    };
    subjects::places(input, subject).iter().filter_map(owner).collect()
}

impl Anywhere<'_> {
    /// True when its subject is no cgroup: it is asked for wherever a packet comes from.
    pub fn is_everywhere(&self) -> bool {
        self.questions.is_some()
    }

    /// The rules that lead a packet which travels this way to the chains of the policy.
    fn grants(&self, way: Direction, road: Road) -> Vec<Rule> {
        let policy = self.policy;
        let opens = way == policy.id.direction;
        let mut rules = Vec::new();
        for port in &policy.ports {
            let to_chain = || {
                jump(match road {
                    Road::Own => names::policy_chain(policy, port.protocol),
                    Road::Forwarded => names::through_chain(policy, port.protocol, way),
                })
            };
            let transport = |number| {
                let side = if opens { Side::Destination } else { Side::Source };
                Statement::Port { protocol: number, side, range: port.range }
            };
            match port.protocol {
                Protocol::Tcp if opens => rules.push(vec![transport(protocol::TCP), to_chain()]),
                Protocol::Tcp => {
                    rules.push(vec![not_first(), transport(protocol::TCP), to_chain()]);
                    // No socket tells what an error is about.
                    if (road, way) == (Road::Forwarded, Direction::Ingress) {
                        rules.extend(errors_of(&to_chain()));
                    }
                }
                Protocol::Udp => {
                    rules.push(vec![transport(protocol::UDP), to_chain()]);
                    // Errors about its datagrams meet its socket as well.
                    if way == Direction::Ingress {
                        rules.extend(errors_of(&to_chain()));
                    }
                }
                Protocol::Icmp => {
                    let of = |family| vec![Statement::Protocol(icmp_of(family)), to_chain()];
                    rules.extend(Family::ALL.map(of));
                }
            }
        }
        rules
    }
}

/// Whose packets are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Road {
    /// Those of this host's sockets.
    Own,
    /// Those that it forwards, where no rule can ask for a socket.
    Forwarded,
}

/// The rules that try these policies.
pub fn try_grants(policies: &[&Anywhere<'_>], way: Direction, road: Road) -> Vec<Rule> {
    policies.iter().flat_map(|one| one.grants(way, road)).collect()
}

/// The way through which governed networks try what is admitted to any address.
pub fn grants_chain(way: Direction) -> String {
    format!("anywhere-grants-{}", names::way(way))
}

/// The same for packets whose socket is in no cgroup of a subject.
pub fn rest_chain(way: Direction) -> String {
    format!("anywhere-rest-{}", names::way(way))
}

fn port_map(direction: Direction) -> String {
    format!("anywhere-{direction}")
}

fn echo_chain(way: Direction) -> String {
    format!("anywhere-echo-{}", names::way(way))
}

/// Adds what does not follow the places of subjects: maps by port, and the way to them from the governed networks.
pub fn add(input: &Input<'_>, services: &[Governing<'_>], ruleset: &mut Ruleset) {
    let policies = policies(input, services);
    if policies.is_empty() {
        return;
    }
    for direction in Direction::ALL {
        add_port_map(&policies, direction, ruleset);
        let way = names::way(direction);
        for family in Family::ALL {
            let grants = format!("grants-{way}{}", names::digit(family));
            if let Some(grants) = ruleset.chains.get_mut(&grants) {
                grants.rules.push(vec![goto(grants_chain(direction))].into());
            }
        }
    }
}

fn add_port_map(policies: &[Anywhere<'_>], direction: Direction, ruleset: &mut Ruleset) {
    let mut set = Set::verdicts(&[Field::Protocol, Field::Port]).with_intervals();
    let of_direction =
        policies.iter().map(|one| one.policy).filter(|policy| policy.id.direction == direction);
    let ports = of_direction.flat_map(|policy| policy.ports.iter().map(move |port| (policy, port)));
    let mut chains: BTreeMap<u8, Vec<(u128, u128, String)>> = BTreeMap::new();
    for (policy, port) in ports {
        let Some(number) = transport(port.protocol) else { continue };
        let (low, high) = (u128::from(port.range.low()), u128::from(port.range.high()));
        chains.entry(number).or_default().push((low, high, names::policy_chain(policy, port.protocol)));
    }
    for (number, chains) in chains {
        let ranges = chains.iter().map(|(low, high, chain)| (*low, *high, chain.as_str()));
        for piece in ranges::sweep(ranges) {
            let key = |port| Key::builder().protocol(number).port(narrow(port)).build();
            let targets = piece.covers.iter().map(|chain| (*chain).into()).collect();
            let verdict = Some(Verdict::Jump(grants::target(ruleset, targets)));
            let element = Element { last: Some(key(piece.last)), verdict, ..Element::default() };
            set.elements.insert(key(piece.first), element);
        }
    }
    ruleset.sets.insert(port_map(direction), set);
}

fn transport(protocol: Protocol) -> Option<u8> {
    match protocol {
        Protocol::Tcp => Some(protocol::TCP),
        Protocol::Udp => Some(protocol::UDP),
        Protocol::Icmp => None,
    }
}

/// The ranges come from 16-bit ports.
fn narrow(port: u128) -> u16 {
    u16::try_from(port).unwrap_or(u16::MAX)
}

/// Adds what is tried for packets of no subject's cgroup: policies whose subject is asked for, and for packets without a
/// socket in a cgroup every policy for their port.
pub fn add_rest(policies: &[Anywhere<'_>], ruleset: &mut Ruleset) {
    for way in Direction::ALL {
        let everywhere: Vec<_> = policies.iter().filter(|one| one.is_everywhere()).collect();
        let mut rules = try_grants(&everywhere, way, Road::Own);
        rules.push(vec![in_a_cgroup(), back()]);
        let answers = match way {
            Direction::Egress => Direction::Ingress,
            Direction::Ingress => Direction::Egress,
        };
        let by_port = |side, direction| dispatch(&[Load::Protocol, Load::Port(side)], port_map(direction));
        rules.push(vec![by_port(Side::Destination, way)]);
        rules.push(vec![not_first(), by_port(Side::Source, answers)]);
        rules.push(vec![Statement::Protocol(protocol::UDP), by_port(Side::Source, answers)]);
        let echo = |family| vec![Statement::Protocol(icmp_of(family)), jump(echo_chain(way))];
        rules.extend(Family::ALL.map(echo));
        chain(ruleset, rest_chain(way), rules);
        let echoes =
            policies.iter().filter(|one| one.policy.ports.iter().any(|p| p.protocol == Protocol::Icmp));
        let echoes = echoes.map(|one| vec![jump(names::policy_chain(one.policy, Protocol::Icmp))]);
        chain(ruleset, echo_chain(way), echoes.collect());
    }
}

/// Adds the chains that refuse and count for each service with such a policy. `holds`: the first segment of a
/// connection to an address that was just learned is held.
pub fn add_refusals(input: &Input<'_>, services: &[Governing<'_>], holds: bool, ruleset: &mut Ruleset) {
    for governing in services {
        let service = governing.standing.service;
        if !service.policies.iter().any(Policy::is_any) {
            continue;
        }
        let whose = Charged::Any(service.name.clone());
        let observes = [input.settings.enforcement.mode, service.mode].contains(&Mode::Observe);
        // What the forward hook reaches must not ask for sockets.
        let is_forwarded =
            |policy: &Policy| policy.is_any() && matches!(policy.subject, Subject::Container(_));
        let holds = holds && !service.policies.iter().any(is_forwarded);
        for way in Direction::ALL {
            let owner = Owner { governing, questions: vec![Vec::new()] };
            chain(ruleset, refusal_chain(governing, way), reasons(input, &[&owner], way));
            for reason in Reason::of_services(way) {
                let rules = match observes {
                    true => shared::observing(input, &whose, way, reason, &back()),
                    false => fresh::holding(shared::refusing(input, &whose, way, reason), way, holds),
                };
                chain(ruleset, whose.stem(way, reason), rules);
                CountSets::both(&whose, way, reason).iter().for_each(|sets| sets.declare(ruleset));
            }
        }
    }
}

fn refusal_chain(governing: &Governing<'_>, way: Direction) -> String {
    format!("any-{}-{}", governing.standing.service.name, names::way(way))
}

/// A service that refuses, and what tells that a packet is of its subject.
#[derive(Clone)]
struct Owner<'a> {
    governing: &'a Governing<'a>,
    questions: Vec<Vec<Statement>>,
}

/// The rules that refuse what belongs to these policies and no grant admits.
pub fn refuse(
    input: &Input<'_>,
    policies: &[&Anywhere<'_>],
    way: Direction,
    road: Road,
    ruleset: &mut Ruleset,
) -> Vec<Rule> {
    let mut rules = Vec::new();
    if policies.is_empty() {
        return rules;
    }
    // From outside a reset has to meet a socket, which nobody can tell of what is forwarded.
    if (road, way) != (Road::Forwarded, Direction::Ingress) {
        rules.push(vec![reset_segment(), jump(format!("reset-{}", names::way(way)))]);
    }
    for opens in [true, false] {
        let in_role: Vec<&Anywhere<'_>> =
            policies.iter().copied().filter(|one| (one.policy.id.direction == way) == opens).collect();
        for of in [Protocol::Tcp, Protocol::Udp] {
            let Some(number) = transport(of) else { continue };
            let ports = in_role.iter().enumerate().flat_map(|(index, one)| {
                let ports = one.policy.ports.iter().filter(move |port| port.protocol == of);
                ports.map(move |port| (u128::from(port.range.low()), u128::from(port.range.high()), index))
            });
            for piece in ranges::sweep(ports) {
                let owners: Vec<_> =
                    piece.covers.iter().filter_map(|index| in_role.get(*index).copied()).collect();
                let side = if opens { Side::Destination } else { Side::Source };
                let range = PortRange::from_zero(narrow(piece.first), narrow(piece.last));
                let mut rule = vec![Statement::Port { protocol: number, side, range }];
                if of == Protocol::Tcp && !opens {
                    rule.insert(0, not_first());
                }
                rule.push(jump(owners_chain(input, &owners, way, ruleset)));
                rules.push(rule);
            }
        }
        let has_echo = |one: &&Anywhere<'_>| one.policy.ports.iter().any(|p| p.protocol == Protocol::Icmp);
        let owners: Vec<_> = in_role.into_iter().filter(has_echo).collect();
        if !owners.is_empty() {
            let to_owners = jump(owners_chain(input, &owners, way, ruleset));
            rules.extend(Family::ALL.map(|family| {
                let echo = if opens { echo_request(family) } else { echo_reply(family) };
                vec![echo, to_owners.clone()]
            }));
        }
    }
    rules
}

/// The chain that finds which of the policies' services refuses, and why.
fn owners_chain(
    input: &Input<'_>,
    policies: &[&Anywhere<'_>],
    way: Direction,
    ruleset: &mut Ruleset,
) -> String {
    let mut owners: BTreeMap<(&str, bool), Owner<'_>> = BTreeMap::new();
    let mut members = BTreeSet::new();
    for one in policies {
        let name = one.governing.standing.service.name.as_str();
        // An account that does not exist is asked for in no way, and is nobody.
        let asked = one.questions.as_ref().filter(|questions| !questions.iter().any(Vec::is_empty));
        let owner = owners
            .entry((name, asked.is_some()))
            .or_insert_with(|| Owner { governing: one.governing, questions: Vec::new() });
        match asked {
            None => owner.questions = vec![Vec::new()],
            Some(questions) => owner.questions.extend(questions.iter().cloned()),
        }
        let subject = asked.map(|_| one.policy.subject.to_string());
        members.insert(format!("{name} {}", subject.unwrap_or_default()));
    }
    let owners: Vec<_> = owners.into_values().collect();
    if let [only] = owners.as_slice()
        && only.questions.iter().any(Vec::is_empty)
    {
        return refusal_chain(only.governing, way);
    }
    let digest = names::digest("nest-owners", members.iter().map(String::as_str));
    let name = format!("{digest}-{}", names::way(way));
    if !ruleset.chains.contains_key(&name) {
        let owners: Vec<_> = owners.iter().collect();
        chain(ruleset, name.clone(), reasons(input, &owners, way));
    }
    name
}

/// The rules that find the reason by time; the first in the order of states decides, then the first by name.
fn reasons(input: &Input<'_>, owners: &[&Owner<'_>], way: Direction) -> Vec<Rule> {
    let mut rules = Vec::new();
    for state in ServiceState::ALL {
        for owner in owners {
            let Some(tests) = refusal::tests(input, owner.governing, state) else { continue };
            let service = owner.governing.standing.service;
            let whose = Charged::Any(service.name.clone());
            let to = |reason| goto(whose.stem(way, reason));
            for question in &owner.questions {
                let asks = state == ServiceState::Open && way == Direction::Egress;
                if asks && tls::is_asked_for(service) {
                    let plaintext = tls::plaintext(&[goto(whose.stem(way, Reason::Plaintext))]);
                    rules.extend(plaintext.into_iter().map(|rule| [question.clone(), rule].concat()));
                }
                rules.push([question.clone(), tests.clone(), vec![to(state.reason())]].concat());
                if question.is_empty() && tests.is_empty() {
                    return rules;
                }
            }
        }
    }
    rules
}
