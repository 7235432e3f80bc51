//! The remote side of a policy.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::{Family, HostName};

/// An address prefix without host bits; a single address is a prefix of full length.
///
/// Ordered by family, then first address, then length: an enclosing prefix sorts before what it encloses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    family: Family,
    /// The first address as a number; bytes, since a table of services has several copies of each and a number would take a
    /// place of 32 bytes.
    first: [u8; 16],
    length: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    #[error("{0:?} is neither an address nor a prefix")]
    Syntax(String),
    #[error("{written} has host bits: the prefix is {prefix}")]
    HostBits { written: String, prefix: Prefix },
    #[error("{0} is wider than /8 (IPv4) or /16 (IPv6)")]
    TooWide(Prefix),
}

impl Prefix {
    /// The shortest prefix that may be governed: /8 for IPv4, /16 for IPv6.
    pub fn shortest(family: Family) -> u8 {
        match family {
            Family::V4 => 8,
            Family::V6 => 16,
        }
    }

    /// The prefix of one address.
    pub fn single(address: IpAddr) -> Self {
        let (family, first) = number(address);
        Self { family, first: first.to_be_bytes(), length: bits(family) }
    }

    /// Reads an address or `address/length`. A prefix wider than [`Prefix::shortest`] is [`PrefixError::TooWide`];
    /// use [`Prefix::parse_any_width`] where every width is meant.
    pub fn parse(text: &str) -> Result<Self, PrefixError> {
        let prefix = Self::parse_any_width(text)?;
        if prefix.length < Self::shortest(prefix.family) {
            return Err(PrefixError::TooWide(prefix));
        }
        Ok(prefix)
    }

    /// Reads an address or `address/length` of any length, `0.0.0.0/0` included.
    pub fn parse_any_width(text: &str) -> Result<Self, PrefixError> {
        let syntax = || PrefixError::Syntax(text.to_owned());
        let Some((address, length)) = text.split_once('/') else {
            return IpAddr::from_str(text).map(Self::single).map_err(|_| syntax());
        };
        let (family, number) = number(IpAddr::from_str(address).map_err(|_| syntax())?);
        let plain = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
        let length: u8 = plain
            .then(|| length.parse().ok())
            .flatten()
            .filter(|length| *length <= bits(family))
            .ok_or_else(syntax)?;
        let first = number & !host_mask(family, length);
        let prefix = Self { family, first: first.to_be_bytes(), length };
        if first != number {
            return Err(PrefixError::HostBits { written: text.to_owned(), prefix });
        }
        Ok(prefix)
    }

    pub fn family(self) -> Family {
        self.family
    }

    pub fn length(self) -> u8 {
        self.length
    }

    /// The prefix of this length that encloses it; itself where that would be longer.
    pub fn shortened(self, length: u8) -> Self {
        let length = length.min(self.length);
        let first = self.first() & !host_mask(self.family, length);
        Self { first: first.to_be_bytes(), length, ..self }
    }

    /// The first address as a number; IPv4 in the low 32 bits.
    pub fn first(self) -> u128 {
        u128::from_be_bytes(self.first)
    }

    /// The last address as a number.
    pub fn last(self) -> u128 {
        self.first() | host_mask(self.family, self.length)
    }

    pub fn contains(self, address: IpAddr) -> bool {
        let (family, number) = number(address);
        family == self.family && (self.first()..=self.last()).contains(&number)
    }

    /// The address, when the prefix is a single one.
    pub fn address(self) -> Option<IpAddr> {
        (self.length == bits(self.family)).then(|| address(self.family, self.first()))
    }
}

/// The width of an address, in bits.
fn bits(family: Family) -> u8 {
    match family {
        Family::V4 => 32,
        Family::V6 => 128,
    }
}

fn host_mask(family: Family, length: u8) -> u128 {
    let host = u32::from(bits(family) - length);
    1u128.checked_shl(host).map_or(u128::MAX, |one| one - 1)
}

fn number(address: IpAddr) -> (Family, u128) {
    match address {
        IpAddr::V4(v4) => (Family::V4, u128::from(v4.to_bits())),
        IpAddr::V6(v6) => (Family::V6, v6.to_bits()),
    }
}

fn address(family: Family, number: u128) -> IpAddr {
    match family {
        // The constructor keeps IPv4 in the low 32 bits.
        Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(number as u32)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(number)),
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = address(self.family, self.first());
        if self.length == bits(self.family) {
            write!(f, "{first}")
        } else {
            write!(f, "{first}/{}", self.length)
        }
    }
}

/// The name of an endpoint list, as in `"@NAME"`: the rules of a service name plus `_` and `.` inside.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListName(String);

impl ListName {
    /// `None` when the text could leave the lists' directory or is longer than 63 bytes.
    pub fn new(text: &str) -> Option<Self> {
        let first = text.bytes().next()?;
        let fits = text.len() <= 63
            && first.is_ascii_alphanumeric()
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        fits.then(|| Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One entry of `to` or `from`, as written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint {
    Prefix(Prefix),
    List(ListName),
    Name(HostName),
    /// Every address: the policy governs its subject and ports instead.
    Any,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix(prefix) => write!(f, "{prefix}"),
            Self::List(name) => write!(f, "@{}", name.as_str()),
            Self::Name(name) => write!(f, "{name}"),
            Self::Any => f.write_str("any"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_read_back_as_written() {
        for text in ["10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "2001:db8::10"] {
            assert_eq!(Prefix::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn host_bits_and_wide_prefixes_are_errors_that_name_the_prefix() {
        assert_eq!(
            Prefix::parse("10.0.0.1/8").unwrap_err().to_string(),
            "10.0.0.1/8 has host bits: the prefix is 10.0.0.0/8"
        );
        assert!(matches!(Prefix::parse("10.0.0.0/7"), Err(PrefixError::TooWide(_))));
        assert!(matches!(Prefix::parse("0.0.0.0/0"), Err(PrefixError::TooWide(_))));
        assert!(matches!(Prefix::parse("2000::/15"), Err(PrefixError::TooWide(_))));
        for bad in ["", "a", "1.2.3.4/33", "1.2.3.4/+8", "1.2.3.4/", "::/129", "1.2.3"] {
            assert!(matches!(Prefix::parse(bad), Err(PrefixError::Syntax(_))), "{bad}");
        }
    }

    #[test]
    fn a_prefix_takes_no_more_than_its_bytes_and_sorts_by_them() {
        assert_eq!(size_of::<Prefix>(), 18);
        let sorted = ["10.0.0.0/8", "10.0.0.0/9", "10.0.0.1", "9.0.0.0/8", "2001:db8::/32"]
            .map(|t| Prefix::parse(t).unwrap());
        let numbers: Vec<_> =
            sorted.iter().map(|prefix| (prefix.family(), prefix.first(), prefix.length())).collect();
        for (one, number) in sorted.iter().zip(&numbers) {
            let order = |other: &(_, _, _)| number.cmp(other);
            assert!(sorted.iter().zip(&numbers).all(|(other, number)| one.cmp(other) == order(number)));
        }
    }

    #[test]
    fn a_prefix_spans_first_to_last() {
        let prefix = Prefix::parse("10.1.0.0/16").unwrap();
        assert!(prefix.contains("10.1.255.255".parse().unwrap()));
        assert!(!prefix.contains("10.2.0.0".parse().unwrap()));
        assert!(!prefix.contains("::10.1.0.0".parse().unwrap()));
        assert_eq!(Prefix::parse_any_width("::/0").unwrap().last(), u128::MAX);
    }
}
