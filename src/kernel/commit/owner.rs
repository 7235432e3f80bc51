//! What `/proc` says of netlink sockets: whose a port is, for the error text, and whether a socket is one of ours.

use std::fs;
use std::path::Path;

/// A process of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub id: u32,
    pub name: String,
}

/// The process that holds the netfilter socket with this port; `None` where `/proc` does not tell.
pub fn holder(port: u32) -> Option<Process> {
    let sockets = fs::read_to_string(SOCKETS).ok()?;
    let inode = netfilter(&sockets).find(|socket| socket.port == port)?.inode;
    let target = format!("socket:[{inode}]");
    let mut holders: Vec<Process> = fs::read_dir("/proc")
        .ok()?
        .filter_map(Result::ok)
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
        .filter(|(_, path)| holds(path, &target))
        .map(|(id, path)| Process { id, name: name_of(&path) })
        .collect();
    // The service manager keeps a copy for the daemon.
    holders.sort_by_key(|process| (process.id == 1, process.id));
    holders.into_iter().next()
}

/// The port of the netfilter socket with this inode, if it is in our network namespace.
pub fn port(inode: u64) -> Option<u32> {
    let sockets = fs::read_to_string(SOCKETS).ok()?;
    netfilter(&sockets).find(|socket| socket.inode == inode).map(|socket| socket.port)
}

/// The netlink sockets of the thread's network namespace.
const SOCKETS: &str = "/proc/thread-self/net/netlink";

struct Listed {
    port: u32,
    inode: u64,
}

/// Columns of `/proc/net/netlink`: sk, Eth (the bus), Pid (the port), Groups, Rmem, Wmem, Dump, Locks, Drops, Inode.
fn netfilter(sockets: &str) -> impl Iterator<Item = Listed> {
    sockets.lines().filter_map(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let bus: i32 = columns.get(1)?.parse().ok()?;
        let listed = Listed { port: columns.get(2)?.parse().ok()?, inode: columns.get(9)?.parse().ok()? };
        (bus == libc::NETLINK_NETFILTER).then_some(listed)
    })
}

fn holds(process: &Path, target: &str) -> bool {
    let Ok(descriptors) = fs::read_dir(process.join("fd")) else {
        return false;
    };
    descriptors
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .any(|link| link.as_os_str() == target)
}

fn name_of(process: &Path) -> String {
    let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
    name.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_netfilter_alone_are_listed() {
        let text = "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n\
                    0000000000000000 0   77         00000000 0        0        0     2        0        11\n\
                    0000000000000000 12  77         00000000 0        0        0     2        0        12\n";
        let listed: Vec<_> = netfilter(text).map(|socket| (socket.port, socket.inode)).collect();
        assert_eq!(listed, [(77, 12)]);
    }
}
