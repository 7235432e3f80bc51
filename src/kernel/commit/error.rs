//! What can go wrong between a changeset and the kernel.

use std::fmt;
use std::io;

use super::owner::Process;

#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    #[error("cannot talk to nf_tables: not permitted (CAP_NET_ADMIN in this network namespace is needed)")]
    NotPermitted,
    #[error("cannot talk to nf_tables: this kernel has none (CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET)")]
    NoNftables,
    #[error("cannot write to table inet {table}: {holder} owns it")]
    HeldByAnother { table: String, holder: Holder },
    /// The table was there and is not any more. The next inventory says so; load the ruleset anew.
    #[error("cannot change table inet {table}: somebody removed it since the last commit")]
    Vanished { table: String },
    #[error("cannot commit table inet {table}: netlink refused {}", list(.failures))]
    Refused { table: String, failures: Vec<Failure> },
    #[error(
        "cannot commit table inet {table}: its {bytes} bytes do not fit the socket's send buffer (net.core.wmem_max)"
    )]
    TooLarge { table: String, bytes: usize },
    /// Whether the transaction is in force is unknown: read back.
    #[error("committed table inet {table}, but the kernel's answer was lost")]
    NoAnswer { table: String },
    #[error("cannot encode {object}: it contains a NUL byte")]
    Nul { object: String },
    /// Others change the rules faster than we read.
    #[error("cannot read {what}: it changed during each of {attempts} attempts")]
    Unsteady { what: String, attempts: u32 },
    #[error("cannot {action}: {source}")]
    Netlink { action: String, source: io::Error },
}

/// Who owns a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The netlink port of the owner's socket.
    pub port: u32,
    /// The process that holds the socket, where `/proc` shows it.
    pub process: Option<Process>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.process {
            Some(process) => write!(f, "process {} ({})", process.id, process.name),
            None => write!(f, "the netlink socket with port {}", self.port),
        }
    }
}

/// One message that the kernel refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What the message was about: `element 12 of "egress4"`.
    pub object: String,
    pub errno: i32,
    /// The kernel's own words, where it has some.
    pub kernel_text: Option<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, nix::errno::Errno::from_raw(self.errno).desc())?;
        match &self.kernel_text {
            Some(text) => write!(f, " ({text})"),
            None => Ok(()),
        }
    }
}

fn list(failures: &[Failure]) -> String {
    let texts: Vec<_> = failures.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

impl CommitError {
    /// A failed system call; missing permission and a missing nf_tables have variants of their own.
    pub(super) fn netlink(action: &str, error: impl Into<io::Error>) -> Self {
        let source = error.into();
        match source.raw_os_error() {
            Some(libc::EPERM) => Self::NotPermitted,
            Some(libc::EPROTONOSUPPORT) => Self::NoNftables,
            _ => Self::Netlink { action: action.to_owned(), source },
        }
    }
}
