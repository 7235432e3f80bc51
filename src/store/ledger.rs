//! The ledger: the hash-chained record of everything that was decided and done.
//!
//! Rows are append-only and numbered 1, 2, 3... without gaps. They are read back as text, not as types: an entry that
//! somebody altered has to reach [`chain::verify`], which names it. Deliberately absent: deletion.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use super::chain::{self, FirstBad, Head, Verifier};
use super::error::Fault;
use super::key::Key;
use super::{Detail, LedgerKind, Store, StoreError, checkpoint, text};
use crate::model::{ServiceName, Time};

/// Something that happened, before it has a number.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub at: Time,
    pub kind: LedgerKind,
    pub service: Option<ServiceName>,
    /// Who did it: `user (uid 1000)`, or `picosegd`.
    pub actor: String,
    pub detail: Value,
}

/// An entry as it stands in the ledger and in its exports, word for word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerRow {
    pub seq: u64,
    pub at: String,
    pub kind: String,
    pub service: Option<String>,
    pub actor: String,
    pub detail: Detail,
    pub prev: String,
    pub hash: String,
}

impl LedgerRow {
    /// The entry that follows `head`.
    pub fn following(head: &Head, entry: &Entry) -> Self {
        let mut row = Self {
            seq: head.seq.saturating_add(1),
            at: text::from_time(entry.at),
            kind: entry.kind.as_str().to_owned(),
            service: entry.service.as_ref().map(|name| name.as_str().to_owned()),
            actor: entry.actor.clone(),
            detail: Detail::new(&entry.detail),
            prev: head.hash.clone(),
            hash: String::new(),
        };
        row.hash = chain::hash(&row);
        row
    }

    pub fn head(&self) -> Head {
        Head { seq: self.seq, hash: self.hash.clone() }
    }
}

/// Which entries to read; the default is all of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LedgerFilter {
    /// At this time or later.
    pub since: Option<Time>,
    /// At this time or earlier: the ledger as it was then.
    pub until: Option<Time>,
    pub service: Option<ServiceName>,
    /// Numbers above this one: continues a page.
    pub after: u64,
    /// How many at most.
    pub limit: Option<u32>,
}

impl Store {
    /// Appends entries, all or none, and returns their numbers. They are signed as of the last one's time.
    pub async fn append(&self, entries: &[Entry]) -> Result<Vec<u64>, StoreError> {
        let Some(last) = entries.last() else { return Ok(Vec::new()) };
        self.promptly("append to the ledger", async {
            let mut transaction = self.begin().await?;
            let key = self.signer()?;
            let seqs = append(&mut transaction, entries, &key, last.at).await?;
            self.sync(transaction, last.at).await?;
            Ok(seqs)
        })
        .await
    }

    /// Returns entries in the order of their numbers.
    pub async fn entries(&self, filter: &LedgerFilter) -> Result<Vec<LedgerRow>, StoreError> {
        self.in_bulk("read the ledger", async {
            let mut connection = self.reader().await?;
            select(&mut connection, filter).await
        })
        .await
    }

    /// What the ledger ends with.
    pub async fn head(&self) -> Result<Head, StoreError> {
        self.in_bulk("read the head of the ledger", async {
            let mut connection = self.reader().await?;
            head(&mut connection).await
        })
        .await
    }

    /// Reads the whole ledger, as it is at one instant, and says whether it is unbroken.
    pub async fn verify_ledger(&self) -> Result<Result<Head, FirstBad>, StoreError> {
        self.at_length("verify the ledger", async {
            let mut snapshot = self.snapshot().await?;
            let head = head(&mut snapshot).await?;
            let mut verifier = Verifier::default();
            loop {
                let page = select(&mut snapshot, &LedgerFilter::page(verifier.head().seq)).await?;
                if page.is_empty() {
                    return Ok(verifier.finish(&head));
                }
                if let Err(bad) = page.iter().try_for_each(|row| verifier.step(row)) {
                    return Ok(Err(bad));
                }
            }
        })
        .await
    }
}

