//! The command line: arguments to a question or to work on files, answers to text or JSON.
//!
//! | file | duty |
//! |---|---|
//! | `arguments` | what may be written |
//! | `audit` | the ledger: shown by the daemon, verified and exported offline |
//! | `check`, `compile`, `timeline` | offline, from the files |
//! | `activation` | listeners that the system manager makes for a service |
//! | `explain` | asks the daemon, and works from the files where none answers |
//! | `daemon` | which socket to ask |
//! | `status`, `services`, `show`, `attempts`, `flows`, `report`, `plan`, `apply`, `confirm`, `order`, `extend`, `settle` | one command or one family of them |
//! | `console`, `table` | how something is said |
//! | `stop` | why a command ends early, and the exit code of that |
//! | `when` | times as written and as printed |
//!
//! Deliberately absent: rights of its own. What needs some, the daemon does.

mod accounts;
mod activation;
mod apply;
mod arguments;
mod attempts;
mod audit;
mod check;
mod compile;
mod confirm;
mod console;
mod daemon;
mod explain;
mod extend;
mod flows;
mod order;
mod plan;
mod report;
mod services;
mod settle;
mod show;
mod status;
mod stop;
mod table;
mod timeline;
mod when;

use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use crate::files::SettingsFile;
use crate::kernel::clock;
use crate::model::OrderKind;
use arguments::{Arguments, Command, Offline, Online};
use console::Console;
use daemon::Daemon;
use stop::Stop;

/// Runs the command that the process was started with; returns how it exits.
pub fn main() -> ExitCode {
    let (mut out, mut err) = (io::BufWriter::new(io::stdout().lock()), io::stderr().lock());
    let mut console = Console::new(&mut out, &mut err);
    let ended = parse(std::env::args_os()).and_then(|arguments| {
        console.json = arguments.json;
        console.colour = io::stdout().is_terminal() && variable("NO_COLOR").is_none();
        run(&arguments, &mut console).and_then(|()| console.flush())
    });
    ended.map_or_else(|stop| console.report(stop), |()| stop::Exit::Done).into()
}

/// Reads arguments; the environment stands in for what they leave out.
fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Arguments, Stop> {
    let mut arguments = Arguments::try_parse_from(words)?;
    arguments.config = arguments.config.or_else(|| variable("PICOSEG_CONFIG").map(Into::into));
    arguments.socket = arguments.socket.or_else(|| variable("PICOSEG_SOCKET").map(Into::into));
    Ok(arguments)
}

/// A variable of the environment; an empty one counts as unset.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

fn run(arguments: &Arguments, console: &mut Console<'_>) -> Result<(), Stop> {
    match &arguments.command {
        Command::Offline(command) => work(command, &arguments.settings(), console),
        Command::Online(command) => {
            let daemon = Daemon::choose(arguments)?;
            runtime()?.block_on(ask(command, &daemon, &arguments.settings(), console))
        }
        Command::Audit(command) => runtime()?.block_on(audit::run(command, arguments, console)),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Stop> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Stop::Failed(format!("cannot start: {error}")))
}

fn work(command: &Offline, settings: &SettingsFile, console: &mut Console<'_>) -> Result<(), Stop> {
    match command {
        Offline::Check { files, kind } => check::run(settings, files, *kind, console),
        Offline::Compile { at } => compile::run(settings, at.at(clock::now()), console),
        Offline::Timeline(wanted) => timeline::run(settings, wanted, clock::now(), console),
        Offline::Completions { shell } => console.print(completions(*shell)),
    }
}

async fn ask(
    command: &Online,
    daemon: &Daemon,
    settings: &SettingsFile,
    console: &mut Console<'_>,
) -> Result<(), Stop> {
    match command {
        Online::Apply { confirm } => apply::run(daemon, confirm.clone(), console).await,
        Online::Confirm => confirm::run(daemon, console).await,
        Online::Plan { exit_code } => plan::run(daemon, *exit_code, console).await,
        Online::Status => status::run(daemon, console).await,
        Online::Services => services::run(daemon, console).await,
        Online::Show { name } => show::run(daemon, name, console).await,
        Online::Attempts(wanted) => attempts::run(daemon, wanted, clock::now(), console).await,
        Online::Flows { service } => flows::run(daemon, service.as_deref(), console).await,
        Online::Report(wanted) => report::run(daemon, wanted, console).await,
        Online::Explain(question) => explain::run(daemon, settings, question, console).await,
        Online::Settle { unit } => settle::run(daemon, unit.as_deref(), console).await,
        Online::Extend(wanted) => extend::run(daemon, wanted, clock::now(), console).await,
        Online::Suspend(order) => order::run(daemon, OrderKind::Suspend, order, console).await,
        Online::Resume(order) => order::run(daemon, OrderKind::Resume, order, console).await,
        Online::Decommission(order) => order::run(daemon, OrderKind::Decommission, order, console).await,
    }
}

/// The completions as text: the generator itself would panic on a closed pipe.
fn completions(shell: clap_complete::Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "picoseg", &mut script);
    String::from_utf8_lossy(&script).trim_end().to_owned()
}
