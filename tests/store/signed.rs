//! Who signs, what is sealed, and what survives a loss of power.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use picoseg::model::{Direction, Reason};
use picoseg::store::examine::Findings;
use picoseg::store::key::{KEY_FILE, PUBLIC_FILE, PublicKey};
use picoseg::store::verify::{self, Evidence, Refusal};
use picoseg::store::{
    AttemptKey, Change, Fact, Keeper, LedgerFilter, LedgerRow, Pending, Sealed, StoreError, Verdict,
};
use serde_json::Value;

use super::*;

/// Verifies against the public key beside the database.
async fn judge(directory: &Path) -> Result<Findings, Refusal> {
    let trusted = PublicKey::from_pem(&fs::read_to_string(directory.join(PUBLIC_FILE)).unwrap()).unwrap();
    let evidence = Evidence { trusted: Some(trusted), ..Evidence::default() };
    verify::database(&directory.join(picoseg::store::FILE), &evidence).await.outcome
}

async fn all(store: &Store) -> Vec<LedgerRow> {
    store.entries(&LedgerFilter::default()).await.unwrap()
}

#[tokio::test]
async fn every_commit_leaves_a_signed_head_also_while_it_is_open() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).await.unwrap();
    assert_eq!(store.last_synced(), None);
    assert_eq!(store.checkpoint(at(0)).await, Ok(None), "there is nothing to sign");
    for second in 1..5 {
        store.append(&[entry(second, None)]).await.unwrap();
        let found = judge(root.path()).await.unwrap();
        assert_eq!(
            (found.entries, found.head.at.as_str()),
            (second as u64, &*format!("2026-01-01T00:00:0{second}.000000000Z"))
        );
        assert_eq!(store.last_synced(), Some(at(second)));
    }
    let line = store.checkpoint(at(9)).await.unwrap().unwrap();
    assert!(line.is_signed() && line.head == store.head().await.unwrap());
    assert_eq!(store.checkpoint(at(10)).await, Ok(None), "it has one there");
    assert_eq!(judge(root.path()).await.unwrap().checkpoints, 1);
}

#[tokio::test]
async fn a_store_whose_key_is_missing_damaged_or_open_to_others_does_not_open() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).await.unwrap();
    store.append(&[entry(1, None)]).await.unwrap();
    let key = root.path().join(KEY_FILE);
    let pem = fs::read(&key).unwrap();

    fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).unwrap();
    let error = store.reopen().await.unwrap_err();
    assert!(matches!(error, StoreError::Key { .. }) && error.to_string().contains("chmod 600"), "{error}");
    assert!(matches!(store.append(&[entry(2, None)]).await, Err(StoreError::Closed { .. })));
    fs::write(&key, &pem[..pem.len() - 9]).unwrap();
    fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    assert!(matches!(store.reopen().await.unwrap_err(), StoreError::Key { .. }));
    fs::remove_file(&key).unwrap();
    assert!(matches!(store.reopen().await.unwrap_err(), StoreError::KeyMissing { .. }));
    assert!(!key.exists(), "no new one takes its place");

    fs::write(&key, pem).unwrap();
    fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    store.reopen().await.unwrap();
    store.append(&[entry(2, None)]).await.unwrap();
    assert_eq!(judge(root.path()).await.unwrap().former_keys, 0);
}

#[tokio::test]
async fn closing_goes_on_without_a_key_and_is_recorded_when_it_is_back() {
    let root = tempfile::tempdir().unwrap();
    let runtime = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).await.unwrap();
    store.append(&[entry(1, None)]).await.unwrap();
    store.close().await;
    let key = root.path().join(KEY_FILE);
    fs::set_permissions(&key, PermissionsExt::from_mode(0o640)).unwrap();
    let start = Keeper::open(root.path(), runtime.path(), at(2)).await;
    assert!(matches!(start.store, Err(StoreError::Key { .. })));
    let mut keeper = start.keeper;
    let facts = vec![
        Fact::Record { service: name("a"), record: decommissioned(2) },
        Fact::Entry(entry(2, Some("a"))),
    ];
    let _ = keeper.keep(facts, at(2)).await;
    assert!(keeper.is_waiting() && keeper.heal(at(3)).await.is_err());

    fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    keeper.heal(at(7)).await.unwrap();
    let late = all(keeper.store()).await.remove(1);
    assert_eq!((late.seq, &*late.at), (2, "2026-01-01T00:00:02.000000000Z"), "when it happened");
    assert_eq!(late.detail.value()["recorded_at"], "2026-01-01T00:00:07.000000000Z");
    assert_eq!(judge(root.path()).await.unwrap().entries, 2);
}

