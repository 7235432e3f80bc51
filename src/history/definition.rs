//! What a service was allowed, as the ledger keeps it: short enough to stand in an entry, exact enough for an access review.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::model::{self, Service, Time};

/// How many endpoints, ports or lists stand in full; the rest as a number and a digest over all.
const MOST: usize = 32;
/// The same for policies.
const MOST_POLICIES: usize = 64;

/// One service as its file had it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    pub name: String,
    pub provider: String,
    pub owner: String,
    pub ticket: Option<String>,
    pub mode: String,
    pub commission: Time,
    pub decommission: Time,
    /// The SHA-256 of the file's text, in hexadecimal.
    pub sha256: String,
    /// The endpoint lists that it uses.
    pub lists: Vec<List>,
    pub policies: Vec<Policy>,
    pub more_policies: Option<More>,
}

/// An endpoint list: its name, the number of its lines with an entry, the SHA-256 of its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    pub name: String,
    pub entries: usize,
    pub sha256: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    pub id: String,
    pub direction: String,
    pub subject: String,
    /// As written: a list stands as `@NAME`.
    pub endpoints: Vec<String>,
    pub more_endpoints: Option<More>,
    pub ports: Vec<String>,
    pub more_ports: Option<More>,
    pub tls: bool,
    /// The windows in which alone it is in force; `None`: whenever the service is open.
    pub windows: Option<Vec<String>>,
}

/// There are more than stand here: how many in all, and the SHA-256 over all, one a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct More {
    pub count: usize,
    pub sha256: String,
}

impl Definition {
    /// `text`: of the file; `lists`: those that it uses, by name.
    pub fn new<'a>(
        service: &Service,
        text: &str,
        lists: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Self {
        let policies: Vec<_> = service.policies.iter().map(|policy| self::policy(service, policy)).collect();
        let (policies, more_policies) = bounded(policies, MOST_POLICIES, |policy| format!("{policy:?}"));
        Self {
            name: service.name.to_string(),
            provider: service.provider.clone(),
            owner: service.owner.clone(),
            ticket: service.ticket.clone(),
            mode: service.mode.to_string(),
            commission: service.lifetime.opens_at(),
            decommission: service.lifetime.closes_at(),
            sha256: sha256(text),
            lists: lists.into_iter().take(MOST).map(|(name, text)| list(name, text)).collect(),
            policies,
            more_policies,
        }
    }
}

fn list(name: &str, text: &str) -> List {
    let entries = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    let entries = entries.filter(|entry| !entry.trim().is_empty()).count();
    List { name: name.to_owned(), entries, sha256: sha256(text) }
}

fn policy(service: &Service, policy: &model::Policy) -> Policy {
    let (endpoints, more_endpoints) = texts(&policy.endpoints);
    let (ports, more_ports) = texts(&policy.ports);
    let name = |index: &usize| service.windows.get(*index).and_then(|window| window.name.clone());
    Policy {
        id: policy.id.to_string(),
        direction: policy.id.direction.to_string(),
        subject: policy.subject.to_string(),
        endpoints,
        more_endpoints,
        ports,
        more_ports,
        tls: policy.tls,
        windows: policy.windows.as_ref().map(|windows| windows.iter().filter_map(name).take(MOST).collect()),
    }
}

fn texts(all: &[impl ToString]) -> (Vec<String>, Option<More>) {
    bounded(all.iter().map(ToString::to_string).collect(), MOST, String::clone)
}

fn bounded<T>(mut all: Vec<T>, most: usize, text: impl Fn(&T) -> String) -> (Vec<T>, Option<More>) {
    let more = (all.len() > most).then(|| {
        let lines: Vec<_> = all.iter().map(text).collect();
        More { count: all.len(), sha256: sha256(&lines.join("\n")) }
    });
    all.truncate(most);
    (all, more)
}

/// The SHA-256 of a text, in lower-case hexadecimal.
pub fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}
