//! A store that cannot be read or written.

use std::fs;
use std::time::{Duration, Instant};

use picoseg::model::{Direction, Reason};
use picoseg::store::{AttemptFilter, AttemptKey, Baseline, Change, StoreError, Verdict};

use super::*;

/// The error's text has to name the file and a way out.
fn text_of(error: &StoreError, directory: &std::path::Path, parts: &[&str]) {
    let text = error.to_string();
    assert!(text.contains(&directory.display().to_string()), "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

#[tokio::test]
async fn a_store_from_the_future_is_refused_unchanged() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).await.unwrap();
    store.append(&[entry(1, None)]).await.unwrap();
    tamper(
        &store,
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9000, 'later', TRUE, x'00', 0); CREATE TABLE later (a)",
    )
    .await;
    let before = fs::read(store.path()).unwrap();
    let error = store.reopen().await.unwrap_err();
    assert!(matches!(error, StoreError::FromTheFuture { found: 9000, .. }), "{error:?}");
    text_of(&error, root.path(), &["newer picoseg", "schema 9000", "nothing in it was changed", "install"]);
    assert_eq!(fs::read(store.path()).unwrap(), before);
    assert!(matches!(store.health().await, Err(StoreError::Closed { .. })));
}

#[tokio::test]
async fn the_database_of_another_program_is_refused_unchanged() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::at(root.path());
    fs::write(store.path(), "").unwrap();
    tamper(&store, "CREATE TABLE theirs (a); INSERT INTO theirs VALUES (1)").await;
    let before = fs::read(store.path()).unwrap();
    let error = store.reopen().await.unwrap_err();
    assert!(matches!(error, StoreError::Foreign { .. }), "{error:?}");
    assert_eq!(fs::read(store.path()).unwrap(), before);
}

#[tokio::test]
async fn the_sqlx_database_of_another_program_is_refused_too() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).await.unwrap();
    tamper(&store, "PRAGMA application_id = 7").await;
    let error = store.reopen().await.unwrap_err();
    assert!(matches!(error, StoreError::Foreign { .. }), "{error:?}");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_unchanged() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::at(root.path());
    let garbage = "not a database ".repeat(1000);
    fs::write(store.path(), &garbage).unwrap();
    let error = store.reopen().await.unwrap_err();
    assert!(matches!(error, StoreError::NotADatabase { .. }), "{error:?}");
    text_of(&error, root.path(), &["not a database", "backup", "move it away"]);
    assert_eq!(fs::read_to_string(store.path()).unwrap(), garbage);
}

#[tokio::test]
async fn a_database_with_damaged_pages_is_an_error_and_no_panic() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).await.unwrap();
    let entries: Vec<_> = (0..500).map(|second| entry(second, None)).collect();
    store.append(&entries).await.unwrap();
    store.close().await;
    let whole = fs::read(store.path()).unwrap();
    for (damage, from) in [("header", 0), ("schema", 100), ("pages", 4096)] {
        let mut bytes = whole.clone();
        bytes[from..].fill(0xa5);
        fs::write(store.path(), bytes).unwrap();
        let error = match store.reopen().await {
            Ok(_) => store.verify_ledger().await.map(|_| ()).unwrap_err(),
            Err(error) => error,
        };
        text_of(&error, root.path(), &["damaged", "backup"]);
        println!("{damage}: {error}");
    }
}

#[tokio::test]
async fn a_database_that_was_cut_short_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).await.unwrap();
    let entries: Vec<_> = (0..500).map(|second| entry(second, None)).collect();
    store.append(&entries).await.unwrap();
    store.close().await;
    let whole = fs::read(store.path()).unwrap();
    fs::write(store.path(), &whole[..whole.len() / 2]).unwrap();
    let outcome = match store.reopen().await {
        Ok(_) => store.verify_ledger().await.map(|_| ()),
        Err(error) => Err(error),
    };
    assert!(matches!(outcome, Err(StoreError::Damaged { .. })), "{outcome:?}");
}

