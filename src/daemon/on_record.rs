//! What the engine did, on record: in the store, or behind what waits for it, and what follows when the store breaks.

use std::sync::Arc;

use serde_json::json;

use super::chronicle::Listing;
use super::confirmation::Confirmation;
use super::engine::Engine;
use super::teardown::Proofs;
use super::{record, snapshot};
use crate::api::body::Teardown;
use crate::compile::Openings;
use crate::config::Loaded;
use crate::kernel::clock;
use crate::reconcile::{Happening, Outcome, What};
use crate::store::accepted::{self, Accepted};
use crate::store::{Fact, Kept, LedgerKind, NewSource, StoreError};

/// Facts in one transaction, which has to fit into the time that a decision waits. An order's are few.
pub(super) const BATCH: usize = 1_024;

impl Engine {
    /// The entries about files that are in force, each with what `head` says.
    pub(super) async fn applied(
        &mut self,
        listing: Listing,
        kind: LedgerKind,
        by: &str,
        mut head: serde_json::Value,
    ) -> Vec<Fact> {
        let digest = self.digest().await;
        head["services"] = json!(self.world.files_count());
        head["mode"] = json!(self.world.settings().enforcement.mode.to_string());
        head["ruleset_digest"] = json!(digest);
        self.told_digest = Some(digest);
        listing.facts(kind, self.world.now(), by, &head)
    }

    /// Has the entries of a change say it where the rules are others since.
    pub(super) async fn note_digest(&mut self, facts: &mut Vec<Fact>) {
        let digest = self.digest().await;
        if self.told_digest.as_ref() == Some(&digest) {
            return;
        }
        if !record::note_digest(facts, &digest) {
            facts.extend(
                self.applied(Listing::default(), LedgerKind::ConfigApplied, record::DAEMON, json!({})).await,
            );
        }
        self.told_digest = Some(digest);
    }

    /// A proof for every service that closed, also when nothing was connected.
    pub(super) fn proof_facts(&self, outcome: &Outcome, proofs: &Proofs) -> Vec<Fact> {
        let now = self.world.now();
        let closing = outcome.closing();
        let cut = proofs.keys().filter(|service| !closing.contains(service));
        closing
            .iter()
            .copied()
            .chain(cut)
            .map(|service| {
                let proof = proofs.get(service).cloned().unwrap_or_default();
                let proof = Teardown { completed_at: Some(clock::now().max(now)), ..proof };
                record::teardown(service, &proof, now)
            })
            .collect()
    }

    /// Puts facts on record; false while they wait for the store.
    pub async fn keep(&mut self, facts: Vec<Fact>) -> bool {
        // What was refused before a decision is on record before it.
        self.let_attempts_be_written().await;
        let mut facts = facts.into_iter();
        let mut seqs = Vec::new();
        loop {
            let batch: Vec<_> = facts.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                self.note_time().await;
                let (store, mut entries) =
                    (Arc::clone(self.keeper.store()), std::mem::take(&mut self.told.entries));
                self.mending(entries.tell(&store, &seqs)).await;
                self.told.entries = entries;
                return true;
            }
            let (error, keeping) = match self.keep_mending(batch).await {
                Kept::Recorded(numbers) => {
                    seqs.extend(numbers);
                    continue;
                }
                Kept::Waiting { error, keeping } => (error, keeping),
            };
            let rest: Vec<_> = facts.collect();
            if !rest.is_empty() {
                // Behind those that wait already: nothing is asked.
                let _waiting = self.keeper.keep(rest, clock::now()).await;
            }
            let error = error.map_or_else(|| "earlier facts wait".to_owned(), |e| e.to_string());
            tracing::error!(%error, ?keeping, "not on record yet");
            self.store_broke(error);
            return false;
        }
    }

    /// Tells of sources whose first attempts are on record.
    pub fn tell(&mut self, new: &[NewSource]) {
        self.told.sources.tell(new);
        if !new.is_empty() {
            self.told.notifier.wake();
        }
    }

    /// Remembers the latest time: turning the clock back must not reopen what has closed, also not after a restart.
    pub(super) async fn note_time(&mut self) {
        let (store, now) = (Arc::clone(self.keeper.store()), self.world.now());
        if let Err(error) = self.mending(store.note_time(now, &clock::reading())).await {
            self.store_broke(error.to_string());
        }
    }

    /// From now on nothing opens that is not open already.
    pub fn store_broke(&mut self, error: String) {
        if self.store_error.is_some() {
            return;
        }
        self.store_error = Some(error);
        if self.world.openings() == Openings::Armed {
            self.set_openings(Openings::Since(self.world.now()));
        }
    }

    /// Attempts stay in the kernel's counters. Behind a reader that stalls nothing else waits.
    pub fn attempts_not_written(&mut self, error: &StoreError) {
        tracing::error!(%error, "attempts are not on record yet");
        if !matches!(error, StoreError::LogHeld { .. }) {
            self.store_broke(error.to_string());
        }
    }

    /// Tries the store again; when it works everything is armed again.
    pub async fn heal(&mut self) {
        match self.keeper.heal(clock::now()).await {
            Ok(_) => {
                if let Err(error) = self.recall().await {
                    self.store_error = Some(error);
                    return;
                }
                tracing::info!("the store works again");
                self.store_error = None;
                self.told.entries.tell(self.keeper.store(), &[]).await;
                self.set_openings(Openings::Armed);
                self.tell_what_is_untold().await;
            }
            Err(error) => self.store_error = Some(error.to_string()),
        }
    }

    /// Remembers the accepted texts, for a start with bad files and for services whose file goes.
    /// Returns those of before.
    pub(super) fn accept(&mut self, loaded: &Loaded) -> Arc<Accepted> {
        let accepted = snapshot::merged(&self.accepted, loaded, &self.world);
        let before = std::mem::replace(&mut self.accepted, Arc::new(accepted));
        self.write_accepted();
        before
    }

    pub fn write_accepted(&mut self) {
        let directory = &self.world.settings().paths.state;
        // What waits to be confirmed is not accepted yet; decommissions are final all the same.
        let accepted = match &mut self.confirmation {
            Confirmation::Waiting(waiting) => {
                snapshot::note_decommissions(&mut waiting.before, &self.world);
                &waiting.before
            }
            Confirmation::Settled | Confirmation::FellBack { .. } => &*self.accepted,
        };
        if let Err(error) = accepted::write(directory, accepted) {
            tracing::error!(%error, "cannot keep the accepted files");
            self.store_broke(error.to_string());
        }
    }

    /// Decommissions stand beside the accepted texts too: a database that is removed must not bring a service back.
    pub(super) fn snapshot_decommissions(&mut self, outcome: &Outcome) {
        let ended = |h: &Happening| matches!(h.what, What::Decommissioned(_));
        if outcome.happenings.iter().any(ended) {
            snapshot::note_decommissions(Arc::make_mut(&mut self.accepted), &self.world);
            self.write_accepted();
        }
    }

    /// The digest over the printed table that follows from files and orders alone.
    pub async fn digest(&mut self) -> String {
        self.digest.get().await
    }
}
