//! What every table has, whatever the schedules say: base chains, the order of checks, and the chains that services
//! share. Each rule here was proven with real traffic; the reasons stand beside them.

use std::time::Duration;

use super::counts::{self, Charged, CountSets, DYNAMIC_SIZE};
use super::flows::flow;
use super::{Input, exact, failsafe, fresh, names, refusal, who, windows};
use crate::model::{Direction, Family, Reason, Refusal, Settings};
use crate::ruleset::{Chain, Field, Hook, Load, Name, Ruleset, Set, Side, Statement, Verdict, protocol, tcp};

/// How long an answer to a datagram may take.
const FLOW_TIMEOUT: Duration = Duration::from_secs(120);

/// How long an observed flow that pauses still counts as one.
const OBSERVED_TIMEOUT: Duration = Duration::from_secs(600);

/// How long a remote address is remembered for the rate of its detailed records.
pub const DETAILS_TIMEOUT: Duration = Duration::from_secs(60);

/// How many times the rate of one remote address all of a direction, reason and family have together.
const LOG_RATES: u32 = 10;

/// A set that is always empty. "Not in it" is true for every socket that lives below the root cgroup, and not even
/// asked for packets without such a socket: those of TIME_WAIT, SYN_RECV and, up to Linux 6.12, of the kernel's
/// control sockets.
pub const NO_CGROUP: &str = "no-cgroup";

pub fn add(input: &Input<'_>, ruleset: &mut Ruleset) {
    ruleset.sets.insert(NO_CGROUP.into(), Set::plain(&[Field::Cgroup]));
    for family in Family::ALL {
        add_maps(family, ruleset);
        add_flow_sets(family, ruleset);
        who::add(family, ruleset);
        add_dispatch(input, family, ruleset);
    }
    add_counting(ruleset);
    add_base_chains(input, ruleset);
    add_remnants(ruleset);
    add_datagrams(ruleset);
    add_echo(ruleset);
    add_reasons(input, ruleset);
    add_refusals(input, ruleset);
}

/// A rule under construction.
pub type Rule = Vec<Statement>;

/// The chain of rules by this name.
pub fn chain(ruleset: &mut Ruleset, name: impl Into<String>, rules: Vec<Rule>) {
    let rules = rules.into_iter().map(Into::into).collect();
    ruleset.chains.insert(name.into(), Chain { base: None, rules });
}

pub fn accept() -> Statement {
    Statement::Verdict(Verdict::Accept)
}

pub fn back() -> Statement {
    Statement::Verdict(Verdict::Return)
}

pub fn jump(chain: impl Into<Name>) -> Statement {
    Statement::Verdict(Verdict::Jump(chain.into()))
}

pub fn goto(chain: impl Into<Name>) -> Statement {
    Statement::Verdict(Verdict::Goto(chain.into()))
}

pub fn lookup(key: &[Load], set: impl Into<Name>) -> Statement {
    Statement::Lookup { key: key.to_vec(), set: set.into(), negated: false }
}

pub fn not_in(key: &[Load], set: impl Into<Name>) -> Statement {
    Statement::Lookup { key: key.to_vec(), set: set.into(), negated: true }
}

pub fn dispatch(key: &[Load], map: impl Into<Name>) -> Statement {
    Statement::Dispatch { key: key.to_vec(), map: map.into() }
}

pub fn update(set: impl Into<Name>, key: &[Load]) -> Statement {
    Statement::Update { set: set.into(), key: key.to_vec(), limit: None }
}

pub fn flags(mask: u8, value: u8) -> Statement {
    Statement::TcpFlags { mask, value, negated: false }
}

/// Opens a connection: SYN without ACK.
pub fn first_segment() -> Statement {
    flags(tcp::SYN | tcp::ACK, tcp::SYN)
}

/// TCP, and not the first segment of a connection.
pub fn flags_other_than_first() -> Statement {
    Statement::TcpFlags { mask: tcp::SYN | tcp::ACK, value: tcp::SYN, negated: true }
}

