//! The comings and goings in watched directories of the cgroup tree, as hints where to look.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::mem::{MaybeUninit, take};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use super::CgroupError;
use super::hierarchy::{Hierarchy, is_gone};

/// Room for hundreds of events a read.
const BUFFER: usize = 64 * 1024;

/// An inotify instance and what it watches.
#[derive(Debug)]
pub(super) struct Notifier {
    inotify: OwnedFd,
    watches: Watches,
}

impl Notifier {
    pub(super) fn new() -> Result<Self, CgroupError> {
        let flags = CreateFlags::NONBLOCK | CreateFlags::CLOEXEC;
        let inotify = inotify::init(flags).map_err(|errno| CgroupError::Inotify(errno.into()))?;
        Ok(Self { inotify, watches: Watches::default() })
    }

    /// Watches a directory; false when it is gone.
    pub(super) fn watch(&mut self, hierarchy: &Hierarchy, path: &str) -> Result<bool, CgroupError> {
        let directory = hierarchy.directory(path);
        let flags = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::ONLYDIR;
        match inotify::add_watch(&self.inotify, &directory, flags).map_err(io::Error::from) {
            Ok(descriptor) => {
                self.watches.0.insert(descriptor, path.to_owned());
                Ok(true)
            }
            Err(error) if is_gone(&error) => Ok(false),
            Err(source) => Err(CgroupError::Watch { path: directory, source }),
        }
    }

    /// Reads the events; the same name in the same directory is one hint however often it came and went.
    pub(super) fn read(&mut self) -> Result<BTreeSet<Hint>, CgroupError> {
        let mut hints = BTreeSet::new();
        let mut buffer = vec![MaybeUninit::uninit(); BUFFER];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => hints.extend(self.watches.hint(&event)),
                Err(Errno::AGAIN) => return Ok(hints),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(CgroupError::Events(errno.into())),
            }
        }
    }

    /// Hands over what is watched, for a scan that says anew what it wants.
    pub(super) fn take(&mut self) -> Watches {
        take(&mut self.watches)
    }

    /// Keeps former watches beside the present ones.
    pub(super) fn keep(&mut self, former: Watches) {
        self.watches.0.extend(former.0);
    }

    /// Ends the former watches that the last scan did not want again. What is gone already is no error.
    pub(super) fn unwatch(&self, former: Watches) {
        for descriptor in former.0.keys().filter(|known| !self.watches.0.contains_key(known)) {
            let _gone = inotify::remove_watch(&self.inotify, *descriptor);
        }
    }

    #[cfg(test)]
    pub(super) fn paths(&self) -> Vec<&str> {
        self.watches.0.values().map(String::as_str).collect()
    }

    /// Ends a watch without a word.
    #[cfg(test)]
    pub(super) fn forget(&self, path: &str) {
        let (&descriptor, _) = self.watches.0.iter().find(|(_, known)| *known == path).unwrap();
        inotify::remove_watch(&self.inotify, descriptor).unwrap();
    }
}

impl AsFd for Notifier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

/// What an event says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hint {
    /// The kernel's queue was full (`fs.inotify.max_queued_events`).
    Lost,
    /// Something happened to the cgroup `name` in `parent`.
    Look { parent: String, name: String },
}

/// The watched directories by inotify's descriptor. A path that was made again has two until the kernel reports
/// the end of the old one.
#[derive(Debug, Default)]
pub(super) struct Watches(BTreeMap<i32, String>);

impl Watches {
    fn hint(&mut self, event: &inotify::Event<'_>) -> Option<Hint> {
        if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
            return Some(Hint::Lost);
        }
        if event.events().contains(ReadFlags::IGNORED) {
            self.0.remove(&event.wd());
            return None;
        }
        let name = event.file_name()?.to_str().ok()?.to_owned();
        let parent = self.0.get(&event.wd())?.clone();
        let is_cgroup = event.events().contains(ReadFlags::ISDIR);
        is_cgroup.then_some(Hint::Look { parent, name })
    }
}
