//! News of names: committed to the kernel, then kept.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::engine::Engine;
use super::names;
use crate::compile::ANSWER;
use crate::kernel::clock;
use crate::kernel::commit::CommitError;
use crate::kernel::nflog;
use crate::kernel::sockets::{SocketTable, TimeWait};
use crate::model::{HostName, ServiceName};
use crate::names::News;
use crate::reconcile::World;
use crate::ruleset::Part;

impl Engine {
    /// Takes news of names in. What cannot be committed is not known either: the next answer brings it again.
    pub async fn on_names(&mut self, news: &[(HostName, News)]) {
        for (name, error) in news.iter().filter_map(|(name, news)| failure(news).map(|error| (name, error))) {
            tracing::debug!(%name, error, "a name does not resolve: what it has stays");
        }
        self.catch_up_with_time().await;
        let mut next = self.world.clone();
        let changed = next.hear(news, clock::now());
        for name in &changed {
            let addresses = next.host(name).map_or(0, |known| known.addresses.len());
            tracing::debug!(%name, addresses, "name changed");
        }
        if let Err(error) = self.put_hosts_in_force(next, &changed) {
            tracing::error!(%error, "new addresses of names are not in the table: they stay as they were");
        }
    }

    /// Writes down what changed, for a daemon that starts without a resolver.
    pub async fn write_hosts(&mut self) {
        if self.unwritten_hosts.is_empty() || self.store_error.is_some() || self.attempts.is_writing() {
            return;
        }
        // Nothing is written of a name that is forgotten.
        let known = |host: &HostName| (host.clone(), self.world.host(host).cloned().unwrap_or_default());
        let names = self.unwritten_hosts.iter().map(known).collect();
        match self.keeper.store().put_names(&names).await {
            Ok(()) => self.unwritten_hosts.clear(),
            Err(error) => {
                tracing::error!(%error, "what names stand for is not on record yet");
                self.store_broke(error.to_string());
            }
        }
    }

    /// Takes in what processes were answered. Only name servers of this host teach: whom a process asks otherwise may
    /// say what the process likes.
    pub async fn on_answers(&mut self, records: &[nflog::Record]) {
        let now = clock::now().max(self.world.now());
        let mut news = Vec::new();
        for record in records.iter().filter(|record| record.prefix == ANSWER) {
            let server = record.packet.source;
            let answer =
                record.datagram.as_deref().filter(|_| self.hosts.is_resolver(server)).and_then(names::read);
            let Some(answer) = answer else { continue };
            for host in self.world.hosts_covering(&answer.asked) {
                news.extend(answer.addresses.iter().map(|(address, holds)| {
                    let holds = chrono::TimeDelta::from_std(*holds).unwrap_or_default();
                    (host.clone(), News::Learned { address: *address, until: now + holds })
                }));
            }
        }
        if !news.is_empty() {
            self.on_names(&news).await;
        }
    }

    /// Lets names lose what they had for long enough.
    pub async fn on_ageing(&mut self) {
        self.write_hosts().await;
        self.catch_up_with_time().await;
        self.hosts.set(self.world.hosts().cloned().collect());
        let now = clock::now().max(self.world.now());
        let leaving = self.world.leaving(now);
        // Whoever is still connected keeps the address: ungoverned, the connection would outlive its window.
        let in_use = match leaving.is_empty() {
            true => BTreeSet::new(),
            false => in_use(&leaving),
        };
        let mut next = self.world.clone();
        let changed = next.age_hosts(now, &in_use);
        if changed.is_empty() {
            return;
        }
        if let Err(error) = self.put_hosts_in_force(next, &changed) {
            tracing::error!(%error, "addresses that left their names are still in the table");
        }
    }

    /// States follow the time before names do: what is due belongs to the moment before.
    async fn catch_up_with_time(&mut self) {
        let now = clock::now();
        if self.deadline() <= now
            && let Err(error) = self.tick(now, false).await
        {
            tracing::error!(%error, "a transition is not in the table; the kernel closes all the same");
        }
    }

    fn put_hosts_in_force(&mut self, next: World, changed: &BTreeSet<HostName>) -> Result<(), CommitError> {
        let mut moved = next.services_of(changed);
        moved.retain(|service| next.moved(&self.world, service));
        let allowed = next.compile_allowed(changed, &self.world);
        match (moved.is_empty(), allowed) {
            (true, None) => self.take(next),
            (true, Some(allowed)) => drop(self.put_part_in_force(next, allowed)?),
            (false, allowed) => drop(self.put_addresses_in_force(next, &moved, allowed)?),
        }
        self.unwritten_hosts.extend(changed.iter().cloned());
        Ok(())
    }
}

impl Engine {
    /// Puts in force what follows the addresses of these services, beside a `part` that follows something else.
    pub(super) fn put_addresses_in_force(
        &mut self,
        next: World,
        moved: &BTreeSet<ServiceName>,
        part: Option<Part>,
    ) -> Result<bool, CommitError> {
        self.follow(&next, moved);
        let owners = &self.owners;
        let listing = |single| owners.listing(single).cloned().collect();
        let governed = |first, last| owners.is_any_between(first, last);
        let committed = match next.compile_addresses(moved, &self.world, &listing, &governed) {
            Some(addresses) => {
                let mut all = part.unwrap_or_else(|| Part::new(&self.in_force.table));
                all.wanted.chains.extend(addresses.wanted.chains);
                all.wanted.counters.extend(addresses.wanted.counters);
                all.elements.extend(addresses.elements);
                let before = self.world.clone();
                self.put_part_in_force(next.clone(), all).map_err(|error| (error, before))
            }
            None => {
                let before = self.world.clone();
                self.put_in_force(next.clone(), &BTreeSet::new()).map_err(|error| (error, before))
            }
        };
        committed.map_err(|(error, before)| {
            for service in moved {
                if let (Some(now), Some(then)) = (next.standing(service), before.standing(service)) {
                    self.owners.follow(Some(now.service), Some(then.service));
                }
            }
            error
        })
    }

    fn follow(&mut self, next: &World, moved: &BTreeSet<ServiceName>) {
        for service in moved {
            if let (Some(before), Some(now)) = (self.world.standing(service), next.standing(service)) {
                self.owners.follow(Some(before.service), Some(now.service));
            }
        }
    }
}

fn failure(news: &News) -> Option<&str> {
    match news {
        News::Failed(error) => Some(error),
        News::Resolved { .. } | News::Learned { .. } => None,
    }
}

/// Those of the addresses that a socket of this host is connected to; all of them when nobody can tell.
fn in_use(of: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
    let sockets = SocketTable::open().and_then(|mut table| table.dump(TimeWait::Skip));
    match sockets {
        Ok(sockets) => {
            let remotes = sockets.iter().map(|socket| socket.remote.ip().to_canonical());
            remotes.filter(|remote| of.contains(remote)).collect()
        }
        Err(error) => {
            tracing::error!(%error, "cannot tell who is connected: addresses that left their names stay");
            of.clone()
        }
    }
}
