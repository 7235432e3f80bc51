//! Sockets that are not what a policy supposes: of its subject, but made elsewhere; or made elsewhere on its ports.
//!
//! The kernel knows a socket by the cgroup in which it was created. A listener that the system manager made for a unit,
//! and whatever it accepts, belongs to the socket unit or to `init.scope`; a socket that a process brought along when it was moved, or was handed,
//! belongs to where it came from. No policy for the unit admits these, and none is widened for them: here they are only
//! found, with a way out.
//!
//! Bounded, and beside the loop: it reads the sockets, the cgroups and, where there is something to tell, the descriptors
//! of the subject's processes.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::Semaphore;

use crate::api::body::Finding;
use crate::compile::Place;
use crate::kernel::cgroups::{Hierarchy, subjects_by_name};
use crate::kernel::holders::{self, Holders};
use crate::kernel::sockets::{self, Socket, SocketTable, TcpState, TimeWait};
use crate::model::{Direction, Policy, Protocol, ServiceName, Subject};
use crate::reconcile::World;

/// How much is looked at: of the cgroups of the host, the processes of a subject, their descriptors; how much is told.
const MOST_CGROUPS: usize = 65_536;
const MOST_PROCESSES: usize = 4_096;
const MOST_DESCRIPTORS: usize = 262_144;
const MOST_FINDINGS: usize = 100;

/// How many look at once.
static LOOKING: Semaphore = Semaphore::const_new(2);

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    pub findings: Vec<Finding>,
    /// Why there may be more.
    pub error: Option<String>,
}

/// Looks at the sockets around a service.
pub async fn find(service: ServiceName, world: World, hierarchy: Hierarchy) -> Found {
    let _turn = LOOKING.acquire().await;
    let looking = tokio::task::spawn_blocking(move || look(&service, &world, &hierarchy));
    looking.await.unwrap_or_else(|error| failed(&error))
}

fn failed(error: &dyn std::fmt::Display) -> Found {
    Found { findings: Vec::new(), error: Some(error.to_string()) }
}

fn look(service: &ServiceName, world: &World, hierarchy: &Hierarchy) -> Found {
    let sockets = SocketTable::open().and_then(|mut table| table.dump(TimeWait::Skip));
    let (sockets, cgroups) = match (sockets, hierarchy.all(MOST_CGROUPS)) {
        (Ok(sockets), Ok(cgroups)) => (sockets, cgroups),
        (Err(error), _) => return failed(&error),
        (_, Err(error)) => return failed(&error),
    };
    let tree = Tree(cgroups.into_iter().map(|cgroup| (cgroup.id, cgroup.path)).collect());
    let Some(standing) = world.standing(service) else { return Found::default() };
    let standings = world.standings();
    let all: Vec<&Policy> = standings.iter().flat_map(|standing| &standing.service.policies).collect();
    let mut found = BTreeSet::new();
    let mut cut = false;
    for policy in &standing.service.policies {
        let Some(about) = About::of(policy, &all, world, &tree) else { continue };
        let suspects = about.suspects(&sockets);
        if suspects.is_empty() {
            continue;
        }
        let (holders, cut_here) = about.holders(&suspects, hierarchy);
        cut |= cut_here;
        found.extend(suspects.iter().filter_map(|suspect| about.finding(suspect, &holders)));
    }
    cut |= found.len() > MOST_FINDINGS;
    let error = cut.then(|| "there was more to look at than is looked at".to_owned());
    Found { findings: found.into_iter().take(MOST_FINDINGS).collect(), error }
}

/// The cgroups of this host, paths by id.
struct Tree(BTreeMap<u64, String>);

