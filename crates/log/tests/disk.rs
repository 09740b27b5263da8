//! The log on a real directory, seen by its user and by a third party.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::{Sim, Stopped, key, origin, record, verifier};
use countersign_audit::{proof, verify_log};
use countersign_log::{Log, LogError, LogLimits, storage};
use tokio::time::Instant;

fn open(dir: &Path) -> Result<Log, LogError> {
    Log::open(dir, origin(), key(), LogLimits::default(), Arc::new(Stopped))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_one_log_and_anyone_can_verify_it() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).unwrap();
    let writers: Vec<_> = (0..20_u64)
        .map(|writer| {
            let log = log.clone();
            tokio::spawn(async move {
                let mut mine = Vec::new();
                for i in 0..50 {
                    let record = record(writer * 50 + i);
                    let entry = record.bytes().to_vec();
                    mine.push((log.append(record).await.unwrap().index(), entry));
                }
                mine
            })
        })
        .collect();
    let mut expected = Vec::new();
    for writer in writers {
        expected.extend(writer.await.unwrap());
    }
    expected.sort();
    log.flush().await.unwrap();
    assert_eq!((log.size(), log.published()), (1000, 1000));

    let read = storage::reader(dir.path());
    let summary = verify_log(&read, &verifier()).unwrap();
    assert_eq!(summary.checkpoint().size, 1000);
    let entries: Vec<_> = log.entries_from(0).map(Result::unwrap).collect();
    assert_eq!(entries, expected);
    let tail: Vec<_> = log.entries_from(700).map(|entry| entry.unwrap().0).collect();
    assert_eq!(tail, (700..1000).collect::<Vec<_>>());
    assert_eq!(log.entries_from(1000).count(), 0);
    for index in [0, 255, 256, 999] {
        let text = log.prove(index).unwrap();
        let proved = proof::check(&text, &expected[usize::try_from(index).unwrap()].1, &verifier()).unwrap();
        assert_eq!(proved.index(), index);
    }
    assert!(log.prove(1000).is_err());
    log.shutdown().await.unwrap();

    // One changed byte on the disk, and the third party names the entry.
    let bundle = dir.path().join("tile/entries/002");
    let mut bytes = std::fs::read(&bundle).unwrap();
    bytes[10] ^= 1;
    std::fs::write(&bundle, bytes).unwrap();
    assert_eq!(verify_log(&read, &verifier()).unwrap_err().index, Some(512));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_published_log_follows_within_a_second_without_being_asked() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).unwrap();
    for i in 0..3 {
        let _ = log.append(record(i)).await.unwrap();
    }
    let begun = Instant::now();
    while log.published() < 3 {
        assert!(begun.elapsed() < Duration::from_secs(5), "never published");
        tokio::task::yield_now().await;
    }
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(verify_log(&storage::reader(dir.path()), &verifier()).unwrap().checkpoint().size, 3);
    log.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_goes_on_where_it_was_left() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..5_u64 {
        let log = open(dir.path()).unwrap();
        assert_eq!(log.size(), round * 100);
        assert!(matches!(open(dir.path()), Err(LogError::Locked)));
        for i in 0..100 {
            log.try_append(record(round * 100 + i)).unwrap();
        }
        log.shutdown().await.unwrap();
    }
    let entries = open(dir.path()).unwrap().entries_from(0).map(|entry| entry.unwrap().1).collect::<Vec<_>>();
    assert_eq!(entries, (0..500).map(|i| record(i).into_bytes()).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_batch_at_the_end_of_the_journal_is_dropped_and_the_rest_kept() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).unwrap();
    for i in 0..10 {
        let _ = log.append(record(i)).await.unwrap();
    }
    log.shutdown().await.unwrap();
    let journal = dir.path().join("journal/0000000000000000");
    let mut bytes = std::fs::read(&journal).unwrap();
    let whole = bytes.len();
    bytes.extend_from_within(64..200);
    std::fs::write(&journal, &bytes[..whole + 100]).unwrap();
    let log = open(dir.path()).unwrap();
    assert_eq!(log.size(), 10);
    assert_eq!(log.append(record(10)).await.unwrap().index(), 10);
    log.shutdown().await.unwrap();
    assert_eq!(verify_log(&storage::reader(dir.path()), &verifier()).unwrap().checkpoint().size, 11);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_is_no_directory_is_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    // A file where the directory should be fails for every user, root included.
    let path = dir.path().join("log");
    std::fs::write(&path, b"not a directory").unwrap();
    assert!(matches!(open(&path), Err(LogError::Io(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_reads_the_edge_of_a_log_and_not_all_of_it() {
    const ENTRIES: u64 = 40_000;
    let limits =
        LogLimits { segment_entries: 1024, answer_within: Duration::from_secs(20), ..LogLimits::default() };
    let sim = Sim::default();
    let log = common::open(&sim, limits).unwrap();
    for i in 0..ENTRIES {
        while log.try_append(record(i)).is_err() {
            tokio::task::yield_now().await;
        }
    }
    log.shutdown().await.unwrap();
    let files = sim.files();
    assert!(files.len() > 300);
    let sim = Sim::holding(files);
    let log = common::open(&sim, limits).unwrap();
    assert_eq!(log.size(), ENTRIES);
    // At most 255 tiles of each level, the checkpoint and two segments; here one level and 156 tiles.
    assert!(sim.reads() <= 170, "{} files were read", sim.reads());
    log.shutdown().await.unwrap();
}
