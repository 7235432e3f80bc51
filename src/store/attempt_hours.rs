//! Counts of attempts by hour, for charts. A service has a bounded number of sources an hour; the rest stand together.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use super::attempts::{AttemptKey, Change};
use super::error::Fault;
use super::{Store, StoreError, attempt_row, attempt_totals, text};
use crate::model::{Direction, Reason, ServiceName, Source, Time};

/// How many sources of a service are told apart in an hour: those that come first.
pub const SOURCES_AN_HOUR: usize = 16;

/// What was counted in one hour.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AttemptHour {
    /// When the hour begins, UTC.
    pub hour: Time,
    pub direction: Direction,
    pub reason: Reason,
    /// [`Source::Other`]: sources beyond the first [`SOURCES_AN_HOUR`].
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

/// Adds changes to the hour of `at`. The sum of an hour is what changed in it; where more is taken back than its sources
/// have, since it was counted in an hour before, the row for other sources is below zero.
pub(super) async fn add(
    connection: &mut SqliteConnection,
    changes: &[(AttemptKey, Change)],
    at: Time,
) -> Result<(), Fault> {
    let hour = hour(at);
    let mut news: BTreeMap<String, Counts> = BTreeMap::new();
    for (key, change) in changes {
        let counts = news.entry(attempt_totals::service(key).to_owned()).or_default();
        *counts.entry((key.direction, key.reason, key.remote)).or_default() += change.count;
    }
    let mut on_record = on_record(connection, &hour, news.keys()).await?;
    let mut rows = Vec::new();
    for (service, news) in news {
        for ((direction, reason, remote), count) in
            spread(on_record.remove(&service).unwrap_or_default(), news)
        {
            let (direction, reason) = (direction.as_str(), reason.as_str());
            rows.push(json!([service, direction, reason, remote.to_string(), count]));
        }
    }
    sqlx::query(ADD).bind(Value::from(rows).to_string()).bind(&hour).execute(connection).await?;
    Ok(())
}

const ADD: &str = "INSERT INTO attempt_hours (service, hour, direction, reason, remote, count)
    SELECT value ->> 0, ?2, value ->> 1, value ->> 2, value ->> 3, value ->> 4 FROM json_each(?1) WHERE true
    ON CONFLICT (service, hour, direction, reason, remote) DO UPDATE SET count = count + excluded.count";

/// The counts of one service in one hour.
type Counts = BTreeMap<(Direction, Reason, Source), i64>;

async fn on_record(
    connection: &mut SqliteConnection,
    hour: &str,
    services: impl Iterator<Item = &String>,
) -> Result<BTreeMap<String, Counts>, Fault> {
    let services = json!(services.collect::<Vec<_>>()).to_string();
    let rows = sqlx::query(ON_RECORD).bind(services).bind(hour).fetch_all(connection).await?;
    let mut found: BTreeMap<String, Counts> = BTreeMap::new();
    for row in &rows {
        let key = (attempt_row::direction(row)?, attempt_row::reason(row)?, attempt_row::remote(row)?);
        found.entry(row.try_get("service")?).or_default().insert(key, row.try_get("count")?);
    }
    Ok(found)
}

const ON_RECORD: &str = "SELECT service, direction, reason, remote, count FROM json_each(?1) AS wanted
    CROSS JOIN attempt_hours ON service = wanted.value AND hour = ?2";

/// Says by how much which rows change, so that not more than the first sources stand alone.
fn spread(on_record: Counts, news: Counts) -> Counts {
    let mut told: BTreeSet<Source> = on_record.keys().map(|(_, _, remote)| *remote).collect();
    told.remove(&Source::Other);
    let mut changes = Counts::new();
    for ((direction, reason, remote), count) in news {
        let mut add = |remote, count| *changes.entry((direction, reason, remote)).or_default() += count;
        if count >= 0 {
            let is_new = remote != Source::Other && !told.contains(&remote);
            let alone = !is_new || (told.len() < SOURCES_AN_HOUR && told.insert(remote));
            add(if alone { remote } else { Source::Other }, count);
        } else {
            let has = on_record.get(&(direction, reason, remote)).copied().unwrap_or(0).max(0);
            let own = count.max(-has);
            add(remote, own);
            add(Source::Other, count - own);
        }
    }
    changes.retain(|_, count| *count != 0);
    changes
}

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