pub fn reset_segment() -> Statement {
    flags(tcp::SYN | tcp::FIN | tcp::RST, tcp::RST)
}

/// The key of the endpoint maps: the remote address, the protocol and the provider's or our service port.
fn endpoint(family: Family, remote: Side, port: Side) -> [Load; 3] {
    [Load::Address(family, remote), Load::Protocol, Load::Port(port)]
}

/// Adds the maps from remote addresses to policies and services, empty.
pub fn add_maps(family: Family, ruleset: &mut Ruleset) {
    let digit = names::digit(family);
    let endpoint = [Field::Address(family), Field::Protocol, Field::Port];
    let address = [Field::Address(family)];
    ruleset.sets.insert(format!("governed{digit}"), Set::plain(&[Field::Network(family)]));
    for direction in Direction::ALL {
        ruleset.sets.insert(format!("{direction}{digit}"), Set::verdicts(&endpoint));
        ruleset.sets.insert(format!("{direction}{digit}-net"), Set::verdicts(&endpoint).with_intervals());
        let refuse = format!("refuse-{}{digit}", names::way(direction));
        ruleset.sets.insert(format!("{refuse}-net"), Set::verdicts(&address).with_intervals());
        ruleset.sets.insert(refuse, Set::verdicts(&address));
    }
    ruleset.sets.insert(names::errors(family, true), Set::verdicts(&address));
    ruleset.sets.insert(names::errors(family, false), Set::verdicts(&address).with_intervals());
}

fn add_flow_sets(family: Family, ruleset: &mut Ruleset) {
    let digit = names::digit(family);
    let address = Field::Address(family);
    let mut add = |name: String, fields: &[Field], timeout| {
        ruleset.sets.insert(name, Set::dynamic(fields, DYNAMIC_SIZE, Some(timeout), false));
    };
    for direction in Direction::ALL {
        let way = names::way(direction);
        add(format!("udp-{way}{digit}"), &[address, Field::Port, address, Field::Port], FLOW_TIMEOUT);
        add(format!("echo-{way}{digit}"), &[address, Field::EchoId(family)], FLOW_TIMEOUT);
        add(format!("details-{way}{digit}"), &[address], DETAILS_TIMEOUT);
    }
    let flow = [address, Field::Port, address, Field::Port, Field::Protocol];
    add(format!("observed{digit}"), &flow, OBSERVED_TIMEOUT);
    add(format!("observed-other{digit}"), &[address, address, Field::Protocol], OBSERVED_TIMEOUT);
}

fn add_counting(ruleset: &mut Ruleset) {
    for sets in counts::common() {
        sets.declare(ruleset);
    }
}

/// Ungoverned traffic leaves after one lookup of its network. What comes first costs every packet of the host.
fn add_base_chains(input: &Input<'_>, ruleset: &mut Ruleset) {
    let gate = |family, side, then: Statement| {
        vec![lookup(&[Load::Network(family, side)], format!("governed{}", names::digit(family))), then]
    };
    let mut add = |name: &str, hook, rules: Vec<Rule>| {
        let base = Some((hook, input.settings.enforcement.priority));
        let rules = rules.into_iter().map(Into::into).collect();
        ruleset.chains.insert(name.into(), Chain { base, rules });
    };
    let way = |side, name: &str| -> Vec<Rule> {
        Family::ALL.map(|family| gate(family, side, goto(format!("{name}{}", names::digit(family))))).into()
    };
    add("output", Hook::Output, way(Side::Destination, "out"));
    add("input", Hook::Input, way(Side::Source, "in"));
    let forward = Family::ALL
        .into_iter()
        .flat_map(|family| {
            let digit = names::digit(family);
            [
                gate(family, Side::Destination, jump(format!("through-out{digit}"))),
                gate(family, Side::Source, jump(format!("through-in{digit}"))),
            ]
        })
        .collect();
    add("forward", Hook::Forward, forward);
}

