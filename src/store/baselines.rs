//! What the kernel's counters said when they were last read: with it, a daemon that starts again counts on and neither
//! forgets nor repeats a packet.

use serde_json::{Value, json};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use super::error::Fault;
use super::{Store, StoreError, text};

/// The value of one kernel counter when it was last read.
///
/// A counter is known by its set and key for as long as the table lives. Whoever loads the table anew, or boots, has
/// to forget the old values: a counter that restarted and passed its old value cannot be told from one that went on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Baseline {
    pub set: String,
    pub key: Vec<u8>,
    /// Zero: the counter is gone, or starts again.
    pub packets: u64,
}

impl Store {
    /// Every baseline, sorted by set and key.
    pub async fn load_baselines(&self) -> Result<Vec<Baseline>, StoreError> {
        self.in_bulk("read the counters last seen", async {
            let mut connection = self.reader().await?;
            let rows = sqlx::query("SELECT set_name, key, packets FROM counters ORDER BY set_name, key")
                .fetch_all(&mut *connection)
                .await?;
            rows.iter().map(baseline).collect()
        })
        .await
    }

    /// Forgets every baseline: the kernel's counters began anew.
    pub async fn clear_baselines(&self) -> Result<(), StoreError> {
        self.promptly("forget the counters last seen", async {
            let mut transaction = self.begin().await?;
            sqlx::query("DELETE FROM counters").execute(&mut *transaction).await?;
            transaction.commit().await?;
            Ok(())
        })
        .await
    }
}

/// One statement for all of them: a statement each would cost a turn through the connection's thread each.
pub(super) async fn put(connection: &mut SqliteConnection, baselines: &[Baseline]) -> Result<(), Fault> {
    let rows: Vec<_> = baselines
        .iter()
        .map(|baseline| json!([baseline.set, text::hex(&baseline.key), text::from_count(baseline.packets)]))
        .collect();
    let rows = Value::from(rows).to_string();
    for statement in [PUT, DROP] {
        sqlx::query(statement).bind(&rows).execute(&mut *connection).await?;
    }
    Ok(())
}

const PUT: &str = "INSERT INTO counters (set_name, key, packets)
    SELECT value ->> 0, unhex(value ->> 1), value ->> 2 FROM json_each(?) WHERE value ->> 2 > 0
    ON CONFLICT (set_name, key) DO UPDATE SET packets = excluded.packets";

const DROP: &str = "DELETE FROM counters WHERE (set_name, key) IN
    (SELECT value ->> 0, unhex(value ->> 1) FROM json_each(?) WHERE value ->> 2 = 0)";

fn baseline(row: &SqliteRow) -> Result<Baseline, Fault> {
    Ok(Baseline {
        set: row.try_get("set_name")?,
        key: row.try_get("key")?,
        packets: text::to_count(row.try_get("packets")?)?,
    })
}
