//! What came after a decommission, by source: for the report.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use super::error::Fault;
use super::{Store, StoreError, attempt_row, text};
use crate::model::{Direction, Reason, ServiceName, Source, Time};

/// How many sources are told apart.
pub const LATER_SOURCES: u32 = 1_000;

/// Attempts on a decommissioned service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LaterAttempts {
    /// The largest first.
    pub sources: Vec<LaterAttempt>,
    /// How many further pairs of source and direction there are, and their sum.
    pub further: u64,
    pub further_count: u64,
    /// What was still in flight at the close; in no other sum here.
    pub at_close: u64,
}

/// One source and direction, without what was still in flight at the close.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaterAttempt {
    pub remote: Source,
    pub direction: Direction,
    pub count: u64,
    pub first_seen: Time,
    pub last_seen: Time,
}

impl Store {
    /// The attempts with reason `expired` since a decommission. A row of an earlier lifetime that goes on counts whole.
    pub async fn later_attempts(
        &self,
        service: &ServiceName,
        since: Time,
    ) -> Result<LaterAttempts, StoreError> {
        self.in_bulk("read the later attempts", async {
            let mut snapshot = self.snapshot().await?;
            later(&mut snapshot, service, since).await
        })
        .await
    }
}

async fn later(
    connection: &mut SqliteConnection,
    service: &ServiceName,
    since: Time,
) -> Result<LaterAttempts, Fault> {
    let since = text::from_time(since);
    let sums = sqlx::query(SUMS)
        .bind(service.as_str())
        .bind(&since)
        .bind(Reason::Expired.as_str())
        .fetch_one(&mut *connection)
        .await?;
    let rows = sqlx::query(SOURCES)
        .bind(service.as_str())
        .bind(&since)
        .bind(Reason::Expired.as_str())
        .bind(LATER_SOURCES)
        .fetch_all(connection)
        .await?;
    let sources = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let number = |column: &str| text::to_count(sums.try_get(column)?);
    let told: u64 = sources.iter().map(|source| source.count).sum();
    Ok(LaterAttempts {
        further: number("sources")?.saturating_sub(sources.len() as u64),
        further_count: number("late")?.saturating_sub(told),
        at_close: number("at_close")?,
        sources,
    })
}

const SUMS: &str = "SELECT count(*) FILTER (WHERE late > 0) AS sources, coalesce(sum(late), 0) AS late,
        coalesce(sum(at_close), 0) AS at_close
    FROM (SELECT sum(count - at_close) AS late, sum(at_close) AS at_close FROM attempts
          WHERE service = ?1 AND last_seen >= ?2 AND reason = ?3 GROUP BY remote, direction)";

const SOURCES: &str = "SELECT remote, direction, sum(count - at_close) AS late,
        min(coalesce(first_late, first_seen)) AS first_late, max(last_seen) AS last_seen
    FROM attempts WHERE service = ?1 AND last_seen >= ?2 AND reason = ?3 AND count > at_close
    GROUP BY remote, direction ORDER BY late DESC, remote, direction LIMIT ?4";

fn read(row: &SqliteRow) -> Result<LaterAttempt, Fault> {
    Ok(LaterAttempt {
        remote: attempt_row::remote(row)?,
        direction: attempt_row::direction(row)?,
        count: text::to_count(row.try_get("late")?)?,
        first_seen: text::to_time(&row.try_get::<String, _>("first_late")?)?,
        last_seen: text::to_time(&row.try_get::<String, _>("last_seen")?)?,
    })
}
