//! From the world to the bodies.

use std::collections::BTreeMap;

use super::body::{self, SCHEMA};
use crate::compile::{Place, Standing};
use crate::model::{Policy, Service, ServiceName, Subject};
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
    }
}

fn resolved(world: &World, subject: &Subject) -> bool {
    subject.is_any_process() || !world.places(subject).is_empty()
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
        subjects: subjects(world, service),
    })
}

fn subjects(world: &World, service: &Service) -> Vec<body::Resolved> {
    let place = |place: &Place| match place {
        Place::Cgroup(place) => {
            Some(body::Place { cgroup: place.path.clone(), id: place.id, level: place.level })
        }
        Place::User(_) | Place::Group(_) | Place::Address(_) => None,
    };
    let resolved = |policy: &Policy| body::Resolved {
        policy: policy.id.to_string(),
        subject: policy.subject.to_string(),
        places: world.places(&policy.subject).iter().filter_map(place).collect(),
        prefixes: policy.prefixes.len(),
    };
    service.policies.iter().map(resolved).collect()
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
