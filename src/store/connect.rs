//! Opening: directory, file, version, connections. Nothing is changed before it is known to be ours to change.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Access, access};
use sqlx::migrate::Migrator;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, SqliteConnection};

use super::checkpoint;
use super::error::Fault;
use super::key::{Key, Place};
use super::{Opened, StoreError};

/// The numbered steps from an empty file to this version's tables. A released step never changes.
pub(super) static MIGRATIONS: Migrator = sqlx::migrate!();

/// Connections for lists, exports and reports; more of these at once wait for each other.
const READERS: u32 = 3;
/// The write-ahead log is cut to this when it begins anew: one large write must not keep the space for ever.
const LOG_BYTES: &str = "67108864";
/// Half of what a decision waits, so that a lock is named as such and not as slowness.
const BUSY: Duration = Duration::from_millis(500);
/// Migrations of a large store take longer than a decision waits.
const OPENING: Duration = Duration::from_secs(30);
const OPEN: &str = "open it";

/// The connections to an open database, and which file they hold.
#[derive(Debug, Clone)]
pub(super) struct Connected {
    pub writer: SqlitePool,
    pub readers: SqlitePool,
    pub key: Arc<Key>,
    /// For what the daemon's loop reads itself.
    pub prompt: SqlitePool,
    file: FileId,
}

/// Device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileId(u64, u64);

impl Connected {
    /// Refuses a file that was removed or replaced: SQLite would go on writing to the one that nobody finds again.
    pub fn still_in_place(&self, path: &Path) -> Result<(), Fault> {
        match file_id(path) {
            Ok(id) if id == self.file => Ok(()),
            Ok(_) | Err(_) => Err(Fault::Replaced),
        }
    }

    pub async fn close(self) {
        // The writer last, since the last connection to close folds the write-ahead log into the database.
        for pool in [&self.readers, &self.prompt, &self.writer] {
            pool.close().await;
            // Again: a connection that was on its way back lies idle after the first round (sqlx 0.8.6).
            pool.close().await;
        }
    }
}

fn file_id(path: &Path) -> io::Result<FileId> {
    fs::metadata(path).map(|metadata| FileId(metadata.dev(), metadata.ino()))
}

pub(super) async fn connect(
    directory: &Path,
    path: &Path,
    place: &Place,
) -> Result<(Connected, Opened), StoreError> {
    let within = tokio::time::timeout(OPENING, async {
        let opened = prepare(directory, path).await?;
        let options = options(path)?;
        examine(path, &options).await?;
        restrict(path)?;
        Ok((connections(path, options, place).await?, opened))
    });
    within.await.unwrap_or_else(|_| Err(StoreError::TooSlow { path: path.to_owned(), what: OPEN }))
}

/// Aside, since a file system that hangs would hold up the thread.
async fn prepare(directory: &Path, path: &Path) -> Result<Opened, StoreError> {
    let (parent, file) = (directory.to_owned(), path.to_owned());
    let created = tokio::task::spawn_blocking(move || {
        create_directory(&parent)?;
        let opened = create_file(&file)?;
        may_write(&parent)?;
        may_write(&file)?;
        Ok(opened)
    });
    created
        .await
        .unwrap_or_else(|error| Err(StoreError::Open { path: path.to_owned(), cause: error.to_string() }))
}

fn create_directory(directory: &Path) -> Result<(), StoreError> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|error| match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::StorageFull => cannot_open(directory, &error),
        _ => StoreError::Directory { path: directory.to_owned(), cause: error.to_string() },
    })
}

/// Creates the file before SQLite does, which would ask the umask who may read it.
fn create_file(path: &Path) -> Result<Opened, StoreError> {
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => Err(StoreError::NotAFile { path: path.to_owned() }),
        Ok(metadata) if metadata.len() > 0 => Ok(Opened::Existing),
        // What is left where the disk was full while the store was created.
        Ok(_) => Ok(Opened::Created),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            new_file(path).map(|_| Opened::Created).map_err(|error| cannot_open(path, &error))
        }
        Err(error) => Err(cannot_open(path, &error)),
    }
}

/// Asks the file system, which names a reason that SQLite does not. Never by opening the database: closing that again would
/// drop the locks of every connection of this process.
fn may_write(path: &Path) -> Result<(), StoreError> {
    access(path, Access::WRITE_OK).map_err(|error| cannot_open(path, &error.into()))
}

fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Takes the file away from others than root; the files beside it get its mode from SQLite.
fn restrict(path: &Path) -> Result<(), StoreError> {
    let failed = |error: io::Error| cannot_open(path, &error);
    if fs::metadata(path).map_err(failed)?.mode() & 0o077 == 0 {
        return Ok(());
    }
    fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)
}

fn cannot_open(path: &Path, error: &io::Error) -> StoreError {
    let path = path.to_owned();
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => StoreError::ReadOnly { path, what: OPEN },
        io::ErrorKind::StorageFull => StoreError::Full { path, what: OPEN },
        _ => StoreError::Open { path, cause: error.to_string() },
    }
}

