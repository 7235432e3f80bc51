//! Which service a remote address belongs to.
//!
//! A refusal belongs to the service with the longest matching prefix as written; among equals to the first by state
//! ([`ServiceState`]'s order), then by name.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::compile::Standing;
use crate::model::{Family, Prefix, ServiceName, ServiceState, Time};
use crate::ranges::{self, Segment};
use crate::schedule;

/// Every listed address with those who list it. Stays valid until a service comes, goes or changes its endpoints.
#[derive(Debug, Clone, Default)]
pub struct Owners {
    v4: Vec<Segment<Listing>>,
    v6: Vec<Segment<Listing>>,
    /// The groups of services that own an address together.
    ties: BTreeSet<Vec<ServiceName>>,
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
                let prefixes = standing.service.prefixes().filter(move |p| p.family() == family);
                prefixes.map(move |prefix| (prefix.first(), prefix.last(), (prefix.length(), index)))
            }))
        };
        let (v4, v6) = (of(Family::V4), of(Family::V6));
        let groups = v4.iter().chain(&v6).map(|segment| longest(&segment.covers)).filter(|g| g.len() > 1);
        let name = |index: &usize| services.get(*index).map(|standing| standing.service.name.clone());
        let ties = groups.map(|group| group.iter().filter_map(name).collect()).collect();
        Self { v4, v6, ties }
    }

    /// The groups of services that own addresses together with any of these.
    pub fn ties<'a>(&'a self, of: &'a BTreeSet<ServiceName>) -> impl Iterator<Item = &'a [ServiceName]> {
        let groups = self.ties.iter().map(Vec::as_slice);
        groups.filter(|group| group.iter().any(|name| of.contains(name)))
    }

    /// Returns the owner of an address at an instant; `None` when no service lists it. Takes the same services that
    /// the table was made from.
    pub fn owner(&self, services: &[Standing<'_>], address: IpAddr, at: Time) -> Option<Owner> {
        let covers = self.covers(address)?;
        let state = |index: usize| {
            let standing = services.get(index)?;
            Some(schedule::state(standing.service, standing.record, standing.approved, at))
        };
        let (state, index) =
            longest(covers).into_iter().filter_map(|index| Some((state(index)?, index))).min()?;
        let others = covers.iter().map(|(_, index)| *index).filter(|other| *other != index);
        let mut also: Vec<_> =
            others.filter_map(|other| Some(services.get(other)?.service.name.clone())).collect();
        also.sort();
        also.dedup();
        Some(Owner { index, state, also })
    }

    /// True when any service lists the address.
    pub fn is_listed(&self, address: IpAddr) -> bool {
        self.covers(address).is_some()
    }

    fn covers(&self, address: IpAddr) -> Option<&[Listing]> {
        let prefix = Prefix::single(address);
        let segments = match prefix.family() {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        };
        let number = prefix.first();
        let index = segments.partition_point(|segment| segment.last < number);
        segments.get(index).filter(|segment| segment.first <= number).map(|segment| segment.covers.as_slice())
    }
}

/// Those who list a segment with the longest prefix.
fn longest(covers: &[Listing]) -> Vec<usize> {
    let longest = covers.iter().map(|(length, _)| *length).max();
    covers.iter().filter(|(length, _)| Some(*length) == longest).map(|(_, index)| *index).collect()
}
