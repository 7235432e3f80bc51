//! `apply`.

use super::console::Console;
use super::daemon::{Daemon, understand};
use super::stop::Stop;
use super::table::counted;
use crate::api::body::Applied;

pub async fn run(daemon: &Daemon, console: &mut Console<'_>) -> Result<(), Stop> {
    let body = daemon.apply().await?;
    let applied: Applied = understand(&body)?;
    if !console.json {
        applied.warnings.iter().for_each(|warning| console.note(warning));
    }
    if !applied.recorded {
        console.note(NOT_ON_RECORD);
    }
    match console.json {
        true => console.print(body),
        false => console.print(text(&applied)),
    }
}

/// Said when the store does not work.
pub const NOT_ON_RECORD: &str = "picoseg: this is in force and not on record yet: the store does not work; it is recorded as soon as it does";

fn text(applied: &Applied) -> String {
    let services = counted(applied.services, "service");
    match applied.changed {
        true => format!("{services} in force"),
        false => format!("{services} in force, as before"),
    }
}
