//! The statements. Each takes a connection and does one thing; transactions are the caller's.

use countersign_proto::time::Timestamp;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::store_error;
use crate::backend::{ConsumeKind, MAX_FOUND, MAX_PAGE, Op, Page, Row, StoreError};
use crate::seal::{Sealed, Sealer};

/// Name in `meta`: single-use names with `keep_until` before this instant may have been forgotten.
pub const COLLECTED_BEFORE: &str = "collected-before";
/// Most names forgotten in one transaction, so that collecting never holds up a writer for long.
const COLLECT_BATCH: i64 = 4096;

/// Runs the steps in order; the first that does not hold ends it.
pub fn apply(connection: &Connection, sealer: &Sealer, ops: &[Op]) -> Result<(), StoreError> {
    ops.iter().try_for_each(|op| apply_one(connection, sealer, op))
}

fn apply_one(connection: &Connection, sealer: &Sealer, op: &Op) -> Result<(), StoreError> {
    match op {
        Op::Insert { kind, id, body, indexes, unique } => {
            if version_of(connection, kind, id)?.is_some() {
                return Err(StoreError::Exists { kind: kind.clone(), id: id.clone(), index: None });
            }
            put(connection, sealer, kind, id, 1, body)?;
            put_keys(connection, sealer, kind, id, indexes, unique)
        }
        Op::Update { kind, id, expected_version, body, indexes, unique } => {
            require_version(connection, kind, id, *expected_version)?;
            put(connection, sealer, kind, id, expected_version + 1, body)?;
            remove_keys(connection, kind, id)?;
            put_keys(connection, sealer, kind, id, indexes, unique)
        }
        Op::Delete { kind, id, expected_version } => {
            require_version(connection, kind, id, *expected_version)?;
            remove_keys(connection, kind, id)?;
            execute(connection, "DELETE FROM rows WHERE kind=?1 AND id=?2", params![kind, id]).map(drop)
        }
        Op::Expect { kind, id, version } => {
            if version_of(connection, kind, id)?.unwrap_or(0) == *version {
                Ok(())
            } else {
                Err(StoreError::Conflict { kind: kind.clone(), id: id.clone() })
            }
        }
        Op::Consume { kind, id, keep_until } => consume(connection, sealer, *kind, id, *keep_until),
    }
}

fn require_version(connection: &Connection, kind: &str, id: &str, expected: u64) -> Result<(), StoreError> {
    match version_of(connection, kind, id)? {
        Some(version) if version == expected => Ok(()),
        Some(_) => Err(StoreError::Conflict { kind: kind.to_owned(), id: id.to_owned() }),
        None => Err(StoreError::NotFound),
    }
}

fn version_of(connection: &Connection, kind: &str, id: &str) -> Result<Option<u64>, StoreError> {
    let read = || {
        connection
            .prepare_cached("SELECT version FROM rows WHERE kind=?1 AND id=?2")?
            .query_row(params![kind, id], |row| row.get::<_, i64>(0))
            .optional()
    };
    read().map_err(|error| store_error(&error))?.map(version_from).transpose()
}

fn put(
    connection: &Connection,
    sealer: &Sealer,
    kind: &str,
    id: &str,
    version: u64,
    body: &[u8],
) -> Result<(), StoreError> {
    let version = i64::try_from(version).map_err(|_| StoreError::TooLarge("version"))?;
    let seal = sealer.seal(Sealed::Row, &[kind.as_bytes(), id.as_bytes(), &version.to_be_bytes(), body]);
    let sql = "INSERT OR REPLACE INTO rows(kind, id, version, body, seal) VALUES(?1, ?2, ?3, ?4, ?5)";
    execute(connection, sql, params![kind, id, version, body, seal]).map(drop)
}

fn remove_keys(connection: &Connection, kind: &str, id: &str) -> Result<(), StoreError> {
    execute(connection, "DELETE FROM keys WHERE kind=?1 AND id=?2", params![kind, id]).map(drop)
}

fn put_keys(
    connection: &Connection,
    sealer: &Sealer,
    kind: &str,
    id: &str,
    indexes: &[(String, String)],
    unique: &[(String, String)],
) -> Result<(), StoreError> {
    for (name, value) in unique {
        let taken = || {
            connection
                .prepare_cached("SELECT 1 FROM keys WHERE kind=?1 AND name=?2 AND value=?3 AND id<>?4")?
                .exists(params![kind, name, value, id])
        };
        if taken().map_err(|error| store_error(&error))? {
            let index = Some(name.clone());
            return Err(StoreError::Exists { kind: kind.to_owned(), id: id.to_owned(), index });
        }
        put_key(connection, sealer, [kind, id, name, value], 1)?;
    }
    for (name, value) in indexes {
        put_key(connection, sealer, [kind, id, name, value], 0)?;
    }
    Ok(())
}

