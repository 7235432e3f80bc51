use std::fs;

use chrono::{TimeDelta, TimeZone, Utc};
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::model::{Cause, Decommissioned, Extended, Order, OrderKind, Record, ServiceName, Suspended};
use crate::store::{Entry, Fact, LedgerKind};

fn now() -> Time {
    Utc.with_ymd_and_hms(2026, 5, 6, 7, 8, 9).unwrap() + TimeDelta::nanoseconds(1)
}

fn stripe() -> ServiceName {
    ServiceName::new("stripe").unwrap()
}

fn entry(actor: &str) -> Pending {
    Pending::new(Fact::Entry(Entry {
        at: now(),
        kind: LedgerKind::ServiceDecommissioned,
        service: Some(stripe()),
        actor: actor.to_owned(),
        detail: json!({"note": "line\nbreak", "n": 1}),
    }))
}

fn order() -> Pending {
    Pending::new(Fact::Order(Order {
        service: stripe(),
        kind: OrderKind::Decommission,
        at: now(),
        by: "root (uid 0)".to_owned(),
        reason: "contract \"ended\"".to_owned(),
    }))
}

fn record() -> Pending {
    Pending::new(Fact::Record {
        service: stripe(),
        record: Record {
            suspended: Some(Suspended { at: now(), by: "a".to_owned(), reason: "b".to_owned() }),
            decommissioned: Some(Decommissioned {
                at: now(),
                covers: now(),
                cause: Cause::Removed,
                by: None,
                reason: None,
            }),
            extended: Some(Extended { at: now(), until: now(), by: "c".to_owned(), reason: "d".to_owned() }),
        },
    })
}

struct Dirs {
    root: TempDir,
}

impl Dirs {
    fn new() -> Self {
        let dirs = Self { root: tempfile::tempdir().unwrap() };
        fs::create_dir(dirs.state()).unwrap();
        fs::create_dir(dirs.runtime()).unwrap();
        dirs
    }

    fn state(&self) -> PathBuf {
        self.root.path().join("state")
    }

    fn runtime(&self) -> PathBuf {
        self.root.path().join("runtime")
    }

    async fn load(&self) -> (Journal, Vec<JournalError>) {
        Journal::load(&self.state(), &self.runtime()).await
    }

    async fn journal(&self) -> Journal {
        let (journal, problems) = self.load().await;
        assert_eq!(problems, []);
        journal
    }
}

/// Root ignores modes; a directory in place of the file stops root too.
fn block(directory: &Path) {
    fs::create_dir(directory.join(FILE)).unwrap();
}

fn unblock(directory: &Path) {
    fs::remove_dir(directory.join(FILE)).unwrap();
}

#[tokio::test]
async fn facts_of_every_kind_survive_a_restart_in_their_order() {
    let dirs = Dirs::new();
    let facts = vec![order(), record(), entry("root")];
    let keeping = dirs.journal().await.append(facts.clone(), now()).await;
    assert_eq!((keeping.place, keeping.problems), (Place::State, vec![]));
    assert_eq!(dirs.journal().await.pending(), facts);
}

#[tokio::test]
async fn what_was_cleared_does_not_come_back() {
    let dirs = Dirs::new();
    let mut journal = dirs.journal().await;
    let _ = journal.append(vec![order()], now()).await;
    assert_eq!(journal.clear().await, []);
    assert!(journal.is_empty());
    assert!(dirs.journal().await.is_empty());
    assert!(!dirs.state().join(FILE).exists());
}

#[tokio::test]
async fn the_runtime_directory_takes_what_the_state_directory_cannot() {
    let dirs = Dirs::new();
    let mut journal = dirs.journal().await;
    block(&dirs.state());
    let keeping = journal.append(vec![order()], now()).await;
    assert_eq!(keeping.place, Place::Runtime);
    let text = keeping.problems[0].to_string();
    assert!(text.starts_with("cannot write the journal /") && text.contains("state"), "{text}");
    let (journal, problems) = dirs.load().await;
    assert_eq!((journal.pending().len(), problems.len()), (1, 1));
}

#[tokio::test]
async fn with_both_directories_unwritable_facts_stay_in_memory_and_it_is_said() {
    let dirs = Dirs::new();
    let mut journal = dirs.journal().await;
    block(&dirs.state());
    block(&dirs.runtime());
    let first = entry("first");
    let keeping = journal.append(vec![first.clone()], now()).await;
    assert_eq!((keeping.place, keeping.problems.len()), (Place::Memory, 2));
    assert_eq!(journal.pending(), std::slice::from_ref(&first));

    unblock(&dirs.state());
    let second = entry("second");
    let keeping = journal.append(vec![second.clone()], now()).await;
    assert_eq!(keeping.place, Place::State);
    unblock(&dirs.runtime());
    assert_eq!(dirs.journal().await.pending(), [first, second]);
}

