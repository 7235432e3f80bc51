//! What was in force at an instant, told by the entries of the ledger alone.
//!
//! A fold: entries in the order of their numbers, each of which says what is different after it. It knows nothing of how the
//! daemon comes to its states, so that the one is a check of the other.
//!
//! The order is that of the numbers, not of the times. An entry's time may be earlier than that of the entry before it: a
//! transition is told with the instant at which it was, a little after that; what a file brings may lie years back; a clock may have
//! been turned back. So an entry counts from the latest time that stands in it or in any entry before it.
//!
//! | entry | what it changes |
//! |---|---|
//! | `config.applied`, `daemon.started` | `added`, `changed`: definitions and states; `removed`, `states`: states |
//! | `service.*`, `window.*` | the state of its service: `state`, and `closes_at` of an opening |
//! | `watch.ended` | its service governs nothing any more |
//! | any | `ruleset_digest` |

pub mod definition;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::{ServiceState, Time};
pub use definition::Definition;

/// The kinds of entries that tell what files say.
pub const DEFINING: [&str; 2] = ["config.applied", "daemon.started"];

/// The kinds of entries that tell the state of one service.
pub const TELLING: [&str; 7] = [
    "service.commissioned",
    "service.suspended",
    "service.resumed",
    "service.decommissioned",
    "window.opened",
    "window.closed",
    "watch.ended",
];

/// An entry of the ledger, as far as it matters here.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    pub seq: u64,
    pub at: Time,
    pub kind: &'a str,
    pub service: Option<&'a str>,
    pub actor: &'a str,
    pub detail: &'a Value,
}

/// A service as `added` and `changed` tell it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    #[serde(flatten)]
    pub definition: Definition,
    #[serde(flatten)]
    pub state: State,
}

/// What a service is, and until when by the schedule; `None`: it governs nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct State {
    #[serde(default, serialize_with = "written", deserialize_with = "read")]
    pub state: Option<ServiceState>,
    /// The end of the opening in force.
    #[serde(default)]
    pub closes_at: Option<Time>,
}

/// A state without a definition, as `removed` and `states` tell it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    pub name: String,
    #[serde(flatten)]
    pub state: State,
}

/// One service at an instant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Known {
    /// `None`: no entry tells it.
    pub definition: Option<Definition>,
    pub state: State,
    /// Since when it has this state, and who brought it about.
    pub since: Option<Time>,
    pub by: Option<String>,
}

/// What was in force.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    /// The last entry that counts; 0: none does.
    pub last_seq: u64,
    pub ruleset_digest: Option<String>,
    /// `enforce`, or `observe`: nothing was refused.
    pub mode: Option<String>,
    services: BTreeMap<String, Known>,
}

impl History {
    /// What was in force at an instant; `None`: after all entries.
    pub fn of<'a>(entries: impl IntoIterator<Item = Entry<'a>>, at: Option<Time>) -> Self {
        let mut history = Self::default();
        let counts = |entry: &Entry<'_>| at.is_none_or(|at| entry.at <= at);
        // The first one that came later ends it: all that follow came later still, whatever time they tell.
        entries.into_iter().take_while(counts).for_each(|entry| history.take(&entry));
        history
    }

    /// Takes the next entry.
    pub fn take(&mut self, entry: &Entry<'_>) {
        self.last_seq = self.last_seq.max(entry.seq);
        if let Some(digest) = entry.detail.get("ruleset_digest").and_then(Value::as_str) {
            self.ruleset_digest = Some(digest.to_owned());
        }
        if DEFINING.contains(&entry.kind) {
            self.define(entry);
        } else if let Some(service) = entry.service.filter(|_| TELLING.contains(&entry.kind)) {
            let known = self.services.entry(service.to_owned()).or_default();
            known.becomes(told_state(entry, known.state), entry);
        }
    }

    fn define(&mut self, entry: &Entry<'_>) {
        if let Some(mode) = entry.detail.get("mode").and_then(Value::as_str) {
            self.mode = Some(mode.to_owned());
        }
        for told in ["added", "changed"].into_iter().flat_map(|key| list::<Told>(entry.detail, key)) {
            let known = self.services.entry(told.definition.name.clone()).or_default();
            known.definition = Some(told.definition);
            known.becomes(told.state, entry);
        }
        for named in ["removed", "states"].into_iter().flat_map(|key| list::<Named>(entry.detail, key)) {
            self.services.entry(named.name).or_default().becomes(named.state, entry);
        }
    }

    /// The services that governed something, by name.
    pub fn services(&self) -> impl Iterator<Item = (&str, &Known)> {
        let all = self.services.iter().map(|(name, known)| (name.as_str(), known));
        all.filter(|(_, known)| known.state.state.is_some())
    }

    pub fn service(&self, name: &str) -> Option<&Known> {
        self.services.get(name)
    }
}

impl Known {
    fn becomes(&mut self, state: State, entry: &Entry<'_>) {
        if self.state.state != state.state {
            self.since = Some(entry.at);
            self.by = Some(entry.actor.to_owned());
        }
        self.state = state;
    }
}

