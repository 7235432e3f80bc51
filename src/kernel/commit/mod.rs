//! Commits changesets to the kernel's table in one transaction each, and reads the table back.
//!
//! One datagram carries a transaction: nfnetlink treats a datagram as a whole, and a second one would be a second
//! transaction. The table belongs to the socket that writes it (kernel 6.12 and later), so there is one such socket
//! for the life of the daemon, and another one for reading. Knows [`crate::plan`] and [`crate::ruleset`].
//! Deliberately absent: what to commit and when.

mod attributes;
mod batch;
mod damage;
mod elements;
mod error;
mod expression;
#[cfg(any(test, feature = "fuzzing"))]
pub(in crate::kernel) mod fuzz;
pub(in crate::kernel) mod named;
mod news;
mod owner;
mod read;
mod rule;
mod set;
mod socket;
mod userdata;
mod verify;

use std::ffi::CString;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::{Duration, Instant};

pub use error::{CommitError, Failure, Holder};
pub use news::News;
pub use owner::Process;
pub use read::Counted;
pub use socket::Socket;
pub use verify::Difference;

use crate::model::Time;
use crate::plan::{Changeset, Step};
use crate::ruleset::{Field, Set};
use attributes::{Attribute, Attributes};
use batch::{Datagram, Transaction};

/// NFT_TABLE_F_DORMANT: its chains hang at no hook.
const DORMANT: u32 = 0x1;
/// NFT_TABLE_F_OWNER (kernel 5.12): only the socket that created the table may change it.
const OWNER: u32 = 0x2;
/// NFT_TABLE_F_PERSIST (kernel 6.9): the table stays when its owner's socket is closed.
const PERSIST: u32 = 0x4;
/// Ends the name of the empty table that we own where ours cannot be (before 6.9): it goes when its owner does, and
/// tells a second daemon that there is a first.
const LOCK: &str = "-owner";
/// NFTA_TABLE_NAME, NFTA_TABLE_FLAGS, NFTA_TABLE_OWNER, nf_tables.h.
const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const TABLE_OWNER: u16 = 7;
/// How often deletions are tried again that met elements which expired meanwhile.
const RETRIES: u32 = 3;

/// What this kernel can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// A table can be owned and still outlive its owner (6.9 and later): nobody else can change it.
    pub persist: bool,
    /// Deleting an element that is gone already is no error (6.3 and later).
    pub destroy: bool,
}

/// What a commit did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    pub messages: usize,
    pub bytes: usize,
    /// Spent on making the messages.
    pub build: Duration,
    /// Spent in the kernel. It starts the elements' timeouts one by one, so the last element of a commit may outlive
    /// its close by so much, if only its timeout closes it.
    pub kernel: Duration,
}

/// How the kernel's table stands to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Absent,
    /// We can write to it.
    Ours,
    /// Its owner is gone; we can take it over.
    Orphaned,
    /// Somebody put it to sleep; with these flags it wakes up.
    Asleep(u32),
    /// It cannot be protected any more: to be replaced as a whole.
    Unprotected,
}

/// Our table in the network namespace in which it was opened.
pub struct Table {
    name: String,
    protect: bool,
    features: Features,
    /// The kernel lets us own a table, but not one that outlives us (5.12 to 6.8).
    locks: bool,
    /// The owner of the table is this socket.
    writer: Socket,
    reader: Socket,
    /// The table was there when we last looked.
    seen: bool,
    /// How long the last commit took after the clock was read: its timeouts may have begun so much later.
    slack: Duration,
    /// The longest of them.
    longest_slack: Duration,
    listener: Option<news::Listener>,
    /// What others did, heard while we wrote.
    heard: News,
}

impl Table {
    /// Opens the table for writing; creates nothing. With `protect`, commits make it ours alone where the kernel can.
    pub fn open(name: &str, protect: bool) -> Result<Self, CommitError> {
        Self::open_with(Socket::open()?, name, protect)
    }

