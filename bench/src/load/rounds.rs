//! One measurement: connections that call as fast as they are answered, for a while, and what everyone used meanwhile.
//!
//! Connecting, proving and warming up happen before the clock starts; only answered calls count.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::caller::{Caller, Gateway, Mode, Target};
use crate::installation::Installation;
use crate::meter::Used;
use crate::peer::Peer;
use crate::upstream::Upstream;

/// Calls of each connection before the clock starts.
const WARM_UP_CALLS: u32 = 50;

/// Everything that takes part.
pub(crate) struct Bench {
    pub(crate) installation: Arc<Installation>,
    pub(crate) peer: Peer,
    pub(crate) upstream: Upstream,
    /// Whether to say the process ids before each measurement.
    pub(crate) pids: bool,
}

/// What one measurement found.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) mode: Mode,
    pub(crate) connections: usize,
    pub(crate) elapsed: Duration,
    /// Calls answered with a result.
    pub(crate) calls: u64,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    /// Latencies of the calls in microseconds, sorted.
    pub(crate) latencies: Vec<u32>,
    /// What the gateway, or the peer, used.
    pub(crate) used: Used,
    pub(crate) used_by_upstream: Used,
    pub(crate) used_by_load: Used,
    /// Records that the log grew by; none for the peer.
    pub(crate) records: u64,
}

#[derive(Default)]
struct Tally {
    latencies: Vec<u32>,
    errors: u64,
    first_error: Option<String>,
}

impl Bench {
    /// Measures `mode` with this many connections for this many seconds.
    pub(crate) async fn run(&self, mode: Mode, connections: usize, seconds: f64) -> io::Result<Measured> {
        let (target, pid) = self.target(mode).await?;
        let start = Arc::new(Barrier::new(connections + 1));
        let lasting = Duration::from_secs_f64(seconds);
        let mut callers = JoinSet::new();
        for _ in 0..connections {
            let caller = Caller::connect(target.clone()).await?;
            callers.spawn(keep_calling(caller, start.clone(), lasting));
        }
        if self.pids {
            eprintln!("{} pid {pid}, {connections} connections", mode.short());
        }
        // Once when all are warm, and once when all meters were read.
        start.wait().await;
        let records_before = self.installation.log_size()?;
        let before = self.meters(pid)?;
        let began = Instant::now();
        start.wait().await;

        let mut tally = Tally::default();
        while let Some(finished) = callers.join_next().await {
            tally.add(finished.map_err(io::Error::other)?);
        }
        let elapsed = began.elapsed();
        let after = self.meters(pid)?;
        let records = self.installation.log_size()?.saturating_sub(records_before);
        tally.latencies.sort_unstable();
        let [used, used_by_upstream, used_by_load] = [0, 1, 2].map(|of| after[of].since(&before[of]));
        Ok(Measured {
            mode,
            connections,
            elapsed,
            calls: tally.latencies.len() as u64,
            errors: tally.errors,
            first_error: tally.first_error,
            latencies: tally.latencies,
            used,
            used_by_upstream,
            used_by_load,
            records,
        })
    }

    async fn target(&self, mode: Mode) -> io::Result<(Arc<Target>, u32)> {
        let every_call = match mode {
            Mode::Peer => return Ok((Arc::new(Target::Peer(self.peer.address)), self.peer.pid())),
            Mode::Dpop => true,
            Mode::Channel => false,
        };
        let credentials = self.installation.credentials().await?;
        let gateway = Gateway::new(self.installation.clone(), credentials, every_call)?;
        Ok((Arc::new(Target::Gateway(Box::new(gateway))), self.installation.pid()))
    }

    fn meters(&self, pid: u32) -> io::Result<[Used; 3]> {
        Ok([Used::by(pid)?, Used::by(self.upstream.pid())?, Used::by(std::process::id())?])
    }
}

async fn keep_calling(mut caller: Caller, start: Arc<Barrier>, lasting: Duration) -> Tally {
    let mut tally = Tally::default();
    for _ in 0..WARM_UP_CALLS {
        if let Err(error) = caller.call().await {
            tally.failed(&error);
            break;
        }
    }
    start.wait().await;
    start.wait().await;
    let until = Instant::now() + lasting;
    // A connection that failed once has no known state: it makes no further calls.
    while tally.errors == 0 {
        let began = Instant::now();
        if began >= until {
            break;
        }
        match caller.call().await {
            Ok(()) => {
                tally.latencies.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
            }
            Err(error) => tally.failed(&error),
        }
    }
    tally
}

impl Tally {
    fn failed(&mut self, error: &io::Error) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| error.to_string());
    }

    fn add(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
    }
}

/// A quantile of sorted values; 0 of none.
pub(crate) fn quantile(sorted: &[u32], part: f64) -> u32 {
    let last = sorted.len().saturating_sub(1);
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        clippy::cast_possible_truncation,
        reason = "an index"
    )]
    let at = (last as f64 * part).round() as usize;
    sorted.get(at).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let sorted: Vec<u32> = (1..=101).collect();
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|part| quantile(&sorted, part)), [1, 51, 100, 101]);
        assert_eq!(quantile(&[], 0.5), 0);
    }
}
