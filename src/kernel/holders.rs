//! Which processes have sockets open, by `/proc/PID/fd` (proc_pid_fd(5)).
//!
//! Reading it takes what ptrace(2) takes (`PTRACE_MODE_READ_FSCREDS`): for processes of other users, or with more
//! capabilities, `CAP_SYS_PTRACE`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

/// Who has what open.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Holders {
    /// Processes by the inode of a socket.
    pub by_inode: BTreeMap<u32, BTreeSet<u32>>,
    /// Processes that we may not look into.
    pub denied: usize,
    /// There was more than was looked at.
    pub cut: bool,
}

/// Looks for these sockets in these processes, reading at most so many descriptors.
pub fn holders(processes: &[u32], inodes: &BTreeSet<u32>, most: usize) -> Holders {
    let mut holders = Holders::default();
    let mut left = most;
    for process in processes {
        match look(*process, inodes, &mut left, &mut holders) {
            Ok(()) => {}
            // EACCES by the directory's mode, EPERM by the process's capabilities.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => holders.denied += 1,
            // It has ended.
            Err(_) => {}
        }
    }
    holders
}

fn look(process: u32, inodes: &BTreeSet<u32>, left: &mut usize, holders: &mut Holders) -> io::Result<()> {
    for entry in fs::read_dir(format!("/proc/{process}/fd"))? {
        let path = entry?.path();
        match left.checked_sub(1) {
            Some(rest) => *left = rest,
            None => {
                holders.cut = true;
                return Ok(());
            }
        }
        match fs::read_link(&path) {
            Ok(target) => {
                if let Some(inode) = socket(&target).filter(|inode| inodes.contains(inode)) {
                    holders.by_inode.entry(inode).or_default().insert(process);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
            // Closed meanwhile.
            Err(_) => {}
        }
    }
    Ok(())
}

/// The inode in `socket:[4711]`.
fn socket(target: &Path) -> Option<u32> {
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn a_socket_of_ours_is_held_by_us_and_by_nobody_who_is_gone() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = {
            use std::os::fd::AsRawFd as _;
            fs::metadata(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap().ino() as u32
        };
        let us = std::process::id();
        let found = holders(&[us, u32::MAX], &BTreeSet::from([inode]), 10_000);
        assert_eq!(found.by_inode, BTreeMap::from([(inode, BTreeSet::from([us]))]));
        assert_eq!((found.denied, found.cut), (0, false));
        assert!(holders(&[us], &BTreeSet::from([inode]), 2).cut);
    }
}
