//! Prints a ruleset as nft syntax that `nft -f` accepts.
//!
//! nft takes the wall clock in whole seconds only, so openings are rounded up and closes down. It takes cgroups as
//! paths only, so those come from the elements' comments.

use std::fmt::{self, Write as _};

use super::*;
use crate::model::Direction;

/// A ruleset printed as of an instant: timeouts count from it.
pub struct Printed<'a> {
    ruleset: &'a Ruleset,
    at: Time,
    expirations: bool,
}

impl Ruleset {
    /// Prints the table as it would be loaded at this instant.
    pub fn print(&self, at: Time) -> Printed<'_> {
        Printed { ruleset: self, at, expirations: true }
    }

    /// Prints what follows from the files alone: without elements that expire and without cgroups.
    pub fn print_lasting(&self) -> Printed<'_> {
        Printed { ruleset: self, at: Time::UNIX_EPOCH, expirations: false }
    }
}

impl fmt::Display for Printed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for note in &self.ruleset.notes {
            writeln!(f, "# {note}")?;
        }
        writeln!(f, "table inet {} {{", self.ruleset.table)?;
        for name in &self.ruleset.counters {
            writeln!(f, "\tcounter {name} {{\n\t}}")?;
        }
        for (name, set) in &self.ruleset.sets {
            self.set(f, name, set)?;
        }
        for (name, chain) in &self.ruleset.chains {
            print_chain(f, name, chain)?;
        }
        writeln!(f, "}}")
    }
}

impl Printed<'_> {
    fn set(&self, f: &mut fmt::Formatter<'_>, name: &str, set: &Set) -> fmt::Result {
        let (word, data) = match set.kind {
            SetKind::Verdicts => ("map", " : verdict"),
            SetKind::Plain | SetKind::Dynamic { .. } => ("set", ""),
        };
        let fields: Vec<_> = set.fields.iter().map(|field| type_of(*field)).collect();
        writeln!(f, "\t{word} {name} {{\n\t\ttypeof {}{data}", fields.join(" . "))?;
        print_properties(f, set)?;
        let lasting = !set.expires && !set.fields.contains(&Field::Cgroup);
        if self.expirations || lasting {
            self.elements(f, set)?;
        }
        writeln!(f, "\t}}")
    }

    fn elements(&self, f: &mut fmt::Formatter<'_>, set: &Set) -> fmt::Result {
        let mut elements =
            set.elements.iter().filter_map(|(key, element)| self.element(set, key, element)).peekable();
        if elements.peek().is_none() {
            return Ok(());
        }
        f.write_str("\t\telements = { ")?;
        for (index, element) in elements.enumerate() {
            let separator = if index == 0 { "" } else { ",\n\t\t\t     " };
            write!(f, "{separator}{element}")?;
        }
        f.write_str(" }\n")
    }

    /// `None` for an element that whole seconds cannot say, or that is over.
    fn element(&self, set: &Set, key: &Key, element: &Element) -> Option<String> {
        let low = key.decode(&set.fields)?;
        let high = match &element.last {
            Some(last) => last.decode(&set.fields)?,
            None => low.clone(),
        };
        let mut text = String::new();
        for (index, (low, high)) in low.iter().zip(&high).enumerate() {
            if index > 0 {
                text.push_str(" . ");
            }
            text.push_str(&print_range(*low, *high, element.comment.as_deref())?);
        }
        if let Some(closes_at) = element.closes_at {
            let seconds = (closes_at - self.at).num_seconds();
            if seconds < 1 {
                return None;
            }
            write!(text, " timeout {seconds}s").ok()?;
        }
        if let (Some(comment), false) = (&element.comment, set.fields.contains(&Field::Cgroup)) {
            write!(text, " comment \"{comment}\"").ok()?;
        }
        if let Some(verdict) = &element.verdict {
            write!(text, " : {verdict}").ok()?;
        }
        Some(text)
    }
}

fn type_of(field: Field) -> &'static str {
    match field {
        Field::Cgroup => "socket cgroupv2 level 1",
        Field::Address(Family::V4) => "ip daddr",
        Field::Address(Family::V6) => "ip6 daddr",
        Field::Network(Family::V4) => "@nh,128,16",
        Field::Network(Family::V6) => "@nh,192,32",
        Field::Protocol => "meta l4proto",
        Field::Port => "th dport",
        Field::Time => "meta time",
        Field::EchoId(Family::V4) => "icmp id",
        Field::EchoId(Family::V6) => "icmpv6 id",
        Field::Number => "meta mark",
    }
}

