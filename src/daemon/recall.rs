//! What the store remembers of services, and what the daemon knows of them, brought together again after either was
//! without the other.
//!
//! A start on a database that cannot be read knows no suspension by order: nothing opens then. Nothing may open either
//! when the database works again, until it was read. A database that is gone is worse: whatever ran before is suspended
//! until somebody resumes it, since nobody can tell what was suspended.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::engine::Engine;
use super::on_record::BATCH;
use super::record;
use crate::kernel::clock;
use crate::model::{Record, ServiceName, Suspended, Time};
use crate::store::accepted::Accepted;
use crate::store::{Entry, Fact, Keeper, Kept, LedgerKind, StoreError};

/// Why services are suspended whose database is gone.
const GONE: &str =
    "the database is gone: what was suspended by order is forgotten; resume what should be open";

/// What the store remembers of services, or why it cannot be read: then only what waits for it is known. A store that is new
/// on a host that ran `before` remembers from now on that everything is suspended.
pub async fn records(
    keeper: &mut Keeper,
    before: Option<&Accepted>,
    broken: Option<String>,
) -> (BTreeMap<ServiceName, Record>, Option<String>) {
    let mut records = match (broken, keeper.records().await) {
        (None, Ok(records)) => records,
        (None, Err(error)) => {
            tracing::error!(%error, "nothing opens until the records of services can be read");
            return (keeper.waiting_records(), Some(error.to_string()));
        }
        (Some(error), _) => return (keeper.waiting_records(), Some(error)),
    };
    let gone = match is_gone(keeper).await {
        Ok(gone) => gone,
        Err(error) => return (records, Some(error.to_string())),
    };
    if let (Some(before), true) = (before, gone) {
        tracing::error!(
            "the database is gone though this host ran before: its services are suspended until each is resumed; \
             decommissions are known from the accepted files"
        );
        let now = clock::now();
        records.extend(suspended(before, now));
        // At once: whoever starts next finds a ledger that has begun.
        let all: Vec<_> = records.iter().flat_map(|(name, record)| facts(name, record, now)).collect();
        for batch in all.chunks(BATCH) {
            if let Kept::Waiting { error, .. } = keeper.keep(batch.to_vec(), now).await {
                tracing::error!(?error, "suspensions are not on record yet");
            }
        }
    }
    (records, None)
}

/// Nothing of before is in it. A database that was made and whose ledger did not begin was made by a start that did not come
/// as far as to remember that everything is suspended.
async fn is_gone(keeper: &Keeper) -> Result<bool, StoreError> {
    Ok(keeper.is_new() || keeper.store().head().await?.seq == 0)
}

/// Every service that ran before, suspended.
fn suspended(before: &Accepted, now: Time) -> BTreeMap<ServiceName, Record> {
    let running = before.services.iter().filter(|(_, service)| service.departed.is_none());
    let suspended = Suspended { at: now, by: record::DAEMON.to_owned(), reason: GONE.to_owned() };
    let record = Record { suspended: Some(suspended), ..Record::default() };
    running.map(|(name, _)| (name.clone(), record.clone())).collect()
}

impl Engine {
    /// Brings store and daemon together after the store was opened again.
    ///
    /// # Errors
    /// Why nothing may open yet.
    pub(super) async fn recall(&mut self) -> Result<(), String> {
        let stored = self.keeper.records().await.map_err(|error| error.to_string())?;
        if self.unread {
            let latest = self.keeper.store().latest_seen().await.map_err(|error| error.to_string())?;
            let now = clock::now().max(self.world.now());
            let remembered = match is_gone(&self.keeper).await.map_err(|error| error.to_string())? {
                true => suspended(&self.accepted, now),
                false => stored.clone(),
            };
            let mut next = self.world.clone();
            next.recall(remembered);
            let outcome = next.tick(latest.map_or(now, |latest| latest.max(now)));
            self.put_in_force(next, &BTreeSet::new()).map_err(|error| error.to_string())?;
            self.unread = false;
            self.keep(record::facts(&outcome, self.world.now())).await;
        }
        self.store_records(&stored).await;
        Ok(())
    }

    /// Stores what is known of services and not remembered: by a database that was put back from a backup, or is new.
    async fn store_records(&mut self, stored: &BTreeMap<ServiceName, Record>) {
        let now = self.world.now();
        let known = self.world.records();
        let none = Record::default();
        let mut missing = Vec::new();
        for name in known.keys().chain(stored.keys()).collect::<BTreeSet<_>>() {
            // Of a service that is forgotten the store may know more.
            let Some(standing) = self.world.standing(name) else { continue };
            if standing.record != stored.get(name).unwrap_or(&none) {
                missing.extend(facts(name, standing.record, now));
            }
        }
        if !missing.is_empty() {
            self.keep(missing).await;
        }
    }
}

/// A record, and the entry about a suspension that nobody ordered.
fn facts(name: &ServiceName, record: &Record, now: Time) -> Vec<Fact> {
    let ours = record.suspended.as_ref().filter(|suspended| suspended.by == record::DAEMON);
    let entry = ours.map(|suspended| {
        Fact::Entry(Entry {
            at: now,
            kind: LedgerKind::ServiceSuspended,
            service: Some(name.clone()),
            actor: record::DAEMON.to_owned(),
            detail: json!({ "state": "suspended", "reason": suspended.reason }),
        })
    });
    let record = Fact::Record { service: name.clone(), record: record.clone() };
    std::iter::once(record).chain(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::accepted::AcceptedService;

    /// Killed, or without power, between the making of the database and its first entry.
    #[tokio::test]
    async fn a_start_that_did_not_come_far_leaves_nothing_open_for_the_next() {
        let (state, runtime) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let name = ServiceName::new("stripe").unwrap();
        let ran = AcceptedService { text: String::new(), lists: BTreeMap::new(), departed: None };
        let before = Accepted { services: [(name.clone(), ran)].into(), ..Accepted::default() };
        let open = || Keeper::open(state.path(), runtime.path(), clock::now());
        drop(open().await);
        for _ in 0..2 {
            let mut keeper = open().await.keeper;
            assert!(!keeper.is_new());
            let (records, error) = records(&mut keeper, Some(&before), None).await;
            assert_eq!(error, None);
            assert!(records[&name].suspended.is_some(), "{records:?}");
            keeper.store().close().await;
        }
    }
}
