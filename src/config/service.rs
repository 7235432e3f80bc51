//! A schedule file as a whole.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use toml::de::DeTable;

use super::list::{ByFunction, Lists};
use super::policy::{self, Context};
use super::reader::{self, Keys, MAX_TEXT, Misplaced, Table};
use super::repair::repair;
use super::report::Report;
use super::source::too_large;
use super::time::{self, Mistake};
use super::window;
use super::{Diagnostic, MAX_FILE};
use crate::model::{FileState, ListName, Mode, Service, ServiceName, Settings, Watch};

const OF_SEGMENTS: &str = "segments are files of their own, in segments.d";

pub(super) const KEYS: Keys<'_> = Keys {
    valid: &[
        "provider",
        "owner",
        "description",
        "ticket",
        "compliance",
        "mode",
        "state",
        "lifetime",
        "window",
        "except",
        "egress",
        "ingress",
        "teardown",
    ],
    misplaced: &[
        Misplaced::new(
            "subject",
            None,
            "each [[egress]] and [[ingress]] has its own; segments are files in segments.d",
        ),
        Misplaced::new("allow", None, OF_SEGMENTS),
        Misplaced::new("loopback", None, OF_SEGMENTS),
        Misplaced::new("dns", None, OF_SEGMENTS),
    ],
};

pub(super) const TEARDOWN_KEYS: [&str; 1] = ["watch"];

/// The longest description, in characters.
const MAX_DESCRIPTION: usize = 1024;

/// What `mode` may be.
pub(super) const MODES: [(&str, Mode); 2] = [("enforce", Mode::Enforce), ("observe", Mode::Observe)];

const STATES: [(&str, FileState); 3] = [
    ("commissioned", FileState::Commissioned),
    ("suspended", FileState::Suspended),
    ("decommissioned", FileState::Decommissioned),
];

/// Reads one schedule. The service is there when no diagnostic is an error.
///
/// `lists` returns the text of a list by its name; a mistake in one is reported where the schedule names it. `settings`
/// matter for warnings only.
pub fn parse_service(
    path: &Path,
    name: &ServiceName,
    text: &str,
    lists: &dyn Fn(&str) -> Option<Arc<str>>,
    settings: &Settings,
) -> (Option<Service>, Vec<Diagnostic>) {
    if text.len() > MAX_FILE {
        return (None, vec![too_large(path, MAX_FILE)]);
    }
    let read = read(path, name, text, &ByFunction::new(lists), Some(settings));
    (read.service, read.diagnostics)
}

/// The names of the lists that a schedule or a segment uses, sorted, also of a file with mistakes.
pub fn lists_used(text: &str) -> Vec<String> {
    if text.len() > MAX_FILE {
        return Vec::new();
    }
    let repaired = repair(text);
    let (root, _) = DeTable::parse_recoverable(&repaired.text);
    let policies = ["egress", "ingress", "allow"].into_iter().filter_map(|key| root.get_ref().get(key));
    let tables = policies.filter_map(|value| value.get_ref().as_array()).flatten();
    let mut names = BTreeSet::new();
    for table in tables.filter_map(|value| value.get_ref().as_table()) {
        let remote = ["to", "from"].into_iter().filter_map(|key| table.get(key));
        let entries = remote.filter_map(|value| value.get_ref().as_array()).flatten();
        let written = entries.filter_map(|entry| entry.get_ref().as_str());
        // Only true names: the caller makes paths of them.
        names.extend(written.filter_map(|text| ListName::new(text.strip_prefix('@')?)));
    }
    names.iter().map(|name| name.as_str().to_owned()).collect()
}

/// A schedule as far as it could be read.
pub(super) struct Read {
    pub service: Option<Service>,
    /// Line and column of the endpoints of each policy.
    pub endpoints: Vec<(usize, usize)>,
    pub diagnostics: Vec<Diagnostic>,
}

/// Reads one schedule with lists from wherever they are.
pub(super) fn read(
    path: &Path,
    name: &ServiceName,
    text: &str,
    lists: &dyn Lists,
    settings: Option<&Settings>,
) -> Read {
    let repaired = repair(text);
    let report = Report::new(path, &repaired);
    let (service, endpoints) = read_text(&report, name, lists, settings);
    let service = service.filter(|_| report.is_clean());
    Read { service, endpoints, diagnostics: report.finish() }
}

fn read_text(
    report: &Report<'_>,
    name: &ServiceName,
    lists: &dyn Lists,
    settings: Option<&Settings>,
) -> (Option<Service>, Vec<(usize, usize)>) {
    let document = reader::parse(report);
    let root = Table::root(report, &document, KEYS);
    let lifetime = window::lifetime(&root);
    let windows = window::windows(&root);
    let exceptions = window::exceptions(&root);
    if let Some(lifetime) = &lifetime {
        window::check_openings(&root, lifetime, &windows, &exceptions);
    }
    let context = Context { service: name, windows: &windows, lists, settings };
    let policies = policy::policies(&root, &context);
    let endpoints = policies.iter().map(|one| report.position(one.endpoints.start)).collect();
    let provider =
        required_text(&root, "provider", "name the third party, for example provider = \"Stripe, Inc.\"");
    let owner =
        required_text(&root, "owner", "say who answers for it, for example owner = \"payments@example.com\"");
    let mut service = Service {
        name: name.clone(),
        provider: provider.unwrap_or_default(),
        owner: owner.unwrap_or_default(),
        description: root.get("description").and_then(|value| value.text(MAX_DESCRIPTION)),
        ticket: root.get("ticket").and_then(|value| value.text(MAX_TEXT)),
        compliance: texts(&root, "compliance"),
        mode: root.get("mode").and_then(|value| value.word(&MODES)).unwrap_or_default(),
        state: root.get("state").and_then(|value| value.word(&STATES)).unwrap_or_default(),
        watch: watch(&root),
        windows: windows.into_windows(),
        exceptions: exceptions.iter().map(|one| one.span).collect(),
        policies: policies.into_iter().map(|one| one.policy).collect(),
        watched: Vec::new(),
        lifetime: match lifetime {
            Some(lifetime) => lifetime.span,
            None => return (None, endpoints),
        },
    };
    service.shrink_to_fit();
    (Some(service), endpoints)
}

fn required_text(root: &Table<'_>, key: &str, help: &str) -> Option<String> {
    root.required(key, help)?.text(MAX_TEXT)
}

fn texts(root: &Table<'_>, key: &str) -> Vec<String> {
    let entries = root.get(key).and_then(|value| value.array("[\"PCI-DSS\"]"));
    let entries = entries.unwrap_or_default();
    entries.iter().filter_map(|entry| entry.text(MAX_TEXT)).collect()
}

fn watch(root: &Table<'_>) -> Watch {
    let table = root.get("teardown").and_then(|value| value.table("[teardown]", &TEARDOWN_KEYS));
    let watch = table.and_then(|table| table.get("watch"));
    watch.and_then(|value| value.read(parse_watch)).unwrap_or_default()
}

fn parse_watch(text: &str) -> Result<Watch, Mistake> {
    if text == "forever" {
        return Ok(Watch::Forever);
    }
    let help =
        |mistake: Mistake| Mistake::new(mistake.message, format!("write \"forever\"; or {}", mistake.help));
    time::duration(text).map(Watch::For).map_err(help)
}
