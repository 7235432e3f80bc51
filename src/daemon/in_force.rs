//! From a world to the table that is in force: whole, in parts, and read back.

use std::collections::BTreeSet;
use std::time::Instant;

use super::digest::Digest;
use super::engine::Engine;
use super::subjects::Resolved;
use crate::compile::{self, Openings};
use crate::kernel::clock;
use crate::kernel::commit::CommitError;
use crate::model::ServiceName;
use crate::owners::Owners;
use crate::plan::{self, Changeset};
use crate::reconcile::World;
use crate::resolvers;
use crate::ruleset::{Chain, Part, Ruleset};

/// What putting a part in force did.
#[derive(Debug, Clone, Copy)]
pub(super) struct Put {
    /// Anything in the table is another.
    pub changes: bool,
    /// So is more than what follows the time.
    pub lasts: bool,
}

impl Engine {
    pub(super) fn put_in_force(
        &mut self,
        next: World,
        rearm: &BTreeSet<String>,
    ) -> Result<bool, CommitError> {
        let digest = Digest::begin(&next);
        let mut wanted = next.compile();
        self.keep_counts(&mut wanted);
        let changeset = plan::plan(&self.in_force, &wanted, rearm);
        let changed =
            changeset.as_ref().is_some_and(|changeset| changeset.outlasts_time(&compile::follows_time));
        match changeset.map(|changeset| self.commit(changeset)) {
            Some(Err(CommitError::Vanished { .. })) => self.replace(&mut wanted)?,
            committed => committed.transpose().map(|_| ())?,
        }
        self.take(next);
        self.adopt(wanted, digest, changed);
        Ok(changed)
    }

    /// Puts in force what follows the state of these services; everything when others govern than before.
    pub(super) fn put_services_in_force(
        &mut self,
        next: World,
        touched: &BTreeSet<ServiceName>,
    ) -> Result<bool, CommitError> {
        let governs = |world: &World, name| world.standing(name).is_some_and(|s| s.governs(world.now()));
        if touched.iter().any(|name| governs(&next, name) != governs(&self.world, name)) {
            return self.put_in_force(next, &BTreeSet::new());
        }
        let part = next.compile_services(touched, self.owners.ties(touched), &self.in_force);
        let same = |(name, chain): (&String, &Chain)| {
            compile::follows_time(name) || self.in_force.chains.get(name) == Some(chain)
        };
        // Windows come and go; rules follow files and orders, and so do the addresses of classes.
        let lasts = |name: &String| self.in_force.sets.get(name).is_some_and(|set| !set.expires);
        let rules_change = !part.wanted.chains.iter().all(same) || part.elements.keys().any(lasts);
        let moved: BTreeSet<_> =
            touched.iter().filter(|name| next.moved(&self.world, name)).cloned().collect();
        let digest = rules_change.then(|| Digest::begin(&next));
        let changed = match moved.is_empty() {
            true => self.put_part_in_force(next, part)?,
            false => self.put_addresses_in_force(next, &moved, Some(part))?,
        };
        if let Some(digest) = digest {
            self.in_force_since = self.world.now();
            self.digest = digest;
        }
        Ok(changed)
    }

    pub(super) fn put_part_in_force(&mut self, next: World, part: Part) -> Result<bool, CommitError> {
        self.put_part(next, part).map(|put| put.changes)
    }

    pub(super) fn put_part(&mut self, next: World, mut part: Part) -> Result<Put, CommitError> {
        self.keep_part_counts(&mut part);
        let changeset = plan::plan_part(&self.in_force, &part);
        let lasts =
            changeset.as_ref().is_some_and(|changeset| changeset.outlasts_time(&compile::follows_time));
        let put = Put { changes: changeset.is_some(), lasts };
        match changeset.map(|changeset| self.commit(changeset)) {
            Some(Err(CommitError::Vanished { .. })) => {
                let digest = Digest::begin(&next);
                let mut wanted = next.compile();
                self.replace(&mut wanted)?;
                self.take(next);
                self.adopt(wanted, digest, true);
                return Ok(Put { changes: true, lasts: true });
            }
            committed => committed.transpose().map(|_| ())?,
        }
        self.take(next);
        let has_classes = part.wanted.chains.keys().any(|chain| !compile::follows_time(chain));
        self.in_force.take_over(part);
        if has_classes {
            self.world.number_classes(&self.in_force);
        }
        Ok(put)
    }

