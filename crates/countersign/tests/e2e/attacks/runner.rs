//! CLI: the agent's process holds nothing worth stealing, and a copied machine is no machine.

use std::process::Stdio;

use countersign_testkit::insider::Insider;
use countersign_testkit::story::AGENT;
use countersign_testkit::swtpm::SimulatedTpm;

use super::Ground;
use crate::block_on;

#[test]
fn the_agents_process_holds_no_key_and_no_token() {
    // CLI-01: environment, arguments and open files of the child.
    let ground = Ground::new();
    let world = &ground.stage.world;
    let output = world
        .run_command(&ground.laptop, AGENT, &ground.task, &[])
        .args(["bash", "-c", "env; ls -l /proc/$$/fd; tr '\\0' ' ' < /proc/$$/cmdline"])
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    let seen = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{seen}{}", String::from_utf8_lossy(&output.stderr));
    assert!(seen.contains("COUNTERSIGN_MCP_URL=http://127.0.0.1:"), "{seen}");
    for secret in ["eyJ", "PRIVATE KEY", "upstream-credential", "tpm.sock", "state-laptop", "socket:["] {
        assert!(!seen.contains(secret), "{secret} is within the agent's reach:\n{seen}");
    }
}

#[test]
fn the_agents_exit_code_is_the_runners() {
    let ground = Ground::new();
    let status = ground
        .stage
        .world
        .run_command(&ground.laptop, AGENT, &ground.task, &[])
        .args(["bash", "-c", "exit 42"])
        .stdin(Stdio::null())
        .status()
        .expect("it runs");
    assert_eq!(status.code(), Some(42));
}

#[test]
fn a_copied_state_folder_is_worthless_with_another_tpm() {
    // CLI-05
    let ground = Ground::new();
    let world = &ground.stage.world;
    let manufacturer = world.dir().join("manufacturer");
    let thief = SimulatedTpm::manufacture_by(&world.dir().join("tpm-thief"), &manufacturer).expect("a TPM");
    let opened = block_on(Insider::open_state(world.ready(), &ground.laptop.state, &thief.socket(), AGENT));
    assert!(opened.is_err(), "another TPM loaded the stolen key");
    let output = world
        .cli_output(&[
            "run",
            "--agent",
            AGENT,
            "--task",
            &ground.task,
            "--upstream",
            "work",
            "--gateway",
            &world.ready().gateway,
            "--state",
            &ground.laptop.state.display().to_string(),
            "--tpm",
            &format!("unix:{}", thief.socket().display()),
            "--",
            "true",
        ])
        .expect("it runs");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.to_lowercase().contains("tpm"), "it says why: {said}");
}

#[test]
fn without_its_tpm_a_machine_does_nothing() {
    // CLI-20
    let mut ground = Ground::new();
    ground.laptop.tpm.power_off();
    let output = ground
        .stage
        .world
        .run_command(&ground.laptop, AGENT, &ground.task, &[])
        .arg("true")
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    assert!(!output.status.success(), "it must never fall back to a software key");
    assert!(String::from_utf8_lossy(&output.stderr).contains("error:"));
}
