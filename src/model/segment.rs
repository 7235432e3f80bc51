//! A default-deny enclosure around one subject, as its file describes it.

use super::{Direction, HostName, Mode, Port, Prefix, ServiceName, Subject};

/// The name of a segment, the stem of its file: built like that of a service.
pub type SegmentName = ServiceName;

/// A segment as one file describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    pub name: SegmentName,
    pub subject: Subject,
    pub mode: Mode,
    /// Traffic on the loopback interface is allowed.
    pub loopback: bool,
    /// So is DNS with the resolvers of this host.
    pub dns: bool,
    /// In file order.
    pub allow: Vec<Allow>,
}

impl Segment {
    /// The names that it allows.
    pub fn names(&self) -> impl Iterator<Item = &HostName> {
        self.allow.iter().flat_map(|allow| &allow.names)
    }
}

/// One `[[allow]]`: what may pass beside the grants of services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allow {
    pub direction: Direction,
    /// Every address, whatever `prefixes` holds.
    pub any: bool,
    /// Lists expanded, sorted, without repeats, with the addresses that `names` have right now.
    pub prefixes: Vec<Prefix>,
    /// Sorted, without repeats.
    pub names: Vec<HostName>,
    /// The provider's ports for egress, local ones for ingress; at least one.
    pub ports: Vec<Port>,
}
