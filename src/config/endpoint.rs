//! One endpoint as a schedule, a segment or a list writes it, and what somebody may have meant who wrote something else.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv4Subnets, Ipv6Subnets};

use super::time::Mistake;
use crate::model::{HostName, Prefix, PrefixError};

/// What one entry stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    Any,
    Prefix(Prefix),
    Name(HostName),
}

/// How every address is said; lists cannot say it.
pub(super) const ANY: &str = "any";

/// The longest text that is looked at for what was meant, in bytes; a name has at most 253.
const LONGEST: usize = 512;

/// The most prefixes that are proposed for a range of addresses.
const MOST_PREFIXES: usize = 4;

/// Reads an address, a prefix, a host name or `"any"`.
pub(super) fn parse(text: &str) -> Result<Entry, Mistake> {
    read(text).map_err(|error| match error {
        PrefixError::HostBits { prefix, .. } => host_bits(text, prefix),
        PrefixError::TooWide(_) => {
            let help = "for every address write \"any\" as the only entry of `to` or `from`; else list the provider's \
                        own prefixes";
            Mistake::new(error.to_string(), help)
        }
        PrefixError::Syntax(_) => mistake(text),
    })
}

fn read(text: &str) -> Result<Entry, PrefixError> {
    if text == ANY {
        return Ok(Entry::Any);
    }
    match Prefix::parse(text) {
        Ok(prefix) => Ok(Entry::Prefix(prefix)),
        Err(error @ (PrefixError::HostBits { .. } | PrefixError::TooWide(_))) => Err(error),
        Err(error @ PrefixError::Syntax(_)) => {
            HostName::new(text).filter(|_| !is_botched_address(text)).map(Entry::Name).ok_or(error)
        }
    }
}

/// The mistake about a prefix whose address is not its first one.
pub(super) fn host_bits(entry: &str, prefix: Prefix) -> Mistake {
    let address = entry.split('/').next().unwrap_or_default();
    let help = format!("write {prefix} for the whole prefix, or {address} for the one address");
    Mistake::new(format!("{entry} has bits set behind its length"), help)
}

/// True for `198.51.100.x` and `10.0.0.0-24`, which the rules of names would take.
fn is_botched_address(text: &str) -> bool {
    let labels: Vec<&str> = text.split('.').collect();
    let [numbers @ .., last] = labels.as_slice() else { return false };
    let is_number = |label: &&str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_digit());
    numbers.len() == 3
        && numbers.iter().all(is_number)
        && (last.len() == 1 || last.starts_with(|c: char| c.is_ascii_digit()))
}

/// What is wrong with a text that is no endpoint, by the nearest thing that it may be.
fn mistake(text: &str) -> Mistake {
    if text.len() > LONGEST {
        let message = format!("an entry of {} bytes is no address, no prefix and no host name", text.len());
        return Mistake::new(
            message,
            "write one entry for each, in quotes of its own or on a line of its own",
        );
    }
    let readers = [spaces, url, unicode, star, range, netmask, address, port, path, single_label, labels];
    readers.iter().find_map(|read| read(text)).unwrap_or_else(|| no_endpoint(text))
}

fn no_endpoint(text: &str) -> Mistake {
    let help = "write for example 203.0.113.7, 198.51.100.0/24, 2001:db8::/32 or api.example.com";
    Mistake::new(format!("{text:?} is no address, no prefix and no host name"), help)
}

/// The text when it is an endpoint.
fn reads(text: &str) -> Option<&str> {
    read(text).is_ok().then_some(text)
}

fn did_you_mean(guess: &str) -> String {
    format!("did you mean {guess:?}?")
}

fn spaces(text: &str) -> Option<Mistake> {
    let trimmed = text.trim();
    let guess = (trimmed != text).then(|| reads(trimmed)).flatten()?;
    Some(Mistake::new(format!("{text:?} has blanks around it"), did_you_mean(guess)))
}

fn url(text: &str) -> Option<Mistake> {
    let (_, rest) = text.split_once("://")?;
    let message = format!("{text:?} is a URL, and only hosts can be told apart");
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let (host, port) = split_port(host).unwrap_or((bare(host), None));
    let help = match (reads(host), port) {
        (Some(host), None) => did_you_mean(host),
        (Some(host), Some(port)) => format!("write {host:?}, and \"{port}/tcp\" into `ports`"),
        (None, _) => "write the name of the host alone, for example \"api.example.com\"".to_owned(),
    };
    Some(Mistake::new(message, help))
}

/// Host and port of `host:port`; the host without brackets.
fn split_port(text: &str) -> Option<(&str, Option<&str>)> {
    let (host, port) = text.rsplit_once(':')?;
    let is_plain = !host.contains(':') || (host.starts_with('[') && host.ends_with(']'));
    let is_port = port.parse::<u16>().is_ok_and(|port| port > 0);
    (is_plain && is_port).then(|| (bare(host), Some(port)))
}

