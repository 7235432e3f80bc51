//! Whether subjects are there, and behind which addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Input, Place, Unresolved};
use crate::model::Subject;
use crate::ruleset::Ruleset;

/// Notes the subjects that do not exist.
pub fn add(input: &Input<'_>, ruleset: &mut Ruleset) {
    if input.unresolved == Unresolved::Silent {
        return;
    }
    let services = input.services.iter().filter(|standing| standing.governs(input.now));
    let policies = services.flat_map(|standing| &standing.service.policies);
    let subjects: BTreeSet<&Subject> = policies.map(|policy| &policy.subject).collect();
    for subject in subjects.into_iter().filter(|subject| !is_resolved(input, subject)) {
        ruleset.notes.insert(format!("{subject} does not exist: its policies admit nothing"));
    }
}

pub fn places<'a>(input: &Input<'a>, subject: &Subject) -> &'a [Place] {
    input.resolution.get(subject).map_or(&[], |places| places)
}

/// The addresses behind which a subject is.
pub fn addresses(input: &Input<'_>, subject: &Subject) -> impl Iterator<Item = IpAddr> {
    places(input, subject).iter().filter_map(|place| match place {
        Place::Address(address) => Some(*address),
        Place::Cgroup(_) | Place::Former(_) | Place::User(_) | Place::Group(_) => None,
    })
}

/// True when the subject can have sockets of this host right now.
pub fn is_local(input: &Input<'_>, subject: &Subject) -> bool {
    let is_local = |place: &Place| !matches!(place, Place::Address(_) | Place::Former(_));
    subject.is_any_process() || places(input, subject).iter().any(is_local)
}

/// True when some process of the subject can exist right now.
fn is_resolved(input: &Input<'_>, subject: &Subject) -> bool {
    subject.is_any_process() || places(input, subject).iter().any(Place::is_present)
}
