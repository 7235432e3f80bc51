//! Removes what is older than attempts are kept, in steps that a decision hardly waits for.
//!
//! Freed pages are used again by later rows, so the file does not grow beyond what it once held; it does not shrink.
//! `auto_vacuum` was rejected: it takes effect for new files only, moves pages in every step, and doubles what a step writes.

use super::{Store, StoreError, text};
use crate::model::Time;

/// How many rows go in one step: about ten milliseconds of the writer.
const STEP: u32 = 500;

impl Store {
    /// Removes some of the rows that were last seen before a time, and of the hours that ended before it. Returns how
    /// many: zero when there are none left. Sums for ever stay.
    ///
    /// Each call is a short transaction: pause between them, so that others write meanwhile.
    pub async fn forget_attempts(&self, before: Time) -> Result<u64, StoreError> {
        self.in_bulk("remove old attempts", async {
            let before = text::from_time(before);
            let mut transaction = self.begin().await?;
            let mut gone = 0;
            for statement in [ROWS, HOURS] {
                let done = sqlx::query(statement).bind(&before).bind(STEP).execute(&mut *transaction).await?;
                gone += done.rows_affected();
            }
            transaction.commit().await?;
            Ok(gone)
        })
        .await
    }
}

const ROWS: &str = "DELETE FROM attempts WHERE identity IN
    (SELECT identity FROM attempts WHERE last_seen < ?1 ORDER BY last_seen LIMIT ?2)";

/// An hour that began before `before` less an hour has ended.
const HOURS: &str = "DELETE FROM attempt_hours WHERE (service, hour, direction, reason, remote) IN
    (SELECT service, hour, direction, reason, remote FROM attempt_hours
     WHERE hour < strftime('%Y-%m-%dT%H:%M:%S', ?1, '-1 hour') ORDER BY hour LIMIT ?2)";
