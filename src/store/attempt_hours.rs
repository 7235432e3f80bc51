//! Counts of attempts by hour, for charts. A service has a bounded number of sources an hour; the rest stand together.

use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::error::Fault;
use super::{Store, StoreError, attempt_row, text};
use crate::model::{Direction, Reason, ServiceName, Source, Time};

/// What was counted in one hour.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AttemptHour {
    /// When the hour begins, UTC.
    pub hour: Time,
    pub direction: Direction,
    pub reason: Reason,
    /// [`Source::Other`]: sources beyond those that are told apart in an hour.
    pub remote: Source,
    pub count: u64,
}

impl Store {
    /// The hours of a service that end after a time, in order. They go with `retain`, like the rows.
    pub async fn attempt_hours(
        &self,
        service: &ServiceName,
        since: Time,
    ) -> Result<Vec<AttemptHour>, StoreError> {
        self.in_bulk("read the attempts by hour", async {
            let mut connection = self.reader().await?;
            let rows = sqlx::query(HOURS)
                .bind(service.as_str())
                .bind(hour(since))
                .fetch_all(&mut *connection)
                .await?;
            rows.iter().map(read).collect()
        })
        .await
    }
}

const HOURS: &str = "SELECT hour, direction, reason, remote, count FROM attempt_hours
    WHERE service = ?1 AND hour >= ?2 AND count > 0 ORDER BY hour, direction, reason, remote";

/// The hour that a time is in, as its column has it.
pub(super) fn hour(time: Time) -> String {
    use chrono::{DurationRound, TimeDelta};
    text::from_time(time.duration_trunc(TimeDelta::hours(1)).unwrap_or(time))
}

fn read(row: &SqliteRow) -> Result<AttemptHour, Fault> {
    Ok(AttemptHour {
        hour: text::to_time(&row.try_get::<String, _>("hour")?)?,
        direction: attempt_row::direction(row)?,
        reason: attempt_row::reason(row)?,
        remote: attempt_row::remote(row)?,
        count: text::to_count(row.try_get("count")?)?,
    })
}
