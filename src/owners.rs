//! Which service a remote address belongs to.
//!
//! A refusal belongs to the service with the longest matching prefix as written; among equals to the first by state
//! ([`ServiceState`]'s order), then by name.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::compile::Standing;
use crate::model::{Family, Prefix, Service, ServiceName, ServiceState, Time};
use crate::schedule;

/// Every listed prefix with those who list it. Prefixes enclose each other or are disjoint, so that an address is looked for
/// once for each length that there is.
#[derive(Debug, Clone, Default)]
pub struct Owners {
    listed: BTreeMap<Prefix, Listing>,
    /// How many prefixes there are of each length.
    lengths: BTreeMap<(Family, u8), usize>,
    /// The groups of services that own addresses together, and how many prefixes each.
    ties: BTreeMap<Group, usize>,
    tied: BTreeMap<ServiceName, BTreeSet<Group>>,
}

/// Sorted by name.
type Group = Arc<[ServiceName]>;

/// Those who list a prefix, sorted by name. Most are listed by one.
#[derive(Debug, Clone)]
enum Listing {
    One(ServiceName),
    Many(Vec<ServiceName>),
}

impl Listing {
    /// What is listed by these, all of whom list the same, with it; `None`: nobody.
    fn of(listed: &[(Prefix, &ServiceName)]) -> Option<(Prefix, Self)> {
        match listed {
            [] => None,
            [(prefix, only)] => Some((*prefix, Self::One((*only).clone()))),
            [(prefix, _), ..] => {
                let names = listed.iter().map(|(_, name)| (*name).clone());
                Some((*prefix, Self::Many(names.collect())))
            }
        }
    }

    fn names(&self) -> &[ServiceName] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Many(names) => names,
        }
    }

    fn add(&mut self, name: &ServiceName) {
        if let Err(at) = self.names().binary_search(name) {
            let mut names = self.names().to_vec();
            names.insert(at, name.clone());
            *self = Self::Many(names);
        }
    }

    /// Those who are left; `None`: nobody.
    fn without(&self, name: &ServiceName) -> Option<Self> {
        let mut names = self.names().to_vec();
        names.retain(|other| other != name);
        match names.len() {
            0 => None,
            1 => names.pop().map(Self::One),
            _ => Some(Self::Many(names)),
        }
    }
}

/// The service that an address belongs to at an instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The place in the list of services.
    pub index: usize,
    pub state: ServiceState,
    /// The others that list the address, sorted.
    pub also: Vec<ServiceName>,
}

