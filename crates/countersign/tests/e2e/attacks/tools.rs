//! GWY-23, GWY-24: what is hidden cannot be called, and what has changed is not what was approved.

use countersign_testkit::insider::{now, tool_call};
use serde_json::json;

use super::Scene;
use crate::block_on;

#[test]
fn a_changed_tool_is_refused_until_somebody_has_looked() {
    let mut scene = Scene::new();
    scene.stage.world.change_tool_definitions().expect("the tool server comes back different");
    // The gateway learns of it by listing; a run lists, and from then on the tool is gone.
    block_on(async {
        let token = scene.insider.token(&scene.task).await.expect("a token");
        scene.session = scene.insider.initialize(&token).await.expect("a session with the new server");
        let list = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {} }).to_string();
        let answer = scene.post(list.as_bytes(), |_| {}).await.json();
        let names: Vec<&str> = answer["result"]["tools"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|tool| tool["name"].as_str())
            .collect();
        assert!(!names.contains(&"notes.read") && names.contains(&"notes.write"), "{answer}");
        let watch = scene.watch();
        let call = tool_call(2, "notes.read", &json!({ "topic": "roadmap" })).to_string();
        let seen = watch.end(scene.post(call.as_bytes(), |_| {}).await).expect("seen");
        assert_eq!(seen.code, "tool.changed", "{seen:?}");
        // The gateway itself may be listing again at this moment, so calls are counted here and not bytes.
        let stats = scene.stage.world.upstream_stats().expect("counters");
        assert_eq!(stats["calls"], json!([]), "a changed tool was called");
    });
    // An administrator looks, and approves exactly what they saw.
    let world = &scene.stage.world;
    let deadline = now().plus_secs(10);
    let digest = loop {
        let tools = world.cli(&["tool", "list"]).expect("the tools");
        let changed =
            tools["tools"].as_array().into_iter().flatten().find(|tool| tool["state"] == "changed").cloned();
        if let Some(tool) = changed {
            break tool["digest"].as_str().expect("a digest").to_owned();
        }
        assert!(now() < deadline, "the change never reached the control plane");
    };
    world.cli(&["tool", "approve", "work", "notes.read", "--digest", &digest]).expect("approved");
    let deadline = now().plus_secs(10);
    loop {
        let call = tool_call(3, "notes.read", &json!({ "topic": "roadmap" })).to_string();
        let answer = block_on(scene.post(call.as_bytes(), |_| {}));
        if answer.status == 200 {
            break;
        }
        assert!(now() < deadline, "an approved tool stays refused: {}", answer.json());
    }
}
