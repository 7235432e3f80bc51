//! Decommissions at which what was still in flight was told apart from what came later.
//!
//! Of one that is not here nobody knows: the daemon was not there, or came too late.

use sqlx::Row;

use super::{Store, StoreError, text};
use crate::model::{Reason, ServiceName, Time};

/// A close, and how many packets were refused in the two seconds after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closing {
    pub service: ServiceName,
    /// What its packets are refused for since.
    pub reason: Reason,
    pub at: Time,
    pub at_close: i64,
}

impl Store {
    /// Puts those on record that are decommissions; the other closes only show in the attempts' rows.
    pub async fn put_closings(&self, closings: &[Closing]) -> Result<(), StoreError> {
        let ends = || closings.iter().filter(|closing| closing.reason == Reason::Expired);
        if ends().next().is_none() {
            return Ok(());
        }
        self.promptly("write what was in flight at a close", async {
            let mut transaction = self.begin().await?;
            for closing in ends() {
                sqlx::query(
                    "INSERT OR REPLACE INTO closings (service, closed_at, at_close) VALUES (?, ?, ?)",
                )
                .bind(closing.service.as_str())
                .bind(text::from_time(closing.at))
                .bind(closing.at_close.max(0))
                .execute(&mut *transaction)
                .await?;
            }
            transaction.commit().await?;
            Ok(())
        })
        .await
    }

    /// How many packets were refused in the two seconds after a decommission; `None` where nobody told them apart.
    pub async fn at_close(&self, service: &ServiceName, closed_at: Time) -> Result<Option<u64>, StoreError> {
        self.in_bulk("read what was in flight at a close", async {
            let mut connection = self.reader().await?;
            let row = sqlx::query("SELECT at_close FROM closings WHERE service = ? AND closed_at = ?")
                .bind(service.as_str())
                .bind(text::from_time(closed_at))
                .fetch_optional(&mut *connection)
                .await?;
            row.map(|row| text::to_count(row.try_get("at_close")?)).transpose()
        })
        .await
    }
}