fn print_properties(f: &mut fmt::Formatter<'_>, set: &Set) -> fmt::Result {
    let dynamic = matches!(set.kind, SetKind::Dynamic { .. });
    let timeout = match set.kind {
        SetKind::Dynamic { timeout, .. } => timeout,
        SetKind::Plain | SetKind::Verdicts => None,
    };
    let flags: Vec<_> =
        [("dynamic", dynamic), ("interval", set.interval), ("timeout", set.expires || timeout.is_some())]
            .iter()
            .filter_map(|(flag, on)| on.then_some(*flag))
            .collect();
    if let SetKind::Dynamic { size, .. } = set.kind {
        writeln!(f, "\t\tsize {size}")?;
    }
    if !flags.is_empty() {
        writeln!(f, "\t\tflags {}", flags.join(","))?;
    }
    if let Some(timeout) = timeout {
        writeln!(f, "\t\ttimeout {}s", timeout.as_secs())?;
    }
    match set.kind {
        SetKind::Dynamic { counted: true, .. } => writeln!(f, "\t\tcounter"),
        SetKind::Dynamic { counted: false, .. } | SetKind::Plain | SetKind::Verdicts => Ok(()),
    }
}

fn print_range(low: Value, high: Value, comment: Option<&str>) -> Option<String> {
    Some(match (low, high) {
        (Value::Time(low), Value::Time(high)) => {
            let (low, high) = (low.div_ceil(SECOND), (high + 1) / SECOND);
            return (low < high).then(|| format!("{low}-{}", high - 1));
        }
        (Value::Cgroup(_), _) => format!("\"{}\"", comment?),
        (low, high) if low == high => print_value(low),
        (low, high) => format!("{}-{}", print_value(low), print_value(high)),
    })
}

/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;

fn print_value(value: Value) -> String {
    match value {
        Value::Cgroup(id) => id.to_string(),
        Value::Address(address) => address.to_string(),
        Value::Network(number) => format!("{number:#x}"),
        Value::Protocol(protocol::TCP) => "tcp".into(),
        Value::Protocol(protocol::UDP) => "udp".into(),
        Value::Protocol(protocol::ICMP) => "icmp".into(),
        Value::Protocol(protocol::ICMPV6) => "ipv6-icmp".into(),
        Value::Protocol(number) => number.to_string(),
        Value::Port(port) => port.to_string(),
        Value::Time(nanoseconds) => (nanoseconds / SECOND).to_string(),
        Value::EchoId(id) => id.to_string(),
        Value::Number(number) => number.to_string(),
    }
}

