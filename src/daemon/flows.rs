//! Who talks to which provider right now: the sockets of this host to and from governed addresses, judged by the same words as
//! packets.
//!
//! Beside the loop, bounded, one at a time. Which process has a socket open stands in `/proc/PID/fd`, which takes `CAP_SYS_PTRACE`
//! for the processes of others; without it only a process that is alone in its cgroup is named.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;

use tokio::sync::Semaphore;

use super::answer::{done, failure};
use super::engine::Engine;
use super::teardown::through::{self, Connection};
use super::teardown::{cgroup_paths, is_connected, is_subject, packets, packets_between};
use crate::api::ask::{Answer, Outcome};
use crate::api::body::{Flow, Flows, SCHEMA};
use crate::api::explain::TLS;
use crate::compile::{Place, Standing};
use crate::explain::{self, Explanation, Packet};
use crate::kernel::cgroups::{Hierarchy, name_of};
use crate::kernel::sockets::{Protocol, Socket, SocketError, SocketTable, TcpState};
use crate::kernel::{holders, processes};
use crate::model::{Mode, PolicyId, ServiceName, Subject, Time};
use crate::owners::Owners;
use crate::reconcile::World;

/// The most flows that are told, and how much is looked at to name processes.
const MOST: usize = 10_000;
const MOST_PROCESSES: usize = 4_096;
const MOST_DESCRIPTORS: usize = 262_144;

static ONE: Semaphore = Semaphore::const_new(1);

/// All that an answer is made from.
pub struct Look {
    service: Option<ServiceName>,
    world: World,
    hierarchy: Hierarchy,
    namespaces: Vec<(Subject, u32)>,
}

impl Look {
    pub fn new(engine: &Engine, service: Option<ServiceName>) -> Self {
        Self {
            service,
            world: engine.world.clone(),
            hierarchy: engine.hierarchy.clone(),
            namespaces: engine.subjects.namespaces(),
        }
    }

    pub async fn answer(self) -> Answer {
        let Ok(_turn) = ONE.acquire().await else {
            return failure(Outcome::Failed, "nobody looks for flows any more");
        };
        let looked = tokio::task::spawn_blocking(move || match self.look() {
            Ok(flows) => done(&flows),
            Err(error) => failure(Outcome::Failed, &error.to_string()),
        });
        looked.await.unwrap_or_else(|error| failure(Outcome::Failed, &error.to_string()))
    }

    fn look(&self) -> Result<Flows, SocketError> {
        let sockets = SocketTable::open()?.dump_with_traffic()?;
        let judge = Judge::new(&self.world);
        let mut flows = self.own(&judge, sockets);
        let behind = through::connections(&self.world, &self.namespaces);
        flows.extend(behind.iter().filter_map(|connection| judge.forwarded(connection)));
        let wanted = |flow: &Flow| self.service.as_ref().is_none_or(|name| name.as_str() == flow.service);
        flows.retain(wanted);
        flows.sort();
        let flows_total = flows.len();
        flows.truncate(MOST);
        Ok(Flows { schema: SCHEMA, flows, flows_total })
    }

    fn own(&self, judge: &Judge<'_>, sockets: Vec<Socket>) -> Vec<Flow> {
        let paths = cgroup_paths(self.hierarchy.mount());
        // Between two addresses of this host packets travel over lo, which is not governed.
        let ours: HashSet<IpAddr> = sockets.iter().map(|socket| socket.local.ip()).collect();
        let governed = |socket: &Socket| {
            let lives = is_connected(socket) && socket.state != TcpState::SynReceived;
            if !lives || ours.contains(&socket.remote.ip()) {
                return None;
            }
            let path = socket.cgroup.and_then(|id| paths.get(&id)).map(String::as_str);
            let is = |subject: &Subject| is_subject(&self.world, subject, socket, path);
            let judged = judge.judge(&packets(socket), socket.remote.ip(), &is)?;
            Some((judged, path.map(|path| self.path_below_the_root(path))))
        };
        let found: Vec<_> = sockets
            .iter()
            .filter_map(|socket| governed(socket).map(|(judged, path)| (socket, judged, path)))
            .collect();
        let who = self.who(found.iter().map(|(socket, _, path)| (*socket, path.as_deref())));
        let flow = |(socket, judged, path): (&Socket, Judged, Option<String>)| {
            let mut flow = judged.flow(socket.protocol, socket.local.to_string(), socket.remote.to_string());
            flow.subject = path.as_deref().map(name_of);
            flow.uid = (socket.inode != 0).then_some(socket.uid);
            flow.pid = who.get(&socket.cookie).copied();
            flow.exe = flow.pid.and_then(|process| processes::exe(process).ok());
            flow.state = (socket.protocol == Protocol::Tcp).then(|| socket.state.as_str().to_owned());
            flow.bytes_sent = socket.traffic.map(|traffic| traffic.sent);
            flow.bytes_received = socket.traffic.map(|traffic| traffic.received);
            flow
        };
        found.into_iter().map(flow).collect()
    }

    /// From nft's words to `/system.slice/x.service`.
    fn path_below_the_root(&self, path: &str) -> String {
        let prefix = self.hierarchy.nft_prefix();
        format!("/{}", path.strip_prefix(&prefix).unwrap_or(path))
    }

