//! Happenings to ledger entries and facts.

use serde_json::{Value, json};

use crate::api::body::Teardown;
use crate::model::{Order, ServiceName, Time};
use crate::reconcile::{Happening, Outcome, What};
use crate::store::{Entry, Fact, LedgerKind};

/// Who acts when no person ordered it.
pub const DAEMON: &str = "picosegd";

/// The facts of an outcome: its records, then its happenings.
pub fn facts(outcome: &Outcome) -> Vec<Fact> {
    let records = outcome
        .records
        .iter()
        .map(|(service, record)| Fact::Record { service: service.clone(), record: record.clone() });
    records.chain(outcome.happenings.iter().map(|happening| Fact::Entry(entry(happening)))).collect()
}

/// The facts of an order that was carried out.
pub fn order_facts(order: &Order, outcome: &Outcome) -> Vec<Fact> {
    let mut facts = vec![Fact::Order(order.clone())];
    facts.extend(self::facts(outcome).into_iter().map(|fact| ordered(fact, order)));
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

fn entry(happening: &Happening) -> Entry {
    let (kind, detail, actor) = match &happening.what {
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
    };
    Entry {
        at: happening.at,
        kind,
        service: Some(happening.service.clone()),
        actor: actor.unwrap_or_else(|| DAEMON.into()),
        detail,
    }
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

/// An entry about the daemon or its configuration.
pub fn note(kind: LedgerKind, at: Time, actor: &str, detail: Value) -> Fact {
    Fact::Entry(Entry { at, kind, service: None, actor: actor.into(), detail })
}
