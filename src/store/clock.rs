//! The latest wall-clock time that was seen, so that a clock that is turned back reopens nothing, also not after a
//! restart.

use sqlx::{Row, SqliteConnection};

use super::error::Fault;
use super::{Store, StoreError, text};
use crate::model::Time;

impl Store {
    /// The latest time ever noted.
    pub async fn latest_seen(&self) -> Result<Option<Time>, StoreError> {
        self.promptly("read the latest time seen", async {
            let mut connection = self.reader().await?;
            latest_seen(&mut connection).await
        })
        .await
    }

    /// Notes a time and returns the latest one noted; an earlier one changes nothing.
    pub async fn note_time(&self, now: Time) -> Result<Time, StoreError> {
        self.promptly("note the time", async {
            let mut transaction = self.begin().await?;
            let latest = latest_seen(&mut transaction).await?.map_or(now, |seen| seen.max(now));
            // Compared as times: beyond the year 9999 texts do not sort.
            sqlx::query(
                "INSERT INTO clock (id, latest_seen) VALUES (1, ?1)
                 ON CONFLICT (id) DO UPDATE SET latest_seen = ?1",
            )
            .bind(text::from_time(latest))
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
