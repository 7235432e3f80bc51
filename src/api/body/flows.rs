//! Who talks to which provider right now.

use serde::{Deserialize, Serialize};

use crate::model::Time;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flows {
    pub schema: u32,
    /// By service, policy and remote end; the first ten thousand.
    pub flows: Vec<Flow>,
    pub flows_total: usize,
}

/// A connection of this host to or from a governed address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Flow {
    pub service: String,
    pub provider: String,
    /// Whose grant admits it; `None`: none does, it is observed only or about to be cut.
    pub policy: Option<String>,
    pub direction: Option<String>,
    /// `allow`, `observed` or `refused`.
    pub verdict: String,
    /// When the grant ends.
    pub until: Option<Time>,
    /// Who made the socket, as far as its cgroup tells.
    pub subject: Option<String>,
    pub uid: Option<u32>,
    /// The process that has it open, the one of the lowest number; `None` where that cannot be told.
    pub pid: Option<u32>,
    pub exe: Option<String>,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// ADDRESS:PORT.
    pub local: String,
    pub remote: String,
    /// Of TCP, as ss(8) names it.
    pub state: Option<String>,
    /// Bytes of payload; `None` where the kernel does not count them.
    pub bytes_sent: Option<u64>,
    pub bytes_received: Option<u64>,
    /// `required`: its first data was a TLS ClientHello, or will have to be.
    pub tls: Option<String>,
}
