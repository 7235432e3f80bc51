//! From the port of a netlink socket to the process that holds it, for the error text alone.

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
    let sockets = fs::read_to_string("/proc/thread-self/net/netlink").ok()?;
    let target = format!("socket:[{}]", inode_of(&sockets, port)?);
    fs::read_dir("/proc")
        .ok()?
        .filter_map(Result::ok)
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
        .find(|(_, path)| holds(path, &target))
        .map(|(id, path)| Process { id, name: name_of(&path) })
}

/// Columns of `/proc/net/netlink`: sk, Eth (the bus), Pid (the port), Groups, Rmem, Wmem, Dump, Locks, Drops, Inode.
fn inode_of(sockets: &str, port: u32) -> Option<&str> {
    let bus = libc::NETLINK_NETFILTER.to_string();
    let port = port.to_string();
    sockets.lines().find_map(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let same = columns.get(1) == Some(&bus.as_str()) && columns.get(2) == Some(&port.as_str());
        same.then(|| columns.get(9).copied()).flatten()
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
    fn the_inode_is_that_of_the_netfilter_socket_with_the_port() {
        let text = "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n\
                    0000000000000000 0   77         00000000 0        0        0     2        0        11\n\
                    0000000000000000 12  77         00000000 0        0        0     2        0        12\n";
        assert_eq!(inode_of(text, 77), Some("12"));
        assert_eq!(inode_of(text, 78), None);
    }
}
