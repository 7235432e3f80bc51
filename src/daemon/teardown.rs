//! Cuts what is connected and no grant admits any more, and proves that nothing is left.
//!
//! The kernel refuses by itself from the close on. For two seconds it drops outgoing segments silently, so that the
//! resets that come with destroying a socket reach the provider before our own refusal kills the socket quietly.

mod concerned;
mod paths;
pub mod through;

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::api::body::Teardown;
use crate::compile::{Place, Standing};
use crate::explain::{self, Explanation, Packet};
use crate::kernel::cgroups::Hierarchy;
use crate::kernel::conntrack::{self, Flow};
use crate::kernel::sockets::{self, Socket, SocketTable, TcpState, TimeWait};
use crate::model::{Direction, Mode, Policy, Protocol, Service, ServiceName, Subject};
use crate::owners::Owners;
use crate::reconcile::World;
use concerned::Concerned;
use paths::Paths;
pub use paths::cgroup_paths;

/// The longest that a teardown looks for what is left. An order returns within two seconds.
pub const LIMIT: Duration = Duration::from_millis(1200);

/// Between two looks while something is left.
pub const PAUSE: Duration = Duration::from_millis(20);

/// What was cut, by the service it belonged to.
pub type Proofs = BTreeMap<ServiceName, Teardown>;

