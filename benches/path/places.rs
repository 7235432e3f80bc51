//! Addresses and ports: who is measured, and where the others are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::traffic::Family;

/// Of the measured services, and of their providers' listeners.
pub const PORT: u16 = 8443;

/// RFC 2544: for benchmarks. The measured service's provider.
pub const GOVERNED4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 10);
pub const GOVERNED6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xaaaa, 0, 0, 0, 0, 0x10);
/// Of the measured UDP service: an address of its own.
pub const GOVERNED_UDP4: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 10);
pub const GOVERNED_UDP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xaaab, 0, 0, 0, 0, 0x10);
/// In no /16 (IPv6: /32) in which anything is governed.
pub const UNGOVERNED4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
pub const UNGOVERNED6: Ipv6Addr = Ipv6Addr::new(0x3fff, 1, 0, 0, 0, 0, 0, 0x10);

/// All that the provider's namespace answers for.
pub const PROVIDER4: [Ipv4Addr; 3] = [GOVERNED4, GOVERNED_UDP4, UNGOVERNED4];
pub const PROVIDER6: [Ipv6Addr; 3] = [GOVERNED6, GOVERNED_UDP6, UNGOVERNED6];

/// Addresses of the services that are not measured, over as many /16s as there are: an odd factor repeats nothing.
pub fn other4(index: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x1000_0000 + (index as u32).wrapping_mul(40_503) % (1 << 30))
}

pub fn other6(index: usize) -> Ipv6Addr {
    let index = index as u128;
    Ipv6Addr::from_bits(((0x2a00_0000 + index % 4096) << 96) | (index << 32) | 0x10)
}

/// The two ends of the wire of a variant: the provider's, ours.
pub fn wire(index: usize, family: Family) -> (IpAddr, IpAddr) {
    let number = u8::try_from(index).expect("under 256 variants");
    let at4 = |host| IpAddr::from(Ipv4Addr::new(172, 31, number, host));
    let at6 = |host| IpAddr::from(Ipv6Addr::new(0xfd00, u16::from(number), 0, 0, 0, 0, 0, host));
    match family {
        Family::V4 => (at4(1), at4(2)),
        Family::V6 => (at6(1), at6(2)),
    }
}

pub fn any(family: Family, port: u16) -> SocketAddr {
    match family {
        Family::V4 => (Ipv4Addr::UNSPECIFIED, port).into(),
        Family::V6 => (Ipv6Addr::UNSPECIFIED, port).into(),
    }
}
