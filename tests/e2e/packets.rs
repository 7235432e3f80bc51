//! Packets byte by byte, each with a name in its payload, so that whoever gets hold of it can say which one it was.

use std::net::IpAddr;

/// Every payload begins with it; the name of the packet and a semicolon follow.
pub const MARK: &str = "smuggled:";

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
const FRAGMENT: u8 = 44;
const ICMPV6: u8 = 58;

/// TCP flags (RFC 9293, section 3.1).
pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;
pub const URG: u8 = 0x20;

/// Where packets come from and go to.
#[derive(Clone, Copy)]
pub struct Way {
    pub from: IpAddr,
    pub to: IpAddr,
    pub from_port: u16,
    pub to_port: u16,
}

/// Something to send, in one packet or in several.
pub struct Attempt {
    pub name: String,
    pub packets: Vec<Vec<u8>>,
    /// How many refused packets it is to the receiver.
    pub counts: u64,
}

pub fn payload(name: &str) -> Vec<u8> {
    format!("{MARK}{name};").into_bytes()
}

/// The names of the packets whose payload is in `bytes`.
pub fn marks(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    text.split(MARK).skip(1).filter_map(|rest| Some(rest.split_once(';')?.0.to_owned())).collect()
}

impl Way {
    pub fn is_ipv4(&self) -> bool {
        self.from.is_ipv4()
    }

    fn ports(&self) -> [u8; 4] {
        let ([a, b], [c, d]) = (self.from_port.to_be_bytes(), self.to_port.to_be_bytes());
        [a, b, c, d]
    }

    /// A TCP segment with as much header as `offset` (in words of four bytes) claims.
    pub fn segment_with(&self, flags: u8, offset: u8, options: &[u8], data: &[u8]) -> Vec<u8> {
        let mut bytes = self.ports().to_vec();
        bytes.extend([0, 0, 0x12, 0x67, 0, 0, 0x12, 0x67, offset << 4, flags, 0xfa, 0xf0, 0, 0, 0, 0]);
        bytes.extend(options);
        bytes.extend(data);
        self.sign(TCP, &mut bytes, 16);
        bytes
    }

    pub fn segment(&self, flags: u8, data: &[u8]) -> Vec<u8> {
        self.segment_with(flags, 5, &[], data)
    }

    pub fn datagram(&self, data: &[u8]) -> Vec<u8> {
        let mut bytes = self.ports().to_vec();
        bytes.extend(((8 + data.len()) as u16).to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(data);
        self.sign(UDP, &mut bytes, 6);
        bytes
    }

    /// An ICMP message of the family: four bytes after the checksum, then the data.
    pub fn message(&self, kind: u8, code: u8, word: [u8; 4], data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind, code, 0, 0];
        bytes.extend(word);
        bytes.extend(data);
        if self.is_ipv4() {
            let sum = checksum(&bytes);
            bytes[2..4].copy_from_slice(&sum);
        } else {
            self.sign(ICMPV6, &mut bytes, 2);
        }
        bytes
    }

    /// An echo message or whatever else ICMP of this family has under the number of either.
    pub fn icmp(&self, kinds: (u8, u8), code: u8, word: [u8; 4], data: &[u8]) -> Vec<u8> {
        let (number, kind) = if self.is_ipv4() { (1, kinds.0) } else { (ICMPV6, kinds.1) };
        self.packet(number, &self.message(kind, code, word, data))
    }

    pub fn packet(&self, protocol: u8, body: &[u8]) -> Vec<u8> {
        self.packet_with(protocol, body, 64)
    }

    pub fn packet_with(&self, protocol: u8, body: &[u8], hops: u8) -> Vec<u8> {
        match (self.from, self.to) {
            (IpAddr::V4(_), IpAddr::V4(_)) => self.ipv4(protocol, body, 0, &[]),
            _ => self.ipv6(protocol, body, hops),
        }
    }

