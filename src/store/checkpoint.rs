//! The signed head, renewed in the transaction of every entry, and checkpoints, which stay.
//!
//! The head is always signed: beside a commit that waits for the disk a signature is cheap. So an export needs no key, and a
//! database that lost its tail shows it. Checkpoints are for copies elsewhere: of a ledger that was rewritten by somebody
//! with the key, only such a copy tells.

use std::sync::Arc;

use serde_json::json;
use sqlx::{Row, SqliteConnection};

use super::chain::{GENESIS, Head};
use super::error::Fault;
use super::key::{Key, PublicKey};
use super::statement::{Purpose, Statement};
use super::{Entry, LedgerKind, Store, StoreError, ledger, text};
use crate::model::Time;

impl Store {
    /// Signs what the ledger ends with as a checkpoint and keeps it; `None` when it has one there already, or no entries.
    pub async fn checkpoint(&self, now: Time) -> Result<Option<Statement>, StoreError> {
        self.promptly("sign a checkpoint of the ledger", async {
            let key = self.signer()?;
            let mut transaction = self.begin().await?;
            let head = ledger::head(&mut transaction).await?;
            if head.seq == 0 || !is_head_signed(&mut transaction, &head, &key).await? {
                return Ok(None);
            }
            let origin = origin(&mut transaction, &head).await?;
            let statement = Statement::sign(Purpose::Checkpoint, &origin, &head, now, &key);
            let done = sqlx::query(
                "INSERT INTO checkpoints (seq, at, hash, key, signature) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            )
            .bind(text::from_count(head.seq))
            .bind(&statement.at)
            .bind(&head.hash)
            .bind(statement.key.to_string())
            .bind(statement.signature())
            .execute(&mut *transaction)
            .await?;
            self.sync(transaction, now).await?;
            Ok((done.rows_affected() > 0).then_some(statement))
        })
        .await
    }

    /// The public key that signs now.
    pub fn public_key(&self) -> Option<PublicKey> {
        self.signer().ok().map(|key| key.public().clone())
    }

    pub(super) fn signer(&self) -> Result<Arc<Key>, Fault> {
        Ok(self.connected()?.key)
    }
}

/// Who signed the head last; `None` when nobody did.
pub(super) async fn signer(connection: &mut SqliteConnection) -> Result<Option<PublicKey>, Fault> {
    Ok(signed(connection).await?.and_then(|line| Statement::parse(&line)).map(|statement| statement.key))
}

async fn signed(connection: &mut SqliteConnection) -> Result<Option<String>, Fault> {
    let row = sqlx::query("SELECT signed FROM ledger_head WHERE id = 1").fetch_optional(connection).await?;
    row.map_or(Ok(None), |row| Ok(row.try_get("signed")?))
}

/// Looks whether the head is what was signed. Where another key signed it, or none, as with a ledger of an earlier version,
/// returns the entry that says so.
pub(super) async fn examine(
    connection: &mut SqliteConnection,
    head: &Head,
    key: &Key,
    now: Time,
) -> Result<Option<Entry>, Fault> {
    let from = match signed(connection).await? {
        None if head.seq == 0 => return Ok(None),
        None => None,
        Some(line) => Some(valid(&line, head)?.key),
    };
    if from.as_ref() == Some(key.public()) {
        return Ok(None);
    }
    let from = from.map(|key| key.to_string());
    tracing::warn!(?from, to = %key.public(), "the ledger is signed with a new key");
    Ok(Some(Entry {
        at: now,
        kind: LedgerKind::KeyChanged,
        service: None,
        actor: "picosegd".to_owned(),
        detail: json!({ "from": from, "to": key.public().to_string() }),
    }))
}

fn valid(line: &str, head: &Head) -> Result<Statement, Fault> {
    let statement = Statement::parse(line).filter(|statement| statement.purpose == Purpose::Head);
    let fits = |statement: &Statement| statement.head == *head && statement.is_signed();
    statement.filter(fits).ok_or_else(|| {
        Fault::Value(
            "the ledger does not end with what was signed last: look at it with `picoseg audit verify`"
                .to_owned(),
        )
    })
}

async fn is_head_signed(connection: &mut SqliteConnection, head: &Head, key: &Key) -> Result<bool, Fault> {
    let line = signed(connection).await?;
    Ok(line.map(|line| valid(&line, head)).transpose()?.is_some_and(|s| s.key == *key.public()))
}

/// Writes and signs what the ledger ends with.
pub(super) async fn put_head(
    connection: &mut SqliteConnection,
    head: &Head,
    key: &Key,
    now: Time,
) -> Result<(), Fault> {
    let origin = origin(connection, head).await?;
    let statement = Statement::sign(Purpose::Head, &origin, head, now, key);
    sqlx::query("UPDATE ledger_head SET seq = ?, hash = ?, signed = ? WHERE id = 1")
        .bind(text::from_count(head.seq))
        .bind(&head.hash)
        .bind(statement.to_string())
        .execute(connection)
        .await?;
    Ok(())
}

/// Which ledger this is: as signed before, which also holds where somebody removed the first entry; else its hash.
async fn origin(connection: &mut SqliteConnection, head: &Head) -> Result<String, Fault> {
    let before = signed(connection).await?.and_then(|line| Statement::parse(&line));
    if let Some(statement) = before.filter(|statement| statement.head.seq > 0) {
        return Ok(statement.origin);
    }
    if head.seq == 0 {
        return Ok(GENESIS.to_owned());
    }
    let row = sqlx::query("SELECT hash FROM ledger WHERE seq = 1").fetch_optional(connection).await?;
    row.map_or_else(
        || Err(Fault::Value("ledger entry 1 is missing".to_owned())),
        |row| Ok(row.try_get("hash")?),
    )
}
