//! The engine's part: begins to wait, confirms, falls back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::begin::{clear, told};
use super::held::{held, shut};
use super::{Confirmation, ConfirmationError, Waiting};
use crate::config::Loaded;
use crate::daemon::engine::{ChangeError, Changed, Engine, Terms};
use crate::daemon::{acceptance, fallback, record, snapshot};
use crate::kernel::clock;
use crate::store::accepted::Accepted;
use crate::store::unconfirmed::{self, Note};

/// Between two tries to fall back that the kernel refused.
const RETRY: Duration = Duration::from_secs(1);

impl Engine {
    /// Takes over files, already parsed, for good.
    pub async fn apply(&mut self, loaded: Loaded, by: &str) -> Result<Changed, ChangeError> {
        if let Some(waits) = self.confirmation.waits() {
            return Err(waits.into());
        }
        self.may_apply(&loaded)?;
        let changed = self.take_over(loaded, Terms { by, ..Terms::default() }).await?;
        if !matches!(self.confirmation, Confirmation::Settled) {
            self.confirmation = Confirmation::Settled;
            clear(&self.world.settings().paths.state);
        }
        Ok(changed)
    }

    /// Takes over files until they are confirmed, for so long at most.
    pub async fn apply_until(
        &mut self,
        loaded: Loaded,
        by: &str,
        patience: Duration,
    ) -> Result<Changed, ChangeError> {
        let before = match &self.confirmation {
            Confirmation::Waiting(waiting) => waiting.before.clone(),
            Confirmation::Settled | Confirmation::FellBack { .. } => (*self.accepted).clone(),
        };
        let base = fallback::reload(&before).ok_or(ConfirmationError::NoWayBack)?;
        let reading = clock::reading();
        if reading.boot.is_empty() {
            return Err(ConfirmationError::NoWayBack.into());
        }
        let now = reading.wall;
        let until = now + patience;
        let in_force = held(&base, loaded.clone(), until);
        self.may_apply(&in_force)?;
        let elapsed = u64::try_from((reading.elapsed + patience).as_nanos()).unwrap_or(u64::MAX);
        let texts = snapshot::of(&loaded);
        let note = Note::new(by, now, until, (reading.boot.to_string(), elapsed), &texts);
        let directory = self.world.settings().paths.state.clone();
        unconfirmed::write(&directory, &note, &texts).map_err(ConfirmationError::from)?;
        let waiting = Confirmation::Waiting(Box::new(Waiting { note, before, loaded, retry_at: None }));
        let former = std::mem::replace(&mut self.confirmation, waiting);
        let detail = json!({ "confirm_until": until });
        match self.take_over(in_force, Terms { by, detail, ..Terms::default() }).await {
            Ok(changed) => Ok(changed),
            Err(error) => {
                self.confirmation = former;
                self.write_down_again(&directory);
                Err(error)
            }
        }
    }

    /// What waits now stands in the state directory, or nothing.
    fn write_down_again(&self, directory: &std::path::Path) {
        let Some(Waiting { note, loaded, .. }) = self.confirmation.waiting() else { return clear(directory) };
        if let Err(error) = unconfirmed::write(directory, note, &snapshot::of(loaded)) {
            tracing::error!(%error, "what waits for a confirmation is not written down");
        }
    }

    /// Keeps what waits.
    pub async fn confirm(&mut self, by: &str) -> Result<Changed, ChangeError> {
        let waiting = match std::mem::take(&mut self.confirmation) {
            Confirmation::Waiting(waiting) => waiting,
            Confirmation::Settled => return Err(ConfirmationError::Nothing.into()),
            fell_back @ Confirmation::FellBack { .. } => {
                self.confirmation = fell_back;
                return Err(ConfirmationError::TooLate.into());
            }
        };
        let detail =
            json!({ "cause": "confirmed", "applied_by": waiting.note.by, "applied_at": waiting.note.at });
        match self.take_over(waiting.loaded.clone(), Terms { by, detail, ..Terms::default() }).await {
            Ok(changed) => {
                clear(&self.world.settings().paths.state);
                Ok(changed)
            }
            Err(error) => {
                self.confirmation = Confirmation::Waiting(waiting);
                Err(error)
            }
        }
    }

