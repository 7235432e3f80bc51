//! The store: SQLite in the state directory, and the two plain files beside it.
//!
//! Duty: remember what was decided, done and refused. Knows [`model`](crate::model) only; times come in as arguments.
//! No call waits for long: a store that is locked, full, damaged or hangs is an error within a second, and closing
//! goes on without it, by the [`journal`]. Deliberately absent: decisions about what a broken store means.
//!
//! | file | duty |
//! |---|---|
//! | [`chain`] | pure: hashes of ledger entries, and whether they are unbroken |
//! | [`key`], [`statement`] | who signs the ledger, and the exact text that is signed |
//! | `checkpoint`, `seal` | the signed head and signed checkpoints; sums of attempts as entries |
//! | [`examine`] | pure: whether entries, statements and the end fit together |
//! | [`verify`] | feeds it from a database or an export |
//! | [`offline`], [`export`] | the ledger without a daemon: from a database, from and to a file |
//! | `past` | reads the ledger back: pages, and what tells of an instant |
//! | `ledger`, `attempts`, `baselines`, `closings`, `records`, `clock` | one table each |
//! | `kind`, `detail` | the words and the JSON of ledger entries |
//! | `fact` | several of them in one transaction, each at most once |
//! | [`journal`], `line`, `journal_file` | what could not be stored yet |
//! | `keeper` | both together: stores a fact, or keeps it for later |
//! | [`accepted`] | the last accepted configuration files |
//! | [`unconfirmed`] | files that wait to be confirmed |
//!
//! One connection writes, so that writers queue here and not in SQLite's busy handler; others only read, so that an
//! export does not hold up a close; one of these is kept for what the daemon's loop asks. Two more decisions: no compile-time checked queries (they need a database to
//! build), and text columns for times, since SQLite has no type for nanoseconds.

pub mod accepted;
pub mod chain;
pub mod examine;
pub mod export;
pub mod journal;
pub mod key;
pub mod offline;
pub mod statement;
pub mod unconfirmed;
pub mod verify;

mod attempt_cap;
mod attempt_changes;
mod attempt_hours;
mod attempt_query;
mod attempt_row;
mod attempt_totals;
mod attempts;
mod baselines;
mod checkpoint;
mod clock;
mod closings;
mod connect;
mod detail;
mod error;
mod fact;
mod history;
mod journal_file;
mod keeper;
mod kind;
mod later_attempts;
mod latest_attempts;
mod ledger;
mod line;
mod names;
mod news;
mod past;
mod records;
mod retention;
mod room;
mod seal;
mod text;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::{Sqlite, SqliteConnection, Transaction};

pub use attempt_hours::{AttemptHour, SOURCES_AN_HOUR};
pub use attempt_query::{AttemptFilter, Attempts, MOST_ROWS, ROWS};
pub use attempt_totals::AttemptTotal;
pub use attempts::{Attempt, AttemptKey, Change, Process, Verdict};
pub use baselines::Baseline;
pub use chain::{FirstBad, Head};
pub use closings::Closing;
pub use detail::Detail;
pub use error::StoreError;
pub use fact::{Fact, Pending};
pub use history::{History, SignedHead};
pub use keeper::{Keeper, Kept, Start};
pub use kind::LedgerKind;
pub use later_attempts::{AtClose, LATER_SOURCES, LaterAttempt, LaterAttempts};
pub use latest_attempts::LatestAttempt;
pub use ledger::{Entry, LedgerFilter, LedgerRow};
pub use news::{MOST as MOST_NEWS, NewSource, News};
pub use past::{Page, PageFilter};
pub use retention::{FIRST_STEP, next_step};
pub use room::LOG_MOST;
pub use seal::Sealed;

use crate::model::Time;
use connect::Connected;
use error::Fault;

/// The database's name in the state directory.
pub const FILE: &str = "picoseg.db";

