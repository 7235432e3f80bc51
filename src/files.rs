//! Reads the configuration's files from their directories, for the daemon and for the commands that work offline.
//!
//! Neighbours: `config` judges what was read. A file that cannot be read is handed on with the reason, so that it
//! becomes one diagnostic among the others; a directory that cannot be read is a diagnostic from here, because a
//! directory that seems empty would decommission every service. Only regular files are read and never more than
//! their limit: a FIFO or a device in a directory must not hang or fill the daemon. Deliberately absent: the meaning of
//! any line.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::config::{self, Diagnostic, Files, Loaded, MAX_FILE, MAX_LIST, Severity, Source};
use crate::model::{Paths, Settings};

/// Where the settings are unless somebody says otherwise.
pub const STANDARD_SETTINGS: &str = "/etc/picoseg/picoseg.toml";

/// Which settings file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SettingsFile {
    /// [`STANDARD_SETTINGS`]; without it the defaults hold.
    Standard,
    /// This one, which has to be there.
    Given(PathBuf),
}

/// What was read, and what could not even be looked for.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    pub files: Files,
    /// Directories that cannot be read.
    pub mistakes: Vec<Diagnostic>,
}

/// Reads and judges every file: all of them are in order, or all mistakes come back, sorted by file.
pub fn load(settings: &SettingsFile) -> Result<Loaded, Vec<Diagnostic>> {
    let Reading { files, mut mistakes } = read(settings);
    let judged = config::load(&files);
    if mistakes.is_empty() {
        return judged;
    }
    mistakes.extend(judged.map_or_else(|found| found, |loaded| loaded.warnings));
    mistakes.sort();
    Err(mistakes)
}

/// Reads the settings and every directory that they name. Of settings with mistakes nothing else is read: where the
/// other files are is not known then.
pub fn read(settings: &SettingsFile) -> Reading {
    let source = read_settings(settings);
    let paths = settings_of(source.as_ref()).map(|settings| settings.paths);
    let mut reading = paths.map_or_else(Reading::default, |paths| read_directories(&paths));
    reading.files.settings = source;
    reading
}

/// Reads the settings file; `None` when it is the standard one and there is none.
pub fn read_settings(settings: &SettingsFile) -> Option<Source> {
    let source = read_source(settings.path(), MAX_FILE);
    match settings {
        SettingsFile::Standard if is_missing(settings.path()) => None,
        SettingsFile::Standard | SettingsFile::Given(_) => Some(source),
    }
}

/// Where the daemon's sockets are, by settings that may have mistakes elsewhere: to ask the daemon must still be possible
/// when somebody broke its files. Only a file that was given and cannot be read is an error.
pub fn runtime(settings: &SettingsFile) -> Result<PathBuf, Vec<Diagnostic>> {
    place(settings, "runtime", |paths| paths.runtime)
}

/// Where the database is, likewise: the ledger has to be verifiable whatever else is broken.
pub fn state(settings: &SettingsFile) -> Result<PathBuf, Vec<Diagnostic>> {
    place(settings, "state", |paths| paths.state)
}

fn place(
    settings: &SettingsFile,
    key: &str,
    choose: impl Fn(Paths) -> PathBuf,
) -> Result<PathBuf, Vec<Diagnostic>> {
    let source = read_settings(settings);
    let known = settings_of(source.as_ref()).map(|settings| choose(settings.paths));
    match (known, source) {
        (Some(path), _) => Ok(path),
        (None, Some(Source { text: Ok(bytes), .. })) => {
            Ok(written(&bytes, key).unwrap_or_else(|| choose(Paths::default())))
        }
        (None, Some(source)) if *settings != SettingsFile::Standard => {
            let files = Files { settings: Some(source), ..Files::default() };
            config::load(&files).map(|loaded| choose(loaded.settings.paths))
        }
        (None, _) => Ok(choose(Paths::default())),
    }
}

/// What `[paths]` says in a text with mistakes.
fn written(bytes: &[u8], key: &str) -> Option<PathBuf> {
    let text = String::from_utf8_lossy(bytes);
    let (root, _) = toml::de::DeTable::parse_recoverable(&text);
    let paths = root.get_ref().get("paths").and_then(|paths| paths.get_ref().as_table());
    let path = paths.and_then(|paths| paths.get(key)).and_then(|value| value.get_ref().as_str());
    path.map(PathBuf::from).filter(|path| path.is_absolute())
}

/// The settings that a source holds; `None` when it has mistakes.
pub fn settings_of(source: Option<&Source>) -> Option<Settings> {
    let Some(source) = source else { return Some(Settings::default()) };
    let bytes = source.text.as_ref().ok()?;
    let text = str::from_utf8(bytes).ok()?;
    config::parse_settings(&source.path, text).0
}

impl SettingsFile {
    pub fn path(&self) -> &Path {
        match self {
            Self::Standard => Path::new(STANDARD_SETTINGS),
            Self::Given(path) => path,
        }
    }
}

