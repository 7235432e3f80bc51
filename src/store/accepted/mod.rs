//! The configuration that was accepted last, as texts: what a daemon that meets bad files at its start runs on.
//!
//! A plain file beside the database, since it has to be there when the database is not. It is written whole
//! ([`write()`]: temporary file, sync, rename, sync of the directory) and carries a checksum in front, over every byte
//! that follows, so that a file that was cut or edited is an error and not a smaller configuration:
//!
//! ```text
//! {"sha256":"HEX","schema":1,"settings_text":TEXT|null,"lists":{HEX:TEXT},
//!  "services":{NAME:{"text":TEXT,"lists":{LIST:HEX},"departed":null|{"at":TIME,"cause":"removed"}}},
//!  "segments":{NAME:{"text":TEXT,"lists":{LIST:HEX}}}}
//! ```
//!
//! `segments` is missing where there are none, as in files of versions that knew none.
//! A list's text stands once, under its SHA-256, however many services use it. All calls block.

mod document;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;
use sha2::{Digest, Sha256};

use super::text::hex;
use crate::model::{Cause, SegmentName, ServiceName, Time};
use document::{Document, Version};

/// The file's name in the state directory.
pub const FILE: &str = "accepted.json";

/// The most that is written and read.
pub const MAX: u64 = 256 << 20;

const SCHEMA: u32 = 1;

/// The texts of the files that were accepted last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Accepted {
    /// `picoseg.toml`; `None` where there was none.
    pub settings_text: Option<String>,
    pub services: BTreeMap<ServiceName, AcceptedService>,
    pub segments: BTreeMap<SegmentName, AcceptedSegment>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedService {
    /// The schedule.
    pub text: String,
    /// The endpoint lists it uses, by name; services share a text.
    pub lists: BTreeMap<String, Arc<str>>,
    /// Its file is not in force any more, and its provider is still watched.
    pub departed: Option<Departed>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedSegment {
    pub text: String,
    /// The endpoint lists it uses, by name.
    pub lists: BTreeMap<String, Arc<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Departed {
    pub at: Time,
    /// Final for lifetimes that begin at or before this.
    pub covers: Time,
    pub cause: Cause,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AcceptedError {
    #[error("cannot {what} {}: {cause}", .path.display())]
    Io { path: PathBuf, what: &'static str, cause: String },
    #[error("{} is damaged: {cause}; once the files under /etc/picoseg are valid, it is written anew", .path.display())]
    Damaged { path: PathBuf, cause: String },
    #[error("{} was written by a newer picoseg (schema {found}, this one knows {SCHEMA})", .path.display())]
    FromTheFuture { path: PathBuf, found: u32 },
    #[error("the files are too long to be kept in {}: {length} bytes of at most {max}", .path.display())]
    TooLong { path: PathBuf, length: u64, max: u64 },
}

/// Reads the snapshot of a state directory; `None` where there is none.
pub fn read(directory: &Path) -> Result<Option<Accepted>, AcceptedError> {
    read_from(directory, FILE)
}

pub(super) fn read_from(directory: &Path, name: &str) -> Result<Option<Accepted>, AcceptedError> {
    let path = directory.join(name);
    match read_bytes(&path, MAX) {
        Ok(bytes) => decode(&path, &bytes).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(&path, "read", &error)),
    }
}

/// Replaces the snapshot of a state directory, whole or not at all.
pub fn write(directory: &Path, accepted: &Accepted) -> Result<(), AcceptedError> {
    write_to(directory, FILE, accepted)
}

pub(super) fn write_to(directory: &Path, name: &str, accepted: &Accepted) -> Result<(), AcceptedError> {
    let path = directory.join(name);
    let bytes = encode(&path, accepted, MAX)?;
    replace(directory, &path, &bytes).map_err(|error| failed(&path, "write", &error))
}

/// The SHA-256, in hexadecimal, over the texts of all files that are there: what departed does not count.
pub fn digest(accepted: &Accepted) -> String {
    let mut there = accepted.clone();
    there.services.retain(|_, service| service.departed.is_none());
    // Texts and digests, by name: there is nothing that JSON could not say.
    let text = serde_json::to_string(&Document::of(&there)).unwrap_or_default();
    hex(&Sha256::digest(text))
}

/// What stands before the checksum, and between it and what it is over.
const BEFORE: &str = "{\"sha256\":\"";
const BETWEEN: &str = "\",";
const DIGITS: usize = 64;

fn encode(path: &Path, accepted: &Accepted, max: u64) -> Result<Vec<u8>, AcceptedError> {
    let body = serde_json::to_string(&Document::of(accepted)).map_err(|error| AcceptedError::Io {
        path: path.to_owned(),
        what: "write",
        cause: error.to_string(),
    })?;
    // Without the brace that BEFORE has already.
    let rest = format!("{}\n", body.get(1..).unwrap_or_default());
    let text = format!("{BEFORE}{}{BETWEEN}{rest}", hex(&Sha256::digest(&rest)));
    match text.len() as u64 {
        length if length > max => Err(AcceptedError::TooLong { path: path.to_owned(), length, max }),
        _ => Ok(text.into_bytes()),
    }
}

fn decode(path: &Path, bytes: &[u8]) -> Result<Accepted, AcceptedError> {
    let damaged = |cause: String| AcceptedError::Damaged { path: path.to_owned(), cause };
    if bytes.len() as u64 > MAX {
        return Err(damaged(format!("it is longer than {MAX} bytes")));
    }
    if !is_whole(bytes) {
        return Err(damaged("its checksum does not fit: it was cut or edited".to_owned()));
    }
    let version: Version = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
    if version.schema != SCHEMA {
        return Err(AcceptedError::FromTheFuture { path: path.to_owned(), found: version.schema });
    }
    let document: Document = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
    document.into_accepted().map_err(damaged)
}

/// True when the checksum in front fits everything behind it.
fn is_whole(bytes: &[u8]) -> bool {
    let parts = bytes
        .strip_prefix(BEFORE.as_bytes())
        .and_then(|bytes| bytes.split_at_checked(DIGITS))
        .and_then(|(digits, rest)| Some((digits, rest.strip_prefix(BETWEEN.as_bytes())?)));
    parts.is_some_and(|(digits, rest)| hex(&Sha256::digest(rest)).as_bytes() == digits)
}

/// Reads one byte more than is allowed at most, so that too much is noticed.
pub(super) fn read_bytes(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let file =
        OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Replaces a file of a directory, whole or not at all.
pub(super) fn replace(directory: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("json.tmp");
    let written = write_synced(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // A left-over is overwritten by the next attempt.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    File::open(directory)?.sync_all()
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

pub(super) fn failed(path: &Path, what: &'static str, error: &io::Error) -> AcceptedError {
    AcceptedError::Io { path: path.to_owned(), what, cause: error.to_string() }
}

#[cfg(test)]
mod tests;
