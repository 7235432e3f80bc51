//! Sealing: the sums of attempts become ledger entries, so that nobody can lower them later.
//!
//! An entry `attempts.sealed` has
//!
//! ```text
//! { "from": when sealed last, or null, "to": now,
//!   "sums": [{ "service": name, or null for segments, "direction", "reason", "verdict",
//!              "count": packets since the last seal, "total": packets for ever,
//!              "sources": addresses seen since the last seal, or null where there are more rows than are looked at }] }
//! ```
//!
//! for what moved; where nothing did there is no entry. Of thousands of services each entry has a part, so that no transaction
//! holds up a decision. What is sealed is noted with the entry, in one transaction: after a crash the rest is sealed, and
//! nothing twice. Deliberately absent: a digest over the rows of attempts. They go on counting, so that nobody could check it later.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sqlx::{Row, SqliteConnection};

use super::error::Fault;
use super::{Entry, LedgerKind, Store, StoreError, ledger, text};
use crate::model::Time;

/// What a step of sealing did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sealed {
    /// Nothing moved since the last seal.
    Nothing,
    /// This entry; there may be more to seal.
    Entry(u64),
}

/// Sums in one entry.
const SUMS: i64 = 200;

/// Rows of attempts that are looked at for one entry and, of these, for one service.
const ROWS: i64 = 20_000;
const SERVICE_ROWS: i64 = 10_000;

/// One sum that moved.
#[derive(Debug)]
struct Sum {
    service: String,
    direction: String,
    reason: String,
    verdict: String,
    count: i64,
    sealed: i64,
}

/// By direction, reason and verdict.
type Sources = BTreeMap<(String, String, String), i64>;

impl Store {
    /// Seals sums that moved, as many as one entry takes. Call again until nothing is left.
    pub async fn seal(&self, now: Time) -> Result<Sealed, StoreError> {
        // What is not counted within a moment is left out: sums are what counts. A store that is broken says so below.
        let sources =
            self.promptly("count the sources of attempts", self.sources()).await.unwrap_or_default();
        self.promptly("seal the sums of attempts", async {
            let mut transaction = self.begin().await?;
            let sums = moved(&mut transaction).await?;
            if sums.is_empty() {
                return Ok(Sealed::Nothing);
            }
            let from = sealed_at(&mut transaction).await?;
            let detail = json!({
                "from": from,
                "to": text::from_time(now),
                "sums": sums.iter().map(|sum| sum.detail(&sources)).collect::<Vec<_>>(),
            });
            let entry = Entry {
                at: now,
                kind: LedgerKind::AttemptsSealed,
                service: None,
                actor: "picosegd".to_owned(),
                detail,
            };
            let key = self.signer()?;
            let seqs = ledger::append(&mut transaction, &[entry], &key, now).await?;
            settle(&mut transaction, &sums).await?;
            // The last part of several: the next seal begins here.
            if moved(&mut transaction).await?.is_empty() {
                put_sealed_at(&mut transaction, now).await?;
            }
            self.sync(transaction, now).await?;
            Ok(seqs.first().map_or(Sealed::Nothing, |seq| Sealed::Entry(*seq)))
        })
        .await
    }

    /// How many sources were seen since the last seal, of the services that come next. Read beside the writer.
    async fn sources(&self) -> Result<BTreeMap<String, Sources>, Fault> {
        let mut snapshot = self.snapshot().await?;
        let from = sealed_at(&mut snapshot).await?;
        let mut found = BTreeMap::new();
        let mut left = ROWS;
        for sum in moved(&mut snapshot).await? {
            if left <= 0 || found.contains_key(&sum.service) {
                continue;
            }
            let (rows, sources) = sources_of(&mut snapshot, &sum.service, from.as_deref()).await?;
            left -= rows;
            if rows <= SERVICE_ROWS {
                found.insert(sum.service, sources);
            }
        }
        Ok(found)
    }
}

impl Sum {
    fn detail(&self, sources: &BTreeMap<String, Sources>) -> Value {
        let Self { service, direction, reason, verdict, count, sealed } = self;
        let key = (direction.clone(), reason.clone(), verdict.clone());
        // A row that came between the look and the seal has none.
        let sources = sources.get(service).map(|of_service| of_service.get(&key).copied().unwrap_or(0));
        json!({
            "service": Some(service).filter(|name| !name.is_empty()),
            "direction": direction,
            "reason": reason,
            "verdict": verdict,
            "count": count - sealed,
            "total": count,
            "sources": sources,
        })
    }
}

async fn moved(connection: &mut SqliteConnection) -> Result<Vec<Sum>, Fault> {
    let rows = sqlx::query(
        "SELECT service, direction, reason, verdict, count, sealed FROM attempt_totals WHERE count <> sealed
         ORDER BY service, direction, reason, verdict LIMIT ?",
    )
    .bind(SUMS)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(Sum {
                service: row.try_get("service")?,
                direction: row.try_get("direction")?,
                reason: row.try_get("reason")?,
                verdict: row.try_get("verdict")?,
                count: row.try_get("count")?,
                sealed: row.try_get("sealed")?,
            })
        })
        .collect()
}

async fn settle(connection: &mut SqliteConnection, sums: &[Sum]) -> Result<(), Fault> {
    let rows: Vec<_> = sums
        .iter()
        .map(|sum| json!([sum.service, sum.direction, sum.reason, sum.verdict, sum.count]))
        .collect();
    sqlx::query(
        "UPDATE attempt_totals SET sealed = value ->> 4 FROM json_each(?)
         WHERE service = value ->> 0 AND direction = value ->> 1 AND reason = value ->> 2 AND verdict = value ->> 3",
    )
    .bind(Value::from(rows).to_string())
    .execute(connection)
    .await?;
    Ok(())
}

async fn sealed_at(connection: &mut SqliteConnection) -> Result<Option<String>, Fault> {
    let row = sqlx::query("SELECT at FROM seals WHERE id = 1").fetch_optional(connection).await?;
    row.map(|row| Ok(row.try_get("at")?)).transpose()
}

async fn put_sealed_at(connection: &mut SqliteConnection, now: Time) -> Result<(), Fault> {
    sqlx::query("INSERT INTO seals (id, at) VALUES (1, ?1) ON CONFLICT (id) DO UPDATE SET at = ?1")
        .bind(text::from_time(now))
        .execute(connection)
        .await?;
    Ok(())
}

/// How many rows were looked at, and how many addresses they have.
async fn sources_of(
    connection: &mut SqliteConnection,
    service: &str,
    from: Option<&str>,
) -> Result<(i64, Sources), Fault> {
    let rows = sqlx::query(
        "SELECT direction, reason, verdict, count(*) AS looked_at, count(DISTINCT remote) AS sources
         FROM (SELECT direction, reason, verdict, remote FROM attempts
               WHERE service IS nullif(?1, '') AND (?2 IS NULL OR last_seen >= ?2) LIMIT ?3)
         GROUP BY direction, reason, verdict",
    )
    .bind(service)
    .bind(from)
    .bind(SERVICE_ROWS + 1)
    .fetch_all(connection)
    .await?;
    let mut looked_at = 0;
    let mut sources = Sources::new();
    for row in &rows {
        looked_at += row.try_get::<i64, _>("looked_at")?;
        let key = (row.try_get("direction")?, row.try_get("reason")?, row.try_get("verdict")?);
        sources.insert(key, row.try_get("sources")?);
    }
    Ok((looked_at, sources))
}