#[tokio::test]
async fn something_else_in_place_of_the_file_is_named() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::at(root.path());
    fs::create_dir(store.path()).unwrap();
    let error = store.reopen().await.unwrap_err();
    assert!(matches!(error, StoreError::NotAFile { .. }), "{error:?}");
    text_of(&error, root.path(), &["not a regular file", "move it away"]);
    fs::remove_dir(store.path()).unwrap();
    store.reopen().await.unwrap();
    assert_eq!(store.health().await, Ok(()));
}

#[tokio::test]
async fn a_state_directory_that_cannot_be_made_is_named() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    fs::write(&file, "").unwrap();
    for directory in [file.clone(), file.join("below")] {
        let error = Store::open(&directory).await.unwrap_err();
        assert!(matches!(error, StoreError::Directory { .. }), "{error:?}");
        text_of(&error, &directory, &["state directory", "[paths] state"]);
    }
}

#[tokio::test]
async fn a_store_that_is_not_open_says_so() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::at(root.path());
    let error = store.append(&[entry(1, None)]).await.unwrap_err();
    assert!(matches!(error, StoreError::Closed { .. }), "{error:?}");
    text_of(&error, root.path(), &["cannot append to the ledger", "not open"]);
}

#[tokio::test]
async fn a_file_that_was_removed_or_replaced_while_open_is_noticed() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).await.unwrap();
    fs::remove_file(store.path()).unwrap();
    let error = store.health().await.unwrap_err();
    assert!(matches!(error, StoreError::Replaced { .. }), "{error:?}");
    fs::write(store.path(), "").unwrap();
    assert!(matches!(store.append(&[entry(1, None)]).await, Err(StoreError::Replaced { .. })));
}

#[tokio::test]
async fn a_locked_store_is_an_error_within_a_second_and_works_again_afterwards() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).await.unwrap();
    store.append(&[entry(1, None)]).await.unwrap();
    let mut other = outsider(&store).await;
    sqlx::query("BEGIN EXCLUSIVE").execute(&mut other).await.unwrap();

    let began = Instant::now();
    let error = store.append(&[entry(2, None)]).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
    assert!(matches!(error, StoreError::Locked { .. }), "{error:?}");
    text_of(&error, root.path(), &["cannot append to the ledger", "locked"]);
    assert!(error.to_string().ends_with(&format!("`fuser {}`", store.path().display())), "{error}");
    assert!(matches!(store.health().await, Err(StoreError::Locked { .. })));
    // Reading goes on.
    assert_eq!(store.head().await.unwrap().seq, 1);

    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    assert_eq!(store.health().await, Ok(()));
    assert_eq!(store.append(&[entry(2, None)]).await, Ok(vec![2]));
}

#[tokio::test]
async fn a_store_that_another_process_holds_whole_opens_with_a_clear_error() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).await.unwrap();
    store.close().await;
    let mut other = outsider(&store).await;
    for sql in ["PRAGMA locking_mode = EXCLUSIVE", "BEGIN EXCLUSIVE", "UPDATE probe SET writes = 0", "COMMIT"]
    {
        sqlx::query(sql).execute(&mut other).await.unwrap();
    }
    let began = Instant::now();
    let error = store.reopen().await.unwrap_err();
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
    assert!(matches!(error, StoreError::Locked { .. }), "{error:?}");
    other.close().await.unwrap();
    store.reopen().await.unwrap();
}

#[tokio::test]
async fn a_value_that_picoseg_never_writes_is_damage_not_a_guess() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).await.unwrap();
    store.put_record(&name("stripe"), &decommissioned(9)).await.unwrap();
    tamper(&store, "UPDATE records SET decommissioned_cause = 'whim'").await;
    store.reopen().await.unwrap();
    let error = store.load_records().await.unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
    text_of(&error, root.path(), &["\"whim\" is not a cause"]);
}

