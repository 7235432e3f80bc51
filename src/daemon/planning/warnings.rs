//! What somebody should think of before `apply`: first of all what may lock them out.
//!
//! Only what the change brings is told: what is in force already was decided before. A schedule on a port of the fail-safe is
//! told by [`config`](crate::config), as `check` does.

use std::collections::BTreeSet;

use super::candidate::Candidate;
use super::cuts::{By, Cut};
use crate::api::body::Change;
use crate::api::view;
use crate::compile::Place;
use crate::daemon::teardown::{cgroup_paths, is_subject};
use crate::kernel::cgroups::{Hierarchy, name_of};
use crate::kernel::sockets::{Protocol, Socket, SocketTable};
use crate::model::{Direction, Failsafe, Mode, Policy, Port, Protocol as Ports, Segment, Service, Subject};

/// Units by which people come in.
const SSH: [&str; 6] =
    ["ssh.service", "sshd.service", "ssh.socket", "sshd.socket", "ssh@.service", "sshd@.service"];
const SSH_PORT: u16 = 22;

/// What is judged.
pub struct Judged<'a> {
    pub candidate: &'a Candidate,
    pub changes: &'a [Change],
    pub cuts: &'a [Cut],
    pub hierarchy: &'a Hierarchy,
}

impl Judged<'_> {
    /// Lock-outs first.
    pub fn warnings(&self) -> Vec<String> {
        let mut found: Vec<String> = self.cuts.iter().filter_map(|cut| self.session(cut)).collect();
        found.extend(self.narrower_failsafe());
        found.extend(self.segments().flat_map(|segment| self.around_sshd(segment)));
        for service in self.services() {
            found.extend(self.resolvers(service));
            found.extend(service.policies.iter().filter_map(no_address));
            let subjects: BTreeSet<&Subject> =
                service.policies.iter().map(|policy| &policy.subject).collect();
            found.extend(
                subjects.into_iter().filter_map(|subject| self.nowhere(subject, &service.name.to_string())),
            );
        }
        for segment in self.segments() {
            found.extend(self.nowhere(&segment.subject, &format!("segment {}", segment.name)));
        }
        found
    }

    fn is_new(&self, kind: &str, name: &str) -> bool {
        let fits = |change: &&Change| {
            let of_it = change.name.as_deref() == Some(name);
            change.kind == "settings.changed"
                || of_it && change.kind.starts_with(kind) && !change.kind.ends_with(".removed")
        };
        self.changes.iter().any(|change| fits(&change))
    }

    /// The services that come or change.
    fn services(&self) -> impl Iterator<Item = &Service> {
        let standings = self.candidate.next.standings();
        let services = standings.into_iter().map(|standing| standing.service);
        services.filter(|service| self.is_new("service.", service.name.as_str()))
    }

    fn segments(&self) -> impl Iterator<Item = &Segment> {
        let segments = self.candidate.next.segments().values();
        segments.filter(|segment| self.is_new("segment.", segment.name.as_str()))
    }

    fn failsafe(&self) -> &Failsafe {
        &self.candidate.next.settings().failsafe
    }

    /// A way in that is in use.
    fn session(&self, cut: &Cut) -> Option<String> {
        let port = cut.local.port();
        let by_unit = cut.subject.as_deref().is_some_and(is_ssh);
        let known = [&self.candidate.now.settings().failsafe, self.failsafe()];
        let kept = known.iter().any(|failsafe| covers(&failsafe.ports, port));
        if cut.protocol != Protocol::Tcp || !(port == SSH_PORT || kept || by_unit) {
            return None;
        }
        let what = if port == SSH_PORT || by_unit { "the SSH session" } else { "a connection" };
        let by = match &cut.by {
            By::Service(name) => format!("service {name}"),
            By::Segment(name) => format!("segment {name}"),
        };
        Some(format!("lock-out: {what} from {} to local port {port}/tcp would be cut by {by}", cut.remote))
    }

    fn narrower_failsafe(&self) -> Vec<String> {
        let (old, new) = (&self.candidate.now.settings().failsafe, self.failsafe());
        let mut found = Vec::new();
        for port in old.ports.iter().filter(|port| !new.ports.contains(port)) {
            found.push(format!("lock-out: the fail-safe would no longer keep {port} reachable"));
        }
        for prefix in old.from.iter().filter(|prefix| !new.from.contains(prefix)) {
            found.push(format!("lock-out: the fail-safe would no longer hold for {prefix} as a whole"));
        }
        found
    }

    fn around_sshd(&self, segment: &Segment) -> Vec<String> {
        let world = &self.candidate.next;
        if segment.mode == Mode::Observe || world.settings().enforcement.mode == Mode::Observe {
            return Vec::new();
        }
        let paths = cgroup_paths(self.hierarchy.mount());
        let prefix = self.hierarchy.nft_prefix();
        let mut enclosed: BTreeSet<(String, u16)> = BTreeSet::new();
        for socket in self.ways_in() {
            let path = socket.cgroup.and_then(|id| paths.get(&id)).map(String::as_str);
            let name = path.map(|path| name_of(&format!("/{}", path.strip_prefix(&prefix).unwrap_or(path))));
            let is_way_in = self.is_way_in(socket.local.port()) || name.as_deref().is_some_and(is_ssh);
            if is_way_in && path.is_some() && is_subject(world, &segment.subject, &socket, path) {
                enclosed.insert((name.unwrap_or_default(), socket.local.port()));
            }
        }
        if enclosed.is_empty() && is_ssh(&segment.subject.to_string()) {
            enclosed.insert((segment.subject.to_string(), SSH_PORT));
        }
        enclosed.iter().map(|(name, port)| self.enclosure(segment, name, *port)).collect()
    }

    fn is_way_in(&self, port: u16) -> bool {
        port == SSH_PORT || covers(&self.failsafe().ports, port)
    }

    /// TCP listeners.
    fn ways_in(&self) -> Vec<Socket> {
        let waiting = SocketTable::open().and_then(|mut table| table.waiting());
        let listeners = waiting.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot look for listeners");
            Vec::new()
        });
        listeners.into_iter().filter(|socket| socket.protocol == Protocol::Tcp).collect()
    }

    fn enclosure(&self, segment: &Segment, name: &str, port: u16) -> String {
        let allowed = segment
            .allow
            .iter()
            .any(|allow| allow.direction == Direction::Ingress && covers(&allow.ports, port));
        let reach = match (covers(&self.failsafe().ports, port), allowed) {
            (true, _) => {
                "it stays reachable as far as [failsafe] goes; what it asks others itself is refused"
            }
            (false, true) => "it is reachable only from where the segment allows it",
            (false, false) => "nobody can connect to it any more: add the port to [failsafe]",
        };
        format!("lock-out: segment {} encloses {name}, which listens on {port}/tcp: {reach}", segment.name)
    }

    fn resolvers(&self, service: &Service) -> Vec<String> {
        let governed =
            |address: &&std::net::IpAddr| service.prefixes().any(|prefix| prefix.contains(**address));
        let resolvers = self.candidate.next.resolvers().iter().filter(governed);
        let told = |address: &std::net::IpAddr| {
            format!(
                "service {} governs {address}, which this host asks for names: others than its subjects would be refused",
                service.name
            )
        };
        resolvers.map(told).collect()
    }

    fn nowhere(&self, subject: &Subject, of: &str) -> Option<String> {
        let places = self.candidate.next.places(subject);
        let is_there = subject.is_any_process() || places.iter().any(Place::is_present);
        (!is_there)
            .then(|| format!("{subject} of {of} is not there right now: {}", view::why_unresolved(subject)))
    }
}

fn no_address(policy: &Policy) -> Option<String> {
    let empty = policy.prefixes.is_empty() && !policy.is_any();
    empty.then(|| format!("{} admits nothing yet: no address of its names is known", policy.id))
}

/// `unit:ssh.service`, also an instance.
fn is_ssh(subject: &str) -> bool {
    let Some(unit) = subject.strip_prefix("unit:") else { return false };
    let template = unit.split_once('@').map(|(stem, _)| format!("{stem}@.service"));
    SSH.contains(&unit) || template.is_some_and(|template| SSH.contains(&template.as_str()))
}

fn covers(ports: &[Port], port: u16) -> bool {
    ports.iter().any(|known| known.protocol == Ports::Tcp && known.range.contains(port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_come_in_by_the_units_of_sshd() {
        for unit in ["ssh.service", "sshd.service", "ssh.socket", "sshd@7-10.0.0.1.service"] {
            assert!(is_ssh(&format!("unit:{unit}")), "{unit}");
        }
        assert!(!is_ssh("unit:sshd-keygen.service") && !is_ssh("cgroup:/ssh.service"));
    }
}
