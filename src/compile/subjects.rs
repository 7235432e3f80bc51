//! Subject sets: the cgroups of each subject, by level.
//!
//! A subject that does not exist has empty sets, hence is refused.

use std::collections::{BTreeMap, BTreeSet};

use super::{Input, Place, Unresolved, names};
use crate::model::Subject;
use crate::ruleset::{Element, Field, Key, Load, Ruleset, Set, Statement};

pub fn add(input: &Input<'_>, ruleset: &mut Ruleset) {
    for subject in subjects(input) {
        let places = places(input, subject);
        if places.is_empty() && !subject.is_any_process() {
            ruleset.notes.insert(format!("{subject} does not exist: its policies admit nothing"));
        }
        for level in levels(subject, places, input.unresolved) {
            ruleset.sets.insert(names::subject(subject, level), subject_set(places, level));
        }
    }
}

/// Returns the sets of one subject by name: what changes when its cgroups come and go.
pub fn subject_sets(subject: &Subject, places: &[Place]) -> BTreeMap<String, Set> {
    levels(subject, places, Unresolved::Prepare)
        .into_iter()
        .map(|level| (names::subject(subject, level), subject_set(places, level)))
        .collect()
}

fn subjects<'a>(input: &Input<'a>) -> BTreeSet<&'a Subject> {
    let services = input.services.iter().filter(|standing| standing.governs(input.now));
    services.flat_map(|standing| &standing.service.policies).map(|policy| &policy.subject).collect()
}

fn places<'a>(input: &Input<'a>, subject: &Subject) -> &'a [Place] {
    input.resolution.get(subject).map_or(&[], Vec::as_slice)
}

/// The ways to ask a packet for a subject: each is the first half of a rule that goes on when the packet's socket
/// was created in the subject. Any process needs no question; an unresolved subject may have none.
pub fn questions(input: &Input<'_>, subject: &Subject) -> Vec<Vec<Statement>> {
    if subject.is_any_process() {
        return vec![Vec::new()];
    }
    levels(subject, places(input, subject), input.unresolved)
        .into_iter()
        .map(|level| {
            let key = vec![Load::Cgroup { level }];
            vec![Statement::Lookup { key, set: names::subject(subject, level), negated: false }]
        })
        .collect()
}

/// True when some process of the subject can exist right now.
pub fn is_resolved(input: &Input<'_>, subject: &Subject) -> bool {
    subject.is_any_process() || !places(input, subject).is_empty()
}

/// The levels at which the subject is looked up.
fn levels(subject: &Subject, places: &[Place], unresolved: Unresolved) -> BTreeSet<u32> {
    let mut levels: BTreeSet<u32> =
        places.iter().map(|place| place.level).filter(|level| *level > 0).collect();
    match unresolved {
        Unresolved::Prepare => levels.extend(usual_level(subject)),
        Unresolved::Omit => {}
    }
    levels
}

/// The level at which a subject usually appears, so that the rule is there before it does.
fn usual_level(subject: &Subject) -> Option<u32> {
    let parts = match subject {
        Subject::Cgroup(path) => path.split('/').filter(|part| !part.is_empty()).count(),
        // `a-b.slice` lies in `a.slice` (systemd.slice(5)); services lie in `system.slice`.
        Subject::Unit(name) => match name.strip_suffix(".slice") {
            Some(stem) => stem.split('-').count(),
            None if name.contains('@') => 3,
            None => 2,
        },
    };
    u32::try_from(parts).ok().filter(|level| *level > 0)
}

fn subject_set(places: &[Place], level: u32) -> Set {
    let mut set = Set::plain(&[Field::Cgroup]);
    for place in places.iter().filter(|place| place.level == level) {
        let element = Element { comment: Some(place.path.clone()), ..Element::default() };
        set.elements.insert(Key::builder().cgroup(place.id).build(), element);
    }
    set
}
