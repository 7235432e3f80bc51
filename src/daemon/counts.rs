//! When counts are read, and what becomes of those whose segment or service is no longer in force.
//!
//! Their sets and counters stay in the table, though no rule fills them any more, until what they counted last is read and on
//! record: removed together with their rules they would take it along.

use std::time::{Duration, Instant};

use super::attempts::Next;
use super::engine::Engine;
use crate::compile::{self, CountSets, Half};
use crate::kernel::commit::CommitError;
use crate::plan::{self, Inventory};
use crate::ruleset::{Part, Ruleset};

/// From a log record to the read of the counts, and from there to their rows: log records of the same packets are here then.
pub const SOON: Duration = Duration::from_millis(400);

/// The longest between two rounds while packets are refused: attempts show within three seconds.
const LATEST: Duration = Duration::from_secs(2);

/// A round that took so long is followed by so many times that.
const REST: u32 = 10;

/// Between two looks at the counters when nothing is refused: the log record that tells may be limited away.
pub const QUIET: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(30)];

/// How long a decision waits for what is written before it.
const WHILE: Duration = Duration::from_secs(1);

/// How long a stop takes at most to write down what was counted last.
const LAST: Duration = Duration::from_secs(5);

impl Engine {
    /// True when something waits for the counts to be read: sets and counters that are to go, or records of what nobody counted.
    pub fn wants_counts(&self) -> bool {
        !self.retiring.is_empty() || !self.retiring_counters.is_empty() || self.attempts.is_bereft()
    }

    /// Does a step of reading and writing counts. Returns when to do the next one, and whether everything is on record.
    pub async fn count(&mut self) -> (Duration, bool) {
        if self.store_error.is_some() {
            return (LATEST, false);
        }
        let began = Instant::now();
        let store = self.keeper.store();
        let step = self.attempts.step(&mut self.table, &self.in_force, &self.world, &self.owners, store);
        self.attempts.spent += began.elapsed();
        if matches!(step, Ok(Next::Round | Next::Quiet)) {
            self.write_closings().await;
        }
        self.watched.table_error = step.as_ref().err().map(ToString::to_string);
        match step {
            Ok(Next::Step) => (Duration::ZERO, false),
            Ok(Next::Settle) => (SOON, false),
            // Its end wakes the loop.
            Ok(Next::Written) => (LATEST, false),
            Ok(Next::Round) => {
                let spent = std::mem::take(&mut self.attempts.spent);
                ((spent * REST).clamp(SOON, LATEST), false)
            }
            Ok(Next::Quiet) => {
                if let Err(error) = self.retire_counts() {
                    tracing::error!(%error, "counts of what is no longer in force stay in the table");
                }
                let spent = std::mem::take(&mut self.attempts.spent);
                ((spent * 10 * REST).clamp(QUIET[0], QUIET[1]), true)
            }
            Err(error) => {
                self.attempts.spent = Duration::ZERO;
                tracing::error!(%error, "cannot read the kernel's counts");
                (LATEST, false)
            }
        }
    }

    /// Takes over that attempts are on record, or why they are not. Returns when to do the next step.
    pub fn attempts_written(&mut self) -> Duration {
        match self.attempts.written() {
            Some(Ok(())) => {
                let new = std::mem::take(&mut self.attempts.new_sources);
                self.tell(&new);
                Duration::ZERO
            }
            Some(Err(error)) => {
                self.attempts.spent = Duration::ZERO;
                self.attempts_not_written(&error);
                LATEST
            }
            None => LATEST,
        }
    }

    /// Waits a while until attempts that are on their way into the store are there, and repairs meanwhile what others do: what is
    /// written behind them has a whole while of its own then. Where it takes longer the store queues.
    pub(super) async fn let_attempts_be_written(&mut self) {
        if let Some(ended) = self.attempts.settled() {
            // Whether or not they are: it shows.
            let _ = self.mending(tokio::time::timeout(WHILE, ended)).await;
            self.attempts_written();
        }
    }

    /// Reads and writes until everything is on record that was counted before.
    pub async fn count_to_the_end(&mut self) {
        let until = Instant::now() + LAST;
        let mut rounds = 0;
        while Instant::now() < until && self.store_error.is_none() {
            let (_, quiet) = self.count().await;
            self.let_attempts_be_written().await;
            rounds += u32::from(self.attempts.is_idle());
            if quiet || rounds > 3 {
                return;
            }
        }
        self.let_attempts_be_written().await;
    }

    /// Keeps the count sets and counters of the table in force that the wanted one lacks.
    pub(super) fn keep_counts(&mut self, wanted: &mut Ruleset) {
        let lacks = |sets: &CountSets| !wanted.sets.contains_key(&sets.hosts);
        self.retiring = compile::count_sets(&self.in_force).filter(lacks).collect();
        self.retiring.iter().for_each(|sets| sets.declare(wanted));
        let counters = compile::service_counters(&self.in_force, None);
        self.retiring_counters = counters.filter(|name| !wanted.counters.contains(*name)).cloned().collect();
        wanted.counters.extend(self.retiring_counters.iter().cloned());
    }

    /// Keeps the counters that a part would remove.
    pub(super) fn keep_part_counts(&mut self, part: &mut Part) {
        self.retiring_counters.retain(|counter| !part.wanted.counters.contains(counter));
        let (counters, rest) = std::mem::take(&mut part.gone_counters)
            .into_iter()
            .partition::<std::collections::BTreeSet<_>, _>(|name| {
                compile::of_service_counter(name).is_some()
            });
        part.gone_counters = rest;
        self.retiring_counters.extend(counters);
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
        for counter in found.counters.iter().filter(|name| compile::of_service_counter(name).is_some()) {
            if wanted.counters.insert(counter.clone()) {
                self.retiring_counters.insert(counter.clone());
            }
        }
    }

    /// Removes the sets and counters whose counts are on record. Call it when a look found nothing new.
    fn retire_counts(&mut self) -> Result<(), CommitError> {
        if self.retiring.is_empty() && self.retiring_counters.is_empty() {
            return Ok(());
        }
        let mut part = Part::new(&self.world.settings().enforcement.table);
        for sets in &self.retiring {
            part.gone.extend([sets.hosts.clone(), sets.ports.clone()]);
            part.gone_counters.insert(sets.total.clone());
        }
        part.gone_counters.extend(self.retiring_counters.iter().cloned());
        if let Some(changeset) = plan::plan_part(&self.in_force, &part) {
            self.commit(changeset)?;
        }
        self.in_force.take_over(part);
        let counters: Vec<String> = std::mem::take(&mut self.retiring_counters).into_iter().collect();
        self.attempts.forget(&std::mem::take(&mut self.retiring), &counters);
        Ok(())
    }
}
