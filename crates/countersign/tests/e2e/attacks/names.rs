//! OAS-32, POL-18, ADM-05: a name has one spelling, a request only the members that its endpoint knows.

use countersign_server::admin::client::{self, ClientError};
use serde_json::{Value, json};

use super::Ground;

#[test]
fn a_name_has_one_spelling_and_a_request_no_strange_members() {
    let ground = Ground::new();
    let world = &ground.stage.world;
    let admin = world.ready().admin.clone();
    one_spelling(world);
    no_strange_members(&admin, &ground.task);
}

/// At the command line and behind it: another spelling is no name at all, or names nobody.
fn one_spelling(world: &countersign_testkit::world::World) {
    world.cli(&["agent", "add", "deploy", "--sponsor", "sam"]).expect("the control");
    let before = world.cli(&["agent", "list"]).expect("the agents");
    let spellings = [
        "Deploy", "DEPLOY", "deploy ", " deploy", "dep\u{200b}loy", "de\u{0440}loy", "\u{ff44}eploy", "deplo\u{fb00}",
        "deploy\n", "deploy\0x", "dépl\u{f6}y", "deploy/../sam", "",
    ];
    for name in spellings {
        if name.contains('\0') {
            // No operating system passes that on a command line.
            continue;
        }
        for command in [
            vec!["agent", "add", name, "--sponsor", "sam"],
            vec!["agent", "add", "fresh", "--sponsor", name],
            vec!["agent", "suspend", name],
            vec!["agent", "kill", name],
            vec!["person", "add", name],
            vec!["machine", "token", name],
            vec!["machine", "lock", name],
            vec!["tool", "approve", "work", name, "--digest", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"],
        ] {
            let output = world.cli_output(&command).expect("it runs");
            // A tool's name is case-sensitive and may be anything in ASCII; then it is not this one.
            assert!(!output.status.success(), "{command:?} was taken");
        }
        let grant = json!({
            "agent": name, "purpose": "x", "upstream": "work", "tools": [{ "name": "notes.read", "args": {} }],
            "max_calls": 1, "expires_in_secs": 60,
        });
        refused(&world.ready().admin, "/admin/v1/tasks", &grant, &[400, 404]);
    }
    assert_eq!(world.cli(&["agent", "list"]).expect("the agents"), before, "somebody was added, changed or killed");
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
        ("/admin/v1/policies", json!({ "cedar": "@id(\"all\") permit (principal, action, resource);" }), "revision"),
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
