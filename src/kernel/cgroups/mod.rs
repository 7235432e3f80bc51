//! The cgroups of this host: where subjects live right now.
//!
//! Neighbours: `ruleset` matches sockets by the id and the level that [`Hierarchy::resolve`] returns;
//! [`Watcher`] tells when an answer changes, [`ContainerWatcher`] which containers there are; [`ChildCgroup`] is one that
//! we make for the processes of a program. A socket keeps the cgroup in which it was created.

mod child;
mod containers;
mod hierarchy;
mod lineage;
mod named;
mod notifier;
mod watch;

use std::io;
use std::path::PathBuf;

pub use child::{ChildCgroup, path_of, put};
pub use containers::{ContainerWatcher, is_id};
pub use hierarchy::{Cgroup, Hierarchy};
pub use lineage::{Lineage, subjects_by_name};
pub use named::name_of;
pub use watch::{Change, Watcher};

#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("cannot read /proc/self/mountinfo to find the cgroup2 hierarchy: {0}")]
    Mounts(#[source] io::Error),
    #[error(
        "no cgroup2 hierarchy is mounted: mount it at /sys/fs/cgroup (systemd does unless told otherwise)"
    )]
    Missing,
    #[error("cannot watch cgroups: no inotify instance (see fs.inotify.max_user_instances): {0}")]
    Inotify(#[source] io::Error),
    #[error("cannot watch {}: {source}{}", path.display(), watch_help(source))]
    Watch { path: PathBuf, source: io::Error },
    #[error("cannot read cgroup {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot read the changes of cgroups: {0}")]
    Events(#[source] io::Error),
}

fn watch_help(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOSPC) => ": raise fs.inotify.max_user_watches",
        Some(_) | None => "",
    }
}
