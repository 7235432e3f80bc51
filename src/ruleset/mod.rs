//! The wanted table as a plain value: it can be printed, compared and tested without root.
//!
//! The vocabulary is what our rules need and no more; `print` writes it as nft syntax, `kernel::commit` sends it
//! as netlink messages. Knows [`crate::model`] only. Deliberately absent: handles, the kernel, time as a clock.

mod elements;
mod key;
mod print;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

pub use elements::Elements;
pub use key::{Key, KeyBuilder, Value};

use crate::model::{Family, PortRange, Time};

/// A whole table of the inet family. Sorted by construction: the same input gives the same bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset {
    pub table: String,
    pub counters: BTreeSet<String>,
    pub sets: BTreeMap<String, Set>,
    pub chains: BTreeMap<String, Chain>,
    /// Remarks on what could not be compiled, printed as comments: unresolved subjects.
    pub notes: BTreeSet<String>,
}

impl Ruleset {
    pub fn new(table: &str) -> Self {
        Self {
            table: table.to_owned(),
            counters: BTreeSet::new(),
            sets: BTreeMap::new(),
            chains: BTreeMap::new(),
            notes: BTreeSet::new(),
        }
    }
}

/// Some objects of a table as they are wanted, and sets, chains and counters that nothing asks for any more; all else
/// stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub wanted: Ruleset,
    /// Sets.
    pub gone: BTreeSet<String>,
    pub gone_chains: BTreeSet<String>,
    pub gone_counters: BTreeSet<String>,
    /// Elements of sets whose other elements stay; `None`: the element goes.
    pub elements: BTreeMap<String, BTreeMap<Key, Option<Element>>>,
}

impl Part {
    pub fn new(table: &str) -> Self {
        Self {
            wanted: Ruleset::new(table),
            gone: BTreeSet::new(),
            gone_chains: BTreeSet::new(),
            gone_counters: BTreeSet::new(),
            elements: BTreeMap::new(),
        }
    }
}

impl Ruleset {
    /// Puts a part in place of what was there.
    pub fn take_over(&mut self, part: Part) {
        for name in &part.gone {
            self.sets.remove(name);
        }
        for name in &part.gone_chains {
            self.chains.remove(name);
        }
        for name in &part.gone_counters {
            self.counters.remove(name);
        }
        self.counters.extend(part.wanted.counters);
        for (name, elements) in part.elements {
            let Some(set) = self.sets.get_mut(&name) else { continue };
            for (key, element) in elements {
                match element {
                    Some(element) => set.elements.insert(key, element),
                    None => set.elements.remove(&key),
                }
            }
        }
        self.sets.extend(part.wanted.sets);
        self.chains.extend(part.wanted.chains);
    }
}

/// What a set holds beside its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetKind {
    /// Keys alone.
    Plain,
    /// A verdict for each key.
    Verdicts,
    /// Filled by the packet path; we only read it. It outlives every change of the schedules.
    Dynamic {
        /// The most elements it takes; a full set breaks the rule that updates it.
        size: u32,
        /// How long an element stays after its last update; `None`: for ever.
        timeout: Option<Duration>,
        /// Each element counts its packets.
        counted: bool,
    },
}

/// The declaration and the elements of a set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    pub fields: Vec<Field>,
    pub kind: SetKind,
    /// Elements are closed ranges.
    pub interval: bool,
    /// Elements expire.
    pub expires: bool,
    pub elements: Elements,
}

impl Set {
    pub fn plain(fields: &[Field]) -> Self {
        Self::new(fields, SetKind::Plain)
    }

    pub fn verdicts(fields: &[Field]) -> Self {
        Self::new(fields, SetKind::Verdicts)
    }

    pub fn dynamic(fields: &[Field], size: u32, timeout: Option<Duration>, counted: bool) -> Self {
        Self::new(fields, SetKind::Dynamic { size, timeout, counted })
    }

    fn new(fields: &[Field], kind: SetKind) -> Self {
        Self { fields: fields.to_vec(), kind, interval: false, expires: false, elements: Elements::default() }
    }

    pub fn with_intervals(mut self) -> Self {
        self.interval = true;
        self
    }

    pub fn with_expiry(mut self) -> Self {
        self.expires = true;
        self
    }

    /// The same set without its elements.
    pub fn declaration(&self) -> Self {
        Self { fields: self.fields.clone(), elements: Elements::default(), ..*self }
    }

    /// True when both could be the same set in the kernel: all but the elements is equal.
    pub fn same_declaration(&self, other: &Self) -> bool {
        self.fields == other.fields
            && self.kind == other.kind
            && self.interval == other.interval
            && self.expires == other.expires
    }
}

/// One part of a set's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// 8 bytes, the host's byte order.
    Cgroup,
    Address(Family),
    /// The first bits of an address, by which what is governed is told roughly: 16, for IPv6 32.
    Network(Family),
    /// The number of the transport protocol, 1 byte.
    Protocol,
    Port,
    /// Nanoseconds since 1970 by the wall clock, 8 bytes, network byte order.
    Time,
    /// The identifier of an echo request, 2 bytes.
    EchoId(Family),
    /// A number of 4 bytes, the host's byte order.
    Number,
}

