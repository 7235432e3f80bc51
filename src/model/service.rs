//! A service as its schedule file describes it.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{
    CronExpression, Direction, Endpoint, HostName, Lifetime, Mode, Opening, Port, Prefix, ServiceName, Span,
    Subject, Window,
};

/// `state` in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum FileState {
    #[default]
    Commissioned,
    Suspended,
    Decommissioned,
}

/// How long a decommissioned provider stays refused and watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Watch {
    #[default]
    Forever,
    For(Duration),
}

/// A third-party service as one schedule file describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    pub name: ServiceName,
    pub provider: String,
    pub owner: String,
    pub description: Option<String>,
    pub ticket: Option<String>,
    pub compliance: Vec<String>,
    pub mode: Mode,
    pub state: FileState,
    pub lifetime: Lifetime,
    /// Empty: open for the whole lifetime.
    pub windows: Vec<Window>,
    pub exceptions: Vec<Span>,
    /// At least one; egress first, each direction in file order.
    pub policies: Vec<Policy>,
    /// Addresses that its names had and that no policy admits any more, sorted: governed, hence refused.
    pub watched: Vec<Prefix>,
    pub watch: Watch,
}

/// Services by name. A clone shares everything, and what two that came from one have in common is not looked at when they are
/// compared.
pub type Services = imbl::OrdMap<ServiceName, Arc<Service>>;

/// One `[[egress]]` or `[[ingress]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    pub id: PolicyId,
    pub subject: Subject,
    /// As written, in file order.
    pub endpoints: Vec<Endpoint>,
    /// Every prefix of `endpoints`, lists expanded, and the addresses that `names` have right now; sorted, without
    /// repeats; nested ones are kept as written. Empty where `endpoints` is `any`.
    pub prefixes: Vec<Prefix>,
    /// Every name of `endpoints`, lists expanded; sorted, without repeats.
    pub names: Vec<HostName>,
    /// The client's first data must be a TLS ClientHello: egress over TCP.
    pub tls: bool,
    /// At least one.
    pub ports: Vec<Port>,
    /// Indices into the windows of the service; `None`: all of them.
    pub windows: Option<Vec<usize>>,
}

/// `NAME/egress/0`: counted in file order within the direction.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyId {
    pub service: ServiceName,
    pub direction: Direction,
    pub index: usize,
}

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.service, self.direction, self.index)
    }
}

impl Policy {
    /// True when the policy governs its subject and ports instead of addresses.
    pub fn is_any(&self) -> bool {
        self.endpoints.contains(&Endpoint::Any)
    }
}

impl Service {
    /// The service by its name, as one of many.
    pub fn named(self) -> (ServiceName, Arc<Self>) {
        (self.name.clone(), Arc::new(self))
    }

    /// Has its windows share the expressions that others have already: one takes several hundred bytes, and thousands of
    /// services open at the same times.
    pub fn share_expressions(&mut self, known: &mut HashSet<CronExpression>) {
        for window in &mut self.windows {
            let Opening::Recurring { cron, .. } = &mut window.opening else { continue };
            match known.get(cron) {
                Some(same) => *cron = same.clone(),
                None => drop(known.insert(cron.clone())),
            }
        }
    }

    /// Gives back what its lists have room for: ten thousand services are kept, and lists that were read have room for four.
    pub fn shrink_to_fit(&mut self) {
        self.compliance.shrink_to_fit();
        self.windows.shrink_to_fit();
        self.exceptions.shrink_to_fit();
        self.policies.shrink_to_fit();
        for policy in &mut self.policies {
            policy.endpoints.shrink_to_fit();
            policy.prefixes.shrink_to_fit();
            policy.names.shrink_to_fit();
            policy.ports.shrink_to_fit();
        }
    }

    /// Every prefix that any policy lists, and what is watched: what the service governs.
    pub fn prefixes(&self) -> impl Iterator<Item = Prefix> + '_ {
        let listed = self.policies.iter().flat_map(|policy| &policy.prefixes);
        listed.chain(&self.watched).copied()
    }

    /// The names of all its policies.
    pub fn names(&self) -> impl Iterator<Item = &HostName> {
        self.policies.iter().flat_map(|policy| &policy.names)
    }
}
