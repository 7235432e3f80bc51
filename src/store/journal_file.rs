//! The journal's file: blocking reads and synced appends.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

use super::journal::JournalError;
use super::line::Line;

/// The most that is read; some hundred thousand facts.
const MAX: u64 = 256 << 20;

/// What a file has kept.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub lines: Vec<Line>,
    pub bad: Vec<JournalError>,
}

/// Reads the file; where there is none, nothing was kept.
pub(super) fn read(path: &Path) -> Result<Content, JournalError> {
    match read_bytes(path) {
        Ok(bytes) => Ok(parse(path, &bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Content::default()),
        Err(error) => Err(failed(path, "read", &error)),
    }
}

fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    let file = open(OpenOptions::new().read(true), path)?;
    let mut bytes = Vec::new();
    file.take(MAX.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX {
        return Err(io::Error::other("it is longer than 256 MiB"));
    }
    Ok(bytes)
}

/// A last line without its end is a write that was cut short: nobody was told that it is kept, so it may be missing.
fn parse(path: &Path, bytes: &[u8]) -> Content {
    let mut content = Content::default();
    let whole = bytes.ends_with(b"\n");
    let lines: Vec<_> =
        bytes.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty()).collect();
    let count = lines.len();
    for (index, (number, line)) in lines.into_iter().enumerate() {
        let torn = !whole && index + 1 == count;
        match Line::read(&String::from_utf8_lossy(line)) {
            Ok(line) => content.lines.push(line),
            Err(_) if torn => {}
            Err(cause) => content.bad.push(JournalError::Line {
                path: path.to_owned(),
                line: number + 1,
                cause: cause.to_string(),
            }),
        }
    }
    content
}

/// Appends whole lines and syncs them, the file's name included. What was written half is taken back.
pub(super) fn append(path: &Path, text: &str) -> Result<(), JournalError> {
    append_lines(path, text).map_err(|error| failed(path, "write", &error))
}

fn append_lines(path: &Path, text: &str) -> io::Result<()> {
    let mut file = open(OpenOptions::new().read(true).append(true).create(true).mode(0o600), path)?;
    let length = file.metadata()?.len();
    let written = write_lines(&mut file, length, text).and_then(|()| sync_directory(path));
    if written.is_err() {
        // Best effort: a line that is left half is skipped when it is read.
        let _ = file.set_len(length);
    }
    written
}

fn write_lines(file: &mut File, length: u64, text: &str) -> io::Result<()> {
    if length > 0 && !ends_line(file)? {
        file.write_all(b"\n")?;
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn ends_line(file: &mut File) -> io::Result<bool> {
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// Removes the file, or renames it where it holds lines that nobody could read.
pub(super) fn remove(path: &Path) -> Result<(), JournalError> {
    let done = match read(path) {
        Ok(content) if content.bad.is_empty() => fs::remove_file(path),
        Ok(_) | Err(_) => fs::rename(path, path.with_extension("jsonl.damaged")),
    };
    match done {
        Ok(()) => sync_directory(path).map_err(|error| failed(path, "remove", &error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(path, "remove", &error)),
    }
}

/// Opens a regular file that is no symbolic link, and never waits for the other end of a pipe.
fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = options.custom_flags(flags.bits().cast_signed()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok(file)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

fn failed(path: &Path, what: &'static str, error: &io::Error) -> JournalError {
    JournalError::Io { path: path.to_owned(), what, cause: error.to_string() }
}