    /// A process for each socket, by its cookie.
    fn who<'s>(&self, sockets: impl Iterator<Item = (&'s Socket, Option<&'s str>)>) -> BTreeMap<u64, u32> {
        let sockets: Vec<_> = sockets.filter(|(socket, _)| socket.inode != 0).collect();
        let cgroups: BTreeSet<&str> = sockets.iter().filter_map(|(_, path)| *path).collect();
        let of = |path: &&str| self.hierarchy.processes(path).unwrap_or_default();
        let mut candidates: Vec<u32> = cgroups.iter().flat_map(of).collect();
        candidates.truncate(MOST_PROCESSES);
        let inodes: BTreeSet<u32> = sockets.iter().map(|(socket, _)| socket.inode).collect();
        let held = holders::holders(&candidates, &inodes, MOST_DESCRIPTORS).by_inode;
        let alone: BTreeMap<&str, u32> = cgroups
            .into_iter()
            .filter_map(|path| {
                let directory = self.hierarchy.mount().join(path.trim_start_matches('/'));
                Some((path, processes::only_one(&directory)?))
            })
            .collect();
        let one = |(socket, path): &(&Socket, Option<&str>)| {
            let holder = held.get(&socket.inode).and_then(|holders| holders.first());
            let process = holder.or_else(|| alone.get((*path)?))?;
            Some((socket.cookie, *process))
        };
        sockets.iter().filter_map(one).collect()
    }
}

/// What is in force, made ready for many questions.
struct Judge<'w> {
    world: &'w World,
    services: Vec<Standing<'w>>,
    owners: Owners,
}

/// A flow of a service.
struct Judged {
    service: ServiceName,
    provider: String,
    policy: Option<(PolicyId, bool)>,
    verdict: &'static str,
    until: Option<Time>,
}

impl<'w> Judge<'w> {
    fn new(world: &'w World) -> Self {
        let services = world.standings();
        let owners = Owners::new(&services);
        Self { world, services, owners }
    }

    /// `None`: no service governs it.
    fn judge(&self, packets: &[Packet], remote: IpAddr, is: &dyn Fn(&Subject) -> bool) -> Option<Judged> {
        let mut refusal = None;
        for packet in packets {
            match explain::explain(&self.services, packet, is, self.world.now()) {
                Explanation::Allow { policy, until } => return self.allowed(&policy, until),
                Explanation::Refuse { service, .. } => refusal = refusal.or(Some(service)),
                Explanation::Isolate { .. } | Explanation::Ungoverned => {}
            }
        }
        let failsafe = |packet| explain::failsafe(self.world.settings(), &self.services, packet);
        if packets.iter().any(failsafe) {
            return None;
        }
        let owner = self.owners.owner(&self.services, remote, self.world.now());
        let owner = owner.and_then(|owner| Some(self.services.get(owner.index)?.service.name.clone()));
        self.refused(&owner.or(refusal)?)
    }

    fn allowed(&self, id: &PolicyId, until: Time) -> Option<Judged> {
        let service = self.world.standing(&id.service)?.service;
        let tls = service.policies.iter().any(|policy| policy.id == *id && policy.tls);
        let (service, provider) = (service.name.clone(), service.provider.clone());
        let policy = Some((id.clone(), tls));
        Some(Judged { service, provider, policy, verdict: "allow", until: Some(until) })
    }

    fn refused(&self, name: &ServiceName) -> Option<Judged> {
        let service = self.world.standing(name)?.service;
        let observed = [self.world.settings().enforcement.mode, service.mode].contains(&Mode::Observe);
        let verdict = if observed { "observed" } else { "refused" };
        let (service, provider) = (service.name.clone(), service.provider.clone());
        Some(Judged { service, provider, policy: None, verdict, until: None })
    }

    /// The same for a container with a network of its own.
    fn forwarded(&self, connection: &Connection) -> Option<Flow> {
        let Connection { protocol, local, remote } = *connection;
        if !self.owners.is_listed(remote.ip()) {
            return None;
        }
        let place = Place::Address(local.ip());
        let is = |subject: &Subject| self.world.places(subject).contains(&place);
        let judged = self.judge(&packets_between(protocol, local, remote), remote.ip(), &is)?;
        let mut flow = judged.flow(protocol, local.to_string(), remote.to_string());
        flow.subject = connection.subject(self.world).map(|subject| subject.to_string());
        Some(flow)
    }
}

impl Judged {
    fn flow(self, protocol: Protocol, local: String, remote: String) -> Flow {
        let tls = self.policy.as_ref().is_some_and(|(_, tls)| *tls);
        Flow {
            service: self.service.to_string(),
            provider: self.provider,
            direction: self.policy.as_ref().map(|(id, _)| id.direction.to_string()),
            policy: self.policy.map(|(id, _)| id.to_string()),
            verdict: self.verdict.to_owned(),
            until: self.until,
            subject: None,
            uid: None,
            pid: None,
            exe: None,
            protocol: protocol.as_str().to_lowercase(),
            local,
            remote,
            state: None,
            bytes_sent: None,
            bytes_received: None,
            tls: tls.then(|| TLS.to_owned()),
        }
    }
}
