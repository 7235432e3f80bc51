//! The numbers of users and groups, and when the files that name them change.
//!
//! Deliberately absent: when to ask, and what to do while nobody answers. The name services of the host (nsswitch.conf)
//! may ask a network.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use std::mem::MaybeUninit;

use nix::unistd::{Group, User};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use crate::compile::Place;
use crate::model::Subject;

const DIRECTORY: &str = "/etc";
/// What is replaced by renaming or written in place when accounts change.
const FILES: [&str; 3] = ["passwd", "group", "nsswitch.conf"];
const BUFFER: usize = 16 * 1024;

/// Asks the name services for a user or group; nothing: there is none of that name. May take as long as they do.
///
/// Digits alone are the number itself, whether somebody has it or not.
pub fn look_up(subject: &Subject) -> io::Result<Option<Place>> {
    let found = |outcome: nix::Result<Option<u32>>| outcome.map_err(io::Error::from);
    let number = |name: &str| name.parse().ok().filter(|number| *number != u32::MAX);
    let digits = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    Ok(match subject {
        Subject::User(name) if digits(name) => number(name).map(Place::User),
        Subject::User(name) => {
            found(User::from_name(name).map(|user| user.map(|user| user.uid.as_raw())))?.map(Place::User)
        }
        Subject::Group(name) if digits(name) => number(name).map(Place::Group),
        Subject::Group(name) => {
            found(Group::from_name(name).map(|group| group.map(|group| group.gid.as_raw())))?
                .map(Place::Group)
        }
        Subject::Unit(_) | Subject::Cgroup(_) | Subject::Exe { .. } | Subject::Container(_) => None,
    })
}

/// Tells when the files that name users and groups may have changed.
#[derive(Debug)]
pub struct Files {
    inotify: OwnedFd,
}

impl Files {
    pub fn watch() -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let events = WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO | WatchFlags::DELETE;
        inotify::add_watch(&inotify, DIRECTORY, events | WatchFlags::ONLYDIR)?;
        Ok(Self { inotify })
    }

    /// Reads all events that are there, without waiting; true when one of them is about these files.
    pub fn changed(&mut self) -> bool {
        let mut buffer = vec![MaybeUninit::uninit(); BUFFER];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        let mut changed = false;
        loop {
            match reader.next() {
                Ok(event) => {
                    let lost = event.events().contains(ReadFlags::QUEUE_OVERFLOW);
                    let name = event.file_name().and_then(|name| name.to_str().ok());
                    changed |= lost || name.is_some_and(|name| FILES.contains(&name));
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return changed,
                // Better once too often.
                Err(_) => return true,
            }
        }
    }
}

impl AsFd for Files {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_found_and_others_are_not() {
        let user = |name| look_up(&Subject::user(name).unwrap()).unwrap();
        let group = |name| look_up(&Subject::group(name).unwrap()).unwrap();
        assert_eq!(user("root"), Some(Place::User(0)));
        assert_eq!(group("root"), Some(Place::Group(0)));
        assert_eq!(user("4711"), Some(Place::User(4711)));
        assert_eq!(group("4711"), Some(Place::Group(4711)));
        // Of no account: chown(2) means "leave as it is".
        assert_eq!(user("4294967295"), None);
        assert_eq!(user("99999999999"), None);
        assert_eq!(user("nobody-of-this-name"), None);
        assert_eq!(group("nobody-of-this-name"), None);
    }
}
