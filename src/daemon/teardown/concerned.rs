//! Pure: which services can have a say about a connection.
//!
//! [`crate::explain`] looks at every service it is given: a thousand connections beside ten thousand services are ten million
//! looks, before which nothing is cut.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::compile::Standing;
use crate::model::{Family, Policy, Prefix};

/// The services by the remote addresses of connections.
#[derive(Debug)]
pub struct Concerned<'w> {
    by_remote: BTreeMap<(Family, u128), Vec<Standing<'w>>>,
    services: Vec<Standing<'w>>,
}

impl<'w> Concerned<'w> {
    /// Finds those that list one of the addresses, and those with a policy for any address.
    pub fn new(services: &[Standing<'w>], remotes: impl Iterator<Item = IpAddr>) -> Self {
        let mut by_remote: BTreeMap<_, Vec<usize>> = remotes.map(|remote| (key(remote), vec![])).collect();
        for (index, standing) in services.iter().enumerate() {
            match standing.service.policies.iter().any(Policy::is_any) {
                true => by_remote.values_mut().for_each(|about| about.push(index)),
                false => {
                    let prefixes: BTreeSet<Prefix> = standing.service.prefixes().collect();
                    for prefix in prefixes {
                        let (first, last) =
                            ((prefix.family(), prefix.first()), (prefix.family(), prefix.last()));
                        let listed = by_remote.range_mut(first..=last);
                        let new = listed.filter(|(_, about)| about.last() != Some(&index));
                        new.for_each(|(_, about)| about.push(index));
                    }
                }
            }
        }
        let all: BTreeSet<usize> = by_remote.values().flatten().copied().collect();
        let of = |about: Vec<usize>| about.into_iter().map(|index| services[index]).collect();
        Self {
            services: all.into_iter().map(|index| services[index]).collect(),
            by_remote: by_remote.into_iter().map(|(remote, about)| (remote, of(about))).collect(),
        }
    }

    /// Those that have a say about an address that was asked for, in their order.
    pub fn about(&self, remote: IpAddr) -> &[Standing<'w>] {
        self.by_remote.get(&key(remote)).map_or(&[], Vec::as_slice)
    }

    /// Those that have a say about any of the addresses, in their order.
    pub fn services(&self) -> &[Standing<'w>] {
        &self.services
    }
}

fn key(address: IpAddr) -> (Family, u128) {
    let single = Prefix::single(address);
    (single.family(), single.first())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::config;
    use crate::explain::{self, Packet};
    use crate::model::{Direction, Protocol, ServiceName, Settings, Subject};
    use crate::reconcile::World;

    fn world(endpoints: impl Iterator<Item = String>) -> World {
        let (settings, now) = (Settings::default(), "2026-06-01T12:00:00Z".parse().unwrap());
        let service = |(index, endpoint): (usize, String)| {
            let name = ServiceName::new(&format!("s{index}")).unwrap();
            // Every third one is over, which refuses.
            let end = if index % 3 == 2 { 2026 } else { 2099 };
            let text = format!(
                "provider = \"p\"\nowner = \"o@example.com\"\n[lifetime]\ncommission = 2026-01-01T00:00:00Z\n\
                 decommission = {end}-02-01T00:00:00Z\n[[egress]]\nsubject = {{ unit = \"u{}.service\" }}\n\
                 to = [\"{endpoint}\"]\nports = [\"443/tcp\"]\n",
                index % 2
            );
            let (service, found) =
                config::parse_service("s.toml".as_ref(), &name, &text, &|_| None, &settings);
            (name, Arc::new(service.unwrap_or_else(|| panic!("{found:?}"))))
        };
        let mut world = World::new(settings.clone(), now);
        let services = endpoints.enumerate().map(service).collect();
        world.apply(settings, services, now);
        world
    }

    fn endpoint() -> impl Strategy<Value = String> {
        prop_oneof![
            (0u8..8).prop_map(|last| format!("192.0.2.{last}")),
            (0u8..8).prop_map(|last| format!("2001:db8::{last}")),
            (28u8..=32).prop_map(|length| format!("192.0.2.0/{length}")),
            (124u8..=128).prop_map(|length| format!("2001:db8::/{length}")),
            Just("any".to_owned()),
        ]
    }

    proptest! {
        #[test]
        fn the_rest_has_nothing_to_say(
            endpoints in proptest::collection::vec(endpoint(), 0..12),
            remotes in proptest::collection::vec((any::<bool>(), 0u8..20), 1..6),
            unit in 0u8..3,
        ) {
            let remotes = remotes.into_iter().map(|(v6, last)| match v6 {
                true => format!("2001:db8::{last:x}").parse::<IpAddr>().unwrap(),
                false => format!("192.0.2.{last}").parse().unwrap(),
            });
            let remotes: Vec<_> = remotes.collect();
            let world = world(endpoints.into_iter());
            let services = world.standings();
            let concerned = Concerned::new(&services, remotes.iter().copied());
            let unit = Subject::unit(&format!("u{unit}.service")).unwrap();
            let is = |subject: &Subject| *subject == unit;
            for remote in remotes {
                for direction in [Direction::Egress, Direction::Ingress] {
                    let packet = Packet { direction, remote, protocol: Protocol::Tcp, port: 443 };
                    let explain = |services| explain::explain(services, &packet, &is, world.now());
                    prop_assert_eq!(explain(&services), explain(concerned.about(remote)));
                    let failsafe = |services| explain::failsafe(world.settings(), services, &packet);
                    prop_assert_eq!(failsafe(&services), failsafe(concerned.about(remote)));
                }
            }
        }
    }

    #[test]
    fn one_that_lists_other_addresses_is_not_asked() {
        let world = world((0..1000).map(|index| format!("10.0.{}.{}", index / 200, index % 200)));
        let services = world.standings();
        let remote = "10.0.3.7".parse().unwrap();
        let concerned = Concerned::new(&services, [remote].into_iter());
        let names = |services: &[Standing<'_>]| {
            services.iter().map(|standing| standing.service.name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(names(concerned.about(remote)), ["s607"]);
        assert_eq!(names(concerned.services()), ["s607"]);
    }
}
