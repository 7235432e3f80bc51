//! `audit`: the ledger. Shown by the daemon, or from its database where none answers; verified and exported offline, whether a daemon runs or not.

mod export;
mod review;
mod show;
mod verify;
mod words;

use super::arguments::{Arguments, Audit};
use super::console::Console;
use super::stop::Stop;

pub async fn run(command: &Audit, arguments: &Arguments, console: &mut Console<'_>) -> Result<(), Stop> {
    match command {
        Audit::Show(wanted) => show::run(wanted, arguments, console).await,
        Audit::Verify(wanted) => verify::run(wanted, &arguments.settings(), console).await,
        Audit::Export(wanted) => export::run(wanted, &arguments.settings(), console).await,
    }
}