impl Tree {
    /// True when a cgroup is one of these or lies below one.
    fn is_within(&self, id: u64, paths: &[&str]) -> bool {
        let Some(path) = self.0.get(&id) else { return false };
        let within = |above: &&str| {
            path.strip_prefix(*above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        paths.iter().any(within)
    }

    fn describe(&self, id: u64) -> String {
        match self.0.get(&id).map(String::as_str) {
            Some(MANAGER) => format!("the cgroup {MANAGER} (the system manager's)"),
            Some(path) => format!("the cgroup {path}"),
            None => format!("a cgroup that is gone (id {id})"),
        }
    }
}

/// Where the system manager lives, and the listeners that it makes.
const MANAGER: &str = "/init.scope";

/// A policy with all that is asked of it.
struct About<'a> {
    policy: &'a Policy,
    /// Those of every service.
    all: &'a [&'a Policy],
    world: &'a World,
    tree: &'a Tree,
    /// The paths of the subject's cgroups.
    paths: Vec<&'a str>,
}

/// A socket that was made elsewhere.
struct Suspect<'a> {
    socket: &'a Socket,
    cgroup: u64,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Listener,
    /// It goes where the policy leads.
    Connected,
    /// Nobody knows where it will go: it matters only when the subject holds it.
    Loose,
}