#[tokio::test]
async fn order_holds_across_both_directories() {
    let dirs = Dirs::new();
    let facts: Vec<_> = ["a", "b", "c"].map(entry).into();
    let mut journal = dirs.journal().await;
    let _ = journal.append(vec![facts[0].clone()], now()).await;
    fs::rename(dirs.state().join(FILE), dirs.state().join("aside")).unwrap();
    block(&dirs.state());
    let keeping = journal.append(vec![facts[1].clone()], now()).await;
    assert_eq!(keeping.place, Place::Runtime);
    unblock(&dirs.state());
    fs::rename(dirs.state().join("aside"), dirs.state().join(FILE)).unwrap();
    let _ = journal.append(vec![facts[2].clone()], now()).await;
    assert_eq!(dirs.journal().await.pending(), facts);
}

#[tokio::test]
async fn a_fact_in_both_directories_waits_once() {
    let dirs = Dirs::new();
    let _ = dirs.journal().await.append(vec![entry("a")], now()).await;
    fs::copy(dirs.state().join(FILE), dirs.runtime().join(FILE)).unwrap();
    assert_eq!(dirs.journal().await.pending().len(), 1);
}

#[tokio::test]
async fn a_torn_last_line_is_left_out_and_does_not_spoil_the_next() {
    let dirs = Dirs::new();
    let facts = vec![entry("a"), entry("b")];
    let _ = dirs.journal().await.append(facts.clone(), now()).await;
    let path = dirs.state().join(FILE);
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let (mut journal, problems) = dirs.load().await;
        assert_eq!(problems, [], "{length}");
        let kept = journal.pending().len();
        // A line is also whole when only its end is missing.
        assert_eq!(kept, lines_within(&whole, length), "{length}");
        let _ = journal.append(vec![entry("c")], now()).await;
        let (journal, _) = dirs.load().await;
        assert_eq!(journal.pending().len(), kept + 1, "{length}");
    }
}

fn lines_within(bytes: &[u8], length: usize) -> usize {
    let ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    ends.filter(|(end, _)| *end <= length).count()
}

#[tokio::test]
async fn a_damaged_line_is_named_and_kept_aside() {
    let dirs = Dirs::new();
    let _ = dirs.journal().await.append(vec![entry("a"), entry("b")], now()).await;
    let path = dirs.state().join(FILE);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("decommissioned", "decomm", 1)).unwrap();
    let (mut journal, problems) = dirs.load().await;
    assert_eq!(journal.pending().len(), 1);
    assert!(problems[0].to_string().starts_with("line 1 of the journal "), "{problems:?}");
    assert_eq!(journal.clear().await, []);
    assert!(dirs.state().join("pending.jsonl.damaged").exists());
    assert!(dirs.journal().await.is_empty());
}

#[tokio::test]
async fn a_pipe_or_a_link_in_place_of_the_file_is_refused_without_waiting() {
    let dirs = Dirs::new();
    nix::unistd::mkfifo(&dirs.state().join(FILE), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::os::unix::fs::symlink("/dev/null", dirs.runtime().join(FILE)).unwrap();
    let (mut journal, problems) = dirs.load().await;
    assert_eq!(problems.len(), 2, "{problems:?}");
    let keeping = journal.append(vec![order()], now()).await;
    assert_eq!(keeping.place, Place::Memory);
}

#[tokio::test]
async fn a_place_that_hangs_is_given_up_and_left_alone() {
    let dirs = Dirs::new();
    let mut place = Directory::new(Place::State, &dirs.state());
    let (release, released) = std::sync::mpsc::channel::<()>();
    let hang = move |_: &Path| {
        let _ = released.recv();
        Ok(())
    };
    assert!(matches!(place.run("write", hang).await, Err(JournalError::TooSlow { .. })));
    // Not even asked: this work would answer at once.
    assert!(matches!(place.run("write", |_| Ok(())).await, Err(JournalError::TooSlow { .. })));
    drop(release);
    place.stuck.take().unwrap().await.unwrap();
    assert_eq!(place.run("write", |_| Ok(())).await, Ok(()));
}

#[tokio::test]
async fn the_file_is_for_root_only() {
    use std::os::unix::fs::PermissionsExt;
    let dirs = Dirs::new();
    let _ = dirs.journal().await.append(vec![order()], now()).await;
    let mode = fs::metadata(dirs.state().join(FILE)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}