/// What nobody judges: loopback, over which our own resets come to local sockets, and the fail-safe.
pub fn unjudged(settings: &Settings, way: Direction) -> Vec<Rule> {
    let mut rules = vec![vec![loopback(way), accept()]];
    rules.extend(failsafe::rules(settings, way));
    rules
}

pub fn loopback(way: Direction) -> Statement {
    match way {
        Direction::Egress => Statement::LeavesByLoopback,
        Direction::Ingress => Statement::ArrivesByLoopback,
    }
}

fn add_dispatch(input: &Input<'_>, family: Family, ruleset: &mut Ruleset) {
    let digit = names::digit(family);
    add_lookups(family, "", &|direction, _| names::endpoints(direction, family), ruleset);
    for way in Direction::ALL {
        chain(ruleset, format!("{}{digit}", names::way(way)), judging(input.settings, way, family));
    }
    add_refusal_dispatch(input, family, ruleset);
}

/// What is not known to be open is asked for, and refused if nothing admits it.
pub fn judging(settings: &Settings, way: Direction, family: Family) -> Vec<Rule> {
    let (digit, way_name) = (names::digit(family), names::way(way));
    let mut rules = unjudged(settings, way);
    rules.push(vec![jump(format!("grants-{way_name}{digit}"))]);
    rules.push(vec![goto(format!("refuse-{way_name}{digit}"))]);
    rules
}

/// Adds the chains `grants-WAY` and `answers-WAY` behind a prefix. `endpoints` names the map of a direction's policies
/// for what travels a way.
///
/// The order of checks. Exact lookups come before intervals; the first segment of a connection is judged by the
/// policies of its own direction only, so that a grant to connect out never lets a provider connect in.
///
/// What no grant admits comes back here and is refused. Each map is named by as few rules as possible: at a change
/// of rules the kernel follows every mention of a map to the end of all its elements' chains.
pub fn add_lookups(
    family: Family,
    prefix: &str,
    endpoints: &dyn Fn(Direction, Direction) -> String,
    ruleset: &mut Ruleset,
) {
    let digit = names::digit(family);
    let (source, destination) = (Side::Source, Side::Destination);
    let map = |direction: Direction, remote, port, net: &str| {
        let way = if remote == source { Direction::Ingress } else { Direction::Egress };
        vec![dispatch(&endpoint(family, remote, port), format!("{}{net}", endpoints(direction, way)))]
    };
    // Fragments have no ports. IPv4 is put together before the input hook, IPv6 is not.
    let fragment = || vec![Statement::Fragment(family), back()];
    let (egress, ingress) = (Direction::Egress, Direction::Ingress);
    let answers = |way: &str| {
        let answers = format!("{prefix}answers-{way}{digit}");
        vec![flags_other_than_first(), jump(answers)]
    };
    // Only TCP tells who opened a connection; for all else both directions are asked, and look at their flows.
    let datagrams = |way: &str| {
        let answers = format!("{prefix}answers-{way}{digit}");
        [protocol::UDP, icmp_of(family)]
            .map(|number| vec![Statement::Protocol(number), jump(answers.clone())])
    };
    // Chains of services that are told by elements ask for sockets, which what is forwarded has none of.
    let exact = |way: &str, remote| {
        let lists = lookup(&[Load::Address(family, remote)], exact::address_set(family));
        prefix.is_empty().then(|| vec![lists, jump(exact::entry("grants", way, family))])
    };
    let mut grants_out: Vec<Rule> = vec![fragment()];
    grants_out.extend(exact("out", destination));
    // Ranges, too: most of what is sent belongs to connections that this host opened.
    grants_out.extend(["", "-net"].map(|net| map(egress, destination, destination, net)));
    grants_out.push(answers("out"));
    grants_out.extend(datagrams("out"));
    let answers_out = vec![map(ingress, destination, source, ""), map(ingress, destination, source, "-net")];
    let mut grants_in: Vec<Rule> = vec![fragment()];
    grants_in.extend(exact("in", source));
    grants_in.push(answers("in"));
    grants_in.extend(datagrams("in"));
    grants_in.extend([map(ingress, source, destination, ""), map(ingress, source, destination, "-net")]);
    let answers_in = vec![map(egress, source, source, ""), map(egress, source, source, "-net")];
    for (way, grants, answers) in [("out", grants_out, answers_out), ("in", grants_in, answers_in)] {
        chain(ruleset, format!("{prefix}grants-{way}{digit}"), grants);
        chain(ruleset, format!("{prefix}answers-{way}{digit}"), answers);
    }
}

