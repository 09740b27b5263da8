//! How long a large store takes to open: what is in it is checked in the background. Not a benchmark of anything else.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, and one that measures")]

use std::path::Path;
use std::time::Instant;

use countersign_proto::time::Timestamp;
use countersign_store::{Backend as _, ConsumeKind, Op, SqliteBackend};

/// Rows of each of the two kinds that grow: a row with an index, and a spent name.
const ROWS: usize = 500_000;

fn open(path: &Path) -> SqliteBackend {
    SqliteBackend::open(path, &[7; 32]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes without optimization; run with --release -- --ignored"]
async fn a_million_rows_open_within_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let backend = open(&path);
    for from in (0..ROWS).step_by(2000) {
        let mut ops = Vec::new();
        for number in from..from + 2000 {
            let id = format!("name-{number:08}");
            let keep_until = Timestamp::from_unix_secs(100);
            ops.push(Op::Consume { kind: ConsumeKind::DpopJti, id: id.clone(), keep_until });
            let indexes = vec![("owner".to_owned(), (number % 1000).to_string())];
            ops.push(Op::Insert {
                kind: "k".to_owned(),
                id,
                body: vec![b'x'; 300],
                indexes,
                unique: Vec::new(),
            });
        }
        backend.transact(ops).await.unwrap();
    }
    drop(backend);
    let started = Instant::now();
    drop(open(&path));
    let took = started.elapsed();
    println!("opening {} rows took {took:?}", 2 * ROWS);
    assert!(took.as_secs_f64() < 2.0, "{took:?}");
}
