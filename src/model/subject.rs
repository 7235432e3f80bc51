//! The local side of a policy, as written.

use std::fmt;

/// Which local process a policy is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// A unit of the system manager: `x.service`, `x.slice`, or a template `x@.service`, which means all its instances;
    /// also `x.socket`, in whose cgroup systemd makes the listeners of that unit.
    Unit(String),
    /// A path below the cgroup2 root, normalised: begins with `/`, no empty, `.` or `..` part, none at the end.
    /// `/` is any process of this host.
    Cgroup(String),
    /// A program by its file, and what it starts: an absolute path, normalised.
    Exe { path: String, sha256: Option<Box<Digest>> },
    /// The owner of a socket, by name or number: egress only.
    User(String),
    /// The group of a socket's owner, by name or number: egress only.
    Group(String),
    /// A container of any engine, by name or id (12 hex digits or more).
    Container(String),
}

/// The SHA-256 digest of a file. Prints as 64 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads 64 hex digits.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        let plain = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)).filter(|_| plain) {
            *byte = u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
        }
        plain.then_some(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    #[error("{0:?} is not a unit: write its full name with its type, for example payments.service")]
    Unit(String),
    #[error("{0:?} is not a cgroup path: it begins with / and has no empty, `.` or `..` part")]
    Cgroup(String),
    #[error("{0:?} is not the path of a program: it is absolute and has no empty, `.` or `..` part")]
    Exe(String),
    #[error("{0:?} is not the name or number of a user or group")]
    Account(String),
    #[error("{0:?} is not the name or id of a container")]
    Container(String),
}

impl Subject {
    /// The unit types that own processes or sockets. A process of systemd enters the cgroup of a `.socket` only to make
    /// its internet sockets (systemd, `socket_address_listen_in_cgroup`); they keep it.
    const UNIT_TYPES: [&str; 4] = [".service", ".scope", ".slice", ".socket"];

    pub fn unit(name: &str) -> Result<Self, SubjectError> {
        let stem = Self::UNIT_TYPES.iter().find_map(|t| name.strip_suffix(t));
        let fits = name.len() <= 255
            && stem.is_some_and(|stem| !stem.is_empty() && !stem.starts_with('@'))
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b));
        fits.then(|| Self::Unit(name.to_owned())).ok_or_else(|| SubjectError::Unit(name.to_owned()))
    }

    pub fn cgroup(path: &str) -> Result<Self, SubjectError> {
        let parts = path.strip_prefix('/').map(|rest| rest.trim_end_matches('/'));
        match parts {
            Some(parts) if path.len() <= 4096 && (parts.is_empty() || is_plain_path(parts)) => {
                Ok(Self::Cgroup(format!("/{parts}")))
            }
            _ => Err(SubjectError::Cgroup(path.to_owned())),
        }
    }

    pub fn exe(path: &str, sha256: Option<Digest>) -> Result<Self, SubjectError> {
        let fits = path.len() <= 4096 && path.strip_prefix('/').is_some_and(is_plain_path);
        fits.then(|| Self::Exe { path: path.to_owned(), sha256: sha256.map(Box::new) })
            .ok_or_else(|| SubjectError::Exe(path.to_owned()))
    }

    pub fn user(name: &str) -> Result<Self, SubjectError> {
        account(name).map(Self::User)
    }

    pub fn group(name: &str) -> Result<Self, SubjectError> {
        account(name).map(Self::Group)
    }

    /// Names as Docker takes them: letters, digits, `_`, `.` and `-`, the first a letter or digit.
    pub fn container(name: &str) -> Result<Self, SubjectError> {
        let fits = name.len() <= 255
            && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
        fits.then(|| Self::Container(name.to_owned())).ok_or_else(|| SubjectError::Container(name.to_owned()))
    }

    /// True for `{ cgroup = "/" }`: any process of this host.
    pub fn is_any_process(&self) -> bool {
        matches!(self, Self::Cgroup(path) if path == "/")
    }

    /// The key in the schedule.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unit(_) => "unit",
            Self::Cgroup(_) => "cgroup",
            Self::Exe { .. } => "exe",
            Self::User(_) => "user",
            Self::Group(_) => "group",
            Self::Container(_) => "container",
        }
    }

    /// The value in the schedule.
    pub fn value(&self) -> &str {
        match self {
            Self::Unit(value)
            | Self::Cgroup(value)
            | Self::Exe { path: value, .. }
            | Self::User(value)
            | Self::Group(value)
            | Self::Container(value) => value,
        }
    }

    /// Reads `KIND:VALUE`, as [`Subject`] prints it.
    pub fn parse(text: &str) -> Option<Result<Self, SubjectError>> {
        let (kind, value) = text.split_once(':')?;
        Some(match kind {
            "unit" => Self::unit(value),
            "cgroup" => Self::cgroup(value),
            "exe" => Self::exe(value, None),
            "user" => Self::user(value),
            "group" => Self::group(value),
            "container" => Self::container(value),
            _ => return None,
        })
    }
}

/// True when every part between the slashes is a name that nothing else reads differently.
fn is_plain_path(parts: &str) -> bool {
    parts.split('/').all(|part| {
        !matches!(part, "" | "." | "..") && !part.bytes().any(|b| b.is_ascii_control() || b == b'"')
    })
}

/// A name as useradd(8) takes it, also with upper case, dots and a last `$`, or a number.
fn account(name: &str) -> Result<String, SubjectError> {
    let fits = (1..=256).contains(&name.len())
        && !name.starts_with('-')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-$@\\".contains(&b));
    fits.then(|| name.to_owned()).ok_or_else(|| SubjectError::Account(name.to_owned()))
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind(), self.value())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_have_a_type_that_owns_processes_or_sockets() {
        for good in ["payments.service", "a-b.slice", "getty@.service", "getty@tty1.service", "x.socket"] {
            assert!(Subject::unit(good).is_ok(), "{good}");
        }
        for bad in ["payments", ".service", "@.service", "x.timer", "a/b.service", "a b.service"] {
            assert!(Subject::unit(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn cgroup_paths_are_normalised() {
        assert_eq!(Subject::cgroup("/a/b/").unwrap().value(), "/a/b");
        assert!(Subject::cgroup("/").unwrap().is_any_process());
        for bad in ["", "a", "//a", "/a//b", "/a/../b", "/.", "/a\nb"] {
            assert!(Subject::cgroup(bad).is_err(), "{bad:?}");
        }
    }
}