/// What stands beside a key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Element {
    /// The upper end of a range, included; `None` in sets without intervals.
    pub last: Option<Key>,
    pub verdict: Option<Verdict>,
    /// When the element must be gone: the commit turns it into a timeout, which counts elapsed time.
    pub closes_at: Option<Time>,
    /// For people: what the key is called.
    pub comment: Option<Arc<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(Name),
    Goto(Name),
}

/// Where a base chain sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    Input,
    Output,
    Forward,
}

/// A chain; with a hook it is a base chain of type filter and policy accept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chain {
    /// The hook and its priority.
    pub base: Option<(Hook, i32)>,
    pub rules: Vec<Rule>,
}

/// Statements, evaluated left to right until one does not match. Shared: a changeset holds the rules of the table.
pub type Rule = Arc<[Statement]>;

/// The name of a chain or set where it is referred to: most are referred to many times.
pub type Name = Arc<str>;

/// The side of a packet's header that is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Source,
    Destination,
}

/// Something a rule loads to look it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// The id of the cgroup at this depth in which the packet's socket was created; no match without such a socket.
    Cgroup {
        level: u32,
    },
    Address(Family, Side),
    /// The network that contains the address: its first 16 bits, for IPv6 32.
    Network(Family, Side),
    Protocol,
    /// The port at its place in a TCP or UDP header, whatever the protocol is.
    Port(Side),
    Time,
    EchoId(Family),
    /// The identifier of a DNS message behind a UDP header, 2 bytes.
    DnsId,
    /// Always this number: for rules that share a set and not its elements.
    Number(u32),
}

/// One step of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// The packet leaves through, or came in by, the loopback interface.
    LeavesByLoopback,
    ArrivesByLoopback,
    /// The packet has an outgoing interface: false in the input hook.
    Leaving,
    /// The packet has an incoming interface: false in the output hook.
    Arriving,
    Lookup {
        key: Vec<Load>,
        set: Name,
        negated: bool,
    },
    /// One end of the packet has this address.
    Address {
        side: Side,
        address: IpAddr,
    },
    /// Looks the verdict up; goes on when there is none.
    Dispatch {
        key: Vec<Load>,
        map: Name,
    },
    Protocol(u8),
    /// A port of TCP (6) or UDP (17).
    Port {
        protocol: u8,
        side: Side,
        range: PortRange,
    },
    /// TCP: `flags & mask == value`, or `!=` when negated.
    TcpFlags {
        mask: u8,
        value: u8,
        negated: bool,
    },
    /// At least one byte follows the transport header.
    HasPayload,
    /// The payload begins as a TLS ClientHello: a handshake record of any minor version of SSL 3 whose first message is
    /// of type 1 (RFC 8446, sections 4 and 5.1). It has to be there up to the type.
    ClientHello,
    /// IPv6: something stands between the header and TCP.
    ExtensionHeader,
    /// A full socket belongs to the packet.
    FullSocket,
    /// Any socket belongs to the packet, TIME_WAIT and SYN_RECV included.
    AnySocket,
    /// The type of an ICMP message, both ends included.
    IcmpType {
        family: Family,
        low: u8,
        high: u8,
    },
    /// An ICMP error quotes a TCP segment. Stands behind [`Statement::IcmpType`].
    QuotesTcp(Family),
    /// A process sends the packet, not the kernel.
    FromProcess,
    /// The owner of the packet's socket, as the file that stands for it was opened; no match for a socket without one.
    Owner(Account),
    /// The hop limit of an IPv6 packet.
    HopLimit(u8),
    /// The packet is a fragment.
    Fragment(Family),
    /// By the wall clock: `now < instant`.
    Before(Time),
    /// By the wall clock: `instant <= now`.
    From(Time),
    /// By the wall clock, read once: `from <= now < to`.
    Within {
        from: Time,
        to: Time,
    },
    /// Adds the key to a dynamic set, or refreshes it. With a limit (packets a second) the rule goes on only
    /// while the key's packets stay below it.
    Update {
        set: Name,
        key: Vec<Load>,
        limit: Option<u32>,
    },
    /// Adds the key to a dynamic set, or refreshes it, to stay this long whatever the set says; whole seconds.
    UpdateFor {
        set: Name,
        key: Vec<Load>,
        timeout: Duration,
    },
    /// Goes on while fewer packets than this come a second, with as many at once.
    Limit(u32),
    /// Takes the key out of a dynamic set.
    Delete {
        set: Name,
        key: Vec<Load>,
    },
    /// Counts on a named counter.
    Count(String),
    /// Sends the packet's first 128 bytes to an NFLOG group.
    Log {
        prefix: String,
        group: u16,
    },
    /// Sends as much of the packet as the reader wants to an NFLOG group.
    LogWhole {
        prefix: String,
        group: u16,
    },
    RejectWithReset,
    RejectAsProhibited,
    Verdict(Verdict),
}

/// Who owns a socket, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Account {
    User(u32),
    Group(u32),
}

/// Numbers of the protocols in IP headers (IANA).
pub mod protocol {
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ICMPV6: u8 = 58;
}

/// TCP flags (RFC 9293, section 3.1).
pub mod tcp {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;
}

/// The bytes of a packet that a log message carries.
pub const LOG_SNAPLEN: u32 = 128;
