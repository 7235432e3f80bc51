//! Rules that others than picoseg would load for N services, the measured one last.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::Command;

use crate::lab::Cgroup;
use crate::places::{self, PORT};
use crate::services::Measured;
use crate::variant::{InForce, run};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    Legacy,
    Nft,
}

/// One service as all shapes see it.
pub struct Entry {
    unit: usize,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
    pub port: u16,
}

/// Open as long as the services of picoseg are.
const WHEN: &str = "meta time \"2026-01-01 00:00:00\"-\"2099-01-01 00:00:00\"";

/// `count` services of so many units as picoseg's; the last is the measured one.
pub fn entries(count: usize) -> impl Iterator<Item = Entry> {
    let units = units(count);
    (0..count).map(move |index| match index + 1 == count {
        true => Entry { unit: units, v4: places::GOVERNED4, v6: places::GOVERNED6, port: PORT },
        false => {
            Entry { unit: index % units, v4: places::other4(index), v6: places::other6(index), port: 443 }
        }
    })
}

fn units(count: usize) -> usize {
    (count / 10).clamp(1, 1_000)
}

/// The units' cgroups; the last is the measured one's.
fn paths(count: usize, path: impl Fn(&str) -> String) -> Vec<String> {
    let others = (0..units(count)).map(|unit| path(&format!("s{unit}")));
    others.chain([path("target")]).collect()
}

/// As an administrator writes them: a table for each family, a rule for each service, out and in; what is left of the providers
/// is dropped.
pub fn linear(count: usize, cgroup: &Cgroup) -> String {
    let paths = paths(count, |unit| cgroup.path(unit));
    let family = |ip: &str, address: fn(&Entry) -> String, provider: &str| {
        let (mut outward, mut inward) = (String::new(), String::new());
        for entry in entries(count) {
            let who = format!("socket cgroupv2 level 2 \"{}\"", paths[entry.unit]);
            let (address, port) = (address(&entry), entry.port);
            let _ = writeln!(outward, "{who} {ip} daddr {address} tcp dport {port} {WHEN} accept");
            let _ = writeln!(inward, "{who} {ip} saddr {address} tcp sport {port} {WHEN} accept");
        }
        format!(
            "table {ip} t {{ chain in {{ type filter hook input priority 0; iif lo accept\n{inward}\
             {ip} saddr {provider} drop\n}}\n\
             chain out {{ type filter hook output priority 0; oif lo accept\n{outward}\
             {ip} daddr {provider} drop\n}}\n}}\n"
        )
    };
    family("ip", |entry| entry.v4.to_string(), "198.18.0.0/15")
        + &family("ip6", |entry| entry.v6.to_string(), "2001:db8::/32")
}

/// The same as `iptables-restore` and `ip6tables-restore` take it.
///
/// # Errors
/// What they said.
pub fn iptables(backend: Backend, count: usize, cgroup: &Cgroup) -> Result<InForce, String> {
    let paths = paths(count, |unit| cgroup.below_root(unit));
    let (mut four, mut six) = (String::from("*filter\n"), String::from("*filter\n"));
    for Entry { unit, v4, v6, port } in entries(count) {
        let path = &paths[unit];
        for (text, address) in [(&mut four, v4.to_string()), (&mut six, v6.to_string())] {
            let when = "-m time --datestart 2026-01-01T00:00:00 --datestop 2037-01-01T00:00:00 -j ACCEPT";
            let who = format!("-m cgroup --path {path}");
            let _ = writeln!(text, "-A OUTPUT -d {address} -p tcp --dport {port} {who} {when}");
            let _ = writeln!(text, "-A INPUT -s {address} -p tcp --sport {port} {who} {when}");
        }
    }
    for (text, net) in [(&mut four, "198.18.0.0/15"), (&mut six, "2001:db8::/32")] {
        let _ = write!(text, "-A OUTPUT -d {net} -j DROP\n-A INPUT -s {net} -j DROP\nCOMMIT\n");
    }
    let kind = match backend {
        Backend::Legacy => "legacy",
        Backend::Nft => "nft",
    };
    for (program, text) in [("iptables", four), ("ip6tables", six)] {
        let file = tempfile::NamedTempFile::new().map_err(|e| e.to_string())?;
        std::fs::write(file.path(), text).map_err(|e| e.to_string())?;
        run(Command::new(format!("{program}-{kind}-restore")).arg(file.path()))?;
    }
    Ok(InForce::default())
}