pub fn icmp_of(family: Family) -> u8 {
    match family {
        Family::V4 => protocol::ICMP,
        Family::V6 => protocol::ICMPV6,
    }
}

/// From a packet that no grant admits to the service that owns its remote address. What nobody lists returns and is
/// accepted: only its network was governed.
fn add_refusal_dispatch(input: &Input<'_>, family: Family, ruleset: &mut Ruleset) {
    let digit = names::digit(family);
    let owner = |way: &str, side| {
        let address = [Load::Address(family, side)];
        let exact = lookup(&address, exact::address_set(family));
        let nets = ["", "-net"].map(|net| vec![dispatch(&address, format!("refuse-{way}{digit}{net}"))]);
        let mut rules = vec![vec![exact, goto(exact::entry("refuse", way, family))]];
        rules.extend(nets);
        rules
    };
    let icmp = icmp_of(family);
    let local = |way: &str| {
        let mut rules = match family {
            Family::V4 => vec![],
            Family::V6 if way == "out" => vec![discovery(jump("neighbours-out"))],
            Family::V6 => vec![discovery(accept())],
        };
        // Bare resets first: else our own would die in our own hooks.
        rules.push(vec![reset_segment(), jump(format!("reset-{way}"))]);
        rules.push(vec![Statement::Protocol(icmp), jump(format!("errors-{way}"))]);
        rules
    };
    let mut out = local("out");
    out.extend(who::rules(input, family));
    out.extend(owner("out", Side::Destination));
    let mut inward = local("in");
    inward.extend(owner("in", Side::Source));
    // A chain that reads sockets cannot even be reachable from the forward hook: it has its own way here.
    let mut through_out = vec![vec![reset_segment(), jump("reset-out")]];
    through_out.extend(owner("out", Side::Destination));
    chain(ruleset, format!("refuse-out{digit}"), out);
    chain(ruleset, format!("refuse-in{digit}"), inward);
    chain(ruleset, format!("through-out{digit}"), through_out);
    chain(ruleset, format!("through-in{digit}"), owner("in", Side::Source));
}

/// Neighbour discovery never comes from beyond the link (RFC 4861, section 7.1): without it IPv6 stops. Ours comes
/// from the kernel: a process could hide data in it. Its socket is of no file, but of the cgroup of whoever made
/// the network namespace, so that its cgroup tells nothing.
pub fn discovery(then: Statement) -> Rule {
    let types = Statement::IcmpType { family: Family::V6, low: 133, high: 136 };
    vec![types, Statement::HopLimit(255), then]
}

pub fn in_a_cgroup() -> Statement {
    not_in(&[Load::Cgroup { level: 1 }], NO_CGROUP)
}

