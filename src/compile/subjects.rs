//! Subjects as rules ask for them: by the ids that their cgroups have right now.
//!
//! A restarted unit has another id, and the chains of its policies are sent again; of services that are told by elements
//! alone, the elements ([`super::exact`]). Rejected: a set of ids for each subject. The kernel keeps the sets of a table in a
//! list and walks it for every mention: with 10,000 sets a load took half a minute.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Input, Place, Unresolved};
use crate::model::Subject;
use crate::ruleset::{Ruleset, Statement};

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

/// The ways to ask a packet for a subject: each is the beginning of a rule that goes on when the packet's socket
/// was created in the subject. Any process needs no question; a subject that does not exist has none.
pub fn questions(input: &Input<'_>, subject: &Subject) -> Vec<Vec<Statement>> {
    if subject.is_any_process() {
        return vec![Vec::new()];
    }
    let question = |place: &Place| match place {
        Place::Cgroup(place) if place.level > 0 => {
            Some(vec![Statement::InCgroup { level: place.level, id: place.id, path: place.path.clone() }])
        }
        Place::Cgroup(_) | Place::Former(_) | Place::User(_) | Place::Group(_) | Place::Address(_) => None,
    };
    places(input, subject).iter().filter_map(question).collect()
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
