//! Taking back files that nobody confirmed: a service becomes what it was before them.

use std::sync::Arc;

use super::{Known, World};
use crate::model::{Cause, Service, ServiceName};

impl World {
    /// Forgets a service that came with the files: its addresses are nobody's again. One that an operator shut meanwhile
    /// stays, refused and watched; returns whether it went.
    pub fn forget(&mut self, name: &ServiceName) -> bool {
        let Some(known) = self.services.get(name) else { return false };
        let ended = known.record.decommissioned.as_ref();
        if known.record.suspended.is_some() || ended.is_some_and(|event| event.cause == Cause::Order) {
            return false;
        }
        let scheduled = Arc::clone(&known.scheduled);
        Arc::make_mut(&mut self.index).remove(&scheduled);
        Arc::make_mut(&mut self.services).remove(name);
        self.agenda_mut().forget(name);
        self.cut_at = Some(self.latest);
        true
    }

    /// Puts the file of a service back that was gone before these files; what is remembered of it stays. Call
    /// [`World::apply`] with files that do not have it afterwards.
    pub fn put_back_departed(&mut self, service: Service) {
        let name = service.name.clone();
        let Some(record) = self.services.get(&name).map(|known| known.record.clone()) else { return };
        self.put(Known::new(Arc::new(service), record, true));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::{Order, OrderKind, ServiceState, Settings, Time};
    use crate::schedule::fixture;

    fn at(text: &str) -> Time {
        fixture::at(text)
    }

    fn named(name: &str) -> Service {
        Service { name: ServiceName::new(name).unwrap(), ..fixture::service(vec![]) }
    }

    fn files(services: &[&Service]) -> BTreeMap<ServiceName, Service> {
        services.iter().map(|service| (service.name.clone(), (*service).clone())).collect()
    }

    #[test]
    fn a_service_that_is_forgotten_governs_nothing_and_may_come_again() {
        let now = at("2026-06-01T00:00:00Z");
        let (old, new) = (named("old"), named("new"));
        let mut world = World::new(Settings::default(), now);
        world.apply(Settings::default(), files(&[&old, &new]), now);
        assert!(world.forget(&new.name));
        let outcome = world.apply(Settings::default(), files(&[&old]), now);
        assert_eq!(outcome.happenings, []);
        assert_eq!((world.state(&new.name), world.standings().len()), (None, 1));
        assert!(world.next_deadline() > now);
        world.apply(Settings::default(), files(&[&old, &new]), now);
        assert_eq!(world.state(&new.name), Some(ServiceState::Open), "the same lifetime");
    }

    #[test]
    fn what_an_operator_shut_is_not_forgotten() {
        let now = at("2026-06-01T00:00:00Z");
        let new = named("new");
        let mut world = World::new(Settings::default(), now);
        world.apply(Settings::default(), files(&[&new]), now);
        let order = Order {
            service: new.name.clone(),
            kind: OrderKind::Decommission,
            at: now,
            by: "root (uid 0)".to_owned(),
            reason: "r".to_owned(),
        };
        world.order(&order).unwrap();
        assert!(!world.forget(&new.name));
        world.apply(Settings::default(), files(&[]), now);
        assert_eq!(world.state(&new.name), Some(ServiceState::Decommissioned));
        assert_eq!(world.standings().len(), 1, "it stays watched");
    }

    #[test]
    fn a_renewal_that_is_taken_back_ends_no_lifetime_but_the_former() {
        let now = at("2026-06-01T00:00:00Z");
        let old = named("stripe");
        let mut world = World::new(Settings::default(), now);
        world.apply(Settings::default(), files(&[&old]), now);
        world.apply(Settings::default(), files(&[]), now);
        let later = now + chrono::TimeDelta::minutes(1);
        let lifetime = fixture::span("2026-06-01T00:00:01Z", "2027-01-01T00:00:00Z");
        let renewed = Service { lifetime, ..old.clone() };
        world.apply(Settings::default(), files(&[&renewed]), later);
        assert_eq!(world.state(&old.name), Some(ServiceState::Open));

        world.put_back_departed(old.clone());
        world.apply(Settings::default(), files(&[]), later);
        assert_eq!(world.state(&old.name), Some(ServiceState::Decommissioned));
        assert!(world.is_departed(&old.name));
        world.apply(Settings::default(), files(&[&renewed]), later);
        assert_eq!(world.state(&old.name), Some(ServiceState::Open), "the renewal was never decommissioned");
    }
}