/// The shape that picoseg began with: a chain with two comparisons for each service, reached by a verdict map of
/// `cgroup . address . protocol . port`, with elements that time out; refusal chains for each service. With
/// [`Measured::Prefix`] the last service is found in an interval map of its unit.
pub fn reference(count: usize, measured: Measured, cgroup: &Cgroup) -> String {
    let paths = paths(count, |unit| cgroup.path(unit));
    let when = "meta time >= \"2026-01-01 00:00:00\" meta time < \"2099-01-01 00:00:00\"";
    let mut text = String::from("table inet t {\n");
    let (mut egress, mut refusals) = ([String::new(), String::new()], [const { String::new() }; 4]);
    for (index, Entry { unit, v4, v6, port }) in entries(count).enumerate() {
        let _ = write!(
            text,
            "chain s{index} {{ {when} counter accept\n}}\n\
             chain s{index}_out {{ tcp flags & (syn|fin|rst) == rst accept\n\
             {when} tcp dport {port} jump remnant_out\ncounter drop\n}}\n\
             chain s{index}_in {{ tcp flags & (syn|fin|rst) == rst accept\n\
             {when} tcp sport {port} jump remnant_in\ncounter drop\n}}\n"
        );
        let by_prefix = measured == Measured::Prefix && index + 1 == count;
        for (family, address) in [v4.to_string(), v6.to_string()].into_iter().enumerate() {
            if !by_prefix {
                let key = format!("\"{}\" . {address} . tcp . {port}", paths[unit]);
                let _ = writeln!(egress[family], "{key} timeout 36000s : jump s{index},");
            }
            let _ = writeln!(refusals[family], "{address} : goto s{index}_out,");
            let _ = writeln!(refusals[2 + family], "{address} : goto s{index}_in,");
        }
    }
    let last = count - 1;
    let target = &paths[units(count)];
    text += REMNANTS;
    for (family, (ip, kind)) in [("ip", "ipv4_addr"), ("ip6", "ipv6_addr")].into_iter().enumerate() {
        let n = if family == 0 { 4 } else { 6 };
        let (net, frags) = match family {
            0 => ("198.18.0.0/24", "ip frag-off & 0x3fff != 0 goto refuse_out4\n"),
            _ => ("2001:db8:aaaa::/64", "exthdr frag exists goto refuse_out6\n"),
        };
        let typed =
            format!("typeof socket cgroupv2 level 2 . {ip} daddr . meta l4proto . th dport : verdict");
        let nets = match measured {
            Measured::Prefix => {
                format!(" elements = {{ {net} . tcp . {PORT} timeout 36000s : jump s{last} }}")
            }
            _ => String::new(),
        };
        let elements = if egress[family].is_empty() {
            String::new()
        } else {
            format!(" elements = {{ {} }}", egress[family])
        };
        let _ = write!(
            text,
            "map egress{n} {{ {typed}; flags timeout;{elements} }}\n\
             map ingress{n} {{ {typed}; flags timeout; }}\n\
             map nets{n} {{ typeof {ip} daddr . meta l4proto . th dport : verdict; flags interval,timeout;{nets} }}\n\
             chain target{n}_out {{ {ip} daddr . meta l4proto . th dport vmap @nets{n}\n}}\n\
             chain target{n}_in {{ {ip} saddr . meta l4proto . th sport vmap @nets{n}\n}}\n\
             map units{n}_out {{ typeof socket cgroupv2 level 2 : verdict; elements = {{ \"{target}\" : jump target{n}_out }} }}\n\
             map units{n}_in {{ typeof socket cgroupv2 level 2 : verdict; elements = {{ \"{target}\" : jump target{n}_in }} }}\n\
             map refused_out{n} {{ type {kind} : verdict; elements = {{ {} }} }}\n\
             map refused_in{n} {{ type {kind} : verdict; elements = {{ {} }} }}\n\
             chain refuse_out{n} {{ {ip} daddr vmap @refused_out{n}\n}}\n\
             chain refuse_in{n} {{ {ip} saddr vmap @refused_in{n}\n}}\n\
             chain syn_in{n} {{ socket cgroupv2 level 2 . {ip} saddr . meta l4proto . th dport vmap @ingress{n}\n\
             goto refuse_in{n}\n}}\n\
             chain out{n} {{ {frags}\
             socket cgroupv2 level 2 . {ip} daddr . meta l4proto . th dport vmap @egress{n}\n\
             socket cgroupv2 level 2 vmap @units{n}_out\n\
             tcp flags & (syn|ack) == syn goto refuse_out{n}\n\
             socket cgroupv2 level 2 . {ip} daddr . meta l4proto . th sport vmap @ingress{n}\n\
             goto refuse_out{n}\n}}\n\
             chain in{n} {{ tcp flags & (syn|ack) == syn goto syn_in{n}\n\
             socket cgroupv2 level 2 . {ip} saddr . meta l4proto . th sport vmap @egress{n}\n\
             socket cgroupv2 level 2 vmap @units{n}_in\n\
             socket cgroupv2 level 2 . {ip} saddr . meta l4proto . th dport vmap @ingress{n}\n\
             goto refuse_in{n}\n}}\n",
            refusals[family],
            refusals[2 + family],
        );
    }
    text + &gates(count) + HOOKS
}

