//! What becomes of the services and segments that name a host when its addresses change.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::World;
use crate::compile::{self, Listing, Place, Standing};
use crate::model::{HostName, Prefix, Service, ServiceName, ServiceState, Subject, Time};
use crate::names::{self, Name, News, Scope};
use crate::ruleset::Part;

/// Who lists an address by itself.
pub type Listed<'a> = &'a dyn Fn(Prefix) -> Vec<ServiceName>;

/// Whether anything is governed from one address to another.
pub type Governed<'a> = &'a dyn Fn(IpAddr, IpAddr) -> bool;

impl World {
    /// Every name of a segment, and of a service that is not decommissioned. Of the others none is asked for: whoever
    /// takes an abandoned name over could have this host refuse any address.
    pub fn hosts(&self) -> impl Iterator<Item = &HostName> {
        self.all_hosts().into_iter().filter(|host| self.is_followed(host))
    }

    fn all_hosts(&self) -> BTreeSet<&HostName> {
        self.index.hosts().chain(self.enclosures.hosts()).collect()
    }

    fn is_followed(&self, host: &HostName) -> bool {
        let mut services = self.index.with_host(host);
        self.enclosures.allows_host(host)
            || services.any(|service| self.state(service) != Some(ServiceState::Decommissioned))
    }

    /// The names that cover a name of an answer: itself, and patterns above it.
    pub fn hosts_covering(&self, asked: &str) -> Vec<HostName> {
        let Some(asked) = HostName::new(asked) else { return Vec::new() };
        let below = asked.as_str().match_indices('.').filter_map(|(at, _)| asked.as_str().get(at..));
        let patterns: Vec<_> = below.filter_map(|rest| HostName::new(&format!("*{rest}"))).collect();
        std::iter::once(asked.clone()).chain(patterns).filter(|host| self.is_host(host)).collect()
    }

    /// True when some service or segment names it.
    fn is_host(&self, host: &HostName) -> bool {
        self.enclosures.allows_host(host) || self.index.with_host(host).next().is_some()
    }

    /// Forgets what neither a service nor a segment names any more; returns it.
    pub fn forget_unused_hosts(&mut self) -> BTreeSet<HostName> {
        let unused: BTreeSet<_> = self.names.keys().filter(|host| !self.is_host(host)).cloned().collect();
        for host in &unused {
            self.names.remove(host);
        }
        unused
    }

    /// What a name has and had; `None` before the first news of it.
    pub fn host(&self, name: &HostName) -> Option<&Arc<Name>> {
        self.names.get(name)
    }

    /// The service as its file says it, without the addresses of its names.
    pub fn file(&self, name: &ServiceName) -> Option<&Service> {
        self.services.get(name).map(|known| known.file.as_ref())
    }

    /// Takes over what a former daemon knew of a name. Before the services and segments that name it come in.
    pub fn remember_host(&mut self, host: HostName, name: Name) {
        self.names.insert(host, Arc::new(name));
    }

    /// Takes news of names in; returns the names whose addresses changed.
    pub fn hear(&mut self, news: &[(HostName, News)], now: Time) -> BTreeSet<HostName> {
        self.see(now);
        let mut changed = BTreeSet::new();
        for (host, news) in news {
            if !self.is_followed(host) {
                continue;
            }
            let name = self.names.entry(host.clone()).or_default();
            if Arc::make_mut(name).take(news, self.latest) {
                changed.insert(host.clone());
            }
        }
        self.refresh_all(&changed);
        changed
    }

    /// Lets names lose what they had for long enough; `in_use`: the addresses that somebody is connected to. Returns
    /// the names that changed.
    pub fn age_hosts(&mut self, now: Time, in_use: &BTreeSet<IpAddr>) -> BTreeSet<HostName> {
        self.see(now);
        let is_due = |host: &&HostName| self.names.get(*host).is_some_and(|name| name.is_due(self.latest));
        let changed: BTreeSet<HostName> = self.all_hosts().into_iter().filter(is_due).cloned().collect();
        for host in &changed {
            if let Some(name) = self.names.get_mut(host) {
                Arc::make_mut(name).pass(self.latest, in_use);
            }
        }
        self.refresh_all(&changed);
        changed
    }

    /// When [`World::age_hosts`] next changes something.
    pub fn ageing_due(&self) -> Option<Time> {
        let names = self.all_hosts().into_iter().filter_map(|host| self.names.get(host));
        names.filter_map(|name| name.due()).min()
    }

    /// The addresses that the next [`World::age_hosts`] at this time would drop if nobody uses them.
    pub fn leaving(&self, now: Time) -> BTreeSet<IpAddr> {
        let names = self.all_hosts().into_iter().filter_map(|host| self.names.get(host));
        names.flat_map(|name| name.leaving(now)).collect()
    }

    fn refresh_all(&mut self, hosts: &BTreeSet<HostName>) {
        for service in self.services_of(hosts) {
            self.refresh(&service);
        }
        self.refresh_segments(&self.segments_of(hosts));
    }

    /// Gives a service the addresses that its names have for it now.
    pub(super) fn refresh(&mut self, service: &ServiceName) {
        let Some(known) = self.services.get(service) else { return };
        if known.scheduled.names().next().is_none() {
            return;
        }
        let scope = self.scope(service);
        let Some(effective) = names::effective(&known.scheduled, &self.names, scope, self.latest) else {
            return;
        };
        if *known.service != effective
            && let Some(known) = self.known_mut(service)
        {
            known.service = Arc::new(effective);
        }
    }