fn put_key(
    connection: &Connection,
    sealer: &Sealer,
    [kind, id, name, value]: [&str; 4],
    uniq: i64,
) -> Result<(), StoreError> {
    let seal = sealer.seal(
        Sealed::Key,
        &[kind.as_bytes(), id.as_bytes(), name.as_bytes(), value.as_bytes(), &uniq.to_be_bytes()],
    );
    // A pair given twice is there once; given as unique and as plain it is unique, because that came first.
    let sql = "INSERT INTO keys(kind, id, name, value, uniq, seal) VALUES(?1, ?2, ?3, ?4, ?5, ?6)
        ON CONFLICT(kind, id, name, value) DO NOTHING";
    execute(connection, sql, params![kind, id, name, value, uniq, seal]).map(drop)
}

fn consume(
    connection: &Connection,
    sealer: &Sealer,
    kind: ConsumeKind,
    id: &str,
    keep_until: Timestamp,
) -> Result<(), StoreError> {
    let end = keep_until.unix_millis();
    if end < collected_before(connection, sealer)? {
        let why = "its first use may be forgotten: the clock went back behind the last collection";
        return Err(StoreError::Unavailable(format!("{kind}: {why}")));
    }
    let name = kind.as_str();
    let seal = sealer.seal(Sealed::Consumed, &[name.as_bytes(), id.as_bytes(), &end.to_be_bytes()]);
    let sql = "INSERT INTO consumed(kind, id, keep_until, seal) VALUES(?1, ?2, ?3, ?4)
        ON CONFLICT(kind, id) DO NOTHING";
    match execute(connection, sql, params![name, id, end, seal])? {
        1 => Ok(()),
        _ => Err(StoreError::Consumed { kind }),
    }
}

/// One batch of forgetting; `true` if there may be more.
pub fn collect(connection: &Connection, sealer: &Sealer, now: Timestamp) -> Result<(u64, bool), StoreError> {
    let now = now.unix_millis();
    if now > collected_before(connection, sealer)? {
        put_meta(connection, sealer, COLLECTED_BEFORE, now).map_err(|error| store_error(&error))?;
    }
    let sql = "DELETE FROM consumed WHERE (kind, id) IN
        (SELECT kind, id FROM consumed WHERE keep_until < ?1 ORDER BY keep_until LIMIT ?2)";
    let gone = execute(connection, sql, params![now, COLLECT_BATCH])?;
    Ok((gone as u64, gone as u64 == COLLECT_BATCH.unsigned_abs()))
}

fn collected_before(connection: &Connection, sealer: &Sealer) -> Result<i64, StoreError> {
    if !meta_seal_holds(connection, sealer, COLLECTED_BEFORE).map_err(|error| store_error(&error))? {
        return Err(StoreError::Corrupt("a seal is broken (Meta)".to_owned()));
    }
    connection
        .prepare_cached("SELECT value FROM meta WHERE name=?1")
        .and_then(|mut statement| statement.query_row([COLLECTED_BEFORE], |row| row.get(0)))
        .map_err(|error| store_error(&error))
}

/// Writes a sealed number.
pub fn put_meta(connection: &Connection, sealer: &Sealer, name: &str, value: i64) -> rusqlite::Result<()> {
    let seal = sealer.seal(Sealed::Meta, &[name.as_bytes(), &value.to_be_bytes()]);
    connection
        .prepare_cached("INSERT OR REPLACE INTO meta(name, value, seal) VALUES(?1, ?2, ?3)")?
        .execute(params![name, value, seal])
        .map(drop)
}

/// Whether the number called `name` is there and as it was written.
pub fn meta_seal_holds(connection: &Connection, sealer: &Sealer, name: &str) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT name, value, seal FROM meta WHERE name=?1")?
        .query_row([name], |row| row_seal_holds(row, sealer, Sealed::Meta, 2))
        .optional()
        .map(|held| held == Some(true))
}

