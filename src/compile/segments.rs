//! Segments: a pair of chains for each, by the way that a packet travels, and the sets of what its file allows.
//!
//! A packet comes here when its socket was created in the segment's subject ([`super::nests`]), after everything that
//! could have admitted or refused it: a grant is on top of a segment. What the segment allows *returns*, because
//! another segment around it has to allow it too; all else is counted and refused.
//!
//! What has no such socket is not of the subject, and never comes here: what TIME_WAIT and SYN_RECV sockets send and
//! get, neighbour discovery, echo requests, which the kernel answers, and the replies to ours. Nothing of that carries
//! data for a process but the segment that completes a handshake, and a handshake begins with a SYN that is judged.

use std::collections::BTreeSet;

use super::counts::{Charged, CountSets};
use super::flows::flow;
use super::shared::{
    self, Rule, back, chain, echo_reply, echo_request, goto, icmp_of, jump, lookup, reset_segment, update,
};
use super::{Input, fresh, grants, names};
use crate::model::{
    Direction, Family, Mode, PortRange, Prefix, Protocol, Reason, Segment, SegmentName, Subject,
};
use crate::ruleset::{Element, Field, Key, Load, Ruleset, Set, Side, Statement, protocol, tcp};

/// The chain that judges what travels this way.
pub fn chain_of(segment: &SegmentName, way: Direction) -> String {
    format!("seg-{segment}-{}", names::way(way))
}

/// The same for what is forwarded, where no rule can ask for a socket.
pub fn through_chain_of(segment: &SegmentName, way: Direction) -> String {
    format!("through-seg-{segment}-{}", names::way(way))
}

fn refusal_chain(segment: &SegmentName, way: Direction) -> String {
    format!("isolated-{segment}-{}", names::way(way))
}

fn allowed_set(segment: &SegmentName, direction: Direction, family: Family) -> String {
    format!("seg-{segment}-{direction}{}", names::digit(family))
}

/// Adds everything of the segments but the way to them.
pub fn add(input: &Input<'_>, ruleset: &mut Ruleset) {
    if input.segments.is_empty() {
        return;
    }
    shared::add_errors_of_segments(ruleset);
    for segment in input.segments.values() {
        add_segment(input, segment, ruleset);
    }
}

fn add_segment(input: &Input<'_>, segment: &Segment, ruleset: &mut Ruleset) {
    let allowed = allowed(input, segment);
    ruleset.sets.extend(allowed.iter().map(|one| (one.set.clone(), one.elements())));
    let whose = Charged::Segment(segment.name.clone());
    let observes = [input.settings.enforcement.mode, segment.mode].contains(&Mode::Observe);
    let is_container = matches!(segment.subject, Subject::Container(_));
    // What the forward hook reaches must not ask for sockets.
    let holds = fresh::is_in(ruleset) && !is_container;
    for way in Direction::ALL {
        let refusal = refusal_chain(&segment.name, way);
        let mut rules = exempt(segment, way);
        rules.extend(Family::ALL.map(|family| vec![Statement::Fragment(family), goto(refusal.as_str())]));
        rules.extend(allowed.iter().flat_map(|one| one.rules(way)));
        rules.push(vec![goto(refusal.as_str())]);
        chain(ruleset, chain_of(&segment.name, way), rules);
        if is_container {
            chain(ruleset, through_chain_of(&segment.name, way), through_rules(&allowed, &refusal, way));
        }
        let rules = match observes {
            true => shared::observing(input, &whose, way, Reason::Isolated, &back()),
            false => fresh::holding(shared::refusing(input, &whose, way, Reason::Isolated), way, holds),
        };
        chain(ruleset, refusal, rules);
        CountSets::both(&whose, way, Reason::Isolated).iter().for_each(|sets| sets.declare(ruleset));
    }
}

