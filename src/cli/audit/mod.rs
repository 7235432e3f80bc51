//! `audit`: the ledger. Shown by the daemon; verified and exported offline, whether a daemon runs or not.

mod export;
mod show;
mod verify;

use std::path::PathBuf;

use super::arguments::{Arguments, Audit};
use super::console::Console;
use super::stop::Stop;
use crate::files::{self, SettingsFile};
use crate::store;

pub async fn run(command: &Audit, arguments: &Arguments, console: &mut Console<'_>) -> Result<(), Stop> {
    match command {
        Audit::Show(wanted) => show::run(wanted, arguments, console).await,
        Audit::Verify(wanted) => verify::run(wanted, &arguments.settings(), console).await,
        Audit::Export(wanted) => export::run(wanted, &arguments.settings(), console).await,
    }
}

/// Where the daemon keeps its database.
fn database(settings: &SettingsFile) -> Result<PathBuf, Stop> {
    let state = files::state(settings).map_err(Stop::Invalid)?;
    Ok(state.join(store::FILE))
}
