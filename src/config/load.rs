//! Every file together.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::list::ByFile;
use super::sharing::{self, Described};
use super::source::Source;
use super::{Diagnostic, Files, MAX_FILE, Severity, segment, service, settings};
use crate::model::{
    Endpoint, NameError, Segment, SegmentName, Service, ServiceName, Services, Settings, Subject,
};

/// A configuration without mistakes.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub settings: Settings,
    pub services: Services,
    pub segments: BTreeMap<SegmentName, Segment>,
    /// What each service was read from.
    pub texts: BTreeMap<ServiceName, FileText>,
    /// What each segment was read from.
    pub segment_texts: BTreeMap<SegmentName, FileText>,
    /// The settings file; `None` where there is none.
    pub settings_text: Option<String>,
    /// Sorted by file, line and column.
    pub warnings: Vec<Diagnostic>,
}

/// What a service or a segment was read from: enough to read it again once its file is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileText {
    pub text: String,
    /// The lists that it uses, by name.
    pub lists: BTreeMap<String, Arc<str>>,
}

/// Reads every file: all of them are in order, or all mistakes and warnings come back, sorted by file, line and column.
pub fn load(files: &Files) -> Result<Loaded, Vec<Diagnostic>> {
    let mut found = Vec::new();
    let settings = read_settings(files.settings.as_ref(), &mut found);
    let lists = ByFile::new(&files.lists);
    let drafts = read_services(&files.services, &lists, settings.as_ref(), &mut found);
    let texts = drafts.iter().map(|draft| draft.text(&lists)).collect();
    let enclosures = read_segments(&files.segments, &lists, &mut found);
    let segment_texts = enclosures.iter().map(|one| one.text(&lists)).collect();
    found.extend(lists.finish());
    let described: Vec<_> = drafts.iter().map(Draft::described).collect();
    found.extend(sharing::warnings(&described));
    found.sort();
    found.dedup();
    match settings {
        Some(settings) if found.iter().all(|one| one.severity == Severity::Warning) => Ok(Loaded {
            settings,
            services: drafts.into_iter().map(|draft| draft.service.named()).collect(),
            segments: enclosures.into_iter().map(|one| (one.segment.name.clone(), one.segment)).collect(),
            texts,
            segment_texts,
            settings_text: settings_text(files),
            warnings: found,
        }),
        Some(_) | None => Err(found),
    }
}

/// The text of settings that were read without a mistake.
fn settings_text(files: &Files) -> Option<String> {
    let bytes = files.settings.as_ref()?.text.as_ref().ok()?;
    String::from_utf8(bytes.clone()).ok()
}

/// A service whose own file is in order.
struct Draft {
    path: PathBuf,
    service: Service,
    text: String,
    /// Line and column of the endpoints of each policy.
    endpoints: Vec<(usize, usize)>,
}

impl Draft {
    fn described(&self) -> Described<'_> {
        Described { path: &self.path, service: &self.service, endpoints: &self.endpoints }
    }

    fn text(&self, lists: &ByFile<'_>) -> (ServiceName, FileText) {
        let endpoints = self.service.policies.iter().flat_map(|policy| &policy.endpoints);
        let used = endpoints.filter_map(|endpoint| match endpoint {
            Endpoint::List(name) => Some((name.as_str().to_owned(), lists.text(name.as_str())?)),
            Endpoint::Prefix(_) | Endpoint::Name(_) | Endpoint::Any => None,
        });
        let text = FileText { text: self.text.clone(), lists: used.collect() };
        (self.service.name.clone(), text)
    }
}

/// A segment whose own file is in order.
struct Enclosure {
    segment: Segment,
    text: String,
}

impl Enclosure {
    fn text(&self, lists: &ByFile<'_>) -> (SegmentName, FileText) {
        let used = service::lists_used(&self.text).into_iter();
        let lists = used.filter_map(|name| Some((name.clone(), lists.text(&name)?))).collect();
        (self.segment.name.clone(), FileText { text: self.text.clone(), lists })
    }
}

fn read_settings(source: Option<&Source>, found: &mut Vec<Diagnostic>) -> Option<Settings> {
    let Some(source) = source else {
        return Some(Settings::default());
    };
    let (text, mistake) = source.decode(MAX_FILE).map_err(|mistake| found.push(mistake)).ok()?;
    let (settings, diagnostics) = settings::parse_settings(&source.path, &text);
    add(found, diagnostics, mistake);
    settings
}

