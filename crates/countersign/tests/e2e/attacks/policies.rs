//! POL-02, POL-09, POL-15: a policy set that is not whole changes nothing, and one that is changes the next call.

use countersign_proto::time::Timestamp;
use countersign_testkit::insider::{now, tool_call};
use countersign_testkit::story::POLICY;
use serde_json::json;

use super::Scene;
use crate::block_on;

/// How long a gateway may decide by what was in force before.
const STALE_MILLIS: i64 = 1_000;

/// Calls until the gateway answers with `status` and `code`; that has to be within the second.
fn settles(scene: &Scene, token: &str, since: Timestamp, status: u16, code: &str) {
    let mut last = String::new();
    while now().unix_millis() - since.unix_millis() <= STALE_MILLIS {
        let began = now();
        let (answered, got) = call(scene, token);
        if (answered, got.as_str()) == (status, code) {
            return;
        }
        last = format!("{answered} {got} asked {} ms after", began.unix_millis() - since.unix_millis());
    }
    panic!("after a second it is still {last}, not {status} {code}");
}

fn call(scene: &Scene, token: &str) -> (u16, String) {
    block_on(async {
        let proof = scene.insider.proof_for("POST", &scene.insider.url(), Some(token)).expect("a proof");
        let body = tool_call(1, "notes.read", &json!({ "topic": "roadmap" })).to_string();
        let answer = scene
            .post(body.as_bytes(), |headers| {
                for (name, value) in headers {
                    match name.as_str() {
                        "authorization" => *value = format!("DPoP {token}"),
                        "dpop" => value.clone_from(&proof),
                        _ => {}
                    }
                }
            })
            .await;
        (answer.status, answer.json()["error"]["data"]["code"].as_str().unwrap_or_default().to_owned())
    })
}

#[test]
fn policies_and_tasks_take_effect_at_once_or_not_at_all() {
    let scene = Scene::new();
    let world = &scene.stage.world;
    assert_eq!(call(&scene, &scene.token).0, 200, "the control");

    // POL-02, POL-15: none of these is a policy set.
    let in_force = world.cli(&["policy", "show"]).expect("the policy");
    let half = &POLICY[..POLICY.len() / 2];
    for (name, text) in [
        ("not Cedar", "allow everything"),
        ("half written", half),
        (
            "an unknown attribute",
            "permit (principal, action, resource) when { context.machine.color == \"blue\" };",
        ),
        ("an unknown type", "permit (principal == Robot::\"x\", action, resource);"),
        (
            "an unknown action",
            "permit (principal, action == Action::\"work/nothing.known\", resource) when { principal.level > 3 };",
        ),
        ("a wrong type", "permit (principal, action, resource) when { context.machine.level == \"3\" };"),
        ("an unknown requirement", "@id(\"x\") @requires(\"luck\") forbid (principal, action, resource);"),
        (
            "an identifier twice",
            "@id(\"a\") permit (principal, action, resource); @id(\"a\") permit (principal, action, resource);",
        ),
    ] {
        let from = world.log_size().expect("a size");
        let refused = world.activate_policy(text);
        let error = refused.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("does not compile") || error.contains("422"), "{name} was taken: {error}");
        assert_eq!(world.cli(&["policy", "show"]).expect("the policy"), in_force, "{name}");
        assert_eq!(call(&scene, &scene.token).0, 200, "{name}: the old set no longer decides");
        let policies: Vec<_> = world
            .records(from)
            .expect("records")
            .into_iter()
            .filter(|entry| entry["record"]["act"].as_str().is_some_and(|act| act.starts_with("policy")))
            .collect();
        assert!(policies.is_empty(), "{name}: the log says that it was put in force: {policies:?}");
    }

    // POL-09: another set, the next second at the latest; and back.
    world.activate_policy("@id(\"nobody\") forbid (principal, action, resource);").expect("a policy");
    settles(&scene, &scene.token, now(), 403, "policy.denied");
    world.activate_policy(POLICY).expect("a policy");
    settles(&scene, &scene.token, now(), 200, "");

    // POL-09: a revoked task ends its own calls and no others.
    let tools = json!([{ "name": "notes.read", "args": {} }]);
    let other_task = world.add_task(countersign_testkit::story::AGENT, &tools, 77, 600).expect("a task");
    let other = block_on(scene.insider.token(&other_task)).expect("a token");
    settles(&scene, &other, now(), 200, "");
    world.cli(&["task", "revoke", &scene.task]).expect("revoked");
    settles(&scene, &scene.token, now(), 401, "task.revoked");
    assert!(block_on(scene.insider.token(&scene.task)).is_err(), "a token for a revoked task");
    // What is recorded is the new state, too.
    let verdicts = world.records(0).expect("records");
    assert!(verdicts.iter().any(|entry| entry["record"]["code"] == "task.revoked"));
}
