//! `check`: judges files, offline and without rights.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::accounts;
use super::activation::{self, UNIT_DIRECTORIES};
use super::arguments::FileKind;
use super::console::Console;
use super::stop::Stop;
use super::table::counted;
use crate::api::body::Diagnostics;
use crate::config::{self, Diagnostic, Files, Loaded, MAX_FILE, MAX_LIST, Severity, Source};
use crate::files::{self, SettingsFile};
use crate::model::{Paths, PolicyId, ServiceName, Settings};

/// Judges `paths` as what `kind` says, by where they lie without it; everything when there are none.
pub fn run(
    settings: &SettingsFile,
    paths: &[PathBuf],
    kind: Option<FileKind>,
    console: &mut Console<'_>,
) -> Result<(), Stop> {
    let (found, in_order) = match paths.is_empty() {
        true => whole(settings),
        false => (files_apart(settings, paths, kind), format!("{} in order", counted(paths.len(), "file"))),
    };
    if found.iter().any(|one| one.severity == Severity::Error) {
        return Err(Stop::Invalid(found));
    }
    if console.json {
        let body = serde_json::to_string(&Diagnostics::new(&found));
        return console.print(body.map_err(|error| Stop::Failed(error.to_string()))?);
    }
    console.warn(&found);
    console.print(in_order)
}

/// Judges the whole configuration.
fn whole(settings: &SettingsFile) -> (Vec<Diagnostic>, String) {
    match files::load(settings) {
        Ok(loaded) => {
            let in_order = in_order(&loaded);
            let directory = loaded.settings.paths.services.clone();
            let file = |name: &ServiceName| directory.join(format!("{name}.toml"));
            (with_host(loaded, file), in_order)
        }
        Err(found) => (found, String::new()),
    }
}

fn in_order(loaded: &Loaded) -> String {
    let services = counted(loaded.services.len(), "service");
    match loaded.segments.len() {
        0 => format!("{services} in order"),
        segments => format!("{services} and {} in order", counted(segments, "segment")),
    }
}

/// The warnings about files in order, and those about what else is on this host.
fn with_host(loaded: Loaded, file: impl Fn(&ServiceName) -> PathBuf) -> Vec<Diagnostic> {
    let warning = |policy: &PolicyId, message: String, help: String| {
        let text = loaded.texts.get(&policy.service).map_or("", |text| &text.text);
        let (line, column) = config::subject_place(text, policy);
        let file = file(&policy.service);
        Diagnostic { file, line, column, message, help: Some(help), severity: Severity::Warning }
    };
    let activated =
        activation::of_services(loaded.services.values().map(|service| &**service), UNIT_DIRECTORIES);
    let activated =
        activated.iter().map(|(policy, listener)| warning(policy, listener.to_string(), listener.help()));
    let unknown = accounts::unknown(loaded.services.values().flat_map(|service| &service.policies));
    let unknown =
        unknown.iter().map(|one| warning(&one.policy, one.message.clone(), accounts::HELP.to_owned()));
    let mut found: Vec<Diagnostic> = activated.chain(unknown).collect();
    found.extend(loaded.warnings.iter().cloned());
    found.sort();
    found
}

/// Judges each file by itself.
fn files_apart(settings: &SettingsFile, paths: &[PathBuf], kind: Option<FileKind>) -> Vec<Diagnostic> {
    let context = match Context::of(settings) {
        Ok(context) => context,
        Err(found) => return found,
    };
    let judge = |path: &PathBuf| context.judge(path, kind.unwrap_or_else(|| context.kind(path)));
    let mut found: Vec<Diagnostic> = paths.iter().flat_map(judge).collect();
    found.sort();
    found.dedup();
    found
}

/// The configuration around the files.
struct Context {
    settings_path: PathBuf,
    /// While they are in order.
    settings: Option<Source>,
    paths: Paths,
}

impl Context {
    /// Mistakes in the settings are not those of the files; but settings that were named have to be there.
    fn of(file: &SettingsFile) -> Result<Self, Vec<Diagnostic>> {
        let source = files::read_settings(file);
        let settings: Option<Settings> = files::settings_of(source.as_ref());
        match &source {
            Some(source) if source.text.is_err() && *file != SettingsFile::Standard => {
                return Err(said(&Files { settings: Some(source.clone()), ..Files::default() }));
            }
            Some(_) | None => {}
        }
        Ok(Self {
            settings_path: file.path().to_owned(),
            settings: source.filter(|_| settings.is_some()),
            paths: settings.unwrap_or_default().paths,
        })
    }

    fn judge(&self, path: &Path, kind: FileKind) -> Vec<Diagnostic> {
        match kind {
            FileKind::Settings => {
                said(&Files { settings: Some(files::read_source(path, MAX_FILE)), ..Files::default() })
            }
            FileKind::List => judge_list(path),
            FileKind::Segment => self.judge_with_lists(path, |files, segment| files.segments.push(segment)),
            FileKind::Service => self.judge_with_lists(path, |files, service| files.services.push(service)),
        }
    }

    /// What a file is, by where it lies.
    fn kind(&self, path: &Path) -> FileKind {
        if path.file_name().is_some_and(|name| name == "picoseg.toml") || same(path, &self.settings_path) {
            return FileKind::Settings;
        }
        let directory = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            Some(_) | None => Path::new("."),
        };
        match (same(directory, &self.paths.segments), same(directory, &self.paths.lists)) {
            (true, _) => FileKind::Segment,
            (_, true) => FileKind::List,
            (false, false) => FileKind::Service,
        }
    }

    /// Judges a schedule or a segment and the lists that it uses.
    fn judge_with_lists(&self, path: &Path, put: impl FnOnce(&mut Files, Source)) -> Vec<Diagnostic> {
        let label = label(path);
        let source = Source { path: label.clone(), ..files::read_source(path, MAX_FILE) };
        let mut found = Vec::new();
        let lists = files::read_lists(&self.paths.lists, &files::lists_of([&source]), &mut found);
        let ours: BTreeSet<PathBuf> =
            lists.values().map(|list| list.path.clone()).chain([label.clone()]).collect();
        let mut files = Files { settings: self.settings.clone(), lists, ..Files::default() };
        put(&mut files, source);
        let judged = config::load(&files);
        found.extend(judged.map_or_else(|found| found, |loaded| with_host(loaded, |_| label.clone())));
        found.retain(|one| ours.contains(&one.file));
        let relabel = |one: Diagnostic| match one.file == label {
            true => Diagnostic { file: path.to_owned(), ..one },
            false => one,
        };
        found.into_iter().map(relabel).collect()
    }
}

/// The path under which a schedule or a segment is judged: a temporary copy has a name that would fit none, and means none.
fn label(path: &Path) -> PathBuf {
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    match stem.is_some_and(|stem| ServiceName::new(stem).is_ok()) {
        true => path.to_owned(),
        false => path.with_file_name("unnamed.toml"),
    }
}

fn judge_list(path: &Path) -> Vec<Diagnostic> {
    let Source { text, .. } = files::read_source(path, MAX_LIST);
    match text {
        Ok(bytes) => config::parse_list(path, &bytes).1,
        // Of a file that cannot be read the same is said, whatever it would be.
        unreadable @ Err(_) => {
            let source = Source { path: path.to_owned(), text: unreadable };
            said(&Files { settings: Some(source), ..Files::default() })
        }
    }
}

/// Everything that is said about files.
fn said(files: &Files) -> Vec<Diagnostic> {
    config::load(files).map_or_else(|found| found, |loaded| loaded.warnings)
}

/// True when both lead to the same place.
fn same(a: &Path, b: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    real(a) == real(b)
}