    /// The same with a socket that may own the table already.
    pub fn open_with(writer: Socket, name: &str, protect: bool) -> Result<Self, CommitError> {
        text(name)?;
        let mut table = Self {
            name: name.to_owned(),
            protect,
            features: Features { persist: false, destroy: false },
            locks: false,
            writer,
            reader: Socket::open()?,
            seen: false,
            slack: Duration::ZERO,
            longest_slack: Duration::ZERO,
            listener: None,
            heard: News::default(),
        };
        table.generation()?;
        table.features = table.probe()?;
        table.locks = !table.features.persist
            && table.would_accept(|transaction, scratch| transaction.add_table(scratch, OWNER))?;
        table.standing()?;
        Ok(table)
    }

    /// The socket that owns the table, or will. Whoever holds a copy of it keeps the table ours when this process is gone.
    pub fn owner(&self) -> BorrowedFd<'_> {
        self.writer.as_fd()
    }

    pub fn features(&self) -> Features {
        self.features
    }

    /// Commits a changeset whole or not at all. `clock` is read last of all, for the elements' timeouts; elements whose
    /// close has passed are left out.
    pub fn commit(
        &mut self,
        changeset: &Changeset,
        clock: &dyn Fn() -> Time,
    ) -> Result<Committed, CommitError> {
        for _ in 0..RETRIES {
            match self.commit_once(changeset, clock) {
                Err(CommitError::Refused { failures, .. }) if self.only_expired(changeset, &failures) => {}
                result => return result,
            }
        }
        self.commit_once(changeset, clock)
    }

    /// Removes our own table; false: it was not there.
    pub fn remove(&mut self) -> Result<bool, CommitError> {
        if self.standing()? == Standing::Absent {
            return Ok(false);
        }
        let mut transaction = Transaction::new(self.features.destroy, Time::UNIX_EPOCH);
        transaction.delete_table(&self.name)?;
        match self.send(&transaction.finish()) {
            Err(CommitError::Refused { failures, .. }) if all_absent(&failures) => Ok(false),
            result => result.map(|_| true),
        }
    }

    /// Removes a table that nobody owns; false: it was not there.
    pub fn unload(name: &str) -> Result<bool, CommitError> {
        Self::open(name, false)?.remove()
    }

    /// Commits a whole table in place of whatever is there. What packets have filled is lost.
    pub fn commit_anew(
        &mut self,
        whole: &Changeset,
        clock: &dyn Fn() -> Time,
    ) -> Result<Committed, CommitError> {
        self.commit_upon(true, whole, clock)
    }

    fn commit_once(
        &mut self,
        changeset: &Changeset,
        clock: &dyn Fn() -> Time,
    ) -> Result<Committed, CommitError> {
        self.commit_upon(false, changeset, clock)
    }

    fn commit_upon(
        &mut self,
        nothing: bool,
        changeset: &Changeset,
        clock: &dyn Fn() -> Time,
    ) -> Result<Committed, CommitError> {
        let began = Instant::now();
        let mut transaction = Transaction::new(self.features.destroy, clock());
        match nothing && self.standing()? != Standing::Absent {
            true => {
                transaction.delete_table(&self.name)?;
                transaction.add_table(&self.name, self.table_flags())?;
            }
            false => self.prepare(&mut transaction)?,
        }
        // A whole table deletes nothing and is large: no copy of it.
        if changeset.steps.iter().any(deletes_expiring) {
            let steps = self.without_expired(&changeset.steps)?;
            transaction.add(&self.name, &steps)?;
        } else {
            transaction.add(&self.name, &changeset.steps)?;
        }
        let mut datagram = transaction.finish();
        let build = began.elapsed();
        let left = self.stop_listening(datagram.messages());
        let counting = Instant::now();
        datagram.count_from(clock());
        let sent = self.send(&datagram);
        self.slack = counting.elapsed();
        if left {
            self.listen_again(sent.is_ok());
        }
        let kernel = sent?;
        self.seen = true;
        self.longest_slack = self.longest_slack.max(self.slack);
        Ok(Committed { messages: datagram.messages(), bytes: datagram.bytes.len(), build, kernel })
    }

    /// Begins a transaction with what makes the table writable.
    fn prepare(&mut self, transaction: &mut Transaction) -> Result<(), CommitError> {
        let standing = self.standing()?;
        if self.protect && self.locks {
            transaction.add_table(&self.lock(), OWNER)?;
        }
        match standing {
            Standing::Ours => Ok(()),
            Standing::Absent if std::mem::take(&mut self.seen) => {
                Err(CommitError::Vanished { table: self.name.clone() })
            }
            Standing::Absent | Standing::Orphaned => transaction.add_table(&self.name, self.table_flags()),
            Standing::Asleep(flags) => transaction.add_table(&self.name, flags),
            Standing::Unprotected => {
                transaction.delete_table(&self.name)?;
                transaction.add_table(&self.name, self.table_flags())
            }
        }
    }

    /// True when nobody else can write to the table, and it outlasts its owner.
    pub fn protects(&self) -> bool {
        self.protect && self.features.persist
    }

    fn table_flags(&self) -> u32 {
        if self.protects() { OWNER | PERSIST } else { 0 }
    }

    fn lock(&self) -> String {
        format!("{}{LOCK}", self.name)
    }

    /// Looks at the table. An error when another socket owns it.
    fn standing(&mut self) -> Result<Standing, CommitError> {
        if self.locks {
            self.look(&self.lock())?;
        }
        let Some((flags, owner)) = self.look(&self.name.clone())? else {
            return Ok(Standing::Absent);
        };
        match owner {
            Some(_) => Ok(Standing::Ours),
            None if !self.protects() && flags & DORMANT != 0 => Ok(Standing::Asleep(flags & PERSIST)),
            None if !self.protects() => Ok(Standing::Ours),
            None if flags & PERSIST != 0 => Ok(Standing::Orphaned),
            None => Ok(Standing::Unprotected),
        }
    }

    /// Flags and owner of a table, which is nobody or ourselves: another one is an error.
    fn look(&mut self, name: &str) -> Result<Option<(u32, Option<u32>)>, CommitError> {
        let found = self
            .reader
            .get(libc::NFT_MSG_GETTABLE as u16, |request| request.text(TABLE_NAME, name))
            .map_err(|error| CommitError::netlink(&format!("read table inet {name}"), error))?;
        let Some(message) = found else {
            return Ok(None);
        };
        let attributes = Attributes::of_message(&message);
        let flags = attributes.clone().find_kind(TABLE_FLAGS).and_then(Attribute::u32);
        match attributes.clone().find_kind(TABLE_OWNER).and_then(Attribute::u32) {
            Some(port) if port != self.writer.port() => Err(CommitError::HeldByAnother {
                table: self.name.clone(),
                holder: Holder { port, process: owner::holder(port) },
            }),
            owner => Ok(Some((flags.unwrap_or(0), owner))),
        }
    }

    /// Sends a transaction; returns the time spent in the kernel.
    fn send(&mut self, datagram: &Datagram) -> Result<Duration, CommitError> {
        let table = self.name.clone();
        self.writer.reserve(datagram.bytes.len());
        let began = Instant::now();
        self.writer.send(&datagram.bytes).map_err(|error| match error.raw_os_error() {
            Some(libc::EMSGSIZE) => {
                CommitError::TooLarge { table: table.clone(), bytes: datagram.bytes.len() }
            }
            _ => CommitError::netlink(&format!("commit table inet {table}"), error),
        })?;
        let kernel = began.elapsed();
        let Ok(answers) = self.writer.answers() else {
            return Err(CommitError::NoAnswer { table });
        };
        let failures = datagram.failures(&answers);
        match (failures.is_empty(), datagram.answered(&answers)) {
            (false, _) => Err(CommitError::Refused { table, failures }),
            (true, false) => Err(CommitError::NoAnswer { table }),
            (true, true) => Ok(kernel),
        }
    }

    /// Tries what this kernel can do in transactions that are checked and never committed.
    fn probe(&mut self) -> Result<Features, CommitError> {
        Ok(Features {
            persist: self
                .would_accept(|transaction, scratch| transaction.add_table(scratch, OWNER | PERSIST))?,
            destroy: self.would_accept(probe_destroy)?,
        })
    }

    fn would_accept(
        &mut self,
        fill: impl FnOnce(&mut Transaction, &str) -> Result<(), CommitError>,
    ) -> Result<bool, CommitError> {
        let scratch = format!("{}-probe-{}", self.name, self.writer.port());
        let mut transaction = Transaction::new(true, Time::UNIX_EPOCH);
        fill(&mut transaction, &scratch)?;
        let datagram = transaction.finish().without_end();
        let failed = |error| CommitError::netlink("probe what nf_tables can do", error);
        self.writer.send(&datagram.bytes).map_err(failed)?;
        let answers = self.writer.answers().map_err(failed)?;
        Ok(datagram.failures(&answers).is_empty())
    }

    /// True when all that was refused are deletions of elements that expire by themselves, and elements that find others
    /// in their place: the kernel leaves a message at the first deletion that it refuses.
    fn only_expired(&self, changeset: &Changeset, failures: &[Failure]) -> bool {
        let is = |errno| move |failure: &Failure| failure.errno == errno;
        let (absent, in_the_way) = (is(libc::ENOENT), is(libc::EEXIST));
        changeset.steps.iter().any(deletes_expiring)
            && failures.iter().any(absent)
            && failures.iter().all(|failure| absent(failure) || in_the_way(failure))
    }
}

