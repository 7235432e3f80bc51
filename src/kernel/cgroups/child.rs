//! Child cgroups that we make: where a process is, and moving it one step down.
//!
//! Everything is done by descriptor. The owner of a delegated tree can remove a cgroup of ours that is empty and make
//! one of the same name; it cannot make one that belongs to us, and what we hold open is what we looked at.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use super::hierarchy::join;
use super::{Cgroup, Hierarchy};

/// Only root can write it, so that it says who made the cgroup.
const NOTE: &str = "trusted.picoseg";

/// A note that is longer is none of ours.
const NOTE_MAX: usize = 64 * 1024;

/// A cgroup that we made.
#[derive(Debug)]
pub struct ChildCgroup {
    pub cgroup: Cgroup,
    directory: OwnedFd,
}

/// Returns the path of a process below the root of the hierarchy; none when it has ended.
pub fn path_of(pid: i32) -> io::Result<Option<String>> {
    let text = match std::fs::read_to_string(format!("/proc/{pid}/cgroup")) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => return Ok(None),
        text => text?,
    };
    let path = text.lines().find_map(|line| line.strip_prefix("0::"));
    // A cgroup that was removed has a suffix; a path with `..` is outside of our cgroup namespace.
    let usable = |path: &&str| !path.ends_with(" (deleted)") && !path.contains("/..");
    Ok(path.filter(usable).map(str::to_owned))
}

/// Moves a process, with all its threads, to a cgroup.
pub fn put(hierarchy: &Hierarchy, path: &str, pid: i32) -> io::Result<()> {
    std::fs::write(hierarchy.directory(path).join("cgroup.procs"), pid.to_string())
}

impl ChildCgroup {
    /// Opens the cgroup `name` below `parent`, which is made where there is none, and notes on it what it is for.
    ///
    /// A cgroup of that name that does not belong to us is an error: `EPERM`.
    pub fn make(hierarchy: &Hierarchy, parent: &str, name: &str, note: &str) -> io::Result<Self> {
        let above = open(CWD, hierarchy.directory(parent).as_path())?;
        match rustix::fs::mkdirat(&above, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        let directory = open(&above, name)?;
        let child = Self::of(directory, join(parent, name))?;
        rustix::fs::fsetxattr(&child.directory, NOTE, note.as_bytes(), XattrFlags::empty())?;
        Ok(child)
    }

    /// Opens a cgroup that we made earlier, with its note; none when it is not ours.
    pub fn find(hierarchy: &Hierarchy, path: &str) -> io::Result<Option<(Self, String)>> {
        let directory = open(CWD, hierarchy.directory(path).as_path())?;
        let mut note = vec![0; NOTE_MAX];
        let length = match rustix::fs::fgetxattr(&directory, NOTE, &mut note[..]) {
            Ok(length) => length,
            Err(Errno::NODATA | Errno::RANGE) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let note = String::from_utf8_lossy(&note[..length]).into_owned();
        Ok(Some((Self::of(directory, path.to_owned())?, note)))
    }

    fn of(directory: OwnedFd, path: String) -> io::Result<Self> {
        let stat = rustix::fs::fstat(&directory)?;
        if stat.st_uid != rustix::process::geteuid().as_raw() || stat.st_mode & 0o022 != 0 {
            return Err(Errno::PERM.into());
        }
        let level = path.split('/').filter(|part| !part.is_empty()).count();
        Ok(Self { cgroup: Cgroup { path, id: stat.st_ino, level }, directory })
    }

    /// Moves a process, with all its threads, here. `EOPNOTSUPP`: the cgroup above takes threads only.
    pub fn take(&self, pid: i32) -> io::Result<()> {
        self.write("cgroup.procs", &pid.to_string())
    }

    /// Whether any process is here or below; none when the cgroup is gone.
    pub fn is_populated(&self) -> io::Result<Option<bool>> {
        let text = match self.read("cgroup.events") {
            Err(error) if super::hierarchy::is_gone(&error) => return Ok(None),
            text => text?,
        };
        Ok(Some(!text.lines().any(|line| line == "populated 0")))
    }

    /// Removes the cgroup; false while it is in use.
    pub fn remove(&self, hierarchy: &Hierarchy) -> io::Result<bool> {
        match rustix::fs::rmdir(hierarchy.directory(&self.cgroup.path)) {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            Err(Errno::BUSY) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        let file =
            rustix::fs::openat(&self.directory, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        // One write: the kernel reads each as a whole.
        rustix::io::write(&file, text.as_bytes())?;
        Ok(())
    }

    fn read(&self, file: &str) -> io::Result<String> {
        let file =
            rustix::fs::openat(&self.directory, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        io::read_to_string(std::fs::File::from(file))
    }
}

fn open(above: impl std::os::fd::AsFd, path: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(above, path, flags, Mode::empty())?)
}