#[tokio::test]
async fn an_append_that_fails_half_way_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).await.unwrap();
    store.append(&[entry(1, None)]).await.unwrap();
    // The second entry of the next append collides with this one.
    tamper(
        &store,
        "INSERT INTO ledger SELECT 3, at, kind, service, actor, detail, prev, hash FROM ledger WHERE seq = 1",
    )
    .await;
    store.reopen().await.unwrap();
    let error = store.append(&[entry(2, None), entry(3, None)]).await.unwrap_err();
    text_of(&error, root.path(), &["ledger entry 3 stands beyond the end of the ledger"]);
    assert_eq!(store.head().await.unwrap().seq, 1);
}

fn attempt(count: i64) -> [(AttemptKey, Change); 1] {
    let key = AttemptKey {
        service: Some(name("stripe")),
        provider: None,
        policy: None,
        direction: Direction::Ingress,
        reason: Reason::Expired,
        verdict: Verdict::Refused,
        protocol: "tcp".to_owned(),
        remote: "203.0.113.9".parse().unwrap(),
        remote_port: None,
        local: None,
        local_port: None,
        subject: None,
        uid: None,
        also: vec![],
    };
    [(key, Change { count, ..Change::default() })]
}

fn baseline(packets: u64) -> [Baseline; 1] {
    [Baseline { set: "count".to_owned(), key: vec![1], packets }]
}

#[tokio::test]
async fn attempts_that_meet_a_locked_store_are_written_once_later() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).await.unwrap();
    store.add_counts(&attempt(1), &baseline(1), at(1)).await.unwrap();
    let mut other = outsider(&store).await;
    sqlx::query("BEGIN EXCLUSIVE").execute(&mut other).await.unwrap();
    let began = Instant::now();
    let error = store.add_counts(&attempt(5), &baseline(6), at(2)).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
    text_of(&error, root.path(), &["cannot write the attempts", "locked"]);
    // What is asked of it is answered meanwhile.
    assert_eq!(store.attempts_total().await, Ok(1));
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    store.add_counts(&attempt(5), &baseline(6), at(2)).await.unwrap();
    assert_eq!(store.attempts_total().await, Ok(6));
}

#[tokio::test]
async fn a_write_of_attempts_that_fails_in_any_table_leaves_nothing_in_the_others() {
    for table in ["attempts", "attempt_totals", "attempt_hours", "counters", "attempt_rows"] {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).await.unwrap();
        let fails = "BEGIN SELECT RAISE(ABORT, 'not today'); END";
        tamper(&store, &format!("CREATE TRIGGER fails BEFORE INSERT ON {table} {fails}")).await;
        store.reopen().await.unwrap();
        let error = store.add_counts(&attempt(5), &baseline(5), at(1)).await.unwrap_err();
        text_of(&error, root.path(), &["cannot write the attempts", "not today"]);
        assert_eq!(store.attempts_total().await, Ok(0), "{table}");
        let found = store.attempts(&AttemptFilter::default()).await.unwrap();
        assert_eq!((found.rows.len(), found.next), (0, 0), "{table}");
        assert_eq!(store.attempt_hours(&name("stripe"), at(0)).await, Ok(vec![]), "{table}");
        assert_eq!(store.load_baselines().await, Ok(vec![]), "{table}");
        tamper(&store, "DROP TRIGGER fails").await;
        store.reopen().await.unwrap();
        store.add_counts(&attempt(5), &baseline(5), at(1)).await.unwrap();
        assert_eq!(store.attempts_total().await, Ok(5), "{table}");
    }
}

#[tokio::test]
async fn sums_and_hours_with_words_that_picoseg_never_writes_are_damage() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).await.unwrap();
    store.add_counts(&attempt(5), &[], at(1)).await.unwrap();
    tamper(&store, "UPDATE attempt_totals SET reason = 'whim'; UPDATE attempt_hours SET remote = 'nowhere'")
        .await;
    store.reopen().await.unwrap();
    let error = store.attempt_totals().await.unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
    text_of(&error, root.path(), &["reason \"whim\""]);
    let error = store.attempt_hours(&name("stripe"), at(0)).await.unwrap_err();
    text_of(&error, root.path(), &["remote \"nowhere\""]);
}
