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
        (Stage::FellBack, _) => {
            let same = |wanted| accepted::digest(&snapshot::of(wanted)) == note.files;
            if wanted.is_some_and(same) {
                return Some(fell_back(base, &note, false));
            }
            // Other files than those that fell back are nobody's mistake yet.
            if wanted.is_some() {
                clear(directory);
            }
            None
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{self, Files, Source};
    use crate::model::FileState;

    fn loaded(names: &[&str]) -> Loaded {
        let source = |name: &&str| {
            let text = "provider = \"P\"\nowner = \"o\"\n[lifetime]\ncommission = 2026-01-01T00:00:00Z\n\
                        decommission = 2126-01-01T00:00:00Z\n[[egress]]\nsubject = { unit = \"a.service\" }\n\
                        to = [\"192.0.2.1\"]\nports = [\"443/tcp\"]\n";
            Source { path: format!("{name}.toml").into(), text: Ok(text.as_bytes().to_vec()) }
        };
        let services = names.iter().map(source).collect();
        config::load(&Files { settings: None, services, segments: vec![], lists: Default::default() })
            .unwrap()
    }

    /// A state directory in which the removal of `old` and the coming of `new` wait for so long, in this boot or another.
    fn waiting(patience: Duration, boot: &str) -> (tempfile::TempDir, Accepted, Loaded) {
        let directory = tempfile::tempdir().unwrap();
        let (before, wanted) = (snapshot::of(&loaded(&["old"])), loaded(&["new"]));
        let now = clock::now();
        let elapsed = (clock::reading().elapsed + patience).as_nanos() as u64;
        let texts = snapshot::of(&wanted);
        let note = Note::new("root (uid 0)", now, now + patience, (boot.to_owned(), elapsed), &texts);
        unconfirmed::write(directory.path(), &note, &texts).unwrap();
        (directory, before, wanted)
    }

    fn names(begun: &Begun) -> Vec<(&str, FileState)> {
        begun.loaded.services.iter().map(|(name, service)| (name.as_str(), service.state)).collect()
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn in_time_it_goes_on_waiting_whatever_files_are_there() {
        let (directory, before, _) = waiting(MINUTE, &clock::reading().boot);
        let begun = at_start(directory.path(), Some(&before), Some(&loaded(&["third"]))).unwrap();
        assert_eq!(names(&begun), [("new", FileState::Commissioned), ("old", FileState::Suspended)]);
        assert!(begun.confirmation.left().is_some_and(|left| left > Duration::ZERO && left <= MINUTE));
        assert!(begun.fell_back.is_none() && begun.error.is_none());
    }

    #[test]
    fn too_late_after_a_reboot_and_where_the_note_is_damaged_it_falls_back_and_stays_so() {
        let boot = clock::reading().boot;
        for (patience, boot) in [(Duration::ZERO, &*boot), (MINUTE, "another boot")] {
            let (directory, before, wanted) = waiting(patience, boot);
            let begun = at_start(directory.path(), Some(&before), Some(&wanted)).unwrap();
            assert_eq!(names(&begun), [("old", FileState::Commissioned)]);
            assert!(begun.fell_back.is_some() && begun.error.unwrap().contains("not confirmed"));
            let again = at_start(directory.path(), Some(&before), Some(&wanted)).unwrap();
            assert_eq!(names(&again), [("old", FileState::Commissioned)]);
            assert!(again.fell_back.is_none(), "it is told once");
            let others = loaded(&["third"]);
            assert!(at_start(directory.path(), Some(&before), Some(&others)).is_none(), "files that are new");
            assert!(at_start(directory.path(), Some(&before), Some(&wanted)).is_none(), "it was settled");
        }
        let (directory, before, wanted) = waiting(MINUTE, &boot);
        std::fs::write(directory.path().join(unconfirmed::FILE), "{").unwrap();
        let begun = at_start(directory.path(), Some(&before), Some(&wanted)).unwrap();
        assert_eq!(names(&begun), [("old", FileState::Commissioned)]);
        assert!(begun.error.unwrap().contains("damaged"));
    }

    #[test]
    fn what_was_confirmed_is_not_asked_for_again() {
        let (directory, _, wanted) = waiting(MINUTE, &clock::reading().boot);
        let confirmed = snapshot::of(&wanted);
        assert!(at_start(directory.path(), Some(&confirmed), Some(&wanted)).is_none());
        assert_eq!(unconfirmed::read(directory.path()), Ok(None));
    }
}
