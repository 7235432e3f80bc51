//! Whether files that are in order may be put in force right now.

use super::engine::{ChangeError, Engine};
use crate::config::Loaded;
use crate::model::{Service, ServiceName, Settings};
use crate::reconcile::World;

impl Engine {
    pub(super) fn may_apply(&self, loaded: &Loaded) -> Result<(), ChangeError> {
        may_apply(&self.world, self.store_error.as_deref(), loaded)
    }
}

/// `store_error`: why the ledger does not work.
pub fn may_apply(world: &World, store_error: Option<&str>, loaded: &Loaded) -> Result<(), ChangeError> {
    if let Some(key) = needs_restart(world.settings(), &loaded.settings) {
        return Err(ChangeError::NeedsRestart(key));
    }
    match store_error {
        Some(error) if may_open(world, loaded) => Err(ChangeError::NoLedger(error.to_owned())),
        Some(_) | None => Ok(()),
    }
}

/// The setting that is woven into what is open: sockets, the database, the table's name.
fn needs_restart(now: &Settings, wanted: &Settings) -> Option<&'static str> {
    let woven = [
        (now.paths.state != wanted.paths.state, "paths.state"),
        (now.paths.runtime != wanted.paths.runtime, "paths.runtime"),
        (now.enforcement.table != wanted.enforcement.table, "enforcement.table"),
        (now.enforcement.protect != wanted.enforcement.protect, "enforcement.protect"),
        (now.attempts.log_group != wanted.attempts.log_group, "attempts.log_group"),
    ];
    woven.into_iter().find_map(|(differs, key)| differs.then_some(key))
}

/// False for files that leave every service as it is, or take services away: these need no ledger.
fn may_open(world: &World, loaded: &Loaded) -> bool {
    let same = |name: &ServiceName, service: &Service| world.file(name).is_some_and(|file| file == service);
    !loaded.services.iter().all(|(name, service)| same(name, service))
}
