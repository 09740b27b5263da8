//! Unmodified clients: the official SDKs, in both ways to prove the agent.

use countersign_testkit::story::{AGENT, POLICY};
use countersign_testkit::world::Client;
use serde_json::json;

use crate::Stage;

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
