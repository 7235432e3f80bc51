//! What came after a decommission, by source: for the report.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use super::error::Fault;
use super::{Store, StoreError, attempt_row, text};
use crate::model::{Direction, Reason, ServiceName, Source, Time};

/// How many pairs of source and direction are told apart.
pub const LATER_SOURCES: u32 = 1_000;

/// Attempts on a decommissioned service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LaterAttempts {
    /// The largest first; then, for each direction, all that are not told apart.
    pub sources: Vec<LaterAttempt>,
    /// What was still in flight at the close; in no count of `sources`. The largest of them.
    pub at_close: Vec<AtClose>,
}

/// One source and direction, without what was still in flight at the close.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaterAttempt {
    pub remote: Source,
    pub direction: Direction,
    pub count: u64,
    /// How many sources these are, as far as the store told them apart.
    pub sources: u64,
    pub first_seen: Time,
    pub last_seen: Time,
}

/// What one source sent, or was sent, in the moments after the close.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AtClose {
    pub remote: Source,
    pub direction: Direction,
    pub count: u64,
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
    let rows = async |statement: &'static str, connection: &mut SqliteConnection| {
        sqlx::query(statement)
            .bind(service.as_str())
            .bind(&since)
            .bind(Reason::Expired.as_str())
            .bind(LATER_SOURCES)
            .fetch_all(connection)
            .await
    };
    Ok(LaterAttempts {
        sources: rows(SOURCES, connection).await?.iter().map(read).collect::<Result<_, _>>()?,
        at_close: rows(AT_CLOSE, connection).await?.iter().map(read_at_close).collect::<Result<_, _>>()?,
    })
}

/// `other` comes last, whatever it counts, together with all that is beyond the limit.
const SOURCES: &str = "WITH sources AS (
        SELECT remote, direction, sum(count - at_close) AS late,
            coalesce(min(first_late), min(first_seen)) AS first_late,
            coalesce(max(last_seen) FILTER (WHERE count > at_close), max(last_seen)) AS last_seen
        FROM attempts WHERE service = ?1 AND last_seen >= ?2 AND reason = ?3 GROUP BY remote, direction
    ), ranked AS (
        SELECT *, row_number() OVER (ORDER BY remote = 'other', late DESC, remote, direction) AS place
        FROM sources WHERE late > 0
    )
    SELECT CASE WHEN place > ?4 THEN 'other' ELSE remote END AS shown, direction, sum(late) AS late,
        sum(remote <> 'other') AS sources, min(first_late) AS first_late, max(last_seen) AS last_seen
    FROM ranked GROUP BY shown, direction ORDER BY shown = 'other', late DESC, shown, direction";

const AT_CLOSE: &str = "SELECT remote, direction, sum(at_close) AS at_close FROM attempts
    WHERE service = ?1 AND last_seen >= ?2 AND reason = ?3 AND at_close > 0
    GROUP BY remote, direction ORDER BY at_close DESC, remote, direction LIMIT ?4";

fn read(row: &SqliteRow) -> Result<LaterAttempt, Fault> {
    let remote: String = row.try_get("shown")?;
    Ok(LaterAttempt {
        remote: remote.parse().map_err(|_| Fault::Value(format!("{remote:?} is no address")))?,
        direction: attempt_row::direction(row)?,
        count: text::to_count(row.try_get("late")?)?,
        sources: text::to_count(row.try_get("sources")?)?,
        first_seen: text::to_time(&row.try_get::<String, _>("first_late")?)?,
        last_seen: text::to_time(&row.try_get::<String, _>("last_seen")?)?,
    })
}

fn read_at_close(row: &SqliteRow) -> Result<AtClose, Fault> {
    Ok(AtClose {
        remote: attempt_row::remote(row)?,
        direction: attempt_row::direction(row)?,
        count: text::to_count(row.try_get("at_close")?)?,
    })
}
