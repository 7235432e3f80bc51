//! What stands in the snapshot of accepted files: the texts of services and segments, and which services are decommissioned.
//!
//! Decommissions stand here beside the database's records, so that a database that was removed brings no service back.

use crate::config::{FileText, Loaded};
use crate::reconcile::World;
use crate::store::accepted::{Accepted, AcceptedSegment, AcceptedService, Departed};

/// The accepted texts: those of the files, and those of services that went and are still watched. A segment whose file went
/// encloses nobody any more.
pub fn merged(before: &Accepted, loaded: &Loaded, world: &World) -> Accepted {
    let mut accepted = of(loaded);
    for (name, old) in &before.services {
        if world.standing(name).is_some_and(|standing| standing.governs(world.now())) {
            accepted.services.entry(name.clone()).or_insert_with(|| old.clone());
        }
    }
    note_decommissions(&mut accepted, world);
    accepted
}

/// The texts of the files alone.
pub fn of(loaded: &Loaded) -> Accepted {
    let service = |text: &FileText| AcceptedService {
        text: text.text.clone(),
        lists: text.lists.clone(),
        departed: None,
    };
    let segment = |text: &FileText| AcceptedSegment { text: text.text.clone(), lists: text.lists.clone() };
    Accepted {
        settings_text: loaded.settings_text.clone(),
        services: loaded.texts.iter().map(|(name, text)| (name.clone(), service(text))).collect(),
        segments: loaded.segment_texts.iter().map(|(name, text)| (name.clone(), segment(text))).collect(),
    }
}

/// Brings the decommissions up to date.
pub fn note_decommissions(accepted: &mut Accepted, world: &World) {
    for (name, service) in &mut accepted.services {
        let event = world.standing(name).and_then(|standing| standing.record.decommissioned.clone());
        service.departed =
            event.map(|event| Departed { at: event.at, covers: event.covers, cause: event.cause });
    }
}