impl From<Option<PathBuf>> for SettingsFile {
    fn from(given: Option<PathBuf>) -> Self {
        given.map_or(Self::Standard, Self::Given)
    }
}

/// Reads schedules, segments, and the lists that they use.
pub fn read_directories(paths: &Paths) -> Reading {
    let mut mistakes = Vec::new();
    let services = read_tables(&paths.services, Missing::IsAMistake, &mut mistakes);
    let segments = read_tables(&paths.segments, Missing::IsEmpty, &mut mistakes);
    let used = lists_of(services.iter().chain(&segments));
    let lists = read_lists(&paths.lists, &used, &mut mistakes);
    Reading { files: Files { settings: None, services, segments, lists }, mistakes }
}

/// Reads the lists of a directory: the used ones as they are, of the others the names only.
pub fn read_lists(
    directory: &Path,
    used: &BTreeSet<String>,
    mistakes: &mut Vec<Diagnostic>,
) -> BTreeMap<String, Source> {
    let paths = entries(directory, ".txt", Missing::IsEmpty, mistakes);
    let named = paths.into_iter().filter_map(|path| Some((path.file_stem()?.to_str()?.to_owned(), path)));
    let sources = named.map(|(name, path)| {
        let source = match used.contains(&name) {
            true => read_source(&path, MAX_LIST),
            false => Source { path, text: Err("no schedule and no segment uses it".to_owned()) },
        };
        (name, source)
    });
    sources.collect()
}

/// The names of the lists that schedules and segments use.
pub fn lists_of<'s>(files: impl IntoIterator<Item = &'s Source>) -> BTreeSet<String> {
    let texts = files.into_iter().filter_map(|source| source.text.as_ref().ok());
    texts.flat_map(|bytes| config::lists_used(&String::from_utf8_lossy(bytes))).collect()
}

/// What it means that a directory does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    IsEmpty,
    IsAMistake,
}

fn read_tables(directory: &Path, missing: Missing, mistakes: &mut Vec<Diagnostic>) -> Vec<Source> {
    let paths = entries(directory, ".toml", missing, mistakes);
    paths.iter().map(|path| read_source(path, MAX_FILE)).collect()
}

/// The paths below a directory whose names end in `suffix`, sorted: hidden ones too, so that a schedule which somebody
/// hid by a dot is noticed, while backups such as `x.toml~` are not.
fn entries(directory: &Path, suffix: &str, missing: Missing, mistakes: &mut Vec<Diagnostic>) -> Vec<PathBuf> {
    match names(directory, suffix) {
        Ok(paths) => paths.into_iter().collect(),
        Err(error) if missing == Missing::IsEmpty && error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            mistakes.push(unreadable_directory(directory, &error));
            Vec::new()
        }
    }
}

fn names(directory: &Path, suffix: &str) -> io::Result<BTreeSet<PathBuf>> {
    let fits = |name: &OsStr| name.as_bytes().ends_with(suffix.as_bytes());
    let entries = fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name()));
    let names = entries.collect::<io::Result<Vec<_>>>()?;
    Ok(names.iter().filter(|name| fits(name)).map(|name| directory.join(name)).collect())
}

fn unreadable_directory(directory: &Path, error: &io::Error) -> Diagnostic {
    let help = match error.kind() {
        io::ErrorKind::NotFound => {
            "create it, also when it stays empty: a missing directory may be a missing mount"
        }
        _ => "make it readable, or name another one in [paths] of the settings",
    };
    Diagnostic {
        file: directory.to_owned(),
        line: 1,
        column: 1,
        message: format!("cannot read this directory: {}", reason(error)),
        help: Some(help.to_owned()),
        severity: Severity::Error,
    }
}

/// Reads one file: at most one byte more than `limit`, by which `config` sees that it is too large.
pub fn read_source(path: &Path, limit: usize) -> Source {
    let text = read_file(path, limit).map_err(|error| reason(&error));
    Source { path: path.to_owned(), text }
}

fn read_file(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let file = open_regular(path)?;
    let limit = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Looks before it opens, since opening alone does something on a device or a FIFO; and again after, since the path may
/// have become another file meanwhile.
fn open_regular(path: &Path) -> io::Result<File> {
    insist_on_regular(&fs::metadata(path)?)?;
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    insist_on_regular(&file.metadata()?)?;
    Ok(file)
}

fn insist_on_regular(metadata: &fs::Metadata) -> io::Result<()> {
    match (metadata.is_file(), metadata.is_dir()) {
        (true, _) => Ok(()),
        (false, true) => Err(io::Error::other("it is a directory")),
        (false, false) => Err(io::Error::other("it is no regular file")),
    }
}

/// What went wrong, without the number that only the machine needs.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" (os error ") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

/// True when there is nothing at a path, not even a link that leads nowhere.
fn is_missing(path: &Path) -> bool {
    matches!(fs::symlink_metadata(path), Err(error) if error.kind() == io::ErrorKind::NotFound)
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
