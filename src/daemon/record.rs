//! Happenings to ledger entries and facts.

use serde_json::{Value, json};

use crate::api::body::Teardown;
use crate::history::{self, TELLING};
use crate::model::{Order, ServiceName, Time};
use crate::reconcile::{Happening, Outcome, What};
use crate::store::{Entry, Fact, LedgerKind};

/// Who acts when no person ordered it.
pub const DAEMON: &str = "picosegd";

/// A transition that is told later than this after its time was not told while it happened.
const PROMPT: chrono::TimeDelta = chrono::TimeDelta::seconds(1);

/// The facts of an outcome that is recorded `now`: its records, then its happenings.
pub fn facts(outcome: &Outcome, now: Time) -> Vec<Fact> {
    facts_of_files(outcome, now, Vec::new())
}

/// The same with the entries about files between what time brought and what the files did: in a later place an old instant is
/// none at which it was known.
pub fn facts_of_files(outcome: &Outcome, now: Time, files: Vec<Fact>) -> Vec<Fact> {
    let records = outcome
        .records
        .iter()
        .map(|(service, record)| Fact::Record { service: service.clone(), record: record.clone() });
    let entry = |happening| Fact::Entry(entry(happening, now));
    let (by_time, decided): (Vec<_>, Vec<_>) = outcome.happenings.iter().partition(|h| h.by_time);
    records.chain(by_time.into_iter().map(entry)).chain(files).chain(decided.into_iter().map(entry)).collect()
}

/// The facts of an order that was carried out.
pub fn order_facts(order: &Order, outcome: &Outcome, now: Time) -> Vec<Fact> {
    let mut facts = vec![Fact::Order(order.clone())];
    facts.extend(self::facts(outcome, now).into_iter().map(|fact| ordered(fact, order)));
    facts
}

/// Happenings of the ordered service name who ordered them.
fn ordered(fact: Fact, order: &Order) -> Fact {
    match fact {
        Fact::Entry(mut entry) if entry.service.as_ref() == Some(&order.service) => {
            entry.actor = order.by.clone();
            if let Value::Object(detail) = &mut entry.detail {
                detail.insert("reason".into(), json!(order.reason));
            }
            Fact::Entry(entry)
        }
        Fact::Entry(_) | Fact::Order(_) | Fact::Record { .. } => fact,
    }
}

fn entry(happening: &Happening, now: Time) -> Entry {
    let (kind, mut detail, actor) = match &happening.what {
        What::Commissioned => (LedgerKind::ServiceCommissioned, json!({}), None),
        What::Opened { closes_at } => (LedgerKind::WindowOpened, json!({ "closes_at": closes_at }), None),
        What::Closed => (LedgerKind::WindowClosed, json!({}), None),
        What::Suspended => (LedgerKind::ServiceSuspended, json!({}), None),
        What::Resumed => (LedgerKind::ServiceResumed, json!({}), None),
        What::Decommissioned(event) => (
            LedgerKind::ServiceDecommissioned,
            json!({ "cause": event.cause.as_str(), "reason": event.reason }),
            event.by.clone(),
        ),
        What::WatchEnded => (LedgerKind::WatchEnded, json!({}), None),
    };
    detail["state"] = match happening.what {
        What::WatchEnded => Value::Null,
        _ => json!(happening.state.as_str()),
    };
    if now - happening.at > PROMPT {
        detail["recorded"] = json!("later");
        detail["recorded_at"] = json!(now);
    }
    Entry {
        at: happening.at,
        kind,
        service: Some(happening.service.clone()),
        actor: actor.unwrap_or_else(|| DAEMON.into()),
        detail,
    }
}

/// Says in the last entry about a service's state that the rules are others since. False when there is none.
pub fn note_digest(facts: &mut [Fact], digest: &str) -> bool {
    let details = facts.iter_mut().rev().filter_map(|fact| match fact {
        Fact::Entry(entry) => TELLING.contains(&entry.kind.as_str()).then_some(&mut entry.detail),
        Fact::Order(_) | Fact::Record { .. } => None,
    });
    let last = details.into_iter().next();
    last.map(|detail| detail["ruleset_digest"] = json!(digest)).is_some()
}

pub fn teardown(service: &ServiceName, proof: &Teardown, at: Time) -> Fact {
    Fact::Entry(Entry {
        at,
        kind: LedgerKind::TeardownCompleted,
        service: Some(service.clone()),
        actor: DAEMON.into(),
        detail: json!(proof),
    })
}

/// An entry as the fold over the ledger takes it.
pub fn told(seq: u64, entry: &Entry) -> history::Entry<'_> {
    history::Entry {
        seq,
        at: entry.at,
        kind: entry.kind.as_str(),
        service: entry.service.as_ref().map(ServiceName::as_str),
        actor: &entry.actor,
        detail: &entry.detail,
    }
}

/// An entry about the daemon or its configuration.
pub fn note(kind: LedgerKind, at: Time, actor: &str, detail: Value) -> Fact {
    Fact::Entry(Entry { at, kind, service: None, actor: actor.into(), detail })
}
