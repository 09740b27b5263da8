//! The embedded back end: SQLite in WAL mode with `synchronous=FULL`, one writer, a few readers.
//!
//! Writers queue; one thread takes what waits, runs every transaction in a savepoint of its own inside one durable
//! commit, and answers each after it. One flush so serves many, and each still fails alone. It is for one process:
//! a second one is refused by a lock that dies with its holder.

mod file;
mod ops;
mod reader;
mod scrub;
mod writer;

use std::path::Path;
use std::sync::Arc;

use countersign_proto::time::Timestamp;

use crate::aggregate::Store;
use crate::backend::{Backend, BoxFuture, Op, Page, Row, StoreError, check_limits};
use crate::seal::Sealer;

/// Opens the store at `path`, making it if nothing is there.
///
/// Everything in it is checked: structure, schema version, and the seal of every row; before this returns, or in the
/// background if the file is large. Damage found then ends all reading and writing. `mac_key` belongs to this store
/// for life; it is kept outside the file.
///
/// # Errors
/// [`StoreError::InUse`], [`StoreError::Newer`], [`StoreError::WrongKey`], [`StoreError::Corrupt`] if anything in
/// the file is not as it was written, [`StoreError::Unavailable`] if the file system says no.
pub fn open_sqlite(path: impl AsRef<Path>, mac_key: [u8; 32]) -> Result<Store, StoreError> {
    Ok(Store::new(Arc::new(SqliteBackend::open(path.as_ref(), &mac_key)?)))
}

/// A file up to this size, in bytes, is checked before it is opened: that takes less than a second.
const CHECKED_FIRST_BYTES: u64 = 32 << 20;

/// A SQLite file as [`Backend`]. Dropping it waits for the writes that were accepted.
pub struct SqliteBackend {
    #[cfg_attr(not(test), expect(dead_code, reason = "it works until it is dropped"))]
    scrub: Option<scrub::Scrub>,
    damage: scrub::Damage,
    readers: reader::Readers,
    writer: writer::Writer,
    // INVARIANT: fields drop in this order; the lock goes last, when no connection is open any more.
    _lock: file::Lock,
}

impl SqliteBackend {
    /// See [`open_sqlite`].
    ///
    /// # Errors
    /// As there.
    pub fn open(path: &Path, mac_key: &[u8; 32]) -> Result<Self, StoreError> {
        Self::open_checking(path, mac_key, CHECKED_FIRST_BYTES)
    }

    fn open_checking(path: &Path, mac_key: &[u8; 32], checked_first: u64) -> Result<Self, StoreError> {
        let sealer = Sealer::new(mac_key);
        let lock = file::Lock::take(path)?;
        file::create_if_absent(path, &sealer)?;
        let connection = file::open_for_writing(path)?;
        file::verify(&connection, &sealer)?;
        let damage = scrub::Damage::default();
        let scrub = if file::size(path)? <= checked_first {
            file::verify_contents(&connection, &sealer, &|| true)?;
            None
        } else {
            Some(scrub::Scrub::start(path, sealer.clone(), damage.clone())?)
        };
        let writer = writer::Writer::start(connection, sealer.clone())?;
        let readers = reader::Readers::start(path, &sealer)?;
        Ok(Self { scrub, damage, writer, readers, _lock: lock })
    }
}

impl SqliteBackend {
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&rusqlite::Connection, &Sealer) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.damage.none()?;
        self.readers.run(read).await
    }
}

impl Backend for SqliteBackend {
    fn get<'a>(&'a self, kind: &'a str, id: &'a str) -> BoxFuture<'a, Result<Option<Row>, StoreError>> {
        let (kind, id) = (kind.to_owned(), id.to_owned());
        Box::pin(self.read(move |connection, sealer| ops::get(connection, sealer, &kind, &id)))
    }

    fn list<'a>(
        &'a self,
        kind: &'a str,
        page: &'a Page,
    ) -> BoxFuture<'a, Result<Vec<(String, Row)>, StoreError>> {
        let (kind, page) = (kind.to_owned(), page.clone());
        Box::pin(self.read(move |connection, sealer| ops::list(connection, sealer, &kind, &page)))
    }

    fn find<'a>(
        &'a self,
        kind: &'a str,
        index: &'a str,
        value: &'a str,
    ) -> BoxFuture<'a, Result<Vec<String>, StoreError>> {
        let (kind, index, value) = (kind.to_owned(), index.to_owned(), value.to_owned());
        Box::pin(self.read(move |connection, sealer| ops::find(connection, sealer, &kind, &index, &value)))
    }

    fn transact(&self, ops: Vec<Op>) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            self.damage.none()?;
            check_limits(&ops)?;
            self.writer.transact(ops).await
        })
    }

    fn collect(&self, now: Timestamp) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(async move {
            self.damage.none()?;
            self.writer.collect(now).await
        })
    }
}

/// SQLite's own errors as ours: damage is told apart from inability.
fn store_error(error: &rusqlite::Error) -> StoreError {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    match error.sqlite_error_code() {
        Some(DatabaseCorrupt | NotADatabase) => StoreError::Corrupt(error.to_string()),
        Some(_) => StoreError::Unavailable(error.to_string()),
        // Not from SQLite but from reading a column: a value of a type or range we never write.
        None => match error {
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::Utf8Error(..) => StoreError::Corrupt(error.to_string()),
            _ => StoreError::Unavailable(error.to_string()),
        },
    }
}

#[cfg(test)]
mod tests;
