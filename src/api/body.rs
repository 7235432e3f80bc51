//! The JSON bodies, as the contract fixes them. Absent facts are `null`, never missing.

mod flows;
mod plan;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::config::Severity;
use crate::model::Time;

pub use flows::{Flow, Flows};
pub use plan::{Change, Cut, Plan};

/// The version of all bodies.
pub const SCHEMA: u32 = 1;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    pub schema: u32,
    pub version: String,
    pub now: Time,
    pub mode: String,
    pub ruleset_digest: String,
    pub in_force_since: Option<Time>,
    /// Services by state.
    pub services: BTreeMap<String, usize>,
    pub config: Health,
    pub store: Health,
    pub next_transition: Option<NextTransition>,
    pub drift: Drift,
    pub attempts_total: u64,
    pub lost_details: u64,
    /// Files that fall back unless somebody confirms them; `None`: none do.
    pub confirmation: Option<Waiting>,
    /// Promises that are weaker on this host, each in a sentence.
    pub weaker: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Health {
    pub ok: bool,
    pub error: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NextTransition {
    pub at: Time,
    pub service: String,
    pub to: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Drift {
    pub count: u64,
    pub last_at: Option<Time>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Services {
    pub schema: u32,
    pub services: Vec<Service>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Service {
    pub name: String,
    pub provider: String,
    pub owner: String,
    pub state: String,
    pub mode: String,
    pub commission: Time,
    pub decommission: Time,
    /// The next opening.
    pub opens_at: Option<Time>,
    /// The end of the opening now in force.
    pub closes_at: Option<Time>,
    pub attempts: u64,
    pub policies: Vec<Policy>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Policy {
    pub id: String,
    pub direction: String,
    /// `KIND:VALUE`.
    pub subject: String,
    /// The subject exists right now.
    pub resolved: bool,
    pub endpoints: Vec<String>,
    pub ports: Vec<String>,
    /// `required`: the client's first data must be a TLS ClientHello.
    pub tls: Option<String>,
}

/// One service with all that is known of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Show {
    pub schema: u32,
    #[serde(flatten)]
    pub service: Service,
    pub description: Option<String>,
    pub ticket: Option<String>,
    pub compliance: Vec<String>,
    /// The file is gone; the provider is still watched.
    pub departed: bool,
    pub suspended: Option<Ordered>,
    pub decommissioned: Option<Ended>,
    /// Where each policy's subject is right now, in the order of the policies.
    pub subjects: Vec<Resolved>,
    /// Sockets that are not what the policies suppose.
    pub findings: Vec<Finding>,
    /// Why there may be more findings than these.
    pub findings_error: Option<String>,
}

/// Sockets of a subject that were made elsewhere, or such that stand in its place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Finding {
    pub policy: String,
    pub what: String,
    pub remedy: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ordered {
    pub at: Time,
    pub by: String,
    pub reason: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ended {
    pub at: Time,
    pub cause: String,
    pub by: Option<String>,
    pub reason: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Resolved {
    pub policy: String,
    pub subject: String,
    /// None: it is unresolved, hence refused, or any process.
    pub places: Vec<Place>,
    /// When the places last became what they are; `None` for any process.
    pub since: Option<Time>,
    /// Why there is no place.
    pub reason: Option<String>,
    /// Number of address prefixes as written, lists expanded.
    pub prefixes: usize,
    /// What each host name among the endpoints stands for, lists expanded.
    pub names: Vec<Host>,
}

/// What a host name stands for right now.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Host {
    pub name: String,
    pub addresses: Vec<HostAddress>,
    /// Addresses that it must not resolve to and that no prefix of the policy lists.
    pub ignored: Vec<IpAddr>,
    /// When a resolver last answered.
    pub answered_at: Option<Time>,
    /// Why the last try failed, and when; an answer clears it.
    pub error: Option<String>,
    pub failed_at: Option<Time>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HostAddress {
    pub address: IpAddr,
    /// Since when the name has it, or had it when it left.
    pub since: Time,
    /// It stands in the resolver's last answer.
    pub resolved: bool,
    /// A process received it in an answer that holds until then.
    pub learned_until: Option<Time>,
    /// When it left the name, and until when it passes all the same while the window in which it left is open.
    pub left_at: Option<Time>,
    pub kept_until: Option<Time>,
}

/// What the kernel knows a subject by: a cgroup, a user, a group, or an address behind this host.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Place {
    /// As nft names it: relative to /sys/fs/cgroup.
    pub cgroup: Option<String>,
    pub id: Option<u64>,
    pub level: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub address: Option<IpAddr>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Attempts {
    pub schema: u32,
    /// The latest first; of what was asked for behind a place the earliest first.
    pub attempts: Vec<Attempt>,
    /// There are more rows that fit than were asked for.
    pub truncated: bool,
    /// The place behind which whatever counts further from now on stands: `after` of the next question.
    pub next: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Attempt {
    pub service: Option<String>,
    pub provider: Option<String>,
    pub policy: Option<String>,
    pub direction: String,
    pub reason: String,
    pub verdict: String,
    pub protocol: String,
    /// An address, or `other`: addresses beyond the number that is told apart.
    pub remote: String,
    pub remote_port: Option<u16>,
    pub local: Option<IpAddr>,
    pub local_port: Option<u16>,
    pub subject: Option<String>,
    pub uid: Option<u32>,
    /// The process that was seen last.
    pub pid: Option<u32>,
    pub exe: Option<String>,
    pub also: Vec<String>,
    pub count: u64,
    pub first_seen: Time,
    pub last_seen: Time,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Timeline {
    pub schema: u32,
    pub openings: Vec<Opening>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Opening {
    pub service: String,
    pub opens_at: Time,
    pub closes_at: Time,
}

/// Whether a packet passes, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    pub schema: u32,
    /// The instant that the answer is about.
    pub at: Time,
    /// `allow`, `refuse` or `ungoverned`.
    pub verdict: String,
    /// Of a refusal; `failsafe` where that admits.
    pub reason: Option<String>,
    /// Whose policy admits, or who refuses.
    pub service: Option<String>,
    pub policy: Option<String>,
    /// The end of the opening, or the next one; `None`: time alone changes nothing.
    pub until: Option<Time>,
    /// `observe`: it is recorded and passes all the same.
    pub mode: Option<String>,
    /// `required`: it passes when the client's first data is a TLS ClientHello.
    pub tls: Option<String>,
}

/// Cgroups that are in force.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Settled {
    pub schema: u32,
    pub cgroups: Vec<SettledCgroup>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SettledCgroup {
    pub cgroup: String,
    pub id: u64,
    /// The subjects of policies and segments that it belongs to, as `KIND:VALUE`; none: nothing concerns it.
    pub subjects: Vec<String>,
}

/// Entries of the ledger, and what was in force at an instant.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Audit {
    pub schema: u32,
    /// In the order of their numbers.
    pub entries: Vec<LedgerEntry>,
    /// There are more than these, and behind the last one: ask again with `after`.
    pub next_after: Option<u64>,
    /// There are earlier ones than these.
    pub earlier: bool,
    /// What follows is about this instant; `None`: nobody asked about one.
    pub at: Option<Time>,
    /// The last entry that counted then; 0: none did.
    pub last_seq: Option<u64>,
    /// `enforce` or `observe`.
    pub mode: Option<String>,
    pub ruleset_digest: Option<String>,
    /// By name.
    pub services: Option<Vec<PastService>>,
}

/// An entry of the ledger, word for word: its hash is over these texts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LedgerEntry {
    pub seq: u64,
    pub at: String,
    pub kind: String,
    pub service: Option<String>,
    pub actor: String,
    pub detail: serde_json::Value,
    pub prev: String,
    pub hash: String,
}

/// A service as it was at an instant.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PastService {
    pub name: String,
    /// This and what else its file says is `None` where no entry tells it.
    pub provider: Option<String>,
    pub owner: Option<String>,
    pub ticket: Option<String>,
    pub mode: Option<String>,
    pub state: String,
    /// Since when it had that state, and who brought it about.
    pub since: Option<Time>,
    pub by: Option<String>,
    /// The end of the opening in force.
    pub until: Option<Time>,
    pub commission: Option<Time>,
    pub decommission: Option<Time>,
    /// The SHA-256 of the file's text.
    pub sha256: Option<String>,
    /// The endpoint lists that it used.
    pub lists: Vec<PastList>,
    /// What it allowed then; none unless it was open.
    pub policies: Vec<PastPolicy>,
    /// Set where there are more policies than stand here.
    pub more_policies: Option<More>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PastList {
    pub name: String,
    pub entries: usize,
    pub sha256: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PastPolicy {
    pub id: String,
    pub direction: String,
    pub subject: String,
    pub endpoints: Vec<String>,
    pub more_endpoints: Option<More>,
    pub ports: Vec<String>,
    pub more_ports: Option<More>,
    /// `required`: the client's first data must be a TLS ClientHello.
    pub tls: Option<String>,
    /// The windows in which alone it was in force; `None`: whenever the service was open.
    pub windows: Option<Vec<String>>,
}

/// How many there are in all, and the SHA-256 over all of them, one a line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct More {
    pub count: usize,
    pub sha256: String,
}

/// What an order carries.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderRequest {
    pub reason: String,
}

/// What the order to prolong an opening carries.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExtendRequest {
    pub until: Time,
    pub reason: String,
}

/// What became of an order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ordering {
    pub schema: u32,
    pub service: String,
    pub state: String,
    /// The end of the opening in force.
    pub closes_at: Option<Time>,
    pub teardown: Option<Teardown>,
    /// False while the store does not work: the order is kept and recorded later.
    pub recorded: bool,
    pub warnings: Vec<String>,
}

/// The proof of a teardown.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Teardown {
    pub sockets_closed: u64,
    pub flows_removed: u64,
    /// What is left, each as a sentence; empty is the proof.
    pub residue: Vec<String>,
    pub completed_at: Option<Time>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Applied {
    pub schema: u32,
    pub changed: bool,
    pub services: usize,
    pub warnings: Vec<Diagnostic>,
    pub recorded: bool,
    /// When it falls back unless somebody confirms; `None`: it stays.
    pub confirm_until: Option<Time>,
}

/// What `apply` may be told.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplyRequest {
    /// How long the files stay unless somebody confirms them: `10m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm: Option<String>,
}

/// Files that wait to be confirmed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Waiting {
    pub until: Time,
    /// Who applied them, and when.
    pub by: String,
    pub at: Time,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Diagnostics {
    pub schema: u32,
    pub diagnostics: Vec<Diagnostic>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Diagnostic {
    pub file: String,
    pub line: usize,
    pub column: usize,
    pub message: String,
    pub help: Option<String>,
    /// `error` or `warning`.
    #[serde(default = "error")]
    pub severity: String,
}

fn error() -> String {
    "error".to_owned()
}

/// Any other failure.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Failure {
    pub schema: u32,
    pub error: String,
}

impl From<&crate::config::Diagnostic> for Diagnostic {
    fn from(diagnostic: &crate::config::Diagnostic) -> Self {
        Self {
            file: diagnostic.file.display().to_string(),
            line: diagnostic.line,
            column: diagnostic.column,
            message: diagnostic.message.clone(),
            help: diagnostic.help.clone(),
            severity: match diagnostic.severity {
                Severity::Error => error(),
                Severity::Warning => "warning".to_owned(),
            },
        }
    }
}

/// The text is the one of [`crate::config::Diagnostic`].
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity.as_str() {
            "warning" => Severity::Warning,
            _ => Severity::Error,
        };
        let Self { line, column, message, help, .. } = self.clone();
        let file = self.file.clone().into();
        crate::config::Diagnostic { file, line, column, message, help, severity }.fmt(f)
    }
}

impl Diagnostics {
    pub fn new(diagnostics: &[crate::config::Diagnostic]) -> Self {
        Self { schema: SCHEMA, diagnostics: diagnostics.iter().map(Into::into).collect() }
    }
}