#[tokio::test]
async fn another_key_is_put_on_record_and_signs_from_there() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).await.unwrap();
    store.append(&[entry(1, None), entry(2, None)]).await.unwrap();
    let copy = store.checkpoint(at(2)).await.unwrap().unwrap();
    let before = store.public_key().unwrap();
    store.close().await;
    let elsewhere = tempfile::tempdir().unwrap();
    Store::open(elsewhere.path()).await.unwrap();
    fs::copy(elsewhere.path().join(KEY_FILE), root.path().join(KEY_FILE)).unwrap();
    store.reopen().await.unwrap();
    let now = store.public_key().unwrap();
    assert_ne!(before, now);
    assert_eq!(
        store.checkpoint(at(3)).await,
        Ok(None),
        "the new key signs nothing that it did not see begin"
    );
    assert_eq!(store.append(&[entry(3, None)]).await, Ok(vec![4]));
    let change = all(&store).await.remove(2);
    assert_eq!(change.kind, "key.changed");
    assert_eq!(change.detail.value(), json!({ "from": before.to_string(), "to": now.to_string() }));
    let evidence = Evidence { trusted: Some(now), copied: vec![copy] };
    let found = verify::database(store.path(), &evidence).await.outcome.unwrap();
    assert_eq!((found.entries, found.checkpoints, found.copies, found.former_keys), (4, 1, 1, 1));
    let old = Evidence { trusted: Some(before), ..Evidence::default() };
    assert_eq!(verify::database(store.path(), &old).await.outcome.unwrap_err().seq(), Some(3));
}

#[tokio::test]
async fn a_ledger_of_before_is_signed_from_its_next_entry_on() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).await.unwrap();
    store.append(&[entry(1, None), entry(2, None)]).await.unwrap();
    tamper(&store, "UPDATE ledger_head SET signed = NULL").await;
    fs::remove_file(root.path().join(KEY_FILE)).unwrap();
    store.reopen().await.unwrap();
    assert_eq!(store.append(&[entry(3, None)]).await, Ok(vec![4]));
    let found = judge(root.path()).await.unwrap();
    assert_eq!((found.entries, found.signed_from), (4, 3));
    assert_eq!(all(&store).await[2].detail.value()["from"], Value::Null);
}

#[tokio::test]
async fn a_ledger_that_does_not_end_as_signed_is_not_continued() {
    for sql in [
        "UPDATE ledger_head SET hash = (SELECT hash FROM ledger WHERE seq = 1), seq = 1",
        "UPDATE ledger_head SET signed = replace(signed, '2026', '2025')",
        "UPDATE ledger_head SET signed = 'x'",
    ] {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).await.unwrap();
        store.append(&[entry(1, None), entry(2, None)]).await.unwrap();
        tamper(&store, sql).await;
        store.reopen().await.unwrap();
        let error = store.append(&[entry(3, None)]).await.unwrap_err();
        assert!(
            matches!(error, StoreError::Damaged { .. }) && error.to_string().contains("audit verify"),
            "{error}"
        );
        assert!(store.checkpoint(at(4)).await.is_err());
    }
}

fn change(service: &str, remote: u32, count: i64) -> (AttemptKey, Change) {
    let key = AttemptKey {
        service: Some(name(service)),
        provider: None,
        policy: None,
        direction: Direction::Ingress,
        reason: Reason::Closed,
        verdict: Verdict::Refused,
        protocol: "tcp".to_owned(),
        remote: std::net::IpAddr::from(std::net::Ipv4Addr::from_bits(remote)).into(),
        remote_port: None,
        local: None,
        local_port: None,
        subject: None,
        uid: None,
        also: vec![],
    };
    (key, Change { count, ..Change::default() })
}

/// Stands in for what attempts write beside their rows.
async fn total(store: &Store, service: &str, count: i64) {
    let sql = "INSERT INTO attempt_totals (service, direction, reason, verdict, count) VALUES (?1, 'ingress', 'closed', 'refused', ?2)
        ON CONFLICT DO UPDATE SET count = ?2";
    sqlx::query(sql).bind(service).bind(count).execute(&mut outsider(store).await).await.unwrap();
}

