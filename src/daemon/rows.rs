//! Rows of attempts for the API: read beside the loop.

use serde_json::Value;
use tokio::sync::Semaphore;

use super::answer::{done, failure};
use crate::api::ask::{Answer, Outcome};
use crate::api::body::{self, SCHEMA};
use crate::store::{Attempt, AttemptFilter, Attempts, Store};

/// Answers of ten thousand rows have tens of megabytes on their way: few at once.
static AT_ONCE: Semaphore = Semaphore::const_new(2);

/// Answers which rows fit.
pub async fn answer(store: &Store, filter: &AttemptFilter) -> Answer {
    // Nobody closes it.
    let _turn = AT_ONCE.acquire().await;
    let found = match store.attempts(filter).await {
        Ok(found) => found,
        Err(error) => return failure(Outcome::Failed, &error.to_string()),
    };
    let Attempts { rows, truncated, next } = found;
    let mut answer = done(&body::Attempts { schema: SCHEMA, attempts: vec![], truncated, next });
    // Row by row: each goes when its JSON comes.
    let rows = rows.into_iter().map(|row| serde_json::to_value(attempt(row)));
    match rows.collect() {
        Ok(rows) => answer.body["attempts"] = Value::Array(rows),
        Err(error) => return failure(Outcome::Failed, &error.to_string()),
    }
    answer
}

/// A row in the words of the API.
pub fn attempt(row: Attempt) -> body::Attempt {
    let key = row.key;
    body::Attempt {
        service: key.service.map(|name| name.to_string()),
        provider: key.provider,
        policy: key.policy,
        direction: key.direction.to_string(),
        reason: key.reason.to_string(),
        verdict: key.verdict.as_str().to_owned(),
        protocol: key.protocol,
        remote: key.remote.to_string(),
        remote_port: key.remote_port,
        local: key.local,
        local_port: key.local_port,
        subject: key.subject,
        uid: key.uid,
        pid: row.process.pid,
        exe: row.process.exe,
        also: key.also.iter().map(ToString::to_string).collect(),
        count: row.count,
        first_seen: row.first_seen,
        last_seen: row.last_seen,
    }
}
