//! What the store keeps.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use picoseg::model::Reading;
use picoseg::store::chain::{Problem, verify};
use picoseg::store::{FirstBad, Head, LedgerFilter, Opened};
use proptest::prelude::*;

use super::*;

#[tokio::test]
async fn a_store_begins_empty_and_for_root_only() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("a/b");
    let store = Store::open(&directory).await.unwrap();
    assert_eq!(store.health().await, Ok(()));
    assert_eq!(store.head().await, Ok(Head::default()));
    assert_eq!(store.verify_ledger().await, Ok(Ok(Head::default())));
    assert_eq!(store.attempts_total().await, Ok(0));
    assert_eq!(store.load_records().await, Ok([].into()));
    assert_eq!(store.latest_seen().await, Ok(None));
    assert_eq!(store.load_baselines().await, Ok(vec![]));
    let mode = |name: &str| {
        let metadata = std::fs::metadata(directory.join(name)).unwrap();
        metadata.permissions().mode() & 0o777
    };
    assert_eq!([mode("."), mode("picoseg.db"), mode("picoseg.db-wal")], [0o700, 0o600, 0o600]);
}

#[tokio::test]
async fn a_file_that_others_could_read_is_taken_away_from_them() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).await.unwrap();
    store.close().await;
    std::fs::set_permissions(store.path(), PermissionsExt::from_mode(0o644)).unwrap();
    store.reopen().await.unwrap();
    let mode = std::fs::metadata(store.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn opening_tells_a_new_store_from_one_that_was_there() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::at(root.path());
    assert_eq!(store.reopen().await, Ok(Opened::Created));
    assert_eq!(store.reopen().await, Ok(Opened::Existing));
    store.close().await;
    std::fs::write(store.path(), "").unwrap();
    assert_eq!(store.reopen().await, Ok(Opened::Created));
    assert_eq!(store.health().await, Ok(()));
}

#[tokio::test]
async fn every_migration_file_is_in_the_binary() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).await.unwrap();
    let applied: Vec<(i64,)> = sqlx::query_as("SELECT version FROM _sqlx_migrations ORDER BY version")
        .fetch_all(&mut outsider(&store).await)
        .await
        .unwrap();
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).unwrap();
    let mut versions: Vec<(i64,)> = files
        .map(|file| {
            let name = file.unwrap().file_name().into_string().unwrap();
            (name.split_once('_').unwrap().0.parse().unwrap(),)
        })
        .collect();
    versions.sort_unstable();
    assert_eq!(applied, versions);
}

#[tokio::test]
async fn ledger_entries_are_numbered_chained_and_survive() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).await.unwrap();
    let first = [entry(1, Some("stripe")), entry(2, None)];
    assert_eq!(store.append(&first).await, Ok(vec![1, 2]));
    store.reopen().await.unwrap();
    assert_eq!(store.append(&[entry(3, Some("other"))]).await, Ok(vec![3]));
    assert_eq!(store.append(&[]).await, Ok(vec![]));

    let rows = store.entries(&LedgerFilter::default()).await.unwrap();
    assert_eq!(verify(&rows), Ok(store.head().await.unwrap()));
    assert_eq!(rows[0].at, "2026-01-01T00:00:01.000000000Z");
    assert_eq!(rows[0].detail.value(), json!({"second": 1}));
    assert_eq!(rows[1].service, None);
}

#[tokio::test]
async fn the_ledger_is_read_by_time_service_and_page() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).await.unwrap();
    let all: Vec<_> = (1..=6).map(|s| entry(s, (s % 2 == 0).then_some("even"))).collect();
    store.append(&all).await.unwrap();
    let cases = [
        (LedgerFilter { since: Some(at(5)), ..Default::default() }, vec![5, 6]),
        (LedgerFilter { until: Some(at(2)), ..Default::default() }, vec![1, 2]),
        (LedgerFilter { service: Some(name("even")), ..Default::default() }, vec![2, 4, 6]),
        (LedgerFilter { after: 3, limit: Some(2), ..Default::default() }, vec![4, 5]),
    ];
    for (filter, expected) in cases {
        let rows = store.entries(&filter).await.unwrap();
        assert_eq!(rows.iter().map(|row| row.seq).collect::<Vec<_>>(), expected, "{filter:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn numbers_stay_contiguous_under_concurrent_appends() {
    let root = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(root.path()).await.unwrap());
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for _ in 0..10 {
                    store.append(&[entry(task, None), entry(task, None)]).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let head = store.verify_ledger().await.unwrap().unwrap();
    assert_eq!(head.seq, 160);
}

#[tokio::test]
async fn two_stores_of_one_directory_share_one_chain() {
    let root = tempfile::tempdir().unwrap();
    let (one, other) = (Store::open(root.path()).await.unwrap(), Store::open(root.path()).await.unwrap());
    for second in 0..10 {
        one.append(&[entry(second, None)]).await.unwrap();
        other.append(&[entry(second, None)]).await.unwrap();
    }
    assert_eq!(one.verify_ledger().await.unwrap().unwrap().seq, 20);
}

#[tokio::test]
async fn what_was_appended_is_there_after_a_kill() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).await.unwrap();
    store.append(&[entry(1, None)]).await.unwrap();
    store.put_record(&name("stripe"), &decommissioned(9)).await.unwrap();
    // What the disk holds at this instant: no connection was closed, nothing was folded into the database.
    let copy = tempfile::tempdir().unwrap();
    for file in ["picoseg.db", "picoseg.db-wal", "ledger.key"] {
        std::fs::copy(root.path().join(file), copy.path().join(file)).unwrap();
    }
    let after = Store::open(copy.path()).await.unwrap();
    assert_eq!(after.verify_ledger().await.unwrap().unwrap().seq, 1);
    assert_eq!(after.load_records().await.unwrap()[&name("stripe")], decommissioned(9));
    drop(store);
    let reopened = Store::open(root.path()).await.unwrap();
    assert_eq!(reopened.append(&[entry(2, None)]).await, Ok(vec![2]));
}

