//! A crash after any write, with any part of what was not flushed: no acknowledged record is lost, and nothing
//! that was published is contradicted.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{Files, Op, Sim, apply, open, origin, record, verified_entries, verifier};
use countersign_audit::{Checkpoint, note};
use countersign_log::{Log, LogError, LogLimits};

/// Small segments and quick publications, so that a short life has everything in it.
const LIMITS: LogLimits = LogLimits {
    queue: 64,
    batch_entries: 40,
    batch_bytes: 8 << 20,
    segment_entries: 256,
    waiting_bytes: 64 << 20,
    answer_within: Duration::from_secs(20),
    publish_every: Duration::from_millis(1),
    close_within: Duration::from_secs(20),
};

/// Numbers from a seed (xorshift); tests must not depend on today's luck.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides as u64).unwrap()
    }
}

/// An acknowledgement: when (operations done), and what.
struct Acked {
    ops: usize,
    index: u64,
    entry: Vec<u8>,
}

/// A life of `count` records in batches of different sizes.
async fn live(sim: &Sim, log: &Log, first: u64, count: u64) -> Vec<Acked> {
    let mut acked = Vec::new();
    let mut next = first;
    let mut dice = Dice(0x9e37_79b9 ^ first);
    while next < first + count {
        let burst = (1 + dice.roll(60) as u64).min(first + count - next);
        let waiting: Vec<_> = (next..next + burst)
            .map(|i| {
                let (log, record) = (log.clone(), record(i));
                tokio::spawn(async move {
                    let entry = record.bytes().to_vec();
                    (log.append(record).await.unwrap(), entry)
                })
            })
            .collect();
        for waiting in waiting {
            let (receipt, entry) = waiting.await.unwrap();
            acked.push(Acked { ops: sim.op_count(), index: receipt.index(), entry });
        }
        next += burst;
    }
    acked
}

/// What a crash after the first `done` operations may leave.
enum Crash {
    /// The process died; the kernel has everything.
    Process,
    /// The machine died; of what was not flushed there is what the dice say, in sectors of this size.
    Power { sector: usize },
}

fn image(start: &Files, ops: &[Op], crash: &Crash, dice: &mut Dice) -> Files {
    let mut files = start.clone();
    match crash {
        Crash::Process => ops.iter().for_each(|op| apply(&mut files, op)),
        Crash::Power { sector } => {
            // Per file, the operations after its last flush may be there or not; renames and removals too.
            let mut unflushed: BTreeMap<String, Vec<Op>> = BTreeMap::new();
            for op in ops {
                match op {
                    Op::Open(_) => apply(&mut files, op),
                    Op::Sync(path) => {
                        for op in unflushed.remove(path).unwrap_or_default() {
                            apply(&mut files, &op);
                        }
                    }
                    // A journal may be written while this runs: its own flush is what counts for it.
                    Op::SyncAll => unflushed.retain(|path, ops| {
                        let journal =
                            path.starts_with("journal/") && ops.iter().any(|op| !matches!(op, Op::Remove(_)));
                        if !journal {
                            ops.iter().for_each(|op| apply(&mut files, op));
                        }
                        journal
                    }),
                    Op::Put { path, durable: true, .. } => {
                        unflushed.remove(path);
                        apply(&mut files, op);
                    }
                    Op::Write { path, .. }
                    | Op::Truncate { path, .. }
                    | Op::Put { path, .. }
                    | Op::Remove(path) => {
                        unflushed.entry(path.clone()).or_default().push(op.clone());
                    }
                }
            }
            for op in unflushed.into_values().flatten() {
                half_do(&mut files, &op, *sector, dice);
            }
        }
    }
    files
}

