//! The daemon's settings, `picoseg.toml`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::{Mode, Port, Prefix};

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    pub paths: Paths,
    pub enforcement: Enforcement,
    pub failsafe: Failsafe,
    pub attempts: Attempts,
    pub approval: Approval,
    pub metrics: Metrics,
    pub notify: Notify,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    pub services: PathBuf,
    pub segments: PathBuf,
    pub lists: PathBuf,
    pub state: PathBuf,
    pub runtime: PathBuf,
}

impl Attempts {
    /// The NFLOG group for the answers of name servers, beside that of attempts: each group has one way of being read.
    pub fn answers_group(&self) -> u16 {
        self.log_group.checked_add(1).unwrap_or(self.log_group - 1)
    }
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            services: "/etc/picoseg/services.d".into(),
            segments: "/etc/picoseg/segments.d".into(),
            lists: "/etc/picoseg/lists".into(),
            state: "/var/lib/picoseg".into(),
            runtime: "/run/picoseg".into(),
        }
    }
}

/// How a packet is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    Reject,
    Drop,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enforcement {
    pub mode: Mode,
    /// The table's name in the inet family: a letter, then letters, digits, `_` or `-`.
    pub table: String,
    /// Priority of the base chains.
    pub priority: i32,
    pub egress_refusal: Refusal,
    /// For new attempts; segments of existing connections always get a reset.
    pub ingress_refusal: Refusal,
    /// Windows that open within this time are already in the kernel.
    pub arm_ahead: Duration,
    /// Table flags owner and persist where the kernel has them (6.9 and later).
    pub protect: bool,
}

impl Default for Enforcement {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            table: "picoseg".into(),
            priority: -10,
            egress_refusal: Refusal::Reject,
            ingress_refusal: Refusal::Drop,
            arm_ahead: Duration::from_secs(24 * 3600),
            protect: true,
        }
    }
}

/// Local ports that stay reachable from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failsafe {
    pub ports: Vec<Port>,
    pub from: Vec<Prefix>,
}

impl Default for Failsafe {
    fn default() -> Self {
        let everywhere = ["0.0.0.0/0", "::/0"];
        Self {
            ports: Port::parse("22/tcp").into_iter().collect(),
            from: everywhere.iter().filter_map(|text| Prefix::parse_any_width(text).ok()).collect(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempts {
    /// NFLOG group.
    pub log_group: u16,
    /// Detailed records a second for each remote address and direction.
    pub log_rate: u32,
    /// How long attempts are kept.
    pub retain: Duration,
}

impl Default for Attempts {
    fn default() -> Self {
        Self { log_group: 4747, log_rate: 50, retain: Duration::from_secs(365 * 24 * 3600) }
    }
}

/// Which approvals a schedule needs before it may open anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// Roles; empty: none is needed.
    pub required: Vec<String>,
    /// A file in OpenSSH's format.
    pub allowed_signers: PathBuf,
    /// Role to principals.
    pub roles: BTreeMap<String, Vec<String>>,
}

impl Default for Approval {
    fn default() -> Self {
        Self {
            required: Vec::new(),
            allowed_signers: "/etc/picoseg/allowed_signers".into(),
            roles: BTreeMap::new(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metrics {
    /// Where metrics and the dashboard are served; `None`: nowhere.
    pub listen: Option<SocketAddr>,
}

/// Who is told of new sources after a decommission.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Notify {
    /// A program by its absolute path, and its arguments; empty: nobody.
    pub command: Vec<String>,
}
