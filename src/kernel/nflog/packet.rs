//! What can be read from the first bytes of an IP packet.
//!
//! Own code rather than a packet library, because the copy is cut: ports stand in the first four bytes of TCP and
//! UDP and are read there even when the header's rest is missing. Every access is bounded by what was copied.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::kernel::netlink::fixed;

/// Protocol numbers (IANA); from `HOP_BY_HOP` on, extension headers of IPv6.
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const DCCP: u8 = 33;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;
const UDPLITE: u8 = 136;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;

/// Extension headers that are followed; longer chains have no honest use.
const EXTENSIONS: usize = 8;

/// A packet as far as its copy goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Packet {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// The transport protocol; the extension header at which the copy ends when it ends before that.
    pub protocol: u8,
    /// Source and destination; none in fragments but the first, and in protocols without ports.
    pub ports: Option<(u16, u16)>,
    /// Type and code, of ICMP in IPv4 and in IPv6.
    pub icmp: Option<(u8, u8)>,
    /// The byte with FIN, SYN, RST, PSH, ACK, URG, from the lowest bit on.
    pub tcp_flags: Option<u8>,
}

impl Packet {
    /// Reads a packet from its IP header on; `None` when it is not IP or ends before its addresses do.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => Self::parse_v4(bytes),
            6 => Self::parse_v6(bytes),
            _ => None,
        }
    }

    /// RFC 791, 3.1
    fn parse_v4(bytes: &[u8]) -> Option<Self> {
        let length = usize::from(bytes.first()? & 0x0f) * 4;
        let fragment_offset = u16::from_be_bytes(fixed(bytes.get(6..)?)?) & 0x1fff;
        let source: [u8; 4] = fixed(bytes.get(12..)?)?;
        let destination: [u8; 4] = fixed(bytes.get(16..)?)?;
        let whole = length >= 20 && fragment_offset == 0;
        let transport = bytes.get(length..).filter(|_| whole).unwrap_or_default();
        Some(Self::new(
            Ipv4Addr::from(source).into(),
            Ipv4Addr::from(destination).into(),
            *bytes.get(9)?,
            transport,
        ))
    }

    /// RFC 8200, 3
    fn parse_v6(bytes: &[u8]) -> Option<Self> {
        let source: [u8; 16] = fixed(bytes.get(8..)?)?;
        let destination: [u8; 16] = fixed(bytes.get(24..)?)?;
        let (protocol, transport) = behind_extensions(*bytes.get(6)?, bytes.get(40..)?);
        Some(Self::new(
            Ipv6Addr::from(source).into(),
            Ipv6Addr::from(destination).into(),
            protocol,
            transport,
        ))
    }

    fn new(source: IpAddr, destination: IpAddr, protocol: u8, transport: &[u8]) -> Self {
        let has_ports = matches!(protocol, TCP | UDP | DCCP | SCTP | UDPLITE);
        let is_icmp = matches!((source, protocol), (IpAddr::V4(_), ICMP) | (IpAddr::V6(_), ICMPV6));
        Self {
            source,
            destination,
            protocol,
            ports: fixed(transport).filter(|_| has_ports).map(ports),
            icmp: fixed(transport).filter(|_| is_icmp).map(|[kind, code]| (kind, code)),
            tcp_flags: transport.get(13).filter(|_| protocol == TCP).copied(),
        }
    }
}

/// What a UDP datagram carries, from the packet's IP header on; `None` for anything else, and in later fragments.
pub fn datagram(bytes: &[u8]) -> Option<&[u8]> {
    let packet = Packet::parse(bytes).filter(|packet| packet.protocol == UDP && packet.ports.is_some())?;
    let transport = match packet.source {
        IpAddr::V4(_) => bytes.get(usize::from(bytes.first()? & 0x0f) * 4..)?,
        IpAddr::V6(_) => behind_extensions(*bytes.get(6)?, bytes.get(40..)?).1,
    };
    transport.get(8..)
}

