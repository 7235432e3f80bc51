//! The names of everything in the table. Names of services and subjects stand behind a fixed prefix, so that a
//! service may be called `drop`.

use sha2::{Digest, Sha256};

use crate::model::{Direction, Family, Policy, Protocol, Reason, ServiceName, Subject};

/// `4` or `6`.
pub fn digit(family: Family) -> char {
    match family {
        Family::V4 => '4',
        Family::V6 => '6',
    }
}

/// `out` or `in`: which way a packet travels.
pub fn way(direction: Direction) -> &'static str {
    match direction {
        Direction::Egress => "out",
        Direction::Ingress => "in",
    }
}

/// The window set of a service: open by any of its windows.
pub fn open(service: &ServiceName) -> String {
    format!("open-{service}")
}

/// The window set of a policy: that of the service unless it names windows of its own.
pub fn policy_open(policy: &Policy) -> String {
    let service = open(&policy.id.service);
    match policy.windows {
        Some(_) => format!("{service}-{}-{}", policy.id.direction, policy.id.index),
        None => service,
    }
}

/// The chain of a policy for one protocol.
pub fn policy_chain(policy: &Policy, protocol: Protocol) -> String {
    let id = &policy.id;
    format!("svc-{}-{}-{}-{}", id.service, id.direction, id.index, protocol.as_str())
}

/// The chain that refuses what travels this way and belongs to a service.
pub fn refusal_chain(service: &ServiceName, direction: Direction) -> String {
    format!("svc-{service}-{}", way(direction))
}

/// A chain that stands for several others.
pub fn joint_chain<'a>(prefix: &str, members: impl IntoIterator<Item = &'a str>) -> String {
    let mut hash = Sha256::new();
    for member in members {
        hash.update(member.as_bytes());
        hash.update([0]);
    }
    format!("{prefix}-{}", hex(&hash.finalize()[..6]))
}

/// The set of a subject's cgroups at one level.
pub fn subject(subject: &Subject, level: u32) -> String {
    format!("subject-{}-l{level}", plain(subject))
}

/// A subject's value with only what nft takes in a name; when something had to go, a digest keeps it unique.
fn plain(subject: &Subject) -> String {
    /// The longest readable part, in bytes; the kernel takes 255 for the whole name.
    const LONGEST: usize = 100;
    let value = subject.value();
    let text: String = value
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '_' })
        .take(LONGEST)
        .collect();
    let unit = matches!(subject, Subject::Unit(_));
    if unit && text == value {
        return text;
    }
    format!("{text}-{}", hex(&Sha256::digest(subject.to_string())[..4]))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The chain and counter of a direction and reason.
pub fn reason_chain(direction: Direction, reason: Reason) -> String {
    format!("{}-{reason}", way(direction))
}

pub fn observed_chain(direction: Direction, reason: Reason) -> String {
    format!("observed-{}-{reason}", way(direction))
}

/// The sets that count refused packets of one direction, reason and family.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CountSets {
    pub direction: Direction,
    pub reason: Reason,
    pub family: Family,
    /// By remote address and protocol: exact for as many sources as the set takes.
    pub hosts: String,
    /// By remote address, protocol and destination port.
    pub ports: String,
    /// The counter of the direction and reason, both families.
    pub total: String,
}

/// Returns every pair of count sets, in a fixed order.
pub fn count_sets() -> impl Iterator<Item = CountSets> {
    Direction::ALL.into_iter().flat_map(|direction| {
        Reason::ALL.into_iter().flat_map(move |reason| {
            Family::ALL.into_iter().map(move |family| {
                let total = reason_chain(direction, reason);
                let digit = digit(family);
                CountSets {
                    direction,
                    reason,
                    family,
                    hosts: format!("{total}-hosts{digit}"),
                    ports: format!("{total}-ports{digit}"),
                    total,
                }
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_that_look_alike_have_different_names() {
        let names: std::collections::BTreeSet<_> =
            ["/a/b", "/a_b", "/a:b"].iter().map(|path| subject(&Subject::cgroup(path).unwrap(), 2)).collect();
        assert_eq!(names.len(), 3);
        assert_eq!(subject(&Subject::unit("a-b.service").unwrap(), 2), "subject-a-b.service-l2");
    }
}
