//! Protocols and ports of a policy.

use std::fmt;

/// A transport protocol that a policy can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    /// Echo and its reply, in both families.
    Icmp,
}

impl Protocol {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        }
    }
}

/// Ports from `low` to `high`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    low: u16,
    high: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    #[error("port 0 cannot be used")]
    Zero,
    #[error("the range {low}-{high} is reversed")]
    Reversed { low: u16, high: u16 },
    #[error("{0:?} is not a port: write 443/tcp, 8000-8100/udp, */tcp or icmp")]
    Syntax(String),
}

impl PortRange {
    /// Every port, also port 0, which no schedule can name alone.
    pub const ALL: Self = Self { low: 0, high: u16::MAX };

    pub fn new(low: u16, high: u16) -> Result<Self, PortError> {
        match (low, high) {
            (0, _) | (_, 0) => Err(PortError::Zero),
            (low, high) if low > high => Err(PortError::Reversed { low, high }),
            (low, high) => Ok(Self { low, high }),
        }
    }

    /// A range that may begin with port 0: a part of [`PortRange::ALL`]. Ends that come reversed are put in order.
    pub fn from_zero(one: u16, other: u16) -> Self {
        Self { low: one.min(other), high: one.max(other) }
    }

    pub fn low(self) -> u16 {
        self.low
    }

    pub fn high(self) -> u16 {
        self.high
    }

    pub fn contains(self, port: u16) -> bool {
        (self.low..=self.high).contains(&port)
    }

    /// The port, when the range is a single one.
    pub fn single(self) -> Option<u16> {
        (self.low == self.high).then_some(self.low)
    }
}

/// One entry of `ports`: a protocol and its ports. For icmp the range is [`PortRange::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    pub protocol: Protocol,
    pub range: PortRange,
}

impl Port {
    /// Reads `443/tcp`, `8000-8100/udp`, `*/tcp` or `icmp`.
    pub fn parse(text: &str) -> Result<Self, PortError> {
        let syntax = || PortError::Syntax(text.to_owned());
        if text == "icmp" {
            return Ok(Self { protocol: Protocol::Icmp, range: PortRange::ALL });
        }
        let (ports, protocol) = text.split_once('/').ok_or_else(syntax)?;
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return Err(syntax()),
        };
        let number = |digits: &str| -> Result<u16, PortError> {
            let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            plain.then(|| digits.parse().ok()).flatten().ok_or_else(syntax)
        };
        let range = match ports.split_once('-') {
            _ if ports == "*" => PortRange::ALL,
            Some((low, high)) => PortRange::new(number(low)?, number(high)?)?,
            None => PortRange::new(number(ports)?, number(ports)?)?,
        };
        Ok(Self { protocol, range })
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = self.protocol.as_str();
        match (self.protocol, self.range) {
            (Protocol::Icmp, _) => f.write_str("icmp"),
            (_, PortRange::ALL) => write!(f, "*/{protocol}"),
            (_, PortRange { low, high }) if low == high => write!(f, "{low}/{protocol}"),
            (_, PortRange { low, high }) => write!(f, "{low}-{high}/{protocol}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_reads_back_as_it_was_written() {
        for text in ["443/tcp", "8000-8100/udp", "*/tcp", "icmp", "65535/udp"] {
            assert_eq!(Port::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "0/tcp",
            "0-5/tcp",
            "9-1/tcp",
            "65536/tcp",
            "443",
            "443/sctp",
            "/tcp",
            "+1/tcp",
            "1-/tcp",
            "icmp/4",
            "",
        ] {
            assert!(Port::parse(text).is_err(), "{text}");
        }
    }
}
