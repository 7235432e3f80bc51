//! Addresses that several services list.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Prefix, Service};

/// The most pairs that are counted; a thousand services with the same list are half a million pairs.
const BUDGET: usize = 1_000_000;

/// Two services that list the same addresses, `first` before `second` by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shared {
    pub first: usize,
    pub second: usize,
    /// How many addresses or prefixes both have, written as such or inside of another one.
    pub count: usize,
    /// The policy of `second` that lists one of them.
    pub policy: usize,
}

/// A prefix as one policy of one service lists it; sorts an enclosing prefix before what it encloses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Listed {
    prefix: Prefix,
    service: usize,
    policy: usize,
}

/// Every pair of services that shares addresses, by pair.
pub(super) fn find(services: &[&Service]) -> Vec<Shared> {
    let all = listed(services);
    let mut budget = BUDGET;
    let mut pairs: BTreeMap<(usize, usize), Shared> = BTreeMap::new();
    // Prefixes are nested or apart: those that enclose the current one form a stack.
    let mut enclosing: Vec<Listed> = Vec::new();
    for same in all.chunk_by(|a, b| a.prefix == b.prefix) {
        let Some(current) = same.first() else { continue };
        while enclosing.last().is_some_and(|last| !encloses(last.prefix, current.prefix)) {
            enclosing.pop();
        }
        enclosing.extend(same);
        let mut counted = BTreeSet::new();
        for (one, other) in meetings(same, &enclosing) {
            let Some(left) = budget.checked_sub(1) else {
                return pairs.into_values().collect();
            };
            budget = left;
            let (first, second) = if one.service < other.service { (one, other) } else { (other, one) };
            let key = (first.service, second.service);
            if counted.insert(key) {
                count(&mut pairs, key, second.policy);
            }
        }
    }
    pairs.into_values().collect()
}

fn listed(services: &[&Service]) -> Vec<Listed> {
    let mut all: Vec<Listed> = Vec::new();
    for (service, one) in services.iter().enumerate() {
        for (policy, listing) in one.policies.iter().enumerate() {
            let prefixes = listing.prefixes.iter();
            all.extend(prefixes.map(|prefix| Listed { prefix: *prefix, service, policy }));
        }
    }
    all.sort();
    all
}

fn meetings<'l>(
    same: &'l [Listed],
    enclosing: &'l [Listed],
) -> impl Iterator<Item = (&'l Listed, &'l Listed)> {
    let pairs = same.iter().flat_map(move |one| enclosing.iter().map(move |other| (one, other)));
    pairs.filter(|(one, other)| one.service != other.service)
}

fn encloses(outer: Prefix, inner: Prefix) -> bool {
    outer.family() == inner.family() && outer.first() <= inner.first() && inner.last() <= outer.last()
}

fn count(pairs: &mut BTreeMap<(usize, usize), Shared>, key: (usize, usize), policy: usize) {
    let shared = pairs.entry(key).or_insert(Shared { first: key.0, second: key.1, count: 0, policy });
    shared.count += 1;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse_service;
    use crate::model::{ServiceName, Settings};
    use std::path::Path;

    fn service(name: &str, to: &str) -> Service {
        let text = format!(
            "provider = \"x\"\nowner = \"x\"\nlifetime = {{ commission = 2026-01-01T00:00:00Z, decommission = \
             2027-01-01T00:00:00Z }}\negress = [{{ subject = {{ cgroup = \"/\" }}, to = {to}, ports = [\"1/tcp\"] }}]\n"
        );
        let name = ServiceName::new(name).unwrap();
        parse_service(Path::new("x"), &name, &text, &|_| None, &Settings::default()).0.unwrap()
    }

    fn counts(lists: &[&str]) -> Vec<(usize, usize, usize)> {
        let services: Vec<Service> =
            ["a", "b", "c"].iter().zip(lists).map(|(name, to)| service(name, to)).collect();
        let services: Vec<&Service> = services.iter().collect();
        find(&services).iter().map(|one| (one.first, one.second, one.count)).collect()
    }

    #[test]
    fn prefixes_inside_of_each_other_are_shared() {
        assert_eq!(
            counts(&[
                r#"["10.0.0.0/8"]"#,
                r#"["10.1.0.0/16", "11.0.0.0/16"]"#,
                r#"["10.1.2.3", "10.2.0.0/24"]"#
            ]),
            [(0, 1, 1), (0, 2, 2), (1, 2, 1)]
        );
    }

    #[test]
    fn equal_prefixes_count_once_and_families_are_apart() {
        assert_eq!(counts(&[r#"["192.0.2.1", "::2"]"#, r#"["192.0.2.1", "192.0.2.1"]"#]), [(0, 1, 1)]);
        assert_eq!(counts(&[r#"["192.0.2.1"]"#, r#"["192.0.2.2", "::192.0.2.1"]"#]), []);
    }
}
