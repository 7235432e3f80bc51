//! Store and journal together: a fact is stored, or kept until it can be.
//!
//! ```text
//!            commit fails                    heal: reopen, replay, clear
//! recording --------------> journaling ------------------------------------> recording
//!                               | keep: straight to the journal
//! ```
//!
//! While facts wait, new ones go behind them without asking the store: their order stays, and a hundred closes do not wait a
//! second each for a store that is known to be broken. Deliberately absent: when to heal, which the caller's timer says.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::journal::{Journal, JournalError, Keeping};
use super::{Fact, Opened, Pending, Store, StoreError, fact};
use crate::model::{Record, ServiceName, Time};

/// The store, and what waits for it.
#[derive(Debug)]
pub struct Keeper {
    store: Arc<Store>,
    journal: Journal,
    /// The database was made when it was last opened.
    is_new: bool,
}

/// What became of facts.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Kept {
    /// They are on record; the numbers of their ledger entries.
    Recorded(Vec<u64>),
    /// They are not on record yet. `error` says why, `None` when earlier ones wait already.
    Waiting { keeping: Keeping, error: Option<StoreError> },
}

/// What [`Keeper::open`] found.
#[derive(Debug)]
pub struct Start {
    pub keeper: Keeper,
    /// Whether there was a store; an error leaves the keeper journaling.
    pub store: Result<Opened, StoreError>,
    /// Parts of the journal that could not be read.
    pub journal: Vec<JournalError>,
}

/// Facts in one transaction of a replay: they have to fit into the time that a decision waits.
const BATCH: usize = 256;

impl Keeper {
    /// Opens the store and reads the journal, and stores what waited there. Works with a broken store too.
    pub async fn open(state: &Path, runtime: &Path, now: Time) -> Start {
        let store = Arc::new(Store::at(state));
        let opened = store.reopen().await;
        let (journal, mut problems) = Journal::load(state, runtime).await;
        let mut keeper = Self { store, journal, is_new: matches!(opened, Ok(Opened::Created)) };
        let replayed = match opened {
            Ok(opened) => keeper.replay(now).await.map(|cleared| {
                problems.extend(cleared);
                opened
            }),
            Err(error) => Err(error),
        };
        Start { keeper, store: replayed, journal: problems }
    }

    /// Puts facts on record, or keeps them until that is possible. They are stored together or not at all.
    pub async fn keep(&mut self, facts: Vec<Fact>, now: Time) -> Kept {
        let pending: Vec<_> = facts.into_iter().map(Pending::new).collect();
        let error = if self.is_waiting() {
            None
        } else {
            match self.store.commit(&pending, now).await {
                Ok(seqs) => return Kept::Recorded(seqs),
                Err(error) => Some(error),
            }
        };
        let keeping = self.journal.append(pending, now).await;
        Kept::Waiting { keeping, error }
    }

    /// Opens the store anew and stores what waits; returns what of the journal could not be removed.
    ///
    /// Until it returns `Ok` the store has to be taken for broken.
    pub async fn heal(&mut self, now: Time) -> Result<Vec<JournalError>, StoreError> {
        self.is_new = self.store.reopen().await? == Opened::Created;
        self.store.prove_room().await?;
        self.replay(now).await
    }

    /// Stores what waits. An entry keeps the time at which it happened and says when it was recorded.
    async fn replay(&mut self, now: Time) -> Result<Vec<JournalError>, StoreError> {
        if self.journal.is_empty() {
            return Ok(Vec::new());
        }
        for batch in self.journal.pending().chunks(BATCH) {
            let batch: Vec<_> = batch.iter().map(|pending| pending.recorded_at(now)).collect();
            self.store.commit(&batch, now).await?;
        }
        Ok(self.journal.clear().await)
    }

    /// True when there was no database when it was last opened: nothing of before is remembered in it.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// True while facts wait for the store.
    pub fn is_waiting(&self) -> bool {
        !self.journal.is_empty()
    }

    /// What stands for services, with what waits laid over what is stored.
    pub async fn records(&self) -> Result<BTreeMap<ServiceName, Record>, StoreError> {
        let stored = self.store.load_records().await?;
        Ok(fact::overlay(stored, self.journal.pending()))
    }

    /// What stands for services as far as it waits: all that is known while the store cannot be read.
    pub fn waiting_records(&self) -> BTreeMap<ServiceName, Record> {
        fact::overlay(BTreeMap::new(), self.journal.pending())
    }

    /// The store; a clone of the handle reads beside the loop.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }
}
