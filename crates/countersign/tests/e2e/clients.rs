//! Unmodified clients: the official SDKs, in both ways to prove the agent.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc::channel;
use std::time::Duration;

use countersign_testkit::process::Talking;
use countersign_testkit::story::{AGENT, POLICY};
use countersign_testkit::world::{Client, Machine, ToolServer, World};
use serde_json::{Value, json};

use crate::Stage;

/// The policy of the story wants at most three seconds.
const TOO_OLD_FOR_A_DEPLOYMENT: Duration = Duration::from_secs(4);

/// A denied call as the SDK reports it: an error of the protocol with the reason in words and the name of the decision
/// in the record, not a broken transport.
fn assert_told(client: Client, refused: &Value, reason: &str, code: &str, decision: &Value) {
    let decision = decision.as_str().expect("a decision id");
    assert_eq!(refused["error"]["code"], -32003, "{client:?}: {refused}");
    let message = refused["error"]["message"].as_str().unwrap_or_default();
    for part in [reason, code, decision] {
        assert!(message.contains(part), "{client:?}: {part:?} is not in {message:?}");
    }
}

/// The last record of a denial.
fn denial(records: &[Value]) -> &Value {
    let denied = records.iter().rev().find(|entry| entry["record"]["kind"] == "denial");
    &denied.expect("a denial is recorded")["record"]
}

#[test]
fn official_sdks_work_unmodified_in_both_proof_modes() {
    let stage = Stage::new();
    let world = &stage.world;
    let laptop = world.enroll("laptop").expect("enrollment");
    world.add_person("sam").expect("a person");
    world.add_agent(AGENT, "sam").expect("an agent");
    world.activate_policy(POLICY).expect("a policy");
    let tools = json!([{ "name": "notes.read", "args": {} }, { "name": "slow.count", "args": {} }]);
    let task = world.add_task(AGENT, &tools, 100, 3600).expect("a task");

    let check = |client: Client, extra: &[&str], proof: &str| {
        let from = world.log_size().expect("a size");
        let mut agent = world.run_client(&laptop, AGENT, &task, client, extra).expect("the client starts");
        let listed = agent.ask(&json!({ "list": true })).expect("an answer");
        assert_eq!(listed["tools"], json!(["notes.read", "slow.count"]), "{client:?} {extra:?}");
        let read =
            agent.ask(&json!({ "call": "notes.read", "args": { "topic": "roadmap" } })).expect("an answer");
        assert_eq!(read["text"], "ship the gateway", "{client:?} {extra:?}: {read}");
        let counted = agent.ask(&json!({ "call": "slow.count", "args": { "steps": 3 } })).expect("an answer");
        assert_eq!(counted["text"], "counted to 3", "{client:?} {extra:?}: {counted}");
        let refused = agent
            .ask(&json!({ "call": "notes.write", "args": { "topic": "a", "text": "b" } }))
            .expect("an answer");
        assert!(
            refused["error"]["message"].as_str().is_some_and(|text| text.contains("task")),
            "{client:?}: {refused}"
        );
        agent.finish().expect("the client ends");
        let records = world.records(from).expect("records");
        let intents: Vec<_> = records.iter().filter(|entry| entry["record"]["kind"] == "intent").collect();
        assert_eq!(intents.len(), 2, "{client:?} {extra:?}");
        for intent in intents {
            assert_eq!(intent["record"]["agent_proof"], proof, "{intent}");
            assert_eq!(intent["record"]["machine_proof"], "mtls", "{intent}");
        }
    };
    check(Client::TypeScript, &[], "channel");
    check(Client::TypeScript, &["--proof-per-call"], "dpop");
    check(Client::Python, &[], "channel");
    check(Client::Python, &["--proof-per-call"], "dpop");
}

