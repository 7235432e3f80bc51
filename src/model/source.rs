//! The remote side of attempts.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

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

/// Sources that somebody asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sources {
    /// An address is the prefix of its full length.
    Within(IpNet),
    /// Those that are not told apart.
    Other,
}

/// A text that names no sources.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither an address nor a prefix nor `other`")]
pub struct SourcesError(String);

impl Sources {
    /// The only address that is asked for.
    pub fn single(self) -> Option<IpAddr> {
        match self {
            Self::Within(net) if net.prefix_len() == net.max_prefix_len() => Some(net.addr()),
            Self::Within(_) | Self::Other => None,
        }
    }

    pub fn contains(self, source: Source) -> bool {
        match (self, source) {
            (Self::Within(net), Source::Address(address)) => net.contains(&address),
            (Self::Other, Source::Other) => true,
            (Self::Within(_), Source::Other) | (Self::Other, Source::Address(_)) => false,
        }
    }
}

impl fmt::Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, self.single()) {
            (_, Some(address)) => address.fmt(f),
            (Self::Within(net), None) => net.fmt(f),
            (Self::Other, None) => Source::Other.fmt(f),
        }
    }
}

/// Bits behind the prefix are ignored: who looks for an address's neighbours writes it as it stands.
impl FromStr for Sources {
    type Err = SourcesError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse::<Source>() {
            Ok(Source::Other) => return Ok(Self::Other),
            Ok(Source::Address(address)) => return Ok(Self::Within(address.into())),
            Err(_) => {}
        }
        let net: IpNet = text.parse().map_err(|_| SourcesError(text.to_owned()))?;
        Ok(Self::Within(net.trunc()))
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

    #[test]
    fn sources_are_an_address_a_prefix_or_the_others() {
        for (text, printed) in [
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1/32", "192.0.2.1"),
            ("192.0.2.77/24", "192.0.2.0/24"),
            ("2001:db8::1/32", "2001:db8::/32"),
            ("other", "other"),
        ] {
            assert_eq!(text.parse::<Sources>().unwrap().to_string(), printed);
        }
        for text in ["", "others", "192.0.2.1/33", "192.0.2", "::1%eth0"] {
            assert!(text.parse::<Sources>().is_err(), "{text}");
        }
        let net: Sources = "192.0.2.0/24".parse().unwrap();
        assert!(net.contains("192.0.2.9".parse().unwrap()) && !net.contains(Source::Other));
        assert!(!net.contains("2001:db8::1".parse().unwrap()) && Sources::Other.contains(Source::Other));
    }
}
