//! The daemon: one loop that turns what comes in into changes of the [`World`](crate::reconcile::World), and performs
//! what follows. It decides nothing itself.
//!
//! | file | duty |
//! |---|---|
//! | `start` | everything that has to be there before the first transaction |
//! | `early` | the table at boot, before there is a daemon |
//! | `engine` | changes of the world: tried on a copy, committed, torn down, recorded |
//! | `acceptance` | whether files may be put in force right now |
//! | `confirmation` | `apply --confirm`: waits, is confirmed, or falls back |
//! | `planning` | what `apply` would do |
//! | `clocks` | pure: how the wall clock goes beside elapsed time |
//! | `extension` | openings that are prolonged by order |
//! | `in_force` | from a world to the table |
//! | `drift` | what others did to the table: noticed, repaired, recorded |
//! | `mender` | brings the table back to what is in force |
//! | `pace` | pure: how fast that is repaired |
//! | `on_record` | what was done into the store |
//! | `subjects` | where subjects are right now |
//! | `programs` | what the helper tells of programs, in the words of `show` |
//! | `findings` | sockets that were made elsewhere than a policy supposes |
//! | `flows` | who talks to which provider |
//! | `settle` | who waits until a cgroup is in force |
//! | `names` | asks the host's resolvers what names stand for |
//! | `hearing` | news of names, committed and kept |
//! | `teardown` | cuts what is connected, and proves that nothing is left |
//! | `tally` | pure: kernel counts and log records to rows |
//! | `whois` | who it was: subjects and processes of records |
//! | `attempts` | reads counts and records, writes rows |
//! | `rhythm` | pure: when counts are looked at |
//! | `writing` | rows on their way into the store, beside the loop |
//! | `journald` | what the journal is told, with fields |
//! | `notify` | tells a command of new sources after a decommission |
//! | `closing` | pure: what was in flight at a close, and what came later |
//! | `in_flight` | which closes that is asked for |
//! | `snapshot` | what is kept of accepted files |
//! | `sealing` | sums of attempts into the ledger, checkpoints into the log |
//! | `recall` | what store and daemon remember of services, brought together again |
//! | `record` | happenings to ledger entries |
//! | `report` | collects the decommission report |
//! | `answer` | what the API asks |
//! | `metrics` | what metrics and dashboard are made of |
//! | `rows` | rows of attempts for the API |
//! | `retention` | has old attempts removed beside the loop |
//! | `upkeep` | what is done every few minutes |
//! | `manager` | the service manager: signs of life, and the socket that it keeps |
//! | `run` | the loop |

mod acceptance;
mod answer;
mod attempts;
mod attributed;
mod books;
mod chronicle;
mod clocks;
mod closing;
mod confirmation;
mod counts;
mod digest;
mod drift;
mod early;
mod engine;
mod extension;
mod fallback;
mod filed;
mod findings;
mod flows;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod hearing;
mod in_flight;
mod in_force;
mod isolation;
mod journald;
mod manager;
mod matching;
mod mender;
mod metrics;
mod names;
mod notify;
mod on_record;
mod pace;
mod planning;
mod programs;
mod recall;
mod record;
mod report;
mod retention;
mod rhythm;
mod rows;
mod run;
mod sealing;
mod settle;
mod settling;
mod snapshot;
mod sources;
mod start;
mod subjects;
mod tally;
mod teardown;
mod upkeep;
mod whois;
mod writing;

use std::path::PathBuf;
use std::process::ExitCode;

pub use journald::subscribe;
pub use start::StartError;

/// What the command line says.
#[derive(Debug, Clone)]
pub struct Options {
    /// `None`: the default place, and no error when nothing is there.
    pub config: Option<PathBuf>,
    pub task: Task,
}

/// What the program is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Keep the table in step until told to stop.
    Run,
    /// Put the table of before in force, once, before the network is up.
    Early,
    /// Remove the table.
    Unload,
}

/// Runs the daemon until it is told to stop; returns how the process exits.
pub async fn main(options: Options) -> ExitCode {
    let outcome = match options.task {
        Task::Run => run::run(&options).await,
        Task::Early => early::early(&options).await,
        Task::Unload => start::unload(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("picosegd: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