/// Without the brackets that URLs put around IPv6 addresses.
fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

fn unicode(text: &str) -> Option<Mistake> {
    if text.is_ascii() {
        return None;
    }
    let (star, name) = text.strip_prefix("*.").map_or(("", text), |name| ("*.", name));
    let guess = idna::domain_to_ascii(name).ok().map(|name| format!("{star}{name}"));
    let help = match guess.as_deref().and_then(reads) {
        Some(guess) => format!("write it as the DNS knows it: {guess:?}"),
        None => "write names in letters a-z, digits and dashes, as the DNS knows them (punycode)".to_owned(),
    };
    Some(Mistake::new(format!("{text:?} is no name of the DNS: it holds letters beyond ASCII"), help))
}

fn star(text: &str) -> Option<Mistake> {
    if text == "*" {
        let message = "a star alone is no endpoint";
        return Some(Mistake::new(message, "for every address write \"any\" as the only entry"));
    }
    if !text.contains('*') {
        let below = text.strip_prefix('.')?;
        let guess = format!("*.{below}");
        let help = reads(&guess).map(did_you_mean)?;
        return Some(Mistake::new(format!("{text:?} is no host name: it begins with a dot"), help));
    }
    if let Some(prefix) = octets(text) {
        return Some(Mistake::new(
            format!("{text:?}: an address takes no star"),
            did_you_mean(&prefix.to_string()),
        ));
    }
    let below = text.rsplit('*').next().unwrap_or_default();
    let help = match reads(&format!("*{below}")) {
        Some(guess) => {
            format!("{guess:?} is every name below {}, at any depth", below.trim_start_matches('.'))
        }
        None => "write \"*.example.com\" for every name below example.com".to_owned(),
    };
    let message = match text.strip_prefix("*.") {
        Some(top) if !top.is_empty() && !top.contains(['.', '*']) => {
            format!("{text:?} is too wide: a whole top level domain")
        }
        Some(_) | None => {
            format!("{text:?}: a star stands for whole labels, once, in front of at least two others")
        }
    };
    Some(Mistake::new(message, help))
}

/// The prefix of `198.51.100.*`.
fn octets(text: &str) -> Option<Prefix> {
    let known = text.trim_end_matches(".*");
    let count = known.split('.').count();
    let stars = text.split('.').filter(|part| *part == "*").count();
    (count + stars == 4).then_some(())?;
    Prefix::parse(&format!("{known}{}/{}", ".0".repeat(stars), 8 * count)).ok()
}

fn range(text: &str) -> Option<Mistake> {
    let (first, last) = text.split_once('-')?;
    let (first, last) = (first.trim(), last.trim());
    let prefixes: Vec<String> = match (first.parse().ok()?, last.parse().ok()?) {
        (IpAddr::V4(first), IpAddr::V4(last)) => subnets_v4(first, last),
        (IpAddr::V6(first), IpAddr::V6(last)) => subnets_v6(first, last),
        (IpAddr::V4(_) | IpAddr::V6(_), _) => Vec::new(),
    };
    let help = match prefixes.as_slice() {
        few @ [_, ..] if few.len() <= MOST_PREFIXES && few.iter().all(|one| reads(one).is_some()) => {
            format!("write its prefixes: {}", few.join(", "))
        }
        _ => "write the prefixes that it consists of".to_owned(),
    };
    Some(Mistake::new(format!("{text:?} is a range, not a prefix"), help))
}

fn subnets_v4(first: Ipv4Addr, last: Ipv4Addr) -> Vec<String> {
    let prefixes = Ipv4Subnets::new(first, last, 0).take(MOST_PREFIXES + 1);
    prefixes.map(|prefix| prefix.to_string()).collect()
}

fn subnets_v6(first: Ipv6Addr, last: Ipv6Addr) -> Vec<String> {
    let prefixes = Ipv6Subnets::new(first, last, 0).take(MOST_PREFIXES + 1);
    prefixes.map(|prefix| prefix.to_string()).collect()
}

fn netmask(text: &str) -> Option<Mistake> {
    let (address, mask) = text.split_once('/')?;
    let net = Ipv4Net::with_netmask(address.parse().ok()?, mask.parse().ok()?).ok()?.trunc();
    let help = match reads(&net.to_string()) {
        Some(guess) => did_you_mean(guess),
        None => "write the length of the prefix behind the slash".to_owned(),
    };
    Some(Mistake::new(format!("{text:?} has a netmask in place of a length"), help))
}

