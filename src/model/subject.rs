//! The local side of a policy, as written.

use std::fmt;

/// Which local process a policy is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// A unit of the system manager: `x.service`, `x.slice`, or a template `x@.service`, which means all its instances.
    Unit(String),
    /// A path below the cgroup2 root, normalised: begins with `/`, no empty, `.` or `..` part, none at the end.
    /// `/` is any process of this host.
    Cgroup(String),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    #[error("{0:?} is not a unit: write its full name with its type, for example payments.service")]
    Unit(String),
    #[error("{0:?} is not a cgroup path: it begins with / and has no empty, `.` or `..` part")]
    Cgroup(String),
}

impl Subject {
    /// The unit types that own processes.
    const UNIT_TYPES: [&str; 3] = [".service", ".scope", ".slice"];

    pub fn unit(name: &str) -> Result<Self, SubjectError> {
        let stem = Self::UNIT_TYPES.iter().find_map(|t| name.strip_suffix(t));
        let fits = name.len() <= 255
            && stem.is_some_and(|stem| !stem.is_empty() && !stem.starts_with('@'))
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b));
        fits.then(|| Self::Unit(name.to_owned())).ok_or_else(|| SubjectError::Unit(name.to_owned()))
    }

    pub fn cgroup(path: &str) -> Result<Self, SubjectError> {
        let parts = path.strip_prefix('/').map(|rest| rest.trim_end_matches('/'));
        let fits = path.len() <= 4096
            && parts.is_some_and(|parts| {
                parts.is_empty()
                    || parts.split('/').all(|part| {
                        !matches!(part, "" | "." | "..")
                            && !part.bytes().any(|b| b.is_ascii_control() || b == b'"')
                    })
            });
        match parts {
            Some(parts) if fits => Ok(Self::Cgroup(format!("/{parts}"))),
            _ => Err(SubjectError::Cgroup(path.to_owned())),
        }
    }

    /// True for `{ cgroup = "/" }`: any process of this host.
    pub fn is_any_process(&self) -> bool {
        matches!(self, Self::Cgroup(path) if path == "/")
    }

    /// `unit` or `cgroup`: the key in the schedule.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unit(_) => "unit",
            Self::Cgroup(_) => "cgroup",
        }
    }

    /// The value in the schedule.
    pub fn value(&self) -> &str {
        match self {
            Self::Unit(value) | Self::Cgroup(value) => value,
        }
    }
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
    fn units_have_a_type_that_owns_processes() {
        for good in ["payments.service", "a-b.slice", "getty@.service", "getty@tty1.service"] {
            assert!(Subject::unit(good).is_ok(), "{good}");
        }
        for bad in ["payments", ".service", "@.service", "x.socket", "a/b.service", "a b.service"] {
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
