//! News of names: committed to the kernel, then kept.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::engine::Engine;
use crate::kernel::clock;
use crate::kernel::commit::CommitError;
use crate::kernel::sockets::{SocketTable, TimeWait};
use crate::model::HostName;
use crate::names::News;
use crate::reconcile::World;

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
            tracing::info!(%name, addresses, "name changed");
        }
        if let Err(error) = self.put_hosts_in_force(next, &changed) {
            tracing::error!(%error, "new addresses of names are not in the table: they stay as they were");
        }
    }

    /// Writes down what changed, for a daemon that starts without a resolver.
    pub async fn write_hosts(&mut self) {
        if self.unwritten_hosts.is_empty() || self.store_error.is_some() {
            return;
        }
        let known = |host: &HostName| Some((host.clone(), Arc::clone(self.world.names().get(host)?)));
        let names = self.unwritten_hosts.iter().filter_map(known).collect();
        match self.keeper.store().put_names(&names).await {
            Ok(()) => self.unwritten_hosts.clear(),
            Err(error) => {
                tracing::error!(%error, "what names stand for is not on record yet");
                self.store_broke(error.to_string());
            }
        }
    }

    /// Lets names lose what they had for long enough.
    pub async fn on_ageing(&mut self) {
        if self.world.hosts().next().is_none() {
            return;
        }
        self.write_hosts().await;
        self.catch_up_with_time().await;
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
        if next.services_of(changed).iter().any(|service| next.moved(&self.world, service)) {
            self.put_in_force(next, &BTreeSet::new())?;
        } else {
            self.take(next);
        }
        self.unwritten_hosts.extend(changed.iter().cloned());
        Ok(())
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