#[tokio::test]
async fn a_ledger_that_somebody_edited_names_the_first_bad_entry() {
    let cases = [
        ("UPDATE ledger SET actor = 'nobody' WHERE seq = 3", 3, Problem::Altered),
        ("DELETE FROM ledger WHERE seq = 2", 2, Problem::Missing),
        ("DELETE FROM ledger WHERE seq >= 4", 4, Problem::Missing),
        (
            "INSERT INTO ledger SELECT 6, at, kind, service, actor, detail, prev, hash FROM ledger WHERE seq = 5",
            6,
            Problem::Altered,
        ),
        (
            "UPDATE ledger_head SET seq = 4, hash = (SELECT hash FROM ledger WHERE seq = 4)",
            5,
            Problem::BeyondHead,
        ),
    ];
    for (sql, seq, problem) in cases {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).await.unwrap();
        let entries: Vec<_> = (1..=5).map(|second| entry(second, None)).collect();
        store.append(&entries).await.unwrap();
        let unlocked = format!("DROP TRIGGER ledger_keeps_entries; DROP TRIGGER ledger_keeps_content; {sql}");
        tamper(&store, &unlocked).await;
        store.reopen().await.unwrap();
        let bad = store.verify_ledger().await.unwrap();
        assert_eq!(bad, Err(FirstBad { seq, problem }), "{sql}");
    }
}

#[tokio::test]
async fn entries_after_a_cut_end_leave_the_gap_visible() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).await.unwrap();
    store.append(&[entry(1, None), entry(2, None)]).await.unwrap();
    tamper(&store, "DROP TRIGGER ledger_keeps_entries; DELETE FROM ledger WHERE seq = 2").await;
    store.reopen().await.unwrap();
    assert_eq!(store.append(&[entry(3, None)]).await, Ok(vec![3]));
    let bad = store.verify_ledger().await.unwrap().unwrap_err();
    assert_eq!((bad.seq, bad.problem), (2, Problem::Missing));
}

#[tokio::test]
async fn the_database_itself_refuses_to_change_entries() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).await.unwrap();
    store.append(&[entry(1, None)]).await.unwrap();
    let mut connection = outsider(&store).await;
    for sql in ["DELETE FROM ledger", "UPDATE ledger SET actor = ''"] {
        let error = sqlx::query(sql).execute(&mut connection).await.unwrap_err();
        assert!(error.to_string().contains("append-only"), "{error}");
    }
}

#[tokio::test]
async fn records_and_orders_are_kept() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).await.unwrap();
    let bare = Record {
        suspended: None,
        decommissioned: Some(Decommissioned {
            at: at(1),
            covers: at(2),
            cause: Cause::Time,
            by: None,
            reason: None,
        }),
        extended: None,
    };
    store.put_record(&name("a"), &decommissioned(9)).await.unwrap();
    store.put_record(&name("b"), &decommissioned(9)).await.unwrap();
    store.put_record(&name("b"), &bare).await.unwrap();
    store.put_record(&name("c"), &Record::default()).await.unwrap();
    store.put_order(&order("a")).await.unwrap();
    store.put_order(&order("b")).await.unwrap();
    store.reopen().await.unwrap();
    let expected = [(name("a"), decommissioned(9)), (name("b"), bare), (name("c"), Record::default())];
    assert_eq!(store.load_records().await, Ok(expected.into()));
    assert_eq!(store.orders(None).await, Ok(vec![order("a"), order("b")]));
    assert_eq!(store.orders(Some(&name("b"))).await, Ok(vec![order("b")]));
}

#[tokio::test]
async fn the_latest_time_never_goes_back() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).await.unwrap();
    let late = at(10) + TimeDelta::nanoseconds(1);
    let clocks = Reading { wall: at(3), boot: "a".into(), elapsed: std::time::Duration::from_millis(7) };
    assert_eq!(store.last_reading().await, Ok(None));
    assert_eq!(store.note_time(at(10), &clocks).await, Ok(at(10)));
    assert_eq!(store.note_time(late, &clocks).await, Ok(late));
    assert_eq!(store.note_time(at(3), &clocks).await, Ok(late));
    store.reopen().await.unwrap();
    assert_eq!(store.latest_seen().await, Ok(Some(late)));
    assert_eq!(store.last_reading().await, Ok(Some(clocks.clone())));
    let far = Utc.with_ymd_and_hms(12_000, 1, 1, 0, 0, 0).unwrap();
    store.note_time(far, &clocks).await.unwrap();
    assert_eq!(store.note_time(at(3), &clocks).await, Ok(far));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_text_in_an_entry_reads_back(actor: String) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let root = tempfile::tempdir().unwrap();
            let store = Store::open(root.path()).await.unwrap();
            store.append(&[Entry { actor, ..entry(1, None) }]).await.unwrap();
            prop_assert!(store.verify_ledger().await.unwrap().is_ok());
            Ok(())
        })?;
    }
}
