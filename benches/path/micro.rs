//! What one expression costs: a hundred copies of a rule of it in the output hook, which a packet meets all.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use crate::lab::Cgroup;
use crate::places;
use crate::rounds::Row;

pub const COPIES: usize = 100;

/// Of the larger sets.
const ELEMENTS: usize = 10_000;

/// What is measured: a name, what the table has beside the chain, and the rule. `@CGROUP@` is the sender's cgroup.
const RULES: [(&str, Beside, &str); 24] = [
    ("ip daddr", Beside::Nothing, "ip daddr 192.0.2.10"),
    ("ip daddr, masked to /16", Beside::Nothing, "ip daddr 192.0.0.0/16"),
    ("ip daddr, masked to /20", Beside::Nothing, "ip daddr 192.0.0.0/20"),
    ("meta l4proto", Beside::Nothing, "meta l4proto udp"),
    ("udp dport", Beside::Nothing, "udp dport 8443"),
    ("tcp flags of what is not TCP", Beside::Nothing, "tcp flags & (syn|ack) == syn"),
    ("oif lo", Beside::Nothing, "oif lo"),
    ("fragment", Beside::Nothing, "ip frag-off & 0x3fff != 0"),
    ("socket cgroupv2 level 2", Beside::Nothing, "socket cgroupv2 level 2 \"@CGROUP@\""),
    ("socket wildcard", Beside::Nothing, "socket wildcard 0-1"),
    ("meta time, one range", Beside::Nothing, "meta time \"2026-01-01 00:00:00\"-\"2099-01-01 00:00:00\""),
    (
        "meta time, two comparisons",
        Beside::Nothing,
        "meta time >= \"2026-01-01 00:00:00\" meta time < \"2099-01-01 00:00:00\"",
    ),
    ("meta time, in a set of one interval", Beside::Hours, "meta time @hours"),
    ("meta hour, one range", Beside::Nothing, "meta hour \"00:00\"-\"23:59\""),
    ("meta day", Beside::Nothing, "meta day \"Sunday\"-\"Saturday\""),
    ("hash of /16s, masked address", Beside::Gate, "ip daddr & 255.255.0.0 @gate"),
    ("hash of 10,000 addresses", Beside::Addresses, "ip daddr @addresses"),
    ("bitmap of the first two bytes", Beside::Bitmap, "@nh,128,16 @bitmap"),
    ("bitmap of ports", Beside::Ports, "udp dport @ports"),
    ("interval set of 10,000", Beside::Interval, "ip daddr @nets"),
    ("interval set of 10", Beside::FewIntervals, "ip daddr @nets"),
    (
        "hash of cgroup, address, protocol, port; 10,000",
        Beside::Grants,
        "socket cgroupv2 level 2 . ip daddr . meta l4proto . th dport @grants",
    ),
    ("counter", Beside::Nothing, "counter"),
    ("jump to an empty chain", Beside::Chain, "jump away"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    Hours,
    Gate,
    Addresses,
    Bitmap,
    Ports,
    Interval,
    FewIntervals,
    Grants,
    Chain,
}

/// The words of all variants.
pub fn words() -> Vec<String> {
    RULES.iter().map(|(name, ..)| format!("micro:{name}")).collect()
}

/// The table of a variant. It says nothing about a packet.
///
/// # Errors
/// There is none of that name.
pub fn rules(name: &str, cgroup: &Cgroup) -> Result<String, String> {
    let found = RULES.iter().find(|(one, ..)| *one == name);
    let (_, beside, rule) = found.ok_or_else(|| format!("no expression is called {name:?}"))?;
    let rule = rule.replace("@CGROUP@", &cgroup.path("target"));
    let rules = format!("{rule}\n").repeat(COPIES);
    Ok(format!(
        "table inet t {{ {}\nchain in {{ type filter hook input priority 0; }}\n\
         chain out {{ type filter hook output priority 0;\n{rules}}}\n}}\n",
        beside.text(cgroup)
    ))
}

impl Beside {
    /// Nothing in the sets is what the packet has.
    fn text(self, cgroup: &Cgroup) -> String {
        let addresses = || (0..ELEMENTS).map(places::other4);
        match self {
            Self::Nothing => String::new(),
            Self::Hours => "set hours { typeof meta time; flags interval; \
                            elements = { \"2026-01-01 00:00:00\"-\"2099-01-01 00:00:00\" } }"
                .into(),
            Self::Gate => {
                let gates: std::collections::BTreeSet<_> =
                    addresses().map(|one| Ipv4Addr::from_bits(one.to_bits() & 0xffff_0000)).collect();
                set("gate { type ipv4_addr; size 16384;", gates.iter())
            }
            Self::Addresses => set("addresses { type ipv4_addr; size 16384;", addresses()),
            Self::Bitmap => set("bitmap { typeof @nh,128,16;", (0..200).map(|index| 0x1000 + index * 7)),
            Self::Ports => set("ports { type inet_service;", (1..200).map(|index| index * 7)),
            Self::Interval => {
                set("nets { type ipv4_addr; flags interval;", addresses().map(|one| format!("{one}/30")))
            }
            Self::FewIntervals => set(
                "nets { type ipv4_addr; flags interval;",
                addresses().take(10).map(|one| format!("{one}/30")),
            ),
            Self::Grants => {
                let path = cgroup.path("target");
                set(
                    "grants { typeof socket cgroupv2 level 2 . ip daddr . meta l4proto . th dport; flags timeout;",
                    addresses().map(|one| format!("\"{path}\" . {one} . udp . 443 timeout 36000s")),
                )
            }
            Self::Chain => "chain away { }".into(),
        }
    }
}

fn set(head: &str, elements: impl Iterator<Item = impl std::fmt::Display>) -> String {
    let mut text = format!("set {head} elements = {{ ");
    for element in elements {
        let _ = writeln!(text, "{element},");
    }
    text + "} }"
}

/// Nanoseconds of a rule: what a hundred of them add to the empty chains, shared among them.
pub fn markdown(rows: &[Row]) -> String {
    let mut text = String::from("\n| a rule of one expression | ns [p25..p75] |\n|---|---|\n");
    let empty = rows.iter().find(|row| row.name == "empty").and_then(|row| row.result.as_ref().ok());
    let empty = empty.map_or(f64::NAN, |figures| figures.added.median);
    for row in rows {
        let Some(name) = row.name.strip_prefix("micro:") else { continue };
        let each = |value: f64| (value - empty) * 1e3 / COPIES as f64;
        let _ = match &row.result {
            Ok(figures) => writeln!(
                text,
                "| {name} | {:.1} [{:.1}..{:.1}] |",
                each(figures.added.median),
                each(figures.added.low),
                each(figures.added.high)
            ),
            Err(why) => writeln!(text, "| {name} | not measured: {why} |"),
        };
    }
    text
}
