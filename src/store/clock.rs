//! The latest wall-clock time that was seen, so that a clock that is turned back reopens nothing, also not after a
//! restart; and what both clocks said when it was noted, so that a step is seen that came while no daemon ran.

use std::time::Duration;

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use super::error::Fault;
use super::{Store, StoreError, text};
use crate::model::{Reading, Time};

impl Store {
    /// The latest time ever noted.
    pub async fn latest_seen(&self) -> Result<Option<Time>, StoreError> {
        self.promptly("read the latest time seen", async {
            let mut connection = self.reader().await?;
            latest_seen(&mut connection).await
        })
        .await
    }

    /// What the clocks said when a time was last noted.
    pub async fn last_reading(&self) -> Result<Option<Reading>, StoreError> {
        self.promptly("read what the clocks said", async {
            let query =
                sqlx::query("SELECT wall, boot, elapsed_ns FROM clock WHERE id = 1 AND boot IS NOT NULL");
            let row = query.fetch_optional(&mut *self.reader().await?).await?;
            row.map(|row| reading(&row)).transpose()
        })
        .await
    }

    /// Notes a time, beside what the clocks say, and returns the latest one noted; an earlier one does not replace it.
    pub async fn note_time(&self, now: Time, clocks: &Reading) -> Result<Time, StoreError> {
        self.promptly("note the time", async {
            let mut transaction = self.begin().await?;
            let latest = latest_seen(&mut transaction).await?.map_or(now, |seen| seen.max(now));
            // Compared as times: beyond the year 9999 texts do not sort.
            sqlx::query(
                "INSERT INTO clock (id, latest_seen, wall, boot, elapsed_ns) VALUES (1, ?1, ?2, ?3, ?4)
                 ON CONFLICT (id) DO UPDATE SET latest_seen = ?1, wall = ?2, boot = ?3, elapsed_ns = ?4",
            )
            .bind(text::from_time(latest))
            .bind(text::from_time(clocks.wall))
            .bind(&*clocks.boot)
            .bind(i64::try_from(clocks.elapsed.as_nanos()).unwrap_or(i64::MAX))
            .execute(&mut *transaction)
            .await?;
            self.sync(transaction, now).await?;
            Ok(latest)
        })
        .await
    }
}

async fn latest_seen(connection: &mut SqliteConnection) -> Result<Option<Time>, Fault> {
    let row = sqlx::query("SELECT latest_seen FROM clock WHERE id = 1").fetch_optional(connection).await?;
    row.map(|row| text::to_time(&row.try_get::<String, _>("latest_seen")?)).transpose()
}

fn reading(row: &SqliteRow) -> Result<Reading, Fault> {
    let elapsed = u64::try_from(row.try_get::<i64, _>("elapsed_ns")?).unwrap_or_default();
    Ok(Reading {
        wall: text::to_time(&row.try_get::<String, _>("wall")?)?,
        boot: row.try_get::<String, _>("boot")?.into(),
        elapsed: Duration::from_nanos(elapsed),
    })
}
