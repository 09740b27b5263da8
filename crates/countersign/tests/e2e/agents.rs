//! A real coding agent (Codex CLI) behind `countersign run`. Its model is scripted and on loopback; the agent itself
//! is the product that people install.

use std::process::{Command, Stdio};

use countersign_testkit::process::Talking;
use countersign_testkit::story::{AGENT, POLICY};
use serde_json::json;

use crate::Stage;

#[test]
fn a_real_coding_agent_works_and_notices_nothing() {
    let stage = Stage::new();
    let world = &stage.world;
    let laptop = world.enroll("laptop").expect("enrollment");
    world.add_person("sam").expect("a person");
    world.add_agent(AGENT, "sam").expect("an agent");
    world.activate_policy(POLICY).expect("a policy");
    let task =
        world.add_task(AGENT, &json!([{ "name": "notes.read", "args": {} }]), 10, 3600).expect("a task");

    let codex = |tool: &str, arguments: &str| {
        let mut model = Talking::start(
            "scripted model",
            Command::new("node")
                .arg(world.repository().join("e2e/mcp/scripted-model.mjs"))
                .args([tool, arguments]),
        )
        .expect("the model starts");
        let port = model.next_json().expect("the model listens")["port"].as_u64().expect("a port");
        let home = world.dir().join(format!("codex-{tool}"));
        std::fs::create_dir_all(&home).expect("a home for the agent");
        let provider = format!(
            r#"model_providers.scripted={{name="scripted",base_url="http://127.0.0.1:{port}/v1",wire_api="responses",env_key="SCRIPTED_KEY"}}"#
        );
        let output = world
            .run_command(&laptop, AGENT, &task, &[])
            .arg(world.repository().join("e2e/mcp/node_modules/.bin/codex"))
            .args(["exec", "--skip-git-repo-check", "--json", "--dangerously-bypass-approvals-and-sandbox"])
            .args(["-c", "model_provider=scripted", "-c", "model=scripted", "-c", &provider])
            .args(["-c", r#"mcp_servers.work={url="{mcp:work}"}"#])
            .arg("do what the model says")
            .env("CODEX_HOME", &home)
            .env("SCRIPTED_KEY", "none")
            .current_dir(&home)
            .stdin(Stdio::null())
            .output()
            .expect("the agent runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        said
    };

    let from = world.log_size().expect("a size");
    let said = codex("notes_read", r#"{"topic":"roadmap"}"#);
    assert!(said.contains("TOOL SAID") && said.contains("ship the gateway"), "{said}");
    let records = world.records(from).expect("records");
    let intents = records.iter().filter(|entry| entry["record"]["kind"] == "intent").count();
    assert_eq!(intents, 1, "one call, one intent");

    let said = codex("secrets_dump", "{}");
    assert!(said.contains("NO SUCH TOOL"), "a tool outside the task is not even shown: {said}");
    let calls = world.upstream_stats().expect("counters")["calls"].clone();
    assert_eq!(calls, json!([{ "tool": "notes.read", "args": { "topic": "roadmap" } }]));
}