fn print_chain(f: &mut fmt::Formatter<'_>, name: &str, chain: &Chain) -> fmt::Result {
    writeln!(f, "\tchain {name} {{")?;
    if let Some((hook, priority)) = chain.base {
        let hook = match hook {
            Hook::Input => "input",
            Hook::Output => "output",
            Hook::Forward => "forward",
        };
        writeln!(f, "\t\ttype filter hook {hook} priority {priority}; policy accept;")?;
    }
    for rule in &chain.rules {
        let words: Vec<_> = rule.iter().map(ToString::to_string).collect();
        writeln!(f, "\t\t{}", words.join(" "))?;
    }
    writeln!(f, "\t}}")
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Return => f.write_str("return"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LeavesByLoopback => f.write_str("oif \"lo\""),
            Self::ArrivesByLoopback => f.write_str("iif \"lo\""),
            Self::Leaving => f.write_str("oiftype 0-65535"),
            Self::Arriving => f.write_str("iiftype 0-65535"),
            Self::Lookup { key, set, negated } => {
                let not = if *negated { "!= " } else { "" };
                write!(f, "{} {not}@{set}", print_loads(key))
            }
            Self::Address { side, address } => {
                let family = if address.is_ipv4() { "ip" } else { "ip6" };
                write!(f, "{family} {}addr {address}", side_letter(*side))
            }
            Self::Dispatch { key, map } => write!(f, "{} vmap @{map}", print_loads(key)),
            Self::Protocol(number) => write!(f, "meta l4proto {}", print_value(Value::Protocol(*number))),
            Self::Port { protocol, side, range } => {
                let protocol = print_value(Value::Protocol(*protocol));
                write!(f, "{protocol} {}port {}", side_letter(*side), print_ports(*range))
            }
            Self::TcpFlags { mask, value, negated } => {
                let compare = if *negated { "!=" } else { "==" };
                write!(f, "tcp flags & {mask:#x} {compare} {value:#x}")
            }
            Self::HasPayload => f.write_str("@ih,0,8 0-255"),
            Self::ClientHello => f.write_str("@ih,0,48 & 0xffff000000ff == 0x160300000001"),
            Self::ExtensionHeader => f.write_str("ip6 nexthdr != 6"),
            Self::FullSocket => f.write_str("socket wildcard 0-1"),
            Self::AnySocket => f.write_str("socket transparent 0-1"),
            Self::IcmpType { family, low, high } => {
                let word = icmp_word(*family);
                match low == high {
                    true => write!(f, "{word} type {low}"),
                    false => write!(f, "{word} type {low}-{high}"),
                }
            }
            Self::QuotesTcp(Family::V4) => f.write_str("@th,136,8 0x6"),
            Self::QuotesTcp(Family::V6) => f.write_str("@th,112,8 0x6"),
            Self::FromProcess => f.write_str("meta skuid 0-4294967295"),
            Self::Owner(Account::User(id)) => write!(f, "meta skuid {id}"),
            Self::Owner(Account::Group(id)) => write!(f, "meta skgid {id}"),
            Self::HopLimit(limit) => write!(f, "ip6 hoplimit {limit}"),
            Self::Fragment(Family::V4) => f.write_str("ip frag-off & 0x3fff != 0"),
            Self::Fragment(Family::V6) => f.write_str("exthdr frag exists"),
            Self::Before(instant) => write!(f, "meta time < {}", instant.timestamp()),
            Self::From(instant) => write!(f, "meta time >= {}", instant.timestamp()),
            Self::Within { from, to } => {
                write!(f, "meta time {}-{}", from.timestamp(), to.timestamp() - 1)
            }
            Self::Update { set, key, limit } => {
                write!(f, "update @{set} {{ {}", print_loads(key))?;
                if let Some(rate) = limit {
                    write!(f, " limit rate {rate}/second burst {rate} packets")?;
                }
                f.write_str(" }")
            }
            Self::UpdateFor { set, key, timeout } => {
                write!(f, "update @{set} {{ {} timeout {}s }}", print_loads(key), timeout.as_secs())
            }
            Self::Limit(rate) => write!(f, "limit rate {rate}/second burst {rate} packets"),
            Self::Delete { set, key } => write!(f, "delete @{set} {{ {} }}", print_loads(key)),
            Self::Count(name) => write!(f, "counter name \"{name}\""),
            Self::Log { prefix, group } => {
                write!(f, "log prefix \"{prefix}\" group {group} snaplen {LOG_SNAPLEN}")
            }
            Self::LogWhole { prefix, group } => write!(f, "log prefix \"{prefix}\" group {group}"),
            Self::RejectWithReset => f.write_str("reject with tcp reset"),
            Self::RejectAsProhibited => f.write_str("reject with icmpx admin-prohibited"),
            Self::Verdict(verdict) => write!(f, "{verdict}"),
        }
    }
}

fn print_loads(loads: &[Load]) -> String {
    let words: Vec<_> = loads.iter().map(|load| print_load(*load)).collect();
    words.join(" . ")
}

fn print_load(load: Load) -> String {
    match load {
        Load::Cgroup { level } => format!("socket cgroupv2 level {level}"),
        Load::Address(Family::V4, side) => format!("ip {}addr", side_letter(side)),
        Load::Address(Family::V6, side) => format!("ip6 {}addr", side_letter(side)),
        Load::Network(Family::V4, Side::Source) => "meta nfproto ipv4 @nh,96,16".into(),
        Load::Network(Family::V4, Side::Destination) => "meta nfproto ipv4 @nh,128,16".into(),
        Load::Network(Family::V6, Side::Source) => "meta nfproto ipv6 @nh,64,32".into(),
        Load::Network(Family::V6, Side::Destination) => "meta nfproto ipv6 @nh,192,32".into(),
        Load::Protocol => "meta l4proto".into(),
        Load::Port(side) => format!("th {}port", side_letter(side)),
        Load::Time => "meta time".into(),
        Load::DnsId => "@th,64,16".into(),
        Load::EchoId(family) => format!("{} id", icmp_word(family)),
        // nft takes no plain number into a key.
        Load::Number(number) => format!("meta mark & 0 | {number}"),
    }
}

fn side_letter(side: Side) -> char {
    match side {
        Side::Source => 's',
        Side::Destination => 'd',
    }
}

fn icmp_word(family: Family) -> &'static str {
    match family {
        Family::V4 => "icmp",
        Family::V6 => "icmpv6",
    }
}

fn print_ports(range: PortRange) -> String {
    match range.single() {
        Some(port) => port.to_string(),
        None => format!("{}-{}", range.low(), range.high()),
    }
}

/// The side on which the remote end of a packet stands, for a packet that travels this way.
impl Side {
    pub fn remote(leaving: Direction) -> Self {
        match leaving {
            Direction::Egress => Self::Destination,
            Direction::Ingress => Self::Source,
        }
    }
}