/// Adds the sets of what these segments allow: all of them that follows the addresses of names.
pub fn add_allowed<'a>(
    input: &Input<'_>,
    segments: impl IntoIterator<Item = &'a Segment>,
    ruleset: &mut Ruleset,
) {
    let allowed = segments.into_iter().flat_map(|segment| allowed(input, segment));
    ruleset.sets.extend(allowed.map(|one| (one.set.clone(), one.elements())));
}

fn allowed(input: &Input<'_>, segment: &Segment) -> Vec<Allowed> {
    let each = Direction::ALL
        .into_iter()
        .flat_map(|direction| Family::ALL.map(|family| Allowed::of(input, segment, direction, family)));
    each.filter(|allowed| allowed.protocols().next().is_some()).collect()
}

/// What a container with a network of its own says and hears. Its echoes have no kernel of ours behind them, and are
/// judged. ICMP errors reach it, for path MTU discovery, and its kernel finds their sockets; those that it sends could
/// hide data, and nobody needs them.
fn through_rules(allowed: &[Allowed], refusal: &str, way: Direction) -> Vec<Rule> {
    let mut rules = match way {
        Direction::Egress => vec![vec![reset_segment(), jump("reset-out")]],
        Direction::Ingress => shared::errors_of(&back()).into(),
    };
    rules.extend(Family::ALL.map(|family| vec![Statement::Fragment(family), goto(refusal)]));
    rules.extend(allowed.iter().flat_map(|one| one.echoes(way)));
    rules.extend(allowed.iter().flat_map(|one| one.rules(way)));
    rules.push(vec![goto(refusal)]);
    rules
}

/// What no segment judges: resets without payload, our own among them, what the kernel itself says, and errors about
/// a live socket.
fn exempt(segment: &Segment, way: Direction) -> Vec<Rule> {
    let mut rules = Vec::new();
    match way {
        Direction::Egress => {
            rules.extend(segment.loopback.then(|| vec![Statement::LeavesByLoopback, back()]));
            rules.push(vec![reset_segment(), jump("reset-out")]);
            rules.push(shared::discovery(jump("neighbours-out")));
        }
        Direction::Ingress => {
            rules.extend(segment.loopback.then(|| vec![Statement::ArrivesByLoopback, back()]));
            rules.push(vec![reset_segment(), jump("reset-in")]);
        }
    }
    let errors = format!("segment-errors-{}", names::way(way));
    rules.extend(Family::ALL.map(|family| vec![Statement::Protocol(icmp_of(family)), jump(errors.as_str())]));
    rules
}

/// What a segment's file allows in one direction and family.
struct Allowed {
    set: String,
    direction: Direction,
    family: Family,
    /// By protocol: addresses and ports.
    boxes: Vec<(Protocol, u128, u128, PortRange)>,
    /// The protocols that names are allowed for: they have rules before they have addresses.
    named: BTreeSet<Protocol>,
}

impl Allowed {
    fn of(input: &Input<'_>, segment: &Segment, direction: Direction, family: Family) -> Self {
        let set = allowed_set(&segment.name, direction, family);
        let (mut boxes, mut named) = (Vec::new(), BTreeSet::new());
        for allow in segment.allow.iter().filter(|allow| allow.direction == direction) {
            let listed = allow.prefixes.iter().filter(|prefix| prefix.family() == family);
            let mut ranges: Vec<_> = listed.map(|prefix| (prefix.first(), prefix.last())).collect();
            if allow.any {
                ranges = vec![(0, last_address(family))];
            }
            if !allow.names.is_empty() {
                named.extend(allow.ports.iter().map(|port| port.protocol));
            }
            for port in &allow.ports {
                boxes.extend(ranges.iter().map(|(first, last)| (port.protocol, *first, *last, port.range)));
            }
        }
        if segment.dns && direction == Direction::Egress {
            let resolvers = input.resolvers.iter().map(|address| Prefix::single(*address));
            for resolver in resolvers.filter(|resolver| resolver.family() == family) {
                let ports = PortRange::from_zero(DNS, DNS);
                let dns = |protocol| (protocol, resolver.first(), resolver.last(), ports);
                boxes.extend([Protocol::Udp, Protocol::Tcp].map(dns));
            }
        }
        Self { set, direction, family, boxes, named }
    }

