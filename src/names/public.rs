//! Which addresses a name may have without being told so.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// True for addresses that may stand in the public DNS. All others lead into this host or its own networks: whoever
/// can write a zone could point a name at them (DNS rebinding). They count only where a prefix of the same policy
/// lists them.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public4(v4),
        IpAddr::V6(v6) => is_public6(v6),
    }
}

/// RFC 6890: this network, loopback, link-local (with the metadata service 169.254.169.254), RFC 1918, RFC 6598,
/// multicast, reserved and broadcast.
fn is_public4(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    let shared = first == 100 && (64..128).contains(&second);
    let reserved = first == 0 || first >= 224;
    !(shared || reserved || address.is_private() || address.is_loopback() || address.is_link_local())
}

/// RFC 4291 and RFC 4193: multicast, link-local and site-local, unique local (with the metadata service
/// fd00:ec2::254), and all of ::/96 and ::ffff:0:0/96, which hide IPv4 addresses; so do NAT64's (RFC 6052) and 6to4's
/// (RFC 3056), which count as what they hide.
fn is_public6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match segments {
        [0, 0, 0, 0, 0, 0 | 0xffff, _, _] => false,
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => is_public4(v4(high, low)),
        // NAT64 with a prefix of the site's own (RFC 8215).
        [0x64, 0xff9b, 1, ..] => false,
        [first, ..] => !(address.is_multicast() || (0xfc00..=0xfeff).contains(&first)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leads_into_this_host_or_its_networks_is_not_public() {
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.53",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::10.0.0.1",
            "::ffff:203.0.113.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::1",
            "2002:a00:1::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
        for text in [
            "1.1.1.1",
            "100.63.0.1",
            "100.128.0.1",
            "172.32.0.1",
            "192.0.2.1",
            "223.255.255.255",
            "2001:db8::1",
            "2606:4700::1",
            "64:ff9b::203.0.113.1",
        ] {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
    }
}