/// How long a decision waits for its record; SQLite waits half of it for another process' lock.
const DECISION: Duration = Duration::from_secs(1);
/// How long lists and bulk counts may take.
const BULK: Duration = Duration::from_secs(30);
/// How long a question may take: its asker waits ten seconds.
const QUERY: Duration = Duration::from_secs(9);
/// How long it may take to read the whole ledger.
const AUDIT: Duration = Duration::from_secs(600);

/// The store of one state directory. Cheap to share by reference; every method takes `&self`.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    path: PathBuf,
    key: key::Place,
    connected: RwLock<Option<Connected>>,
    /// New sources after a decommission wait for somebody who tells.
    telling: AtomicBool,
    /// Nanoseconds since 1970; the smallest number for never.
    synced: AtomicI64,
}

/// Whether a store was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// There was none, or an empty file: it remembers no decommission.
    Created,
    Existing,
}

impl Store {
    /// A store that is not open yet: every call says so until [`Store::reopen`] worked.
    pub fn at(directory: &Path) -> Self {
        let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").filter(|value| !value.is_empty());
        Self {
            directory: directory.to_owned(),
            path: directory.join(FILE),
            key: key::Place::new(directory, credentials.map(PathBuf::from)),
            connected: RwLock::new(None),
            telling: AtomicBool::new(false),
            synced: AtomicI64::new(i64::MIN),
        }
    }

    /// Opens the store of a state directory; creates directory (0700) and database (0600) where there is none.
    pub async fn open(directory: &Path) -> Result<Self, StoreError> {
        let store = Self::at(directory);
        store.reopen().await?;
        Ok(store)
    }

    /// Opens the file anew, whatever the state before; after an error the store is closed.
    pub async fn reopen(&self) -> Result<Opened, StoreError> {
        self.close().await;
        let (connected, opened) = connect::connect(&self.directory, &self.path, &self.key).await?;
        *self.connected.write().unwrap_or_else(PoisonError::into_inner) = Some(connected);
        Ok(opened)
    }

    /// Closes the file; waits no longer than a decision would.
    pub async fn close(&self) {
        let connected = self.connected.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(connected) = connected {
            // A connection that hangs closes when it returns.
            let _ = tokio::time::timeout(DECISION, connected.close()).await;
        }
    }

    /// Proves that the store can be read and written, by writing.
    pub async fn health(&self) -> Result<(), StoreError> {
        self.promptly("write to the store", async {
            let mut transaction = self.begin().await?;
            sqlx::query("UPDATE probe SET writes = writes + 1 WHERE id = 1")
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await?;
            Ok(())
        })
        .await
    }

    /// From now on new sources after a decommission wait in [`Store::news`], or do not.
    pub fn set_telling(&self, telling: bool) {
        self.telling.store(telling, Ordering::Relaxed);
    }

