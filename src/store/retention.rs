//! Removes what is older than attempts are kept, in steps that a decision hardly waits for.
//!
//! Freed pages are used again by later rows, so the file does not grow beyond what it once held; it does not shrink.
//! `auto_vacuum` was rejected: it takes effect for new files only, moves pages in every step, and doubles what a step writes.

use std::time::Duration;

use super::{Store, StoreError, text};
use crate::model::Time;

/// How long a step shall take, whatever the disk: so long a decision waits.
const STEP: Duration = Duration::from_millis(20);
/// How many rows go in one step.
pub const FIRST_STEP: u32 = 8;
const MOST: u32 = 512;

impl Store {
    /// Removes so many, at most, of the rows that were last seen before a time, and of the hours that ended before it.
    /// Returns how many of both: zero when there are none left. Sums for ever stay.
    ///
    /// Each call is a transaction, for which others wait: ask for few and pause between.
    pub async fn forget_attempts(&self, before: Time, most: u32) -> Result<u64, StoreError> {
        self.in_bulk("remove old attempts", async {
            let before = text::from_time(before);
            let mut transaction = self.begin().await?;
            let mut gone = 0;
            for statement in [ROWS, HOURS] {
                let done = sqlx::query(statement).bind(&before).bind(most).execute(&mut *transaction).await?;
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

/// How many rows may go in the next step: more where one was quick, fewer where it was slow.
pub fn next_step(most: u32, took: Duration) -> u32 {
    let next = match took {
        took if took > STEP => most / 2,
        took if took < STEP / 2 => most * 2,
        _ => most,
    };
    next.clamp(FIRST_STEP, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_follow_the_disk() {
        let times = [1, 1, 15, 200, 200, 200, 200].map(Duration::from_millis);
        let mut most = FIRST_STEP;
        let steps = times.map(|took| {
            most = next_step(most, took);
            most
        });
        assert_eq!(steps, [16, 32, 32, 16, 8, 8, 8]);
        assert_eq!(next_step(MOST, Duration::ZERO), MOST);
    }
}