impl Owners {
    /// Makes the table for these services.
    pub fn new(services: &[Standing<'_>]) -> Self {
        let mut all: Vec<(Prefix, &ServiceName)> = Vec::new();
        for Standing { service, .. } in services {
            all.extend(service.prefixes().map(|prefix| (prefix, &service.name)));
        }
        // By name as well.
        all.sort_unstable();
        all.dedup();
        // A map that is made of what is sorted has no room to spare.
        let listed = all.chunk_by(|(a, _), (b, _)| a == b).filter_map(Listing::of).collect();
        let mut owners = Self { listed, ..Self::default() };
        for prefix in owners.listed.keys() {
            *owners.lengths.entry((prefix.family(), prefix.length())).or_default() += 1;
        }
        let groups: Vec<Group> = owners.listed.keys().filter_map(|prefix| owners.group(*prefix)).collect();
        groups.into_iter().for_each(|group| owners.tie(group));
        owners
    }

    /// Follows a service that lists other prefixes than before; `None` where it is not there.
    pub fn follow(&mut self, before: Option<&Service>, now: Option<&Service>) {
        let Some(name) = before.or(now).map(|service| service.name.clone()) else { return };
        let listed = |service: Option<&Service>| -> BTreeSet<Prefix> {
            service.into_iter().flat_map(Service::prefixes).collect()
        };
        let (before, now) = (listed(before), listed(now));
        for prefix in before.symmetric_difference(&now) {
            let concerned = self.concerned(*prefix);
            let groups: Vec<Group> = concerned.iter().filter_map(|one| self.group(*one)).collect();
            groups.iter().for_each(|group| self.untie(group));
            match now.contains(prefix) {
                true => self.list(*prefix, &name),
                false => self.unlist(*prefix, &name),
            }
            let groups: Vec<Group> = concerned.iter().filter_map(|one| self.group(*one)).collect();
            groups.into_iter().for_each(|group| self.tie(group));
        }
    }

    fn list(&mut self, prefix: Prefix, name: &ServiceName) {
        match self.listed.entry(prefix) {
            Entry::Occupied(listing) => listing.into_mut().add(name),
            Entry::Vacant(free) => {
                free.insert(Listing::One(name.clone()));
                *self.lengths.entry((prefix.family(), prefix.length())).or_default() += 1;
            }
        }
    }

    fn unlist(&mut self, prefix: Prefix, name: &ServiceName) {
        let Entry::Occupied(mut listing) = self.listed.entry(prefix) else { return };
        match listing.get().without(name) {
            Some(left) => drop(listing.insert(left)),
            None => {
                listing.remove();
                let of_this_length = (prefix.family(), prefix.length());
                if let Some(count) = self.lengths.get_mut(&of_this_length) {
                    *count -= 1;
                    if *count == 0 {
                        self.lengths.remove(&of_this_length);
                    }
                }
            }
        }
    }

    /// The prefixes whose owners can be others when this one is listed or not: itself, and what a range lies in.
    fn concerned(&self, prefix: Prefix) -> Vec<Prefix> {
        let mut concerned = match prefix.address() {
            Some(_) => Vec::new(),
            None => self.above(prefix).map(|(above, _)| above).collect(),
        };
        concerned.push(prefix);
        concerned
    }

    /// The listed prefixes that enclose one, which is not among them, the shortest first.
    fn above(&self, prefix: Prefix) -> impl Iterator<Item = (Prefix, &Listing)> {
        let shorter = self.lengths.range((prefix.family(), 0)..(prefix.family(), prefix.length()));
        shorter.filter_map(move |((_, length), _)| {
            let (above, listing) = self.listed.get_key_value(&prefix.shortened(*length))?;
            Some((*above, listing))
        })
    }

    /// The services that own a prefix together; `None` where that is one, or where longer ranges leave nothing of it.
    fn group(&self, prefix: Prefix) -> Option<Group> {
        let names = self.listed.get(&prefix)?.names();
        (names.len() > 1 && !self.is_covered(prefix)).then(|| names.into())
    }

    /// True when longer ranges cover all of a listed prefix.
    fn is_covered(&self, prefix: Prefix) -> bool {
        // Before it everything is covered.
        let mut left = prefix.first();
        for (inner, _) in self.listed.range(prefix..).skip(1) {
            if inner.family() != prefix.family() || inner.first() > left {
                return false;
            }
            if inner.address().is_none() && inner.last() >= left {
                if inner.last() >= prefix.last() {
                    return true;
                }
                left = inner.last() + 1;
            }
        }
        false
    }

    fn tie(&mut self, group: Group) {
        let count = self.ties.entry(Arc::clone(&group)).or_default();
        *count += 1;
        if *count == 1 {
            for name in group.iter() {
                self.tied.entry(name.clone()).or_default().insert(Arc::clone(&group));
            }
        }
    }

    fn untie(&mut self, group: &Group) {
        let Some(count) = self.ties.get_mut(group) else { return };
        *count -= 1;
        if *count > 0 {
            return;
        }
        self.ties.remove(group);
        for name in group.iter() {
            if let Some(groups) = self.tied.get_mut(name) {
                groups.remove(group);
                if groups.is_empty() {
                    self.tied.remove(name);
                }
            }
        }
    }

    /// The services that list an address by itself, sorted.
    pub fn listing(&self, single: Prefix) -> impl Iterator<Item = &ServiceName> {
        self.listed.get(&single).into_iter().flat_map(Listing::names)
    }

    /// True when any service lists anything from one address to another of the same family, which is its network's last.
    pub fn is_any_between(&self, first: IpAddr, last: IpAddr) -> bool {
        let (first, last) = (Prefix::single(first), Prefix::single(last));
        self.covers(first).next().is_some() || self.listed.range(first..=last).next().is_some()
    }

    /// The groups of services that own addresses together with any of these.
    pub fn ties<'a>(
        &'a self,
        of: &BTreeSet<ServiceName>,
    ) -> impl Iterator<Item = &'a [ServiceName]> + use<'a> {
        let groups: BTreeSet<&Group> = of.iter().filter_map(|name| self.tied.get(name)).flatten().collect();
        groups.into_iter().map(|group| &**group)
    }

    /// Returns the owner of an address at an instant; `None` when no service lists it. `services`: at least those that list the
    /// address, sorted by name.
    pub fn owner(&self, services: &[Standing<'_>], address: IpAddr, at: Time) -> Option<Owner> {
        let place = |name: &ServiceName| services.binary_search_by(|one| one.service.name.cmp(name)).ok();
        let state = |index: usize| {
            let standing = services.get(index)?;
            Some(schedule::state(standing.service, standing.record, standing.approved, at))
        };
        let covers: Vec<&Listing> = self.covers(Prefix::single(address)).collect();
        let places = covers.last()?.names().iter().filter_map(place);
        let (state, index) = places.filter_map(|index| Some((state(index)?, index))).min()?;
        let owner = &services.get(index)?.service.name;
        let others = covers.into_iter().flat_map(Listing::names).filter(|other| *other != owner);
        let also: BTreeSet<&ServiceName> = others.filter(|other| place(other).is_some()).collect();
        Some(Owner { index, state, also: also.into_iter().cloned().collect() })
    }

    /// True when any service lists the address.
    pub fn is_listed(&self, address: IpAddr) -> bool {
        self.covers(Prefix::single(address)).next().is_some()
    }

    /// Who lists an address, by the length of the prefix: the shortest first.
    fn covers(&self, single: Prefix) -> impl Iterator<Item = &Listing> {
        let itself = self.listed.get(&single);
        self.above(single).map(|(_, listing)| listing).chain(itself)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{FileState, Record};
    use crate::ranges;
    use crate::schedule::fixture;

    fn service(number: u8, prefixes: &[Prefix]) -> Service {
        let name = ServiceName::new(&format!("s{number}")).unwrap();
        // Two states, so that ties are decided by both.
        let state = if number.is_multiple_of(2) { FileState::Suspended } else { FileState::Commissioned };
        Service { name, state, watched: prefixes.to_vec(), ..fixture::service(vec![]) }
    }

    /// In a /27 of each family, and a shorter one around it.
    fn prefix() -> impl Strategy<Value = Prefix> {
        (any::<bool>(), 0u8..32, 0u8..6).prop_map(|(v4, last, shorter)| {
            let single = match v4 {
                true => Prefix::single(IpAddr::from([192, 0, 2, last])),
                false => Prefix::single(IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(last)])),
            };
            single.shortened(single.length() - shorter)
        })
    }

