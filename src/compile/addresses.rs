//! What changes in the table when single addresses come to services or leave them: elements of a few maps, whatever
//! else there is. The elements are made by the very code that makes all of them, for one address at a time.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Input, Standing, exact, failsafe, governing, grants, names, refusal, shared, through};
use crate::model::{Direction, Family, Prefix};
use crate::ruleset::{Element, Key, Part, Ruleset};

/// One address with those who listed it by itself, and those who do now; both sorted by name.
pub struct Listing<'a> {
    pub single: Prefix,
    pub before: Vec<Standing<'a>>,
    pub now: Vec<Standing<'a>>,
}

/// The first and the last address of the network by which ungoverned traffic is told: /16, for IPv6 /32.
pub fn network(single: IpAddr) -> (IpAddr, IpAddr) {
    match single {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            (Ipv4Addr::new(a, b, 0, 0).into(), Ipv4Addr::new(a, b, u8::MAX, u8::MAX).into())
        }
        IpAddr::V6(v6) => {
            let first = v6.to_bits() >> 96 << 96;
            (Ipv6Addr::from_bits(first).into(), Ipv6Addr::from_bits(first | (u128::MAX >> 32)).into())
        }
    }
}

/// Adds the change of one address; false when the address needs more than elements of the maps of single addresses. `governed`: whether
/// anything is still governed in its network.
pub fn add(input: &Input<'_>, listing: &Listing<'_>, governed: bool, part: &mut Part) -> bool {
    let (Some(before), Some(now)) =
        (elements(input, &listing.before, listing.single), elements(input, &listing.now, listing.single))
    else {
        return false;
    };
    for (name, set) in &before.sets {
        let gone = set
            .elements
            .keys()
            .filter(|key| !now.sets.get(name).is_some_and(|n| n.elements.contains_key(key)));
        part.elements.entry(name.clone()).or_default().extend(gone.map(|key| (key.clone(), None)));
    }
    for (name, set) in now.sets {
        let elements = set.elements.into_iter().map(|(key, element)| (key, Some(element)));
        part.elements.entry(name).or_default().extend(elements);
    }
    part.wanted.chains.extend(now.chains);
    part.wanted.counters.extend(now.counters);
    add_gate(listing.single, &|_, _| governed, part);
    true
}

/// All elements that lead from an address to these services; `None` when some are ranges, or the fail-safe knows it.
fn elements(input: &Input<'_>, services: &[Standing<'_>], single: Prefix) -> Option<Ruleset> {
    let safe = |standing: &Standing<'_>| {
        let ingress = standing.service.policies.iter().filter(|p| p.id.direction == Direction::Ingress);
        ingress.into_iter().any(|policy| failsafe::shares(input.settings, policy))
    };
    // Who else lists it decides whether a service is told by elements alone.
    if services.iter().any(|standing| safe(standing) || exact::fits(standing.service)) {
        return None;
    }
    let mut ruleset = Ruleset::new("");
    shared::add_maps(single.family(), &mut ruleset);
    let services = governing(input, services, &super::NONE);
    grants::add_single(&services, single, &mut ruleset);
    through::add_single(&services, single, &mut ruleset);
    if ruleset.sets.values().any(|set| set.interval && !set.elements.is_empty()) {
        return None;
    }
    let owners: Vec<_> = services.iter().collect();
    if !owners.is_empty() {
        // Services come here because their names have other addresses: there are names.
        refusal::add_single(input, &owners, single, true, &mut ruleset);
    }
    ruleset.sets.retain(|_, set| !set.elements.is_empty());
    Some(ruleset)
}

/// Adds whether the network of an address is governed, as `governed` says from its first address to its last.
pub fn add_gate(single: Prefix, governed: &dyn Fn(IpAddr, IpAddr) -> bool, part: &mut Part) {
    let Some(address) = single.address() else { return };
    let (first, last) = network(address);
    let is_governed = governed(first, last);
    let first = Prefix::single(first);
    let key = Key::builder().network(first.family(), first.first()).build();
    let family: Family = single.family();
    let gate = part.elements.entry(format!("governed{}", names::digit(family))).or_default();
    gate.insert(key, is_governed.then(Element::default));
}
