//! Writing changes of attempts: the rows themselves, in few statements whatever their number.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};
use sqlx::{Row, SqliteConnection};

use super::attempt_cap::{self, LIMITS, OnRecord, Room};
use super::attempt_row;
use super::attempts::{AttemptKey, Change};
use super::error::Fault;
use crate::model::Time;

/// Changes of one turn through the database: what is bound at once stays at some megabytes.
const CHUNK: usize = 4_096;

/// Adds changes to rows, as far as there may be further ones. A row that comes down to zero goes.
pub(super) async fn add(
    connection: &mut SqliteConnection,
    changes: &[(AttemptKey, Change)],
    at: Time,
) -> Result<(), Fault> {
    let mut room = room(connection).await?;
    let mut folded = BTreeMap::new();
    for chunk in changes.chunks(CHUNK) {
        let known = known(connection, chunk).await?;
        let own = attempt_cap::fold(chunk, &known, &mut room, LIMITS, &mut folded);
        write(connection, &own, at).await?;
    }
    let folded: Vec<_> = folded.into_iter().collect();
    for chunk in folded.chunks(CHUNK) {
        write(connection, chunk, at).await?;
    }
    Ok(())
}

async fn room(connection: &mut SqliteConnection) -> Result<Room, Fault> {
    let rows = sqlx::query("SELECT service, number FROM attempt_rows").fetch_all(connection).await?;
    let number = |row: &sqlx::sqlite::SqliteRow| {
        let number: i64 = row.try_get("number")?;
        Ok((row.try_get("service")?, u64::try_from(number).unwrap_or(0)))
    };
    Ok(Room::new(rows.iter().map(number).collect::<Result<_, sqlx::Error>>()?))
}

/// What the rows of changes have on record, by the places of the changes.
async fn known(
    connection: &mut SqliteConnection,
    changes: &[(AttemptKey, Change)],
) -> Result<HashMap<usize, OnRecord>, Fault> {
    let identities: Vec<Value> = changes.iter().map(|(key, _)| attempt_row::identity(key).into()).collect();
    let rows = sqlx::query(KNOWN).bind(Value::from(identities).to_string()).fetch_all(connection).await?;
    let on_record = |row: &sqlx::sqlite::SqliteRow| {
        let place: i64 = row.try_get("place")?;
        let on_record = OnRecord { count: row.try_get("count")?, at_close: row.try_get("at_close")? };
        Ok((usize::try_from(place).unwrap_or(usize::MAX), on_record))
    };
    Ok(rows.iter().map(on_record).collect::<Result<_, sqlx::Error>>()?)
}

const KNOWN: &str = "SELECT change.key AS place, count, at_close FROM json_each(?) AS change
    CROSS JOIN attempts ON identity = unhex(change.value)";

/// One statement for all rows: a statement each would cost a turn through the connection's thread each.
async fn write(
    connection: &mut SqliteConnection,
    changes: &[(AttemptKey, Change)],
    at: Time,
) -> Result<(), Fault> {
    let (growing, others): (Vec<_>, Vec<_>) = changes.iter().partition(|(_, change)| is_growing(change));
    let latest = latest(connection, changes.len()).await?;
    if !growing.is_empty() {
        sqlx::query(GROW).bind(rows(&growing, at)).bind(latest).execute(&mut *connection).await?;
    }
    if !others.is_empty() {
        let rows = rows(&others, at);
        sqlx::query(BEGIN).bind(&rows).execute(&mut *connection).await?;
        let latest = latest + count(growing.len());
        sqlx::query(CHANGE).bind(&rows).bind(latest).execute(&mut *connection).await?;
        sqlx::query(CLEAR).bind(&rows).execute(&mut *connection).await?;
    }
    Ok(())
}

fn is_growing(change: &Change) -> bool {
    change.count > 0 && change.at_close >= 0
}

fn count(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

fn rows(changes: &[&(AttemptKey, Change)], at: Time) -> String {
    let rows = changes.iter().map(|(key, change)| attempt_row::change(key, change, at));
    json!(rows.collect::<Vec<_>>()).to_string()
}

/// Takes numbers for that many changes; returns the last that was given before.
async fn latest(connection: &mut SqliteConnection, changes: usize) -> Result<i64, Fault> {
    let latest: i64 = sqlx::query_scalar(
        "UPDATE attempt_changes SET latest = latest + ?1 WHERE id = 1 RETURNING latest - ?1",
    )
    .bind(count(changes))
    .fetch_one(connection)
    .await?;
    Ok(latest)
}

const GROW: &str = "INSERT INTO attempts (identity, service, provider, policy, direction, reason, verdict, protocol,
        remote, remote_port, local, local_port, subject, uid, also, count, first_seen, last_seen, at_close, pid, exe,
        first_late, changed)
    SELECT unhex(value ->> 0), value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
           value ->> 7, value ->> 8, value ->> 9, value ->> 10, value ->> 11, value ->> 12, value ->> 13,
           value ->> 14, value ->> 15, value ->> 16, value ->> 16, value ->> 17, value ->> 18, value ->> 19,
           CASE WHEN (value ->> 15) > (value ->> 17) THEN value ->> 16 END, ?2 + 1 + key
    FROM json_each(?1) WHERE true
    ON CONFLICT (identity) DO UPDATE SET
        count = count + excluded.count,
        at_close = at_close + excluded.at_close,
        first_late = coalesce(first_late, excluded.first_late),
        pid = coalesce(excluded.pid, pid),
        exe = coalesce(excluded.exe, exe),
        last_seen = max(last_seen, excluded.last_seen),
        changed = excluded.changed";

const BEGIN: &str =
    "INSERT INTO attempts (identity, service, provider, policy, direction, reason, verdict, protocol,
        remote, remote_port, local, local_port, subject, uid, also, count, first_seen, last_seen)
    SELECT unhex(value ->> 0), value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
           value ->> 7, value ->> 8, value ->> 9, value ->> 10, value ->> 11, value ->> 12, value ->> 13,
           value ->> 14, 0, value ->> 16, value ->> 16
    FROM json_each(?) WHERE true ON CONFLICT (identity) DO NOTHING";

const CHANGE: &str = "UPDATE attempts SET
        count = max(0, count + (change.value ->> 15)),
        at_close = max(0, at_close + (change.value ->> 17)),
        first_late = CASE WHEN (change.value ->> 15) > (change.value ->> 17)
            THEN coalesce(first_late, change.value ->> 16) ELSE first_late END,
        pid = coalesce(change.value ->> 18, pid),
        exe = coalesce(change.value ->> 19, exe),
        last_seen = CASE WHEN (change.value ->> 15) > 0 THEN max(last_seen, change.value ->> 16) ELSE last_seen END,
        changed = CASE WHEN (change.value ->> 15) > 0 THEN ?2 + 1 + change.key ELSE changed END
    FROM json_each(?1) AS change WHERE identity = unhex(change.value ->> 0)";

const CLEAR: &str = "DELETE FROM attempts WHERE count = 0 AND identity IN
    (SELECT unhex(value ->> 0) FROM json_each(?))";
