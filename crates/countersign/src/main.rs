//! The `countersign` command: parses the command line, wires the crates together, reports.
//!
//! No logic lives here; every rule is in the crate that the map names for it.

mod ambient;
mod cli;
mod commands;
mod config;
mod exit;
mod joint;
mod output;
mod remembered;
mod secret_file;

use std::process::ExitCode;

use clap::Parser as _;
use serde_json::Value;
use tracing_subscriber::EnvFilter;

use crate::cli::{Audit, Cli, Command, Machine};
use crate::commands::admin::Admin;
use crate::exit::{Code, Failure};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.json;
    start_logging(json);
    // One provider for the whole process; a second installation could only be the same one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match run(&cli) {
        Ok(Outcome::Answer(answer)) => {
            output::show(&answer, json);
            ExitCode::SUCCESS
        }
        Ok(Outcome::Exit(code)) => code,
        Err(failure) => failure.report(json),
    }
}

/// How a command that did not fail ends.
enum Outcome {
    Answer(Value),
    Exit(ExitCode),
}

fn run(cli: &Cli) -> Result<Outcome, Failure> {
    let admin = Admin(&cli.admin);
    let answer = match &cli.command {
        Command::Dev(command) => return block_on(commands::dev::dev(command, cli.json)).map(Outcome::Exit),
        Command::Serve(command) => {
            return block_on(commands::dev::serve(command, cli.json)).map(Outcome::Exit);
        }
        Command::Run(command) => return block_on(commands::run::run(command)).map(Outcome::Exit),
        Command::Doctor(command) => commands::doctor::run(command, admin),
        Command::Status => admin.status(),
        Command::Machine(Machine::Enroll { server, ca, token_file, state, tpm }) => {
            block_on(commands::machine::run(&commands::machine::Enrolling {
                server,
                ca,
                token_file,
                state,
                tpm: &tpm.tpm,
            }))
        }
        Command::Machine(command) => admin.machine(command),
        Command::Agent(command) => admin.agent(command),
        Command::Person(command) => admin.person(command),
        Command::Task(command) => admin.task(command),
        Command::Policy(command) => admin.policy(command),
        Command::Tool(command) => admin.tool(command),
        Command::Approval(command) => admin.approval(command),
        Command::Audit(Audit::Tail { from, limit }) => admin.records(*from, *limit),
        Command::Audit(command) => commands::audit::run(command),
    }?;
    Ok(Outcome::Answer(answer))
}

fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Code::Failed, format!("cannot start: {error}")))?
        .block_on(future)
}

/// Log lines go to standard error; `COUNTERSIGN_LOG` filters them (`info` by default).
fn start_logging(json: bool) {
    let filter = EnvFilter::try_from_env("COUNTERSIGN_LOG")
        .unwrap_or_else(|_| EnvFilter::new("warn,countersign=info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if json { lines.json().init() } else { lines.init() }
}
