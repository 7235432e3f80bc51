//! What becomes of the services that name a host when its addresses change.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::World;
use crate::model::{HostName, Service, ServiceName, ServiceState, Time};
use crate::names::{self, Name, Names, News, Scope};

impl World {
    /// Every name that some service names.
    pub fn hosts(&self) -> impl Iterator<Item = &HostName> {
        self.index.hosts()
    }

    /// What a name has and had; `None` before the first news of it.
    pub fn host(&self, name: &HostName) -> Option<&Name> {
        self.names.get(name).map(Arc::as_ref)
    }

    /// The service as its file says it, without the addresses of its names.
    pub fn file(&self, name: &ServiceName) -> Option<&Service> {
        self.services.get(name).map(|known| known.file.as_ref())
    }

    /// Takes over what a former daemon knew of a name. Before the services that name it come in.
    pub fn remember_host(&mut self, host: HostName, name: Name) {
        Arc::make_mut(&mut self.names).insert(host, Arc::new(name));
    }

    /// Takes news of names in; returns the names whose addresses changed.
    pub fn hear(&mut self, news: &[(HostName, News)], now: Time) -> BTreeSet<HostName> {
        self.see(now);
        let mut changed = BTreeSet::new();
        for (host, news) in news {
            if self.index.with_host(host).next().is_none() {
                continue;
            }
            let name = Arc::make_mut(&mut self.names).entry(host.clone()).or_default();
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
        let changed: BTreeSet<HostName> = self.index.hosts().filter(is_due).cloned().collect();
        for host in &changed {
            if let Some(name) = Arc::make_mut(&mut self.names).get_mut(host) {
                Arc::make_mut(name).pass(self.latest, in_use);
            }
        }
        self.refresh_all(&changed);
        changed
    }

    /// The addresses that the next [`World::age_hosts`] at this time would drop if nobody uses them.
    pub fn leaving(&self, now: Time) -> BTreeSet<IpAddr> {
        let names = self.index.hosts().filter_map(|host| self.names.get(host));
        names.flat_map(|name| name.leaving(now)).collect()
    }

    fn refresh_all(&mut self, hosts: &BTreeSet<HostName>) {
        for service in self.services_of(hosts) {
            self.refresh(&service);
        }
    }

    /// Gives a service the addresses that its names have for it now.
    pub(super) fn refresh(&mut self, service: &ServiceName) {
        let Some(known) = self.services.get(service) else { return };
        if known.file.names().next().is_none() {
            return;
        }
        let scope = self.scope(service);
        let Some(effective) = names::effective(&known.file, &self.names, scope, self.latest) else { return };
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

    /// Every name, for the store.
    pub fn names(&self) -> &Names {
        &self.names
    }
}
