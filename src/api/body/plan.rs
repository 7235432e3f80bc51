//! What `apply` would do.

use serde::{Deserialize, Serialize};

/// What would change, which connections that would cut, and what to think of before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub schema: u32,
    /// None: the files say what is in force.
    pub changes: Vec<Change>,
    /// The first thousand.
    pub cuts: Vec<Cut>,
    pub cuts_total: usize,
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// `service.added`, `service.changed`, `service.removed`, `service.state`, `segment.added`, `segment.changed`,
    /// `segment.removed`, `settings.changed`, `table.repaired` or `config.accepted`.
    pub kind: String,
    /// Of the service or segment.
    pub name: Option<String>,
    pub detail: String,
}

/// A live connection that what is in force admits and what the files say does not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cut {
    /// Whose refusal cuts it; `None` where a segment does.
    pub service: Option<String>,
    /// `segment/NAME` where a segment does.
    pub policy: Option<String>,
    /// Who made the socket, as far as its cgroup tells.
    pub subject: Option<String>,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// ADDRESS:PORT.
    pub local: String,
    pub remote: String,
}
