//! Where subjects are right now, whoever knows it: each source watches the subjects of its kinds.

mod accounts;

use std::io;

use crate::compile::Place;
use crate::kernel::cgroups::{CgroupError, Change, Hierarchy, Watcher};
use crate::kernel::wait::Waiting;
use crate::model::Subject;
use accounts::{Accounts, is_account};

/// A subject and all that the kernel can tell it by; nothing: it is unresolved.
pub type Resolved = (Subject, Vec<Place>);

/// Every source.
pub struct Subjects {
    hierarchy: Hierarchy,
    cgroups: Waiting<Watcher>,
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
    /// Watches these subjects; [`Subjects::resolved`] has the first answers.
    pub fn new(hierarchy: Hierarchy, subjects: &[Subject]) -> Result<Self, SubjectsError> {
        let watcher = Watcher::new(hierarchy.clone(), &others(subjects))?;
        let cgroups = Waiting::new(watcher).map_err(SubjectsError::Wait)?;
        let mut accounts = Accounts::new();
        accounts.set(subjects);
        Ok(Self { hierarchy, cgroups, accounts })
    }

    /// Watches these subjects from now on; returns the new ones, and those of the others that moved.
    pub fn set(&mut self, subjects: &[Subject]) -> Vec<Resolved> {
        let changes = self.cgroups.get_mut().set_subjects(&others(subjects)).unwrap_or_else(|error| {
            tracing::error!(%error, "cannot watch cgroups: new subjects stay unresolved");
            Vec::new()
        });
        let mut changes = self.places(changes);
        changes.extend(self.accounts.set(subjects));
        changes
    }

    /// Every watched subject as of the last call.
    pub fn resolved(&mut self) -> Vec<Resolved> {
        let hierarchy = &self.hierarchy;
        let all = self.cgroups.get_mut().resolved();
        let cgroups = all.map(|(subject, cgroups)| (subject.clone(), hierarchy.places(cgroups)));
        cgroups.chain(self.accounts.resolved()).collect()
    }

    /// Waits until some subject may have moved. Safe in `select!`.
    pub async fn changed(&mut self) {
        tokio::select! {
            // An error shows again when the watcher is read.
            _ = self.cgroups.readable() => {}
            () = self.accounts.changed() => {}
        }
    }

    /// Returns what has moved since the last call, without waiting.
    pub fn next_changes(&mut self) -> Vec<Resolved> {
        let changes = self.cgroups.get_mut().next_changes().unwrap_or_else(|error| {
            tracing::error!(%error, "cannot read what happened to cgroups");
            Vec::new()
        });
        let mut changes = self.places(changes);
        changes.extend(self.accounts.next_changes());
        changes
    }

    fn places(&self, changes: Vec<Change>) -> Vec<Resolved> {
        let place = |change: Change| (change.subject, self.hierarchy.places(change.cgroups));
        changes.into_iter().map(place).collect()
    }
}

/// The subjects that have cgroups.
fn others(subjects: &[Subject]) -> Vec<Subject> {
    subjects.iter().filter(|subject| !is_account(subject)).cloned().collect()
}
