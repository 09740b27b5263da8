//! The file: who may hold it, how it is made, and whether it is what it was.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::{ops, store_error};
use crate::backend::StoreError;
use crate::seal::{Sealed, Sealer};

/// `CSG1`: how SQLite's header says whose file it is.
const APPLICATION_ID: i64 = 0x4353_4731;
/// The schema below. Raised with every change of it.
const SCHEMA_VERSION: i64 = 1;

const SCHEMA: &str = "
    CREATE TABLE rows(kind TEXT NOT NULL, id TEXT NOT NULL, version INTEGER NOT NULL, body BLOB NOT NULL,
        seal BLOB NOT NULL, PRIMARY KEY(kind, id)) STRICT, WITHOUT ROWID;
    CREATE TABLE keys(kind TEXT NOT NULL, id TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL,
        uniq INTEGER NOT NULL, seal BLOB NOT NULL, PRIMARY KEY(kind, id, name, value)) STRICT, WITHOUT ROWID;
    CREATE INDEX keys_by_value ON keys(kind, name, value, id);
    CREATE UNIQUE INDEX keys_unique ON keys(kind, name, value) WHERE uniq = 1;
    CREATE TABLE consumed(kind TEXT NOT NULL, id TEXT NOT NULL, keep_until INTEGER NOT NULL, seal BLOB NOT NULL,
        PRIMARY KEY(kind, id)) STRICT, WITHOUT ROWID;
    CREATE INDEX consumed_by_end ON consumed(keep_until);
    CREATE TABLE meta(name TEXT NOT NULL PRIMARY KEY, value INTEGER NOT NULL, seal BLOB NOT NULL)
        STRICT, WITHOUT ROWID;
";

/// Held as long as the store is open; the kernel releases it when the process dies, however it dies.
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes `<path>.lock`.
    pub fn take(path: &Path) -> Result<Self, StoreError> {
        let lock = beside(path, ".lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&lock)
            .map_err(|error| unavailable("lock file", &error))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(StoreError::InUse(path.display().to_string())),
            Err(TryLockError::Error(error)) => Err(unavailable("lock", &error)),
        }
    }
}

/// Makes the file if there is none: complete under another name first, then renamed, so that a file under the real
/// name is never half made. An empty file is therefore damage, not a fresh start.
pub fn create_if_absent(path: &Path, sealer: &Sealer) -> Result<(), StoreError> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() == 0 => {
            return Err(StoreError::Corrupt("the file is empty".to_owned()));
        }
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(unavailable("file", &error)),
    }
    if beside(path, "-wal").exists() {
        // A log of changes without the file they change: somebody removed the store.
        return Err(StoreError::Corrupt("the write-ahead log is there but the file is not".to_owned()));
    }
    let fresh = beside(path, ".new");
    let file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&fresh)
        .map_err(|error| unavailable("new file", &error))?;
    let connection = Connection::open(&fresh).map_err(|error| store_error(&error))?;
    fill(&connection, sealer).map_err(|error| store_error(&error))?;
    connection.close().map_err(|(_, error)| store_error(&error))?;
    file.sync_all().map_err(|error| unavailable("new file", &error))?;
    std::fs::rename(&fresh, path).map_err(|error| unavailable("rename", &error))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| unavailable("folder", &error))
}

fn fill(connection: &Connection, sealer: &Sealer) -> rusqlite::Result<()> {
    connection.execute_batch("PRAGMA synchronous=FULL; BEGIN IMMEDIATE;")?;
    connection.execute_batch(SCHEMA)?;
    connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    connection.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    ops::put_meta(connection, sealer, ops::COLLECTED_BEFORE, i64::MIN)?;
    connection.execute_batch("COMMIT")
}

/// The connection of the writer, set up for durability.
pub fn open_for_writing(path: &Path) -> Result<Connection, StoreError> {
    let connection = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let mode: String = connection
        .query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0))
        .map_err(|error| store_error(&error))?;
    if mode != "wal" {
        return Err(StoreError::Unavailable(format!("journal mode is {mode}, not wal")));
    }
    connection.execute_batch("PRAGMA synchronous=FULL").map_err(|error| store_error(&error))?;
    Ok(connection)
}

