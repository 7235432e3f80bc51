//! What is asked of a store with many rows of attempts, and how long a decision waits while they go.
//!
//! ```console
//! $ cargo bench --bench attempts
//! $ PICOSEG_ROWS=1000000 PICOSEG_STATE=/var/tmp/store cargo bench --bench attempts
//! ```
//!
//! Ten million rows take five gigabytes and some minutes to prepare, by SQL; `PICOSEG_STATE` names a directory that
//! keeps them for another run. The product itself stops at a million rows.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use picoseg::model::{Direction, Reason, ServiceName};
use picoseg::store::{
    AttemptFilter, AttemptKey, Change, Entry, FIRST_STEP, LedgerKind, Store, StoreError, Verdict, next_step,
};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, SqliteConnection};

const SERVICES: u64 = 50;

/// Rows per second of the time that they span.
const RATE: u64 = 10;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let number = |name: &str, default| std::env::var(name).map_or(Ok(default), |text| text.parse());
    let rows: u64 = number("PICOSEG_ROWS", 10_000_000)?;
    let kept = std::env::var_os("PICOSEG_STATE");
    let temporary = tempfile::tempdir()?;
    let directory = kept.as_ref().map_or(temporary.path(), Path::new);
    let store = Arc::new(Store::open(directory).await?);
    if store.attempts(&AttemptFilter::default()).await?.rows.is_empty() {
        let began = Instant::now();
        prepare(&store, rows).await?;
        println!("prepared {rows} rows in {:.0?}", began.elapsed());
        store.reopen().await?;
    }
    println!("{:.2} GB", std::fs::metadata(store.path())?.len() as f64 / 1e9);
    ask(&store, rows).await?;
    write(&store).await?;
    forget(&store).await
}

fn at(second: u64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::days(20_454) + TimeDelta::seconds(second.cast_signed())
}

fn name(number: u64) -> ServiceName {
    ServiceName::new(&format!("service-{number}")).expect("a name")
}

/// Identities in order, since that is quick; times at random, as in a store that grew.
async fn prepare(store: &Store, rows: u64) -> Result<(), sqlx::Error> {
    let mut connection: SqliteConnection =
        SqliteConnectOptions::new().filename(store.path()).disable_statement_logging().connect().await?;
    let start = at(0).timestamp();
    let load = format!(
        "PRAGMA synchronous = OFF; PRAGMA cache_size = -400000; PRAGMA wal_autocheckpoint = 100000;
         DROP TRIGGER attempts_come; DROP TRIGGER attempts_name_providers;
         DROP INDEX attempts_service; DROP INDEX attempts_last_seen; DROP INDEX attempts_changed; DROP INDEX attempts_remote;
         WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < {rows} - 1),
             mixed (n, t) AS (SELECT n, {start} + (n * 7919 % {rows}) / {RATE} FROM numbers)
         INSERT INTO attempts (identity, service, provider, policy, direction, reason, verdict, protocol, remote, local,
             local_port, also, count, first_seen, last_seen, changed)
         SELECT unhex(printf('%016x', n) || hex(randomblob(24))), 'service-' || (n % {SERVICES}), 'Provider ' || (n % {SERVICES}),
             'service-' || (n % {SERVICES}) || '/ingress/0', 'ingress', 'expired', 'refused', 'tcp',
             (1 + (n >> 24)) || '.' || (n >> 16 & 255) || '.' || (n >> 8 & 255) || '.' || (n & 255), '192.0.2.1', 443, '[]',
             1 + n % 7, strftime('%Y-%m-%dT%H:%M:%S', t, 'unixepoch') || '.000000000Z',
             strftime('%Y-%m-%dT%H:%M:%S', t, 'unixepoch') || '.000000000Z', n + 1 FROM mixed;
         CREATE INDEX attempts_service ON attempts (service, last_seen);
         CREATE INDEX attempts_last_seen ON attempts (last_seen);
         CREATE INDEX attempts_changed ON attempts (changed);
         CREATE INDEX attempts_remote ON attempts (remote);
         INSERT INTO attempt_rows (service, number) SELECT service, count(*) FROM attempts GROUP BY service;
         INSERT INTO attempt_providers (provider, service) SELECT DISTINCT provider, service FROM attempts;
         UPDATE attempt_changes SET latest = {rows};
         CREATE TRIGGER attempts_come AFTER INSERT ON attempts
         BEGIN
             INSERT INTO attempt_rows (service, number) VALUES (coalesce(new.service, ''), 1)
             ON CONFLICT (service) DO UPDATE SET number = number + 1;
         END;"
    );
    sqlx::raw_sql(&load).execute(&mut connection).await?;
    connection.close().await
}

