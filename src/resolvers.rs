//! The resolvers that this host asks, by /etc/resolv.conf (resolv.conf(5)).

use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;

/// Where the C library looks for them.
const FILE: &str = "/etc/resolv.conf";

/// The most that is read of it.
const MAX: u64 = 1 << 20;

/// Returns them in file order; none when the file cannot be read.
pub fn read() -> Vec<IpAddr> {
    let mut text = Vec::new();
    let read = File::open(FILE).and_then(|file| file.take(MAX).read_to_end(&mut text));
    match read {
        Ok(_) => parse(&String::from_utf8_lossy(&text)),
        Err(error) => {
            tracing::debug!(%error, "cannot read {FILE}");
            Vec::new()
        }
    }
}

fn parse(text: &str) -> Vec<IpAddr> {
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and(words.next())?;
        // A link-local address names its link.
        address.split('%').next()?.parse().ok()
    };
    text.lines().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_stand_behind_their_word() {
        let text = "# nameserver 192.0.2.9\nsearch example.com\n nameserver\t192.0.2.1 \nnameserver fe80::1%eth0\n\
                    nameserver\nnameservers 192.0.2.3\nnameserver 2001:db8::53 # no comment here\n";
        let found = parse(text).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(found, ["192.0.2.1", "fe80::1", "2001:db8::53"]);
    }
}
