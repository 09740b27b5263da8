//! What one call costs, part by part: the figures of DESIGN §10 that need no network.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot be set up has nothing to measure")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use countersign_audit::{LogKey, Origin, Sequencer};
use countersign_bench::{Still, World, call, call_state, pdp, record};
use countersign_log::{Log, LogLimits};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tokio::runtime::Runtime;

fn proofs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("dpop");
    for (name, world) in [("ed25519", World::ed25519()), ("es256", World::p256())] {
        group.bench_function(format!("verify {name}"), |bencher| bencher.iter(|| world.verify_proof()));
        group.bench_function(format!("prove {name}"), |bencher| bencher.iter(|| world.prove()));
    }
}

fn tokens(criterion: &mut Criterion) {
    let world = World::ed25519();
    let mut group = criterion.benchmark_group("token");
    group.bench_function("verify", |bencher| bencher.iter(|| world.verify_token()));
    let cached = world.verify_token();
    // What is left of authentication when the token was verified before: everything that may have changed since.
    group.bench_function("authenticate with a cached token", |bencher| {
        bencher.iter_batched(
            || world.verify_proof(),
            |proof| world.authenticate(black_box(&cached), proof),
            BatchSize::SmallInput,
        );
    });
}

fn decisions(criterion: &mut Criterion) {
    let who = World::ed25519().countersigned();
    let (call, state) = (call(), call_state());
    let mut group = criterion.benchmark_group("decide");
    for count in [10, 10_000] {
        let pdp = pdp(count);
        // A denial would be measured as gladly; make sure that it is a permit.
        let decision = pdp.decide(&who, &call, &state);
        assert!(decision.record().bytes().windows(8).any(|bytes| bytes == b"\"permit\""), "not a permit");
        group.bench_function(format!("{count} policies"), |bencher| {
            bencher.iter(|| pdp.decide(black_box(&who), black_box(&call), black_box(&state)));
        });
    }
}

fn records(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("audit");
    group.bench_function("build a record", |bencher| bencher.iter(record));
    let mut sequencer = Sequencer::new(Origin::parse("bench.example/log").unwrap());
    group.bench_function("sequence a record", |bencher| {
        bencher.iter_batched(record, |record| sequencer.stage(vec![record]).durable(), BatchSize::SmallInput);
    });
}

fn appends(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    // Not below /tmp, which may be memory: the flush is what is measured.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let limits = LogLimits { answer_within: Duration::from_secs(30), ..LogLimits::default() };
    let key = LogKey::from_seed(&[1; 32]).unwrap();
    let origin = Origin::parse("bench.example/log").unwrap();
    let log = Log::open(dir.path(), origin, key, limits, Arc::new(Still)).unwrap();
    let mut group = criterion.benchmark_group("append");
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    for callers in [1_u64, 16, 256, 2048] {
        group.throughput(Throughput::Elements(callers));
        group.bench_function(format!("{callers} at once"), |bencher| {
            bencher.iter(|| {
                runtime.block_on(async {
                    let waiting: Vec<_> = (0..callers)
                        .map(|_| {
                            let log = log.clone();
                            tokio::spawn(async move { log.append(record()).await })
                        })
                        .collect();
                    for waiting in waiting {
                        let _ = waiting.await.unwrap().unwrap();
                    }
                });
            });
        });
    }
    group.finish();
    runtime.block_on(log.shutdown()).unwrap();
}

criterion_group!(micro, proofs, tokens, decisions, records, appends);
criterion_main!(micro);
