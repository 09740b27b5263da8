//! The how-to guides do what they say: every `sh` block is run, in the order of the pages, against a running system.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::Stage;

/// The guides whose commands are run, in an order in which a reader could follow them.
const GUIDES: [&str; 4] = ["enroll-a-machine.md", "run-an-agent.md", "grant-a-task.md", "verify-the-log.md"];

#[test]
fn the_commands_of_the_guides_work() {
    let stage = Stage::new();
    let world = &stage.world;
    let folder = world.dir().join("reader");
    std::fs::create_dir_all(&folder).expect("a folder for the reader");
    let manufacturer = world.dir().join("manufacturer");
    let tpm = countersign_testkit::swtpm::SimulatedTpm::manufacture_by(
        &world.dir().join("tpm-reader"),
        &manufacturer,
    )
    .expect("a TPM");
    let path = format!(
        "{}:{}",
        world.binary().parent().expect("a folder").display(),
        std::env::var("PATH").unwrap_or_default()
    );
    for guide in GUIDES {
        let text =
            std::fs::read_to_string(world.repository().join("docs/how-to").join(guide)).expect("the guide");
        let script: String = blocks(&text).collect();
        assert!(!script.is_empty(), "{guide} has no commands");
        let ready = world.ready();
        let mut shell = Command::new("bash")
            .args(["-e", "-u", "-o", "pipefail", "-s"])
            .current_dir(&folder)
            .env("PATH", &path)
            .env("SERVER", &ready.server)
            .env("GATEWAY", &ready.gateway)
            .env("CA", &ready.ca)
            .env("LOG", &ready.log)
            .env("STATE", folder.join("state"))
            .env("TPM", format!("unix:{}", tpm.socket().display()))
            .env("COUNTERSIGN_ADMIN", &ready.admin)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("bash runs");
        shell.stdin.take().expect("its input").write_all(script.as_bytes()).expect("it listens");
        let output = shell.wait_with_output().expect("it ends");
        assert!(
            output.status.success(),
            "{guide}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// The contents of the fenced `sh` blocks.
fn blocks(text: &str) -> impl Iterator<Item = &str> {
    text.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next())
}