    fn elements(&self) -> Set {
        let family = self.family;
        let mut set = Set::plain(&[Field::Address(family), Field::Protocol, Field::Port]).with_intervals();
        for protocol in self.protocols() {
            let number = grants::number(protocol, family);
            let boxes = self.boxes.iter().filter(|(of, ..)| *of == protocol);
            let boxes = boxes.map(|(_, first, last, ports)| (*first, *last, *ports, ()));
            for (first, last, ports, _) in grants::disjoint(boxes) {
                let key = |address, port| {
                    Key::builder().address(family, address).protocol(number).port(port).build()
                };
                let element = Element { last: Some(key(last, ports.high())), ..Element::default() };
                set.elements.insert(key(first, ports.low()), element);
            }
        }
        set
    }

    fn protocols(&self) -> impl Iterator<Item = Protocol> {
        let all = [Protocol::Tcp, Protocol::Udp, Protocol::Icmp].into_iter();
        all.filter(|protocol| {
            self.named.contains(protocol) || self.boxes.iter().any(|(of, ..)| of == protocol)
        })
    }

    /// The rules that let what travels this way return: first packets and what follows them, or answers.
    fn rules(&self, way: Direction) -> Vec<Rule> {
        let opens = way == self.direction;
        let remote = Side::remote(way);
        // The provider's port for egress, ours for ingress.
        let port = match opens {
            true => Side::Destination,
            false => Side::Source,
        };
        let found =
            || lookup(&[Load::Address(self.family, remote), Load::Protocol, Load::Port(port)], &*self.set);
        let of = |number| Statement::Protocol(number);
        let flows = format!("udp-{}{}", names::way(self.direction), names::digit(self.family));
        let known = flow(self.family, remote);
        let mut rules = Vec::new();
        for protocol in self.protocols() {
            match (protocol, opens) {
                (Protocol::Tcp, true) => rules.push(vec![of(protocol::TCP), found(), back()]),
                (Protocol::Tcp, false) => rules.push(vec![not_first(), found(), back()]),
                (Protocol::Udp, true) => {
                    rules.push(vec![of(protocol::UDP), found(), update(&*flows, &known)]);
                    rules.push(vec![of(protocol::UDP), found(), back()]);
                }
                (Protocol::Udp, false) => {
                    rules.push(vec![of(protocol::UDP), found(), lookup(&known, &*flows), back()]);
                }
                // Echo requests that come in, and replies, belong to no socket.
                (Protocol::Icmp, true) => rules.push(vec![echo_request(self.family), found(), back()]),
                (Protocol::Icmp, false) => {}
            }
        }
        rules
    }

    /// The rules for echoes that are forwarded, in front of [`Self::rules`]: requests leave their identifier, and replies
    /// must find it.
    fn echoes(&self, way: Direction) -> Vec<Rule> {
        if !self.protocols().any(|protocol| protocol == Protocol::Icmp) {
            return Vec::new();
        }
        let remote = Load::Address(self.family, Side::remote(way));
        let found = || lookup(&[remote, Load::Protocol, Load::Port(Side::Destination)], &*self.set);
        let key = [remote, Load::EchoId(self.family)];
        let set = format!("echo-{}{}", names::way(self.direction), names::digit(self.family));
        match way == self.direction {
            true => vec![vec![echo_request(self.family), found(), update(set, &key)]],
            false => vec![vec![echo_reply(self.family), lookup(&key, set), back()]],
        }
    }
}

/// RFC 1035, section 4.2.
const DNS: u16 = 53;

fn last_address(family: Family) -> u128 {
    match family {
        Family::V4 => u128::from(u32::MAX),
        Family::V6 => u128::MAX,
    }
}

/// Any segment but the first of a connection.
pub fn not_first() -> Statement {
    Statement::TcpFlags { mask: tcp::SYN | tcp::ACK, value: tcp::SYN, negated: true }
}
