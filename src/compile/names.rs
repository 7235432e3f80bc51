//! The names of everything in the table. Names of services and subjects stand behind a fixed prefix, so that a
//! service may be called `drop`.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use crate::model::{
    Direction, Family, Opening, Policy, Protocol, Reason, Service, ServiceName, Span, Time, Window,
};

/// `4` or `6`.
pub fn digit(family: Family) -> char {
    match family {
        Family::V4 => '4',
        Family::V6 => '6',
    }
}

/// `out` or `in`: which way a packet travels.
pub fn way(direction: Direction) -> &'static str {
    match direction {
        Direction::Egress => "out",
        Direction::Ingress => "in",
    }
}

/// What the names of sets of openings begin with.
pub const OPEN: &str = "open";

/// The set of the openings of some windows: services with the same timetable share it.
pub fn open(service: &Service, which: Option<&[usize]>) -> String {
    let mut parts: Vec<String> = match which {
        None => service.windows.iter().map(opening).collect(),
        Some(indices) => indices.iter().filter_map(|i| service.windows.get(*i)).map(opening).collect(),
    };
    parts.sort_unstable();
    // Named windows that are none differ from a service without windows, which is always open.
    parts.push(which.is_some().to_string());
    parts.extend(std::iter::once(&service.lifetime).chain(&service.exceptions).map(span));
    digest(OPEN, parts.iter().map(String::as_str))
}

/// The set of the openings of all windows, whatever the lifetime is; `None`: nothing closes it meanwhile.
pub fn timetable(service: &Service) -> Option<String> {
    let mut parts: Vec<String> = service.windows.iter().map(opening).collect();
    parts.sort_unstable();
    parts.extend(service.exceptions.iter().map(span));
    (!parts.is_empty()).then(|| digest(&format!("{OPEN}-any"), parts.iter().map(String::as_str)))
}

fn opening(window: &Window) -> String {
    match &window.opening {
        Opening::Recurring { cron, until, timezone } => format!("{} {until:?} {timezone}", cron.text()),
        Opening::Absolute(at) => span(at),
    }
}

/// In nanoseconds: as text a time costs more than the digest.
fn span(span: &Span) -> String {
    let at = |time: Time| (time.timestamp(), time.timestamp_subsec_nanos());
    let ((from, from_nanos), (to, to_nanos)) = (at(span.opens_at()), at(span.closes_at()));
    format!("{from}.{from_nanos}-{to}.{to_nanos}")
}

/// The sets of openings that a service may ask for: its own, those of policies with windows of their own, and that of its
/// windows.
pub fn opening_sets(service: &Service) -> BTreeSet<String> {
    let own = service.policies.iter().filter_map(|policy| policy.windows.as_deref()).map(Some);
    own.chain([None]).map(|which| open(service, which)).chain(timetable(service)).collect()
}

/// The chain of a policy for one protocol.
pub fn policy_chain(policy: &Policy, protocol: Protocol) -> String {
    let id = &policy.id;
    format!("svc-{}-{}-{}-{}", id.service, id.direction, id.index, protocol.as_str())
}

/// The chain of a policy for what is forwarded to its remote side, or from it.
pub fn through_chain(policy: &Policy, protocol: Protocol, way: Direction) -> String {
    format!("{}-through-{}", policy_chain(policy, protocol), self::way(way))
}

/// The map from the remote side of a direction's policies to their chains; that of ranges ends with `-net`.
pub fn endpoints(direction: Direction, family: Family) -> String {
    format!("{direction}{}", digit(family))
}

/// The same for what is forwarded one way.
pub fn endpoints_through(direction: Direction, way: Direction, family: Family) -> String {
    format!("through-{direction}-{}{}", self::way(way), digit(family))
}

/// The chain that refuses what travels this way and belongs to a service.
pub fn refusal_chain(service: &ServiceName, direction: Direction) -> String {
    format!("svc-{service}-{}", way(direction))
}

/// A name for what is the same for several: a digest of its parts.
pub fn digest<'a>(prefix: &str, members: impl IntoIterator<Item = &'a str>) -> String {
    let mut hash = Sha256::new();
    for member in members {
        hash.update(member.as_bytes());
        hash.update([0]);
    }
    format!("{prefix}-{}", hex(&hash.finalize()[..6]))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The map from the sender of an ICMP error to the policies that may admit it: single addresses, or ranges of them.
pub fn errors(family: Family, single: bool) -> String {
    format!("errors{}{}", digit(family), if single { "" } else { "-net" })
}

/// The map from the remote side of an ICMP error that is forwarded this way to the policies that may admit it.
pub fn errors_through(way: Direction, family: Family, single: bool) -> String {
    format!("through-errors-{}{}{}", self::way(way), digit(family), if single { "" } else { "-net" })
}

/// The chain of a direction and reason, and the counter of all services together.
pub fn reason_chain(direction: Direction, reason: Reason) -> String {
    format!("{}-{reason}", way(direction))
}

/// The same for services that are told by elements alone.
pub fn exact_reason_chain(chain: &str) -> String {
    format!("exact-{chain}")
}

/// The chain that accepts the flows which were observed before.
pub fn known_chain(direction: Direction) -> String {
    format!("known-{}", way(direction))
}

pub fn observed_chain(direction: Direction, reason: Reason) -> String {
    format!("observed-{}-{reason}", way(direction))
}
