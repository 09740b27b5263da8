//! OAS-32, POL-18, ADM-05: a name has one spelling, a request only the members that its endpoint knows.

use countersign_server::admin::client::{self, ClientError};
use countersign_testkit::insider::tool_call;
use serde_json::{Value, json};

use super::Scene;
use crate::block_on;

#[test]
fn a_name_has_one_spelling_and_a_request_no_strange_members() {
    let scene = Scene::new();
    let world = &scene.stage.world;
    let admin = world.ready().admin.clone();
    one_spelling(world);
    one_spelling_of_a_tool(&scene);
    no_strange_members(&admin, &scene.task);
}

/// A tool's name may be written in any case, and each is another tool: one that nobody knows.
fn one_spelling_of_a_tool(scene: &Scene) {
    let world = &scene.stage.world;
    let tools = world.cli(&["tool", "list"]).expect("the tools");
    let known =
        tools["tools"].as_array().into_iter().flatten().find(|tool| tool["tool"] == "notes.read").cloned();
    let digest = known.expect("it is known")["digest"].as_str().expect("a digest").to_owned();
    let call = |name: &str| {
        let body = tool_call(1, name, &json!({ "topic": "roadmap" })).to_string();
        block_on(scene.post(body.as_bytes(), |_| {})).status
    };
    assert_eq!(call("notes.read"), 200, "the control");
    let reached = world.upstream_stats().expect("counters")["calls"].clone();
    for name in [
        "Notes.read",
        "NOTES.READ",
        "notes.read ",
        "notes\u{ff0e}read",
        "not\u{0435}s.read",
        "notes.read\u{200b}",
    ] {
        let approved =
            world.cli_output(&["tool", "approve", "work", name, "--digest", &digest]).expect("it runs");
        assert!(!approved.status.success(), "{name:?} was taken for notes.read");
        let status = call(name);
        assert!((400..=403).contains(&status), "{name:?}: {status}");
    }
    assert_eq!(
        world.upstream_stats().expect("counters")["calls"],
        reached,
        "something reached the tool server"
    );
    world.cli(&["tool", "approve", "work", "notes.read", "--digest", &digest]).expect("the control");
}

/// At the command line and behind it: another spelling is no name at all, or names nobody.
fn one_spelling(world: &countersign_testkit::world::World) {
    world.cli(&["agent", "add", "deploy", "--sponsor", "sam"]).expect("the control");
    let before = world.cli(&["agent", "list"]).expect("the agents");
    let spellings = [
        "Deploy",
        "DEPLOY",
        "deploy ",
        " deploy",
        "dep\u{200b}loy",
        "de\u{0440}loy",
        "\u{ff44}eploy",
        "deplo\u{fb00}",
        "deploy\n",
        "d\u{e9}ploy",
        "deploy/../sam",
        "",
    ];
    for name in spellings {
        for command in [
            vec!["agent", "add", name, "--sponsor", "sam"],
            vec!["agent", "add", "fresh", "--sponsor", name],
            vec!["agent", "suspend", name],
            vec!["agent", "kill", name],
            vec!["person", "add", name],
            vec!["machine", "token", name],
            vec!["machine", "lock", name],
        ] {
            let output = world.cli_output(&command).expect("it runs");
            assert!(!output.status.success(), "{command:?} was taken");
        }
        let grant = json!({
            "agent": name, "purpose": "x", "upstream": "work", "tools": [{ "name": "notes.read", "args": {} }],
            "max_calls": 1, "expires_in_secs": 60,
        });
        refused(&world.ready().admin, "/admin/v1/tasks", &grant, &[400, 404]);
    }
    assert_eq!(
        world.cli(&["agent", "list"]).expect("the agents"),
        before,
        "somebody was added, changed or killed"
    );
    // Never used again, not even after retirement.
    world.cli(&["agent", "retire", "deploy"]).expect("retired");
    let again = world.cli_output(&["agent", "add", "deploy", "--sponsor", "sam"]).expect("it runs");
    assert!(!again.status.success(), "a retired name came back");
}

fn no_strange_members(admin: &std::path::Path, task: &str) {
    let tool = json!([{ "name": "notes.read", "args": {} }]);
    let cases = [
        ("/admin/v1/persons", json!({ "id": "eve", "display_name": "Eve" }), "role"),
        ("/admin/v1/agents", json!({ "id": "eve-bot", "sponsor": "sam", "groups": [] }), "generation"),
        ("/admin/v1/machines/tokens", json!({ "machine": "eve-box" }), "verified"),
        (
            "/admin/v1/tasks",
            json!({ "agent": "scribe", "purpose": "x", "upstream": "work", "tools": tool, "max_calls": 1, "expires_in_secs": 60 }),
            "sponsor",
        ),
        (
            "/admin/v1/policies",
            json!({ "cedar": "@id(\"all\") permit (principal, action, resource);" }),
            "revision",
        ),
        ("/admin/v1/agents/scribe/suspend", json!({ "reason": "x" }), "state"),
        ("/admin/v1/agents/scribe/resume", json!({ "reason": "x" }), "state"),
        ("/admin/v1/machines/laptop/lock", json!({ "reason": "x" }), "id"),
        ("/admin/v1/machines/laptop/unlock", json!({ "reason": "x" }), "id"),
        ("/admin/v1/persons/sam/invite", json!({ "reason": "x" }), "person"),
        (&format!("/admin/v1/tasks/{task}/revoke"), json!({ "reason": "x" }), "id"),
    ];
    for (path, good, strange) in cases {
        let mut bad = good.clone();
        bad[strange] = json!("admin");
        refused(admin, path, &bad, &[400]);
        refused(admin, path, &json!([good]), &[400]);
        // The control, last: some of these end something.
        let answer: Result<Value, ClientError> = client::call(admin, "POST", path, &good);
        assert!(answer.is_ok(), "{path} without {strange}: {answer:?}");
    }
}

fn refused(admin: &std::path::Path, path: &str, body: &Value, statuses: &[u16]) {
    let answer: Result<Value, ClientError> = client::call(admin, "POST", path, body);
    match answer {
        Err(ClientError::Refused { status, .. }) if statuses.contains(&status) => {}
        other => panic!("{path} {body}: {other:?}"),
    }
}