/// Segments without payload whose socket has no cgroup any more, or not yet: ordinary connections need them to
/// begin and to end. They are asked for only while a grant for their endpoint is open.
fn add_remnants(ruleset: &mut Ruleset) {
    let payload = || vec![Statement::HasPayload, back()];
    let no_flags = || vec![flags(tcp::SYN | tcp::ACK | tcp::RST, 0), back()];
    let first = || vec![first_segment(), back()];
    chain(
        ruleset,
        "remnant-out",
        vec![first(), no_flags(), payload(), vec![in_a_cgroup(), back()], vec![accept()]],
    );
    // Payload may come: with the segment that completes the handshake, or for a socket that has just gone.
    chain(
        ruleset,
        "remnant-in",
        vec![first(), no_flags(), vec![Statement::FullSocket, back()], vec![accept()]],
    );
    // A new SYN that meets a TIME_WAIT or SYN_RECV socket of a port that is open to the provider.
    let exactly_syn = Statement::TcpFlags {
        mask: tcp::FIN | tcp::SYN | tcp::RST | tcp::ACK,
        value: tcp::SYN,
        negated: true,
    };
    chain(
        ruleset,
        "again-in",
        vec![
            payload(),
            vec![exactly_syn, back()],
            vec![Statement::FullSocket, back()],
            vec![Statement::AnySocket, accept()],
        ],
    );
    let leaving = || vec![Statement::Leaving, goto("remnant-out")];
    chain(ruleset, "remnant-egress", vec![leaving(), vec![goto("remnant-in")]]);
    chain(ruleset, "remnant-ingress", vec![leaving(), vec![jump("again-in")], vec![goto("remnant-in")]]);
    // Extension headers have room for data as well, and the kernel's resets have none.
    let hidden = || vec![Statement::ExtensionHeader, back()];
    chain(ruleset, "reset-out", vec![payload(), hidden(), vec![accept()]]);
    chain(ruleset, "reset-in", vec![payload(), hidden(), vec![Statement::AnySocket, accept()]]);
    // A reset that meets no socket does nothing: it is dropped and not counted as an attempt.
    chain(ruleset, "reset-stray", vec![payload(), hidden(), vec![Statement::Verdict(Verdict::Drop)]]);
    add_icmp_errors(ruleset);
}

/// ICMP errors by family, with their first and last type: destination unreachable, time exceeded and parameter problem
/// (RFC 792); 1 to 4 in RFC 4443.
pub const ERRORS: [(Family, u8, u8); 3] = [(Family::V4, 3, 3), (Family::V4, 11, 12), (Family::V6, 1, 4)];

/// The rules that accept errors of which this is true too.
fn errors(extra: &[Statement]) -> [Rule; 3] {
    ERRORS.map(|(family, low, high)| {
        let mut rule = vec![Statement::IcmpType { family, low, high }];
        rule.extend_from_slice(extra);
        rule.push(accept());
        rule
    })
}

/// The rules that lead errors to a verdict.
pub fn errors_of(verdict: &Statement) -> [Rule; 3] {
    ERRORS.map(|(family, low, high)| vec![Statement::IcmpType { family, low, high }, verdict.clone()])
}

/// Errors that no segment judges: the kernel's own, and from outside those about a socket. The kernel finds that socket by
/// what the error quotes; where a router's address cannot be known, its errors about a datagram must be believed too.
pub fn add_errors_of_segments(ruleset: &mut Ruleset) {
    let kernels = || vec![Statement::FromProcess, back()];
    chain(ruleset, "segment-errors-out", [vec![kernels()], errors(&[]).into()].concat());
    chain(ruleset, "segment-errors-in", errors(&[Statement::AnySocket]).into());
}

/// ICMP errors keep path MTU discovery alive. Ours come from the kernel, never from a process, which could hide
/// data in them. Those from outside must be about a live socket: of TCP any, because the kernel looks for the sequence
/// number in what is quoted; of anything else one with an open grant for their sender, because a socket that wants
/// to know its errors gets all that is quoted, so that a provider could talk to any process.
fn add_icmp_errors(ruleset: &mut Ruleset) {
    let kernels = || vec![vec![Statement::FromProcess, back()], vec![in_a_cgroup(), back()]];
    chain(ruleset, "errors-out", [kernels(), errors(&[]).into()].concat());
    chain(ruleset, "neighbours-out", vec![vec![Statement::FromProcess, back()], vec![accept()]]);
    let mut inward: Vec<Rule> = ERRORS
        .map(|(family, low, high)| {
            let types = Statement::IcmpType { family, low, high };
            vec![types, Statement::QuotesTcp(family), Statement::AnySocket, accept()]
        })
        .into();
    for family in Family::ALL {
        let sender = [Load::Address(family, Side::Source)];
        inward.extend([true, false].map(|single| vec![dispatch(&sender, names::errors(family, single))]));
    }
    chain(ruleset, "errors-in", inward);
    // Reached from a policy for datagrams that has found its socket.
    let errors_about_it = errors(&[Statement::Arriving, Statement::AnySocket]);
    chain(ruleset, "errors-datagram", errors_about_it.into());
}