/// An unflushed operation, or part of it.
fn half_do(files: &mut Files, op: &Op, sector: usize, dice: &mut Dice) {
    match op {
        Op::Write { path, offset, bytes } => {
            let file = files.entry(path.clone()).or_default();
            let end = (offset + dice.roll(bytes.len() + 1)).max(file.len().min(offset + bytes.len()));
            if file.len() < end {
                file.resize(end, 0);
            }
            let mut at = *offset;
            while at < end {
                let until = end.min((at / sector + 1) * sector);
                if dice.roll(2) == 0 {
                    file[at..until].copy_from_slice(&bytes[at - offset..until - offset]);
                }
                at = until;
            }
        }
        Op::Put { path, bytes, .. } => match dice.roll(4) {
            0 => {}
            1 => drop(files.insert(path.clone(), Vec::new())),
            2 => drop(files.insert(path.clone(), bytes[..dice.roll(bytes.len() + 1)].to_vec())),
            _ => apply(files, op),
        },
        other => {
            if dice.roll(2) == 0 {
                apply(files, other);
            }
        }
    }
}

/// The newest checkpoint that was durably published among these operations.
fn last_published(ops: &[Op]) -> Option<Checkpoint> {
    ops.iter().rev().find_map(|op| match op {
        Op::Put { path, bytes, durable: true } if path == "checkpoint" => {
            Some(note::open(bytes, &verifier()).unwrap())
        }
        _ => None,
    })
}

