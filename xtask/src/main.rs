//! The repository's own commands, so that every machine and every person runs the same checks:
//! `cargo xtask demo | test | ci | bench | setup | fuzz`.
//!
//! Standard library only: it has to be there in seconds on a machine that has nothing yet. It orders other
//! programs about; it checks nothing itself.

mod setup;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const USAGE: &str = "\
usage: cargo xtask <command>

  demo [--keep] [--json]   build in release, bring the whole system up, play the story, check every verdict
  test [-- ARGS]           the whole test suite, with whatever it needs installed first
  ci                       format, lints, tests, docs, the map, dependencies: what has to be green
  bench [--load-only]      micro benchmarks, and the gateway beside a peer on loopback
  fuzz TARGET [SECONDS]    fuzz one parser (needs cargo-fuzz and a nightly toolchain)
  setup                    install what tests and the demo need, and say what was there already";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let rest = arguments.get(1..).unwrap_or_default();
    let outcome = match arguments.first().map(String::as_str) {
        Some("demo") => demo(rest),
        Some("test") => test(rest),
        Some("ci") => ci(),
        Some("bench") => bench(rest),
        Some("fuzz") => fuzz(rest),
        Some("setup") => setup::install(setup::Scope::Tests),
        Some("help" | "--help" | "-h") => {
            println!("{USAGE}");
            Ok(())
        }
        Some(_) | None => Err(USAGE.to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// The folder that holds the workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Runs `command`, showing what it is, and fails with its name if it fails.
fn run(what: &str, command: &mut Command) -> Result<(), String> {
    eprintln!("==> {what}");
    let status = command.status().map_err(|error| format!("{what}: cannot start {command:?}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{what}: failed ({status})")) }
}

fn demo(rest: &[String]) -> Result<(), String> {
    setup::install(setup::Scope::Demo)?;
    run(
        "build (release)",
        cargo().args([
            "build",
            "--release",
            "--locked",
            "--package",
            "countersign",
            "--package",
            "countersign-testkit",
            "--bins",
        ]),
    )?;
    let program = target().join("release/countersign-demo");
    run("demo", Command::new(program).args(rest).current_dir(root()))
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

fn test(rest: &[String]) -> Result<(), String> {
    setup::install(setup::Scope::Tests)?;
    // The end-to-end tests run the built binary, so it has to be there and of this source.
    run("build", cargo().args(["build", "--locked", "--workspace", "--all-targets"]))?;
    let rest = rest.iter().filter(|argument| *argument != "--");
    run("tests", cargo().args(["test", "--locked", "--workspace", "--no-fail-fast"]).args(rest))
}

fn ci() -> Result<(), String> {
    run("format", cargo().args(["fmt", "--all", "--check"]))?;
    test(&[])?;
    run(
        "lints",
        cargo().args(["clippy", "--locked", "--workspace", "--all-targets", "--", "--deny", "warnings"]),
    )?;
    run(
        "docs",
        cargo().args(["doc", "--locked", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "--deny warnings"),
    )?;
    let deny = setup::cargo_deny()?;
    // Advisories need the public advisory database; `cargo deny check advisories` is run where that is reachable.
    run("dependencies", Command::new(deny).args(["check", "bans", "licenses", "sources"]).current_dir(root()))
}

fn bench(rest: &[String]) -> Result<(), String> {
    setup::install(setup::Scope::Bench)?;
    if !rest.iter().any(|argument| argument == "--load-only") {
        run("micro benchmarks", cargo().args(["bench", "--locked", "--package", "countersign-bench"]))?;
    }
    run(
        "build (release)",
        // One call for both, so that what they share is built once and the same.
        cargo().args([
            "build",
            "--release",
            "--locked",
            "--package",
            "countersign",
            "--package",
            "countersign-bench",
            "--bins",
        ]),
    )?;
    run("load", Command::new(target().join("release/countersign-load")).current_dir(root()))
}

fn fuzz(rest: &[String]) -> Result<(), String> {
    let target = rest.first().ok_or(USAGE)?;
    let seconds = rest.get(1).map_or("60", String::as_str);
    run(
        "fuzz",
        Command::new("cargo")
            .args(["+nightly", "fuzz", "run", target, "--", &format!("-max_total_time={seconds}")])
            .current_dir(root().join("fuzz")),
    )
}