/// Cuts every connection to a governed address that no open grant admits. Sockets that a grant of another service
/// still admits stay, and so does everything of services in observe mode.
pub async fn sweep(
    world: &World,
    owners: &Owners,
    hierarchy: &Hierarchy,
    namespaces: &[(Subject, u32)],
) -> Proofs {
    let mut proofs = Proofs::new();
    let mut containers = through::open(namespaces);
    let (began, mut looks) = (Instant::now(), 0);
    loop {
        let mut left = round(world, owners, hierarchy, &mut proofs);
        left.extend(through::round(world, owners, &mut containers, &mut proofs));
        looks += 1;
        let done = left.is_empty() || began.elapsed() >= LIMIT;
        if done {
            for (service, residue) in left {
                proofs.entry(service).or_default().residue.push(residue);
            }
            tell(&proofs, looks, began);
            return proofs;
        }
        // What was destroyed is gone at once: the first look after it is the proof, as a rule.
        if looks > 1 {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn tell(proofs: &Proofs, looks: u32, began: Instant) {
    let closed: u64 = proofs.values().map(|proof| proof.sockets_closed).sum();
    if closed > 0 {
        tracing::info!(sockets = closed, looks, took_ms = began.elapsed().as_millis(), "connections cut");
    }
}

/// One look: destroys what must go; returns what was there.
fn round(
    world: &World,
    owners: &Owners,
    hierarchy: &Hierarchy,
    proofs: &mut Proofs,
) -> Vec<(ServiceName, String)> {
    let mut table = match SocketTable::open() {
        Ok(table) => table,
        Err(error) => return blind(world, &error.to_string()),
    };
    let sockets = match table.dump(TimeWait::Skip) {
        Ok(sockets) => sockets,
        Err(error) => return blind(world, &error.to_string()),
    };
    let doomed = doomed(world, owners, hierarchy, sockets);
    let mut left = Vec::new();
    let mut flows = Vec::new();
    for (service, socket) in doomed {
        let name = format!("{} {} > {}", socket.protocol.as_str(), socket.local, socket.remote);
        flows.extend(Flow::of(&socket).map(|flow| (service.clone(), flow)));
        match table.destroy(&socket) {
            Ok(true) => proofs.entry(service.clone()).or_default().sockets_closed += 1,
            Ok(false) => {}
            Err(error) => tracing::warn!(%service, %error, "cannot destroy a socket"),
        }
        left.push((service, name));
    }
    for (service, flow) in flows {
        match conntrack::delete(&[flow]) {
            Ok(removed) => proofs.entry(service).or_default().flows_removed += removed as u64,
            Err(error) => tracing::warn!(%service, %error, "cannot remove a tracked flow"),
        }
    }
    left
}

/// Nothing can be proven: every service that is not open says so.
fn blind(world: &World, error: &str) -> Vec<(ServiceName, String)> {
    let standings = world.standings();
    standings.iter().map(|s| (s.service.name.clone(), format!("unknown: {error}"))).collect()
}

/// The connections that no grant admits, each with its service.
pub fn doomed(
    world: &World,
    owners: &Owners,
    hierarchy: &Hierarchy,
    sockets: Vec<Socket>,
) -> Vec<(ServiceName, Socket)> {
    let services = world.standings();
    let governs_anywhere =
        services.iter().any(|standing| standing.service.policies.iter().any(Policy::is_any));
    // Between two addresses of this host packets travel over lo, which is not governed.
    let ours: HashSet<IpAddr> = sockets.iter().map(|socket| socket.local.ip()).collect();
    let is_governed = |socket: &Socket| {
        let known = governs_anywhere && socket.cgroup.is_some();
        is_connected(socket)
            && !ours.contains(&socket.remote.ip())
            && (known || owners.is_listed(socket.remote.ip()))
    };
    let governed: Vec<Socket> = sockets.into_iter().filter(is_governed).collect();
    let concerned = Concerned::new(&services, governed.iter().map(|socket| socket.remote.ip()));
    let mut paths = Paths::new(hierarchy.mount(), world, concerned.services());
    let mut whose = |socket: &Socket| {
        let about = concerned.about(socket.remote.ip());
        let path = socket.cgroup.and_then(|id| paths.get(id));
        // A half-open connection has no cgroup yet: any grant for its endpoint may be the one.
        let is = |subject: &Subject| socket.cgroup.is_none() || is_subject(world, subject, socket, path);
        let packets = packets(socket);
        let kept = packets.iter().any(|packet| explain::failsafe(world.settings(), about, packet));
        if kept || is_admitted(world, about, &packets, &is) {
            return None;
        }
        let service = match owners.owner(&services, socket.remote.ip(), world.now()) {
            Some(owner) => services.get(owner.index)?.service,
            None => refused_anywhere(world, about, &packets, socket, path)?.service,
        };
        is_enforced(world, service).then(|| service.name.clone())
    };
    governed.into_iter().filter_map(|socket| Some((whose(&socket)?, socket))).collect()
}

fn is_admitted(
    world: &World,
    services: &[Standing<'_>],
    packets: &[Packet],
    is: &dyn Fn(&Subject) -> bool,
) -> bool {
    let admits = |packet| explain::explain(services, packet, is, world.now());
    packets.iter().any(|packet| matches!(admits(packet), Explanation::Allow { .. }))
}

/// False where connections are only observed.
fn is_enforced(world: &World, service: &Service) -> bool {
    let modes = [world.settings().enforcement.mode, service.mode];
    !modes.contains(&Mode::Observe)
}

/// The service whose policy for any address refuses. Who may be the subject is not enough for it: the socket has to be.
fn refused_anywhere<'a>(
    world: &World,
    services: &'a [Standing<'a>],
    packets: &[Packet],
    socket: &Socket,
    path: Option<&str>,
) -> Option<&'a Standing<'a>> {
    let is_certain = |subject: &Subject| match subject {
        Subject::Group(_) => false,
        Subject::User(_) => socket.inode != 0 && is_subject(world, subject, socket, path),
        Subject::Unit(_) | Subject::Cgroup(_) | Subject::Exe { .. } | Subject::Container(_) => {
            is_subject(world, subject, socket, path)
        }
    };
    let refusal = |packet| match explain::explain(services, packet, &is_certain, world.now()) {
        Explanation::Refuse { service, .. } => services.iter().find(|s| s.service.name == service),
        Explanation::Allow { .. } | Explanation::Isolate { .. } | Explanation::Ungoverned => None,
    };
    packets.iter().find_map(refusal)
}

pub fn is_connected(socket: &Socket) -> bool {
    let idle = matches!(socket.state, TcpState::Listen | TcpState::Closed | TcpState::TimeWait);
    !idle && socket.remote.port() != 0
}

/// Nobody wrote down who opened it, so either way counts.
pub fn packets(socket: &Socket) -> [Packet; 2] {
    packets_between(socket.protocol, socket.local, socket.remote)
}

pub fn packets_between(protocol: sockets::Protocol, local: SocketAddr, remote: SocketAddr) -> [Packet; 2] {
    let protocol = match protocol {
        sockets::Protocol::Tcp => Protocol::Tcp,
        sockets::Protocol::Udp => Protocol::Udp,
    };
    let of = |direction, port| Packet { direction, remote: remote.ip(), protocol, port };
    [of(Direction::Egress, remote.port()), of(Direction::Ingress, local.port())]
}

/// True when a socket may be the subject's: its cgroup is one of the subject's places or below one.
pub fn is_subject(world: &World, subject: &Subject, socket: &Socket, path: Option<&str>) -> bool {
    let below = |place: &str, path: &str| {
        path.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    subject.is_any_process()
        || world.places(subject).iter().any(|place| match place {
            Place::Cgroup(place) => path.is_some_and(|path| below(&place.path, path)),
            // What no process has open any more lists as root's.
            Place::User(id) => socket.uid == *id || socket.inode == 0,
            // Nothing lists the group: what may be admitted is not cut, and the kernel refuses the rest by itself.
            Place::Group(_) => true,
            Place::Address(_) | Place::Former(_) => false,
        })
}
