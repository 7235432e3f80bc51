//! Much at once, and somebody who stands in the way: what is bounded, and that no decision waits.

use std::fs::{self, File};
use std::sync::Arc;
use std::time::{Duration, Instant};

use picoseg::model::{Direction, Reason};
use picoseg::store::{AttemptFilter, AttemptKey, Change, LOG_MOST, StoreError, Verdict};

use super::*;

fn from(number: u32) -> AttemptKey {
    AttemptKey {
        service: Some(name("stripe")),
        provider: Some("Stripe, Inc.".to_owned()),
        policy: None,
        direction: Direction::Ingress,
        reason: Reason::Expired,
        verdict: Verdict::Refused,
        protocol: "tcp".to_owned(),
        remote: std::net::IpAddr::from(std::net::Ipv4Addr::from_bits(number)).into(),
        remote_port: None,
        local: None,
        local_port: Some(443),
        subject: None,
        uid: None,
        also: vec![],
    }
}

fn sources(numbers: std::ops::Range<u32>, count: i64) -> Vec<(AttemptKey, Change)> {
    numbers.map(|number| (from(number), Change { count, ..Change::default() })).collect()
}

/// Rows as they might have come long ago, by SQL.
async fn prepare(store: &Store, rows: u32) {
    let sql = format!(
        "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {rows})
         INSERT INTO attempts (identity, service, provider, direction, reason, verdict, protocol, remote, also, count,
             first_seen, last_seen)
         SELECT randomblob(32), 'service-' || (n % 50), 'Provider', 'ingress', 'expired', 'refused', 'tcp',
             '10.' || (n >> 16) || '.' || (n >> 8 & 255) || '.' || (n & 255), '[]', 1,
             strftime('%Y-%m-%dT%H:%M:%S', 1767225600 + n, 'unixepoch') || '.000000000Z',
             strftime('%Y-%m-%dT%H:%M:%S', 1767225600 + n, 'unixepoch') || '.000000000Z'
         FROM numbers"
    );
    sqlx::raw_sql(&sql).execute(&mut outsider(store).await).await.unwrap();
}

fn log(store: &Store) -> std::path::PathBuf {
    store.path().with_extension("db-wal")
}

#[tokio::test]
async fn ten_million_packets_are_few_rows() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).await.unwrap();
    let size = || fs::metadata(store.path()).unwrap().len() + fs::metadata(log(&store)).unwrap().len();
    store.add_counts(&sources(0..10, 1), &[], at(0)).await.unwrap();
    let before = size();
    for second in 1..100 {
        store.add_counts(&sources(0..10, 10_101), &[], at(second)).await.unwrap();
    }
    let found = store.attempts(&AttemptFilter::default()).await.unwrap();
    assert_eq!((found.rows.len(), store.attempts_total().await), (10, Ok(10 + 99 * 10 * 10_101)));
    assert!(size() < before + (8 << 20), "{before} grew to {}", size());
}

#[tokio::test]
async fn space_of_attempts_that_went_is_used_again() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).await.unwrap();
    let mut sizes = Vec::new();
    for round in 0..4 {
        prepare(&store, 20_000).await;
        while store.forget_attempts(at(1_000_000 + round), 500).await.unwrap() > 0 {}
        // Folds the log into the database.
        store.reopen().await.unwrap();
        sizes.push(fs::metadata(store.path()).unwrap().len());
    }
    assert!(sizes[3] < sizes[0] + sizes[0] / 5, "{sizes:?}");
}

#[tokio::test]
async fn old_attempts_go_in_steps_between_which_decisions_are_recorded() {
    let root = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(root.path()).await.unwrap());
    prepare(&store, 60_000).await;
    let removing = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            let mut steps = Vec::new();
            loop {
                match store.forget_attempts(at(1_000_000), 500).await.unwrap() {
                    0 => return steps,
                    step => steps.push(step),
                }
            }
        }
    });
    let mut waits = Vec::new();
    while !removing.is_finished() {
        let began = Instant::now();
        store.append(&[entry(1, None)]).await.unwrap();
        waits.push(began.elapsed());
    }
    let steps = removing.await.unwrap();
    assert_eq!(steps.iter().sum::<u64>(), 60_000);
    assert!(steps.iter().all(|step| *step <= 500), "{steps:?}");
    // One step stands between two decisions, never all of them.
    assert!(waits.len() >= steps.len() / 2, "{} decisions in {} steps", waits.len(), steps.len());
    waits.sort();
    println!("a decision waits {:?}, at most {:?}", waits[waits.len() / 2], waits[waits.len() - 1]);
    assert!(waits[waits.len() / 2] < Duration::from_millis(200), "{:?}", waits[waits.len() / 2]);
}

#[tokio::test]
async fn behind_a_reader_that_stalls_attempts_wait_and_decisions_do_not() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).await.unwrap();
    let mut reader = outsider(&store).await;
    for sql in ["BEGIN", "SELECT count(*) FROM ledger"] {
        sqlx::query(sql).execute(&mut reader).await.unwrap();
    }
    store.add_counts(&sources(0..9_000, 1), &[], at(1)).await.unwrap();
    assert_eq!(store.log_held(), None);
    // As after hours of it.
    File::options().write(true).open(log(&store)).unwrap().set_len(LOG_MOST + 1).unwrap();
    let error = store.add_counts(&sources(0..10, 1), &[], at(2)).await.unwrap_err();
    assert!(matches!(error, StoreError::LogHeld { megabytes: 256, .. }), "{error:?}");
    assert!(error.to_string().contains("fuser"), "{error}");
    assert_eq!(store.log_held(), Some(error));
    for second in 0..10 {
        store.append(&[entry(second, None)]).await.unwrap();
    }

    sqlx::query("COMMIT").execute(&mut reader).await.unwrap();
    let began = Instant::now();
    while let Err(error) = store.add_counts(&sources(0..10, 1), &[], at(3)).await {
        assert!(matches!(error, StoreError::LogHeld { .. }), "{error:?}");
        assert!(began.elapsed() < Duration::from_secs(20), "the log does not begin anew: {error}");
    }
    assert!(fs::metadata(log(&store)).unwrap().len() <= 64 << 20, "the log gives its space back");
    assert_eq!(store.attempts_total().await, Ok(9_010));
    assert_eq!(store.verify_ledger().await.unwrap().unwrap().seq, 10);
}

#[tokio::test]
async fn whoever_reads_much_holds_up_neither_a_decision_nor_a_sum() {
    let root = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(root.path()).await.unwrap());
    prepare(&store, 50_000).await;
    // Nothing fits, so that each has to look at every row.
    let filter = AttemptFilter { sources: Some("192.0.2.0/24".parse().unwrap()), ..AttemptFilter::default() };
    let readers: Vec<_> = (0..12)
        .map(|_| {
            let (store, filter) = (Arc::clone(&store), filter.clone());
            tokio::spawn(async move { store.attempts(&filter).await })
        })
        .collect();
    tokio::task::yield_now().await;
    let began = Instant::now();
    store.attempts_total().await.unwrap();
    store.append(&[entry(1, None)]).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(readers.iter().any(|reader| !reader.is_finished()), "they are still reading");
    for reader in readers {
        // Those that had to wait for too long say so.
        match reader.await.unwrap() {
            Ok(found) => assert_eq!(found.rows, []),
            Err(error) => assert!(matches!(error, StoreError::TooSlow { .. }), "{error:?}"),
        }
    }
}
