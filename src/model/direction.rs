//! The small closed sets of words: direction, family, mode, state, reason.

use std::fmt;

/// Who opens the connection. Ordered as the JSON sorts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// The local subject connects to the provider.
    Egress,
    /// The provider connects to the local subject.
    Ingress,
}

impl Direction {
    pub const ALL: [Self; 2] = [Self::Egress, Self::Ingress];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
        }
    }
}

/// The address family of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];
}

/// What happens to a packet that nothing admits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Mode {
    /// It is refused and counted.
    #[default]
    Enforce,
    /// It passes; its flow is counted as if it had been refused.
    Observe,
}

impl Mode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
        }
    }
}

/// The state of a service at an instant.
///
/// The order is the order of ownership: of several services that list an address with equally long prefixes,
/// a refusal belongs to the first in this order, then to the first by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceState {
    Decommissioned,
    Suspended,
    Closed,
    Pending,
    Unapproved,
    Open,
}

impl ServiceState {
    pub const ALL: [Self; 6] =
        [Self::Decommissioned, Self::Suspended, Self::Closed, Self::Pending, Self::Unapproved, Self::Open];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Decommissioned => "decommissioned",
            Self::Suspended => "suspended",
            Self::Closed => "closed",
            Self::Pending => "pending",
            Self::Unapproved => "unapproved",
            Self::Open => "open",
        }
    }

    /// Why a packet of a service in this state is refused when no grant admits it.
    pub fn reason(self) -> Reason {
        match self {
            Self::Decommissioned => Reason::Expired,
            Self::Suspended => Reason::Suspended,
            Self::Closed => Reason::Closed,
            Self::Pending => Reason::Pending,
            Self::Unapproved => Reason::Unapproved,
            Self::Open => Reason::Undeclared,
        }
    }
}

/// Why a packet was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The service is open, but not for this subject, port or direction.
    Undeclared,
    /// Between windows.
    Closed,
    /// Before the lifetime.
    Pending,
    /// Suspended, by file or by order.
    Suspended,
    /// Decommissioned: by time, by file, by order, or because the file is gone.
    Expired,
    /// Required approvals are missing or do not fit.
    Unapproved,
    /// The policy asks for TLS, and the client's first data was none.
    Plaintext,
    /// The subject is in a segment, and nothing allows the packet.
    Isolated,
}

impl Reason {
    pub const ALL: [Self; 8] = [
        Self::Undeclared,
        Self::Closed,
        Self::Pending,
        Self::Suspended,
        Self::Expired,
        Self::Unapproved,
        Self::Plaintext,
        Self::Isolated,
    ];

    /// The reasons by which the owner of an address refuses what travels this way. Only clients speak first.
    pub fn of_services(direction: Direction) -> impl Iterator<Item = Self> {
        let all = Self::ALL.into_iter().filter(|reason| *reason != Self::Isolated);
        all.filter(move |reason| *reason != Self::Plaintext || direction == Direction::Egress)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Undeclared => "undeclared",
            Self::Closed => "closed",
            Self::Pending => "pending",
            Self::Suspended => "suspended",
            Self::Expired => "expired",
            Self::Unapproved => "unapproved",
            Self::Plaintext => "plaintext",
            Self::Isolated => "isolated",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|r| r.as_str() == text)
    }
}

macro_rules! display_as_str {
    ($($name:ty),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    )*};
}
display_as_str!(Direction, Mode, ServiceState, Reason);
