//! `apply`.

use super::console::Console;
use super::daemon::{Daemon, understand};
use super::stop::Stop;
use super::table::counted;
use super::when;
use crate::api::body::{Applied, ApplyRequest};

pub async fn run(daemon: &Daemon, confirm: Option<String>, console: &mut Console<'_>) -> Result<(), Stop> {
    let body = daemon.apply(&ApplyRequest { confirm }).await?;
    say(&body, console)
}

/// Says what is in force now, and what to mind.
pub fn say(body: &str, console: &mut Console<'_>) -> Result<(), Stop> {
    let applied: Applied = understand(body)?;
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
    let until = applied
        .confirm_until
        .map(|until| format!(" until {}; `picoseg confirm` keeps it", when::print_seconds(until)));
    let until = until.unwrap_or_default();
    match applied.changed {
        true => format!("{services} in force{until}"),
        false => format!("{services} in force, as before{until}"),
    }
}
