//! Disks that fail, hang and fill up: nothing is acknowledged that is not durable, and nobody waits long for a no.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Fault, Sim, open, record, verified_entries};
use countersign_log::{Log, LogError, LogLimits};
use tokio::time::Instant;

fn limits() -> LogLimits {
    LogLimits { publish_every: Duration::from_millis(20), ..LogLimits::default() }
}

/// Waits for a condition that another thread brings about.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(20), "never: {what}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failed_flush_nothing_is_acknowledged_until_the_log_is_opened_anew() {
    for earlier in 0..4 {
        let sim = Sim::default();
        let log = open(&sim, limits()).unwrap();
        sim.set_fault(Some(Fault::SyncFails(earlier)));
        let mut acked = 0;
        loop {
            let began = Instant::now();
            match log.append(record(acked)).await {
                Ok(_) => acked += 1,
                Err(error) => {
                    assert!(matches!(error, LogError::Failed), "{error}");
                    assert!(began.elapsed() < Duration::from_millis(500));
                    break;
                }
            }
        }
        assert_eq!(acked, earlier as u64);
        // The disk is well again; the log is not.
        sim.set_fault(None);
        assert!(!log.healthy());
        assert!(matches!(log.append(record(7)).await, Err(LogError::Failed)));
        assert!(matches!(log.try_append(record(7)), Err(LogError::Failed)));
        assert!(matches!(log.flush().await, Err(LogError::Failed)));
        log.shutdown().await.unwrap();

        let log = open(&sim, limits()).unwrap();
        assert!(log.healthy() && log.size() >= acked);
        let _ = log.append(record(8)).await.unwrap();
        log.shutdown().await.unwrap();
        let entries = verified_entries(&sim.files());
        for i in 0..acked {
            assert_eq!(entries[usize::try_from(i).unwrap()], record(i).bytes());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_disk_is_answered_for_within_half_a_second() {
    let sim = Sim::default();
    let log = open(&sim, LogLimits { queue: 8, ..limits() }).unwrap();
    let _ = log.append(record(0)).await.unwrap();
    sim.set_fault(Some(Fault::SyncHangs(0)));
    let began = Instant::now();
    // More callers than the queue has places: those outside wait no longer than those inside.
    let callers: Vec<_> = (1..40)
        .map(|i| {
            let log = log.clone();
            tokio::spawn(async move { log.append(record(i)).await })
        })
        .collect();
    for caller in callers {
        assert!(matches!(caller.await.unwrap(), Err(LogError::Unavailable)));
    }
    let waited = began.elapsed();
    // Half a second, and what a busy test machine adds.
    assert!(waited >= Duration::from_millis(450) && waited < Duration::from_millis(1500), "{waited:?}");
    until("unhealthy", || !log.healthy()).await;
    assert!(matches!(log.try_append(record(99)), Err(LogError::Unavailable)), "the queue is bounded");

    // The disk comes back. What was given up while waiting is not written; what was being flushed may be.
    sim.set_fault(None);
    until("healthy", || log.healthy()).await;
    let receipt = log.append(record(100)).await.unwrap();
    assert!(receipt.index() <= 9, "given-up records were written: {}", receipt.index());
    log.shutdown().await.unwrap();
    let entries = verified_entries(&sim.files());
    assert_eq!(entries.last().unwrap(), record(100).bytes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_and_recovers_when_there_is_room() {
    for room in 0..400 {
        let sim = Sim::default();
        // Publication is out of the way, so that the room is the journal's.
        let log = open(&sim, LogLimits { publish_every: Duration::from_secs(3600), ..limits() }).unwrap();
        let _ = log.append(record(0)).await.unwrap();
        log.flush().await.unwrap();
        sim.set_fault(Some(Fault::Room(room)));
        let mut acked = 1;
        loop {
            match log.append(record(acked)).await {
                Ok(_) => acked += 1,
                Err(error) => {
                    assert!(matches!(error, LogError::Unavailable), "{error}");
                    break;
                }
            }
        }
        assert!(!log.healthy());
        sim.set_fault(None);
        let receipt = log.append(record(acked)).await.unwrap();
        assert_eq!(receipt.index(), acked);
        assert!(log.healthy());
        log.shutdown().await.unwrap();
        let entries = verified_entries(&sim.files());
        let expected: Vec<Vec<u8>> = (0..=acked).map(|i| record(i).into_bytes()).collect();
        assert_eq!(entries, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_could_not_write_becomes_well_by_itself() {
    let sim = Sim::default();
    let log = open(&sim, limits()).unwrap();
    sim.set_fault(Some(Fault::Room(0)));
    assert!(matches!(log.append(record(0)).await, Err(LogError::Unavailable)));
    assert!(!log.healthy());
    sim.set_fault(None);
    until("healthy again", || log.healthy()).await;
    log.shutdown().await.unwrap();
    assert_eq!(verified_entries(&sim.files()), Vec::<Vec<u8>>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tiles_that_cannot_be_written_are_written_later_and_records_stay_durable() {
    let sim = Sim::default();
    let log = open(&sim, limits()).unwrap();
    sim.set_fault(Some(Fault::PutFails));
    for i in 0..700 {
        let _ = log.append(record(i)).await.unwrap();
    }
    assert!(matches!(log.flush().await, Err(LogError::Unavailable)));
    assert_eq!((log.size(), log.published()), (700, 0));
    sim.set_fault(None);
    until("published", || log.published() == 700).await;
    assert_eq!(verified_entries(&sim.files()).len(), 700);
    log.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_refused_before_unpublished_tiles_fill_the_memory() {
    let sim = Sim::default();
    let log = open(&sim, LogLimits { waiting_bytes: 100_000, ..limits() }).unwrap();
    sim.set_fault(Some(Fault::PutFails));
    let mut acked = 0;
    while acked < 10_000 && log.append(record(acked)).await.is_ok() {
        acked += 1;
    }
    assert!((256..2000).contains(&acked), "{acked}");
    sim.set_fault(None);
    until("healthy", || log.healthy()).await;
    let _ = log.append(record(acked)).await.unwrap();
    log.shutdown().await.unwrap();
    assert_eq!(verified_entries(&sim.files()).len() as u64, acked + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tile_that_cannot_be_flushed_stops_the_log_and_keeps_the_journal() {
    let sim = Sim::default();
    let log = open(&sim, LogLimits { segment_entries: 256, ..limits() }).unwrap();
    sim.set_fault(Some(Fault::TileSyncFails));
    let mut acked = 0;
    while log.append(record(acked)).await.is_ok() {
        acked += 1;
        assert!(acked < 100_000);
    }
    assert!(sim.files().contains_key("journal/0000000000000000"));
    log.shutdown().await.unwrap();
    sim.set_fault(None);
    open(&sim, limits()).unwrap().shutdown().await.unwrap();
    assert!(verified_entries(&sim.files()).len() as u64 >= acked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_was_deleted_is_noticed_before_the_next_answer() {
    let sim = Sim::default();
    let log = open(&sim, limits()).unwrap();
    let _ = log.append(record(0)).await.unwrap();
    sim.take_journal_away();
    assert!(matches!(log.append(record(1)).await, Err(LogError::Failed)));
    assert!(!log.healthy());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_opens_the_log_twice() {
    let sim = Sim::default();
    let log = open(&sim, limits()).unwrap();
    assert!(matches!(open(&sim, limits()), Err(LogError::Locked)));
    log.clone().shutdown().await.unwrap();
    assert!(matches!(log.append(record(0)).await, Err(LogError::Closed)));
    open(&sim, limits()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_that_make_no_sense_are_refused() {
    let default = LogLimits::default();
    for limits in [
        LogLimits { queue: 0, ..default },
        LogLimits { batch_entries: 0, ..default },
        LogLimits { segment_entries: 0, ..default },
        LogLimits { segment_entries: 300, ..default },
    ] {
        assert!(matches!(open(&Sim::default(), limits), Err(LogError::Limit { .. })), "{limits:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_of_another_key_is_not_continued() {
    let sim = Sim::default();
    open(&sim, limits()).unwrap().shutdown().await.unwrap();
    let other = countersign_audit::LogKey::from_seed(&[1; 32]).unwrap();
    let clock = Arc::new(common::Stopped);
    let reopened = Log::open_on(Arc::new(sim), common::origin(), other, limits(), clock, None);
    assert!(matches!(reopened, Err(LogError::Checkpoint(_))));
}

/// Publication is out of the way, so that every flush of a journal is a batch.
fn unpublished(queue: usize) -> LogLimits {
    LogLimits { queue, publish_every: Duration::from_secs(3600), ..LogLimits::default() }
}

fn journal_flushes(sim: &Sim) -> usize {
    sim.ops().iter().filter(|op| matches!(op, common::Op::Sync(_))).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_nobody_waits_for_is_held_back_a_moment_and_then_durable() {
    let sim = Sim::default();
    let log = open(&sim, unpublished(4096)).unwrap();
    let _ = log.append(record(0)).await.unwrap();
    let began = Instant::now();
    log.try_append(record(1)).unwrap();
    until("durable", || log.size() == 2).await;
    assert!(began.elapsed() >= Duration::from_millis(50), "{:?}", began.elapsed());
    log.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_nobody_waits_for_share_the_flush_of_the_next_caller() {
    const CALLS: u64 = 40;
    let sim = Sim::default();
    let log = open(&sim, unpublished(4096)).unwrap();
    let before = journal_flushes(&sim);
    for call in 0..CALLS {
        assert_eq!(log.append(record(2 * call)).await.unwrap().index(), 2 * call);
        log.try_append(record(2 * call + 1)).unwrap();
    }
    let flushes = journal_flushes(&sim) - before;
    // One for each call; a stalled test machine may add a few.
    assert!((40..60).contains(&flushes), "{flushes}");
    log.shutdown().await.unwrap();
    assert_eq!(verified_entries(&sim.files()).len() as u64, 2 * CALLS);
}

/// Whether it is done before the time of holding back is over, in one of some tries on a busy machine.
async fn at_once(queue: usize, hand_over: impl AsyncFn(&Log)) -> bool {
    for _ in 0..20 {
        let log = open(&Sim::default(), unpublished(queue)).unwrap();
        let began = Instant::now();
        hand_over(&log).await;
        let took = began.elapsed();
        // Closed already where that is what was handed over.
        let _ = log.shutdown().await;
        if took < Duration::from_millis(40) {
            return true;
        }
    }
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holding_back_ends_for_a_caller_a_flush_the_end_and_a_queue_half_full() {
    let outcomes = |log: &Log, count: u64| (0..count).for_each(|i| log.try_append(record(i)).unwrap());
    let caller = at_once(64, async |log| {
        outcomes(log, 3);
        assert_eq!(log.append(record(3)).await.unwrap().index(), 3);
    });
    assert!(caller.await, "a caller waited for outcomes");
    let flush = at_once(64, async |log| {
        outcomes(log, 3);
        log.flush().await.unwrap();
        assert_eq!((log.size(), log.published()), (3, 3));
    });
    assert!(flush.await, "a flush waited for company");
    let end = at_once(64, async |log| {
        outcomes(log, 3);
        log.clone().shutdown().await.unwrap();
        assert_eq!(log.size(), 3);
    });
    assert!(end.await, "the end waited for company");
    let half_full = at_once(8, async |log| {
        outcomes(log, 4);
        until("durable", || log.size() == 4).await;
    });
    assert!(half_full.await, "callers lacked room");
}
