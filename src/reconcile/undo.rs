//! Taking back files that nobody confirmed: a service becomes what it was before them.

use std::sync::Arc;

use super::{Known, World};
use crate::model::{Cause, Record, Service, ServiceName};

impl World {
    /// Forgets a service that came with the files: its addresses are nobody's again. Returns what is remembered of it all the same: the end
    /// of a former lifetime. One that an operator shut meanwhile stays, refused and watched: `None`.
    pub fn forget(&mut self, name: &ServiceName) -> Option<Record> {
        let known = self.services.get(name)?;
        let begins_at = known.file.lifetime.opens_at();
        let ended = known.record().decommissioned.as_ref();
        let (former, present): (Vec<_>, Vec<_>) = ended.into_iter().partition(|end| end.covers < begins_at);
        if known.record().suspended.is_some() || present.iter().any(|event| event.cause == Cause::Order) {
            return None;
        }
        let record = Record { decommissioned: former.first().copied().cloned(), ..Record::default() };
        if record != Record::default() {
            self.forgotten.insert(name.clone(), record.clone());
        }
        let scheduled = Arc::clone(&known.scheduled);
        self.index.remove(&scheduled);
        self.services.remove(name);
        self.files.remove(name);
        self.returned.remove(name);
        self.agenda.forget(name);
        self.cut_at = Some(self.latest);
        Some(record)
    }

    /// Puts the file of a service back that was gone before these files; what is remembered of it stays. Call
    /// [`World::apply`] with files that do not have it afterwards.
    pub fn put_back_departed(&mut self, service: Service) {
        let name = service.name.clone();
        let Some(record) = self.services.get(&name).map(|known| known.record().clone()) else { return };
        self.files.remove(&name);
        self.returned.insert(name);
        self.put(Known::new(Arc::new(service), record, true));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Order, OrderKind, ServiceState, Services, Settings, Time};
    use crate::schedule::fixture;

    fn at(text: &str) -> Time {
        fixture::at(text)
    }

    fn named(name: &str) -> Service {
        Service { name: ServiceName::new(name).unwrap(), ..fixture::service(vec![]) }
    }

    fn files(services: &[&Service]) -> Services {
        services.iter().map(|service| (*service).clone().named()).collect()
    }

    #[test]
    fn a_service_that_is_forgotten_governs_nothing_and_may_come_again() {
        let now = at("2026-06-01T00:00:00Z");
        let (old, new) = (named("old"), named("new"));
        let mut world = World::new(Settings::default(), now);
        world.apply(Settings::default(), files(&[&old, &new]), now);
        assert_eq!(world.forget(&new.name), Some(Record::default()));
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
        assert_eq!(world.forget(&new.name), None);
        world.apply(Settings::default(), files(&[]), now);
        assert_eq!(world.state(&new.name), Some(ServiceState::Decommissioned));
        assert_eq!(world.standings().len(), 1, "it stays watched");
    }

    #[test]
    fn the_end_of_a_former_lifetime_is_not_forgotten() {
        let now = at("2026-06-01T00:00:00Z");
        let old = named("stripe");
        let mut world = World::new(Settings::default(), now);
        world.apply(Settings::default(), files(&[&old]), now);
        world.apply(Settings::default(), files(&[]), now);
        let later = now + chrono::TimeDelta::minutes(1);
        let lifetime = fixture::span("2026-06-01T00:00:01Z", "2027-01-01T00:00:00Z");
        world.apply(Settings::default(), files(&[&Service { lifetime, ..old.clone() }]), later);
        let record = world.forget(&old.name).unwrap();
        assert_eq!(record.decommissioned.as_ref().unwrap().covers, now);
        assert_eq!(world.state(&old.name), None);
        world.apply(Settings::default(), files(&[&old]), later);
        assert_eq!(world.state(&old.name), Some(ServiceState::Decommissioned));
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