fn options(path: &Path) -> Result<SqliteConnectOptions, StoreError> {
    // A relative path that begins with `file:` would be read as a URI.
    let absolute = std::path::absolute(path).map_err(|error| cannot_open(path, &error))?;
    Ok(SqliteConnectOptions::new()
        .filename(absolute)
        .create_if_missing(false)
        .busy_timeout(BUSY)
        .disable_statement_logging())
}

/// Looks, read-only, whose database this is and which version wrote it.
async fn examine(path: &Path, options: &SqliteConnectOptions) -> Result<(), StoreError> {
    let explain = |fault: Fault| fault.explain(path, OPEN);
    let mut connection = SqliteConnection::connect_with(&options.clone().read_only(true))
        .await
        .map_err(|error| explain(error.into()))?;
    let found = schema(&mut connection).await;
    // It only read: there is nothing that closing could lose.
    let _ = connection.close().await;
    let known = MIGRATIONS.iter().map(|step| step.version).max().unwrap_or(0);
    match found.map_err(explain)? {
        Schema::Empty => Ok(()),
        Schema::Ours { version } if version <= known => Ok(()),
        Schema::Ours { version: found } => {
            Err(StoreError::FromTheFuture { path: path.to_owned(), found, known })
        }
        Schema::Foreign => Err(StoreError::Foreign { path: path.to_owned() }),
    }
}

pub(super) enum Schema {
    Empty,
    Ours { version: i64 },
    Foreign,
}

pub(super) async fn schema(connection: &mut SqliteConnection) -> Result<Schema, Fault> {
    let (tables, ours): (i64, i64) = sqlx::query_as(
        "SELECT count(*), count(*) FILTER (WHERE name = '_sqlx_migrations') FROM sqlite_schema WHERE type = 'table'",
    )
    .fetch_one(&mut *connection)
    .await?;
    if ours == 0 {
        return Ok(if tables == 0 { Schema::Empty } else { Schema::Foreign });
    }
    let (version, application): (i64, i64) = sqlx::query_as(
        "SELECT coalesce(max(version), 0), (SELECT * FROM pragma_application_id) FROM _sqlx_migrations",
    )
    .fetch_one(connection)
    .await?;
    // Before the first step was through, nothing is marked.
    let foreign = version > 0 && application != APPLICATION;
    Ok(if foreign { Schema::Foreign } else { Schema::Ours { version } })
}

/// The mark that the first migration leaves: "pico".
const APPLICATION: i64 = 0x7069_636f;

async fn connections(
    path: &Path,
    options: SqliteConnectOptions,
    place: &Place,
) -> Result<Connected, StoreError> {
    let explain = |error: sqlx::Error| Fault::from(error).explain(path, OPEN);
    let options =
        options.journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full).foreign_keys(true);
    let options = options.pragma("journal_size_limit", LOG_BYTES);
    let writer = pool(1).connect_with(options.clone()).await.map_err(explain)?;
    migrate(path, &writer).await?;
    let key = key(path, &writer, place).await?;
    let reading = options.pragma("query_only", "ON");
    let readers = pool(READERS).connect_with(reading.clone()).await.map_err(explain)?;
    let prompt = pool(1).connect_with(reading).await.map_err(explain)?;
    let file = file_id(path).map_err(|error| cannot_open(path, &error))?;
    Ok(Connected { writer, readers, prompt, key, file })
}

/// The key, which has to be there when the ledger was signed before.
async fn key(path: &Path, writer: &SqlitePool, place: &Place) -> Result<Arc<Key>, StoreError> {
    let signer = async {
        let mut connection = writer.acquire().await?;
        checkpoint::signer(&mut connection).await
    };
    let signer = signer.await.map_err(|fault: Fault| fault.explain(path, OPEN))?;
    let (place, expected) = (place.clone(), signer.clone());
    let loaded = tokio::task::spawn_blocking(move || place.load(expected.as_ref())).await;
    let key = loaded
        .unwrap_or_else(|error| Err(StoreError::Open { path: path.to_owned(), cause: error.to_string() }))?;
    if let Some(before) = signer.filter(|before| before != key.public()) {
        tracing::warn!(%before, now = %key.public(), "the ledger is signed with another key from now on");
    }
    Ok(Arc::new(key))
}

fn pool(size: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(size)
        // Also limits the first connection, which may take seconds after a boot; each use has a limit of its own.
        .acquire_timeout(OPENING)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
}

async fn migrate(path: &Path, writer: &SqlitePool) -> Result<(), StoreError> {
    use sqlx::migrate::MigrateError;
    MIGRATIONS.run(writer).await.map_err(|error| match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            Fault::from(error).explain(path, OPEN)
        }
        other => StoreError::Migration { path: path.to_owned(), cause: other.to_string() },
    })
}