/// Whether the seal in column `columns` covers the columns before it.
pub fn row_seal_holds(
    row: &rusqlite::Row<'_>,
    sealer: &Sealer,
    sealed: Sealed,
    columns: usize,
) -> rusqlite::Result<bool> {
    let mut numbers = Vec::with_capacity(columns);
    for column in 0..columns {
        numbers.push(match row.get_ref(column)? {
            ValueRef::Integer(number) => number.to_be_bytes(),
            ValueRef::Null | ValueRef::Real(_) | ValueRef::Text(_) | ValueRef::Blob(_) => [0; 8],
        });
    }
    let mut parts: Vec<&[u8]> = Vec::with_capacity(columns);
    for (column, number) in numbers.iter().enumerate() {
        parts.push(match row.get_ref(column)? {
            ValueRef::Integer(_) => number,
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes,
            ValueRef::Null | ValueRef::Real(_) => return Ok(false),
        });
    }
    match row.get_ref(columns)? {
        ValueRef::Blob(seal) => Ok(sealer.holds(sealed, &parts, seal)),
        ValueRef::Null | ValueRef::Real(_) | ValueRef::Integer(_) | ValueRef::Text(_) => Ok(false),
    }
}

/// One row, its seal checked.
pub fn get(
    connection: &Connection,
    sealer: &Sealer,
    kind: &str,
    id: &str,
) -> Result<Option<Row>, StoreError> {
    let mut statement = connection
        .prepare_cached("SELECT kind, id, version, body, seal FROM rows WHERE kind=?1 AND id=?2")
        .map_err(|error| store_error(&error))?;
    let mut rows = statement.query(params![kind, id]).map_err(|error| store_error(&error))?;
    match rows.next().map_err(|error| store_error(&error))? {
        Some(row) => open_row(row, sealer).map(|(_, row)| Some(row)),
        None => Ok(None),
    }
}

/// A page of rows, their seals checked.
pub fn list(
    connection: &Connection,
    sealer: &Sealer,
    kind: &str,
    page: &Page,
) -> Result<Vec<(String, Row)>, StoreError> {
    let limit = i64::try_from(page.limit.min(MAX_PAGE)).unwrap_or(0);
    let mut statement = connection
        .prepare_cached(
            "SELECT kind, id, version, body, seal FROM rows WHERE kind=?1 AND id>?2 ORDER BY id LIMIT ?3",
        )
        .map_err(|error| store_error(&error))?;
    let after = page.after.as_deref().unwrap_or("");
    let mut rows = statement.query(params![kind, after, limit]).map_err(|error| store_error(&error))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().map_err(|error| store_error(&error))? {
        found.push(open_row(row, sealer)?);
    }
    Ok(found)
}

/// The ids under an index value, the seals of the index rows checked.
pub fn find(
    connection: &Connection,
    sealer: &Sealer,
    kind: &str,
    index: &str,
    value: &str,
) -> Result<Vec<String>, StoreError> {
    let limit = i64::try_from(MAX_FOUND + 1).unwrap_or(0);
    let mut statement = connection
        .prepare_cached(
            "SELECT kind, id, name, value, uniq, seal FROM keys
             WHERE kind=?1 AND name=?2 AND value=?3 ORDER BY id LIMIT ?4",
        )
        .map_err(|error| store_error(&error))?;
    let mut rows =
        statement.query(params![kind, index, value, limit]).map_err(|error| store_error(&error))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().map_err(|error| store_error(&error))? {
        if !row_seal_holds(row, sealer, Sealed::Key, 5).map_err(|error| store_error(&error))? {
            return Err(StoreError::Corrupt(format!("a seal is broken in index {index} of {kind}")));
        }
        found.push(row.get(1).map_err(|error| store_error(&error))?);
    }
    if found.len() > MAX_FOUND {
        return Err(StoreError::TooLarge("rows under one index value"));
    }
    Ok(found)
}

fn open_row(row: &rusqlite::Row<'_>, sealer: &Sealer) -> Result<(String, Row), StoreError> {
    let read = || -> rusqlite::Result<(bool, String, String, i64, Vec<u8>)> {
        let held = row_seal_holds(row, sealer, Sealed::Row, 4)?;
        Ok((held, row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
    };
    let (held, kind, id, version, body) = read().map_err(|error| store_error(&error))?;
    if !held {
        return Err(StoreError::Corrupt(format!("the seal of {kind} {id:?} is broken")));
    }
    Ok((id, Row { version: version_from(version)?, body }))
}

fn version_from(version: i64) -> Result<u64, StoreError> {
    u64::try_from(version).map_err(|_| StoreError::Corrupt("a version is negative".to_owned()))
}

fn execute(connection: &Connection, sql: &str, params: &[&dyn rusqlite::ToSql]) -> Result<usize, StoreError> {
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.execute(params))
        .map_err(|error| store_error(&error))
}
