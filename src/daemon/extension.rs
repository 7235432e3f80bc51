//! An opening that is prolonged by order: tried on a copy, committed, recorded.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::engine::{ChangeError, Changed, Engine};
use super::record;
use crate::kernel::clock;
use crate::model::{ServiceName, Time};
use crate::store::{Entry, Fact, LedgerKind};

impl Engine {
    /// Prolongs the opening of a service, or opens it once. Nothing is opened without a ledger.
    pub async fn extend(
        &mut self,
        service: ServiceName,
        until: Time,
        by: &str,
        reason: &str,
    ) -> Result<Changed, ChangeError> {
        if let Some(error) = &self.store_error {
            return Err(ChangeError::NoLedger(error.clone()));
        }
        let mut next = self.world.clone();
        let outcome = next.extend(&service, until, (by, reason), clock::now())?;
        // Its windows are a set of another name: more than a part of the table follows.
        let table = self.put_in_force(next, &BTreeSet::new())?;
        let now = self.world.now();
        let mut facts = record::facts(&outcome, now);
        tell(&mut facts, &service, until, (by, reason), now);
        self.note_digest(&mut facts).await;
        let recorded = self.keep(facts).await;
        Ok(Changed { table, recorded, ..Changed::default() })
    }
}

/// Says who ordered it in the entry about the opening; where it was open already, in one of its own.
fn tell(facts: &mut Vec<Fact>, service: &ServiceName, until: Time, (by, reason): (&str, &str), now: Time) {
    let detail = |prolonged: bool| json!({ "closes_at": until, "reason": reason, "prolonged": prolonged });
    let opened = facts.iter_mut().find_map(|fact| match fact {
        Fact::Entry(entry) if entry.kind == LedgerKind::WindowOpened => {
            (entry.service.as_ref() == Some(service)).then_some(entry)
        }
        Fact::Entry(_) | Fact::Order(_) | Fact::Record { .. } => None,
    });
    match opened {
        Some(entry) => {
            entry.actor = by.to_owned();
            if let (Value::Object(told), Value::Object(more)) = (&mut entry.detail, detail(false)) {
                told.extend(more);
            }
        }
        None => {
            let mut detail = detail(true);
            detail["state"] = json!("open");
            let (kind, service) = (LedgerKind::WindowOpened, Some(service.clone()));
            facts.push(Fact::Entry(Entry { at: now, kind, service, actor: by.to_owned(), detail }));
        }
    }
}
