//! The numbers of users and groups, and the files that name them.
//!
//! Deliberately absent: when to ask, and what to do while nobody answers. The name services of the host (nsswitch.conf)
//! may ask a network.

use std::io;

use nix::unistd::{Group, User};

use crate::compile::Place;
use crate::model::Subject;

/// What is replaced by renaming or written in place when accounts change.
pub const FILES: [&str; 3] = ["/etc/passwd", "/etc/group", "/etc/nsswitch.conf"];

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
