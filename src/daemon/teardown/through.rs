//! The same for what this host forwards: the sockets inside of containers, and the flows that other tables track.
//!
//! To enter a container's network takes more than the daemon needs for all else. Without it the kernel refuses just
//! the same, and each end learns of the close when it next sends.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::concerned::Concerned;
use super::{Proofs, is_admitted, is_connected, is_enforced, packets_between};
use crate::compile::{Place, Standing};
use crate::kernel::conntrack::{self, Flow};
use crate::kernel::sockets::{Protocol, Socket, SocketTable, TimeWait};
use crate::model::{ServiceName, Subject};
use crate::owners::Owners;
use crate::reconcile::World;

/// The sockets of a container.
pub struct Container {
    subject: Subject,
    table: SocketTable,
}

/// A connection of a container with a network of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    pub protocol: Protocol,
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

/// Enters the networks of these processes, as far as it is allowed.
pub fn open(namespaces: &[(Subject, u32)]) -> Vec<Container> {
    let enter = |(subject, process): &(Subject, u32)| match SocketTable::open_in(*process) {
        Ok(table) => Some(Container { subject: subject.clone(), table }),
        Err(error) => {
            tracing::info!(%subject, %error, "its ends learn of a close when they next send");
            None
        }
    };
    namespaces.iter().filter_map(enter).collect()
}

/// One look: destroys what must go; returns what was there.
pub fn round(
    world: &World,
    owners: &Owners,
    containers: &mut [Container],
    proofs: &mut Proofs,
) -> Vec<(ServiceName, String)> {
    let mut left = Vec::new();
    for container in containers {
        left.extend(cut_sockets(world, owners, container, proofs));
    }
    untrack(world, owners, proofs);
    left
}

fn cut_sockets(
    world: &World,
    owners: &Owners,
    container: &mut Container,
    proofs: &mut Proofs,
) -> Vec<(ServiceName, String)> {
    let mut left = Vec::new();
    for (service, socket) in doomed(world, owners, container) {
        match container.table.destroy(&socket) {
            Ok(true) => proofs.entry(service.clone()).or_default().sockets_closed += 1,
            Ok(false) => {}
            Err(error) => tracing::warn!(%service, %error, "cannot destroy a socket"),
        }
        left.push((service, format!("{} {} > {}", socket.protocol.as_str(), socket.local, socket.remote)));
    }
    left
}

/// The connections of a container that no grant admits, each with its service.
fn doomed(world: &World, owners: &Owners, container: &mut Container) -> Vec<(ServiceName, Socket)> {
    let sockets = container.connected();
    let judge = Judge::new(world, owners, sockets.iter().map(|socket| socket.remote.ip()));
    let whose = |socket: &Socket| judge.whose(socket.protocol, socket.local, socket.remote);
    sockets.into_iter().filter_map(|socket| Some((whose(&socket)?, socket))).collect()
}

/// Removes what connection tracking knows of flows that no grant admits any more.
fn untrack(world: &World, owners: &Owners, proofs: &mut Proofs) {
    let flows = tracked(world);
    let judge = Judge::new(world, owners, flows.iter().map(|flow| flow.destination().ip()));
    for flow in flows {
        let whose = judge.whose(flow.protocol(), flow.source(), flow.destination());
        let Some(service) = whose else { continue };
        match conntrack::delete(&[flow]) {
            Ok(removed) => proofs.entry(service).or_default().flows_removed += removed as u64,
            Err(error) => tracing::warn!(%service, %error, "cannot remove a tracked flow"),
        }
    }
}

/// The tracked flows of containers, seen from the container.
fn tracked(world: &World) -> Vec<Flow> {
    let addresses: BTreeSet<IpAddr> = addresses(world).collect();
    if addresses.is_empty() {
        return Vec::new();
    }
    let tracked = conntrack::list().unwrap_or_else(|error| {
        tracing::warn!(%error, "tracked flows of containers cannot be seen: they stay until they time out");
        Vec::new()
    });
    // The container is where the first packet comes from, or where the answers do: an address of the host may have
    // stood for it on the way.
    let ours = |flow: &Flow| addresses.contains(&flow.source().ip());
    tracked.iter().flat_map(|tracked| [tracked.original, tracked.reply]).filter(ours).collect()
}

/// Every connection of containers that can be seen, each with its container: sockets, and flows of those that cannot be entered.
pub fn connections(world: &World, namespaces: &[(Subject, u32)]) -> Vec<Connection> {
    let mut found = BTreeSet::new();
    for mut container in open(namespaces) {
        let of = |socket: Socket| (socket.protocol, socket.local, socket.remote);
        found.extend(container.connected().into_iter().map(of));
    }
    found.extend(tracked(world).iter().map(|flow| (flow.protocol(), flow.source(), flow.destination())));
    found.into_iter().map(|(protocol, local, remote)| Connection { protocol, local, remote }).collect()
}

impl Connection {
    /// The service to which it belongs where no grant admits it.
    pub fn refused_by(&self, world: &World, owners: &Owners) -> Option<ServiceName> {
        let judge = Judge::new(world, owners, std::iter::once(self.remote.ip()));
        judge.whose(self.protocol, self.local, self.remote)
    }

    /// The container of its address.
    pub fn subject(&self, world: &World) -> Option<Subject> {
        let place = Place::Address(self.local.ip());
        world.subjects().into_iter().find(|subject| world.places(subject).contains(&place)).cloned()
    }
}

impl Container {
    fn connected(&mut self) -> Vec<Socket> {
        let sockets = self.table.dump(TimeWait::Skip).unwrap_or_else(|error| {
            tracing::warn!(subject = %self.subject, %error, "cannot see the sockets of a container");
            Vec::new()
        });
        sockets.into_iter().filter(is_connected).collect()
    }
}

fn addresses(world: &World) -> impl Iterator<Item = IpAddr> {
    let places = world.subjects().into_iter().flat_map(|subject| world.places(subject));
    places.filter_map(|place| match place {
        Place::Address(address) => Some(*address),
        Place::Cgroup(_) | Place::Former(_) | Place::User(_) | Place::Group(_) => None,
    })
}

/// Tells to which services connections of containers belong.
struct Judge<'w> {
    world: &'w World,
    owners: &'w Owners,
    services: Vec<Standing<'w>>,
    concerned: Concerned<'w>,
}

impl<'w> Judge<'w> {
    fn new(world: &'w World, owners: &'w Owners, remotes: impl Iterator<Item = IpAddr>) -> Self {
        let mut remotes = remotes.filter(|remote| owners.is_listed(*remote)).peekable();
        let services = if remotes.peek().is_some() { world.standings() } else { Vec::new() };
        let concerned = Concerned::new(&services, remotes);
        Self { world, owners, services, concerned }
    }

    /// The service to which a connection belongs that no grant admits. Its remote address is one of those given at first.
    fn whose(&self, protocol: Protocol, local: SocketAddr, remote: SocketAddr) -> Option<ServiceName> {
        let about = self.concerned.about(remote.ip());
        let is = |subject: &Subject| self.world.places(subject).contains(&Place::Address(local.ip()));
        if is_admitted(self.world, about, &packets_between(protocol, local, remote), &is) {
            return None;
        }
        let owner = self.owners.owner(&self.services, remote.ip(), self.world.now())?;
        let service = self.services.get(owner.index)?.service;
        is_enforced(self.world, service).then(|| service.name.clone())
    }
}
