//! A process that is killed with its writes in flight loses none that it answered.
//!
//! A test binary of its own: between `fork` and `exec` a child holds its parent's file locks, so a process
//! that starts children cannot also assert that its stores are free.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use countersign_proto::time::Timestamp;
use countersign_store::{Backend as _, ConsumeKind, Op, SqliteBackend, StoreError};

fn open(path: &Path) -> Result<SqliteBackend, StoreError> {
    SqliteBackend::open(path, &[7; 32])
}

fn row(id: &str, body: &[u8]) -> Op {
    let (kind, id, body) = ("k".to_owned(), id.to_owned(), body.to_vec());
    Op::Insert { kind, id, body, indexes: Vec::new(), unique: Vec::new() }
}

fn used(id: &str) -> Op {
    Op::Consume { kind: ConsumeKind::Approval, id: id.to_owned(), keep_until: Timestamp::from_unix_secs(100) }
}

const KILLED_STORE: &str = "COUNTERSIGN_TEST_KILLED_STORE";

/// Not a test of its own: the process that `every_answered_write_survives_kill_9` kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn write_until_killed() {
    let Some(path) = std::env::var_os(KILLED_STORE) else { return };
    let backend = Arc::new(open(Path::new(&path)).unwrap());
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let backend = Arc::clone(&backend);
        writers.spawn(async move {
            for number in 0.. {
                let name = format!("{writer}-{}-{number}", std::process::id());
                backend.transact(vec![row(&name, name.as_bytes()), used(&name)]).await.unwrap();
                // One call per line: the harness of the parent reads whole lines only.
                let mut out = std::io::stdout().lock();
                out.write_all(format!("acknowledged {name}\n").as_bytes()).unwrap();
                out.flush().unwrap();
            }
        });
    }
    writers.join_all().await;
}

#[test]
fn every_answered_write_survives_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut acknowledged = Vec::new();
    for round in 0_usize..6 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "write_until_killed", "--nocapture"])
            .env(KILLED_STORE, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        for line in lines {
            let line = line.unwrap();
            let Some((_, name)) = line.split_once("acknowledged ") else { continue };
            acknowledged.push(name.to_owned());
            seen += 1;
            // Killed in the midst of the next writes, each round somewhere else; the rest of the pipe is read, too.
            if seen == 37 + round * 53 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(seen >= 37 + round * 53, "the writer wrote before it was killed");

        let backend = open(&path).unwrap();
        for name in &acknowledged {
            let row = runtime.block_on(backend.get("k", name)).unwrap();
            assert_eq!(row.map(|row| row.body).as_deref(), Some(name.as_bytes()), "{name} was answered");
        }
        for name in acknowledged.iter().rev().take(20) {
            let again = runtime.block_on(backend.transact(vec![used(name)]));
            assert_eq!(again, Err(StoreError::Consumed { kind: ConsumeKind::Approval }), "{name} was used");
        }
    }
}