#[tokio::test]
async fn sums_that_moved_are_sealed_once_also_after_a_crash() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).await.unwrap();
    assert_eq!(store.seal(at(1)).await, Ok(Sealed::Nothing));
    assert_eq!(store.head().await.unwrap().seq, 0);
    store.add_counts(&[change("stripe", 1, 3), change("stripe", 2, 4)], &[], at(2)).await.unwrap();
    total(&store, "stripe", 7).await;
    total(&store, "", 5).await;
    assert_eq!(store.seal(at(10)).await, Ok(Sealed::Entry(1)));
    assert_eq!(store.seal(at(11)).await, Ok(Sealed::Nothing), "nothing moved");
    let detail = all(&store).await.remove(0).detail.value();
    assert_eq!(detail["from"], Value::Null);
    assert_eq!(detail["to"], "2026-01-01T00:00:10.000000000Z");
    let sum = |service: Value, count, total, sources| {
        json!({ "service": service, "direction": "ingress", "reason": "closed", "verdict": "refused",
                "count": count, "total": total, "sources": sources })
    };
    assert_eq!(detail["sums"], json!([sum(Value::Null, 5, 5, 0), sum(json!("stripe"), 7, 7, 2)]));

    store.add_counts(&[change("stripe", 9, 2)], &[], at(12)).await.unwrap();
    total(&store, "stripe", 9).await;
    // As after a crash: nothing but the database is left. The clock went back meanwhile.
    store.reopen().await.unwrap();
    assert_eq!(store.seal(at(5)).await, Ok(Sealed::Entry(2)));
    let detail = all(&store).await.remove(1).detail.value();
    assert_eq!(detail["from"], "2026-01-01T00:00:10.000000000Z");
    assert_eq!(detail["sums"], json!([sum(json!("stripe"), 2, 9, 1)]));
    assert_eq!(store.seal(at(6)).await, Ok(Sealed::Nothing));
    judge(root.path()).await.unwrap();
}

#[tokio::test]
async fn thousands_of_sums_go_into_several_entries_and_each_once() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).await.unwrap();
    let sql = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
        INSERT INTO attempt_totals (service, direction, reason, verdict, count) SELECT 's' || i, 'egress', 'closed', 'refused', i FROM n";
    sqlx::query(sql).execute(&mut outsider(&store).await).await.unwrap();
    let mut entries = 0;
    while store.seal(at(60)).await.unwrap() != Sealed::Nothing {
        entries += 1;
    }
    assert_eq!(entries, 5);
    let sums: Vec<_> = all(&store)
        .await
        .iter()
        .flat_map(|row| row.detail.value()["sums"].as_array().unwrap().clone())
        .collect();
    assert_eq!(sums.len(), 1000);
    assert_eq!(sums.iter().map(|sum| sum["count"].as_u64().unwrap()).sum::<u64>(), 500_500);
    assert!(all(&store).await.iter().all(|row| row.detail.as_str().len() < 100_000));
}

#[tokio::test]
async fn what_is_committed_is_synced() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).await.unwrap();
    store.health().await.unwrap();
    // 2 is FULL: https://www.sqlite.org/pragma.html#pragma_synchronous
    assert_eq!(store.durability().await.unwrap(), ("wal".to_owned(), 2));
}

/// A loss of power leaves a beginning of the write-ahead log, torn anywhere: what verifies then is a beginning of the ledger, in order.
#[tokio::test]
async fn after_a_loss_of_power_at_any_instant_the_ledger_verifies() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).await.unwrap();
    store.append(&[entry(1, None)]).await.unwrap();
    store.reopen().await.unwrap();
    let mut lengths = vec![];
    let log = root.path().join("picoseg.db-wal");
    for second in 2..20 {
        store
            .commit(
                &[Pending::new(Fact::Order(order("a"))), Pending::new(Fact::Entry(entry(second, Some("a"))))],
                at(second),
            )
            .await
            .unwrap();
        if second % 5 == 0 {
            store.checkpoint(at(second)).await.unwrap();
        }
        lengths.push((second as u64, fs::metadata(&log).unwrap().len()));
    }
    let (database, whole) = (fs::read(store.path()).unwrap(), fs::read(&log).unwrap());
    let mut seen = 0;
    for cut in (0..=whole.len()).step_by(4_999).chain([whole.len()]) {
        for torn in [false, true] {
            let copy = tempfile::tempdir().unwrap();
            let path = copy.path().join(picoseg::store::FILE);
            fs::write(&path, &database).unwrap();
            let mut bytes = whole[..cut].to_vec();
            if torn {
                bytes.resize(bytes.len() + 4096, 0x5a);
            }
            fs::write(copy.path().join("picoseg.db-wal"), bytes).unwrap();
            let found = verify::database(&path, &Evidence::default()).await.outcome.unwrap();
            // What was synced by then is there, and nothing is newer than what was.
            let synced =
                lengths.iter().filter(|(_, length)| *length <= cut as u64).map(|(seq, _)| *seq).max();
            assert!(found.entries >= synced.unwrap_or(1), "{} of {synced:?}", found.entries);
            assert!(found.entries >= seen || torn);
            seen = found.entries;
        }
    }
    assert_eq!(seen, 19);
}
