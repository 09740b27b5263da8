//! The administrator's commands: what they change, what they refuse, what they leave in the log.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use countersign_proto::digest::Sha256Digest;
use countersign_proto::id::{AgentId, ToolName, UpstreamId};
use countersign_proto::json;
use countersign_proto::snapshot::{AgentState, ToolState};
use countersign_server::ProposedTool;
use serde_json::{Value, json};
use support::Harness;

type Refusal = (u16, String);

async fn post(harness: &Harness, path: &str, body: Value) -> Result<Value, Refusal> {
    harness.admin("POST", path, body).await
}

fn refused(status: u16, code: &str) -> Refusal {
    (status, code.to_owned())
}

async fn with_sponsor() -> Harness {
    let harness = Harness::start().await;
    post(&harness, "/admin/v1/persons", json!({"id": "alice", "display_name": "Alice"})).await.unwrap();
    harness
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_lives_from_its_sponsor_to_its_retirement() {
    let harness = with_sponsor().await;
    let orphan = json!({"id": "bot", "sponsor": "nobody"});
    assert_eq!(post(&harness, "/admin/v1/agents", orphan).await, Err(refused(400, "invalid_request")));
    let bot = json!({"id": "bot", "sponsor": "alice", "groups": ["ci"]});
    post(&harness, "/admin/v1/agents", bot.clone()).await.unwrap();
    assert_eq!(post(&harness, "/admin/v1/agents", bot.clone()).await, Err(refused(409, "exists")));

    let id = AgentId::parse("bot").unwrap();
    assert_eq!(harness.snapshot().agents[&id].generation, 1);
    let killed = post(&harness, "/admin/v1/agents/bot/kill", json!({"reason": "leaked"})).await.unwrap();
    assert_eq!((killed["state"].as_str(), killed["generation"].as_u64()), (Some("suspended"), Some(2)));
    // The snapshot that says so was out before the answer.
    let entry = &harness.snapshot().agents[&id];
    assert_eq!((entry.state, entry.generation), (AgentState::Suspended, 2));

    post(&harness, "/admin/v1/agents/bot/resume", json!({})).await.unwrap();
    post(&harness, "/admin/v1/agents/bot/retire", json!({})).await.unwrap();
    assert_eq!(post(&harness, "/admin/v1/agents/bot/resume", json!({})).await, Err(refused(409, "state")));
    assert_eq!(
        post(&harness, "/admin/v1/agents", bot).await,
        Err(refused(409, "exists")),
        "ids are never reused"
    );

    let revocations = harness.records_of("revoke").await;
    let acts: Vec<_> = revocations.iter().map(|record| record["act"].as_str().unwrap()).collect();
    assert_eq!(acts, ["agent.kill", "agent.retire"]);
    assert_eq!(revocations[0]["reason"], "leaked");
    assert!(revocations[0]["by"].as_str().unwrap().starts_with("uid-"));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_say_more_or_less_than_they_may_change_nothing() {
    let harness = with_sponsor().await;
    let before = (harness.records().await.len(), harness.snapshot().version);
    let mut refusals = 0;
    let cases = [
        ("/admin/v1/agents", json!({"id": "bot", "sponsor": "alice", "state": "active"}), 400),
        ("/admin/v1/agents", json!({"id": "Bot", "sponsor": "alice"}), 400),
        ("/admin/v1/agents", json!({"id": "bot"}), 400),
        ("/admin/v1/agents", json!({"id": "bot", "sponsor": "alice", "groups": ["a b"]}), 400),
        ("/admin/v1/persons", json!({"id": "bob", "display_name": ""}), 400),
        ("/admin/v1/persons", json!({"id": "bob", "display_name": "x\u{0}y"}), 400),
        ("/admin/v1/agents/bot/kill", json!({}), 404),
        ("/admin/v1/agents/../kill", json!({}), 404),
        ("/admin/v1/machines/tokens", json!({"machine": "m-1", "expires_in_secs": 1}), 400),
        ("/admin/v1/machines/m-1/lock", json!({}), 404),
        (
            "/admin/v1/tasks",
            json!({"agent": "bot", "purpose": "p", "upstream": "files",
            "tools": [{"name": "t"}], "max_calls": 1, "expires_in_secs": 60}),
            400,
        ),
    ];
    for (path, body, status) in cases {
        let (got, _) = post(&harness, path, body.clone()).await.unwrap_err();
        assert_eq!(got, status, "{path} {body}");
        refusals += 1;
    }
    assert_eq!((harness.records().await.len() - refusals, harness.snapshot().version), before);
    let denials = harness.records_of("denial").await;
    assert_eq!(denials.len(), refusals, "one record for each");
    assert_eq!(
        (&denials[0]["what"], &denials[0]["code"]),
        (&json!("admin"), &json!("admin.invalid_request"))
    );
    assert!(denials[0]["by"].as_str().unwrap().starts_with("uid-"), "{}", denials[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_does_not_compile_leaves_the_old_one_and_revisions_only_grow() {
    let harness = Harness::start().await;
    let permit = "@id(\"all\") permit(principal, action, resource);";
    let first = post(&harness, "/admin/v1/policies", json!({"cedar": permit})).await.unwrap();
    assert_eq!(first["revision"], 1);
    for broken in ["@id(\"x\") permit(principal, action", "permit(principal, action, resource);"] {
        let answer = post(&harness, "/admin/v1/policies", json!({"cedar": broken})).await;
        assert_eq!(answer, Err(refused(422, "invalid_policy")), "{broken}");
    }
    let stale = json!({"cedar": permit, "expected_revision": 0});
    assert_eq!(post(&harness, "/admin/v1/policies", stale).await, Err(refused(409, "conflict")));
    assert_eq!(harness.snapshot().policies.revision, 1);
    let second =
        post(&harness, "/admin/v1/policies", json!({"cedar": "", "expected_revision": 1})).await.unwrap();
    assert_eq!(second["revision"], 2);
    let active: Value = harness.admin("GET", "/admin/v1/policies", json!({})).await.unwrap();
    assert_eq!(active["revision"], 2);
}

fn tool(name: &str, text: &str) -> ProposedTool {
    let definition = json::from_serde(&json!({"name": name, "description": text})).unwrap();
    ProposedTool {
        name: ToolName::parse(name).unwrap(),
        digest: Sha256Digest::of(&definition.to_jcs()),
        input_schema: json::from_serde(&json!({"type": "object"})).unwrap(),
        definition,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_waits_for_review_and_a_changed_one_waits_again() {
    let harness = Harness::start().await;
    let upstream = UpstreamId::parse("files").unwrap();
    let name = ToolName::parse("read").unwrap();
    let state = |harness: &Harness| harness.snapshot().upstreams[&upstream].tools[&name].state;
    let control = &harness.server.control;
    control.propose_tools(&upstream, vec![tool("read", "one")]).await.unwrap();
    assert_eq!(state(&harness), ToolState::Proposed);

    let path = "/admin/v1/upstreams/files/tools/read/approve";
    let other = json!({"digest": tool("read", "two").digest});
    assert_eq!(
        post(&harness, path, other).await,
        Err(refused(409, "conflict")),
        "another definition was reviewed"
    );
    post(&harness, path, json!({"digest": tool("read", "one").digest})).await.unwrap();
    assert_eq!(state(&harness), ToolState::Pinned);

    let version = harness.snapshot().version;
    control.propose_tools(&upstream, vec![tool("read", "one")]).await.unwrap();
    assert_eq!(harness.snapshot().version, version, "nothing new");
    control.propose_tools(&upstream, vec![tool("read", "two")]).await.unwrap();
    assert_eq!(state(&harness), ToolState::Changed);
    let unknown = UpstreamId::parse("other").unwrap();
    assert!(control.propose_tools(&unknown, vec![tool("read", "one")]).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn at_first_sight_a_tool_is_pinned_only_where_configured_and_a_change_still_waits() {
    let harness = Harness::start_with(|config| config.upstreams[0].first_sight = true).await;
    let upstream = UpstreamId::parse("files").unwrap();
    let name = ToolName::parse("read").unwrap();
    let control = &harness.server.control;
    for (text, expected) in
        [("one", ToolState::Pinned), ("two", ToolState::Changed), ("one", ToolState::Pinned)]
    {
        control.propose_tools(&upstream, vec![tool("read", text)]).await.unwrap();
        assert_eq!(harness.snapshot().upstreams[&upstream].tools[&name].state, expected, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshot_versions_and_everything_stored_survive_a_restart() {
    let harness = with_sponsor().await;
    post(&harness, "/admin/v1/agents", json!({"id": "bot", "sponsor": "alice"})).await.unwrap();
    let before = harness.snapshot();
    let root = harness.server.control.machine_root().to_vec();
    let harness = harness.restart().await;
    let after = harness.snapshot();
    assert!(after.version > before.version, "a version names one body for ever");
    assert_eq!((after.agents, after.token_keys), (before.agents, before.token_keys));
    assert_eq!(harness.server.control.machine_root(), root);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_records_and_probes_tell_how_it_is() {
    let harness = with_sponsor().await;
    harness.log.flush().await.unwrap();
    let status: Value = harness.admin("GET", "/admin/v1/status", json!({})).await.unwrap();
    assert_eq!((status["ready"].as_bool(), status["log_healthy"].as_bool()), (Some(true), Some(true)));
    let records: Value = harness.admin("GET", "/admin/v1/records?from=1&limit=1", json!({})).await.unwrap();
    assert_eq!(records["records"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&records["records"][0]["index"], &records["records"][0]["record"]["act"]),
        (&json!(1), &json!("person.add"))
    );
    let odd: Result<Value, _> = harness.admin("GET", "/admin/v1/records?offset=1", json!({})).await;
    assert_eq!(odd, Err(refused(400, "invalid_request")));
    for path in ["/healthz", "/readyz"] {
        let socket = harness.socket();
        let probe = move || countersign_server::admin::client::fetch_text(&socket, path);
        tokio::task::spawn_blocking(probe).await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_api_is_on_the_socket_only_and_the_socket_is_ours() {
    use std::os::unix::fs::PermissionsExt;
    let harness = Harness::start().await;
    let mode = std::fs::metadata(harness.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let answer = harness.https(None, "GET", "/admin/v1/status", &[], "").await;
    assert_eq!(answer.status, 404);
    let socket = harness.socket();
    harness.server.shutdown().await;
    assert!(!socket.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_log_nothing_is_changed() {
    let harness = with_sponsor().await;
    harness.log.clone().shutdown().await.unwrap();
    let answer = post(&harness, "/admin/v1/agents", json!({"id": "bot", "sponsor": "alice"})).await;
    assert_eq!(answer, Err(refused(503, "unavailable")));
    let agents: Value = harness.admin("GET", "/admin/v1/agents", json!({})).await.unwrap();
    assert_eq!(agents["agents"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_larger_than_a_record_can_still_be_activated_and_granted() {
    let harness = with_sponsor().await;
    post(&harness, "/admin/v1/agents", json!({"id": "bot", "sponsor": "alice"})).await.unwrap();
    // A comment costs the compiler nothing; as large as a set may be, and escaped on the way.
    let mut large = "@id(\"all\") permit(principal, action, resource);\n//".to_owned();
    large.push_str(&"\"".repeat(countersign_policy::MAX_BUNDLE_BYTES - large.len()));
    for (revision, cedar) in [(1, large.as_str()), (2, "")] {
        let active = post(&harness, "/admin/v1/policies", json!({"cedar": cedar})).await.unwrap();
        assert_eq!(active["revision"], revision);
        assert_eq!(harness.snapshot().policies.cedar, cedar);
    }
    let old: Value = harness.admin("GET", "/admin/v1/policies/1", json!({})).await.unwrap();
    assert_eq!(old["cedar"], large.as_str(), "old revisions are kept");
    let never: Result<Value, _> = harness.admin("GET", "/admin/v1/policies/3", json!({})).await;
    assert_eq!(never, Err(refused(404, "not_found")));
    let records = harness.records_of("admin").await;
    let activated = records.iter().find(|record| record["act"] == "policy.activate").unwrap();
    assert_eq!(activated["policy"], json!(Sha256Digest::of(large.as_bytes())));

    let paths: Vec<String> = (0..40).map(|number| format!("/srv/{number}/{}", "x".repeat(2000))).collect();
    let task = json!({"agent": "bot", "purpose": "p", "upstream": "files", "max_calls": 1,
        "tools": [{"name": "t", "args": {"path": {"one_of": paths}}}], "expires_in_secs": 60});
    let granted = post(&harness, "/admin/v1/tasks", task).await.unwrap();
    assert_eq!(granted["tools"][0]["args"]["path"]["one_of"].as_array().unwrap().len(), 40);
    let records = harness.records_of("admin").await;
    let created = records.iter().find(|record| record["act"] == "task.create").unwrap();
    assert!(created["grant"].is_string() && created["task"] == granted["id"], "{created}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_cannot_fill_the_store_with_tools() {
    let harness = Harness::start().await;
    let upstream = UpstreamId::parse("files").unwrap();
    let control = &harness.server.control;
    // One that is too large hides none of the others.
    let large = tool("large", &"x".repeat(70_000));
    control.propose_tools(&upstream, vec![tool("a", "x"), large, tool("b", "x")]).await.unwrap();
    let shown = |harness: &Harness| harness.snapshot().upstreams[&upstream].tools.len();
    assert_eq!(shown(&harness), 2);

    for round in 0..3 {
        let many = (0..1000).map(|number| tool(&format!("t-{round}-{number}"), "x")).collect();
        control.propose_tools(&upstream, many).await.unwrap();
        harness.clock.advance_secs(3600);
    }
    let listed: Value = harness.admin("GET", "/admin/v1/upstreams", json!({})).await.unwrap();
    assert_eq!(listed["upstreams"][0]["tools"].as_array().unwrap().len(), 2000);
    let alarms = harness.records_of("alarm").await;
    assert_eq!(
        alarms.iter().filter(|alarm| alarm["code"] == "tool.flood").count(),
        3,
        "one an hour: {alarms:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_cannot_fill_the_log_by_changing_a_tool() {
    let harness = Harness::start().await;
    let upstream = UpstreamId::parse("files").unwrap();
    let control = &harness.server.control;
    for number in 0..2100 {
        control.propose_tools(&upstream, vec![tool("a", &number.to_string())]).await.unwrap();
    }
    let noted = harness.records_of("admin").await.len();
    assert_eq!(noted, 2000);
    harness.clock.advance_secs(3600);
    control.propose_tools(&upstream, vec![tool("a", "again")]).await.unwrap();
    assert_eq!(harness.records_of("admin").await.len(), noted + 1, "a new hour");
}
