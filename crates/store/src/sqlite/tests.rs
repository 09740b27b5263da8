//! The embedded back end against damage, edits, second holders and a full disk; the promises are in `conformance`.

use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use countersign_proto::time::Timestamp;
use rusqlite::Connection;
use tempfile::TempDir;

use super::SqliteBackend;
use crate::backend::{Backend, ConsumeKind, Op, Page, StoreError};

const KEY: [u8; 32] = [7; 32];

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    (folder, path)
}

fn open(path: &Path) -> Result<SqliteBackend, StoreError> {
    SqliteBackend::open(path, &KEY)
}

fn row(id: &str, body: &[u8]) -> Op {
    Op::Insert {
        kind: "k".to_owned(),
        id: id.to_owned(),
        body: body.to_vec(),
        indexes: vec![("n".to_owned(), format!("index-{id}"))],
        unique: vec![("u".to_owned(), format!("unique-{id}"))],
    }
}

fn used(id: &str) -> Op {
    Op::Consume { kind: ConsumeKind::Approval, id: id.to_owned(), keep_until: Timestamp::from_unix_secs(100) }
}

fn write(path: &Path, ops: Vec<Op>) {
    let backend = open(path).unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(backend.transact(ops)).unwrap();
}

/// Edits the file the way somebody with write access would.
fn edit(path: &Path, sql: &str) {
    let connection = Connection::open(path).unwrap();
    assert!(connection.execute(sql, []).unwrap() > 0, "the edit changes something");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sqlite_keeps_the_promises_of_a_back_end() {
    let folder = tempfile::tempdir().unwrap();
    crate::conformance::suite(|name| Arc::new(open(&folder.path().join(name)).unwrap())).await;
}

#[test]
fn the_second_holder_is_refused_until_the_first_is_gone() {
    let (_folder, path) = folder();
    let first = open(&path).unwrap();
    assert!(matches!(open(&path), Err(StoreError::InUse(_))));
    drop(first);
    assert!(open(&path).is_ok());
}

#[test]
fn a_closed_store_is_one_private_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let (folder, path) = folder();
    write(&path, vec![row("a", b"1")]);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut names: Vec<String> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["store.db", "store.db.lock"]);
}

#[test]
fn an_edited_row_is_refused() {
    let check = |what: &str, sql: &str| {
        let (_folder, path) = folder();
        write(&path, vec![row("a", b"reader"), row("b", b"admin"), used("x"), used("y")]);
        edit(&path, sql);
        assert!(matches!(open(&path), Err(StoreError::Corrupt(_))), "{what}");
    };
    check("another body", "UPDATE rows SET body=x'41444d494e' WHERE id='a'");
    check("another version", "UPDATE rows SET version=9 WHERE id='a'");
    check("a negative version", "UPDATE rows SET version=-1 WHERE id='a'");
    check("another name", "UPDATE rows SET id='c' WHERE id='a'");
    check("another kind", "UPDATE rows SET kind='admin' WHERE id='a'");
    check(
        "the body and seal of another row",
        "UPDATE rows SET (body, seal)=(SELECT body, seal FROM rows WHERE id='b') WHERE id='a'",
    );
    check("no seal", "UPDATE rows SET seal=x'' WHERE id='a'");
    check("another index value", "UPDATE keys SET value='z' WHERE name='n' AND id='a'");
    check("an index that points elsewhere", "UPDATE keys SET id='b' WHERE value='index-a'");
    check("a unique value made plain", "UPDATE keys SET uniq=0 WHERE value='unique-a'");
    check("a used name made another", "UPDATE consumed SET id='z' WHERE id='x'");
    check("an earlier end", "UPDATE consumed SET keep_until=1 WHERE id='x'");
    check("an invented use", "INSERT INTO consumed VALUES('approval', 'z', 1, x'00')");
}

#[tokio::test]
async fn an_edit_under_a_running_store_is_noticed_at_the_next_read() {
    let (_folder, path) = folder();
    let backend = open(&path).unwrap();
    backend.transact(vec![row("a", b"reader")]).await.unwrap();
    edit(&path, "UPDATE rows SET body=x'41444d494e' WHERE id='a'");
    assert!(matches!(backend.get("k", "a").await, Err(StoreError::Corrupt(_))));
    let all = Page { after: None, limit: 10 };
    assert!(matches!(backend.list("k", &all).await, Err(StoreError::Corrupt(_))));
    edit(&path, "UPDATE keys SET id='b' WHERE value='index-a'");
    assert!(matches!(backend.find("k", "n", "index-a").await, Err(StoreError::Corrupt(_))));
}

#[test]
fn another_key_opens_nothing() {
    let (_folder, path) = folder();
    write(&path, vec![row("a", b"1")]);
    assert_eq!(SqliteBackend::open(&path, &[8; 32]).err(), Some(StoreError::WrongKey));
}

#[test]
fn a_file_from_the_future_is_left_alone() {
    let (_folder, path) = folder();
    write(&path, vec![row("a", b"1")]);
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 2).unwrap();
    assert_eq!(open(&path).err(), Some(StoreError::Newer { found: 2, known: 1 }));
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 0).unwrap();
    assert!(matches!(open(&path), Err(StoreError::Corrupt(_))), "and one that never existed is damage");
}

