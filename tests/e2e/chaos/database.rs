//! A database that is broken in every way: closing works, nothing opens, also not after a restart, and what was suspended
//! stays so once the database works again.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};

use super::{Random, ledger_verifies};
use crate::agent::Agent;
use crate::lab::clock::until;
use crate::lab::schedule::{Lifetime, egress, schedule};
use crate::lab::{Lab, at};

/// The daemon tries its store again every two seconds.
const HEALED: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    /// A directory lies where the file was.
    Folder,
    /// The second half is gone.
    Cut,
    /// Bytes all over it are others.
    Flipped,
    /// A word that picoseg never writes stands in a table.
    Word,
    /// Another process holds all of it.
    Held,
    /// Another process writes and does not end.
    Locked,
    /// The file is gone.
    Gone,
}

struct Broken<'a> {
    lab: &'a Lab,
    damage: Damage,
    held: Option<(tokio::runtime::Runtime, SqliteConnection)>,
}

fn database(lab: &Lab) -> PathBuf {
    lab.state().join("picoseg.db")
}

fn aside(lab: &Lab) -> PathBuf {
    lab.dir().join("aside.db")
}

fn opened(lab: &Lab) -> (tokio::runtime::Runtime, SqliteConnection) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(database(lab));
    let connection = runtime.block_on(options.connect()).expect("the daemon's database");
    (runtime, connection)
}

