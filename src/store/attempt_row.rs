//! One attempt as a row of its table, and back.

use std::net::IpAddr;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::attempts::{Attempt, AttemptKey, Change, Process, Verdict};
use super::error::Fault;
use super::text;
use crate::model::{Direction, Reason, ServiceName, Source, Time};

/// Identity, columns of the key, change of the count, time, change of `at_close`, process.
pub(super) fn change(key: &AttemptKey, change: &Change, at: Time) -> Value {
    let key = columns(key);
    let mut row = vec![Value::from(identity_of(&key))];
    row.extend(key);
    row.push(change.count.into());
    row.push(text::from_time(at).into());
    row.push(change.at_close.into());
    row.push(json!(change.process.pid));
    row.push(json!(change.process.exe));
    Value::from(row)
}

pub(super) fn identity(key: &AttemptKey) -> String {
    identity_of(&columns(key))
}

fn columns(key: &AttemptKey) -> [Value; 14] {
    let also: Vec<_> = key.also.iter().map(ServiceName::as_str).collect();
    [
        json!(key.service.as_ref().map(ServiceName::as_str)),
        json!(key.provider),
        json!(key.policy),
        json!(key.direction.as_str()),
        json!(key.reason.as_str()),
        json!(key.verdict.as_str()),
        json!(key.protocol),
        json!(key.remote.to_string()),
        json!(key.remote_port),
        json!(key.local),
        json!(key.local_port),
        json!(key.subject),
        json!(key.uid),
        json!(json!(also).to_string()),
    ]
}

/// JSON tells `null` from `"null"` and quotes what it separates: no two keys have the same text.
fn identity_of(columns: &[Value; 14]) -> String {
    text::hex(&Sha256::digest(json!(columns).to_string()))
}

pub(super) fn read(row: &SqliteRow) -> Result<Attempt, Fault> {
    Ok(Attempt {
        key: key(row)?,
        count: text::to_count(row.try_get("count")?)?,
        at_close: text::to_count(row.try_get("at_close")?)?,
        first_late: row
            .try_get::<Option<String>, _>("first_late")?
            .map(|text| text::to_time(&text))
            .transpose()?,
        process: Process { pid: row.try_get("pid")?, exe: row.try_get("exe")? },
        first_seen: text::to_time(&row.try_get::<String, _>("first_seen")?)?,
        last_seen: text::to_time(&row.try_get::<String, _>("last_seen")?)?,
    })
}

fn key(row: &SqliteRow) -> Result<AttemptKey, Fault> {
    Ok(AttemptKey {
        service: service(row)?,
        provider: row.try_get("provider")?,
        policy: row.try_get("policy")?,
        direction: direction(row)?,
        reason: reason(row)?,
        verdict: verdict(row)?,
        protocol: row.try_get("protocol")?,
        remote: remote(row)?,
        remote_port: row.try_get("remote_port")?,
        local: local(row)?,
        local_port: row.try_get("local_port")?,
        subject: row.try_get("subject")?,
        uid: row.try_get("uid")?,
        also: also(row)?,
    })
}

pub(super) fn service(row: &SqliteRow) -> Result<Option<ServiceName>, Fault> {
    let text: Option<String> = row.try_get("service")?;
    text.as_deref().map(text::to_service).transpose()
}

pub(super) fn direction(row: &SqliteRow) -> Result<Direction, Fault> {
    word(row, "direction", |text| Direction::ALL.into_iter().find(|word| word.as_str() == text))
}

pub(super) fn reason(row: &SqliteRow) -> Result<Reason, Fault> {
    word(row, "reason", Reason::parse)
}

pub(super) fn verdict(row: &SqliteRow) -> Result<Verdict, Fault> {
    word(row, "verdict", |text| Verdict::ALL.into_iter().find(|word| word.as_str() == text))
}

pub(super) fn remote(row: &SqliteRow) -> Result<Source, Fault> {
    word(row, "remote", |text| text.parse().ok())
}

fn local(row: &SqliteRow) -> Result<Option<IpAddr>, Fault> {
    let text: Option<String> = row.try_get("local")?;
    text.map(|text| text.parse().map_err(|_| unknown("local", &text))).transpose()
}

fn also(row: &SqliteRow) -> Result<Vec<ServiceName>, Fault> {
    let text: String = row.try_get("also")?;
    let names: Vec<String> = serde_json::from_str(&text).map_err(|_| unknown("also", &text))?;
    names.iter().map(|name| text::to_service(name)).collect()
}

fn word<T>(row: &SqliteRow, column: &str, read: impl Fn(&str) -> Option<T>) -> Result<T, Fault> {
    let text: String = row.try_get(column)?;
    read(&text).ok_or_else(|| unknown(column, &text))
}

fn unknown(column: &str, text: &str) -> Fault {
    Fault::Value(format!("an attempt has {column} {text:?}"))
}
