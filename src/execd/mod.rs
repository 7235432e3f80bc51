//! The helper `picoseg-execd`: holds each execution of a program that a schedule names until the process is in a
//! cgroup of its own, so that its first socket is governed already.
//!
//! ```text
//!  guard (the unit's process)
//!    | starts, listens for its heartbeat, kills it when it is silent
//!  responder process
//!    responder  reads executions; lets each go on after HOLD at the latest, whatever the others do
//!    mover      makes cgroups, moves processes, waits until the daemon has them in the table
//!    files      marks files, follows those that are replaced, compares digests, counts processes
//!    link       lines from the daemon
//! ```
//!
//! | what happens | what follows |
//! |---|---|
//! | the mover or the files are stuck | the responder lets go after [`HOLD`]; the process is not classified: refused |
//! | the responder is stopped or stuck | the guard kills it after [`SILENCE`]; the kernel lets everything go on |
//! | the responder is killed | the kernel lets everything go on; the guard starts another one |
//! | the guard is stopped | nothing: the responder goes on; the service manager's watchdog ends both |
//! | the guard is killed | the responder dies with it (PR_SET_PDEATHSIG) |
//! | both are stopped | executions wait until the service manager's watchdog kills the unit |
//!
//! No process that answers executions may start another one while files are marked: on 6.1 that can deadlock. The
//! guard has no marks, and starts a responder only when the last one is gone, whose marks went with it; files that the
//! helper itself runs on are refused.
//!
//! A subject `exe` says which file was executed, not which code runs: whoever may start a program may load libraries
//! into it or trace it. What a program starts belongs to it, unless that is a program with a name of its own.

mod files;
mod guard;
mod link;
mod mover;
mod processes;
pub mod protocol;
mod responder;
mod stamp;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// What the command line says.
#[derive(Debug, Clone)]
pub struct Options {
    /// `None`: the default place, and no error when nothing is there.
    pub config: Option<PathBuf>,
    /// Be the responder of this guard.
    pub responder_of: Option<u32>,
}

/// No execution is held longer while the responder runs. With [`SILENCE`] it stays below a second.
const HOLD: Duration = Duration::from_millis(400);

/// How long the daemon may take to put a new cgroup into the table.
const CONFIRM: Duration = Duration::from_millis(300);

/// A responder that was not heard for this time is killed.
const SILENCE: Duration = Duration::from_millis(450);

/// How often the responder is to be heard.
const BEAT: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
pub enum ExecdError {
    #[error("invalid configuration: {0}")]
    Settings(String),
    #[error("cannot {what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error("another picoseg-execd answers on {}", .0.display())]
    Answered(PathBuf),
    #[error("the responder ended before it was ready ({0})")]
    Unready(std::process::ExitStatus),
    #[error(transparent)]
    Cgroups(#[from] crate::kernel::cgroups::CgroupError),
}

fn failed(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> ExecdError {
    move |source| ExecdError::Io { what: what.into(), source }
}

/// Runs until it is killed or cannot go on; returns how the process exits.
pub fn main(options: &Options) -> ExitCode {
    let outcome = match options.responder_of {
        Some(guard) => responder::run(guard),
        None => guard::run(options.config.clone()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("picoseg-execd: {error}");
            match error {
                ExecdError::Settings(_) => ExitCode::from(78),
                ExecdError::Io { .. }
                | ExecdError::Answered(_)
                | ExecdError::Unready(_)
                | ExecdError::Cgroups(_) => ExitCode::FAILURE,
            }
        }
    }
}
