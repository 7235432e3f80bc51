//! What `config.applied` and `daemon.started` tell: which services are others than before, as [`history`](crate::history)
//! reads them.
//!
//! The first apply of 10,000 services is five megabytes: it becomes several entries, each a part.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::record;
use crate::history::definition::sha256;
use crate::history::{Definition, History, Named, State, Told};
use crate::model::{ServiceName, Time};
use crate::reconcile::{Outcome, World};
use crate::store::accepted::{Accepted, AcceptedSegment, AcceptedService};
use crate::store::{Fact, LedgerKind};

/// The bytes of JSON in one entry, about; a single service may be more.
const PART: usize = 48 << 10;

/// What is different, item by item, each with the key under which it stands.
#[derive(Debug, Default)]
pub struct Listing(Vec<(&'static str, Value)>);

/// The files and what follows from them at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Side<'a> {
    pub accepted: &'a Accepted,
    pub world: &'a World,
}

impl Listing {
    /// What files changed.
    pub fn between(before: Side<'_>, after: Side<'_>, outcome: &Outcome) -> Self {
        let mut listing = Self::default();
        let names: BTreeSet<&ServiceName> = before.world.names().chain(after.world.names()).collect();
        for name in names {
            match (before.stands(name), after.stands(name)) {
                (None, Some(_)) => listing.tell("added", after.told(name)),
                (Some(old), Some(new)) if old.text != new.text || old.lists != new.lists => {
                    listing.tell("changed", after.told(name));
                }
                (Some(_), None) => listing.tell("removed", Some(after.named(name))),
                (Some(_) | None, _) => listing.quiet(name, before, after, outcome),
            }
        }
        listing.segments(before.accepted, after.accepted);
        listing
    }

    /// In what the ledger says something else than what is.
    pub fn unlike(history: &History, now: Side<'_>) -> Self {
        let mut listing = Self::default();
        for name in now.world.names() {
            let known = history.service(name.as_str());
            let definition = known.and_then(|known| known.definition.as_ref());
            let (told, named) = (now.told(name), now.named(name));
            match told.filter(|told| Some(&told.definition) != definition) {
                Some(told) => listing.tell(definition.map_or("added", |_| "changed"), Some(told)),
                None if known.map(|known| known.state).unwrap_or_default() != named.state => {
                    listing.tell("states", Some(named));
                }
                None => {}
            }
        }
        let names: BTreeSet<&str> = now.world.names().map(ServiceName::as_str).collect();
        for (name, _) in history.services().filter(|(name, _)| !names.contains(name)) {
            listing.tell("removed", Some(Named { name: name.to_owned(), state: State::default() }));
        }
        listing
    }

    /// A state that changed without a happening of its own: a file that is not approved any more was closed before.
    fn quiet(&mut self, name: &ServiceName, before: Side<'_>, after: Side<'_>, outcome: &Outcome) {
        let told = || outcome.happenings.iter().any(|happening| happening.service == *name);
        if outcome.touched.contains(name) && before.named(name) != after.named(name) && !told() {
            self.tell("states", Some(after.named(name)));
        }
    }

    fn segments(&mut self, before: &Accepted, after: &Accepted) {
        let text = |segment: &AcceptedSegment| json!(sha256(&segment.text));
        for (name, segment) in &after.segments {
            if before.segments.get(name) != Some(segment) {
                self.0.push(("segments", json!({ "name": name.as_str(), "sha256": text(segment) })));
            }
        }
        for name in before.segments.keys().filter(|name| !after.segments.contains_key(*name)) {
            self.0.push(("segments", json!({ "name": name.as_str(), "sha256": null })));
        }
    }

    fn tell(&mut self, key: &'static str, item: Option<impl Serialize>) {
        let item = item.and_then(|item| serde_json::to_value(item).ok());
        self.0.extend(item.map(|item| (key, item)));
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The entries; `head` stands in each of them.
    pub fn facts(self, kind: LedgerKind, at: Time, actor: &str, head: &Value) -> Vec<Fact> {
        let parts = self.parts();
        let count = parts.len();
        let part = |(index, part): (usize, Map<String, Value>)| {
            let mut detail = head.as_object().cloned().unwrap_or_default();
            detail.extend(part);
            detail.insert("part".to_owned(), json!(index + 1));
            detail.insert("parts".to_owned(), json!(count));
            record::note(kind, at, actor, Value::Object(detail))
        };
        parts.into_iter().enumerate().map(part).collect()
    }

    /// At least one.
    fn parts(self) -> Vec<Map<String, Value>> {
        let (mut done, mut part, mut length) = (Vec::new(), Map::new(), 0);
        for (key, item) in self.0 {
            let more = item.to_string().len();
            if length > 0 && length + more > PART {
                done.push(std::mem::take(&mut part));
                length = 0;
            }
            length += more;
            if let Value::Array(items) = part.entry(key).or_insert_with(|| json!([])) {
                items.push(item);
            }
        }
        done.push(part);
        done
    }
}

impl<'a> Side<'a> {
    /// The text of a service whose file is there.
    fn stands(self, name: &ServiceName) -> Option<&'a AcceptedService> {
        self.accepted
            .services
            .get(name)
            .filter(|_| self.world.file(name).is_some() && !self.world.is_departed(name))
    }

    /// `None` where nobody knows its text any more.
    fn told(self, name: &ServiceName) -> Option<Told> {
        let file = self.accepted.services.get(name)?;
        let lists = file.lists.iter().map(|(name, text)| (name.as_str(), &**text));
        let definition = Definition::new(self.world.file(name)?, &file.text, lists);
        Some(Told { definition, state: self.state(name) })
    }

    fn named(self, name: &ServiceName) -> Named {
        Named { name: name.to_string(), state: self.state(name) }
    }

    fn state(self, name: &ServiceName) -> State {
        let closes_at = self.world.current_opening(name).map(|opening| opening.closes_at());
        State { state: self.world.settled_state(name), closes_at }
    }
}

#[cfg(test)]
#[path = "chronicle_tests.rs"]
mod tests;