/// The least that a decision by process, address and port can cost: one set for each family, no clock, no refusal.
pub fn least(count: usize, cgroup: &Cgroup) -> String {
    let paths = paths(count, |unit| cgroup.path(unit));
    let mut text = String::from("table inet t {\n");
    let mut hooks = [String::new(), String::new()];
    for (ip, address) in [
        ("ip", (|entry| entry.v4.to_string()) as fn(&Entry) -> String),
        ("ip6", |entry| entry.v6.to_string()),
    ] {
        let grants = entries(count).map(|entry| {
            format!(
                "\"{}\" . {} . tcp . {} timeout 36000s,\n",
                paths[entry.unit],
                address(&entry),
                entry.port
            )
        });
        let grants: String = grants.collect();
        let key = format!("socket cgroupv2 level 2 . {ip}");
        let _ = writeln!(
            text,
            "set grants_{ip} {{ typeof {key} daddr . meta l4proto . th dport; flags timeout; elements = {{ {grants} }} }}"
        );
        let _ = writeln!(hooks[0], "{key} daddr . meta l4proto . th dport @grants_{ip} accept");
        let _ = writeln!(hooks[1], "{key} saddr . meta l4proto . th sport @grants_{ip} accept");
    }
    text + &format!(
        "chain output {{ type filter hook output priority -10;\n{}}}\n\
         chain input {{ type filter hook input priority -10;\n{}}}\n}}\n",
        hooks[0], hooks[1]
    )
}

/// The /16s and /32s in which anything is.
fn gates(count: usize) -> String {
    let four: std::collections::BTreeSet<_> =
        entries(count).map(|entry| Ipv4Addr::from_bits(entry.v4.to_bits() & 0xffff_0000)).collect();
    let six: std::collections::BTreeSet<_> =
        entries(count).map(|entry| Ipv6Addr::from_bits(entry.v6.to_bits() >> 96 << 96)).collect();
    let mut text = String::from("set governed4 { type ipv4_addr; elements = { ");
    text.extend(four.iter().map(|gate| format!("{gate},\n")));
    text += "} }\nset governed6 { type ipv6_addr; elements = { ";
    text.extend(six.iter().map(|gate| format!("{gate},\n")));
    text + "} }\n"
}

const REMNANTS: &str = "chain remnant_out { tcp flags & (syn|ack) == syn return\n\
                        tcp flags & (syn|ack|rst) == 0 return\n@ih,0,8 0-255 return\n\
                        socket wildcard 0-1 return\ncounter accept\n}\n\
                        chain remnant_in { tcp flags & (syn|ack) == syn return\n\
                        tcp flags & (syn|ack|rst) == 0 return\nsocket wildcard 0-1 return\ncounter accept\n}\n";

const HOOKS: &str = "chain output { type filter hook output priority -10; oif lo accept\n\
                     tcp sport 22 tcp flags & (syn|ack) != syn accept\n\
                     ip daddr & 255.255.0.0 @governed4 goto out4\nip6 daddr & ffff:ffff:: @governed6 goto out6\n}\n\
                     chain input { type filter hook input priority -10; iif lo accept\ntcp dport 22 accept\n\
                     ip saddr & 255.255.0.0 @governed4 goto in4\nip6 saddr & ffff:ffff:: @governed6 goto in6\n}\n}\n";