/// UDP has no flags: the opening side records the flow, the other side must find it. No conntrack is needed.
fn add_datagrams(ruleset: &mut Ruleset) {
    for direction in Direction::ALL {
        let way = names::way(direction);
        let (opens, answers) = opening_and_answering(direction);
        let (first, second) = (Side::remote(direction), other(Side::remote(direction)));
        let set = |family| format!("udp-{way}{}", names::digit(family));
        // First: the numbers at the place of ports are none.
        let mut rules: Vec<Rule> = [protocol::ICMP, protocol::ICMPV6]
            .map(|number| vec![Statement::Protocol(number), goto("errors-datagram")])
            .into();
        rules
            .extend(Family::ALL.map(|family| vec![opens.clone(), update(set(family), &flow(family, first))]));
        rules.push(vec![opens, accept()]);
        rules.extend(
            Family::ALL
                .map(|family| vec![answers.clone(), lookup(&flow(family, second), set(family)), accept()]),
        );
        chain(ruleset, format!("udp-{direction}"), rules);
    }
    // An answer that finds its socket closed is no attempt: the kernel says that the port is unreachable.
    let answer = |family| {
        let known = lookup(&flow(family, Side::Source), format!("udp-out{}", names::digit(family)));
        vec![Statement::Protocol(protocol::UDP), known, accept()]
    };
    let answers_only = [vec![Statement::Leaving, back()], vec![Statement::AnySocket, back()]];
    chain(ruleset, "udp-late", answers_only.into_iter().chain(Family::ALL.map(answer)).collect());
}

/// Echo requests open, their replies answer: no socket tells whose they are, so the identifier does.
fn add_echo(ruleset: &mut Ruleset) {
    for direction in Direction::ALL {
        let way = names::way(direction);
        let (opens, answers) = opening_and_answering(direction);
        let key = |family, remote| [Load::Address(family, remote), Load::EchoId(family)];
        let (first, second) = (Side::remote(direction), other(Side::remote(direction)));
        let set = |family| format!("echo-{way}{}", names::digit(family));
        let mut rules: Vec<Rule> = Family::ALL
            .map(|family| vec![opens.clone(), echo_request(family), update(set(family), &key(family, first))])
            .into();
        rules.extend(Family::ALL.map(|family| vec![opens.clone(), echo_request(family), accept()]));
        rules.extend(Family::ALL.map(|family| {
            vec![answers.clone(), echo_reply(family), lookup(&key(family, second), set(family)), accept()]
        }));
        chain(ruleset, format!("echo-{direction}"), rules);
    }
}

pub fn opening_and_answering(direction: Direction) -> (Statement, Statement) {
    match direction {
        Direction::Egress => (Statement::Leaving, Statement::Arriving),
        Direction::Ingress => (Statement::Arriving, Statement::Leaving),
    }
}

pub fn other(side: Side) -> Side {
    match side {
        Side::Source => Side::Destination,
        Side::Destination => Side::Source,
    }
}

/// RFC 792 and RFC 4443.
pub fn echo_request(family: Family) -> Statement {
    let number = match family {
        Family::V4 => 8,
        Family::V6 => 128,
    };
    Statement::IcmpType { family, low: number, high: number }
}

pub fn echo_reply(family: Family) -> Statement {
    let number = match family {
        Family::V4 => 0,
        Family::V6 => 129,
    };
    Statement::IcmpType { family, low: number, high: number }
}