async fn ask(store: &Store, rows: u64) -> Result<(), StoreError> {
    let all = AttemptFilter { limit: Some(100), ..AttemptFilter::default() };
    let span = rows / RATE;
    let of = |service| AttemptFilter { service: Some(name(service)), ..all.clone() };
    let sources = |text: &str| AttemptFilter { sources: text.parse().ok(), ..all.clone() };
    let questions = [
        ("the latest 100", all.clone()),
        ("the latest 10,000", AttemptFilter { limit: Some(10_000), ..all.clone() }),
        (
            "a service since an hour",
            AttemptFilter { since: Some(at(span.saturating_sub(3_600))), limit: Some(10_000), ..of(7) },
        ),
        ("a service, the latest 10,000", AttemptFilter { limit: Some(10_000), ..of(7) }),
        ("a service and a reason", AttemptFilter { reason: Some(Reason::Expired), ..of(7) }),
        ("a service and a reason that it has not", AttemptFilter { reason: Some(Reason::Closed), ..of(7) }),
        ("a source", sources("1.2.3.4")),
        ("a prefix", sources("1.2.0.0/16")),
        ("a provider", AttemptFilter { provider: Some("provider 7".to_owned()), ..all.clone() }),
        ("what changed last", AttemptFilter { after: Some(rows - 50), ..all.clone() }),
    ];
    for (what, filter) in questions {
        for round in ["first", "again"] {
            let began = Instant::now();
            let found = store.attempts(&filter).await;
            let found =
                found.map_or_else(|error| error.to_string(), |found| format!("{} rows", found.rows.len()));
            println!("{what} ({round}): {:.1?}, {found}", began.elapsed());
        }
    }
    let began = Instant::now();
    store.attempt_totals().await?;
    println!("the sums for ever: {:.1?}", began.elapsed());
    let began = Instant::now();
    let later = store.later_attempts(&name(7), at(span.saturating_sub(86_400))).await;
    println!("the later attempts of a day: {:.1?}, {:?}", began.elapsed(), later.map(|later| later.further));
    Ok(())
}

/// Ten thousand rows that are there already, each on a page of its own.
async fn write(store: &Store) -> Result<(), StoreError> {
    let found =
        store.attempts(&AttemptFilter { limit: Some(10_000), ..AttemptFilter::default() }).await?.rows;
    let changes: Vec<_> =
        found.into_iter().map(|row| (row.key, Change { count: 1, ..Change::default() })).collect();
    for _ in 0..3 {
        let began = Instant::now();
        store.add_counts(&changes, &[], Utc::now()).await?;
        let log = std::fs::metadata(store.path().with_extension("db-wal")).map_or(0, |log| log.len());
        println!("{} new rows or growths: {:.1?}, log {} MiB", changes.len(), began.elapsed(), log >> 20);
    }
    let few: Vec<_> = (0..10)
        .map(|port| {
            (AttemptKey { local_port: Some(port), ..key() }, Change { count: 1_000_000, ..Change::default() })
        })
        .collect();
    let began = Instant::now();
    store.add_counts(&few, &[], Utc::now()).await?;
    println!("ten million packets in ten rows: {:.1?}", began.elapsed());
    Ok(())
}

fn key() -> AttemptKey {
    AttemptKey {
        service: Some(name(1)),
        provider: None,
        policy: None,
        direction: Direction::Ingress,
        reason: Reason::Expired,
        verdict: Verdict::Refused,
        protocol: "tcp".to_owned(),
        remote: std::net::IpAddr::from([192, 0, 2, 1]).into(),
        remote_port: None,
        local: None,
        local_port: None,
        subject: None,
        uid: None,
        also: vec![],
    }
}

/// Everything is old: for some seconds it goes, at the pace of the daemon, while decisions are recorded.
async fn forget(store: &Arc<Store>) -> Result<(), Box<dyn std::error::Error>> {
    let entry = || Entry {
        at: Utc::now(),
        kind: LedgerKind::WindowOpened,
        service: None,
        actor: "bench".to_owned(),
        detail: serde_json::json!({}),
    };
    let removing = tokio::spawn({
        let store = Arc::clone(store);
        async move {
            let (mut gone, mut steps, mut most) = (0, Vec::new(), FIRST_STEP);
            while steps.len() < 300 {
                let began = Instant::now();
                gone += store.forget_attempts(Utc::now(), most).await?;
                steps.push(began.elapsed());
                most = next_step(most, began.elapsed());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Ok::<_, StoreError>((gone, steps))
        }
    });
    let mut waits = Vec::new();
    while !removing.is_finished() {
        let began = Instant::now();
        store.append(&[entry()]).await?;
        waits.push(began.elapsed());
        tokio::time::sleep(Duration::from_millis(7)).await;
    }
    let (gone, mut steps) = removing.await??;
    println!("{gone} old rows went in {} steps: {}", steps.len(), spread(&mut steps));
    println!("{} decisions meanwhile: {}", waits.len(), spread(&mut waits));
    Ok(())
}

fn spread(times: &mut [Duration]) -> String {
    times.sort();
    let last = times.len().saturating_sub(1);
    let part =
        |percent: usize| times.get((times.len() * percent / 100).min(last)).copied().unwrap_or_default();
    format!("half within {:.1?}, 99 % within {:.1?}, all within {:.1?}", part(50), part(99), part(100))
}
