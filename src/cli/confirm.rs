//! `confirm`.

use super::apply;
use super::console::Console;
use super::daemon::Daemon;
use super::stop::Stop;

pub async fn run(daemon: &Daemon, console: &mut Console<'_>) -> Result<(), Stop> {
    apply::say(&daemon.confirm().await?, console)
}