/// Adds the findings about a file; a line that is no text has no other mistake.
fn add(found: &mut Vec<Diagnostic>, mut diagnostics: Vec<Diagnostic>, not_text: Option<Diagnostic>) {
    if let Some(bad) = &not_text {
        diagnostics.retain(|one| one.line != bad.line);
    }
    found.extend(diagnostics);
    found.extend(not_text);
}

fn read_services(
    sources: &[Source],
    lists: &ByFile<'_>,
    settings: Option<&Settings>,
    found: &mut Vec<Diagnostic>,
) -> Vec<Draft> {
    let mut taken: BTreeMap<String, &Path> = BTreeMap::new();
    let mut expressions = HashSet::new();
    let mut drafts = Vec::new();
    for source in sources {
        let stem = source.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let name = file_name(source, "service", &stem, found);
        if let Some(first) = taken.get(&stem) {
            found.push(doubled(source, &stem, first));
        }
        taken.entry(stem).or_insert(&source.path);
        if let Some(mut draft) = read_service(source, name, lists, settings, found) {
            draft.service.share_expressions(&mut expressions);
            drafts.push(draft);
        }
    }
    drafts.sort_by(|a, b| a.service.name.cmp(&b.service.name));
    drafts
}

/// The name by the file's stem. A file with another one is read too, for its other mistakes.
fn file_name(source: &Source, kind: &str, stem: &str, found: &mut Vec<Diagnostic>) -> Option<ServiceName> {
    let report = |_: NameError| {
        let guess: String = stem
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
            .take(ServiceName::MAX)
            .collect();
        let guess = guess.trim_start_matches('-');
        let help = match ServiceName::new(guess) {
            Ok(name) => format!("rename the file, for example to {name}.toml"),
            Err(_) => "rename the file".to_owned(),
        };
        let message = format!(
            "{stem:?} is not a {kind} name: it takes 1 to 63 of a-z, 0-9 and -, and does not begin with -"
        );
        found.push(Diagnostic::of_file(&source.path, message, Some(help)));
    };
    ServiceName::new(stem).map_err(report).ok()
}

fn doubled(source: &Source, stem: &str, first: &Path) -> Diagnostic {
    let message = format!("the service {stem:?} is already described by {}", first.display());
    Diagnostic::of_file(&source.path, message, Some("keep one of the two files".to_owned()))
}

fn read_service(
    source: &Source,
    name: Option<ServiceName>,
    lists: &ByFile<'_>,
    settings: Option<&Settings>,
    found: &mut Vec<Diagnostic>,
) -> Option<Draft> {
    let (text, mistake) = source.decode(MAX_FILE).map_err(|mistake| found.push(mistake)).ok()?;
    let label = name.clone().or_else(|| ServiceName::new("unnamed").ok())?;
    let read = service::read(&source.path, &label, &text, lists, settings);
    add(found, read.diagnostics, mistake);
    // Without a name of its own it is no service.
    name?;
    Some(Draft {
        path: source.path.clone(),
        service: read.service?,
        text: text.into_owned(),
        endpoints: read.endpoints,
    })
}

fn read_segments(sources: &[Source], lists: &ByFile<'_>, found: &mut Vec<Diagnostic>) -> Vec<Enclosure> {
    let mut segments: BTreeMap<SegmentName, Enclosure> = BTreeMap::new();
    let mut taken: BTreeMap<Subject, PathBuf> = BTreeMap::new();
    for source in sources {
        let stem = source.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let name = file_name(source, "segment", &stem, found);
        let decoded = source.decode(MAX_FILE).map_err(|mistake| found.push(mistake));
        let Ok((text, mistake)) = decoded else { continue };
        let Some(label) = name.clone().or_else(|| SegmentName::new("unnamed").ok()) else { continue };
        let read = segment::read(&source.path, &label, &text, lists);
        add(found, read.diagnostics, mistake);
        let (Some(name), Some(segment)) = (name, read.segment) else { continue };
        match taken.get(&segment.subject) {
            Some(first) => found.push(enclosed_twice(source, read.subject, &segment.subject, first)),
            None => {
                taken.insert(segment.subject.clone(), source.path.clone());
            }
        }
        segments.insert(name, Enclosure { segment, text: text.into_owned() });
    }
    segments.into_values().collect()
}

fn enclosed_twice(
    source: &Source,
    (line, column): (usize, usize),
    subject: &Subject,
    first: &Path,
) -> Diagnostic {
    Diagnostic {
        file: source.path.clone(),
        line,
        column,
        message: format!("{subject} is already enclosed by {}", first.display()),
        help: Some("one subject has one segment: put the rules of both into one of the two files".to_owned()),
        severity: Severity::Error,
    }
}
