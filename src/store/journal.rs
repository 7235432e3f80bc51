//! The journal: facts that could not be stored yet.
//!
//! Lines of JSON in a plain file, which is synced before a fact counts as kept: `pending.jsonl` in the state directory, or, where
//! that cannot be written, in the runtime directory (which a reboot empties), or else in memory (which ends with the
//! process) — and the answer says which. Once the store works again, [`pending`](Journal::pending) goes to
//! [`Store::commit`](super::Store::commit), then [`clear`](Journal::clear) removes the files. In this order a crash
//! between the two stores nothing twice, since the store knows the ids of what it has.
//!
//! A file system that hangs holds up nobody: each place gets half a second, and is left alone until it has answered.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::Pending;
use super::journal_file::{self, Content};
use super::line::Line;
use crate::model::Time;

/// The journal's name in either directory.
pub const FILE: &str = "pending.jsonl";

/// How long one place may take.
const PATIENCE: Duration = Duration::from_millis(500);

/// Where facts are kept that could not be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// In the state directory: they survive a reboot.
    State,
    /// In the runtime directory: they survive the process.
    Runtime,
    /// Nowhere else: they end with the process.
    Memory,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::State => "kept in the state directory",
            Self::Runtime => "kept in the runtime directory until the next reboot",
            Self::Memory => "kept in memory only, until the daemon ends",
        })
    }
}

/// Where facts went, and why not to a better place.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Keeping {
    pub place: Place,
    pub problems: Vec<JournalError>,
}

/// A place that cannot be used, or a part of it that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    #[error("cannot {what} the journal {}: {cause}", .path.display())]
    Io { path: PathBuf, what: &'static str, cause: String },
    #[error("cannot {what} the journal {}: its file system does not answer", .path.display())]
    TooSlow { path: PathBuf, what: &'static str },
    #[error("line {line} of the journal {} cannot be read ({cause}); what it kept is lost to picoseg, read it by eye", .path.display())]
    Line { path: PathBuf, line: usize, cause: String },
}

/// Facts that wait for the store, in their order.
#[derive(Debug)]
pub struct Journal {
    places: [Directory; 2],
    pending: Vec<Pending>,
    /// The facts at the end of `pending` that are in no file.
    unsaved: Vec<Line>,
    last_number: i64,
}

/// One directory that may take the file.
#[derive(Debug)]
struct Directory {
    place: Place,
    path: PathBuf,
    /// A call that was given up and may still hang.
    stuck: Option<JoinHandle<()>>,
}

impl Journal {
    /// Reads what is kept in both directories. What cannot be read is told, and the rest is used.
    pub async fn load(state: &Path, runtime: &Path) -> (Self, Vec<JournalError>) {
        let mut places = [Directory::new(Place::State, state), Directory::new(Place::Runtime, runtime)];
        let mut lines = Vec::new();
        let mut problems = Vec::new();
        for place in &mut places {
            match place.run("read", journal_file::read).await {
                Ok(Content { lines: read, bad }) => {
                    lines.extend(read);
                    problems.extend(bad);
                }
                Err(problem) => problems.push(problem),
            }
        }
        (Self::of(places, lines), problems)
    }

    fn of(places: [Directory; 2], mut lines: Vec<Line>) -> Self {
        lines.sort_by_key(|line| line.number);
        let last_number = lines.last().map_or(0, |line| line.number);
        let mut seen = BTreeSet::new();
        // A write that was given up may have reached the first place after the second.
        lines.retain(|line| line.pending.id.is_empty() || seen.insert(line.pending.id.clone()));
        Self {
            places,
            pending: lines.into_iter().map(|line| line.pending).collect(),
            unsaved: Vec::new(),
            last_number,
        }
    }

    /// Keeps facts behind those that wait already. `now` orders them across files that could not be read together.
    pub async fn append(&mut self, facts: Vec<Pending>, now: Time) -> Keeping {
        for pending in facts {
            self.pending.push(pending.clone());
            let number = self.number(now);
            self.unsaved.push(Line { number, pending });
        }
        self.save().await
    }

    /// Nanoseconds since 1970, or one more than the last where the clock was turned back.
    fn number(&mut self, now: Time) -> i64 {
        let nanoseconds = now.timestamp_nanos_opt().unwrap_or(i64::MAX);
        self.last_number = nanoseconds.max(self.last_number.saturating_add(1));
        self.last_number
    }

    async fn save(&mut self) -> Keeping {
        let text: String = self.unsaved.iter().map(Line::write).collect();
        let mut problems = Vec::new();
        for place in &mut self.places {
            let text = text.clone();
            match place.run("write", move |path| journal_file::append(path, &text)).await {
                Ok(()) => {
                    self.unsaved.clear();
                    return Keeping { place: place.place, problems };
                }
                Err(problem) => problems.push(problem),
            }
        }
        Keeping { place: Place::Memory, problems }
    }

    /// What waits for the store, the oldest first.
    pub fn pending(&self) -> &[Pending] {
        &self.pending
    }

    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Forgets what waits, because the store has it. A file with lines that could not be read is renamed, not removed.
    ///
    /// What cannot be removed is told; it is harmless, since the store knows what it has.
    pub async fn clear(&mut self) -> Vec<JournalError> {
        (self.pending, self.unsaved) = (Vec::new(), Vec::new());
        let mut problems = Vec::new();
        for place in &mut self.places {
            problems.extend(place.run("remove", journal_file::remove).await.err());
        }
        problems
    }
}

impl Directory {
    fn new(place: Place, directory: &Path) -> Self {
        Self { place, path: directory.join(FILE), stuck: None }
    }

    /// Runs blocking work on the file for as long as patience lasts.
    async fn run<T: Send + 'static>(
        &mut self,
        what: &'static str,
        work: impl FnOnce(&Path) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, JournalError> {
        let slow = JournalError::TooSlow { path: self.path.clone(), what };
        if self.stuck.as_ref().is_some_and(|call| !call.is_finished()) {
            return Err(slow);
        }
        let (answer, answered) = tokio::sync::oneshot::channel();
        let path = self.path.clone();
        let call = tokio::task::spawn_blocking(move || {
            // Nobody listens any more when the call was given up.
            let _ = answer.send(work(&path));
        });
        if let Ok(Ok(outcome)) = tokio::time::timeout(PATIENCE, answered).await {
            return outcome;
        }
        self.stuck = Some(call);
        Err(slow)
    }
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
