//! The expressions of nf_tables that rules are made of.
//!
//! Registers, header offsets and constants are those of linux/netfilter/nf_tables.h and of the protocols' headers.

use std::ffi::CStr;
use std::time::Duration;

use nftnl::nftnl_sys as sys;

use crate::kernel::ffi::Expression;
use crate::model::Family;
use crate::ruleset::{LOG_SNAPLEN, Side};

/// NFT_META_TIME_NS (nf_tables.h, kernel 5.4): the wall clock, nanoseconds since 1970, host byte order.
pub const META_TIME_NS: u32 = 30;
/// NFT_PAYLOAD_INNER_HEADER (kernel 5.16): what follows the transport header; nft's `@ih`.
const INNER_HEADER: u32 = 3;
/// NFT_SOCKET_TRANSPARENT, NFT_SOCKET_WILDCARD, NFT_SOCKET_CGROUPV2 (kernel 5.13).
pub const SOCKET_TRANSPARENT: u32 = 0;
pub const SOCKET_WILDCARD: u32 = 2;
const SOCKET_CGROUPV2: u32 = 3;
/// NFT_EXTHDR_F_PRESENT and NFT_EXTHDR_OP_IPV6.
const EXTENSION_PRESENT: u32 = 1;
const EXTENSION_IPV6: u32 = 0;
/// NFT_DYNSET_OP_DELETE (nf_tables.h, kernel 5.4).
const DYNSET_DELETE: u32 = 2;
/// NFT_OBJECT_COUNTER.
pub const OBJECT_COUNTER: u32 = 1;
/// The loopback interface is the first of every network namespace.
const LOOPBACK_INDEX: u32 = 1;

/// The first of four bytes among the 64 of the registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Register(u32);

impl Register {
    pub const FIRST: Self = Self(0);

    /// The register behind a field of this length.
    pub fn behind(self, length: usize) -> Self {
        Self(self.0 + length.div_ceil(4) as u32)
    }

    /// The kernel dumps a register on a multiple of 16 bytes as NFT_REG_1 to NFT_REG_4, the others as NFT_REG32_*.
    fn number(self) -> u32 {
        match self.0 % 4 {
            0 => libc::NFT_REG_1 as u32 + self.0 / 4,
            _ => libc::NFT_REG32_00 as u32 + self.0,
        }
    }
}

pub fn meta(key: u32, to: Register) -> Expression {
    Expression::new(c"meta").u32(sys::NFTNL_EXPR_META_KEY, key).u32(sys::NFTNL_EXPR_META_DREG, to.number())
}

/// A piece of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    base: u32,
    offset: u32,
    length: u32,
}

impl Piece {
    const fn network(offset: u32, length: u32) -> Self {
        Self { base: libc::NFT_PAYLOAD_NETWORK_HEADER as u32, offset, length }
    }

    const fn transport(offset: u32, length: u32) -> Self {
        Self { base: libc::NFT_PAYLOAD_TRANSPORT_HEADER as u32, offset, length }
    }

    pub const NEXT_HEADER: Self = Self::network(6, 1);
    pub const HOP_LIMIT: Self = Self::network(7, 1);
    /// Flags and offset of an IPv4 fragment.
    pub const FRAGMENT: Self = Self::network(6, 2);
    pub const TCP_FLAGS: Self = Self::transport(13, 1);
    pub const ICMP_TYPE: Self = Self::transport(0, 1);
    pub const ECHO_ID: Self = Self::transport(4, 2);
    /// Behind the eight bytes of a UDP header (RFC 768; RFC 1035, section 4.1.1).
    pub const DNS_ID: Self = Self::transport(8, 2);
    pub const FIRST_PAYLOAD_BYTE: Self = Self { base: INNER_HEADER, offset: 0, length: 1 };

    /// Up to the type of the first handshake message of a TLS connection.
    pub const FIRST_HANDSHAKE_BYTES: Self = Self { base: INNER_HEADER, offset: 0, length: 6 };

    /// The protocol of the packet that an ICMP error quotes behind its own header of eight bytes.
    pub const fn quoted_protocol(family: Family) -> Self {
        match family {
            Family::V4 => Self::transport(8 + 9, 1),
            Family::V6 => Self::transport(8 + 6, 1),
        }
    }

    pub const fn address(family: Family, side: Side) -> Self {
        match (family, side) {
            (Family::V4, Side::Source) => Self::network(12, 4),
            (Family::V4, Side::Destination) => Self::network(16, 4),
            (Family::V6, Side::Source) => Self::network(8, 16),
            (Family::V6, Side::Destination) => Self::network(24, 16),
        }
    }

