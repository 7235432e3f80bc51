//! Why a command ends early, and how the process exits then.

use std::io;
use std::process::ExitCode;

use crate::api::body::{Diagnostics, Failure, SCHEMA};
use crate::api::client::ClientError;
use crate::config::Diagnostic;

/// How the process exits; the contract names the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    Done,
    Failed,
    Usage,
    /// The daemon does not answer.
    Silent,
    /// `plan --exit-code` found some.
    Changes,
    NotAllowed,
    /// Invalid configuration.
    Invalid,
}

impl Exit {
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Silent => 3,
            Self::Changes => 4,
            Self::NotAllowed => 5,
            Self::Invalid => 78,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// Why a command ends before it is done.
#[derive(Debug)]
pub enum Stop {
    /// Also what `--help` and `--version` print.
    Usage(clap::Error),
    /// The files have mistakes.
    Invalid(Vec<Diagnostic>),
    /// What the daemon said, or that it said nothing.
    Daemon(ClientError),
    /// It cannot be done.
    Failed(String),
    /// All has been said already: only the exit code is left.
    Said(Exit),
    /// Nobody reads what is printed, or it cannot be written.
    Output(io::Error),
}

impl Stop {
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage(error) if error.use_stderr() => Exit::Usage,
            Self::Usage(_) => Exit::Done,
            Self::Invalid(_) => Exit::Invalid,
            Self::Daemon(error) => error.exit(),
            Self::Failed(_) => Exit::Failed,
            Self::Said(exit) => *exit,
            // `| head` has seen enough: that is no failure.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
            Self::Output(_) => Exit::Failed,
        }
    }

    /// The JSON body that goes to stdout with `--json`.
    pub fn body(&self) -> Option<String> {
        match self {
            Self::Invalid(diagnostics) => serde_json::to_string(&Diagnostics::new(diagnostics)).ok(),
            Self::Daemon(ClientError::Invalid { body, .. }) => Some(body.clone()),
            Self::Daemon(ClientError::Failed { body: Some(body), .. }) => Some(body.clone()),
            Self::Daemon(error) => failure(error.to_string()),
            Self::Failed(error) => failure(error.clone()),
            Self::Usage(_) | Self::Said(_) | Self::Output(_) => None,
        }
    }
}

fn failure(error: String) -> Option<String> {
    serde_json::to_string(&Failure { schema: SCHEMA, error }).ok()
}

impl ClientError {
    fn exit(&self) -> Exit {
        match self {
            Self::Absent { .. } | Self::Silent { .. } => Exit::Silent,
            Self::NotAllowed { .. } => Exit::NotAllowed,
            Self::Invalid { .. } => Exit::Invalid,
            Self::Failed { .. } => Exit::Failed,
        }
    }
}

impl From<clap::Error> for Stop {
    fn from(error: clap::Error) -> Self {
        Self::Usage(error)
    }
}

impl From<ClientError> for Stop {
    fn from(error: ClientError) -> Self {
        Self::Daemon(error)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(stops: impl IntoIterator<Item = Stop>) -> Vec<u8> {
        stops.into_iter().map(|stop| stop.exit().code()).collect()
    }

    #[test]
    fn every_end_has_the_exit_code_of_the_contract() {
        let (socket, why) = (std::path::PathBuf::new(), String::new());
        let diagnostics = Diagnostics { schema: SCHEMA, diagnostics: Vec::new() };
        let stops = [
            ClientError::Absent { socket: socket.clone(), why: why.clone() }.into(),
            ClientError::Silent { socket: socket.clone(), why: why.clone() }.into(),
            ClientError::NotAllowed { socket, why: why.clone() }.into(),
            ClientError::Invalid { diagnostics, body: why.clone() }.into(),
            ClientError::Failed { error: why.clone(), body: None }.into(),
            Stop::Invalid(Vec::new()),
            Stop::Failed(why),
        ];
        assert_eq!(codes(stops), [3, 3, 5, 78, 1, 78, 1]);
    }

    #[test]
    fn usage_errors_are_2_and_help_is_0() {
        use clap::Parser as _;
        let stop = |line: &[&str]| Stop::from(super::super::Arguments::try_parse_from(line).unwrap_err());
        assert_eq!(
            codes([stop(&["picoseg"]), stop(&["picoseg", "--help"]), stop(&["picoseg", "explode"])]),
            [2, 0, 2]
        );
    }

    #[test]
    fn a_reader_that_has_seen_enough_is_no_failure_and_a_full_disk_is() {
        let errors = [io::ErrorKind::BrokenPipe, io::ErrorKind::StorageFull];
        assert_eq!(codes(errors.map(|kind| io::Error::from(kind).into())), [0, 1]);
    }
}
