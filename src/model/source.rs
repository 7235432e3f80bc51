//! The remote side of attempts.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Where an attempt came from, or went to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    Address(IpAddr),
    /// Addresses beyond the number that is told apart; their packets are counted together.
    Other,
}

impl Source {
    /// The address; `None` for [`Source::Other`].
    pub fn address(self) -> Option<IpAddr> {
        match self {
            Self::Address(address) => Some(address),
            Self::Other => None,
        }
    }
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        Self::Address(address)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Other => f.write_str("other"),
        }
    }
}

impl FromStr for Source {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "other" => Ok(Self::Other),
            _ => text.parse().map(Self::Address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_read_back_as_printed() {
        for text in ["192.0.2.1", "2001:db8::1", "other"] {
            assert_eq!(text.parse::<Source>().unwrap().to_string(), text);
        }
        assert!("elsewhere".parse::<Source>().is_err());
    }
}
