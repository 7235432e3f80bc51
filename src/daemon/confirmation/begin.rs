//! What a start finds: files that wait, or that nobody confirmed.

use std::path::Path;

use super::held::held;
use super::{Confirmation, Waiting, left};
use crate::config::Loaded;
use crate::daemon::{fallback, snapshot};
use crate::kernel::clock;
use crate::store::accepted::{self, Accepted};
use crate::store::unconfirmed::{self, Note, Stage};

/// What a start goes on with where files wait or fell back.
#[derive(Debug)]
pub struct Begun {
    /// What is in force now.
    pub loaded: Loaded,
    pub confirmation: Confirmation,
    /// What `status` says of the files that are there.
    pub error: Option<String>,
    /// It fell back just now: whose files, for the ledger.
    pub fell_back: Option<Note>,
}

/// Looks what stands in the state directory; `None`: nothing that concerns the files that are there.
///
/// `before`: what was accepted; `wanted`: the files that are there, where they are in order.
pub fn at_start(directory: &Path, before: Option<&Accepted>, wanted: Option<&Loaded>) -> Option<Begun> {
    let found = match unconfirmed::read(directory) {
        Ok(found) => found?,
        Err(error) => {
            let error =
                format!("running on the files that were accepted before: {error}; apply to settle it");
            return Some(Begun {
                loaded: fallback::reload(before?)?,
                confirmation: Confirmation::FellBack { rest: None },
                error: Some(error),
                fell_back: None,
            });
        }
    };
    let (note, texts) = found;
    let (before, base) = (before?, fallback::reload(before?)?);
    match (note.stage, texts) {
        (Stage::Waiting, Some(_)) if accepted::digest(before) == note.files => {
            // Confirmed, and killed before the note was gone.
            clear(directory);
            None
        }
        (Stage::Waiting, Some(texts)) if is_this_boot(&note) && !left(&note).is_zero() => {
            let loaded = fallback::reload(&texts)?;
            let in_force = held(&base, loaded.clone(), note.until);
            let waiting = Waiting { note, before: before.clone(), loaded, retry_at: None };
            let confirmation = Confirmation::Waiting(Box::new(waiting));
            Some(Begun { loaded: in_force, confirmation, error: None, fell_back: None })
        }
        (Stage::Waiting, _) => {
            if let Err(error) = unconfirmed::write_fell_back(directory, &note) {
                tracing::error!(%error, "that nobody confirmed is not written down");
            }
            Some(fell_back(base, &note, true))
        }
        // Other files than those that fell back are nobody's mistake yet.
        (Stage::FellBack, _) => {
            let same = wanted.is_some_and(|wanted| accepted::digest(&snapshot::of(wanted)) == note.files);
            same.then(|| fell_back(base, &note, false))
        }
    }
}

fn fell_back(loaded: Loaded, note: &Note, now: bool) -> Begun {
    Begun {
        loaded,
        confirmation: Confirmation::FellBack { rest: None },
        error: Some(told(note)),
        fell_back: now.then(|| note.clone()),
    }
}

/// What `status` says of files that fell back.
pub fn told(note: &Note) -> String {
    let Note { by, at, .. } = note;
    format!(
        "the files that {by} applied at {} were not confirmed: what was accepted before is in force",
        at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
    )
}

fn is_this_boot(note: &Note) -> bool {
    *clock::reading().boot == *note.boot
}

/// Forgets what waited.
pub fn clear(directory: &Path) {
    if let Err(error) = unconfirmed::remove(directory) {
        tracing::error!(%error, "what waited for a confirmation is still written down");
    }
}
