//! What can go wrong with the store, in words for operators: what was tried, on which path, why not, and a way out.
//!
//! Causes are part of the text, not a chain: `status` shows the whole of it in one line.

use std::path::{Path, PathBuf};

/// Why the store cannot be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("cannot use the state directory {}: {cause}; it has to be a directory that root can write (`[paths] state`)", .path.display())]
    Directory { path: PathBuf, cause: String },
    #[error("cannot open the store {}: {cause}; `[paths] state` says where it is", .path.display())]
    Open { path: PathBuf, cause: String },
    #[error("{} is not a regular file; move it away, and a new store is created", .path.display())]
    NotAFile { path: PathBuf },
    #[error("{} is not a database: its content is damaged or foreign; restore it from a backup, or move it away to begin a new one", .path.display())]
    NotADatabase { path: PathBuf },
    #[error("{} is the database of another program; move it away, or choose another `[paths] state`", .path.display())]
    Foreign { path: PathBuf },
    #[error("the store {} was written by a newer picoseg (schema {found}, this one knows {known}); nothing in it was changed: install that version again, or restore a backup from before", .path.display())]
    FromTheFuture { path: PathBuf, found: i64, known: i64 },
    #[error("the store {} cannot be brought to this version's schema: {cause}; nothing in it was changed by the step that failed", .path.display())]
    Migration { path: PathBuf, cause: String },
    #[error("cannot {what}: another process holds the store {} locked; find it with `fuser {0}`", .path.display())]
    Locked { path: PathBuf, what: &'static str },
    #[error("cannot {what}: no space is left for the store {}; free some on its file system", .path.display())]
    Full { path: PathBuf, what: &'static str },
    #[error("cannot {what}: the store {} is read-only; remount its file system for writing", .path.display())]
    ReadOnly { path: PathBuf, what: &'static str },
    #[error("cannot {what}: the store {} is damaged ({cause}); restore it from a backup, or move it away to begin a new one", .path.display())]
    Damaged { path: PathBuf, what: &'static str, cause: String },
    #[error("cannot {what}: the store {} did not answer in time; look at the disk below it", .path.display())]
    TooSlow { path: PathBuf, what: &'static str },
    #[error("cannot {what}: {} was removed or replaced while it was open; what is written to it would be lost", .path.display())]
    Replaced { path: PathBuf, what: &'static str },
    #[error("attempts wait in the kernel: somebody reads an old state of the store {}, whose log has {megabytes} MiB and cannot begin anew; find it with `fuser {0}`", .path.display())]
    LogHeld { path: PathBuf, megabytes: u64 },
    #[error("cannot {what}: the store {} is not open", .path.display())]
    Closed { path: PathBuf, what: &'static str },
    #[error("cannot use the ledger's key {}: {cause}; nothing is recorded without it, and it is never replaced unasked: restore it, or make another one (docs/ledger.md)", .path.display())]
    Key { path: PathBuf, cause: String },
    #[error("the ledger's key {} is missing, and the ledger was signed with it (public key {key}): restore it, or make another one (docs/ledger.md)", .path.display())]
    KeyMissing { path: PathBuf, key: String },
    #[error("cannot {what} in the store {}: {cause}", .path.display())]
    Failed { path: PathBuf, what: &'static str, cause: String },
}

/// What a step inside the store met, before the path and the purpose are known.
#[derive(Debug)]
pub(super) enum Fault {
    Sql(sqlx::Error),
    /// A stored value that this program never writes.
    Value(String),
    TooSlow,
    Replaced,
    Closed,
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl Fault {
    /// Says it to the operator.
    pub(super) fn explain(self, path: &Path, what: &'static str) -> StoreError {
        let path = path.to_owned();
        match self {
            Self::Sql(error) => explain_sql(&error, path, what),
            Self::Value(cause) => StoreError::Damaged { path, what, cause },
            Self::TooSlow => StoreError::TooSlow { path, what },
            Self::Replaced => StoreError::Replaced { path, what },
            Self::Closed => StoreError::Closed { path, what },
        }
    }
}

/// Primary result codes of SQLite: <https://www.sqlite.org/rescode.html>.
mod code {
    pub const BUSY: u32 = 5;
    pub const LOCKED: u32 = 6;
    pub const READONLY: u32 = 8;
    pub const INTERRUPT: u32 = 9;
    pub const CORRUPT: u32 = 11;
    pub const FULL: u32 = 13;
    pub const CANTOPEN: u32 = 14;
    pub const NOTADB: u32 = 26;
}

fn explain_sql(error: &sqlx::Error, path: PathBuf, what: &'static str) -> StoreError {
    let cause = error.to_string();
    match error {
        sqlx::Error::PoolTimedOut => return StoreError::TooSlow { path, what },
        sqlx::Error::PoolClosed => return StoreError::Closed { path, what },
        sqlx::Error::ColumnDecode { .. } => return StoreError::Damaged { path, what, cause },
        // Not ours to enumerate; the code below tells them apart.
        _ => {}
    }
    match primary_code(error) {
        Some(code::BUSY | code::LOCKED) => StoreError::Locked { path, what },
        // By our own limit.
        Some(code::INTERRUPT) => StoreError::TooSlow { path, what },
        Some(code::FULL) => StoreError::Full { path, what },
        Some(code::READONLY) => StoreError::ReadOnly { path, what },
        Some(code::CORRUPT) => StoreError::Damaged { path, what, cause },
        Some(code::NOTADB) => StoreError::NotADatabase { path },
        Some(code::CANTOPEN) => StoreError::Open { path, cause },
        Some(_) | None => StoreError::Failed { path, what, cause },
    }
}

/// The low byte of the extended result code, where the error is SQLite's.
fn primary_code(error: &sqlx::Error) -> Option<u32> {
    let code = error.as_database_error()?.code()?;
    code.parse::<u32>().ok().map(|code| code & 0xff)
}
