//! Facts: what a decision leaves behind, stored together and each at most once.
//!
//! An order is three facts: the order itself, the record that results and the ledger entry. They belong in one
//! transaction. A store that hangs may still commit what was given up, and a journal may be replayed twice around a
//! crash; so each fact gets an id before the first try, and the store skips ids it has settled.

use std::collections::BTreeMap;

use rustix::rand::{GetRandomFlags, getrandom};
use serde_json::Value;
use sqlx::SqliteConnection;

use super::error::Fault;
use super::{Entry, Store, StoreError, ledger, records, text};
use crate::model::{Order, Record, ServiceName, Time};

/// One thing to remember.
#[derive(Debug, Clone, PartialEq)]
pub enum Fact {
    Entry(Entry),
    Order(Order),
    Record { service: ServiceName, record: Record },
}

/// A fact that has to be stored once.
#[derive(Debug, Clone, PartialEq)]
pub struct Pending {
    /// 32 hexadecimal digits, random.
    pub id: String,
    pub fact: Fact,
}

impl Pending {
    /// Gives a fact its id. A kernel without randomness (never after boot) gives an empty one, which is never skipped.
    pub fn new(fact: Fact) -> Self {
        let mut bytes = [0_u8; 16];
        let filled = getrandom(&mut bytes, GetRandomFlags::empty());
        let id = match filled {
            Ok(16) => text::hex(&bytes),
            Ok(_) | Err(_) => String::new(),
        };
        Self { id, fact }
    }
}

impl Pending {
    /// The same fact; an entry says that it was recorded later than it happened.
    pub(super) fn recorded_at(&self, now: Time) -> Self {
        let mut late = self.clone();
        if let Fact::Entry(Entry { detail: Value::Object(detail), .. }) = &mut late.fact {
            detail.insert("recorded_at".to_owned(), text::from_time(now).into());
        }
        late
    }
}

/// Ids that the store remembers. Only the latest can come again: those of a try that was given up, and those of a
/// journal that was replayed and could not be removed.
const REMEMBERED: i64 = 65_536;

impl Store {
    /// Stores facts in their order, all or none, and returns the numbers of their ledger entries. What was settled before is
    /// skipped. `now` is when their ledger entries are signed.
    pub async fn commit(&self, facts: &[Pending], now: Time) -> Result<Vec<u64>, StoreError> {
        self.promptly("record what was decided", async {
            let mut transaction = self.begin().await?;
            forget_old(&mut transaction).await?;
            let mut entries = Vec::new();
            for pending in facts {
                if settle(&mut transaction, &pending.id).await? {
                    match &pending.fact {
                        Fact::Entry(entry) => entries.push(entry.clone()),
                        Fact::Order(order) => records::put_order(&mut transaction, order).await?,
                        Fact::Record { service, record } => {
                            records::put_record(&mut transaction, service, record).await?;
                        }
                    }
                }
            }
            let key = self.signer()?;
            let seqs = ledger::append(&mut transaction, &entries, &key, now).await?;
            self.sync(transaction, now).await?;
            Ok(seqs)
        })
        .await
    }
}

/// Before the new ids come in, so that a long replay never forgets its own.
async fn forget_old(connection: &mut SqliteConnection) -> Result<(), Fault> {
    sqlx::query("DELETE FROM settled WHERE number <= (SELECT max(number) FROM settled) - ?")
        .bind(REMEMBERED)
        .execute(connection)
        .await?;
    Ok(())
}

/// Remembers the id; `false` when it was known.
async fn settle(connection: &mut SqliteConnection, id: &str) -> Result<bool, Fault> {
    if id.is_empty() {
        return Ok(true);
    }
    let done = sqlx::query("INSERT INTO settled (id) VALUES (?) ON CONFLICT DO NOTHING")
        .bind(id)
        .execute(connection)
        .await?;
    Ok(done.rows_affected() > 0)
}

/// The records as they will be once the pending facts are stored.
pub(super) fn overlay(
    mut records: BTreeMap<ServiceName, Record>,
    pending: &[Pending],
) -> BTreeMap<ServiceName, Record> {
    for Pending { fact, .. } in pending {
        match fact {
            Fact::Record { service, record } => {
                records.insert(service.clone(), record.clone());
            }
            Fact::Entry(_) | Fact::Order(_) => {}
        }
    }
    records
}
