//! The world as it would be: files taken over on a copy, new subjects looked for once.

use std::collections::BTreeSet;

use crate::config::Loaded;
use crate::daemon::subjects;
use crate::kernel::cgroups::Hierarchy;
use crate::model::{Subject, Time};
use crate::reconcile::World;
use crate::resolvers;

/// Both worlds at one instant.
#[derive(Debug)]
pub struct Candidate {
    pub now: World,
    pub next: World,
    /// A process in each network namespace that a container has of its own, with its container.
    pub namespaces: Vec<(Subject, u32)>,
}

impl Candidate {
    /// `namespaces`: those of the containers that are known already.
    pub fn new(
        mut now: World,
        loaded: &Loaded,
        hierarchy: &Hierarchy,
        mut namespaces: Vec<(Subject, u32)>,
        at: Time,
    ) -> Self {
        // What time alone brings is no change of files.
        now.tick(at);
        let mut next = now.clone();
        next.apply(loaded.settings.clone(), loaded.services.clone(), at);
        next.enclose(loaded.segments.clone());
        next.set_resolvers(resolvers::read());
        let known: BTreeSet<Subject> = now.subjects().into_iter().cloned().collect();
        let new: Vec<Subject> =
            next.subjects().into_iter().filter(|s| !known.contains(*s)).cloned().collect();
        let found = subjects::look(hierarchy, &new);
        for (subject, places) in found.resolved {
            next.resolve_at(subject, places, at);
        }
        namespaces.extend(found.namespaces);
        Self { now, next, namespaces }
    }
}
