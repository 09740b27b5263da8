//! Real coding agents (Codex CLI, Claude Code) behind `countersign run`. Their model is scripted and on loopback; the
//! agents themselves are the products that people install.

use std::path::Path;
use std::process::{Command, Stdio};

use countersign_testkit::process::Talking;
use countersign_testkit::story::{AGENT, POLICY};
use countersign_testkit::world::{Machine, World};
use serde_json::{Value, json};

use crate::Stage;

/// A coding agent: the model it talks to, and how it is told to use one tool server and that model.
struct CodingAgent {
    name: &'static str,
    model: &'static str,
    command: fn(command: &mut Command, repository: &Path, home: &Path, model_port: u64),
}

const CODEX: CodingAgent =
    CodingAgent { name: "codex", model: "e2e/mcp/scripted-model.mjs", command: codex_command };

const CLAUDE_CODE: CodingAgent =
    CodingAgent { name: "claude", model: "e2e/mcp/scripted-messages.mjs", command: claude_code_command };

fn codex_command(command: &mut Command, repository: &Path, home: &Path, model_port: u64) {
    let provider = format!(
        r#"model_providers.scripted={{name="scripted",base_url="http://127.0.0.1:{model_port}/v1",wire_api="responses",env_key="SCRIPTED_KEY"}}"#
    );
    command
        .arg(repository.join("e2e/mcp/node_modules/.bin/codex"))
        .args(["exec", "--skip-git-repo-check", "--json", "--dangerously-bypass-approvals-and-sandbox"])
        .args(["-c", "model_provider=scripted", "-c", "model=scripted", "-c", &provider])
        .args(["-c", r#"mcp_servers.work={url="{mcp:work}"}"#])
        .arg("do what the model says")
        .env("CODEX_HOME", home)
        .env("SCRIPTED_KEY", "none");
}

fn claude_code_command(command: &mut Command, repository: &Path, home: &Path, model_port: u64) {
    command
        .arg(repository.join("e2e/mcp/node_modules/.bin/claude"))
        .args(["-p", "do what the model says", "--model", "scripted", "--output-format", "json"])
        .args(["--strict-mcp-config", "--mcp-config"])
        .arg(r#"{"mcpServers":{"work":{"type":"http","url":"{mcp:work}"}}}"#)
        .args(["--allowedTools", "mcp__work__notes_read", "mcp__work__secrets_dump"])
        .env("HOME", home)
        .env("CLAUDE_CONFIG_DIR", home)
        .env("ANTHROPIC_BASE_URL", format!("http://127.0.0.1:{model_port}"))
        .env("ANTHROPIC_API_KEY", "none")
        .env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
        .env("DISABLE_AUTOUPDATER", "1");
}

/// Has the agent's model ask for one tool, and gives all that the agent printed.
fn work(
    agent: &CodingAgent,
    world: &World,
    laptop: &Machine,
    task: &str,
    tool: &str,
    arguments: &Value,
) -> String {
    let mut model = Talking::start(
        "scripted model",
        Command::new("node").arg(world.repository().join(agent.model)).args([tool, &arguments.to_string()]),
    )
    .expect("the model starts");
    let port = model.next_json().expect("the model listens")["port"].as_u64().expect("a port");
    let home = world.dir().join(format!("home-{}", agent.name));
    std::fs::create_dir_all(&home).expect("a home for the agent");
    let mut command = world.run_command(laptop, AGENT, task, &[]);
    (agent.command)(&mut command, world.repository(), &home, port);
    let output = command.current_dir(&home).stdin(Stdio::null()).output().expect("the agent runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

fn works_and_notices_nothing(agent: &CodingAgent) {
    let stage = Stage::new();
    let world = &stage.world;
    let laptop = world.enroll("laptop").expect("enrollment");
    world.add_person("sam").expect("a person");
    world.add_agent(AGENT, "sam").expect("an agent");
    world.activate_policy(POLICY).expect("a policy");
    let tools = json!([{ "name": "notes.read", "args": { "topic": { "eq": "roadmap" } } }]);
    let task = world.add_task(AGENT, &tools, 10, 3600).expect("a task");

    let from = world.log_size().expect("a size");
    let said = work(agent, world, &laptop, &task, "notes_read", &json!({ "topic": "roadmap" }));
    assert!(said.contains("TOOL SAID") && said.contains("ship the gateway"), "{said}");
    let records = world.records(from).expect("records");
    let intents = records.iter().filter(|entry| entry["record"]["kind"] == "intent").count();
    assert_eq!(intents, 1, "one call, one intent");

    // A denial reaches the model in words, with the name of the decision to ask a person about.
    let from = world.log_size().expect("a size");
    let said = work(agent, world, &laptop, &task, "notes_read", &json!({ "topic": "salaries" }));
    let records = world.records(from).expect("records");
    let denial =
        records.iter().find(|entry| entry["record"]["kind"] == "denial").expect("a denial is recorded");
    let decision = denial["record"]["dec"].as_str().expect("a decision id");
    for part in ["TOOL SAID", "the task does not allow these arguments", "task.args", decision] {
        assert!(said.contains(part), "{part:?} did not reach the model: {said}");
    }

    let said = work(agent, world, &laptop, &task, "secrets_dump", &json!({}));
    assert!(said.contains("NO SUCH TOOL"), "a tool outside the task is not even shown: {said}");
    let calls = world.upstream_stats().expect("counters")["calls"].clone();
    assert_eq!(calls, json!([{ "tool": "notes.read", "args": { "topic": "roadmap" } }]));
}

#[test]
fn a_real_coding_agent_works_and_notices_nothing() {
    works_and_notices_nothing(&CODEX);
}

#[test]
fn claude_code_works_and_notices_nothing() {
    works_and_notices_nothing(&CLAUDE_CODE);
}