fn all_absent(failures: &[Failure]) -> bool {
    failures.iter().all(|failure| failure.errno == libc::ENOENT)
}

fn probe_destroy(transaction: &mut Transaction, scratch: &str) -> Result<(), CommitError> {
    use crate::ruleset::Key;
    let set = Set::plain(&[Field::Protocol]);
    let key = Key::builder().protocol(0).build();
    transaction.add_table(scratch, 0)?;
    let steps = [
        Step::AddSet("probe".into(), set.clone()),
        Step::DeleteElements("probe".into(), set, vec![(key, None)]),
    ];
    transaction.add(scratch, &steps)
}

/// A name for libnftnl.
fn text(name: &str) -> Result<CString, CommitError> {
    CString::new(name).map_err(|_| CommitError::Nul { object: format!("{name:?}") })
}

/// Deletes elements that may be gone already.
fn deletes_expiring(step: &Step) -> bool {
    matches!(step, Step::DeleteElements(_, set, _) if set.expires)
}

#[cfg(test)]
mod kept_tests;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruleset::{Element, Key};
    use chrono::{TimeDelta, Utc};

    #[test]
    fn a_table_can_move_to_another_thread() {
        fn movable<T: Send>() {}
        movable::<Table>();
    }

    /// As before Linux 6.3: an element that is gone cannot be deleted.
    #[test]
    fn what_expires_while_a_transaction_is_built_holds_none_of_it_up() {
        if !nix::unistd::geteuid().is_root() {
            return println!("SKIPPED: needs root for a network namespace");
        }
        let stage = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let mut table = Table::open("picoseg", false).unwrap();
            table.features.destroy = false;
            let port = |port| Key::builder().port(port).build();
            let set = Set::plain(&[Field::Port]).with_intervals().with_expiry();
            let range = |last, closes_at| Element {
                last: Some(port(last)),
                closes_at: Some(closes_at),
                ..Element::default()
            };
            let (soon, later) = (Utc::now() + TimeDelta::milliseconds(300), Utc::now() + TimeDelta::hours(1));
            let old = [(port(10), range(20, soon)), (port(100), range(200, later))];
            let new = [(port(100), range(300, later))];
            let change = |steps| Changeset { table: "picoseg".to_owned(), steps };
            let made = change(vec![
                Step::AddSet("s".into(), set.clone()),
                Step::AddElements("s".into(), set.clone(), old.into_iter().collect()),
            ]);
            table.commit(&made, &Utc::now).unwrap();
            let gone = vec![(port(10), Some(port(20))), (port(100), Some(port(200)))];
            let changed = change(vec![
                Step::DeleteElements("s".into(), set.clone(), gone),
                Step::AddElements("s".into(), set, new.into_iter().collect()),
            ]);
            // The second look at the clock is the last before the sending.
            let looks = std::cell::Cell::new(0);
            let clock = || {
                looks.set(looks.get() + 1);
                if looks.get() == 2 {
                    std::thread::sleep(std::time::Duration::from_millis(700));
                }
                Utc::now()
            };
            table.commit(&changed, &clock).unwrap();
            assert!(looks.get() > 2, "nothing expired in between");
            assert_eq!(table.verify(&changed, &Utc::now).unwrap(), []);
            table.remove().unwrap();
        });
        stage.join().unwrap();
    }

    /// As kernels from 5.12 to 6.8.
    fn without_persist() -> Table {
        let mut table = Table::open("picoseg", true).unwrap();
        table.features.persist = false;
        table.locks = true;
        table
    }

    #[test]
    fn a_second_daemon_is_told_where_the_table_cannot_be_owned() {
        if !nix::unistd::geteuid().is_root() {
            return println!("SKIPPED: needs root for a network namespace");
        }
        let stage = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let commit = |table: &mut Table, counter: &str| {
                let steps = vec![Step::AddCounter(counter.to_owned())];
                table.commit(&Changeset { table: "picoseg".to_owned(), steps }, &Utc::now)
            };
            let (mut first, mut second) = (without_persist(), without_persist());
            commit(&mut first, "a").unwrap();
            commit(&mut first, "b").unwrap();
            let Err(CommitError::HeldByAnother { holder, .. }) = second.standing() else {
                panic!("nothing says that there is a first");
            };
            assert_eq!(holder.process.map(|process| process.id), Some(std::process::id()));
            assert!(commit(&mut second, "c").is_err());
            assert!(second.remove().is_err());
            drop(first);
            commit(&mut second, "c").unwrap();
            assert_eq!(second.inventory().unwrap().unwrap().counters, ["a", "b", "c"]);
            assert!(second.remove().unwrap());
        });
        stage.join().unwrap();
    }

    /// Kernels before 6.3 refuse the deletion of what is gone.
    #[test]
    fn expired_elements_are_deleted_without_destroy_as_well() {
        if !nix::unistd::geteuid().is_root() {
            return println!("SKIPPED: needs root for a network namespace");
        }
        let stage = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let mut table = Table::open("picoseg", true).unwrap();
            table.features.destroy = false;
            let set = Set::plain(&[Field::Port]).with_expiry();
            let key = |port| Key::builder().port(port).build();
            let until = |ms| Element {
                closes_at: Some(Utc::now() + TimeDelta::milliseconds(ms)),
                ..Element::default()
            };
            let commit = |table: &mut Table, steps| {
                let table_name = "picoseg".to_owned();
                let changeset = Changeset { table: table_name, steps };
                table.commit(&changeset, &Utc::now).unwrap();
                assert_eq!(table.verify(&changeset, &Utc::now).unwrap(), []);
            };
            let elements = vec![(key(1), until(50)), (key(2), until(60_000))];
            let added = vec![
                Step::AddSet("ports".into(), set.clone()),
                Step::AddElements("ports".into(), set.clone(), elements.into()),
            ];
            commit(&mut table, added);
            std::thread::sleep(Duration::from_millis(80));
            let keys = vec![(key(1), None), (key(2), None)];
            commit(&mut table, vec![Step::DeleteElements("ports".into(), set, keys)]);
        });
        stage.join().unwrap();
    }
}
