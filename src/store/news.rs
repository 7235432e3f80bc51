//! New sources: which rows of attempts are the first of their service, remote address, direction and reason, and which
//! of these somebody has to be told of.
//!
//! What is to be told is written in the transaction of the rows and removed when it was told: a crash in between tells
//! twice, never not at all. What was a source before and whose rows are no longer kept is new again.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use super::attempts::{Attempt, AttemptKey, Change};
use super::error::Fault;
use super::{Store, StoreError, attempt_row, text};
use crate::model::{Direction, Reason, ServiceName, Source};

/// The most sources that wait to be told.
pub const MOST: usize = 1_000;

type Identity<'a> = (Option<&'a ServiceName>, Source, Direction, Reason);

/// The first row of a source, and what all its rows count.
pub type NewSource = (AttemptKey, Change);

/// What waits to be told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct News {
    /// The latest number among them.
    pub last: i64,
    /// As they are on record now, the row with the most details of each; without those whose rows are gone.
    pub attempts: Vec<Attempt>,
    /// How many more there were than could wait.
    pub skipped: u64,
}

/// Returns the sources among changes that have no row yet.
pub(super) async fn find(
    connection: &mut SqliteConnection,
    changes: &[(AttemptKey, Change)],
) -> Result<Vec<NewSource>, Fault> {
    let mut sources: BTreeMap<Identity<'_>, (&AttemptKey, Change)> = BTreeMap::new();
    for (key, change) in changes.iter().filter(|(_, change)| change.count > 0) {
        let identity = (key.service.as_ref(), key.remote, key.direction, key.reason);
        match sources.get_mut(&identity) {
            None => drop(sources.insert(identity, (key, change.clone()))),
            Some((known, sum)) => {
                sum.add(change.clone());
                if detail(key) > detail(known) {
                    *known = key;
                }
            }
        }
    }
    let asked: Vec<Value> = sources.values().map(|(key, _)| source(key)).collect();
    let new: Vec<i64> =
        sqlx::query_scalar(UNKNOWN).bind(Value::from(asked).to_string()).fetch_all(connection).await?;
    let mut sources: Vec<_> = sources.into_values().map(Some).collect();
    let new = new.into_iter().filter_map(|place| sources.get_mut(usize::try_from(place).ok()?)?.take());
    Ok(new.map(|(key, change)| (key.clone(), change)).collect())
}

const UNKNOWN: &str = "SELECT asked.key FROM json_each(?) AS asked WHERE NOT EXISTS (SELECT 1 FROM attempts
    WHERE remote = asked.value ->> 1 AND direction = asked.value ->> 2 AND reason = asked.value ->> 3
      AND coalesce(service, '') = asked.value ->> 0)";

/// How much a row says.
fn detail(key: &AttemptKey) -> usize {
    let known = [key.subject.is_some(), key.uid.is_some(), key.local.is_some(), key.remote_port.is_some()];
    known.into_iter().filter(|known| *known).count()
}

fn source(key: &AttemptKey) -> Value {
    let service = key.service.as_ref().map_or("", ServiceName::as_str);
    json!([service, key.remote.to_string(), key.direction.as_str(), key.reason.as_str()])
}

/// Lets the sources after a decommission wait to be told.
pub(super) async fn queue(connection: &mut SqliteConnection, new: &[NewSource]) -> Result<(), Fault> {
    let expired: Vec<Value> =
        new.iter().filter(|(key, _)| key.reason == Reason::Expired).map(|(key, _)| source(key)).collect();
    if expired.is_empty() {
        return Ok(());
    }
    let waiting: i64 = sqlx::query_scalar("SELECT count(*) FROM news").fetch_one(&mut *connection).await?;
    let room = MOST.saturating_sub(usize::try_from(waiting).unwrap_or(MOST));
    let (fits, skipped) = expired.split_at(room.min(expired.len()));
    sqlx::query(
        "INSERT INTO news (service, remote, direction, reason)
         SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each(?)",
    )
    .bind(json!(fits).to_string())
    .execute(&mut *connection)
    .await?;
    sqlx::query("UPDATE news_skipped SET number = number + ? WHERE id = 1")
        .bind(i64::try_from(skipped.len()).unwrap_or(i64::MAX))
        .execute(connection)
        .await?;
    Ok(())
}

impl Store {
    /// The oldest sources that wait to be told, at most so many.
    pub async fn news(&self, most: usize) -> Result<News, StoreError> {
        self.in_bulk("read what is to be told", async {
            let mut connection = self.reader().await?;
            let rows = sqlx::query(WAITING)
                .bind(i64::try_from(most).unwrap_or(i64::MAX))
                .fetch_all(&mut *connection)
                .await?;
            let skipped: i64 = sqlx::query_scalar("SELECT number FROM news_skipped WHERE id = 1")
                .fetch_one(&mut *connection)
                .await?;
            let mut news = News { skipped: text::to_count(skipped)?, ..News::default() };
            for row in rows {
                news.last = news.last.max(row.try_get("number")?);
                news.attempts.extend(first_of(&mut connection, &row).await?);
            }
            Ok(news)
        })
        .await
    }

    /// Removes what was told: everything up to a number, and so many that were skipped.
    pub async fn told(&self, last: i64, skipped: u64) -> Result<(), StoreError> {
        self.in_bulk("note what was told", async {
            let mut transaction = self.begin().await?;
            sqlx::query("DELETE FROM news WHERE number <= ?").bind(last).execute(&mut *transaction).await?;
            sqlx::query("UPDATE news_skipped SET number = max(0, number - ?) WHERE id = 1")
                .bind(i64::try_from(skipped).unwrap_or(i64::MAX))
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await?;
            Ok(())
        })
        .await
    }
}

const WAITING: &str = "SELECT number, service, remote, direction, reason FROM news ORDER BY number LIMIT ?";

async fn first_of(connection: &mut SqliteConnection, row: &SqliteRow) -> Result<Option<Attempt>, Fault> {
    let text = |column| row.try_get::<String, _>(column);
    let found = sqlx::query(MOST_DETAILED)
        .bind(text("service")?)
        .bind(text("remote")?)
        .bind(text("direction")?)
        .bind(text("reason")?)
        .fetch_optional(connection)
        .await?;
    found.as_ref().map(attempt_row::read).transpose()
}

const MOST_DETAILED: &str = "SELECT * FROM attempts
    WHERE coalesce(service, '') = ?1 AND remote = ?2 AND direction = ?3 AND reason = ?4
    ORDER BY (subject IS NULL) + (uid IS NULL) + (local IS NULL) + (remote_port IS NULL), first_seen LIMIT 1";
