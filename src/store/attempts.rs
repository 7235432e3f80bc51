//! Attempts: refused packets and observed flows, aggregated by everything but their times.
//!
//! Counts are absolute and belong to the caller, who knows the kernel's counters: writing the same row twice changes
//! nothing. They are written together with the counters they come from ([`Store::put_counts`]), so that a crash
//! between the two neither loses nor repeats a packet.

use serde_json::Value;
use sqlx::SqliteConnection;
use std::net::IpAddr;

use super::baselines::{self, Baseline};
use super::error::Fault;
use super::{Store, StoreError, attempt_row, attempt_totals, text};
use crate::model::{Direction, Reason, ServiceName, Source, Time};

/// What became of the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    Refused,
    /// It passed, since the mode is to observe.
    Observed,
}

impl Verdict {
    pub const ALL: [Self; 2] = [Self::Refused, Self::Observed];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Observed => "observed",
        }
    }
}

/// What attempts have in common that are counted in one row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptKey {
    /// `None` where a segment refused.
    pub service: Option<ServiceName>,
    pub provider: Option<String>,
    /// `NAME/egress/0`, or `segment/NAME`.
    pub policy: Option<String>,
    pub direction: Direction,
    pub reason: Reason,
    pub verdict: Verdict,
    /// `tcp`, `udp`, `icmp`, or what the packet was else.
    pub protocol: String,
    pub remote: Source,
    pub remote_port: Option<u16>,
    pub local: Option<IpAddr>,
    pub local_port: Option<u16>,
    pub subject: Option<String>,
    pub uid: Option<u32>,
    /// The other services that list the address, sorted.
    pub also: Vec<ServiceName>,
}

/// One row: how many, and from when to when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub key: AttemptKey,
    /// Zero removes the row.
    pub count: u64,
    /// How many of them came in the moments after a close, when what was in flight still arrives.
    pub at_close: u64,
    pub first_seen: Time,
    pub last_seen: Time,
    /// When the first came that is not one of those at a close.
    pub first_late: Option<Time>,
    /// The process that was seen last.
    pub process: Process,
}

/// A process as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Process {
    pub pid: Option<u32>,
    pub exe: Option<String>,
}

/// By how much a row counts further.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Change {
    /// Signed: what turns out to belong to another row goes from this one.
    pub count: i64,
    /// How much of it came in the moments after a close.
    pub at_close: i64,
    /// What is not known leaves what is on record.
    pub process: Process,
}

impl Change {
    /// Takes in a later change of the same row.
    pub fn add(&mut self, later: Self) {
        self.count += later.count;
        self.at_close += later.at_close;
        let Process { pid, exe } = later.process;
        self.process = Process { pid: pid.or(self.process.pid), exe: exe.or(self.process.exe.take()) };
    }
}

/// Which attempts to read; the default is all of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AttemptFilter {
    pub service: Option<ServiceName>,
    /// Last seen at this time or later.
    pub since: Option<Time>,
}

impl Store {
    /// Writes rows, all or none: `count` as given, the earliest `first_seen`, the latest `last_seen`.
    pub async fn put_attempts(&self, attempts: &[Attempt]) -> Result<(), StoreError> {
        self.put_counts(attempts, &[]).await
    }

    /// Writes attempts and the counters they come from in one transaction.
    ///
    /// Decisions wait for it: give what changed since the last call, ten thousand rows at most (some tenths
    /// of a second).
    pub async fn put_counts(&self, attempts: &[Attempt], baselines: &[Baseline]) -> Result<(), StoreError> {
        self.in_bulk("write the attempts", async {
            let mut transaction = self.begin().await?;
            put(&mut transaction, attempts).await?;
            baselines::put(&mut transaction, baselines).await?;
            transaction.commit().await?;
            Ok(())
        })
        .await
    }

    /// Adds changes to the counts of rows, and writes the counters they come from, in one transaction: a crash neither
    /// loses nor repeats a packet. A row that comes down to zero goes.
    pub async fn add_counts(
        &self,
        changes: &[(AttemptKey, Change)],
        baselines: &[Baseline],
        at: Time,
    ) -> Result<(), StoreError> {
        self.in_bulk("write the attempts", async {
            let mut transaction = self.begin().await?;
            add(&mut transaction, changes, at).await?;
            attempt_totals::add(&mut transaction, changes).await?;
            baselines::put(&mut transaction, baselines).await?;
            transaction.commit().await?;
            Ok(())
        })
        .await
    }

    /// The rows that fit, the latest first.
    pub async fn attempts(&self, filter: &AttemptFilter) -> Result<Vec<Attempt>, StoreError> {
        self.in_bulk("read the attempts", async {
            let mut connection = self.reader().await?;
            select(&mut connection, filter).await
        })
        .await
    }

