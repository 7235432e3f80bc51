//! Files that are in force until somebody confirms them, or were until nobody did: what a daemon that starts has to know.
//!
//! Two plain files in the state directory. The texts ([`TEXTS`], as in [`accepted`](super::accepted)) are written before the note
//! ([`FILE`]), which names them by their digest: a note counts only with the texts that it is about. Meanwhile the accepted files stay those
//! of before, so that whoever knows nothing of this falls back. All calls block.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::accepted::{self, Accepted, AcceptedError};
use crate::model::Time;

/// The names in the state directory.
pub const FILE: &str = "unconfirmed.json";
pub const TEXTS: &str = "unconfirmed-files.json";

/// The most bytes of a note.
const MAX: u64 = 64 << 10;
const SCHEMA: u32 = 1;

/// What is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Note {
    schema: u32,
    pub stage: Stage,
    /// Who applied the files, and when.
    pub by: String,
    pub at: Time,
    /// When they fall back by the wall clock.
    pub until: Time,
    /// And by elapsed time: the boot, and nanoseconds since it (`CLOCK_BOOTTIME`).
    pub boot: String,
    pub elapsed: u64,
    /// The digest of the files, see [`accepted::digest`].
    pub files: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    Waiting,
    /// Nobody confirmed: the files that are there are not to be loaded before somebody applies them again.
    FellBack,
}

impl Note {
    /// A note that waits.
    pub fn new(by: &str, at: Time, until: Time, (boot, elapsed): (String, u64), files: &Accepted) -> Self {
        let files = accepted::digest(files);
        Self { schema: SCHEMA, stage: Stage::Waiting, by: by.to_owned(), at, until, boot, elapsed, files }
    }
}

/// Reads note and texts; the texts are there only while the note waits. `None` where there is no note.
///
/// # Errors
/// When the note cannot be read, or is not about the texts: then nobody knows what was to be confirmed, and it falls back.
pub fn read(directory: &Path) -> Result<Option<(Note, Option<Accepted>)>, AcceptedError> {
    let path = directory.join(FILE);
    let damaged = |cause: String| AcceptedError::Damaged { path: path.clone(), cause };
    let bytes = match accepted::read_bytes(&path, MAX) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(accepted::failed(&path, "read", &error)),
    };
    let note: Note = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    if note.schema != SCHEMA {
        return Err(AcceptedError::FromTheFuture { path, found: note.schema });
    }
    match note.stage {
        Stage::FellBack => Ok(Some((note, None))),
        Stage::Waiting => {
            let texts = accepted::read_from(directory, TEXTS)?;
            let texts = texts.filter(|texts| accepted::digest(texts) == note.files);
            let texts = texts.ok_or_else(|| damaged(format!("it is not about what {TEXTS} holds")))?;
            Ok(Some((note, Some(texts))))
        }
    }
}

/// Writes both, the texts first.
pub fn write(directory: &Path, note: &Note, texts: &Accepted) -> Result<(), AcceptedError> {
    accepted::write_to(directory, TEXTS, texts)?;
    write_note(directory, note)
}

/// Writes that nobody confirmed.
pub fn write_fell_back(directory: &Path, note: &Note) -> Result<(), AcceptedError> {
    write_note(directory, &Note { stage: Stage::FellBack, ..note.clone() })?;
    remove_file(directory, TEXTS)
}

fn write_note(directory: &Path, note: &Note) -> Result<(), AcceptedError> {
    let path = directory.join(FILE);
    let text = serde_json::to_string(note).map_err(|error| AcceptedError::Io {
        path: path.clone(),
        what: "write",
        cause: error.to_string(),
    })?;
    accepted::replace(directory, &path, text.as_bytes())
        .map_err(|error| accepted::failed(&path, "write", &error))
}

/// Removes both, the note first.
pub fn remove(directory: &Path) -> Result<(), AcceptedError> {
    remove_file(directory, FILE)?;
    remove_file(directory, TEXTS)
}

fn remove_file(directory: &Path, name: &str) -> Result<(), AcceptedError> {
    let path = directory.join(name);
    match fs::remove_file(&path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(accepted::failed(&path, "remove", &error)),
    }
    fs::File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| accepted::failed(&path, "remove", &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ServiceName;
    use crate::store::accepted::AcceptedService;

    fn texts(text: &str) -> Accepted {
        let service = AcceptedService { text: text.to_owned(), lists: Default::default(), departed: None };
        let services = [(ServiceName::new("stripe").unwrap(), service)].into();
        Accepted { services, ..Accepted::default() }
    }

    fn note(texts: &Accepted) -> Note {
        let at = Time::UNIX_EPOCH;
        Note::new("root (uid 0)", at, at + chrono::TimeDelta::minutes(5), ("boot".to_owned(), 7), texts)
    }

    #[test]
    fn a_note_counts_with_its_texts_alone() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        assert_eq!(read(directory), Ok(None));
        let (one, two) = (texts("one"), texts("two"));
        write(directory, &note(&one), &one).unwrap();
        assert_eq!(read(directory), Ok(Some((note(&one), Some(one.clone())))));
        accepted::write_to(directory, TEXTS, &two).unwrap();
        assert!(matches!(read(directory), Err(AcceptedError::Damaged { .. })));
        fs::remove_file(directory.join(TEXTS)).unwrap();
        assert!(matches!(read(directory), Err(AcceptedError::Damaged { .. })));
        fs::write(directory.join(FILE), "{").unwrap();
        assert!(matches!(read(directory), Err(AcceptedError::Damaged { .. })));
    }

    #[test]
    fn what_fell_back_is_remembered_without_texts_and_removed_whole() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let one = texts("one");
        write(directory, &note(&one), &one).unwrap();
        write_fell_back(directory, &note(&one)).unwrap();
        let fell_back = Note { stage: Stage::FellBack, ..note(&one) };
        assert_eq!(read(directory), Ok(Some((fell_back, None))));
        assert!(!directory.join(TEXTS).exists());
        write(directory, &note(&one), &one).unwrap();
        remove(directory).unwrap();
        assert_eq!(fs::read_dir(directory).unwrap().count(), 0);
        remove(directory).unwrap();
    }
}