/// Opens what the crash left, and compares it with every promise made before.
async fn check(files: Files, acked: &[Acked], promised: Option<&Checkpoint>, story: &str) -> Sim {
    let sim = Sim::holding(files);
    let storage = std::sync::Arc::new(sim.clone());
    let clock = std::sync::Arc::new(common::Stopped);
    let log = Log::open_on(storage, origin(), common::key(), LIMITS, clock, promised)
        .unwrap_or_else(|error| panic!("{story}: {error} ({error:?})"));
    let last = record(u64::MAX - log.size());
    let receipt = log.append(last.clone()).await.unwrap();
    log.shutdown().await.unwrap();
    let entries = verified_entries(&sim.files());
    for acked in acked {
        assert_eq!(
            entries.get(usize::try_from(acked.index).unwrap()),
            Some(&acked.entry),
            "{story}: entry {}",
            acked.index
        );
    }
    assert_eq!(entries.last().map(Vec::as_slice), Some(last.bytes()), "{story}");
    assert_eq!(receipt.index() + 1, entries.len() as u64, "{story}");
    sim
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_crash_loses_an_acknowledged_record() {
    let sim = Sim::default();
    let log = open(&sim, LIMITS).unwrap();
    let acked = live(&sim, &log, 0, 1300).await;
    log.shutdown().await.unwrap();
    let ops = sim.ops();
    let removed =
        ops.iter().filter(|op| matches!(op, Op::Remove(path) if path.starts_with("journal/"))).count();
    assert!(removed >= 3, "segments were finished: {removed}");

    let (mut images, all) = (0, ops.len());
    for done in 1..=all {
        let known: Vec<&Acked> = acked.iter().filter(|acked| acked.ops <= done).collect();
        let known: Vec<Acked> = known
            .into_iter()
            .map(|acked| Acked { ops: 0, index: acked.index, entry: acked.entry.clone() })
            .collect();
        let promised = last_published(&ops[..done]);
        let crashes = [
            Crash::Process,
            Crash::Power { sector: 512 },
            Crash::Power { sector: 4096 },
            Crash::Power { sector: 16 },
        ];
        let seed = done as u64;
        for (kind, crash) in crashes.iter().enumerate() {
            // Every prefix in one way, every third in all ways.
            if done % 3 != 0 && kind != done % 4 {
                continue;
            }
            let mut dice = Dice(0x2545_f491 + seed * 8 + kind as u64);
            let mut ops = ops[..done].to_vec();
            if let (Some(Op::Write { bytes, .. }), 0) = (ops.last_mut(), dice.roll(2)) {
                bytes.truncate(dice.roll(bytes.len() + 1));
            }
            let files = image(&Files::new(), &ops, crash, &mut dice);
            let story = format!("crash {kind} after {done} of {all} operations");
            let again = check(files.clone(), &known, promised.as_ref(), &story).await;
            images += 1;
            // Crash inside the recovery as well; what the first life left unflushed may still be lost in the second.
            let recovery = again.ops();
            let cuts = if matches!(crash, Crash::Process) { 4 } else { usize::from(dice.roll(16) == 0) };
            for _ in 0..cuts {
                let cut = 1 + dice.roll(recovery.len());
                let promised = last_published(&recovery[..cut]).or(promised.clone());
                let power = Crash::Power { sector: 512 };
                let files = match crash {
                    Crash::Process => {
                        let both = [ops.as_slice(), &recovery[..cut]].concat();
                        image(&Files::new(), &both, &power, &mut dice)
                    }
                    Crash::Power { .. } => image(&files, &recovery[..cut], &power, &mut dice),
                };
                let story = format!("{story}, then after {cut} of {} of recovery", recovery.len());
                check(files, &known, promised.as_ref(), &story).await;
                images += 1;
            }
        }
    }
    assert!(images >= 500, "only {images} crash images");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_to_acknowledged_bytes_is_refused_and_not_trimmed_away() {
    let sim = Sim::default();
    let log = open(&sim, LIMITS).unwrap();
    live(&sim, &log, 0, 600).await;
    log.shutdown().await.unwrap();
    let good = sim.files();
    assert!(open(&Sim::holding(good.clone()), LIMITS).is_ok());

    let mut refused = 0;
    for (path, bytes) in &good {
        for at in (0..bytes.len()).step_by(31) {
            let mut files = good.clone();
            files.get_mut(path).unwrap()[at] ^= 1;
            let after = Sim::holding(files);
            match open(&after, LIMITS) {
                Err(
                    LogError::Checkpoint(_)
                    | LogError::Damaged { .. }
                    | LogError::RolledBack { .. }
                    | LogError::Changed { .. },
                ) => {
                    refused += 1;
                    assert!(
                        path == "checkpoint" || path.starts_with("journal/") || path.starts_with("tile/0/"),
                        "{path}"
                    );
                }
                Err(other) => panic!("{path} byte {at}: {other}"),
                // Old bundles are not read at a start; verification reads them. Everything younger is made anew.
                Ok(log) => {
                    log.shutdown().await.unwrap();
                    assert!(path.starts_with("tile/"), "{path} byte {at} went unnoticed");
                }
            }
        }
    }
    assert!(refused > 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_with_less_than_was_signed_for_is_refused() {
    let sim = Sim::default();
    let log = open(&sim, LIMITS).unwrap();
    live(&sim, &log, 0, 100).await;
    log.flush().await.unwrap();
    let earlier = sim.files();
    live(&sim, &log, 100, 100).await;
    log.shutdown().await.unwrap();
    let good = sim.files();

    // The journal put back, the checkpoint not.
    let mut files = good.clone();
    files.extend(
        earlier.iter().filter(|(path, _)| path.starts_with("journal/")).map(|(p, b)| (p.clone(), b.clone())),
    );
    assert!(matches!(
        open(&Sim::holding(files), LIMITS),
        Err(LogError::RolledBack { promised: 200, found: 100 })
    ));
    // The journal gone.
    let mut files = good.clone();
    files.retain(|path, _| !path.starts_with("journal/"));
    assert!(matches!(
        open(&Sim::holding(files), LIMITS),
        Err(LogError::RolledBack { promised: 200, found: 0 })
    ));
    // The checkpoint gone.
    let mut files = good.clone();
    files.remove("checkpoint");
    assert!(matches!(open(&Sim::holding(files), LIMITS), Err(LogError::Damaged { .. })));
    // Everything put back to an earlier day: only a checkpoint remembered elsewhere tells.
    let remembered = note::open(&good["checkpoint"], &verifier()).unwrap();
    let reopen = |files: Files, remembered| {
        let (storage, clock) =
            (std::sync::Arc::new(Sim::holding(files)), std::sync::Arc::new(common::Stopped));
        Log::open_on(storage, origin(), common::key(), LIMITS, clock, remembered)
    };
    assert!(reopen(earlier.clone(), None).is_ok());
    assert!(matches!(
        reopen(earlier, Some(&remembered)),
        Err(LogError::RolledBack { promised: 200, found: 100 })
    ));
    assert!(reopen(good, Some(&remembered)).is_ok());
}