/// A chain for each direction and reason, shared by all services: it counts by source, logs at a bounded rate and
/// refuses. Every update of a dynamic set is a rule of its own, because a full set breaks its rule off. What comes here is an
/// attempt, and counted for its service already ([`no_attempt`]).
fn add_reasons(input: &Input<'_>, ruleset: &mut Ruleset) {
    for direction in Direction::ALL {
        for reason in Reason::of_services(direction) {
            let mut refused = count_and_log(input, &Charged::ByAddress, direction, reason);
            refused.push(refuse(direction, reason));
            chain(ruleset, names::reason_chain(direction, reason), refused);
            let mut observed = count_and_log(input, &Charged::ByAddress, direction, reason);
            observed.push(vec![accept()]);
            chain(ruleset, names::observed_chain(direction, reason), observed);
        }
        chain(ruleset, names::known_chain(direction), known_flows(direction, &accept()));
    }
}

/// The same for services that are told by elements alone, where what is no attempt leaves too: classes need not tell it.
/// `holds`: see [`no_attempt`].
pub fn add_exact_reasons(input: &Input<'_>, holds: bool, ruleset: &mut Ruleset) {
    for direction in Direction::ALL {
        for reason in Reason::of_services(direction).filter(|reason| *reason != Reason::Plaintext) {
            for (observes, then) in [(false, refuse(direction, reason)), (true, vec![accept()])] {
                let mut rules: Vec<Rule> = Vec::new();
                // First: what follows knows a flow that it has seen.
                if [Reason::Suspended, Reason::Unapproved].contains(&reason) {
                    let expired = refusal::exact_reason_chain(direction, Reason::Expired, observes);
                    rules.extend(Family::ALL.map(|family| {
                        let address = [Load::Address(family, Side::remote(direction))];
                        vec![not_in(&address, exact::shut_set(family)), goto(expired.clone())]
                    }));
                }
                rules.extend(no_attempt(direction, observes, holds));
                rules.extend(count_and_log(input, &Charged::Exact, direction, reason));
                rules.push(then);
                chain(ruleset, refusal::exact_reason_chain(direction, reason, observes), rules);
            }
        }
    }
}

/// What the owner of an address refuses but is no attempt: the rule in front of those that count. `observes`: the owner only
/// observes. `holds`: the first segment of a connection to an address that was just learned is held.
pub fn no_attempt(direction: Direction, observes: bool, holds: bool) -> Option<Rule> {
    match (observes, direction) {
        (true, _) => Some(vec![jump(names::known_chain(direction))]),
        (false, Direction::Egress) => holds.then(|| vec![first_segment(), jump(fresh::LISTED)]),
        (false, Direction::Ingress) => Some(stray_resets()),
    }
}

fn stray_resets() -> Rule {
    vec![reset_segment(), jump("reset-stray")]
}

fn refuse(direction: Direction, reason: Reason) -> Rule {
    vec![goto(match reason {
        Reason::Plaintext => "refuse-plaintext".to_owned(),
        _ => format!("refuse-{direction}"),
    })]
}

/// The rules that count and refuse.
pub fn refusing(input: &Input<'_>, whose: &Charged, direction: Direction, reason: Reason) -> Vec<Rule> {
    let mut rules = match direction {
        Direction::Egress => vec![],
        Direction::Ingress => vec![stray_resets()],
    };
    rules.extend(count_and_log(input, whose, direction, reason));
    rules.push(refuse(direction, reason));
    rules
}

/// The rules that count a flow once; `then` is what becomes of its packets.
pub fn observing(
    input: &Input<'_>,
    whose: &Charged,
    direction: Direction,
    reason: Reason,
    then: &Statement,
) -> Vec<Rule> {
    let mut rules = known_flows(direction, then);
    rules.extend(count_and_log(input, whose, direction, reason));
    rules.push(vec![then.clone()]);
    rules
}