impl LedgerFilter {
    /// Entries of one step through the whole ledger; some may be about a whole configuration.
    pub(super) const PAGE: u32 = 500;

    /// The page that follows an entry.
    pub fn page(after: u64) -> Self {
        Self { after, limit: Some(Self::PAGE), ..Self::default() }
    }
}

/// Appends within a transaction that holds the write lock, so that no other writer takes the same numbers, and signs the
/// new head.
///
/// A ledger whose head is not what was signed is not continued: new signatures would cover up what was done to it.
pub(super) async fn append(
    connection: &mut SqliteConnection,
    entries: &[Entry],
    key: &Key,
    now: Time,
) -> Result<Vec<u64>, Fault> {
    if entries.is_empty() {
        return Ok(Vec::new());
    }
    let mut head = head(connection).await?;
    if let Some(change) = checkpoint::examine(connection, &head, key, now).await? {
        let row = LedgerRow::following(&head, &change);
        insert(connection, &row).await?;
        head = row.head();
    }
    let mut seqs = Vec::with_capacity(entries.len());
    for entry in entries {
        let row = LedgerRow::following(&head, entry);
        insert(connection, &row).await?;
        seqs.push(row.seq);
        head = row.head();
    }
    checkpoint::put_head(connection, &head, key, now).await?;
    Ok(seqs)
}

/// The stored head, not the last row: where the end was cut off, numbers go on behind the gap, which stays visible.
pub(super) async fn head(connection: &mut SqliteConnection) -> Result<Head, Fault> {
    let row = sqlx::query("SELECT seq, hash FROM ledger_head WHERE id = 1")
        .fetch_optional(connection)
        .await?
        .ok_or_else(|| Fault::Value("the ledger has no head".to_owned()))?;
    Ok(Head { seq: text::to_count(row.try_get("seq")?)?, hash: row.try_get("hash")? })
}

async fn insert(connection: &mut SqliteConnection, row: &LedgerRow) -> Result<(), Fault> {
    let done = sqlx::query(
        "INSERT INTO ledger (seq, at, kind, service, actor, detail, prev, hash)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
    )
    .bind(text::from_count(row.seq))
    .bind(&row.at)
    .bind(&row.kind)
    .bind(&row.service)
    .bind(&row.actor)
    .bind(row.detail.as_str())
    .bind(&row.prev)
    .bind(&row.hash)
    .execute(connection)
    .await?;
    match done.rows_affected() {
        0 => Err(Fault::Value(format!("ledger entry {} stands beyond the end of the ledger", row.seq))),
        _ => Ok(()),
    }
}

pub(super) async fn select(
    connection: &mut SqliteConnection,
    filter: &LedgerFilter,
) -> Result<Vec<LedgerRow>, Fault> {
    let rows = sqlx::query(
        "SELECT seq, at, kind, service, actor, detail, prev, hash FROM ledger
         WHERE seq > ?1 AND (?2 IS NULL OR at >= ?2) AND (?3 IS NULL OR at <= ?3) AND (?4 IS NULL OR service = ?4)
         ORDER BY seq LIMIT ?5",
    )
    .bind(text::from_count(filter.after))
    .bind(filter.since.map(text::from_time))
    .bind(filter.until.map(text::from_time))
    .bind(filter.service.as_ref().map(ServiceName::as_str))
    // SQLite: a negative limit is none.
    .bind(filter.limit.map_or(-1, i64::from))
    .fetch_all(connection)
    .await?;
    rows.iter().map(ledger_row).collect()
}

fn ledger_row(row: &SqliteRow) -> Result<LedgerRow, Fault> {
    Ok(LedgerRow {
        seq: text::to_count(row.try_get("seq")?)?,
        at: row.try_get("at")?,
        kind: row.try_get("kind")?,
        service: row.try_get("service")?,
        actor: row.try_get("actor")?,
        detail: Detail::from_stored(row.try_get("detail")?),
        prev: row.try_get("prev")?,
        hash: row.try_get("hash")?,
    })
}