    fn is_telling(&self) -> bool {
        self.telling.load(Ordering::Relaxed)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The time of the last commit of decisions, entries or the clock that SQLite has synced to the disk, as given by those
    /// who wrote; `None` before the first.
    pub fn last_synced(&self) -> Option<Time> {
        let nanoseconds = self.synced.load(Ordering::Relaxed);
        (nanoseconds != i64::MIN).then(|| Time::from_timestamp_nanos(nanoseconds))
    }

    /// How SQLite writes: its journal mode, and how it syncs (2 is FULL).
    pub async fn durability(&self) -> Result<(String, i64), StoreError> {
        self.promptly("ask how the store is synced", async {
            let mut connection = self.connected()?.writer.acquire().await?;
            let (mode,) = sqlx::query_as("PRAGMA journal_mode").fetch_one(&mut *connection).await?;
            let (level,) = sqlx::query_as("PRAGMA synchronous").fetch_one(&mut *connection).await?;
            Ok((mode, level))
        })
        .await
    }

    /// Commits, which with `synchronous=FULL` returns when the disk has it.
    async fn sync(&self, transaction: Transaction<'static, Sqlite>, now: Time) -> Result<(), Fault> {
        transaction.commit().await?;
        self.synced.store(now.timestamp_nanos_opt().unwrap_or(i64::MAX), Ordering::Relaxed);
        Ok(())
    }

    /// Begins a transaction that holds the write lock from its start: it cannot fail half-way for another writer.
    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, Fault> {
        let connected = self.connected()?;
        connected.still_in_place(&self.path)?;
        Ok(connected.writer.begin_with("BEGIN IMMEDIATE").await?)
    }

    async fn reader(&self) -> Result<PoolConnection<Sqlite>, Fault> {
        let mut connection = self.connected()?.readers.acquire().await?;
        end_within(&mut connection, BULK).await?;
        Ok(connection)
    }

    /// For what the daemon's loop waits for: those who read much have other connections.
    async fn prompt_reader(&self) -> Result<PoolConnection<Sqlite>, Fault> {
        let mut connection = self.connected()?.prompt.acquire().await?;
        end_within(&mut connection, DECISION).await?;
        Ok(connection)
    }

    /// Begins a transaction that sees the store as it is now, whatever is written meanwhile.
    async fn snapshot(&self) -> Result<Transaction<'static, Sqlite>, Fault> {
        self.snapshot_for(AUDIT).await
    }

    async fn snapshot_for(&self, limit: Duration) -> Result<Transaction<'static, Sqlite>, Fault> {
        let mut transaction = self.connected()?.readers.begin().await?;
        end_within(&mut transaction, limit).await?;
        Ok(transaction)
    }

    /// Gives back the memory in which what is written remembers pages of the file: 2 MB after a large write.
    pub async fn forget_pages(&self) -> Result<(), StoreError> {
        self.promptly("give back memory", async {
            sqlx::query("PRAGMA shrink_memory").execute(&self.connected()?.writer).await?;
            Ok(())
        })
        .await
    }

    fn connected(&self) -> Result<Connected, Fault> {
        let connected = self.connected.read().unwrap_or_else(PoisonError::into_inner);
        connected.clone().ok_or(Fault::Closed)
    }

    /// Writes that a decision waits for, and the little that is read at start.
    async fn promptly<T>(
        &self,
        what: &'static str,
        work: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, StoreError> {
        self.within(DECISION, what, work).await
    }

    /// What somebody asks for and waits.
    async fn in_query<T>(
        &self,
        what: &'static str,
        work: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, StoreError> {
        self.within(QUERY, what, work).await
    }

    /// Lists and bulk counts.
    async fn in_bulk<T>(
        &self,
        what: &'static str,
        work: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, StoreError> {
        self.within(BULK, what, work).await
    }

    /// The whole ledger.
    async fn at_length<T>(
        &self,
        what: &'static str,
        work: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, StoreError> {
        self.within(AUDIT, what, work).await
    }

    /// Work that is given up is rolled back when its connection comes back, unless it was committing: then it may
    /// still happen, which is why facts carry an id.
    async fn within<T>(
        &self,
        limit: Duration,
        what: &'static str,
        work: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, StoreError> {
        let outcome = tokio::time::timeout(limit, work).await;
        outcome.unwrap_or(Err(Fault::TooSlow)).map_err(|fault| fault.explain(&self.path, what))
    }
}

/// Bounds what a connection reads from now on, inside SQLite: a statement whose asker is gone would go on otherwise, and the
/// write-ahead log cannot begin anew behind a reader.
async fn end_within(connection: &mut SqliteConnection, limit: Duration) -> Result<(), Fault> {
    let end = Instant::now() + limit;
    connection.lock_handle().await?.set_progress_handler(STEPS, move || Instant::now() < end);
    Ok(())
}

/// Steps of SQLite's machine between two looks at the time: well below a millisecond.
const STEPS: i32 = 10_000;
