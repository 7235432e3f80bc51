//! Seals the sums of attempts into the ledger and signs checkpoints: at the start, hourly, at the stop.
//!
//! The hours are of elapsed time: a clock that is turned back delays nothing. Each checkpoint goes to the log as one line, from where
//! it gets to other machines; `picoseg audit verify --checkpoint` finds it there.

use std::sync::Arc;
use std::time::Duration;

use super::engine::Engine;
use crate::kernel::clock;
use crate::model::Time;
use crate::store::{Sealed, StoreError};

const HOUR: Duration = Duration::from_secs(3600);
/// Between two of several entries, so that decisions get in.
const NEXT: Duration = Duration::from_millis(100);
/// After a failure, when the store works again.
const RETRY: Duration = Duration::from_secs(60);

/// The most entries at the stop, which has seconds: 20,000 sums. The next start seals the rest.
const AT_STOP: usize = 100;

impl Engine {
    /// Seals what one entry takes, or signs a checkpoint when nothing is left; returns when to come again.
    pub async fn seal(&mut self) -> Duration {
        if self.attempts.is_writing() {
            return NEXT;
        }
        let (store, now) = (Arc::clone(self.keeper.store()), self.now());
        match self.mending(store.seal(now)).await {
            Ok(Sealed::Entry(seq)) => {
                tracing::info!(seq, "attempts sealed");
                NEXT
            }
            Ok(Sealed::Nothing) => match self.checkpoint().await {
                true => HOUR,
                false => RETRY,
            },
            Err(error) => {
                self.not_sealed(&error);
                RETRY
            }
        }
    }

    /// Seals everything, for the stop.
    pub async fn seal_all(&mut self) {
        if self.store_error.is_some() {
            return;
        }
        for _ in 0..AT_STOP {
            match self.keeper.store().seal(self.now()).await {
                Ok(Sealed::Entry(_)) => {}
                Ok(Sealed::Nothing) => return,
                Err(error) => return self.not_sealed(&error),
            }
        }
    }

    /// Signs a checkpoint and tells the log; false when the store does not work.
    pub async fn checkpoint(&mut self) -> bool {
        if self.store_error.is_some() {
            return false;
        }
        let (store, now) = (Arc::clone(self.keeper.store()), self.now());
        match self.mending(store.checkpoint(now)).await {
            Ok(Some(statement)) => tracing::info!("{statement}"),
            Ok(None) => {}
            Err(error) => {
                self.not_sealed(&error);
                return false;
            }
        }
        true
    }

    fn not_sealed(&mut self, error: &StoreError) {
        tracing::error!(%error, "the ledger is not sealed");
        self.store_broke(error.to_string());
    }

    pub(super) fn now(&self) -> Time {
        self.world.now().max(clock::now())
    }
}
