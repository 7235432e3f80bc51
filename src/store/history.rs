//! What the ledger says of one service: for the report.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use super::error::Fault;
use super::ledger::{head, ledger_row};
use super::{Head, LedgerKind, LedgerRow, Store, StoreError, text};
use crate::model::ServiceName;

/// How many entries are read.
pub const HISTORY: u32 = 200;

/// The ledger's entries about one service, and its head at the same instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    pub first_seq: Option<u64>,
    pub last_seq: Option<u64>,
    pub total: u64,
    /// The latest [`HISTORY`], in order.
    pub entries: Vec<LedgerRow>,
    /// What had the files loaded that decommissioned the service last, where a file did: the entry of that.
    pub applied: Option<LedgerRow>,
    pub head: Head,
    pub checkpoint: Option<SignedHead>,
}

/// A checkpoint, word for word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedHead {
    pub seq: u64,
    pub at: String,
    pub hash: String,
    pub key: String,
    pub signature: String,
}

impl Store {
    /// Reads what the ledger says of a service.
    pub async fn history(&self, service: &ServiceName) -> Result<History, StoreError> {
        self.in_bulk("read the ledger", async {
            let mut snapshot = self.snapshot().await?;
            history(&mut snapshot, service).await
        })
        .await
    }
}

async fn history(connection: &mut SqliteConnection, service: &ServiceName) -> Result<History, Fault> {
    let ends = sqlx::query(
        "SELECT count(*) AS total, min(seq) AS first, max(seq) AS last FROM ledger WHERE service = ?",
    )
    .bind(service.as_str())
    .fetch_one(&mut *connection)
    .await?;
    let seq = |column: &str| ends.try_get::<Option<i64>, _>(column)?.map(text::to_count).transpose();
    let entries = latest(connection, service).await?;
    let ended = entries.iter().rfind(|row| row.kind == LedgerKind::ServiceDecommissioned.as_str());
    let applied = match ended {
        Some(ended) => precedes(connection, ended.seq).await?,
        None => None,
    };
    Ok(History {
        first_seq: seq("first")?,
        last_seq: seq("last")?,
        total: text::to_count(ends.try_get("total")?)?,
        applied,
        entries,
        head: head(connection).await?,
        checkpoint: checkpoint(connection).await?,
    })
}

async fn latest(connection: &mut SqliteConnection, service: &ServiceName) -> Result<Vec<LedgerRow>, Fault> {
    let rows = sqlx::query("SELECT * FROM ledger WHERE service = ? ORDER BY seq DESC LIMIT ?")
        .bind(service.as_str())
        .bind(HISTORY)
        .fetch_all(connection)
        .await?;
    rows.iter().rev().map(ledger_row).collect()
}

/// What files bring about stands behind the entry of their being loaded.
async fn precedes(connection: &mut SqliteConnection, seq: u64) -> Result<Option<LedgerRow>, Fault> {
    let row = sqlx::query("SELECT * FROM ledger WHERE seq < ? AND kind IN (?, ?) ORDER BY seq DESC LIMIT 1")
        .bind(text::from_count(seq))
        .bind(LedgerKind::ConfigApplied.as_str())
        .bind(LedgerKind::DaemonStarted.as_str())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(ledger_row).transpose()
}

async fn checkpoint(connection: &mut SqliteConnection) -> Result<Option<SignedHead>, Fault> {
    let row =
        sqlx::query("SELECT * FROM checkpoints ORDER BY seq DESC LIMIT 1").fetch_optional(connection).await?;
    row.as_ref().map(signed_head).transpose()
}

fn signed_head(row: &SqliteRow) -> Result<SignedHead, Fault> {
    Ok(SignedHead {
        seq: text::to_count(row.try_get("seq")?)?,
        at: row.try_get("at")?,
        hash: row.try_get("hash")?,
        key: row.try_get("key")?,
        signature: row.try_get("signature")?,
    })
}
