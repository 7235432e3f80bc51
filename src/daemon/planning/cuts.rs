//! Which live connections would be cut: the teardown's own judgement, in the world that is and in the one that would be,
//! without touching any.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::candidate::Candidate;
use crate::api::body;
use crate::daemon::teardown::through;
use crate::daemon::{isolation, teardown};
use crate::kernel::cgroups::{Hierarchy, name_of};
use crate::kernel::sockets::{Protocol, Socket, SocketError, SocketTable, TimeWait};
use crate::owners::Owners;
use crate::reconcile::World;

/// The most cgroups whose names are looked for.
const MOST: usize = 65_536;

/// A connection that would be cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// Whose refusal cuts it: a service, or `segment/NAME`.
    pub by: By,
    /// `unit:x.service`, as far as it is known.
    pub subject: Option<String>,
    pub protocol: Protocol,
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum By {
    Service(String),
    Segment(String),
}

/// What the next world cuts and the present one does not, sorted.
///
/// # Errors
/// When the kernel does not list its sockets.
pub fn cuts(candidate: &Candidate, hierarchy: &Hierarchy) -> Result<Vec<Cut>, SocketError> {
    let sockets = SocketTable::open()?.dump(TimeWait::Skip)?;
    let before = doomed(&candidate.now, hierarchy, &sockets);
    let mut after = doomed(&candidate.next, hierarchy, &sockets);
    after.retain(|cookie, _| !before.contains_key(cookie));
    let names = match after.is_empty() {
        true => BTreeMap::new(),
        false => names(hierarchy),
    };
    let cut = |(socket, by): (&Socket, By)| Cut {
        by,
        subject: socket.cgroup.and_then(|id| names.get(&id)).cloned(),
        protocol: socket.protocol,
        local: socket.local,
        remote: socket.remote,
    };
    let mut cuts: Vec<Cut> = after.into_values().map(cut).collect();
    cuts.extend(behind(candidate));
    cuts.sort_by_key(|cut| (cut.by.clone(), cut.remote, cut.local));
    Ok(cuts)
}

/// By their cookies: addresses and ports may come again.
fn doomed<'s>(
    world: &World,
    hierarchy: &Hierarchy,
    sockets: &'s [Socket],
) -> BTreeMap<u64, (&'s Socket, By)> {
    let owners = Owners::new(&world.standings());
    let services = teardown::doomed(world, &owners, hierarchy, sockets.to_vec());
    let mut found: BTreeMap<u64, By> =
        services.into_iter().map(|(service, s)| (s.cookie, By::Service(service.to_string()))).collect();
    let enforced = isolation::enforced(world);
    if !enforced.is_empty() {
        for (segment, socket) in isolation::doomed(world, &enforced, hierarchy, sockets.to_vec()) {
            let by = || By::Segment(segment.name.to_string());
            found.entry(socket.cookie).or_insert_with(by);
        }
    }
    let of = |socket: &'s Socket| Some((socket.cookie, (socket, found.remove(&socket.cookie)?)));
    sockets.iter().filter_map(of).collect()
}

/// The same for containers with networks of their own.
fn behind(candidate: &Candidate) -> Vec<Cut> {
    let (now, next) = (&candidate.now, &candidate.next);
    let connections = through::connections(next, &candidate.namespaces);
    if connections.is_empty() {
        return Vec::new();
    }
    let (before, after) = (Owners::new(&now.standings()), Owners::new(&next.standings()));
    let cut = |connection: through::Connection| {
        let by = connection.refused_by(next, &after)?;
        let lives = connection.refused_by(now, &before).is_none();
        let through::Connection { protocol, local, remote } = connection;
        let subject = connection.subject(next).map(|subject| subject.to_string());
        lives.then(|| Cut { by: By::Service(by.to_string()), subject, protocol, local, remote })
    };
    connections.into_iter().filter_map(cut).collect()
}

fn names(hierarchy: &Hierarchy) -> BTreeMap<u64, String> {
    let cgroups = hierarchy.all(MOST).unwrap_or_default();
    cgroups.into_iter().map(|cgroup| (cgroup.id, name_of(&cgroup.path))).collect()
}

impl From<&Cut> for body::Cut {
    fn from(cut: &Cut) -> Self {
        let (service, policy) = match &cut.by {
            By::Service(name) => (Some(name.clone()), None),
            By::Segment(name) => (None, Some(format!("segment/{name}"))),
        };
        Self {
            service,
            policy,
            subject: cut.subject.clone(),
            protocol: cut.protocol.as_str().to_lowercase(),
            local: cut.local.to_string(),
            remote: cut.remote.to_string(),
        }
    }
}
