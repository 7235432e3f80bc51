//! The ledger of a database file, read without a daemon: also while one runs, also of a copy. Nothing is written.
//!
//! Everything is read as of one instant. A file that nobody has open is read as it is, without the files that SQLite would
//! put beside it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, Row, SqliteConnection};

use super::connect::{self, Schema};
use super::error::Fault;
use super::statement::{Purpose, Statement};
use super::{Head, LedgerFilter, LedgerRow, StoreError, ledger, text};

const READ: &str = "read the ledger";

/// An open ledger.
#[derive(Debug)]
pub struct Ledger {
    connection: SqliteConnection,
    path: PathBuf,
    version: i64,
    /// Nobody had it open when it was opened.
    quiet: bool,
}

/// Where the ledger says that it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    pub head: Head,
    /// The line that was signed; `None` in a ledger that never was.
    pub signed: Option<String>,
}

/// A checkpoint as it stands in its columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub seq: u64,
    at: String,
    hash: String,
    key: String,
    signature: String,
}

impl Stored {
    /// The line of the statement, as far as the columns have their form.
    pub fn line(&self, origin: &str) -> String {
        let Self { seq, at, hash, key, signature } = self;
        format!("{}{origin} {seq} {hash} {at} {key} {signature}", Purpose::Checkpoint.prefix())
    }

    /// The statement; `None` where a column has not its form.
    pub fn statement(&self, origin: &str) -> Option<Statement> {
        Statement::parse(&self.line(origin))
    }
}

/// Versions of the schema that brought the tables.
const CHECKPOINTS: i64 = 5;
const SIGNED_HEAD: i64 = 7;

impl Ledger {
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let explain = |fault: Fault| fault.explain(path, READ);
        let absolute = std::path::absolute(path)
            .map_err(|error| StoreError::Open { path: path.to_owned(), cause: error.to_string() })?;
        let quiet = !log(path).exists();
        let options = SqliteConnectOptions::new()
            .filename(absolute)
            .create_if_missing(false)
            .read_only(true)
            .immutable(quiet)
            .disable_statement_logging();
        let mut connection = options.connect().await.map_err(|error| explain(error.into()))?;
        let known = connect::MIGRATIONS.iter().map(|step| step.version).max().unwrap_or(0);
        let version = match connect::schema(&mut connection).await.map_err(explain)? {
            Schema::Ours { version } if version <= known => version,
            Schema::Ours { version: found } => {
                return Err(StoreError::FromTheFuture { path: path.to_owned(), found, known });
            }
            Schema::Empty | Schema::Foreign => return Err(StoreError::Foreign { path: path.to_owned() }),
        };
        // Reads as of the first one, whatever is written meanwhile.
        sqlx::query("BEGIN").execute(&mut connection).await.map_err(|error| explain(error.into()))?;
        Ok(Self { connection, path: path.to_owned(), version, quiet })
    }

    /// Whether somebody opened the file since: what was read may be torn.
    pub fn was_disturbed(&self) -> bool {
        self.quiet && log(&self.path).exists()
    }

    pub async fn end(&mut self) -> Result<End, StoreError> {
        let read = async {
            let head = ledger::head(&mut self.connection).await?;
            let signed = match self.version >= SIGNED_HEAD {
                true => sqlx::query("SELECT signed FROM ledger_head WHERE id = 1")
                    .fetch_one(&mut self.connection)
                    .await?
                    .try_get("signed")?,
                false => None,
            };
            Ok(End { head, signed })
        };
        read.await.map_err(|fault: Fault| fault.explain(&self.path, READ))
    }

    /// The entries of a page, in the order of their numbers.
    pub async fn entries(&mut self, filter: &LedgerFilter) -> Result<Vec<LedgerRow>, StoreError> {
        let rows = ledger::select(&mut self.connection, filter).await;
        rows.map_err(|fault| fault.explain(&self.path, READ))
    }

    /// Whether there are entries with numbers below 1, which no reader would meet.
    pub async fn has_hidden(&mut self) -> Result<bool, StoreError> {
        let row = sqlx::query("SELECT EXISTS (SELECT 1 FROM ledger WHERE seq < 1)")
            .fetch_one(&mut self.connection)
            .await
            .and_then(|row| row.try_get::<bool, _>(0));
        row.map_err(|error| Fault::from(error).explain(&self.path, READ))
    }

    /// Stored checkpoints behind an entry, at most so many.
    pub async fn checkpoints(&mut self, after: i64, limit: u32) -> Result<Vec<Stored>, StoreError> {
        if self.version < CHECKPOINTS {
            return Ok(Vec::new());
        }
        let read = async {
            let rows = sqlx::query(
                "SELECT seq, at, hash, key, signature FROM checkpoints WHERE seq > ? ORDER BY seq LIMIT ?",
            )
            .bind(after)
            .bind(limit)
            .fetch_all(&mut self.connection)
            .await?;
            rows.iter()
                .map(|row| {
                    Ok(Stored {
                        seq: text::to_count(row.try_get("seq")?)?,
                        at: row.try_get("at")?,
                        hash: row.try_get("hash")?,
                        key: row.try_get("key")?,
                        signature: row.try_get("signature")?,
                    })
                })
                .collect::<Result<_, Fault>>()
        };
        read.await.map_err(|fault: Fault| fault.explain(&self.path, READ))
    }

    pub async fn close(self) {
        // It only read: there is nothing that closing could lose.
        let _ = self.connection.close().await;
    }
}

/// The write-ahead log, which stands beside a database that somebody has open, or that a crash left.
fn log(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push("-wal");
    name.into()
}
