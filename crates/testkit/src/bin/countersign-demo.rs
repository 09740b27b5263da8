//! The demo: brings a whole installation up with embedded defaults, plays the story, and says of every scene what was
//! sent, what was checked, the verdict and its record. It ends with a table, and with 0 only if every verdict was
//! the expected one.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a demo talks")]

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use countersign_testkit::story::{Scene, Story};
use countersign_testkit::world::World;
use serde_json::json;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let given = |flag: &str| arguments.iter().any(|argument| argument == flag);
    if let Some(unknown) =
        arguments.iter().find(|argument| !["--keep", "--json"].contains(&argument.as_str()))
    {
        eprintln!("error: {unknown}: the demo knows --keep and --json");
        return ExitCode::from(2);
    }
    match play(given("--keep"), given("--json")) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: the demo could not go on: {error}");
            ExitCode::from(1)
        }
    }
}

fn play(keep: bool, as_json: bool) -> io::Result<bool> {
    // One provider for the whole process; a second installation could only be the same one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let folder = tempfile::Builder::new().prefix("countersign-demo-").tempdir()?;
    let binary = sibling("countersign")?;
    let world = World::start(folder.path(), &binary)?;
    let mut number = 0_u32;
    let mut story = Story::new(&world, |scene| {
        number += 1;
        if !as_json {
            tell(number, scene);
        }
    });
    let cast = story.set_up()?;
    story.work(&cast)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(story.thefts(&cast))?;
    story.verify_log()?;
    let scenes = story.scenes().to_vec();
    drop(story);
    let all_hold = scenes.iter().all(Scene::holds);
    if as_json {
        let scenes: Vec<_> = scenes.iter().map(Scene::json).collect();
        println!("{}", json!({ "scenes": scenes, "holds": all_hold }));
    } else {
        table(&scenes);
    }
    if keep {
        stay(&world, folder.keep())?;
    }
    Ok(all_hold)
}

fn sibling(name: &str) -> io::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    if path.is_file() {
        return Ok(path);
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!("{} is not built; run: cargo xtask demo", path.display()),
    ))
}

fn tell(number: u32, scene: &Scene) {
    println!("{number:>2}. {}", scene.name);
    println!("    sent     {}", scene.sent);
    println!("    checked  {}", scene.checked);
    println!("    verdict  {}", scene.verdict);
    if !scene.holds() {
        println!("    EXPECTED {}", scene.expected);
    }
    if let Some(record) = scene.record {
        println!("    record   {record}");
    }
    println!();
}

fn table(scenes: &[Scene]) {
    let width = scenes.iter().map(|scene| scene.name.chars().count()).max().unwrap_or(0);
    println!("{:<4} {:<width$}  {:>6}  verdict", "", "scene", "record");
    for scene in scenes {
        let record = scene.record.map_or_else(|| "-".to_owned(), |record| record.to_string());
        let mark = if scene.holds() { "ok" } else { "BAD" };
        println!("{mark:<4} {:<width$}  {record:>6}  {}", scene.name, scene.verdict);
    }
    let held = scenes.iter().filter(|scene| scene.holds()).count();
    println!("\n{held} of {} verdicts as expected", scenes.len());
}

/// Leaves everything running until somebody presses Enter (or closes the input).
fn stay(world: &World, folder: PathBuf) -> io::Result<()> {
    let ready = world.ready();
    println!("\neverything is still running in {}:", folder.display());
    println!("  console        {}", ready.console);
    println!("  control plane  {}", ready.server);
    println!("  gateway        {}", ready.gateway);
    println!("  commands       {} --admin {} agent list", world.binary().display(), ready.admin.display());
    println!("  the log        {} audit verify {}", world.binary().display(), ready.log.display());
    println!("press Enter to stop it");
    io::stdin().read_line(&mut String::new()).map(drop)
}
