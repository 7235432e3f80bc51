//! Whether there is room: on the disk for a store that was full, and in the write-ahead log behind a reader that stalls.
//!
//! SQLite begins the log anew when nobody reads an older state any more. Our own readers end in time; another program's may
//! not (a paused `sqlite3` shell in a transaction). Decisions are small and go on being written then. Attempts are not: they
//! wait, exact, in the kernel's counters, until the log could begin anew.

use std::path::PathBuf;

use super::{Store, StoreError};

/// The largest log that attempts are written to, in bytes: several times the largest single write.
pub const LOG_MOST: u64 = 256 << 20;

/// How much has to be free before a store that was full counts as healed, in bytes.
const ROOM: u32 = 256 << 10;

impl Store {
    /// Why attempts have to wait: somebody reads an old state, and the log grows behind him.
    pub fn log_held(&self) -> Option<StoreError> {
        let mut log = self.path.clone().into_os_string();
        log.push("-wal");
        let bytes = std::fs::metadata(PathBuf::from(log)).ok()?.len();
        (bytes > LOG_MOST).then(|| StoreError::LogHeld { path: self.path.clone(), megabytes: bytes >> 20 })
    }

    /// Insists that the log does not grow without end. Each try gives it the chance to begin anew.
    pub(super) async fn insist_on_log(&self) -> Result<(), StoreError> {
        let Some(held) = self.log_held() else { return Ok(()) };
        self.health().await?;
        Err(held)
    }

    /// Proves that there is some room, by using it.
    pub async fn prove_room(&self) -> Result<(), StoreError> {
        self.promptly("write to the store", async {
            for bytes in [ROOM, 0] {
                let mut transaction = self.begin().await?;
                sqlx::query(FILL).bind(bytes).execute(&mut *transaction).await?;
                transaction.commit().await?;
            }
            Ok(())
        })
        .await
    }
}

const FILL: &str = "UPDATE probe SET room = CASE WHEN ?1 > 0 THEN randomblob(?1) END WHERE id = 1";