fn count_and_log(input: &Input<'_>, whose: &Charged, direction: Direction, reason: Reason) -> Vec<Rule> {
    let remote = Side::remote(direction);
    let attempts = &input.settings.attempts;
    let mut rules = vec![vec![Statement::Count(whose.stem(direction, reason))]];
    for sets in CountSets::both(whose, direction, reason) {
        let address = Load::Address(sets.family, remote);
        rules.push(vec![update(sets.hosts, &[address, Load::Protocol])]);
        let ports = [address, Load::Protocol, Load::Port(Side::Destination)];
        for number in [protocol::TCP, protocol::UDP] {
            rules.push(vec![Statement::Protocol(number), update(sets.ports.clone(), &ports)]);
        }
    }
    rules.extend(Family::ALL.map(|family| {
        let details = Statement::Update {
            set: format!("details-{}{}", names::way(direction), names::digit(family)).into(),
            key: vec![Load::Address(family, remote)],
            limit: Some(attempts.log_rate),
        };
        let prefix = whose.log_prefix(direction, reason);
        let together = Statement::Limit(attempts.log_rate.saturating_mul(LOG_RATES));
        vec![details, together, Statement::Log { prefix, group: attempts.log_group }]
    }));
    rules
}

/// The keys of observed flows with ports, and of those without.
pub fn flow_keys(family: Family, direction: Direction) -> ([Load; 5], [Load; 3]) {
    let remote = Side::remote(direction);
    let local = other(remote);
    let address = |side| Load::Address(family, side);
    (
        [address(remote), Load::Port(remote), address(local), Load::Port(local), Load::Protocol],
        [address(remote), address(local), Load::Protocol],
    )
}

/// In observe mode a flow counts once, whichever way its packets travel.
fn known_flows(direction: Direction, then: &Statement) -> Vec<Rule> {
    let mut rules = Vec::new();
    for family in Family::ALL {
        let digit = names::digit(family);
        let (flow, hosts) = flow_keys(family, direction);
        rules.push(vec![lookup(&flow, format!("observed{digit}")), then.clone()]);
        rules.push(vec![lookup(&hosts, format!("observed-other{digit}")), then.clone()]);
        for number in [protocol::TCP, protocol::UDP] {
            rules.push(vec![Statement::Protocol(number), update(format!("observed{digit}"), &flow)]);
        }
        // ICMP has no ports: all of it between two hosts is one flow.
        for number in [protocol::ICMP, protocol::ICMPV6] {
            rules.push(vec![Statement::Protocol(number), update(format!("observed-other{digit}"), &hosts)]);
        }
    }
    rules
}

/// What a refused packet gets. Segments of existing connections from outside always get a reset, so that the
/// provider learns of the close.
fn add_refusals(input: &Input<'_>, ruleset: &mut Ruleset) {
    let enforcement = &input.settings.enforcement;
    let existing = || flags(tcp::SYN | tcp::RST, 0);
    let just_closed = lookup(&[Load::Time], windows::CLOSING);
    let drop = || vec![Statement::Verdict(Verdict::Drop)];
    let tell = || {
        vec![
            vec![Statement::Protocol(protocol::TCP), Statement::RejectWithReset],
            vec![Statement::RejectAsProhibited],
        ]
    };
    let refused = match enforcement.egress_refusal {
        Refusal::Reject => tell(),
        Refusal::Drop => vec![drop()],
    };
    let mut egress = vec![vec![existing(), just_closed, Statement::Verdict(Verdict::Drop)]];
    egress.extend(refused.clone());
    let mut ingress = vec![vec![existing(), Statement::RejectWithReset]];
    match enforcement.ingress_refusal {
        Refusal::Reject => ingress.extend(tell()),
        Refusal::Drop => ingress.push(drop()),
    }
    chain(ruleset, "refuse-egress", egress);
    // Its grant goes on: no teardown is on its way.
    chain(ruleset, "refuse-plaintext", refused);
    chain(ruleset, "refuse-ingress", ingress);
}