    /// The kernel that sends it fills in the length, the checksum and, where it is zero, the id.
    fn ipv4(&self, protocol: u8, body: &[u8], fragment: u16, options: &[u8]) -> Vec<u8> {
        let words = (5 + options.len() / 4) as u8;
        let length = (usize::from(words) * 4 + body.len()) as u16;
        let mut bytes = vec![0x40 | words, 0];
        bytes.extend(length.to_be_bytes());
        // One id for all the fragments between two hosts: they follow one another.
        bytes.extend(if fragment == 0 { [0, 0] } else { self.to_port.to_be_bytes() });
        bytes.extend(fragment.to_be_bytes());
        bytes.extend([64, protocol, 0, 0]);
        bytes.extend(octets(self.from));
        bytes.extend(octets(self.to));
        bytes.extend(options);
        bytes.extend(body);
        bytes
    }

    fn ipv6(&self, next: u8, body: &[u8], hops: u8) -> Vec<u8> {
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend((body.len() as u16).to_be_bytes());
        bytes.extend([next, hops]);
        bytes.extend(octets(self.from));
        bytes.extend(octets(self.to));
        bytes.extend(body);
        bytes
    }

    /// The same behind IP options: a record route and fill bytes, or an IPv6 extension header by its number.
    pub fn behind(&self, header: u8, protocol: u8, body: &[u8]) -> Vec<u8> {
        if self.is_ipv4() {
            return self.ipv4(protocol, body, 0, &[7, 7, 4, 0, 0, 0, 0, 1]);
        }
        // Options: padding. A routing header of type 0 with no segments left is only skipped.
        let mut bytes = match header {
            43 => vec![protocol, 0, 0, 0, 0, 0, 0, 0],
            _ => vec![protocol, 0, 1, 4, 0, 0, 0, 0],
        };
        bytes.extend(body);
        self.ipv6(header, &bytes, 64)
    }

    /// A destination options header that holds data of its own in an option that is to be skipped.
    pub fn behind_data(&self, data: &[u8], protocol: u8, body: &[u8]) -> Vec<u8> {
        let words = (4 + data.len()).div_ceil(8);
        let mut bytes = vec![protocol, (words - 1) as u8, 0x1e, (words * 8 - 4) as u8];
        bytes.extend(data);
        bytes.resize(words * 8, 0);
        bytes.extend(body);
        self.ipv6(60, &bytes, 64)
    }

    /// In two fragments, or for IPv6 in one that says it is one.
    pub fn fragments(&self, protocol: u8, body: &[u8], cut: Option<usize>) -> Vec<Vec<u8>> {
        let (first, rest) = body.split_at(cut.unwrap_or(body.len()));
        let more = !rest.is_empty();
        let one = |offset: usize, more: bool, body: &[u8]| {
            let (units, more) = ((offset / 8) as u16, u16::from(more));
            if self.is_ipv4() {
                return self.ipv4(protocol, body, more << 13 | units, &[]);
            }
            let mut bytes = vec![protocol, 0];
            bytes.extend((units << 3 | more).to_be_bytes());
            bytes.extend([0, 0]);
            bytes.extend(self.to_port.to_be_bytes());
            bytes.extend(body);
            self.ipv6(FRAGMENT, &bytes, 64)
        };
        let mut packets = vec![one(0, more, first)];
        packets.extend(more.then(|| one(first.len(), false, rest)));
        packets
    }

    /// Fills in the checksum over the pseudo header (RFC 793, RFC 8200).
    fn sign(&self, protocol: u8, bytes: &mut [u8], place: usize) {
        let mut all = octets(self.from);
        all.extend(octets(self.to));
        all.extend((bytes.len() as u32).to_be_bytes());
        all.extend([0, 0, 0, protocol]);
        all.extend(&*bytes);
        bytes[place..place + 2].copy_from_slice(&checksum(&all));
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|two| u32::from(two[0]) << 8 | u32::from(*two.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}
