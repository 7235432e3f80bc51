//! Which closes begin two seconds in which refused packets count as in flight, and where that is kept.

use std::time::Instant;

use super::engine::Engine;
use crate::compile::CUT_GRACE;
use crate::kernel::clock;
use crate::model::{ServiceName, Time};
use crate::reconcile::{Happening, Outcome, What};

impl Engine {
    /// Tells what is in flight at the closes of an outcome from what comes later.
    pub(super) fn watch_closings(&mut self, outcome: &Outcome) {
        outcome.happenings.iter().filter_map(closed).for_each(|closed| self.watch_closing(closed));
    }

    /// The same at the start of the daemon. Only of a decommission is known when it was; another close may be long ago.
    pub(super) fn watch_decommissions(&mut self, outcome: &Outcome) {
        let ended = outcome.happenings.iter().filter(|h| matches!(h.what, What::Decommissioned(_)));
        ended.filter_map(closed).for_each(|closed| self.watch_closing(closed));
    }

    fn watch_closing(&mut self, (service, at): (&ServiceName, Time)) {
        let Some(state) = self.world.state(service) else { return };
        // A clock that was turned back must not make it longer.
        let left = (at + CUT_GRACE - clock::now()).min(CUT_GRACE).to_std().unwrap_or_default();
        if !left.is_zero() {
            self.attempts.closings.begin(service.clone(), state.reason(), at, Instant::now(), left);
        }
    }

    /// When the kernel's counts have to be read to tell what is in flight from what comes later.
    pub(super) fn closing_due(&self) -> Option<Instant> {
        self.attempts.closings.due().filter(|_| self.store_error.is_none())
    }

    /// Puts on record which closes were told apart, once their counts are.
    pub(super) async fn write_closings(&mut self) {
        let ended = self.attempts.closings.take_ended();
        if ended.is_empty() {
            return;
        }
        if let Err(error) = self.keeper.store().put_closings(&ended).await {
            tracing::error!(%error, "what was in flight at a close is not on record yet");
            self.attempts.closings.keep_ended(ended);
        }
    }
}

fn closed(happening: &Happening) -> Option<(&ServiceName, Time)> {
    match happening.what {
        What::Closed | What::Suspended | What::Decommissioned(_) => Some((&happening.service, happening.at)),
        What::Commissioned | What::Opened { .. } | What::Resumed | What::WatchEnded => None,
    }
}
