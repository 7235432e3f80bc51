//! Names of services.

use std::fmt;
use std::sync::Arc;

/// The name of a service: `[a-z0-9][a-z0-9-]{0,62}`, the stem of its schedule file. Cheap to
/// clone: every index of the daemon is keyed by it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName(Arc<str>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a service name: it takes 1 to 63 of a-z, 0-9 and -, and does not begin with -")]
pub struct NameError(String);

impl ServiceName {
    /// The longest name, in bytes.
    pub const MAX: usize = 63;

    pub fn new(text: &str) -> Result<Self, NameError> {
        let fits = !text.is_empty()
            && text.len() <= Self::MAX
            && !text.starts_with('-')
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        fits.then(|| Self(text.into())).ok_or_else(|| NameError(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_lower_case_digits_and_inner_dashes() {
        for good in ["a", "3scale", "stripe-eu", &"a".repeat(63)] {
            assert!(ServiceName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "Stripe", "a_b", "a.b", "ä", &"a".repeat(64)] {
            assert!(ServiceName::new(bad).is_err(), "{bad}");
        }
    }
}