    /// Removes the rows that were last seen before a time, and returns how many.
    pub async fn forget_attempts(&self, before: Time) -> Result<u64, StoreError> {
        self.in_bulk("remove old attempts", async {
            let mut transaction = self.begin().await?;
            let done = sqlx::query("DELETE FROM attempts WHERE last_seen < ?")
                .bind(text::from_time(before))
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await?;
            Ok(done.rows_affected())
        })
        .await
    }
}

/// One statement for all rows: a statement each would cost a turn through the connection's thread each.
async fn put(connection: &mut SqliteConnection, attempts: &[Attempt]) -> Result<(), Fault> {
    let rows: Vec<Value> = attempts.iter().map(attempt_row::write).collect();
    let rows = Value::from(rows).to_string();
    for statement in [PUT, DROP] {
        sqlx::query(statement).bind(&rows).execute(&mut *connection).await?;
    }
    Ok(())
}

const PUT: &str = "INSERT INTO attempts (identity, service, provider, policy, direction, reason, verdict, protocol,
        remote, remote_port, local, local_port, subject, uid, also, count, first_seen, last_seen, at_close, first_late,
        pid, exe)
    SELECT unhex(value ->> 0), value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
           value ->> 7, value ->> 8, value ->> 9, value ->> 10, value ->> 11, value ->> 12, value ->> 13,
           value ->> 14, value ->> 15, value ->> 16, value ->> 17, value ->> 18, value ->> 19, value ->> 20, value ->> 21
    FROM json_each(?) WHERE value ->> 15 > 0
    ON CONFLICT (identity) DO UPDATE SET
        count = excluded.count,
        at_close = excluded.at_close,
        first_late = min(coalesce(first_late, excluded.first_late), excluded.first_late),
        pid = coalesce(excluded.pid, pid),
        exe = coalesce(excluded.exe, exe),
        first_seen = min(first_seen, excluded.first_seen),
        last_seen = max(last_seen, excluded.last_seen)";

const DROP: &str = "DELETE FROM attempts WHERE identity IN
    (SELECT unhex(value ->> 0) FROM json_each(?) WHERE value ->> 15 = 0)";

async fn add(
    connection: &mut SqliteConnection,
    changes: &[(AttemptKey, Change)],
    at: Time,
) -> Result<(), Fault> {
    let rows: Vec<Value> = changes.iter().map(|(key, by)| attempt_row::change(key, by, at)).collect();
    let rows = Value::from(rows).to_string();
    for statement in [BEGIN, ADD, CLEAR] {
        sqlx::query(statement).bind(&rows).execute(&mut *connection).await?;
    }
    Ok(())
}

const BEGIN: &str =
    "INSERT INTO attempts (identity, service, provider, policy, direction, reason, verdict, protocol,
        remote, remote_port, local, local_port, subject, uid, also, count, first_seen, last_seen)
    SELECT unhex(value ->> 0), value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
           value ->> 7, value ->> 8, value ->> 9, value ->> 10, value ->> 11, value ->> 12, value ->> 13,
           value ->> 14, 0, value ->> 16, value ->> 17
    FROM json_each(?) WHERE true ON CONFLICT (identity) DO NOTHING";

const ADD: &str = "UPDATE attempts SET
        count = max(0, count + (change.value ->> 15)),
        at_close = max(0, at_close + (change.value ->> 18)),
        first_late = CASE WHEN (change.value ->> 15) > (change.value ->> 18)
            THEN coalesce(first_late, change.value ->> 17) ELSE first_late END,
        pid = coalesce(change.value ->> 19, pid),
        exe = coalesce(change.value ->> 20, exe),
        last_seen = CASE WHEN (change.value ->> 15) > 0 THEN max(last_seen, change.value ->> 17) ELSE last_seen END
    FROM json_each(?) AS change WHERE identity = unhex(change.value ->> 0)";

const CLEAR: &str = "DELETE FROM attempts WHERE count = 0 AND identity IN
    (SELECT unhex(value ->> 0) FROM json_each(?))";

async fn select(connection: &mut SqliteConnection, filter: &AttemptFilter) -> Result<Vec<Attempt>, Fault> {
    let rows = sqlx::query(
        "SELECT * FROM attempts WHERE (?1 IS NULL OR service = ?1) AND (?2 IS NULL OR last_seen >= ?2)
         ORDER BY last_seen DESC, identity",
    )
    .bind(filter.service.as_ref().map(ServiceName::as_str))
    .bind(filter.since.map(text::from_time))
    .fetch_all(connection)
    .await?;
    rows.iter().map(attempt_row::read).collect()
}
