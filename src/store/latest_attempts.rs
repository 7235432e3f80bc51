//! Who came last after a decommission, over all services: for the dashboard.

use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::error::Fault;
use super::{Store, StoreError, attempt_row, text};
use crate::model::{Direction, Reason, ServiceName, Source, Time};

/// How many of the latest rows are looked at: a flood of sources makes the list shorter, not the look longer.
const LOOK: u32 = 20_000;

/// One source of a decommissioned service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LatestAttempt {
    pub service: ServiceName,
    pub provider: Option<String>,
    pub remote: Source,
    pub direction: Direction,
    /// Of the rows looked at.
    pub count: u64,
    pub last_seen: Time,
}

impl Store {
    /// The latest sources with reason `expired`, so many at most, the latest first.
    pub async fn latest_after_decommission(&self, most: u32) -> Result<Vec<LatestAttempt>, StoreError> {
        self.in_bulk("read the latest attempts after decommissions", async {
            let mut connection = self.reader().await?;
            let rows = sqlx::query(LATEST)
                .bind(LOOK)
                .bind(Reason::Expired.as_str())
                .bind(most)
                .fetch_all(&mut *connection)
                .await?;
            rows.iter().map(read).collect()
        })
        .await
    }
}

const LATEST: &str = "SELECT service, max(provider) AS provider, remote, direction, sum(count) AS count,
        max(last_seen) AS last_seen
    FROM (SELECT * FROM attempts ORDER BY last_seen DESC LIMIT ?1)
    WHERE reason = ?2 AND service IS NOT NULL
    GROUP BY service, remote, direction ORDER BY last_seen DESC, service, remote, direction LIMIT ?3";

fn read(row: &SqliteRow) -> Result<LatestAttempt, Fault> {
    Ok(LatestAttempt {
        service: text::to_service(&row.try_get::<String, _>("service")?)?,
        provider: row.try_get("provider")?,
        remote: attempt_row::remote(row)?,
        direction: attempt_row::direction(row)?,
        count: text::to_count(row.try_get("count")?)?,
        last_seen: text::to_time(&row.try_get::<String, _>("last_seen")?)?,
    })
}
