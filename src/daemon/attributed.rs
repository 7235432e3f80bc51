//! The rows of what was counted: whose it is, by which policy, and what became of it.

use super::tally::Target;
use crate::compile::{Charged, Standing};
use crate::model::{Direction, Mode, Policy, Protocol, Reason, SegmentName, Service, ServiceName, Source};
use crate::reconcile::World;
use crate::ruleset::protocol;
use crate::store::{AttemptKey, Verdict};

/// What stands in place of the protocol where sources are not told apart.
const OTHER: &str = "other";

/// Makes rows by the world as it is now.
pub struct Rows<'a> {
    world: &'a World,
    /// Sorted by name.
    services: &'a [Standing<'a>],
    /// Those with a policy for any address.
    anywhere: Vec<&'a Service>,
}

/// Whose a source is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Owned {
    pub service: Option<ServiceName>,
    /// The others that list the address, sorted.
    pub also: Vec<ServiceName>,
}

impl<'a> Rows<'a> {
    pub fn new(world: &'a World, services: &'a [Standing<'a>]) -> Self {
        let all = services.iter().map(|standing| standing.service);
        Self {
            world,
            services,
            anywhere: all.filter(|service| service.policies.iter().any(Policy::is_any)).collect(),
        }
    }

    /// The row of a target; `owned` says whose it is where the address does.
    pub fn row(&self, target: &Target, owned: &Owned) -> AttemptKey {
        match &target.charged {
            Charged::ByAddress | Charged::Exact => self.of_owner(target, owned),
            Charged::Any(name) => self.of_any(name, target),
            Charged::Segment(name) => self.of_segment(name, target),
        }
    }

    /// The row of sources that are not told apart.
    pub fn other(
        &self,
        charged: &Charged,
        service: Option<&ServiceName>,
        direction: Direction,
        reason: Reason,
    ) -> AttemptKey {
        let remote = std::net::Ipv4Addr::UNSPECIFIED.into();
        let charged = charged.clone();
        let target = Target { charged, direction, reason, remote, protocol: 0, port: None };
        let owned = Owned { service: service.cloned(), also: Vec::new() };
        let row = self.row(&target, &owned);
        let policy = row.policy.filter(|_| matches!(target.charged, Charged::Segment(_)));
        AttemptKey { policy, protocol: OTHER.to_owned(), remote: Source::Other, also: Vec::new(), ..row }
    }

    fn service(&self, name: &ServiceName) -> Option<&'a Service> {
        let found = self.services.binary_search_by(|standing| standing.service.name.cmp(name)).ok()?;
        self.services.get(found).map(|standing| standing.service)
    }

    fn of_owner(&self, target: &Target, owned: &Owned) -> AttemptKey {
        let service = owned.service.as_ref().and_then(|name| self.service(name));
        AttemptKey {
            service: owned.service.clone(),
            provider: service.map(|service| service.provider.clone()),
            policy: service.and_then(|service| policy(service, target)),
            also: owned.also.clone(),
            ..self.bare(service.map(|service| service.mode), target)
        }
    }

    /// The service that refused by a policy for any address. Which other such policies were about the same process nobody
    /// counted: those of the same subject stand beside it.
    fn of_any(&self, name: &ServiceName, target: &Target) -> AttemptKey {
        let service = self.service(name);
        let policy = service.and_then(|service| any_policy(service, target));
        let about_the_same = |other: &Service| {
            let theirs = any_policy(other, target).map(|other| &other.subject);
            theirs.is_some_and(|theirs| policy.is_some_and(|policy| policy.subject == *theirs))
        };
        let others = self.anywhere.iter().filter(|other| other.name != *name && about_the_same(other));
        AttemptKey {
            service: Some(name.clone()),
            provider: service.map(|service| service.provider.clone()),
            policy: policy.map(|policy| policy.id.to_string()),
            // Only its subject's packets come to such a policy.
            subject: policy.filter(|policy| !policy.subject.is_any_process()).map(|p| p.subject.to_string()),
            also: others.map(|other| other.name.clone()).collect(),
            ..self.bare(service.map(|service| service.mode), target)
        }
    }

    /// A segment is no service: its name stands where that of the policy would.
    fn of_segment(&self, name: &SegmentName, target: &Target) -> AttemptKey {
        let segment = self.world.segment(name);
        AttemptKey {
            policy: Some(format!("segment/{name}")),
            subject: segment.map(|segment| segment.subject.to_string()),
            ..self.bare(segment.map(|segment| segment.mode), target)
        }
    }

    /// A row without an owner; `mode` is that of the owner.
    fn bare(&self, mode: Option<Mode>, target: &Target) -> AttemptKey {
        let modes = [Some(self.world.settings().enforcement.mode), mode];
        let observed = modes.contains(&Some(Mode::Observe));
        let (remote_port, local_port) = match target.direction {
            Direction::Egress => (target.port, None),
            Direction::Ingress => (None, target.port),
        };
        AttemptKey {
            service: None,
            provider: None,
            policy: None,
            direction: target.direction,
            reason: target.reason,
            verdict: if observed { Verdict::Observed } else { Verdict::Refused },
            protocol: protocol_name(target.protocol),
            remote: target.remote.into(),
            remote_port,
            local: None,
            local_port,
            subject: None,
            uid: None,
            also: vec![],
        }
    }
}

/// The first policy for any address that could be about a target. What goes the other way than its direction, an answer,
/// names a port of the other side, so only the protocol tells.
fn any_policy<'a>(service: &'a Service, target: &Target) -> Option<&'a Policy> {
    let any = || service.policies.iter().filter(|policy| policy.is_any());
    let opens = any().find(|policy| policy.id.direction == target.direction && covers(policy, target));
    opens.or_else(|| any().find(|policy| policy.id.direction != target.direction))
}

fn covers(policy: &Policy, target: &Target) -> bool {
    policy.ports.iter().any(|port| match port.protocol {
        Protocol::Icmp => is_icmp(target.protocol),
        Protocol::Tcp => {
            target.protocol == protocol::TCP && target.port.is_some_and(|p| port.range.contains(p))
        }
        Protocol::Udp => {
            target.protocol == protocol::UDP && target.port.is_some_and(|p| port.range.contains(p))
        }
    })
}

/// The first policy of the service that is about this address, port and direction.
fn policy(service: &Service, target: &Target) -> Option<String> {
    let matches = |policy: &&Policy| {
        policy.id.direction == target.direction
            && policy.prefixes.iter().any(|prefix| prefix.contains(target.remote))
            && covers(policy, target)
    };
    service.policies.iter().find(matches).map(|policy| policy.id.to_string())
}

fn is_icmp(number: u8) -> bool {
    [protocol::ICMP, protocol::ICMPV6].contains(&number)
}

fn protocol_name(number: u8) -> String {
    match number {
        protocol::TCP => "tcp".into(),
        protocol::UDP => "udp".into(),
        protocol::ICMP | protocol::ICMPV6 => "icmp".into(),
        other => other.to_string(),
    }
}