fn execute(lab: &Lab, statements: &[&'static str]) {
    let (runtime, mut connection) = opened(lab);
    runtime.block_on(async {
        for statement in statements {
            sqlx::query(statement).execute(&mut connection).await.expect("our own statement");
        }
        connection.close().await.expect("our own connection");
    });
}

impl<'a> Broken<'a> {
    fn new(lab: &'a Lab, damage: Damage) -> Self {
        let path = database(lab);
        fs::copy(&path, aside(lab)).expect("a copy");
        let mut held = None;
        match damage {
            Damage::Folder => {
                fs::rename(&path, aside(lab)).and_then(|()| fs::create_dir(&path)).expect("our own files");
            }
            Damage::Gone => fs::rename(&path, aside(lab)).expect("our own files"),
            Damage::Cut => {
                let whole = fs::read(&path).expect("our own file");
                fs::write(&path, &whole[..whole.len() / 2]).expect("our own file");
            }
            // All pages but the first: what it is can be told, what it holds cannot.
            Damage::Flipped => {
                let mut random = Random::new();
                let mut bytes = fs::read(&path).expect("our own file");
                bytes.iter_mut().skip(4096).for_each(|byte| *byte ^= random.below(256) as u8);
                fs::write(&path, bytes).expect("our own file");
            }
            Damage::Word => execute(lab, &["UPDATE records SET suspended_at = 'whim'"]),
            Damage::Held | Damage::Locked => {
                let (runtime, mut connection) = opened(lab);
                let statements: &[&'static str] = match damage {
                    Damage::Held => &["PRAGMA locking_mode = EXCLUSIVE", "BEGIN EXCLUSIVE"],
                    _ => &["BEGIN IMMEDIATE"],
                };
                runtime.block_on(async {
                    for statement in statements {
                        sqlx::query(statement).execute(&mut connection).await.expect("our own statement");
                    }
                });
                held = Some((runtime, connection));
            }
        }
        Self { lab, damage, held }
    }

    /// As an operator does it: what was saved comes back.
    fn repair(mut self) {
        let path = database(self.lab);
        match self.damage {
            Damage::Held | Damage::Locked => {
                if let Some((runtime, connection)) = self.held.take() {
                    runtime.block_on(connection.close()).expect("our own connection");
                }
                return;
            }
            Damage::Folder => fs::remove_dir(&path).expect("our own directory"),
            Damage::Cut | Damage::Flipped | Damage::Word | Damage::Gone => {}
        }
        for rest in ["picoseg.db-wal", "picoseg.db-shm"] {
            let _ = fs::remove_file(self.lab.state().join(rest));
        }
        fs::rename(aside(self.lab), &path).expect("our own files");
    }
}

fn furnish(lab: &Lab) -> (Agent, Agent) {
    let payments = lab.unit("payments");
    for (name, number) in [("stripe", 0), ("shut", 1)] {
        lab.write(name, &schedule(Lifetime::open(), &[egress(&payments, lab.provider4(number), "443/tcp")]));
    }
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    for number in 0..3 {
        theirs.echo(at(lab.provider4(number), 443));
    }
    (ours, theirs)
}

fn passes(lab: &Lab, ours: &Agent, number: u8) -> bool {
    ours.talks_to(at(lab.provider4(number), 443))
}

/// Files that would open something more are not accepted.
fn nothing_more_opens(lab: &Lab) {
    let policy = [egress(&lab.unit("later"), lab.provider4(2), "443/tcp")];
    lab.write("later", &schedule(Lifetime::open(), &policy));
    lab.picoseg(&["apply"]).exits(1).explains(&["ledger does not work"]);
    lab.remove("later");
    lab.picoseg(&["resume", "shut", "--reason", "test"]).exits(1);
}

fn starts_closed(damage: Damage) {
    let Some(lab) = Lab::new() else { return };
    let (ours, _theirs) = furnish(&lab);
    let daemon = lab.daemon();
    lab.picoseg(&["suspend", "shut", "--reason", "before"]).ok();
    assert!(passes(&lab, &ours, 0) && !passes(&lab, &ours, 1));
    assert!(daemon.term().success());

    let broken = Broken::new(&lab, damage);
    let daemon = lab.daemon();
    let store = lab.status()["store"].clone();
    assert!(store["ok"] == false && !store["error"].is_null(), "{damage:?}: {store}");
    for number in [0, 1] {
        assert!(!passes(&lab, &ours, number), "{damage:?}: {number} is open without a ledger");
    }
    let suspended = lab.picoseg(&["suspend", "stripe", "--reason", "meanwhile"]).ok();
    // Beside a wrong word everything can be written.
    if damage != Damage::Word {
        suspended.explains(&["not on record yet"]);
    }
    nothing_more_opens(&lab);

    broken.repair();
    until("the store works again", HEALED, || lab.status()["store"]["ok"] == true);
    for (name, number) in [("stripe", 0), ("shut", 1)] {
        assert!(!passes(&lab, &ours, number), "{damage:?}: {name} opens though it was suspended by order");
        assert_eq!(lab.state_of(name), "suspended", "{damage:?}");
        lab.picoseg(&["resume", name, "--reason", "repaired"]).ok();
        assert!(passes(&lab, &ours, number), "{damage:?}: {name}");
    }
    assert!(ledger_verifies(&lab), "{damage:?}");
    drop(daemon);
}

#[test]
fn a_start_beside_a_directory_in_place_of_the_database_opens_nothing_that_was_suspended() {
    starts_closed(Damage::Folder);
}

#[test]
fn a_start_on_half_a_database_opens_nothing_that_was_suspended() {
    starts_closed(Damage::Cut);
}

#[test]
fn a_start_on_a_database_full_of_wrong_bytes_opens_nothing_that_was_suspended() {
    starts_closed(Damage::Flipped);
}

#[test]
fn a_start_on_records_that_cannot_be_read_opens_nothing_that_was_suspended() {
    starts_closed(Damage::Word);
}

#[test]
fn a_start_beside_somebody_who_holds_the_database_opens_nothing_that_was_suspended() {
    starts_closed(Damage::Held);
}

#[test]
fn a_start_without_the_database_that_was_there_opens_nothing_that_was_suspended() {
    let Some(lab) = Lab::new() else { return };
    let (ours, _theirs) = furnish(&lab);
    let daemon = lab.daemon();
    lab.picoseg(&["suspend", "shut", "--reason", "before"]).ok();
    assert!(daemon.term().success());
    fs::remove_file(database(&lab)).expect("our own file");
    for _ in 0..2 {
        let daemon = lab.daemon();
        for (name, number) in [("stripe", 0), ("shut", 1)] {
            assert_eq!(lab.state_of(name), "suspended", "nobody can tell whether it was");
            assert!(!passes(&lab, &ours, number), "{name}");
        }
        daemon.kill9();
    }
    let _daemon = lab.daemon();
    lab.picoseg(&["resume", "stripe", "--reason", "looked after"]).ok();
    assert!(passes(&lab, &ours, 0) && !passes(&lab, &ours, 1));
    let said = lab.picoseg(&["audit", "show", "--json"]).ok().stdout;
    assert!(said.contains("the database is gone"), "{said}");
    assert!(ledger_verifies(&lab));
}

#[test]
fn a_database_that_breaks_under_the_daemon_keeps_nobody_from_closing() {
    for damage in [Damage::Folder, Damage::Gone, Damage::Locked] {
        let Some(lab) = Lab::new() else { return };
        let (ours, _theirs) = furnish(&lab);
        let _daemon = lab.daemon();
        lab.picoseg(&["suspend", "shut", "--reason", "before"]).ok();
        let broken = Broken::new(&lab, damage);
        lab.picoseg(&["suspend", "stripe", "--reason", "meanwhile"]).ok().explains(&["not on record yet"]);
        assert!(!passes(&lab, &ours, 0) && !passes(&lab, &ours, 1), "{damage:?}");
        assert_eq!(lab.status()["store"]["ok"], false, "{damage:?}");
        nothing_more_opens(&lab);
        broken.repair();
        until("the store works again", HEALED, || lab.status()["store"]["ok"] == true);
        assert!(!passes(&lab, &ours, 0) && !passes(&lab, &ours, 1), "{damage:?}: afterwards");
        lab.picoseg(&["resume", "stripe", "--reason", "repaired"]).ok();
        assert!(passes(&lab, &ours, 0), "{damage:?}");
        assert!(ledger_verifies(&lab), "{damage:?}");
    }
}
