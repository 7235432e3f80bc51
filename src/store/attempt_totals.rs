//! Sums of attempts for ever, by service, direction, reason and verdict: small, exact, and untouched by retention.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use super::attempts::{AttemptKey, Change, Verdict};
use super::error::Fault;
use super::{Store, StoreError, attempt_row, text};
use crate::model::{Direction, Reason, ServiceName};

/// How many packets were refused, or flows observed, since the store was made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AttemptTotal {
    /// `None` where segments refused.
    pub service: Option<ServiceName>,
    pub direction: Direction,
    pub reason: Reason,
    pub verdict: Verdict,
    pub count: u64,
}

impl Store {
    /// The sums for ever, sorted.
    pub async fn attempt_totals(&self) -> Result<Vec<AttemptTotal>, StoreError> {
        self.promptly("read the sums of attempts", async {
            let mut connection = self.prompt_reader().await?;
            let rows = sqlx::query("SELECT * FROM attempt_totals").fetch_all(&mut *connection).await?;
            rows.iter().map(read).collect()
        })
        .await
    }

    /// The sum of all counts.
    pub async fn attempts_total(&self) -> Result<u64, StoreError> {
        Ok(self.attempt_totals().await?.iter().map(|total| total.count).sum())
    }

    /// The sum of counts of each service; `None` stands for segments.
    pub async fn attempts_by_service(&self) -> Result<BTreeMap<Option<ServiceName>, u64>, StoreError> {
        let mut sums = BTreeMap::new();
        for total in self.attempt_totals().await? {
            *sums.entry(total.service).or_default() += total.count;
        }
        Ok(sums)
    }
}

/// Adds changes of rows, whatever becomes of the rows themselves.
pub(super) async fn add(
    connection: &mut SqliteConnection,
    changes: &[(AttemptKey, Change)],
) -> Result<(), Fault> {
    let mut sums: BTreeMap<_, i64> = BTreeMap::new();
    for (key, change) in changes {
        let AttemptKey { direction, reason, verdict, .. } = *key;
        *sums.entry((service(key), direction, reason, verdict)).or_default() += change.count;
    }
    let rows: Vec<Value> = sums
        .into_iter()
        .filter(|(_, count)| *count != 0)
        .map(|((service, direction, reason, verdict), count)| {
            json!([service, direction.as_str(), reason.as_str(), verdict.as_str(), count])
        })
        .collect();
    sqlx::query(ADD).bind(Value::from(rows).to_string()).execute(connection).await?;
    Ok(())
}

const ADD: &str = "INSERT INTO attempt_totals (service, direction, reason, verdict, count)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 FROM json_each(?) WHERE true
    ON CONFLICT (service, direction, reason, verdict) DO UPDATE SET count = count + excluded.count";

/// Segments are told by an empty name: a key has no nulls.
pub(super) fn service(key: &AttemptKey) -> &str {
    key.service.as_ref().map_or("", ServiceName::as_str)
}

fn read(row: &SqliteRow) -> Result<AttemptTotal, Fault> {
    let service: String = row.try_get("service")?;
    Ok(AttemptTotal {
        service: (!service.is_empty()).then(|| text::to_service(&service)).transpose()?,
        direction: attempt_row::direction(row)?,
        reason: attempt_row::reason(row)?,
        verdict: attempt_row::verdict(row)?,
        count: text::to_count(row.try_get::<i64, _>("count")?.max(0))?,
    })
}