    /// Falls back where it is time to, and goes on where a ledger was missing.
    pub async fn fall_back_when_due(&mut self) {
        let may_try = |at: Instant| at <= Instant::now();
        let retry_at = self.confirmation.waiting().and_then(|waiting| waiting.retry_at);
        let is_due = self.confirmation.left().is_some_and(|left| left.is_zero());
        if is_due && retry_at.is_none_or(may_try) {
            self.fall_back().await;
        }
        if self.store_error.is_none() {
            self.finish_falling_back().await;
        }
    }

    /// In how much time to look again; `None`: nothing waits.
    pub fn confirmation_due(&self) -> Option<Duration> {
        let left = self.confirmation.left()?;
        Some(if left.is_zero() { RETRY } else { left })
    }

    async fn fall_back(&mut self) {
        let Some(waiting) = self.confirmation.waiting() else { return };
        let (note, before) = (waiting.note.clone(), waiting.before.clone());
        let Some(base) = fallback::reload(&before) else {
            tracing::error!("what was accepted before does not parse any more: the files stay unconfirmed");
            return;
        };
        let directory = self.world.settings().paths.state.clone();
        if let Err(error) = unconfirmed::write_fell_back(&directory, &note) {
            tracing::error!(%error, "that nobody confirmed is not written down");
        }
        let whole = acceptance::may_apply(&self.world, self.store_error.as_deref(), &base).is_ok();
        let loaded = if whole { base.clone() } else { self.shut(base.clone()) };
        // What governs and was not accepted came with the files; what governs no more was there before.
        let came = self.world.standings().into_iter().map(|standing| standing.service.name.clone());
        let forget = came.filter(|name| !before.services.contains_key(name)).collect();
        let rest = (!whole).then(|| Box::new(base));
        let former = std::mem::replace(&mut self.confirmation, Confirmation::FellBack { rest });
        let put_back = before.services.iter().filter(|(_, old)| old.departed.is_some());
        let put_back =
            put_back.filter_map(|(name, old)| fallback::service(name, old, &loaded.settings)).collect();
        let terms = Terms { by: record::DAEMON, detail: cause(&note), forget, put_back };
        match self.take_over(loaded, terms).await {
            Ok(_) => {
                self.put_texts_back(&before);
                tracing::warn!(by = %note.by, at = %note.at, "nobody confirmed: what was accepted before is in force");
                self.config_error = Some(told(&note));
            }
            Err(error) => {
                tracing::error!(%error, "cannot fall back; trying again");
                self.confirmation = former.again_at(Instant::now() + RETRY);
            }
        }
    }

    /// The texts of services that were gone before stand again as they were.
    fn put_texts_back(&mut self, before: &Accepted) {
        let departed = before.services.iter().filter(|(_, old)| old.departed.is_some());
        let departed: Vec<_> = departed.map(|(name, old)| (name.clone(), old.clone())).collect();
        if !departed.is_empty() {
            Arc::make_mut(&mut self.accepted).services.extend(departed);
            self.write_accepted();
        }
    }

    /// Services that files would open are suspended instead, until the ledger works again.
    fn shut(&self, mut loaded: Loaded) -> Loaded {
        for (name, service) in loaded.services.clone() {
            if self.world.file(&name) != Some(&*service) {
                loaded.services.insert(name, Arc::new(shut(&service)));
            }
        }
        loaded
    }

    async fn finish_falling_back(&mut self) {
        let Confirmation::FellBack { rest } = &mut self.confirmation else { return };
        let Some(loaded) = rest.take() else { return };
        let error = self.config_error.clone();
        let detail = json!({ "cause": "the ledger works again" });
        let terms = Terms { by: record::DAEMON, detail, ..Terms::default() };
        match self.take_over((*loaded).clone(), terms).await {
            Ok(_) => self.config_error = error,
            Err(failed) => {
                tracing::error!(error = %failed, "cannot open again what was accepted before");
                self.confirmation = Confirmation::FellBack { rest: Some(loaded) };
            }
        }
    }
}

/// Why files changed that nobody applied.
pub fn cause(note: &Note) -> Value {
    json!({ "cause": "not confirmed", "applied_by": note.by, "applied_at": note.at, "confirm_until": note.until })
}
