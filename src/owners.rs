//! Which service a remote address belongs to.
//!
//! A refusal belongs to the service with the longest matching prefix as written; among equals to the first by state
//! ([`ServiceState`]'s order), then by name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::compile::Standing;
use crate::model::{Family, Prefix, Service, ServiceName, ServiceState, Time};
use crate::ranges::{self, Segment};
use crate::schedule;

/// Every listed address with those who list it. Stays valid until a service comes, goes or changes its endpoints; single
/// addresses may come and go.
#[derive(Debug, Clone, Default)]
pub struct Owners {
    /// The services, in the order in which the others count them.
    names: Vec<ServiceName>,
    /// Prefixes of more than one address.
    v4: Vec<Segment<Listing>>,
    v6: Vec<Segment<Listing>>,
    /// Who lists an address by itself: the longest prefix there is.
    singles: BTreeMap<Prefix, BTreeSet<usize>>,
    /// The groups of services that own addresses together, and how many each.
    ties: BTreeMap<Vec<ServiceName>, usize>,
}

/// The length of the prefix and the place of the service in the list that the table was made from.
type Listing = (u8, usize);

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
    /// Makes the table for these services, which must be sorted by name.
    pub fn new(services: &[Standing<'_>]) -> Self {
        let of = |family| {
            ranges::sweep(services.iter().enumerate().flat_map(move |(index, standing)| {
                let prefixes = standing.service.prefixes().filter(move |prefix| prefix.family() == family);
                let ranges = prefixes.filter(|prefix| prefix.address().is_none());
                ranges.map(move |prefix| (prefix.first(), prefix.last(), (prefix.length(), index)))
            }))
        };
        let names = services.iter().map(|standing| standing.service.name.clone()).collect();
        let mut owners = Self { names, v4: of(Family::V4), v6: of(Family::V6), ..Self::default() };
        let groups: Vec<_> =
            owners.v4.iter().chain(&owners.v6).map(|segment| longest(&segment.covers)).collect();
        groups.into_iter().for_each(|group| owners.tie(&group));
        for (index, standing) in services.iter().enumerate() {
            for prefix in singles(standing.service) {
                owners.singles.entry(prefix).or_default().insert(index);
            }
        }
        let groups: Vec<Vec<usize>> = owners.singles.values().map(|g| g.iter().copied().collect()).collect();
        groups.into_iter().for_each(|group| owners.tie(&group));
        owners
    }

    fn tie(&mut self, group: &[usize]) {
        if group.len() > 1 {
            *self.ties.entry(self.named(group)).or_default() += 1;
        }
    }

    fn untie(&mut self, group: &[usize]) {
        let group = self.named(group);
        if let Some(count) = self.ties.get_mut(&group) {
            *count -= 1;
            if *count == 0 {
                self.ties.remove(&group);
            }
        }
    }

    fn named(&self, group: &[usize]) -> Vec<ServiceName> {
        group.iter().filter_map(|index| self.names.get(*index).cloned()).collect()
    }

    /// Follows a service that lists other single addresses than before. Longer ranges must be the same.
    pub fn follow(&mut self, before: &Service, now: &Service) {
        let Ok(index) = self.names.binary_search(&now.name) else { return };
        let (before, now) = (singles(before), singles(now));
        for prefix in before.symmetric_difference(&now) {
            let mut listing = self.singles.remove(prefix).unwrap_or_default();
            self.untie(&listing.iter().copied().collect::<Vec<_>>());
            match now.contains(prefix) {
                true => listing.insert(index),
                false => listing.remove(&index),
            };
            self.tie(&listing.iter().copied().collect::<Vec<_>>());
            if !listing.is_empty() {
                self.singles.insert(*prefix, listing);
            }
        }
    }

    /// The services that list an address by itself, sorted.
    pub fn listing(&self, single: Prefix) -> impl Iterator<Item = &ServiceName> {
        self.singles.get(&single).into_iter().flatten().filter_map(|index| self.names.get(*index))
    }

    /// True when any service lists anything from one address to another of the same family.
    pub fn is_any_between(&self, first: IpAddr, last: IpAddr) -> bool {
        let (first, last) = (Prefix::single(first), Prefix::single(last));
        let segments = match first.family() {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        };
        let index = segments.partition_point(|segment| segment.last < first.first());
        let ranged = segments.get(index).is_some_and(|segment| segment.first <= last.first());
        ranged || self.singles.range(first..=last).next().is_some()
    }

    /// The groups of services that own addresses together with any of these.
    pub fn ties<'a>(&'a self, of: &'a BTreeSet<ServiceName>) -> impl Iterator<Item = &'a [ServiceName]> {
        let groups = self.ties.keys().map(Vec::as_slice);
        groups.filter(|group| group.iter().any(|name| of.contains(name)))
    }

    /// Returns the owner of an address at an instant; `None` when no service lists it. Takes the same services that
    /// the table was made from.
    pub fn owner(&self, services: &[Standing<'_>], address: IpAddr, at: Time) -> Option<Owner> {
        let covers = self.covers(address);
        let state = |index: usize| {
            let standing = services.get(index)?;
            Some(schedule::state(standing.service, standing.record, standing.approved, at))
        };
        let (state, index) =
            longest(&covers).into_iter().filter_map(|index| Some((state(index)?, index))).min()?;
        let others = covers.iter().map(|(_, index)| *index).filter(|other| *other != index);
        let mut also: Vec<_> =
            others.filter_map(|other| Some(services.get(other)?.service.name.clone())).collect();
        also.sort();
        also.dedup();
        Some(Owner { index, state, also })
    }

    /// True when any service lists the address.
    pub fn is_listed(&self, address: IpAddr) -> bool {
        !self.covers(address).is_empty()
    }

    fn covers(&self, address: IpAddr) -> Vec<Listing> {
        let prefix = Prefix::single(address);
        let segments = match prefix.family() {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        };
        let number = prefix.first();
        let index = segments.partition_point(|segment| segment.last < number);
        let segment = segments.get(index).filter(|segment| segment.first <= number);
        let singles = self.singles.get(&prefix).into_iter().flatten();
        let ranged = segment.into_iter().flat_map(|segment| segment.covers.iter().copied());
        ranged.chain(singles.map(|index| (prefix.length(), *index))).collect()
    }
}

/// The addresses that a service lists by themselves.
fn singles(service: &Service) -> BTreeSet<Prefix> {
    service.prefixes().filter(|prefix| prefix.address().is_some()).collect()
}

/// Those who list a segment with the longest prefix.
fn longest(covers: &[Listing]) -> Vec<usize> {
    let longest = covers.iter().map(|(length, _)| *length).max();
    covers.iter().filter(|(length, _)| Some(*length) == longest).map(|(_, index)| *index).collect()
}