/// A connection that cannot write.
pub fn open_for_reading(path: &Path) -> Result<Connection, StoreError> {
    open(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

fn open(path: &Path, access: OpenFlags) -> Result<Connection, StoreError> {
    let set_up = || -> rusqlite::Result<Connection> {
        let connection = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        connection.execute_batch("PRAGMA cell_size_check=ON; PRAGMA mmap_size=0;")?;
        connection.set_prepared_statement_cache_capacity(64);
        Ok(connection)
    };
    set_up().map_err(|error| store_error(&error))
}

/// Whose file it is, and whether this program may touch it. What is in it: [`verify_contents`].
pub fn verify(connection: &Connection, sealer: &Sealer) -> Result<(), StoreError> {
    let pragma = |name: &str| -> Result<i64, StoreError> {
        connection.pragma_query_value(None, name, |row| row.get(0)).map_err(|error| store_error(&error))
    };
    if pragma("application_id")? != APPLICATION_ID {
        return Err(StoreError::Corrupt("the file is not a countersign store".to_owned()));
    }
    let found = pragma("user_version")?;
    if found > SCHEMA_VERSION {
        return Err(StoreError::Newer { found, known: SCHEMA_VERSION });
    }
    if found != SCHEMA_VERSION {
        return Err(StoreError::Corrupt(format!("schema version {found} never existed")));
    }
    // The first seal to be looked at is there from the beginning: if it fails, the key is the likelier cause.
    if !ops::meta_seal_holds(connection, sealer, ops::COLLECTED_BEFORE)
        .map_err(|error| store_error(&error))?
    {
        return Err(StoreError::WrongKey);
    }
    Ok(())
}

/// Whether the structure is sound and every row is as it was written; ends early, as if damaged, when told not to go on.
pub fn verify_contents(
    connection: &Connection,
    sealer: &Sealer,
    go_on: &dyn Fn() -> bool,
) -> Result<(), StoreError> {
    let report: String = connection
        .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
        .map_err(|error| store_error(&error))?;
    if report != "ok" {
        return Err(StoreError::Corrupt(report));
    }
    verify_seals(connection, sealer, go_on)
}

fn verify_seals(
    connection: &Connection,
    sealer: &Sealer,
    go_on: &dyn Fn() -> bool,
) -> Result<(), StoreError> {
    let check = |sql: &str, sealed: Sealed, columns: usize| -> Result<(), StoreError> {
        let mut statement = connection.prepare(sql).map_err(|error| store_error(&error))?;
        let mut rows = statement.query([]).map_err(|error| store_error(&error))?;
        while let Some(row) = rows.next().map_err(|error| store_error(&error))? {
            if !go_on() {
                return Err(StoreError::Unavailable("the check was ended".to_owned()));
            }
            if !ops::row_seal_holds(row, sealer, sealed, columns).map_err(|error| store_error(&error))? {
                return Err(StoreError::Corrupt(format!("a seal is broken ({sealed:?})")));
            }
        }
        Ok(())
    };
    check("SELECT kind, id, version, body, seal FROM rows", Sealed::Row, 4)?;
    check("SELECT kind, id, name, value, uniq, seal FROM keys", Sealed::Key, 5)?;
    check("SELECT kind, id, keep_until, seal FROM consumed", Sealed::Consumed, 3)?;
    check("SELECT name, value, seal FROM meta", Sealed::Meta, 2)
}

/// Size of the file and of the changes beside it, in bytes.
pub fn size(path: &Path) -> Result<u64, StoreError> {
    let file = std::fs::metadata(path).map_err(|error| unavailable("file", &error))?.len();
    let changes = std::fs::metadata(beside(path, "-wal")).map_or(0, |metadata| metadata.len());
    Ok(file.saturating_add(changes))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn unavailable(what: &str, error: &std::io::Error) -> StoreError {
    StoreError::Unavailable(format!("{what}: {error}"))
}
