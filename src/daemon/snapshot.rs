//! What stands in the snapshot of accepted files: the texts of services and segments, and which services are decommissioned.
//!
//! Decommissions stand here beside the database's records, so that a database that was removed brings no service back.

use std::collections::BTreeMap;

use crate::config::Loaded;
use crate::model::ServiceName;
use crate::reconcile::World;
use crate::store::accepted::{Accepted, AcceptedSegment, AcceptedService, Departed};

/// The accepted texts: those of the files, and those of services that went and are still watched. A segment whose file went
/// encloses nobody any more.
pub fn merged(before: &Accepted, loaded: &Loaded, world: &World) -> Accepted {
    let mut services: BTreeMap<ServiceName, AcceptedService> = loaded
        .texts
        .iter()
        .map(|(name, text)| {
            let service =
                AcceptedService { text: text.text.clone(), lists: text.lists.clone(), departed: None };
            (name.clone(), service)
        })
        .collect();
    for (name, old) in &before.services {
        if world.standing(name).is_some_and(|standing| standing.governs(world.now())) {
            services.entry(name.clone()).or_insert_with(|| old.clone());
        }
    }
    let segments = loaded.segment_texts.iter().map(|(name, text)| {
        (name.clone(), AcceptedSegment { text: text.text.clone(), lists: text.lists.clone() })
    });
    let segments = segments.collect();
    let mut accepted = Accepted { settings_text: loaded.settings_text.clone(), services, segments };
    note_decommissions(&mut accepted, world);
    accepted
}

/// Brings the decommissions up to date.
pub fn note_decommissions(accepted: &mut Accepted, world: &World) {
    for (name, service) in &mut accepted.services {
        let event = world.standing(name).and_then(|standing| standing.record.decommissioned.clone());
        service.departed =
            event.map(|event| Departed { at: event.at, covers: event.covers, cause: event.cause });
    }
}
