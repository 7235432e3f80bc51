//! Rows of attempts for the API: read beside the loop.

use super::answer::{done, failure};
use crate::api::ask::{Answer, Outcome};
use crate::api::body::{self, SCHEMA};
use crate::store::{Attempt, AttemptFilter, Store};

/// Answers which rows fit.
pub async fn answer(store: &Store, filter: &AttemptFilter) -> Answer {
    match store.attempts(filter).await {
        Ok(found) => done(&body::Attempts {
            schema: SCHEMA,
            attempts: found.rows.into_iter().map(attempt).collect(),
            truncated: found.truncated,
            next: found.next,
        }),
        Err(error) => failure(Outcome::Failed, &error.to_string()),
    }
}

fn attempt(row: Attempt) -> body::Attempt {
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
