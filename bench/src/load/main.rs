//! A loopback load test of the gateway's full walk, in both proof modes, beside nginx that proxies the same upstream
//! without any check.
//!
//! The gateway is the real `countersign dev` in a process of its own, the machine key is in a software TPM, and every
//! answer is checked. Not a stress test: nothing here is refused, and one refusal fails the run.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command talks")]

mod caller;
mod flush;
mod installation;
mod meter;
mod peer;
mod report;
mod rounds;
mod upstream;
mod wire;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;

use caller::Mode;
use installation::Installation;
use peer::Peer;
use report::Report;
use rounds::{Bench, Measured};
use upstream::Upstream;

/// Measures the gateway under load on this machine, beside nginx. Takes about 80 s.
#[derive(Debug, Parser)]
#[command(name = "countersign-load")]
struct Plan {
    /// Keep-alive connections that call at the same time.
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// How long each measurement lasts.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// How often each is repeated, in turns.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How many policies are in force; all but three are about other teams.
    #[arg(long, default_value_t = 10)]
    policies: usize,
    /// What to measure, of dpop, channel and peer.
    #[arg(long, value_delimiter = ',', default_values = ["dpop", "channel", "peer"])]
    only: Vec<Mode>,
    /// How long to measure latency with a single connection; 0 leaves it out.
    #[arg(long, default_value_t = 1.5)]
    single_seconds: f64,
    /// Connections for one more measurement of each, in which group commit shows (at most 240 for one machine); 0 leaves it
    /// out.
    #[arg(long, default_value_t = 192)]
    many: usize,
    /// The gateway; by default the `countersign` beside this command.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// On which disk the log is; by default in the folder for temporary files.
    #[arg(long, value_name = "FOLDER")]
    disk: Option<PathBuf>,
    /// Prints JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Says the process ids before each measurement, for a profiler.
    #[arg(long)]
    pids: bool,
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(upstream::COMMAND) {
        return ended(upstream::serve().map(|()| true));
    }
    ended(load(&Plan::parse()))
}

fn ended(result: io::Result<bool>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(1)
        }
    }
}

/// Runs the plan; whether every call was answered.
fn load(plan: &Plan) -> io::Result<bool> {
    // One provider for the whole process; a second installation could only be the same one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut folder = tempfile::Builder::new();
    folder.prefix("countersign-load-");
    let folder = plan.disk.as_ref().map_or_else(|| folder.tempdir(), |disk| folder.tempdir_in(disk))?;
    let binary = plan.binary.clone().map_or_else(|| sibling("countersign"), Ok)?;
    let flush = flush::probe(folder.path())?;
    let load_before = meter::load_average();

    // One thread makes the load, so that on a small machine the rest is left to what is measured.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let measured = runtime.block_on(async {
        let upstream = Upstream::start()?;
        let peer = Peer::start(&folder.path().join("nginx"), upstream.port).await?;
        let installation = Installation::start(folder.path(), &binary, upstream.port, plan.policies).await?;
        let bench = Bench { installation: Arc::new(installation), peer, upstream, pids: plan.pids };
        measure(plan, &bench).await
    })?;
    let report = Report {
        policies: plan.policies,
        load_average: [load_before, meter::load_average()],
        flush,
        measured,
    };
    if plan.json {
        println!("{}", report.json());
    } else {
        println!("{report}");
    }
    Ok(report.errors() == 0)
}

async fn measure(plan: &Plan, bench: &Bench) -> io::Result<Vec<Measured>> {
    let mut measured = Vec::new();
    for _ in 0..plan.rounds {
        for mode in &plan.only {
            measured.push(bench.run(*mode, plan.connections, plan.seconds).await?);
        }
    }
    if plan.single_seconds > 0.0 {
        for mode in &plan.only {
            measured.push(bench.run(*mode, 1, plan.single_seconds).await?);
        }
    }
    if plan.many > 0 {
        for mode in &plan.only {
            measured.push(bench.run(*mode, plan.many, plan.seconds).await?);
        }
    }
    Ok(measured)
}

fn sibling(name: &str) -> io::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    if path.is_file() {
        return Ok(path);
    }
    let missing =
        format!("{} is not built; run: cargo build --release --package countersign", path.display());
    Err(io::Error::new(io::ErrorKind::NotFound, missing))
}