    fn standings<'a>(services: &'a BTreeMap<u8, Service>, record: &'a Record) -> Vec<Standing<'a>> {
        services.values().map(|service| Standing { service, record, approved: true }).collect()
    }

    /// By a look at every prefix of every service.
    fn plain(services: &[Standing<'_>], address: IpAddr, at: Time) -> Option<Owner> {
        let length = |standing: &Standing<'_>| {
            standing.service.prefixes().filter(|prefix| prefix.contains(address)).map(Prefix::length).max()
        };
        let lengths: Vec<_> = services.iter().map(length).collect();
        let longest = lengths.iter().copied().flatten().max()?;
        let state = |one: &Standing<'_>| schedule::state(one.service, one.record, one.approved, at);
        let first = (0..services.len()).filter(|index| lengths[*index] == Some(longest));
        let (state, index) = first.map(|index| (state(&services[index]), index)).min()?;
        let others = (0..services.len()).filter(|other| *other != index && lengths[*other].is_some());
        Some(Owner { index, state, also: others.map(|other| services[other].service.name.clone()).collect() })
    }

    /// The groups by cutting the ranges at every end, and the single addresses.
    fn plain_ties(services: &[Standing<'_>]) -> BTreeSet<Vec<ServiceName>> {
        let mut groups: BTreeSet<Vec<ServiceName>> = BTreeSet::new();
        let mut singles: BTreeMap<Prefix, BTreeSet<ServiceName>> = BTreeMap::new();
        for family in Family::ALL {
            let listed = services.iter().enumerate().flat_map(|(index, standing)| {
                let ranges = standing.service.prefixes().filter(|one| one.address().is_none());
                let ranges = ranges.filter(|one| one.family() == family);
                ranges.map(move |one| (one.first(), one.last(), (one.length(), index)))
            });
            for segment in ranges::sweep(listed) {
                let longest = segment.covers.iter().map(|(length, _)| *length).max();
                let owners = segment.covers.iter().filter(|(length, _)| Some(*length) == longest);
                groups.insert(owners.map(|(_, index)| services[*index].service.name.clone()).collect());
            }
        }
        for standing in services {
            for single in standing.service.prefixes().filter(|one| one.address().is_some()) {
                singles.entry(single).or_default().insert(standing.service.name.clone());
            }
        }
        groups.extend(singles.into_values().map(|names| names.into_iter().collect()));
        groups.retain(|group| group.len() > 1);
        groups
    }

    proptest! {
        #[test]
        fn services_that_come_change_and_go_leave_what_a_new_table_would_have(
            changes in prop::collection::vec((0u8..6, prop::collection::btree_set(prefix(), 0..6)), 1..20),
        ) {
            let (record, now) = (Record::default(), fixture::at("2026-06-01T00:00:00Z"));
            let (mut services, mut owners) = (BTreeMap::new(), Owners::default());
            for (number, prefixes) in changes {
                let prefixes: Vec<_> = prefixes.into_iter().collect();
                let next = (!prefixes.is_empty()).then(|| service(number, &prefixes));
                owners.follow(services.get(&number), next.as_ref());
                match next {
                    Some(next) => services.insert(number, next),
                    None => services.remove(&number),
                };
            }
            let standings = standings(&services, &record);
            prop_assert_eq!(format!("{:?}", owners), format!("{:?}", Owners::new(&standings)));
            for last in 0u8..=255 {
                for address in [IpAddr::from([192, 0, 2, last]), [0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(last)].into()] {
                    prop_assert_eq!(owners.owner(&standings, address, now), plain(&standings, address, now));
                }
            }
            let all = standings.iter().map(|standing| standing.service.name.clone()).collect();
            let ties: BTreeSet<Vec<ServiceName>> = owners.ties(&all).map(<[_]>::to_vec).collect();
            prop_assert_eq!(ties, plain_ties(&standings));
        }
    }
}