#[test]
fn what_is_not_a_store_is_refused() {
    let check = |what: &str, spoil: fn(&Path)| {
        let (_folder, path) = folder();
        write(&path, (0..200).map(|number| row(&format!("row{number}"), &[1; 200])).collect());
        spoil(&path);
        assert!(matches!(open(&path), Err(StoreError::Corrupt(_))), "{what}: {:?}", open(&path).err());
    };
    check("an empty file", |path| std::fs::write(path, b"").unwrap());
    check("text", |path| std::fs::write(path, b"hello, this is not a database file at all").unwrap());
    check("another program's database", |path| {
        std::fs::remove_file(path).unwrap();
        Connection::open(path).unwrap().execute_batch("CREATE TABLE t(x)").unwrap();
    });
    check("a header of zeroes", |path| {
        let mut file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all(&[0; 100]).unwrap();
    });
    check("half of it", |path| {
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(std::fs::metadata(path).unwrap().len() / 2).unwrap();
    });
    check("one page zeroed", |path| {
        let mut file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.seek(SeekFrom::Start(4096 * 5)).unwrap();
        file.write_all(&[0; 4096]).unwrap();
    });
    check("only its write-ahead log", |path| {
        std::fs::write(format!("{}-wal", path.display()), b"x").unwrap();
        std::fs::remove_file(path).unwrap();
    });
}

/// A flipped bit is either refused at the door or changes nothing that can be read: it hit unused space.
#[test]
fn no_flipped_bit_changes_what_is_read() {
    let (_folder, path) = folder();
    write(&path, (0..40).map(|number| row(&format!("row{number:02}"), &[number; 150])).collect());
    let original = std::fs::read(&path).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (mut refused, mut harmless) = (0, 0);
    // A fixed walk over the whole file with a stride prime to every structure in it.
    for place in (0..original.len()).step_by(211) {
        let mut spoiled = original.clone();
        spoiled[place] ^= 1 << (place % 8);
        std::fs::write(&path, &spoiled).unwrap();
        match open(&path) {
            Err(StoreError::InUse(_)) => panic!("nobody else is here"),
            Err(_) => refused += 1,
            Ok(backend) => {
                let page = Page { after: None, limit: 1000 };
                match runtime.block_on(backend.list("k", &page)) {
                    Err(_) => refused += 1,
                    Ok(rows) => {
                        let whole = rows.len() == 40
                            && rows.iter().enumerate().all(|(number, (id, row))| {
                                *id == format!("row{number:02}")
                                    && row.version == 1
                                    && row.body == [u8::try_from(number).unwrap(); 150]
                            });
                        assert!(whole, "bit {} of byte {place} changed what is read", place % 8);
                        harmless += 1;
                    }
                }
            }
        }
        std::fs::write(&path, &original).unwrap();
        for suffix in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
        }
    }
    assert!(refused > 50 && harmless > 0, "refused {refused}, harmless {harmless}");
}

#[tokio::test]
async fn a_disk_that_takes_no_more_refuses_and_recovers() {
    let (_folder, path) = folder();
    let connection = {
        drop(open(&path).unwrap());
        super::file::open_for_writing(&path).unwrap()
    };
    let pages: i64 = connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
    connection.pragma_update(None, "max_page_count", pages + 2).unwrap();
    let writer = super::writer::Writer::start(connection, crate::seal::Sealer::new(&KEY)).unwrap();
    let large = writer.transact(vec![row("large", &[1; 100_000])]).await;
    assert!(matches!(large, Err(StoreError::Unavailable(_))), "{large:?}");
    assert_eq!(writer.transact(vec![row("small", b"1")]).await, Ok(()), "what fits is still written");
    drop(writer);
    let backend = open(&path).unwrap();
    assert!(backend.get("k", "small").await.unwrap().is_some());
    assert!(backend.get("k", "large").await.unwrap().is_none());
}

#[tokio::test]
async fn an_edited_row_that_nobody_reads_stops_a_store_that_was_too_large_to_check_first() {
    let (_folder, path) = folder();
    let open_at_once = || SqliteBackend::open_checking(&path, &KEY, 0).unwrap();
    let mut sound = open_at_once();
    sound.transact(vec![row("a", b"reader"), used("x")]).await.unwrap();
    drop(sound);
    sound = open_at_once();
    sound.scrub.as_mut().unwrap().finish();
    assert!(sound.get("k", "a").await.unwrap().is_some());
    drop(sound);

    edit(&path, "UPDATE consumed SET keep_until=1 WHERE id='x'");
    let mut edited = open_at_once();
    edited.scrub.as_mut().unwrap().finish();
    assert!(matches!(edited.get("k", "a").await, Err(StoreError::Corrupt(_))));
    assert!(matches!(edited.transact(vec![row("b", b"1")]).await, Err(StoreError::Corrupt(_))));
    assert!(matches!(edited.collect(Timestamp::from_unix_secs(1)).await, Err(StoreError::Corrupt(_))));
}
