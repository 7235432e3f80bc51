//! What becomes of counts whose segment or service is no longer in force.
//!
//! Their sets stay in the table, though no rule fills them any more, until what they counted last is read and on record:
//! removed together with their rules they would take it along.

use crate::compile::{self, CountSets, Half};
use crate::kernel::commit::CommitError;
use crate::plan::{self, Inventory};
use crate::ruleset::{Part, Ruleset};

use super::engine::Engine;

impl Engine {
    /// Settles what was read before, then reads the kernel's counts. True when there was anything.
    pub fn read_counts(&mut self) -> Result<bool, CommitError> {
        self.attempts.read(&mut self.table, &self.in_force, &self.world, &self.owners)
    }

    /// Keeps the count sets of the table in force that the wanted one lacks.
    pub(super) fn keep_counts(&mut self, wanted: &mut Ruleset) {
        let lacks = |sets: &CountSets| !wanted.sets.contains_key(&sets.hosts);
        self.retiring = compile::count_sets(&self.in_force).filter(lacks).collect();
        self.retiring.iter().for_each(|sets| sets.declare(wanted));
    }

    /// The same with what a former daemon left.
    pub(super) fn keep_found_counts(&mut self, found: &Inventory, wanted: &mut Ruleset) {
        let filled = found.sets.iter().filter(|(_, filled)| *filled);
        let pairs =
            filled.filter_map(|(name, _)| CountSets::of(name)).filter(|(_, half)| *half == Half::Hosts);
        for (sets, _) in pairs {
            if !wanted.sets.contains_key(&sets.hosts) {
                sets.declare(wanted);
                self.retiring.push(sets);
            }
        }
    }

    /// Removes the sets whose counts are on record. Call it when a read found nothing new and everything is written.
    pub fn retire_counts(&mut self) -> Result<(), CommitError> {
        if self.retiring.is_empty() {
            return Ok(());
        }
        let mut part = Part::new(&self.world.settings().enforcement.table);
        for sets in &self.retiring {
            part.gone.extend([sets.hosts.clone(), sets.ports.clone()]);
            part.gone_counters.insert(sets.total.clone());
        }
        if let Some(changeset) = plan::plan_part(&self.in_force, &part) {
            self.commit(changeset)?;
        }
        self.in_force.take_over(part);
        for sets in std::mem::take(&mut self.retiring) {
            self.attempts.forget(&sets);
        }
        Ok(())
    }
}
