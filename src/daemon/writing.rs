//! Attempts on their way into the store, beside the loop: a disk may take seconds to commit.
//!
//! One transaction at a time, and nothing further is read of the kernel's counts before it ended: that is the queue, and its bound.
//! What is on record is noted only then, so that a daemon which is killed meanwhile, or a store that refuses, neither forgets
//! nor repeats a packet. Whoever writes something that has to come after it waits for it first.

use std::sync::Arc;

use tokio::sync::watch;

use super::books::{Books, Line};
use crate::model::Time;
use crate::ruleset::Key;
use crate::store::{AttemptKey, Baseline, Change, NewSource, Store, StoreError};

type Outcome = Result<Vec<NewSource>, StoreError>;

/// What goes into one transaction.
#[derive(Debug, Default)]
pub struct Batch {
    pub changes: Vec<(AttemptKey, Change)>,
    /// How counters stand then.
    pub lines: Vec<Line>,
    /// What is to be forgotten of counters.
    pub gone: Vec<Baseline>,
    /// Packets that are on record then, and were not before.
    pub packets: u64,
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.lines.is_empty() && self.gone.is_empty()
    }
}

/// The transaction that is under way.
#[derive(Debug)]
pub struct Writing {
    store: Arc<Store>,
    outcome: watch::Receiver<Option<Outcome>>,
    lines: Vec<Line>,
    gone: Vec<Baseline>,
    packets: u64,
    /// What counts from zero since it began.
    lost: Vec<Lost>,
}

/// Counters that are not there any more, or are new ones.
#[derive(Debug, Clone)]
pub enum Lost {
    Everything,
    Names(Vec<String>),
    Keys(String, Vec<Key>),
}

/// A transaction that ended well.
#[derive(Debug)]
pub struct Written {
    pub new_sources: Vec<NewSource>,
    pub packets: u64,
}

impl Writing {
    /// Begins to write, in the tokio runtime in which it is called.
    pub fn begin(store: &Arc<Store>, batch: Batch, now: Time) -> Self {
        let Batch { changes, lines, gone, packets } = batch;
        let baselines: Vec<_> = lines.iter().map(Line::baseline).chain(gone.iter().cloned()).collect();
        let (tell, outcome) = watch::channel(None);
        let its = Arc::clone(store);
        tokio::spawn(async move {
            let outcome = its.add_counts(&changes, &baselines, now).await;
            // Whoever waited may have gone.
            let _ = tell.send(Some(outcome));
        });
        Self { store: Arc::clone(store), outcome, lines, gone, packets, lost: Vec::new() }
    }

    /// Waits for its end, whatever that is.
    pub fn ended(&self) -> impl Future<Output = ()> + use<> {
        let mut outcome = self.outcome.clone();
        async move {
            let _ = outcome.wait_for(Option::is_some).await;
        }
    }

    pub fn has_ended(&self) -> bool {
        self.outcome.borrow().is_some() || self.outcome.has_changed().is_err()
    }

    /// These count from zero from now on, whatever is on record when it ends.
    pub fn lose(&mut self, lost: Lost) {
        self.lost.push(lost);
    }

    /// Takes over what is on record now. To be called when it has ended.
    pub fn settle(self, books: &mut Books) -> Result<Written, StoreError> {
        let outcome = self.outcome.borrow().clone();
        let given_up = || StoreError::Failed {
            path: self.store.path().to_owned(),
            what: "write the attempts",
            cause: "it was given up".to_owned(),
        };
        let new_sources = outcome.unwrap_or_else(|| Err(given_up()))?;
        books.note(self.lines);
        books.forgotten(&self.gone);
        for lost in self.lost {
            lost.drop_from(books);
        }
        Ok(Written { new_sources, packets: self.packets })
    }
}

impl Lost {
    pub fn drop_from(&self, books: &mut Books) {
        match self {
            Self::Everything => books.drop_everything(),
            Self::Names(names) => books.drop_all(names),
            Self::Keys(set, keys) => books.drop_keys(set, keys),
        }
    }
}
