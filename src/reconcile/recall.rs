//! Records that could not be read when the world was made.

use std::collections::BTreeMap;

use super::World;
use crate::model::{Record, ServiceName};

impl World {
    /// The records that say anything, of every service.
    pub fn records(&self) -> BTreeMap<ServiceName, Record> {
        let said = self.services.iter().filter(|(_, known)| *known.record() != Record::default());
        said.map(|(name, known)| (name.clone(), known.record().clone())).collect()
    }

    /// Takes in what was remembered all the time: suspensions and decommissions come, none of what is known goes.
    pub fn recall(&mut self, records: BTreeMap<ServiceName, Record>) {
        for (name, stored) in records {
            let Some(known) = self.services.get(&name) else { continue };
            let mut record = known.record().clone();
            record.suspended = record.suspended.or(stored.suspended);
            record.extended = record.extended.or(stored.extended).filter(|_| record.suspended.is_none());
            if let Some(event) = stored.decommissioned {
                record.decommission(event);
            }
            if record != *known.record() {
                let (file, departed) = (known.file.clone(), known.departed);
                self.remember(file, record, departed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Cause, Decommissioned, Service, ServiceState, Settings, Suspended, Time};
    use std::sync::Arc;

    fn at(minute: i64) -> Time {
        Time::from_timestamp(1_790_000_000 + minute * 60, 0).unwrap()
    }

    fn service(name: &str) -> Service {
        let text = format!(
            "provider = \"p\"\nowner = \"o\"\n[lifetime]\ncommission = {}\ndecommission = {}\n\
             [[egress]]\nsubject = {{ unit = \"u.service\" }}\nto = [\"192.0.2.1\"]\nports = [\"443/tcp\"]\n",
            at(-10).to_rfc3339(),
            at(100).to_rfc3339()
        );
        let (path, name) = (std::path::Path::new("x.toml"), ServiceName::new(name).unwrap());
        crate::config::parse_service(path, &name, &text, &|_| None, &Settings::default()).0.unwrap()
    }

    fn suspended(minute: i64) -> Record {
        let suspended = Suspended { at: at(minute), by: "root".into(), reason: "test".into() };
        Record { suspended: Some(suspended), ..Record::default() }
    }

    #[test]
    fn what_is_recalled_closes_and_never_opens() {
        let mut world = World::new(Settings::default(), at(0));
        for name in ["a", "b", "c"] {
            world.remember(Arc::new(service(name)), Record::default(), false);
        }
        let names = ["a", "b", "c", "forgotten"].map(|name| ServiceName::new(name).unwrap());
        let [a, b, c, forgotten] = &names;
        world.recall(BTreeMap::from([(c.clone(), suspended(-1))]));
        let ended = |covers: i64| {
            let event = Decommissioned {
                at: at(-3),
                covers: at(covers),
                cause: Cause::Order,
                by: None,
                reason: None,
            };
            Record { decommissioned: Some(event), ..Record::default() }
        };
        let stored = [(a, suspended(-5)), (b, ended(-3)), (c, Record::default()), (forgotten, suspended(-5))];
        world.recall(stored.map(|(name, record)| (name.clone(), record)).into());
        let state = |name| {
            let standing = world.standing(name).unwrap();
            crate::schedule::state(standing.service, standing.record, true, at(0))
        };
        assert_eq!(state(a), ServiceState::Suspended);
        assert_eq!(state(b), ServiceState::Decommissioned);
        assert_eq!(state(c), ServiceState::Suspended, "nothing that is known goes");
        assert_eq!(world.records().len(), 3);
        assert!(world.standing(forgotten).is_none());
    }
}
