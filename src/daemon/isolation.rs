//! Cuts what is connected and a segment does not allow: when it appears or narrows, the packet path refuses the next segment,
//! and an idle end would not hear of it.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::time::Instant;

use super::teardown::{LIMIT, PAUSE, cgroup_paths, is_connected, is_subject, packets};
use crate::compile::Standing;
use crate::explain::{self, Explanation};
use crate::kernel::cgroups::Hierarchy;
use crate::kernel::conntrack::{self, Flow};
use crate::kernel::sockets::{Socket, SocketTable, TimeWait};
use crate::model::{Mode, Segment, Subject};
use crate::reconcile::World;

/// Cuts every connection that a segment encloses and nothing allows; segments in observe mode are left out.
pub async fn sweep(world: &World, hierarchy: &Hierarchy) {
    let enforced = enforced(world);
    if enforced.is_empty() {
        return;
    }
    let deadline = Instant::now() + LIMIT;
    let mut cut = BTreeSet::new();
    loop {
        let left = round(world, &enforced, hierarchy);
        cut.extend(left.iter().cloned());
        if left.is_empty() {
            break;
        }
        if Instant::now() >= deadline {
            tracing::warn!(?left, "connections that a segment does not allow are still there");
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    if !cut.is_empty() {
        tracing::info!(connections = cut.len(), "cut what a segment does not allow");
    }
}

/// One look: destroys what must go; returns what was there.
fn round(world: &World, segments: &[&Segment], hierarchy: &Hierarchy) -> Vec<String> {
    let found = SocketTable::open().and_then(|mut table| Ok((table.dump(TimeWait::Skip)?, table)));
    let (sockets, mut table) = match found {
        Ok(found) => found,
        Err(error) => {
            tracing::error!(%error, "cannot look for connections that a segment does not allow");
            return Vec::new();
        }
    };
    let mut left = Vec::new();
    for (_, socket) in doomed(world, segments, hierarchy, sockets) {
        let flow = Flow::of(&socket);
        if let Err(error) = table.destroy(&socket) {
            tracing::warn!(%error, "cannot destroy a socket");
        }
        if let Some(Err(error)) = flow.map(|flow| conntrack::delete(&[flow])) {
            tracing::warn!(%error, "cannot remove a tracked flow");
        }
        left.push(format!("{} {} > {}", socket.protocol.as_str(), socket.local, socket.remote));
    }
    left
}

/// The connections that nothing allows, each with the segment that refuses it.
pub fn doomed<'s>(
    world: &World,
    segments: &[&'s Segment],
    hierarchy: &Hierarchy,
    sockets: Vec<Socket>,
) -> Vec<(&'s Segment, Socket)> {
    let services = world.standings();
    let paths = cgroup_paths(hierarchy.mount());
    let ours: HashSet<IpAddr> = sockets.iter().map(|socket| socket.local.ip()).collect();
    let refused_by = |socket: &Socket| {
        // A half-open connection has no cgroup yet, and nobody judges its packets.
        let path = socket.cgroup.and_then(|id| paths.get(&id))?;
        let over_loopback = ours.contains(&socket.remote.ip());
        let encloses = |segment: &&Segment| {
            let judges = !(segment.loopback && over_loopback);
            judges && is_subject(world, &segment.subject, socket, Some(path))
        };
        let enclosing: Vec<&'s Segment> = segments.iter().copied().filter(encloses).collect();
        let allows = |segment: &Segment, packet| explain::allows(segment, world.resolvers(), packet);
        let packets = packets(socket);
        let is_allowed = packets.iter().any(|packet| enclosing.iter().all(|segment| allows(segment, packet)));
        if enclosing.is_empty() || is_allowed || is_granted(world, &services, socket, path, over_loopback) {
            return None;
        }
        let refuses = |segment: &&&Segment| !packets.iter().any(|packet| allows(segment, packet));
        enclosing.iter().find(refuses).or(enclosing.first()).copied()
    };
    let connected = sockets.into_iter().filter(is_connected);
    connected.filter_map(|socket| Some((refused_by(&socket)?, socket))).collect()
}

/// The segments that cut.
pub fn enforced(world: &World) -> Vec<&Segment> {
    match world.settings().enforcement.mode {
        Mode::Observe => Vec::new(),
        Mode::Enforce => world.segments().values().filter(|s| s.mode == Mode::Enforce).collect(),
    }
}

/// True when a grant admits it, or the fail-safe. Grants are not asked over loopback.
fn is_granted(
    world: &World,
    services: &[Standing<'_>],
    socket: &Socket,
    path: &str,
    over_loopback: bool,
) -> bool {
    let is = |subject: &Subject| is_subject(world, subject, socket, Some(path));
    packets(socket).iter().any(|packet| {
        let explanation = || explain::explain(services, packet, &is, world.now());
        explain::failsafe(world.settings(), services, packet)
            || !over_loopback && matches!(explanation(), Explanation::Allow { .. })
    })
}
