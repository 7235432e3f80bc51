//! Listeners that systemd makes for a service (socket activation): they and every connection that they accept belong to
//! the cgroup of the socket unit, so that an ingress policy for the service never meets them.
//!
//! systemd makes them in a process that has entered that cgroup (`socket_address_listen_in_cgroup`), and only where it
//! cannot use BPF by itself, in `init.scope`.
//!
//! Looks at unit files only. A service that is handed a socket in any other way is not noticed.

use std::fmt;
use std::path::Path;

use crate::api::body;
use crate::model::{Direction, Policy, PolicyId, Service, Subject};

/// Where units are described (systemd.unit(5)).
pub const UNIT_DIRECTORIES: &[&str] = &[
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// An ingress policy whose subject has a socket unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activated {
    policy: String,
    unit: String,
    socket: String,
}

impl Activated {
    pub fn help(&self) -> String {
        format!(
            "name the maker: subject = {{ unit = {:?} }} (\"init.scope\" where systemd cannot use BPF), or have {} make its \
             listener itself",
            self.socket, self.unit
        )
    }
}

impl fmt::Display for Activated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { policy, unit, socket } = self;
        write!(f, "{policy}: a listener that systemd makes for {unit} belongs to {socket}, not to {unit}")
    }
}

/// The policies of services that socket units concern.
pub fn of_services<'s>(
    services: impl IntoIterator<Item = &'s Service>,
    directories: &[&str],
) -> Vec<(&'s PolicyId, Activated)> {
    let policies = services.into_iter().flat_map(|service| &service.policies);
    let activated = policies.filter_map(|policy| Some((&policy.id, in_file(policy, directories)?)));
    activated.collect()
}

fn in_file(policy: &Policy, directories: &[&str]) -> Option<Activated> {
    let PolicyId { direction, .. } = policy.id;
    match (direction, &policy.subject) {
        (Direction::Ingress, Subject::Unit(unit)) => look_up(policy.id.to_string(), unit, directories),
        (Direction::Ingress | Direction::Egress, _) => None,
    }
}

/// The same for a policy as the daemon describes it.
pub fn of_policy(policy: &body::Policy, directories: &[&str]) -> Option<Activated> {
    let unit = policy.subject.strip_prefix("unit:").filter(|_| policy.direction == "ingress")?;
    look_up(policy.id.clone(), unit, directories)
}

fn look_up(policy: String, unit: &str, directories: &[&str]) -> Option<Activated> {
    let socket = format!("{}.socket", unit.strip_suffix(".service")?);
    let described = directories.iter().any(|directory| Path::new(directory).join(&socket).is_file());
    described.then(|| Activated { policy, unit: unit.to_owned(), socket })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(direction: &str, subject: &str) -> body::Policy {
        body::Policy {
            id: format!("x/{direction}/0"),
            direction: direction.into(),
            subject: subject.into(),
            resolved: true,
            endpoints: Vec::new(),
            ports: Vec::new(),
            tls: None,
        }
    }

    #[test]
    fn an_ingress_policy_for_a_service_with_a_socket_unit_is_noticed() {
        let units = tempfile::tempdir().unwrap();
        std::fs::write(units.path().join("web.socket"), "").unwrap();
        let directories = ["/nowhere", units.path().to_str().unwrap()];
        let of = |direction, subject| of_policy(&policy(direction, subject), &directories);
        let found = of("ingress", "unit:web.service").unwrap().to_string();
        assert!(
            found.starts_with(
                "x/ingress/0: a listener that systemd makes for web.service belongs to web.socket"
            ),
            "{found}"
        );
        for (direction, subject) in [
            ("egress", "unit:web.service"),
            ("ingress", "unit:other.service"),
            ("ingress", "unit:web.slice"),
            ("ingress", "cgroup:/web.service"),
        ] {
            assert_eq!(of(direction, subject), None, "{direction} {subject}");
        }
    }
}