    pub(super) fn take(&mut self, next: World) {
        self.world = next;
        self.pace.passed(self.world.now());
    }

    pub(super) fn adopt(&mut self, wanted: Ruleset, digest: Digest, changed: bool) {
        self.world.number_classes(&wanted);
        self.in_force = wanted;
        if changed {
            self.in_force_since = self.world.now();
        }
        self.owners = Owners::new(&self.world.standings());
        self.digest = digest;
        self.untidy = true;
    }

    /// Brings whatever is in the kernel to the wanted table, in one transaction and without a packet's gap.
    pub(super) fn replace(&mut self, wanted: &mut Ruleset) -> Result<(), CommitError> {
        let (found, held) = match self.table.inventory()? {
            Some(found) => {
                self.keep_found_counts(&found, wanted);
                (found, self.table.held(wanted)?)
            }
            None => {
                self.attempts.begin_anew();
                Default::default()
            }
        };
        match plan::replace(&found, &held, wanted) {
            Some(changeset) => self.commit(changeset),
            None => Ok(()),
        }
    }

    /// Commits and reads back.
    pub(super) fn commit(&mut self, changeset: Changeset) -> Result<(), CommitError> {
        // It builds on the table in force.
        self.mend(true);
        let began = Instant::now();
        let committed = self.commit_and_verify(changeset);
        self.watched.commits.note(committed.is_ok(), began.elapsed());
        committed
    }

    pub(super) fn commit_and_verify(&mut self, changeset: Changeset) -> Result<(), CommitError> {
        let latest = self.world.now();
        // Timeouts count from here; a clock that was turned back must not make them longer.
        let pace = &self.pace;
        let now = || pace.at_least(&clock::reading()).max(latest);
        for phase in changeset.phases() {
            let committed = self.table.commit(&phase, &now)?;
            tracing::debug!(?committed, "committed");
            for difference in self.table.verify(&phase, &now)? {
                tracing::error!(%difference, "the kernel holds something else than was committed");
                self.drift.suspect();
            }
        }
        Ok(())
    }

    pub(super) fn set_openings(&mut self, openings: Openings) {
        let mut next = self.world.clone();
        next.set_openings(openings);
        if let Err(error) = self.put_in_force(next, &BTreeSet::new()) {
            tracing::error!(%error, "cannot change what may open");
        }
    }

    /// Takes over whom the host asks for names: segments that may ask too follow.
    pub fn follow_resolvers(&mut self) -> Result<(), CommitError> {
        if !self.world.segments().values().any(|segment| segment.dns) {
            return Ok(());
        }
        let mut next = self.world.clone();
        if next.set_resolvers(resolvers::read()) {
            tracing::info!(resolvers = ?next.resolvers(), "the resolvers changed");
            self.put_in_force(next, &BTreeSet::new())?;
        }
        Ok(())
    }

    /// Takes over subjects whose cgroups the table does not know yet: an earlier change of them failed.
    pub fn catch_up(&mut self) -> Result<(), CommitError> {
        let mut behind = self.subjects.resolved();
        behind.retain(|(subject, places)| self.world.places(subject) != places);
        if behind.is_empty() { Ok(()) } else { self.resolve(behind) }
    }

    /// Takes over where subjects are now: the chains of their policies change, nothing else.
    pub fn resolve(&mut self, changes: Vec<Resolved>) -> Result<(), CommitError> {
        let mut next = self.world.clone();
        let mut subjects = BTreeSet::new();
        for (subject, places) in changes {
            tracing::info!(%subject, places = places.len(), "subject changed");
            subjects.insert(subject.clone());
            next.resolve_at(subject, places, clock::now());
        }
        let part = next.compile_subjects(&subjects, &self.world, &self.in_force);
        self.put_part_in_force(next, part)?;
        Ok(())
    }

    /// Tells whoever waits for it which places of subjects are in the table.
    pub fn confirm_subjects(&mut self) {
        let world = &self.world;
        self.subjects.confirm(|subject| world.places(subject));
    }
}
