//! Host names as endpoints.

use std::fmt;
use std::sync::Arc;

/// A host name in lower case without a last dot, or with `*.` in front: every name below it, at any depth, but not
/// the name itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(Arc<str>);

impl HostName {
    /// The longest name, in bytes (RFC 1035, section 2.3.4).
    pub const MAX: usize = 253;

    /// `None` for what is no name: labels are 1 to 63 letters, digits, `-` and `_` without a dash at their ends; the last
    /// one is no number, else it is a botched address; there are at least two, and at least two behind a star.
    pub fn new(text: &str) -> Option<Self> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let plain = name.strip_prefix("*.").unwrap_or(&name);
        let is_label = |label: &str| {
            let plain = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
            plain && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
        };
        let last = plain.rsplit('.').next().unwrap_or_default();
        let is_number = last.bytes().all(|b| b.is_ascii_digit());
        let fits =
            name.len() <= Self::MAX && plain.contains('.') && plain.split('.').all(is_label) && !is_number;
        fits.then(|| Self(name.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True for `*.example.com`: it cannot be resolved, only recognised in answers.
    pub fn is_pattern(&self) -> bool {
        self.0.starts_with("*.")
    }

    /// True when a name of an answer is this one, or lies below a pattern. Case and a last dot do not count.
    pub fn covers(&self, asked: &str) -> bool {
        let asked = asked.strip_suffix('.').unwrap_or(asked);
        match self.0.strip_prefix('*') {
            Some(below) => asked.len().checked_sub(below.len()).is_some_and(|at| {
                at > 0 && asked.is_char_boundary(at) && asked[at..].eq_ignore_ascii_case(below)
            }),
            None => asked.eq_ignore_ascii_case(&self.0),
        }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalised_and_addresses_are_none() {
        assert_eq!(HostName::new("API.Stripe.com.").unwrap().as_str(), "api.stripe.com");
        assert!(HostName::new("*.example.com").unwrap().is_pattern());
        for bad in ["", "localhost", "*.com", "*", "a.*.com", "10.0.0.1", "a..b", "-a.de", "a b.de", "x.1"] {
            assert!(HostName::new(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_pattern_covers_what_lies_below_it() {
        let pattern = HostName::new("*.example.com").unwrap();
        assert!(pattern.covers("a.example.com") && pattern.covers("b.A.EXAMPLE.com."));
        for other in ["example.com", ".example.com", "badexample.com", "a.example.org", ""] {
            assert!(!pattern.covers(other), "{other}");
        }
        assert!(HostName::new("api.stripe.com").unwrap().covers("API.stripe.com."));
    }
}
