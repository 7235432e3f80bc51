//! Would this packet pass at this instant, and why? The same meaning as [`crate::compile`], written independently:
//! a plain look at every service, without tables. Property tests hold the two against each other.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::compile::Standing;
use crate::model::{
    Direction, PolicyId, Port, Protocol, Reason, Segment, SegmentName, ServiceName, ServiceState, Settings,
    Subject, Time,
};
use crate::schedule;

/// A connection, or an exchange of datagrams, as a schedule sees it.
#[derive(Debug, Clone, Copy)]
pub struct Packet {
    /// Who opens it.
    pub direction: Direction,
    pub remote: IpAddr,
    pub protocol: Protocol,
    /// The provider's port for egress, the local one for ingress; without meaning for icmp.
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Explanation {
    /// A grant admits it until then; of several the one that lasts longest.
    Allow { policy: PolicyId, until: Time },
    /// It is refused, or would be if its service were not in observe mode.
    Refuse { service: ServiceName, reason: Reason },
    /// Nothing grants or governs it, and a segment around the process does not allow it; of several the first by name.
    Isolate { segment: SegmentName },
    /// Nothing governs it.
    Ungoverned,
}

/// Explains a packet of a process; `is` says whether the process belongs to a subject.
pub fn explain(
    services: &[Standing<'_>],
    packet: &Packet,
    is: &dyn Fn(&Subject) -> bool,
    at: Time,
) -> Explanation {
    if let Some((until, policy)) = services.iter().filter_map(|s| grant(s, packet, is, at)).max() {
        return Explanation::Allow { policy, until };
    }
    match owner(services, packet.remote, at).or_else(|| owner_of_any(services, packet, is, at)) {
        Some((service, state)) => Explanation::Refuse { service, reason: state.reason() },
        None => Explanation::Ungoverned,
    }
}

/// The same with segments around the process. Traffic on loopback is asked of segments only, and only of those that do
/// not let it pass: use [`allows`] for it.
pub fn explain_enclosed(
    services: &[Standing<'_>],
    segments: &BTreeMap<SegmentName, Segment>,
    resolvers: &[IpAddr],
    packet: &Packet,
    is: &dyn Fn(&Subject) -> bool,
    at: Time,
) -> Explanation {
    let explanation = explain(services, packet, is, at);
    if is_answered_by_kernel(packet) {
        return explanation;
    }
    let refuses = |segment: &&Segment| is(&segment.subject) && !allows(segment, resolvers, packet);
    match (&explanation, segments.values().find(refuses)) {
        (Explanation::Ungoverned, Some(segment)) => Explanation::Isolate { segment: segment.name.clone() },
        (_, Some(_) | None) => explanation,
    }
}

/// True when the segment's own file lets a packet of its subject pass.
pub fn allows(segment: &Segment, resolvers: &[IpAddr], packet: &Packet) -> bool {
    let dns = segment.dns
        && packet.direction == Direction::Egress
        && packet.protocol != Protocol::Icmp
        && packet.port == 53
        && resolvers.contains(&packet.remote);
    let listed = segment.allow.iter().filter(|allow| allow.direction == packet.direction).any(|allow| {
        (allow.any || allow.prefixes.iter().any(|prefix| prefix.contains(packet.remote)))
            && covers(&allow.ports, packet)
    });
    dns || listed
}

fn grant(
    standing: &Standing<'_>,
    packet: &Packet,
    is: &dyn Fn(&Subject) -> bool,
    at: Time,
) -> Option<(Time, PolicyId)> {
    let service = standing.service;
    let mut policies = service
        .policies
        .iter()
        .filter(|policy| {
            policy.id.direction == packet.direction
                && (policy.is_any() || policy.prefixes.iter().any(|prefix| prefix.contains(packet.remote)))
                && covers(&policy.ports, packet)
                && is(&policy.subject)
        })
        .peekable();
    // Last, because it may cost a calendar, and nearly every service has no policy for the packet.
    policies.peek()?;
    match schedule::state(service, standing.record, standing.approved, at) {
        ServiceState::Open => {}
        ServiceState::Decommissioned
        | ServiceState::Suspended
        | ServiceState::Closed
        | ServiceState::Pending
        | ServiceState::Unapproved => return None,
    }
    let instant = at + chrono::TimeDelta::nanoseconds(1);
    policies
        .filter_map(|policy| {
            let spans = schedule::openings(service, policy.windows.as_deref(), at, instant);
            let until = spans.iter().find(|span| span.contains(at))?.closes_at();
            Some((until, policy.id.clone()))
        })
        .max()
}

/// Echo requests from outside belong to no process.
fn is_answered_by_kernel(packet: &Packet) -> bool {
    packet.direction == Direction::Ingress && packet.protocol == Protocol::Icmp
}

fn covers(ports: &[Port], packet: &Packet) -> bool {
    ports.iter().any(|port| {
        port.protocol == packet.protocol
            && (port.protocol == Protocol::Icmp || port.range.contains(packet.port))
    })
}

/// Of those with a policy for any address that is about this process and port, the first by state, then by name.
fn owner_of_any(
    services: &[Standing<'_>],
    packet: &Packet,
    is: &dyn Fn(&Subject) -> bool,
    at: Time,
) -> Option<(ServiceName, ServiceState)> {
    let governs = |standing: &&Standing<'_>| {
        standing.service.policies.iter().filter(|policy| policy.is_any()).any(|policy| {
            policy.id.direction == packet.direction
                && covers(&policy.ports, packet)
                && (policy.subject.is_any_process() || !is_answered_by_kernel(packet) && is(&policy.subject))
        })
    };
    let states = services.iter().filter(governs).map(|standing| {
        let state = schedule::state(standing.service, standing.record, standing.approved, at);
        (state, standing.service.name.clone())
    });
    states.min().map(|(state, name)| (name, state))
}

fn owner(services: &[Standing<'_>], remote: IpAddr, at: Time) -> Option<(ServiceName, ServiceState)> {
    let listing = services.iter().filter_map(|standing| {
        let prefixes = standing.service.prefixes().filter(|prefix| prefix.contains(remote));
        let length = prefixes.map(|prefix| prefix.length()).max()?;
        let state = schedule::state(standing.service, standing.record, standing.approved, at);
        Some((std::cmp::Reverse(length), state, standing.service.name.clone()))
    });
    listing.min().map(|(_, state, name)| (name, state))
}

/// True when the fail-safe keeps a local port reachable for an address: no service lists the address for that port.
pub fn failsafe(settings: &Settings, services: &[Standing<'_>], packet: &Packet) -> bool {
    let covers = |port: &Port| port.protocol == packet.protocol && port.range.contains(packet.port);
    let reachable = packet.direction == Direction::Ingress
        && settings.failsafe.ports.iter().any(covers)
        && settings.failsafe.from.iter().any(|prefix| prefix.contains(packet.remote));
    let policies = services.iter().flat_map(|standing| &standing.service.policies);
    let scheduled = policies.filter(|policy| policy.id.direction == Direction::Ingress).any(|policy| {
        policy.ports.iter().any(covers) && policy.prefixes.iter().any(|prefix| prefix.contains(packet.remote))
    });
    reachable && !scheduled
}