#[test]
fn a_tool_server_of_the_stateless_revision_serves_clients_of_both() {
    let folder = tempfile::Builder::new().prefix("countersign-e2e-").tempdir().expect("a folder");
    let binary = Path::new(env!("CARGO_BIN_EXE_countersign"));
    let world = &World::start_with(folder.path(), binary, ToolServer::Python).expect("a world");
    let laptop = world.enroll("laptop").expect("enrollment");
    world.add_person("sam").expect("a person");
    world.add_agent(AGENT, "sam").expect("an agent");
    world.activate_policy(POLICY).expect("a policy");
    let tools = json!([
        { "name": "notes.read", "args": {} },
        { "name": "slow.count", "args": {} },
        { "name": "deploy.start", "args": {} },
    ]);
    let task = world.add_task(AGENT, &tools, 100, 3600).expect("a task");

    let check = |client: Client, extra: &[&str], modern: bool| {
        let from = world.log_size().expect("a size");
        let modern_calls =
            || world.upstream_stats().expect("counters")["modern_calls"].as_array().expect("names").clone();
        let before = modern_calls().len();
        let mut agent = world.run_client(&laptop, AGENT, &task, client, extra).expect("the client starts");
        let mut ask = |question: Value| agent.ask(&question).expect("an answer");
        let listed = ask(json!({ "list": true }));
        let mut names: Vec<_> =
            listed["tools"].as_array().expect("tools").iter().filter_map(Value::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["deploy.start", "notes.read", "slow.count"], "{client:?} {extra:?}");
        let read = ask(json!({ "call": "notes.read", "args": { "topic": "roadmap" } }));
        assert_eq!(read["text"], "ship the gateway", "{client:?} {extra:?}: {read}");
        let counted = ask(json!({ "call": "slow.count", "args": { "steps": 3 } }));
        assert_eq!(counted["text"], "counted to 3", "{client:?} {extra:?}: {counted}");
        let refused = ask(json!({ "call": "secrets.dump", "args": {} }));

        // What was attested is too old now for a deployment; the runner sees to it and the agent notices nothing.
        let (_hold, aged) = channel::<()>();
        let _ = aged.recv_timeout(TOO_OLD_FOR_A_DEPLOYMENT);
        let deploy = json!({ "environment": "staging", "version": "1.0" });
        let deployed = ask(json!({ "call": "deploy.start", "args": deploy }));
        assert_eq!(deployed["text"], "deploying 1.0 to staging", "{client:?} {extra:?}: {deployed}");
        agent.finish().expect("the client ends");

        let records = world.records(from).expect("records");
        assert_told(
            client,
            &refused,
            "the task does not include this tool",
            "task.tool",
            &denial(&records)["dec"],
        );
        let kinds = |kind: &str| records.iter().filter(|entry| entry["record"]["kind"] == kind).count();
        assert_eq!((kinds("intent"), kinds("challenge")), (3, 1), "{client:?} {extra:?}: {records:#?}");
        let expected: &[&str] = if modern { &["notes.read", "slow.count", "deploy.start"] } else { &[] };
        assert_eq!(modern_calls()[before..], *expected, "{client:?} {extra:?}");
    };
    check(Client::Python, &[], true);
    check(Client::Python, &["--proof-per-call"], true);
    check(Client::TypeScript, &[], false);
    let stats = world.upstream_stats().expect("counters");
    assert_eq!(stats["unauthorized"], 0, "{stats}");
    let called: Vec<_> =
        stats["calls"].as_array().expect("calls").iter().map(|call| call["tool"].clone()).collect();
    assert!(!called.contains(&json!("secrets.dump")), "{stats}");
}

fn plain_run(world: &World, laptop: &Machine, task: &str, command: &[&str]) -> (Option<i32>, String) {
    let output = world
        .run_command(laptop, AGENT, task, &[])
        .args(command)
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_run_survives_a_restart_of_the_other_side_and_says_when_it_is_gone() {
    let mut stage = Stage::new();
    let world = &mut stage.world;
    let laptop = world.enroll("laptop").expect("enrollment");
    world.add_person("sam").expect("a person");
    world.add_agent(AGENT, "sam").expect("an agent");
    world.activate_policy(POLICY).expect("a policy");
    let task =
        world.add_task(AGENT, &json!([{ "name": "notes.read", "args": {} }]), 10, 3600).expect("a task");
    let read = |agent: &mut Talking| {
        agent.ask(&json!({ "call": "notes.read", "args": { "topic": "roadmap" } })).expect("an answer")
    };

    let mut agent =
        world.run_client(&laptop, AGENT, &task, Client::TypeScript, &[]).expect("the client starts");
    assert_eq!(read(&mut agent)["text"], "ship the gateway");
    world.power_off().expect("the power goes");
    let gone = read(&mut agent);
    assert_eq!(gone["error"]["code"], -32000, "{gone}");
    assert!(
        gone["error"]["message"].as_str().is_some_and(|text| text.contains("check that it runs")),
        "{gone}"
    );
    world.power_on().expect("the power is back");
    let back = read(&mut agent);
    // The session of the tool server was the gateway's, and its end is MCP's business: a client has to begin anew.
    assert!(back["error"]["message"].as_str().is_some_and(|text| text.contains("http.header")), "{back}");
    agent.finish().expect("the client ends");
    let mut agent =
        world.run_client(&laptop, AGENT, &task, Client::TypeScript, &[]).expect("the client starts");
    assert_eq!(read(&mut agent)["text"], "ship the gateway");
    agent.finish().expect("the client ends");

    world.power_off().expect("the power goes");
    let (code, said) = plain_run(world, &laptop, &task, &["true"]);
    assert_eq!(code, Some(7), "{said}");
    assert!(said.contains("cannot connect to https://") && said.contains("trying for"), "{said}");
}

#[test]
fn a_run_refuses_what_others_could_have_prepared() {
    let stage = Stage::new();
    let world = &stage.world;
    let laptop = world.enroll("laptop").expect("enrollment");
    let access = |mode: u32| {
        std::fs::set_permissions(&laptop.state, std::fs::Permissions::from_mode(mode)).expect("a mode");
    };
    access(0o777);
    let (code, said) = plain_run(world, &laptop, "task_none", &["true"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("others have access"), "{said}");
    access(0o700);

    // Only root can install for somebody else.
    let installed = world.dir().join("countersign-installed");
    std::fs::copy(world.binary(), &installed).expect("a copy");
    if std::os::unix::fs::chown(&installed, Some(65534), Some(65534)).is_err() {
        return;
    }
    std::fs::set_permissions(&installed, std::fs::Permissions::from_mode(0o4755)).expect("a mode");
    let plain = world.run_command(&laptop, AGENT, "task_none", &[]);
    let output =
        std::process::Command::new(&installed).args(plain.get_args()).arg("true").output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("set-user-ID"), "{said}");
}