    fn scope(&self, service: &ServiceName) -> Scope {
        match self.state(service) {
            Some(ServiceState::Decommissioned) => Scope::Ever,
            Some(ServiceState::Open) => match self.current_opening(service) {
                Some(opening) => Scope::Open(opening.opens_at()),
                None => Scope::Shut,
            },
            Some(
                ServiceState::Closed
                | ServiceState::Suspended
                | ServiceState::Pending
                | ServiceState::Unapproved,
            )
            | None => Scope::Shut,
        }
    }

    /// The services that name any of these.
    pub fn services_of(&self, hosts: &BTreeSet<HostName>) -> BTreeSet<ServiceName> {
        hosts.iter().flat_map(|host| self.index.with_host(host)).cloned().collect()
    }

    /// True when a service has other addresses here than in the world before.
    pub fn moved(&self, before: &Self, service: &ServiceName) -> bool {
        match (self.services.get(service), before.services.get(service)) {
            (Some(now), Some(before)) => !Arc::ptr_eq(&now.service, &before.service),
            (None, None) => false,
            (Some(_), None) | (None, Some(_)) => true,
        }
    }

    /// Adds where those of the subjects are whose policies or segments have names: their questions to name servers are
    /// noted.
    pub(super) fn compile_learning(&self, subjects: &BTreeSet<Subject>, before: &Self, part: &mut Part) {
        let moved: Vec<_> = subjects.iter().filter(|subject| self.names_hosts(subject)).collect();
        let left = moved.iter().flat_map(|subject| before.places(subject));
        let mut left: BTreeSet<&Place> = left.collect();
        if !left.is_empty() {
            // Who is in a place is asked for last: once for all of them this looks at every subject.
            let stay = |(_, places): &(&Arc<Subject>, &Arc<[Place]>)| {
                places.iter().any(|place| left.contains(place))
            };
            let stay: Vec<_> = self.resolution.iter().filter(stay).collect();
            for (_, places) in stay.into_iter().filter(|(subject, _)| self.names_hosts(subject)) {
                left.retain(|place| !places.contains(place));
            }
        }
        compile::learning_moved(left, moved.iter().flat_map(|subject| self.places(subject)), part);
        let in_sets = |world: &Self, subject| compile::is_in_sets(world.places(subject));
        if moved.iter().any(|subject| !in_sets(before, subject) || !in_sets(self, subject)) {
            let all: BTreeSet<&ServiceName> =
                self.index.hosts().flat_map(|host| self.index.with_host(host)).collect();
            let standings = self.standings_of(all);
            compile::asking_chain(&self.input(&standings), part);
        }
    }

    fn names_hosts(&self, subject: &Subject) -> bool {
        if self.enclosures.names_hosts(subject) {
            return true;
        }
        let standings = self.standings_of(self.index.with_subject(subject));
        standings.iter().any(|standing| compile::naming(standing.service).any(|naming| naming == subject))
    }

    /// Returns only what follows the single addresses of these services, which in the world `before` had others;
    /// `None` when that takes more than a few elements. `listing`: who lists an address by itself now; `governed`:
    /// whether anything is, from one address to another.
    pub fn compile_addresses(
        &self,
        moved: &BTreeSet<ServiceName>,
        before: &Self,
        listing: Listed<'_>,
        governed: Governed<'_>,
    ) -> Option<Part> {
        let mut part = Part::new(&self.settings.enforcement.table);
        let mut changed = BTreeSet::new();
        for service in moved {
            let (now, old) = (self.services.get(service)?, before.services.get(service)?);
            changed.extend(changed_addresses(&old.service, &now.service)?);
        }
        self.add_singles(changed, moved, before, (listing, governed), &mut part)?;
        Some(part)
    }

    /// Adds what leads from these addresses to services, where it is another than in the world `before`; `None` when that
    /// takes more than a few elements. `moved`: all services that list one of them no more.
    pub(super) fn add_singles(
        &self,
        singles: BTreeSet<Prefix>,
        moved: &BTreeSet<ServiceName>,
        before: &Self,
        (listing, governed): (Listed<'_>, Governed<'_>),
        part: &mut Part,
    ) -> Option<()> {
        for single in singles {
            let now = listing(single);
            let all: BTreeSet<&ServiceName> = now.iter().chain(moved).collect();
            let lists = |standing: &Standing<'_>| standing.service.prefixes().any(|prefix| prefix == single);
            let mut old = before.standings_of(all);
            old.retain(lists);
            let listing = Listing { single, before: old, now: self.standings_of(&now) };
            let (first, last) = compile::network(single.address()?);
            if !compile::address_part(&self.input(&[]), &listing, governed(first, last), part) {
                return None;
            }
        }
        Some(())
    }
}

/// The addresses that a service lists otherwise than before; `None` when it differs in more than single addresses.
fn changed_addresses(before: &Service, now: &Service) -> Option<BTreeSet<Prefix>> {
    let mut changed = BTreeSet::new();
    let mut compare = |before: &[Prefix], now: &[Prefix]| {
        let (before, now): (BTreeSet<_>, BTreeSet<_>) = (before.iter().collect(), now.iter().collect());
        changed.extend(before.symmetric_difference(&now).map(|prefix| **prefix));
    };
    if before.policies.len() != now.policies.len() {
        return None;
    }
    for (before, now) in before.policies.iter().zip(&now.policies) {
        compare(&before.prefixes, &now.prefixes);
    }
    compare(&before.watched, &now.watched);
    changed.iter().all(|prefix| prefix.address().is_some()).then_some(changed)
}
