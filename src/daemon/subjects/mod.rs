//! Where subjects are right now, whoever knows it: each source watches the subjects of its kinds.

mod accounts;
mod containers;
mod programs;

use std::io;
use std::path::Path;

use crate::compile::Place;
use crate::kernel::cgroups::{CgroupError, Change, Hierarchy, Watcher};
use crate::kernel::containers::Engines;
use crate::kernel::wait::Waiting;
use crate::model::Subject;
use accounts::Accounts;
use containers::Containers;
use programs::Programs;

pub use programs::ProgramState;

/// A subject and all that the kernel can tell it by; nothing: it is unresolved.
pub type Resolved = (Subject, Vec<Place>);

/// Every source.
pub struct Subjects {
    hierarchy: Hierarchy,
    cgroups: Waiting<Watcher>,
    programs: Programs,
    containers: Containers,
    accounts: Accounts,
}

#[derive(Debug, thiserror::Error)]
pub enum SubjectsError {
    #[error(transparent)]
    Cgroups(#[from] CgroupError),
    #[error("cannot wait for changes of cgroups: {0}")]
    Wait(#[source] io::Error),
}

impl Subjects {
    /// Watches these subjects; [`Subjects::resolved`] has the first answers. `runtime`: where the helper's socket is.
    pub fn new(hierarchy: Hierarchy, runtime: &Path, subjects: &[Subject]) -> Result<Self, SubjectsError> {
        let watcher = Watcher::new(hierarchy.clone(), &in_cgroups(subjects))?;
        let cgroups = Waiting::new(watcher).map_err(SubjectsError::Wait)?;
        let mut programs = Programs::new(hierarchy.clone(), runtime);
        programs.set(subjects);
        let mut containers = Containers::new(hierarchy.clone(), Engines::new("/"));
        containers.set(subjects);
        let mut accounts = Accounts::new();
        accounts.set(subjects);
        Ok(Self { hierarchy, cgroups, programs, containers, accounts })
    }

    /// Watches these subjects from now on; returns the new ones, and those of the others that moved.
    pub fn set(&mut self, subjects: &[Subject]) -> Vec<Resolved> {
        let watched = self.cgroups.get_mut().set_subjects(&in_cgroups(subjects));
        let changes = watched.unwrap_or_else(|error| {
            tracing::error!(%error, "cannot watch cgroups: new subjects stay unresolved");
            Vec::new()
        });
        let mut resolved = self.places(changes);
        resolved.extend(self.programs.set(subjects));
        resolved.extend(self.containers.set(subjects));
        resolved.extend(self.accounts.set(subjects));
        resolved
    }

    /// Every watched subject as of the last call.
    pub fn resolved(&mut self) -> Vec<Resolved> {
        let hierarchy = &self.hierarchy;
        let all = self.cgroups.get_mut().resolved();
        let mut resolved: Vec<Resolved> =
            all.map(|(subject, cgroups)| (subject.clone(), hierarchy.places(cgroups))).collect();
        resolved.extend(self.programs.resolved());
        resolved.extend(self.containers.resolved());
        resolved.extend(self.accounts.resolved());
        resolved
    }

    /// Waits until some subject may have moved. Safe in `select!`.
    pub async fn changed(&mut self) {
        tokio::select! {
            // An error shows again when the watcher is read.
            _ = self.cgroups.readable() => {}
            () = self.programs.changed() => {}
            () = self.containers.changed() => {}
            () = self.accounts.changed() => {}
        }
    }

    /// Returns what has moved since the last call, without waiting.
    pub fn next_changes(&mut self) -> Vec<Resolved> {
        let changes = self.cgroups.get_mut().next_changes().unwrap_or_else(|error| {
            tracing::error!(%error, "cannot read what happened to cgroups");
            Vec::new()
        });
        let mut resolved = self.places(changes);
        resolved.extend(self.programs.next_changes());
        resolved.extend(self.containers.next_changes());
        resolved.extend(self.accounts.next_changes());
        resolved
    }

    /// Tells whoever waits for it what the table holds.
    pub fn confirm<'a>(&mut self, places: impl Fn(&Subject) -> &'a [Place]) {
        self.programs.confirm(places);
    }

    /// What is known of an `exe` subject; none when no file names it.
    pub fn program(&self, subject: &Subject) -> Option<&ProgramState> {
        self.programs.state(subject)
    }

    /// A process in each network namespace that a watched container has of its own, with its container.
    pub fn namespaces(&self) -> Vec<(Subject, u32)> {
        self.containers.namespaces()
    }

    fn places(&self, changes: Vec<Change>) -> Vec<Resolved> {
        let place = |change: Change| (change.subject, self.hierarchy.places(change.cgroups));
        changes.into_iter().map(place).collect()
    }
}

/// Where subjects are that nobody watches yet.
#[derive(Debug, Default)]
pub struct Found {
    pub resolved: Vec<Resolved>,
    /// A process in each network namespace that a container has of its own, with its container.
    pub namespaces: Vec<(Subject, u32)>,
}

/// Looks once, and watches nothing. Programs stay unresolved: processes that ran before the helper knew of them are none
/// of them anyway. Blocks; call it where tokio's timers are.
pub fn look(hierarchy: &Hierarchy, subjects: &[Subject]) -> Found {
    let mut found = Found::default();
    for subject in in_cgroups(subjects) {
        let cgroups = hierarchy.resolve(&subject).unwrap_or_else(|error| {
            tracing::warn!(%error, %subject, "cannot look for a subject");
            Vec::new()
        });
        found.resolved.push((subject, hierarchy.places(cgroups)));
    }
    let is_container = |subject: &Subject| matches!(subject, Subject::Container(_));
    if subjects.iter().any(is_container) {
        let mut containers = Containers::new(hierarchy.clone(), Engines::new("/"));
        found.resolved.extend(containers.set(subjects));
        found.namespaces = containers.namespaces();
    }
    if subjects.iter().any(|subject| matches!(subject, Subject::User(_) | Subject::Group(_))) {
        found.resolved.extend(Accounts::new().set(subjects));
    }
    found
}

/// Those that cgroups alone tell.
fn in_cgroups(subjects: &[Subject]) -> Vec<Subject> {
    let told = |subject: &&Subject| matches!(subject, Subject::Unit(_) | Subject::Cgroup(_));
    subjects.iter().filter(told).cloned().collect()
}