fn ports([a, b, c, d]: [u8; 4]) -> (u16, u16) {
    (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
}

/// The protocol behind the extension headers (RFC 8200, 4), and its bytes; none in later fragments.
fn behind_extensions(mut next: u8, mut rest: &[u8]) -> (u8, &[u8]) {
    for _ in 0..EXTENSIONS {
        let Some(&[after, length]) = rest.first_chunk() else {
            return (next, rest);
        };
        let length = match next {
            HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY => (usize::from(length) + 1) * 8,
            // RFC 4302, 2.2
            AUTHENTICATION => (usize::from(length) + 2) * 4,
            FRAGMENT if is_later_fragment(rest) => return (after, &[]),
            FRAGMENT => 8,
            _ => return (next, rest),
        };
        let Some(behind) = rest.get(length..) else {
            return (next, &[]);
        };
        (next, rest) = (after, behind);
    }
    (next, rest)
}

/// An offset that was not copied counts as later: without it the bytes behind could be anything.
fn is_later_fragment(header: &[u8]) -> bool {
    header.get(2..).and_then(fixed).is_none_or(|offset| u16::from_be_bytes(offset) >> 3 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    const V4: ([u8; 4], [u8; 4]) = ([192, 0, 2, 1], [198, 51, 100, 7]);
    const V6: ([u8; 16], [u8; 16]) = ([0x20; 16], [0xfd; 16]);

    fn tcp_v4() -> Vec<u8> {
        let mut bytes = Vec::new();
        let builder = PacketBuilder::ipv4(V4.0, V4.1, 64).tcp(40000, 443, 1, 1024).syn();
        builder.write(&mut bytes, b"payload").unwrap();
        bytes
    }

    fn udp_v6() -> Vec<u8> {
        let mut bytes = Vec::new();
        let builder = PacketBuilder::ipv6(V6.0, V6.1, 64).udp(40000, 53);
        builder.write(&mut bytes, b"payload").unwrap();
        bytes
    }

    /// The UDP packet with these extension headers between IP and UDP; `first` is the kind of the first.
    fn with_extensions(first: u8, extensions: &[u8]) -> Packet {
        let mut bytes = udp_v6();
        bytes[6] = first;
        bytes.splice(40..40, extensions.iter().copied());
        Packet::parse(&bytes).unwrap()
    }

    #[test]
    fn tcp_over_ipv4() {
        let packet = Packet::parse(&tcp_v4()).unwrap();
        assert_eq!(packet.source, IpAddr::from(V4.0));
        assert_eq!(packet.destination, IpAddr::from(V4.1));
        assert_eq!((packet.protocol, packet.ports), (TCP, Some((40000, 443))));
        assert_eq!((packet.tcp_flags, packet.icmp), (Some(0x02), None));
    }

    #[test]
    fn options_of_ipv4_are_skipped() {
        let mut bytes = tcp_v4();
        bytes[0] = 0x47;
        bytes.splice(20..20, [1; 8]);
        assert_eq!(Packet::parse(&bytes).unwrap().ports, Some((40000, 443)));
        bytes[0] = 0x44;
        assert_eq!(Packet::parse(&bytes).unwrap().ports, None);
    }

    #[test]
    fn only_the_first_fragment_has_ports() {
        let mut bytes = tcp_v4();
        bytes[6] = 0x20;
        assert_eq!(Packet::parse(&bytes).unwrap().ports, Some((40000, 443)));
        bytes[7] = 1;
        let later = Packet::parse(&bytes).unwrap();
        assert_eq!((later.protocol, later.ports, later.tcp_flags), (TCP, None, None));
        let first = with_extensions(FRAGMENT, &[UDP, 0, 0, 1, 0, 0, 0, 9]);
        assert_eq!(first.ports, Some((40000, 53)));
        let later = with_extensions(FRAGMENT, &[UDP, 0, 0, 8, 0, 0, 0, 9]);
        assert_eq!((later.protocol, later.ports), (UDP, None));
    }

    #[test]
    fn extension_headers_are_followed_and_bounded() {
        let chain = [[DESTINATION, 0, 1, 4, 0, 0, 0, 0], [UDP, 0, 1, 4, 0, 0, 0, 0]].concat();
        assert_eq!(with_extensions(HOP_BY_HOP, &chain).ports, Some((40000, 53)));
        let authentication = [UDP, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2];
        let packet = with_extensions(AUTHENTICATION, &authentication);
        assert_eq!((packet.protocol, packet.ports), (UDP, Some((40000, 53))));
        let endless = [DESTINATION, 0, 1, 4, 0, 0, 0, 0].repeat(40);
        assert_eq!(with_extensions(DESTINATION, &endless).ports, None);
        let beyond_the_copy = with_extensions(ROUTING, &[UDP, 255, 0, 0, 0, 0, 0, 0]);
        assert_eq!((beyond_the_copy.protocol, beyond_the_copy.ports), (ROUTING, None));
    }

    #[test]
    fn icmp_has_type_and_code_in_both_families() {
        let mut bytes = Vec::new();
        let echo = PacketBuilder::ipv4(V4.0, V4.1, 64).icmpv4_echo_request(1, 2);
        echo.write(&mut bytes, &[]).unwrap();
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!((packet.icmp, packet.ports), (Some((8, 0)), None));
        let mut bytes = Vec::new();
        let echo = PacketBuilder::ipv6(V6.0, V6.1, 64).icmpv6_echo_reply(1, 2);
        echo.write(&mut bytes, &[]).unwrap();
        assert_eq!(Packet::parse(&bytes).unwrap().icmp, Some((129, 0)));
    }

    #[test]
    fn a_cut_packet_keeps_what_was_copied() {
        let bytes = tcp_v4();
        assert_eq!(Packet::parse(&bytes[..19]), None);
        assert_eq!(Packet::parse(&bytes[..20]).unwrap().ports, None);
        let four = Packet::parse(&bytes[..24]).unwrap();
        assert_eq!((four.ports, four.tcp_flags), (Some((40000, 443)), None));
        assert_eq!(Packet::parse(&udp_v6()[..39]), None);
        assert_eq!(Packet::parse(&[]), None);
        assert_eq!(Packet::parse(&[0x50; 64]), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            first in prop_oneof![Just(0x45u8), Just(0x60u8), any::<u8>()],
            rest in proptest::collection::vec(any::<u8>(), 0..160),
        ) {
            let bytes: Vec<u8> = std::iter::once(first).chain(rest).collect();
            let _ = Packet::parse(&bytes);
        }

        /// Agrees with etherparse on packets that are whole.
        #[test]
        fn ports_are_those_of_the_builder(source: u16, destination: u16, v6: bool, payload: Vec<u8>) {
            let mut bytes = Vec::new();
            let written = match v6 {
                true => PacketBuilder::ipv6(V6.0, V6.1, 9).udp(source, destination).write(&mut bytes, &payload),
                false => PacketBuilder::ipv4(V4.0, V4.1, 9).udp(source, destination).write(&mut bytes, &payload),
            };
            prop_assert!(written.is_ok());
            prop_assert_eq!(Packet::parse(&bytes).unwrap().ports, Some((source, destination)));
        }
    }
}