/// What an entry about one service says of its state; those of versions that did not write it down say it by their kind.
fn told_state(entry: &Entry<'_>, before: State) -> State {
    let closes_at = entry.detail.get("closes_at").and_then(Value::as_str).and_then(|at| at.parse().ok());
    let written = entry.detail.get("state").and_then(Value::as_str).and_then(parsed);
    let state = match entry.kind {
        "watch.ended" => None,
        "window.opened" => written.or(Some(ServiceState::Open)),
        "window.closed" => written.or(Some(ServiceState::Closed)),
        "service.suspended" => written.or(Some(ServiceState::Suspended)),
        "service.decommissioned" => written.or(Some(ServiceState::Decommissioned)),
        _ => written.or(before.state),
    };
    let closes_at = closes_at.or(before.closes_at).filter(|_| state == Some(ServiceState::Open));
    State { state, closes_at }
}

/// What can be read of a list: an entry that somebody altered must not hide the others.
fn list<T: serde::de::DeserializeOwned>(detail: &Value, key: &str) -> Vec<T> {
    let items = detail.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    items.iter().filter_map(|item| T::deserialize(item).ok()).collect()
}

fn parsed(text: &str) -> Option<ServiceState> {
    ServiceState::ALL.into_iter().find(|state| state.as_str() == text)
}

#[expect(clippy::ref_option, reason = "serde asks for it")]
fn written<S: serde::Serializer>(state: &Option<ServiceState>, serializer: S) -> Result<S::Ok, S::Error> {
    state.map(ServiceState::as_str).serialize(serializer)
}

fn read<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<ServiceState>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.as_deref().and_then(parsed))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn second(second: i64) -> Time {
        Time::from_timestamp(1_790_000_000 + second, 0).unwrap()
    }

    fn entry<'a>(seq: u64, at: i64, kind: &'a str, detail: &'a Value) -> Entry<'a> {
        let service = TELLING.contains(&kind).then_some("stripe");
        Entry { seq, at: second(at), kind, service, actor: "root (uid 0)", detail }
    }

    fn state(history: &History) -> Option<ServiceState> {
        history.service("stripe").and_then(|known| known.state.state)
    }

    #[test]
    fn an_entry_counts_from_the_latest_time_that_stands_before_it() {
        let (open, closed) = (json!({ "state": "open" }), json!({ "state": "closed" }));
        // The clock was turned back between the two.
        let entries = [entry(1, 100, "window.opened", &open), entry(2, 50, "window.closed", &closed)];
        let at = |second_| History::of(entries, Some(second(second_)));
        assert_eq!((at(99).last_seq, state(&at(99))), (0, None));
        assert_eq!((at(100).last_seq, state(&at(100))), (2, Some(ServiceState::Closed)));
        assert_eq!(at(100).service("stripe").unwrap().since, Some(second(50)));
    }

    #[test]
    fn a_state_that_is_told_again_began_when_it_was_told_first() {
        let open = json!({ "state": "open", "closes_at": second(90) });
        let again = json!({ "states": [{ "name": "stripe", "state": "open", "closes_at": second(120) }] });
        let entries = [entry(1, 10, "window.opened", &open), entry(2, 20, "config.applied", &again)];
        let known = History::of(entries, None).service("stripe").cloned().unwrap();
        assert_eq!((known.since, known.state.closes_at), (Some(second(10)), Some(second(120))));
    }

    #[test]
    fn entries_of_versions_that_wrote_no_state_say_it_by_their_kind() {
        let none = json!({});
        let kinds = [
            ("window.opened", Some(ServiceState::Open)),
            ("service.resumed", Some(ServiceState::Open)),
            ("window.closed", Some(ServiceState::Closed)),
            ("service.suspended", Some(ServiceState::Suspended)),
            ("service.decommissioned", Some(ServiceState::Decommissioned)),
            ("watch.ended", None),
        ];
        let mut history = History::default();
        for (seq, (kind, expected)) in (1..).zip(kinds) {
            history.take(&entry(seq, 0, kind, &none));
            assert_eq!(state(&history), expected, "{kind}");
        }
        assert_eq!(history.services().count(), 0);
    }

    #[test]
    fn what_was_altered_hides_nothing_else() {
        let told = json!({
            "added": [{ "name": 7 }, "x"], "removed": "y", "ruleset_digest": 3,
            "states": [null, { "name": "stripe", "state": "open" }, { "name": "zoom", "state": "ajar" }],
        });
        let history = History::of([entry(1, 0, "config.applied", &told)], None);
        assert_eq!(history.services().map(|(name, _)| name).collect::<Vec<_>>(), ["stripe"]);
        assert_eq!(history.ruleset_digest, None);
        for text in [json!(null), json!("text"), json!([1])] {
            assert_eq!(state(&History::of([entry(1, 0, "daemon.started", &text)], None)), None);
        }
    }
}
