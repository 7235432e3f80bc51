//! What the files say otherwise than what is in force, in words.

use crate::api::body::Change;
use crate::config::{FileText, Loaded};
use crate::model::{Policy, SegmentName, Service, ServiceName, Settings, Time};
use crate::reconcile::World;
use crate::store::accepted::{Accepted, AcceptedService};

/// What is in force, and what would be.
#[derive(Debug, Clone, Copy)]
pub struct Sides<'a> {
    pub accepted: &'a Accepted,
    pub now: &'a World,
    pub loaded: &'a Loaded,
    pub next: &'a World,
    /// Why the files of the last try were not accepted.
    pub config_error: Option<&'a str>,
    /// Why the table is not what is in force.
    pub damage: Option<&'a str>,
}

/// The text alone differs.
const TEXT_ONLY: &str = "comments or layout only";

impl Sides<'_> {
    /// Settings first, then services, then segments, by name.
    pub fn changes(self) -> Vec<Change> {
        let mut changes: Vec<Change> = self.settings().into_iter().collect();
        let mut names: Vec<&ServiceName> = self.now.names().chain(self.next.names()).collect();
        names.sort();
        names.dedup();
        names.into_iter().for_each(|name| self.service(name, &mut changes));
        self.segments(&mut changes);
        if let Some(damage) = self.damage {
            changes.push(change("table.repaired", None, damage.to_owned()));
        }
        if let Some(error) = self.config_error {
            changes.push(change("config.accepted", None, format!("`status` would no longer say: {error}")));
        }
        changes
    }

    fn settings(self) -> Option<Change> {
        let parts = settings_differences(self.now.settings(), &self.loaded.settings);
        let same_text = self.accepted.settings_text == self.loaded.settings_text;
        let detail = match (parts.is_empty(), same_text) {
            (true, true) => return None,
            (true, false) => TEXT_ONLY.to_owned(),
            (false, _) => parts.join("; "),
        };
        Some(change("settings.changed", None, detail))
    }

    fn service(self, name: &ServiceName, changes: &mut Vec<Change>) {
        let (old, new) = (self.in_force(name), self.loaded.texts.get(name));
        match (old, new) {
            (None, Some(_)) => {
                changes.push(change("service.added", Some(name), self.outlook(name)));
                return;
            }
            (Some(_), None) => {
                let detail =
                    "decommissioned, which is final for its lifetime: the provider stays refused and watched";
                changes.push(change("service.removed", Some(name), detail.to_owned()));
                return;
            }
            (Some(old), Some(new)) if !is_same(old, new) => {
                changes.push(change("service.changed", Some(name), self.differences(name)));
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
        let (before, after) = (self.now.state(name), self.next.state(name));
        if let (Some(before), Some(after)) = (before, after)
            && before != after
        {
            changes.push(change("service.state", Some(name), format!("{before} -> {after}")));
        }
    }

    /// The accepted text of a service whose file was there.
    fn in_force(&self, name: &ServiceName) -> Option<&AcceptedService> {
        let known = self.accepted.services.get(name);
        known.filter(|_| self.now.file(name).is_some() && !self.now.is_departed(name))
    }

    fn outlook(&self, name: &ServiceName) -> String {
        let state = self.next.state(name).map(|state| state.to_string()).unwrap_or_default();
        match (self.next.current_opening(name), self.next.next_opening(name)) {
            (Some(opening), _) => format!("{state} until {}", time(opening.closes_at())),
            (None, Some(opening)) => format!("{state}, opens {}", time(opening.opens_at())),
            (None, None) => state,
        }
    }

    fn differences(&self, name: &ServiceName) -> String {
        let (Some(old), Some(new)) = (self.now.file(name), self.loaded.services.get(name)) else {
            return String::new();
        };
        let found = service_differences(old, new);
        if found.is_empty() { TEXT_ONLY.to_owned() } else { found.join("; ") }
    }

    fn segments(self, changes: &mut Vec<Change>) {
        let (old, new) = (&self.accepted.segments, &self.loaded.segment_texts);
        let mut names: Vec<&SegmentName> = old.keys().chain(new.keys()).collect();
        names.sort();
        names.dedup();
        for name in names {
            let subject = self.loaded.segments.get(name).map(|segment| segment.subject.to_string());
            let told = match (old.get(name), new.get(name)) {
                (None, Some(_)) => ("segment.added", format!("encloses {}", subject.unwrap_or_default())),
                (Some(_), None) => ("segment.removed", "its enclosure opens".to_owned()),
                (Some(old), Some(new)) if old.text != new.text || old.lists != new.lists => {
                    ("segment.changed", format!("encloses {}", subject.unwrap_or_default()))
                }
                (Some(_), Some(_)) | (None, None) => continue,
            };
            changes.push(change(told.0, Some(name), told.1));
        }
    }
}

fn is_same(old: &AcceptedService, new: &FileText) -> bool {
    old.text == new.text && old.lists == new.lists
}

fn change(kind: &str, name: Option<&ServiceName>, detail: String) -> Change {
    Change { kind: kind.to_owned(), name: name.map(ToString::to_string), detail }
}

fn time(at: Time) -> String {
    at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

fn settings_differences(old: &Settings, new: &Settings) -> Vec<String> {
    let mut found = Vec::new();
    let (was, is) = (old.enforcement.mode, new.enforcement.mode);
    if was != is {
        found.push(format!("mode {was} -> {is}"));
    }
    let same_mode = crate::model::Enforcement { mode: is, ..old.enforcement.clone() };
    let parts = [
        (old.paths != new.paths, "[paths]"),
        (same_mode != new.enforcement, "[enforcement]"),
        (old.failsafe != new.failsafe, "[failsafe]"),
        (old.attempts != new.attempts, "[attempts]"),
        (old.approval != new.approval, "[approval]"),
        (old.metrics != new.metrics, "[metrics]"),
        (old.notify != new.notify, "[notify]"),
    ];
    found.extend(parts.into_iter().filter(|(differs, _)| *differs).map(|(_, part)| part.to_owned()));
    found
}

fn service_differences(old: &Service, new: &Service) -> Vec<String> {
    let mut found = Vec::new();
    let mut moved = |what: &str, was: Time, is: Time| {
        if was != is {
            found.push(format!("{what} {} -> {}", time(was), time(is)));
        }
    };
    moved("commission", old.lifetime.opens_at(), new.lifetime.opens_at());
    moved("decommission", old.lifetime.closes_at(), new.lifetime.closes_at());
    if old.mode != new.mode {
        found.push(format!("mode {} -> {}", old.mode, new.mode));
    }
    let parts = [
        (old.state != new.state, "state"),
        (old.windows != new.windows, "windows"),
        (old.exceptions != new.exceptions, "exceptions"),
        (old.watch != new.watch, "watch"),
        (old.provider != new.provider, "provider"),
        (old.owner != new.owner, "owner"),
        (old.description != new.description, "description"),
        (old.ticket != new.ticket, "ticket"),
        (old.compliance != new.compliance, "compliance"),
    ];
    found.extend(parts.into_iter().filter(|(differs, _)| *differs).map(|(_, part)| part.to_owned()));
    found.extend(policy_differences(&old.policies, &new.policies));
    found
}

fn policy_differences(old: &[Policy], new: &[Policy]) -> Vec<String> {
    let place = |policy: &Policy| format!("{}/{}", policy.id.direction, policy.id.index);
    let mut found = Vec::new();
    for policy in new {
        match old.iter().find(|known| known.id == policy.id) {
            None => found.push(format!("{} added", place(policy))),
            Some(known) if known != policy => {
                found.push(format!("{}: {}", place(policy), policy_parts(known, policy).join(", ")));
            }
            Some(_) => {}
        }
    }
    let gone = old.iter().filter(|known| !new.iter().any(|policy| policy.id == known.id));
    found.extend(gone.map(|policy| format!("{} removed", place(policy))));
    found
}

fn policy_parts(old: &Policy, new: &Policy) -> Vec<String> {
    let mut found = Vec::new();
    if old.subject != new.subject {
        found.push(format!("subject {} -> {}", old.subject, new.subject));
    }
    let endpoints =
        (&old.endpoints, &old.prefixes, &old.names) != (&new.endpoints, &new.prefixes, &new.names);
    let parts = [
        (endpoints, "endpoints"),
        (old.ports != new.ports, "ports"),
        (old.tls != new.tls, "tls"),
        (old.windows != new.windows, "windows"),
    ];
    found.extend(parts.into_iter().filter(|(differs, _)| *differs).map(|(_, part)| part.to_owned()));
    found
}