impl<'a> About<'a> {
    /// `None` where no cgroup tells the subject from others.
    fn of(policy: &'a Policy, all: &'a [&'a Policy], world: &'a World, tree: &'a Tree) -> Option<Self> {
        let paths = paths(&policy.subject, world, tree);
        (!policy.subject.is_any_process() && !paths.is_empty()).then_some(Self {
            policy,
            all,
            world,
            tree,
            paths,
        })
    }

    fn suspects(&self, sockets: &'a [Socket]) -> Vec<Suspect<'a>> {
        let made_elsewhere = sockets.iter().filter_map(|socket| {
            let cgroup = socket.cgroup.filter(|id| !self.tree.is_within(*id, &self.paths))?;
            Some(Suspect { socket, cgroup, kind: kind(socket, self.policy)? })
        });
        let suspects = made_elsewhere.filter(|suspect| match suspect.kind {
            Kind::Listener => !self.has_its_own(suspect.socket, sockets) && !self.has_another_policy(suspect),
            Kind::Connected => !self.is_admitted_elsewhere(suspect),
            Kind::Loose => true,
        });
        suspects.collect()
    }

    /// The subject listens there itself, and this is another address.
    fn has_its_own(&self, socket: &Socket, sockets: &[Socket]) -> bool {
        let mut own = sockets.iter().filter(|other| {
            other.protocol == socket.protocol
                && is_listener(other)
                && other.local.port() == socket.local.port()
                && other.cgroup.is_some_and(|id| self.tree.is_within(id, &self.paths))
        });
        own.any(|own| own.local != socket.local)
    }

    /// The same service says something about this listener too.
    fn has_another_policy(&self, suspect: &Suspect<'_>) -> bool {
        self.all.iter().any(|other| {
            other.id.service == self.policy.id.service
                && other.id.direction == Direction::Ingress
                && covers(other, suspect.socket.protocol, suspect.socket.local.port())
                && self.is_subject(&other.subject, suspect.cgroup)
        })
    }

    /// Some policy admits it as what it is.
    fn is_admitted_elsewhere(&self, suspect: &Suspect<'_>) -> bool {
        self.all.iter().any(|other| {
            other.id.direction == self.policy.id.direction
                && leads_to(other, suspect.socket)
                && self.is_subject(&other.subject, suspect.cgroup)
        })
    }

    fn is_subject(&self, subject: &Subject, cgroup: u64) -> bool {
        subject.is_any_process() || self.tree.is_within(cgroup, &paths(subject, self.world, self.tree))
    }

    /// Which processes of the subject hold them; true when there were too many to tell.
    fn holders(&self, suspects: &[Suspect<'_>], hierarchy: &Hierarchy) -> (Holders, bool) {
        let inodes = suspects.iter().map(|suspect| suspect.socket.inode).filter(|inode| *inode > 0).collect();
        let own = self.tree.0.iter().filter(|(id, _)| self.tree.is_within(**id, &self.paths));
        // A threaded cgroup shows its processes further up.
        let mut processes: Vec<u32> =
            own.flat_map(|(_, path)| hierarchy.processes(path).unwrap_or_default()).collect();
        let many = processes.len() > MOST_PROCESSES;
        processes.truncate(MOST_PROCESSES);
        let holders = holders::holders(&processes, &inodes, MOST_DESCRIPTORS);
        let cut = many || holders.cut;
        (holders, cut)
    }

    fn finding(&self, suspect: &Suspect<'_>, holders: &Holders) -> Option<Finding> {
        let Suspect { socket, cgroup, kind } = suspect;
        let held_by = holders.by_inode.get(&socket.inode);
        let unknown = held_by.is_none() && holders.denied > 0;
        if *kind != Kind::Listener && held_by.is_none() && !(unknown && *kind == Kind::Connected) {
            return None;
        }
        let (subject, place) = (&self.policy.subject, self.tree.describe(*cgroup));
        let holder = match held_by {
            Some(processes) => format!(", and process {} of {subject} holds it", list(processes)),
            None if unknown => {
                format!("; whether a process of {subject} holds it cannot be told without CAP_SYS_PTRACE")
            }
            None => String::new(),
        };
        let what = match kind {
            Kind::Listener => format!(
                "the listener {} was made in {place}{holder}: it does not belong to {subject}, and what comes to it is refused",
                text(socket)
            ),
            Kind::Connected | Kind::Loose => {
                format!(
                    "the socket {} was made in {place}{holder}: it does not belong to {subject}, and its packets are refused",
                    text(socket)
                )
            }
        };
        let path = self.tree.0.get(cgroup).map(String::as_str);
        let remedy = match kind {
            Kind::Listener => remedy_of_listener(subject, path, held_by.is_some() || unknown),
            Kind::Connected | Kind::Loose => restart(subject),
        };
        Some(Finding { policy: self.policy.id.to_string(), what, remedy })
    }
}

fn paths<'a>(subject: &Subject, world: &World, tree: &'a Tree) -> Vec<&'a str> {
    let path = |place: &Place| match place {
        Place::Cgroup(place) => tree.0.get(&place.id).map(String::as_str),
        Place::Former(_) | Place::User(_) | Place::Group(_) | Place::Address(_) => None,
    };
    world.places(subject).iter().filter_map(path).collect()
}

/// What a socket is to a policy; `None`: nothing.
fn kind(socket: &Socket, policy: &Policy) -> Option<Kind> {
    let listens = is_listener(socket);
    match policy.id.direction {
        Direction::Ingress if listens => {
            let fits =
                covers(policy, socket.protocol, socket.local.port()) && !socket.local.ip().is_loopback();
            fits.then_some(Kind::Listener)
        }
        Direction::Egress if listens && socket.protocol == sockets::Protocol::Udp => {
            let udp = policy.ports.iter().any(|port| port.protocol == Protocol::Udp);
            (udp && !socket.local.ip().is_loopback()).then_some(Kind::Loose)
        }
        Direction::Egress if listens => None,
        Direction::Egress | Direction::Ingress => leads_to(policy, socket).then_some(Kind::Connected),
    }
}

/// It waits for whoever comes: a UDP socket without a peer too.
fn is_listener(socket: &Socket) -> bool {
    match socket.protocol {
        sockets::Protocol::Tcp => socket.state == TcpState::Listen,
        sockets::Protocol::Udp => socket.remote.port() == 0,
    }
}

/// Whether a policy admits this socket's packets, whoever made it.
fn leads_to(policy: &Policy, socket: &Socket) -> bool {
    let port = match policy.id.direction {
        Direction::Egress => socket.remote.port(),
        Direction::Ingress => socket.local.port(),
    };
    let remote = socket.remote.ip();
    socket.remote.port() > 0
        && covers(policy, socket.protocol, port)
        && !remote.is_loopback()
        && (policy.is_any() || policy.prefixes.iter().any(|prefix| prefix.contains(remote)))
}

fn covers(policy: &Policy, protocol: sockets::Protocol, port: u16) -> bool {
    let protocol = match protocol {
        sockets::Protocol::Tcp => Protocol::Tcp,
        sockets::Protocol::Udp => Protocol::Udp,
    };
    policy.ports.iter().any(|known| known.protocol == protocol && known.range.contains(port))
}

fn text(socket: &Socket) -> String {
    let Socket { protocol, local, remote, .. } = socket;
    let protocol = protocol.as_str();
    match is_listener(socket) {
        true => format!("{protocol} {local}"),
        false => format!("{protocol} {local} to {remote}"),
    }
}

fn list(processes: &BTreeSet<u32>) -> String {
    const MOST: usize = 8;
    let mut texts: Vec<String> = processes.iter().take(MOST).map(u32::to_string).collect();
    texts.extend((processes.len() > MOST).then(|| "...".to_owned()));
    texts.join(", ")
}

/// `may_hold`: a process of the subject holds it, or may do so.
fn remedy_of_listener(subject: &Subject, path: Option<&str>, may_hold: bool) -> String {
    let maker = path.and_then(|path| match path {
        MANAGER => Some(("init.scope".to_owned(), "every listener that the system manager makes there")),
        _ => Some((socket_unit(path)?, "every listener that this socket unit makes there")),
    });
    match maker {
        Some((unit, what)) => format!(
            "have {subject} make its listener itself, or write a policy with subject = {{ unit = {unit:?} }} for this port: \
             it admits {what}"
        ),
        None if may_hold => restart(subject),
        None => "end what listens there, or write a policy for its cgroup".to_owned(),
    }
}

/// systemd makes the listeners of a socket unit in a process that has entered the unit's cgroup.
fn socket_unit(path: &str) -> Option<String> {
    let own = subjects_by_name(path).into_iter().filter_map(|subject| match subject {
        Subject::Unit(unit) => Some(unit),
        _ => None,
    });
    own.filter(|unit| unit.ends_with(".socket")).find(|unit| path.ends_with(&format!("/{unit}")))
}

fn restart(subject: &Subject) -> String {
    match subject {
        Subject::Unit(unit) => format!("restart it where it belongs: systemctl restart {unit}"),
        Subject::Cgroup(_)
        | Subject::Exe { .. }
        | Subject::User(_)
        | Subject::Group(_)
        | Subject::Container(_) => "start the process anew where it belongs".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_names_the_maker_where_it_makes_listeners_for_others() {
        let subject = Subject::unit("hook.service").unwrap();
        let remedy = |path, may_hold| remedy_of_listener(&subject, Some(path), may_hold);
        for may_hold in [true, false] {
            assert!(remedy("/init.scope", may_hold).contains(r#"{ unit = "init.scope" }"#));
            assert!(remedy("/system.slice/hook.socket", may_hold).contains(r#"{ unit = "hook.socket" }"#));
        }
        for path in ["/user.slice", "/system.slice/a.service", "/a.service/hook.socket"] {
            assert!(remedy(path, true).contains("systemctl restart hook.service"), "{path}");
            assert!(remedy(path, false).contains("end what listens there"), "{path}");
        }
    }

    #[test]
    fn a_cgroup_lies_within_itself_and_what_encloses_it() {
        let tree = Tree([(1, "/a.slice/x.service".to_owned()), (2, "/a.slice/x.service2".to_owned())].into());
        assert!(tree.is_within(1, &["/b", "/a.slice/x.service"]) && tree.is_within(1, &["/a.slice"]));
        assert!(!tree.is_within(2, &["/a.slice/x.service"]) && !tree.is_within(3, &["/a.slice"]));
    }
}
