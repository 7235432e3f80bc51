//! From the world to the bodies.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::body::{self, SCHEMA};
use super::explain::TLS;
use crate::compile::{Place, Standing};
use crate::model::{HostName, Policy, Service, ServiceName, Subject};
use crate::names::{self, Held};
use crate::reconcile::World;
use crate::schedule;

/// Attempts by service.
pub type Counts = BTreeMap<ServiceName, u64>;

pub fn services(world: &World, attempts: &Counts) -> body::Services {
    let services = world.standings().iter().map(|standing| service(world, standing, attempts)).collect();
    body::Services { schema: SCHEMA, services }
}

pub fn service(world: &World, standing: &Standing<'_>, attempts: &Counts) -> body::Service {
    let Standing { service, record, approved } = *standing;
    let now = world.now();
    body::Service {
        name: service.name.to_string(),
        provider: service.provider.clone(),
        owner: service.owner.clone(),
        state: schedule::state(service, record, approved, now).to_string(),
        mode: service.mode.to_string(),
        commission: service.lifetime.opens_at(),
        decommission: service.lifetime.closes_at(),
        opens_at: schedule::next_opening(service, record, approved, now).map(|span| span.opens_at()),
        closes_at: schedule::current_opening(service, record, approved, now).map(|span| span.closes_at()),
        attempts: attempts.get(&service.name).copied().unwrap_or(0),
        policies: service.policies.iter().map(|policy| self::policy(world, policy)).collect(),
    }
}

fn policy(world: &World, policy: &Policy) -> body::Policy {
    body::Policy {
        id: policy.id.to_string(),
        direction: policy.id.direction.to_string(),
        subject: policy.subject.to_string(),
        resolved: resolved(world, &policy.subject),
        endpoints: policy.endpoints.iter().map(ToString::to_string).collect(),
        ports: policy.ports.iter().map(ToString::to_string).collect(),
        tls: policy.tls.then(|| TLS.to_owned()),
    }
}

fn resolved(world: &World, subject: &Subject) -> bool {
    subject.is_any_process() || world.places(subject).iter().any(Place::is_present)
}

pub fn show(world: &World, name: &ServiceName, attempts: &Counts) -> Option<body::Show> {
    let standing = world.standing(name)?;
    let Standing { service, record, .. } = standing;
    let suspended = record.suspended.as_ref().map(|order| body::Ordered {
        at: order.at,
        by: order.by.clone(),
        reason: order.reason.clone(),
    });
    let decommissioned = record.decommissioned.as_ref().map(|event| body::Ended {
        at: event.at,
        cause: event.cause.as_str().to_owned(),
        by: event.by.clone(),
        reason: event.reason.clone(),
    });
    Some(body::Show {
        schema: SCHEMA,
        service: self::service(world, &standing, attempts),
        description: service.description.clone(),
        ticket: service.ticket.clone(),
        compliance: service.compliance.clone(),
        departed: world.is_departed(name),
        suspended,
        decommissioned,
        subjects: whereabouts(world, service),
        findings: Vec::new(),
        findings_error: None,
    })
}

fn whereabouts(world: &World, service: &Service) -> Vec<body::Resolved> {
    let file = world.file(&service.name).unwrap_or(service);
    file.policies.iter().map(|written| policy_now(world, written)).collect()
}

fn policy_now(world: &World, written: &Policy) -> body::Resolved {
    let subject = &written.subject;
    body::Resolved {
        policy: written.id.to_string(),
        subject: subject.to_string(),
        places: world.places(subject).iter().filter(|place| place.is_present()).map(place).collect(),
        since: world.since(subject).filter(|_| !subject.is_any_process()),
        reason: (!resolved(world, subject)).then(|| why_unresolved(subject).to_owned()),
        prefixes: written.prefixes.len(),
        names: written.names.iter().map(|name| host(world, written, name)).collect(),
    }
}

/// `written`: the policy without the addresses of its names.
fn host(world: &World, written: &Policy, name: &HostName) -> body::Host {
    let known = world.host(name);
    let failure = known.and_then(|known| known.failure.clone());
    let held = known.into_iter().flat_map(|known| &known.addresses);
    let (counting, ignored): (Vec<_>, Vec<_>) =
        held.partition(|(address, _)| names::counts_for(&written.prefixes, **address));
    body::Host {
        name: name.to_string(),
        addresses: counting.into_iter().filter_map(host_address).collect(),
        ignored: ignored.into_iter().filter(|(_, held)| held.left.is_none()).map(|(a, _)| *a).collect(),
        answered_at: known.and_then(|known| known.answered_at),
        error: failure.as_ref().map(|(_, error)| error.clone()),
        failed_at: failure.map(|(at, _)| at),
    }
}

/// `None` for one that left and is not kept any more.
fn host_address((address, held): (&IpAddr, &Held)) -> Option<body::HostAddress> {
    let kept_until = held.left.and_then(|left| left.kept_until);
    (held.left.is_none() || kept_until.is_some()).then(|| body::HostAddress {
        address: *address,
        since: held.since,
        resolved: held.resolved,
        learned_until: held.learned_until,
        left_at: held.left.map(|left| left.at),
        kept_until,
    })
}

fn place(place: &Place) -> body::Place {
    let none = body::Place::default();
    match place {
        Place::Cgroup(place) | Place::Former(place) => body::Place {
            cgroup: Some(place.path.clone()),
            id: Some(place.id),
            level: Some(place.level),
            ..none
        },
        Place::User(uid) => body::Place { uid: Some(*uid), ..none },
        Place::Group(gid) => body::Place { gid: Some(*gid), ..none },
        Place::Address(address) => body::Place { address: Some(*address), ..none },
    }
}

/// What it means that a subject has no place.
pub fn why_unresolved(subject: &Subject) -> &'static str {
    match subject {
        Subject::Unit(_) => "no cgroup of this unit exists: it does not run",
        Subject::Cgroup(_) => "there is no such cgroup",
        Subject::Exe { .. } => {
            "no process of it is known: none runs, the file is not what its digest says, or picoseg-execd does not answer"
        }
        Subject::User(_) => "this host has no such user",
        Subject::Group(_) => "this host has no such group",
        Subject::Container(_) => "no running container has this name or id",
    }
}

/// Services by state, every state named.
pub fn states(world: &World) -> BTreeMap<String, usize> {
    use crate::model::ServiceState;
    let mut counts: BTreeMap<String, usize> = ServiceState::ALL.iter().map(|s| (s.to_string(), 0)).collect();
    for standing in world.standings() {
        let state =
            schedule::state(standing.service, standing.record, standing.approved, world.now()).to_string();
        *counts.entry(state).or_default() += 1;
    }
    counts
}