    /// The first bits of an address.
    pub const fn network_of(family: Family, side: Side) -> Self {
        let length = match family {
            Family::V4 => 2,
            Family::V6 => 4,
        };
        Self { length, ..Self::address(family, side) }
    }

    pub const fn length(self) -> usize {
        self.length as usize
    }

    pub const fn port(side: Side) -> Self {
        match side {
            Side::Source => Self::transport(0, 2),
            Side::Destination => Self::transport(2, 2),
        }
    }
}

pub fn payload(piece: Piece, to: Register) -> Expression {
    Expression::new(c"payload")
        .u32(sys::NFTNL_EXPR_PAYLOAD_DREG, to.number())
        .u32(sys::NFTNL_EXPR_PAYLOAD_BASE, piece.base)
        .u32(sys::NFTNL_EXPR_PAYLOAD_OFFSET, piece.offset)
        .u32(sys::NFTNL_EXPR_PAYLOAD_LEN, piece.length)
}

/// The id of the socket's cgroup at this depth; the rule does not match without one.
pub fn cgroup(level: u32, to: Register) -> Expression {
    socket(SOCKET_CGROUPV2, to).u32(sys::NFTNL_EXPR_SOCKET_LEVEL, level)
}

pub fn socket(key: u32, to: Register) -> Expression {
    Expression::new(c"socket")
        .u32(sys::NFTNL_EXPR_SOCKET_KEY, key)
        .u32(sys::NFTNL_EXPR_SOCKET_DREG, to.number())
}

/// 1 when an IPv6 packet has a fragment header, else 0.
pub fn fragment_header(to: Register) -> Expression {
    Expression::new(c"exthdr")
        .u32(sys::NFTNL_EXPR_EXTHDR_DREG, to.number())
        .u8(sys::NFTNL_EXPR_EXTHDR_TYPE, libc::IPPROTO_FRAGMENT as u8)
        .u32(sys::NFTNL_EXPR_EXTHDR_OFFSET, 0)
        .u32(sys::NFTNL_EXPR_EXTHDR_LEN, 1)
        .u32(sys::NFTNL_EXPR_EXTHDR_OP, EXTENSION_IPV6)
        .u32(sys::NFTNL_EXPR_EXTHDR_FLAGS, EXTENSION_PRESENT)
}

/// Turns a number of `size` bytes from the host's byte order into the network's.
pub fn to_network_order(size: u32, register: Register) -> Expression {
    Expression::new(c"byteorder")
        .u32(sys::NFTNL_EXPR_BYTEORDER_SREG, register.number())
        .u32(sys::NFTNL_EXPR_BYTEORDER_DREG, register.number())
        .u32(sys::NFTNL_EXPR_BYTEORDER_OP, libc::NFT_BYTEORDER_HTON as u32)
        .u32(sys::NFTNL_EXPR_BYTEORDER_LEN, size)
        .u32(sys::NFTNL_EXPR_BYTEORDER_SIZE, size)
}

pub fn mask(mask: &[u8], register: Register) -> Expression {
    bitwise(mask, &vec![0; mask.len()], register)
}

/// Puts these bytes in place of what is in the register.
pub fn replace(bytes: &[u8], register: Register) -> Expression {
    bitwise(&vec![0; bytes.len()], bytes, register)
}

fn bitwise(mask: &[u8], xor: &[u8], register: Register) -> Expression {
    Expression::new(c"bitwise")
        .u32(sys::NFTNL_EXPR_BITWISE_SREG, register.number())
        .u32(sys::NFTNL_EXPR_BITWISE_DREG, register.number())
        .u32(sys::NFTNL_EXPR_BITWISE_LEN, mask.len() as u32)
        .bytes(sys::NFTNL_EXPR_BITWISE_MASK, mask)
        .bytes(sys::NFTNL_EXPR_BITWISE_XOR, xor)
}

/// Compares the first register; the rule does not match when the answer is no. Order is by bytes.
pub fn compare(operator: i32, value: &[u8]) -> Expression {
    Expression::new(c"cmp")
        .u32(sys::NFTNL_EXPR_CMP_SREG, Register::FIRST.number())
        .u32(sys::NFTNL_EXPR_CMP_OP, operator as u32)
        .bytes(sys::NFTNL_EXPR_CMP_DATA, value)
}

/// The first register lies in a range, ends included: two comparisons, as nft writes it.
pub fn within(low: &[u8], high: &[u8]) -> [Expression; 2] {
    [compare(libc::NFT_CMP_GTE, low), compare(libc::NFT_CMP_LTE, high)]
}

pub fn loopback_index() -> Expression {
    compare(libc::NFT_CMP_EQ, &LOOPBACK_INDEX.to_ne_bytes())
}

