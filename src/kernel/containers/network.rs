//! Where the processes of a container have their network: with the host, or behind addresses of their own.
//!
//! Read from `/proc`, without entering anything: that takes no capability, as `/proc/PID/ns/net` and setns(2) do.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The longest table of addresses that is read: a container may have as many routes as it likes.
const LONGEST: u64 = 4 << 20;

/// How many processes are asked which of them is the eldest.
const ASKED: usize = 64;

/// Where a container's network is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Home {
    /// The network namespace that we are in.
    Host,
    /// One of its own, with these addresses: none yet, perhaps.
    Own(BTreeSet<IpAddr>),
}

/// The network of a container's eldest process.
///
/// The eldest is what the engine started. Another one may have made a namespace of its own, in which it may take any
/// address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    pub process: u32,
    pub home: Home,
}

/// Looks where the processes of the cgroup in this directory, and below, have their network; `None` when there are none.
pub fn network_of(directory: &Path) -> Option<Network> {
    loop {
        let (started, process) = processes(directory).into_iter().filter_map(started).min()?;
        let home = match is_ours(process) {
            Some(true) => Some(Home::Host),
            Some(false) => addresses(process).map(Home::Own),
            None => None,
        };
        match home {
            // Else its number may belong to another process by now.
            Some(home) if self::started(process) == Some((started, process)) => {
                return Some(Network { process, home });
            }
            // It has ended, but has still to be reaped.
            None if self::started(process).is_some() => return None,
            Some(_) | None => {}
        }
    }
}

/// Some processes of a cgroup, its own before those of its children: the first ones came first.
fn processes(directory: &Path) -> Vec<u32> {
    let mut found = Vec::new();
    let mut directories = std::collections::VecDeque::from([directory.to_owned()]);
    while let Some(directory) = directories.pop_front() {
        let text = read(&directory.join("cgroup.procs")).unwrap_or_default();
        // 0: a process of a PID namespace that we cannot see.
        found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|pid| *pid != 0));
        if found.len() >= ASKED {
            break;
        }
        directories.extend(children(&directory));
    }
    found.truncate(ASKED);
    found
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    paths
}

/// When a process was started, in ticks since boot: the 22nd field of proc_pid_stat(5).
fn started(process: u32) -> Option<(u64, u32)> {
    let text = read(Path::new(&format!("/proc/{process}/stat")))?;
    // The name of the program may hold anything but ends with the last bracket.
    let (_, fields) = text.rsplit_once(')')?;
    Some((fields.split_ascii_whitespace().nth(19)?.parse().ok()?, process))
}

/// The files below `/proc/PID/net` are those of the network namespace: the same file, the same namespace.
fn is_ours(process: u32) -> Option<bool> {
    let file = |process: &str| Some(fs::metadata(format!("/proc/{process}/net/dev")).ok()?.ino());
    Some(file(&process.to_string())? == file("self")?)
}

fn addresses(process: u32) -> Option<BTreeSet<IpAddr>> {
    let table = |name: &str| read(Path::new(&format!("/proc/{process}/net/{name}")));
    let v4 = parse_fib_trie(&table("fib_trie")?);
    // Without IPv6 there is no such file.
    let v6 = parse_if_inet6(&table("if_inet6").unwrap_or_default());
    Some(v4.into_iter().map(IpAddr::V4).chain(v6.into_iter().map(IpAddr::V6)).filter(is_global).collect())
}

/// An address that packets of others can come from.
fn is_global(address: &IpAddr) -> bool {
    let beyond_the_link = match address {
        IpAddr::V4(v4) => !v4.is_link_local() && !v4.is_broadcast(),
        IpAddr::V6(v6) => !v6.is_unicast_link_local(),
    };
    beyond_the_link && !address.is_loopback() && !address.is_unspecified() && !address.is_multicast()
}

/// The addresses of the namespace's own: a leaf `|-- ADDRESS` with a line `/32 host LOCAL` (net/ipv4/fib_trie.c).
fn parse_fib_trie(text: &str) -> BTreeSet<Ipv4Addr> {
    let mut found = BTreeSet::new();
    let mut leaf: Option<Ipv4Addr> = None;
    for line in text.lines().map(str::trim) {
        match line.strip_prefix("|-- ") {
            Some(address) => leaf = address.parse().ok(),
            None if line == "/32 host LOCAL" => found.extend(leaf),
            None => {}
        }
    }
    found
}

/// A line begins with the address in 32 digits (net/ipv6/addrconf.c, `if6_seq_show`).
fn parse_if_inet6(text: &str) -> BTreeSet<Ipv6Addr> {
    let address = |line: &str| u128::from_str_radix(line.split_ascii_whitespace().next()?, 16).ok();
    text.lines().filter_map(address).map(Ipv6Addr::from).collect()
}

fn read(path: &Path) -> Option<String> {
    let mut text = Vec::new();
    fs::File::open(path).ok()?.take(LONGEST).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIE: &str = "\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 172.17.0.0/16 2 0 2
        |-- 172.17.0.0
           /16 link UNICAST
Local:
  +-- 0.0.0.0/0 3 0 5
     +-- 127.0.0.0/8 2 0 2
        |-- 127.0.0.1
           /32 host LOCAL
        |-- 127.255.255.255
           /32 link BROADCAST
        |-- 172.17.0.2
           /32 host LOCAL
        |-- 172.17.255.255
           /32 link BROADCAST
";

    #[test]
    fn own_addresses_are_told_from_routes_and_broadcasts() {
        let found = parse_fib_trie(TRIE);
        assert_eq!(found, ["127.0.0.1", "172.17.0.2"].map(|a| a.parse().unwrap()).into());
        let text = "fd770000000000000000000000000001 02 40 00 80       d0\n\
                    fe800000000000000000000000000001 02 40 20 80       d0\n";
        let v6 = parse_if_inet6(text);
        assert_eq!(v6, ["fd77::1", "fe80::1"].map(|a| a.parse().unwrap()).into());
    }

    #[test]
    fn only_addresses_that_others_can_see_count() {
        for (text, counts) in [
            ("172.17.0.2", true),
            ("fd77::1", true),
            ("127.0.0.1", false),
            ("169.254.1.1", false),
            ("::1", false),
            ("fe80::1", false),
            ("0.0.0.0", false),
        ] {
            assert_eq!(is_global(&text.parse().unwrap()), counts, "{text}");
        }
    }

    #[test]
    fn a_process_of_ours_is_at_home() {
        let cgroup = tempfile::tempdir().unwrap();
        assert_eq!(network_of(cgroup.path()), None);
        std::fs::create_dir(cgroup.path().join("container")).unwrap();
        let process = std::process::id();
        std::fs::write(cgroup.path().join("container/cgroup.procs"), format!("0\n{process}\n")).unwrap();
        assert_eq!(network_of(cgroup.path()), Some(Network { process, home: Home::Host }));
    }
}
