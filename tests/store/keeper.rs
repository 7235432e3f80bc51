//! Store and journal together: nothing that was decided is lost, and nothing is recorded twice.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use picoseg::store::journal::{self, Place};
use picoseg::store::{Fact, Keeper, Kept, LedgerFilter, Opened, Pending, Start, StoreError};
use tempfile::TempDir;

use super::*;

struct Host {
    root: TempDir,
}

impl Host {
    fn new() -> Self {
        let host = Self { root: tempfile::tempdir().unwrap() };
        fs::create_dir(host.state()).unwrap();
        fs::create_dir(host.runtime()).unwrap();
        host
    }

    fn state(&self) -> PathBuf {
        self.root.path().join("state")
    }

    fn runtime(&self) -> PathBuf {
        self.root.path().join("runtime")
    }

    fn database(&self) -> PathBuf {
        self.state().join(picoseg::store::FILE)
    }

    /// A directory in place of the database: it cannot be opened, whoever asks.
    fn break_store(&self) {
        fs::create_dir(self.database()).unwrap();
    }

    fn repair_store(&self) {
        fs::remove_dir(self.database()).unwrap();
    }

    async fn open(&self) -> Start {
        Keeper::open(&self.state(), &self.runtime(), at(60)).await
    }
}

/// What an order to decommission leaves behind.
fn decommission(service: &str) -> Vec<Fact> {
    vec![
        Fact::Order(order(service)),
        Fact::Record { service: name(service), record: decommissioned(9) },
        Fact::Entry(Entry { kind: LedgerKind::ServiceDecommissioned, ..entry(9, Some(service)) }),
    ]
}

fn place(kept: Kept) -> Place {
    match kept {
        Kept::Waiting { keeping, .. } => keeping.place,
        Kept::Recorded(seqs) => panic!("recorded as {seqs:?}"),
    }
}

#[tokio::test]
async fn facts_are_recorded_at_once_by_a_store_that_works() {
    let host = Host::new();
    let Start { mut keeper, store, journal } = host.open().await;
    assert_eq!((store, journal), (Ok(Opened::Created), vec![]));
    assert_eq!(keeper.keep(decommission("stripe"), at(9)).await, Kept::Recorded(vec![1]));
    assert_eq!(keeper.store().orders(None).await.unwrap(), [order("stripe")]);
    assert!(!keeper.is_waiting());
}

#[tokio::test]
async fn with_a_broken_store_facts_wait_and_are_recorded_once_it_works() {
    let host = Host::new();
    host.break_store();
    let mut keeper = host.open().await.keeper;
    for service in ["a", "b"] {
        assert_eq!(place(keeper.keep(decommission(service), at(9)).await), Place::State);
    }
    assert!(keeper.records().await.is_err());
    assert_eq!(keeper.waiting_records().into_keys().collect::<Vec<_>>(), [name("a"), name("b")]);
    assert!(keeper.heal(at(60)).await.is_err());

    host.repair_store();
    assert_eq!(keeper.heal(at(60)).await, Ok(vec![]));
    assert!(!keeper.is_waiting());
    assert_eq!(keeper.store().load_records().await.unwrap().len(), 2);
    assert_eq!(keeper.store().orders(None).await.unwrap(), [order("a"), order("b")]);
    assert_eq!(keeper.store().head().await.unwrap().seq, 2);
    assert_eq!(keeper.keep(decommission("c"), at(9)).await, Kept::Recorded(vec![3]));
}

#[tokio::test]
async fn what_waits_survives_a_restart_with_the_store_still_broken() {
    let host = Host::new();
    host.break_store();
    let mut keeper = host.open().await.keeper;
    let _ = keeper.keep(decommission("stripe"), at(9)).await;
    drop(keeper);
    let Start { keeper, store, .. } = host.open().await;
    assert!(store.is_err());
    assert_eq!(keeper.waiting_records()[&name("stripe")], decommissioned(9));
    drop(keeper);
    host.repair_store();
    let keeper = host.open().await.keeper;
    assert!(!keeper.is_waiting());
    assert_eq!(keeper.records().await.unwrap()[&name("stripe")], decommissioned(9));
}

#[tokio::test]
async fn a_journal_that_comes_back_after_its_replay_records_nothing_twice() {
    let host = Host::new();
    host.break_store();
    let mut keeper = host.open().await.keeper;
    let _ = keeper.keep(decommission("stripe"), at(9)).await;
    let journal = fs::read(host.state().join(journal::FILE)).unwrap();
    host.repair_store();
    keeper.heal(at(60)).await.unwrap();
    let resumed = Fact::Record { service: name("stripe"), record: Record::default() };
    assert_eq!(keeper.keep(vec![resumed], at(10)).await, Kept::Recorded(vec![]));
    drop(keeper);

    // A crash between replay and removal.
    fs::write(host.state().join(journal::FILE), journal).unwrap();
    let keeper = host.open().await.keeper;
    assert!(!keeper.is_waiting());
    assert_eq!(keeper.store().head().await.unwrap().seq, 1);
    assert_eq!(keeper.store().orders(None).await.unwrap().len(), 1);
    assert_eq!(keeper.records().await.unwrap()[&name("stripe")], Record::default());
}

#[tokio::test]
async fn a_fact_that_was_stored_after_all_is_skipped() {
    let host = Host::new();
    let keeper = host.open().await.keeper;
    let facts: Vec<_> = decommission("stripe").into_iter().map(Pending::new).collect();
    assert_eq!(keeper.store().commit(&facts, at(60)).await, Ok(vec![1]));
    assert_eq!(keeper.store().commit(&facts, at(60)).await, Ok(vec![]));
    assert_eq!(keeper.store().head().await.unwrap().seq, 1);
}

#[tokio::test]
async fn a_locked_store_delays_the_first_fact_by_a_second_and_the_others_not_at_all() {
    let host = Host::new();
    let mut keeper = host.open().await.keeper;
    let mut other = outsider(keeper.store()).await;
    sqlx::query("BEGIN EXCLUSIVE").execute(&mut other).await.unwrap();
    let began = Instant::now();
    let kept = keeper.keep(decommission("first"), at(9)).await;
    assert!(matches!(kept, Kept::Waiting { error: Some(StoreError::Locked { .. }), .. }), "{kept:?}");
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
    let began = Instant::now();
    for number in 0..5 {
        let _ = keeper.keep(decommission(&format!("s{number}")), at(9)).await;
    }
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());

    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    keeper.heal(at(60)).await.unwrap();
    assert_eq!(keeper.store().load_records().await.unwrap().len(), 6);
    let rows = keeper.store().entries(&LedgerFilter::default()).await.unwrap();
    assert_eq!(rows[0].service.as_deref(), Some("first"));
}

#[tokio::test]
async fn a_keeper_works_in_a_task_of_its_own() {
    let host = Host::new();
    let mut keeper = host.open().await.keeper;
    let task = tokio::spawn(async move {
        let kept = keeper.keep(decommission("stripe"), at(9)).await;
        keeper.heal(at(60)).await.map(|_| kept)
    });
    assert_eq!(task.await.unwrap(), Ok(Kept::Recorded(vec![1])));
}

#[tokio::test]
async fn a_long_journal_is_replayed_whole() {
    let host = Host::new();
    host.break_store();
    let mut keeper = host.open().await.keeper;
    let facts = (0..2_000).map(|second| Fact::Entry(entry(second, None)));
    let _ = keeper.keep(facts.collect(), at(9)).await;
    host.repair_store();
    keeper.heal(at(60)).await.unwrap();
    assert_eq!(keeper.store().verify_ledger().await.unwrap().unwrap().seq, 2_000);
}