fn address(text: &str) -> Option<Mistake> {
    let plain = text.split('%').next().unwrap_or_default();
    if plain != text && plain.parse::<IpAddr>().is_ok() {
        let help = "a schedule is about addresses beyond this link: write a global one, without a zone";
        return Some(Mistake::new(format!("{text:?} has a zone"), help));
    }
    if bare(text) != text {
        let guess = reads(bare(text))?;
        return Some(Mistake::new(format!("{text:?} has brackets"), did_you_mean(guess)));
    }
    let (octets, length) = text.split_once('/').map_or((text, ""), |(octets, _)| {
        let length = text.get(octets.len()..).unwrap_or_default();
        (octets, length)
    });
    let parts: Option<Vec<u8>> = octets.split('.').map(|part| part.parse().ok()).collect();
    let parts = parts.filter(|parts| parts.len() == 4)?;
    let guess: Vec<String> = parts.iter().map(u8::to_string).collect();
    let guess = format!("{}{length}", guess.join("."));
    let message = format!("{text:?} has leading zeros, which some programs read as octal");
    (guess != text).then(|| reads(&guess).map(|guess| Mistake::new(message, did_you_mean(guess))))?
}

fn port(text: &str) -> Option<Mistake> {
    let (host, port) = split_port(text)?;
    let (host, port) = (reads(host)?, port?);
    let help = format!("write {host:?}, and \"{port}/tcp\" into `ports`");
    Some(Mistake::new(format!("{text:?} holds a port"), help))
}

fn path(text: &str) -> Option<Mistake> {
    let (host, _) = text.split_once('/')?;
    let host = HostName::new(host).and_then(|_| reads(host))?;
    Some(Mistake::new(
        format!("{text:?} is a name with a path, and only hosts can be told apart"),
        did_you_mean(host),
    ))
}

fn single_label(text: &str) -> Option<Mistake> {
    let label = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let is_label =
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    if !is_label || label.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(match label.as_str() {
        "any" | "all" | "anywhere" | "everywhere" => {
            Mistake::new(format!("{text:?} is no endpoint"), did_you_mean(ANY))
        }
        "localhost" => Mistake::new(
            "\"localhost\" is this host and no provider",
            "if a service on this host is meant, write 127.0.0.1 and ::1",
        ),
        _ => {
            let message = format!("{text:?} has one label: what it means depends on where it is asked");
            let help = format!("write the full name, for example \"{label}.example.com\"");
            Mistake::new(message, help)
        }
    })
}

/// What is wrong with a text of several labels.
fn labels(text: &str) -> Option<Mistake> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let last = name.rsplit('.').next().unwrap_or_default();
    if !name.bytes().all(is_plain) || !name.contains('.') || last.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let (reason, help) = if name.len() > HostName::MAX {
        (format!("it is longer than {} characters", HostName::MAX), "shorten it")
    } else if name.split('.').any(str::is_empty) {
        ("a label is empty".to_owned(), "remove the dot that is too many")
    } else if name.split('.').any(|label| label.len() > 63) {
        ("a label is longer than 63 characters".to_owned(), "shorten it")
    } else if name.split('.').any(|label| label.starts_with('-') || label.ends_with('-')) {
        ("a label begins or ends with a dash".to_owned(), "remove that dash")
    } else {
        return None;
    };
    Some(Mistake::new(format!("{text:?} is no host name: {reason}"), help))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn help(text: &str) -> String {
        parse(text).unwrap_err().help
    }

    #[test]
    fn what_was_probably_meant_is_proposed() {
        for (text, meant) in [
            ("https://api.x.com/v1?a=b", "api.x.com"),
            ("https://user@[2001:db8::1]", "2001:db8::1"),
            ("api.x.com/v1", "api.x.com"),
            (" api.x.com", "api.x.com"),
            (".x.com", "*.x.com"),
            ("198.51.100.*", "198.51.100.0/24"),
            ("10.1.*.*", "10.1.0.0/16"),
            ("10.0.0.0/255.0.0.0", "10.0.0.0/8"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("198.051.100.7", "198.51.100.7"),
            ("ANY", "any"),
        ] {
            assert_eq!(help(text), format!("did you mean {meant:?}?"), "{text}");
        }
        assert_eq!(help("https://x.com:8443/"), "write \"x.com\", and \"8443/tcp\" into `ports`");
        assert_eq!(help("[2001:db8::1]:443"), "write \"2001:db8::1\", and \"443/tcp\" into `ports`");
        assert_eq!(help("192.0.2.0-192.0.2.9"), "write its prefixes: 192.0.2.0/29, 192.0.2.8/31");
        assert_eq!(help("*.münchen.example"), "write it as the DNS knows it: \"*.xn--mnchen-3ya.example\"");
    }

    #[test]
    fn a_botched_address_is_no_name() {
        for text in ["198.51.100.x", "10.0.0.0-24", "1.2.3.4.", "1.2.3", "192.0.2.0-192.0.2.9"] {
            assert!(parse(text).is_err(), "{text}");
        }
        for text in ["1.2.3.example", "1e100.net", "1.2.3.4.in-addr.arpa"] {
            assert!(matches!(parse(text), Ok(Entry::Name(_))), "{text}");
        }
    }
}
