//! Records that could not be read when the world was made.

use std::collections::BTreeMap;

use super::World;
use crate::model::{Record, ServiceName};

impl World {
    /// The records that say anything, of every service.
    pub fn records(&self) -> BTreeMap<ServiceName, Record> {
        let said = self.services.iter().filter(|(_, known)| known.record != Record::default());
        said.map(|(name, known)| (name.clone(), known.record.clone())).collect()
    }

    /// Takes in what was remembered all the time: suspensions and decommissions come, none of what is known goes.
    pub fn recall(&mut self, records: BTreeMap<ServiceName, Record>) {
        for (name, stored) in records {
            let Some(known) = self.services.get(&name) else { continue };
            let mut record = known.record.clone();
            record.suspended = record.suspended.or(stored.suspended);
            if let Some(event) = stored.decommissioned {
                record.decommission(event);
            }
            if record != known.record {
                let (file, departed) = (known.file.clone(), known.departed);
                self.remember(file, record, departed);
            }
        }
    }
}
