//! What names have and had.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::error::Fault;
use super::{Store, StoreError, text};
use crate::model::{HostName, Time};
use crate::names::{Held, Left, Name};

const DROP: &str = "DELETE FROM names WHERE name IN (SELECT value FROM json_each(?))";

const PUT: &str = "INSERT INTO names (name, address, since, resolved, learned_until, left_at, kept_until)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6
    FROM json_each(?)";

impl Store {
    /// Every name that was ever written.
    pub async fn load_names(&self) -> Result<BTreeMap<HostName, Name>, StoreError> {
        self.in_bulk("read what names stand for", async {
            let mut connection = self.reader().await?;
            let rows = sqlx::query("SELECT * FROM names").fetch_all(&mut *connection).await?;
            let mut names: BTreeMap<HostName, Name> = BTreeMap::new();
            for row in rows {
                let (name, address, held) = read(&row)?;
                names.entry(name).or_default().addresses.insert(address, held);
            }
            Ok(names)
        })
        .await
    }

    /// Writes these names as they are now, all or none.
    pub async fn put_names(&self, names: &BTreeMap<HostName, Arc<Name>>) -> Result<(), StoreError> {
        let written = Value::from_iter(names.keys().map(HostName::as_str)).to_string();
        let rows = names.iter().flat_map(|(name, known)| {
            known.addresses.iter().map(move |(address, held)| row(name, *address, held))
        });
        let rows = Value::from_iter(rows).to_string();
        self.in_bulk("write what names stand for", async {
            let mut transaction = self.begin().await?;
            sqlx::query(DROP).bind(&written).execute(&mut *transaction).await?;
            sqlx::query(PUT).bind(&rows).execute(&mut *transaction).await?;
            transaction.commit().await?;
            Ok(())
        })
        .await
    }
}

fn row(name: &HostName, address: IpAddr, held: &Held) -> Value {
    let time = |at: Option<Time>| at.map(text::from_time);
    json!([
        name.as_str(),
        address.to_string(),
        text::from_time(held.since),
        i64::from(held.resolved),
        time(held.learned_until),
        time(held.left.map(|left| left.at)),
        time(held.left.and_then(|left| left.kept_until)),
    ])
}

fn read(row: &SqliteRow) -> Result<(HostName, IpAddr, Held), Fault> {
    let name: String = row.try_get("name")?;
    let address: String = row.try_get("address")?;
    let time = |column: &str| -> Result<Option<Time>, Fault> {
        row.try_get::<Option<String>, _>(column)?.as_deref().map(text::to_time).transpose()
    };
    let kept_until = time("kept_until")?;
    let held = Held {
        since: text::to_time(row.try_get("since")?)?,
        resolved: row.try_get("resolved")?,
        learned_until: time("learned_until")?,
        left: time("left_at")?.map(|at| Left { at, kept_until }),
    };
    let name = HostName::new(&name).ok_or_else(|| Fault::Value(format!("{name:?} is no host name")))?;
    let address = address.parse().map_err(|_| Fault::Value(format!("{address:?} is no address")))?;
    Ok((name, address, held))
}