pub fn lookup(set: &CStr, negated: bool) -> Expression {
    let lookup = Expression::new(c"lookup")
        .u32(sys::NFTNL_EXPR_LOOKUP_SREG, Register::FIRST.number())
        .str(sys::NFTNL_EXPR_LOOKUP_SET, set);
    match negated {
        true => lookup.u32(sys::NFTNL_EXPR_LOOKUP_FLAGS, libc::NFT_LOOKUP_F_INV as u32),
        false => lookup,
    }
}

/// A lookup in a set that is created in the same transaction and has no name yet.
pub fn lookup_by_id(set: &CStr, id: u32) -> Expression {
    lookup(set, false).u32(sys::NFTNL_EXPR_LOOKUP_SET_ID, id)
}

/// The verdict that a map holds for the key in the registers.
pub fn dispatch(map: &CStr) -> Expression {
    lookup(map, false).u32(sys::NFTNL_EXPR_LOOKUP_DREG, libc::NFT_REG_VERDICT as u32)
}

/// Adds the key in the registers to a set, or refreshes it; with the set's own timeout and expressions.
pub fn update(set: &CStr, rate: Option<u32>) -> Expression {
    let update = change(set, libc::NFT_DYNSET_OP_UPDATE as u32);
    match rate {
        Some(rate) => update.nested(sys::NFTNL_EXPR_DYNSET_EXPRESSIONS, limit(rate)),
        None => update,
    }
}

/// The same, with a timeout instead of the set's own.
pub fn update_for(set: &CStr, timeout: Duration) -> Expression {
    let milliseconds = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    change(set, libc::NFT_DYNSET_OP_UPDATE as u32).u64(sys::NFTNL_EXPR_DYNSET_TIMEOUT, milliseconds)
}

/// Takes the key in the registers out of a set; goes on in any case.
pub fn delete(set: &CStr) -> Expression {
    change(set, DYNSET_DELETE)
}

fn change(set: &CStr, operation: u32) -> Expression {
    Expression::new(c"dynset")
        .u32(sys::NFTNL_EXPR_DYNSET_SREG_KEY, Register::FIRST.number())
        .u32(sys::NFTNL_EXPR_DYNSET_OP, operation)
        .str(sys::NFTNL_EXPR_DYNSET_SET_NAME, set)
}

/// Goes on while fewer packets come a second, with as many at once.
pub fn limit(rate: u32) -> Expression {
    Expression::new(c"limit")
        .u64(sys::NFTNL_EXPR_LIMIT_RATE, rate.into())
        .u64(sys::NFTNL_EXPR_LIMIT_UNIT, 1)
        .u32(sys::NFTNL_EXPR_LIMIT_BURST, rate)
        .u32(sys::NFTNL_EXPR_LIMIT_TYPE, libc::NFT_LIMIT_PKTS as u32)
        .u32(sys::NFTNL_EXPR_LIMIT_FLAGS, 0)
}

/// A counter that every element of a set gets.
pub fn element_counter() -> Expression {
    Expression::new(c"counter")
}

pub fn count_on(name: &CStr) -> Expression {
    Expression::new(c"objref")
        .u32(sys::NFTNL_EXPR_OBJREF_IMM_TYPE, OBJECT_COUNTER)
        .str(sys::NFTNL_EXPR_OBJREF_IMM_NAME, name)
}

/// Without a length of its own: the reader of the group says how much it wants.
pub fn log_whole(prefix: &CStr, group: u16) -> Expression {
    Expression::new(c"log").str(sys::NFTNL_EXPR_LOG_PREFIX, prefix).u16(sys::NFTNL_EXPR_LOG_GROUP, group)
}

pub fn log(prefix: &CStr, group: u16) -> Expression {
    log_whole(prefix, group).u32(sys::NFTNL_EXPR_LOG_SNAPLEN, LOG_SNAPLEN)
}

pub fn reject(kind: i32, code: i32) -> Expression {
    Expression::new(c"reject")
        .u32(sys::NFTNL_EXPR_REJECT_TYPE, kind as u32)
        .u8(sys::NFTNL_EXPR_REJECT_CODE, code as u8)
}

pub fn verdict(code: i32, chain: Option<&CStr>) -> Expression {
    let verdict = Expression::new(c"immediate")
        .u32(sys::NFTNL_EXPR_IMM_DREG, libc::NFT_REG_VERDICT as u32)
        .u32(sys::NFTNL_EXPR_IMM_VERDICT, code as u32);
    match chain {
        Some(chain) => verdict.str(sys::NFTNL_EXPR_IMM_CHAIN, chain),
        None => verdict,
    }
}
