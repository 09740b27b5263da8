//! Every way to be refused: the answer, exactly one record, and nothing upstream.

use countersign_proto::id::{AgentId, RunId};
use countersign_proto::json::Value;
use countersign_proto::mcp::ProtocolVersion;
use countersign_proto::snapshot::{AgentState, MachineState, ToolState};
use countersign_proto::token::Constraint;

use crate::upstream::tool;
use crate::world::{META, RESOURCE, World, policies, task, text};

#[tokio::test]
async fn what_is_not_plain_http_goes_no_further() {
    let world = World::new().await;
    let call = || world.call("read", "{}");
    world.check(call().header("host", "evil.test"), "403 http.host").await;
    world.check(call().another("host", "gw.test:8443"), "403 http.host").await;
    world.check(call().header("origin", "https://evil.test"), "403 http.origin").await;
    world.check(call().header("origin", "null"), "403 http.origin").await;
    world.check(call().header("content-type", "text/plain"), "415 http.content_type").await;
    world.check(call().header("content-type", "application/jsonx"), "415 http.content_type").await;
    world.check(call().header("content-encoding", "gzip"), "415 http.encoding").await;
    world.check(call().body(&"x".repeat((64 << 10) + 1)), "413 http.too_large").await;
    world.check(call().another("authorization", "DPoP other"), "400 http.header").await;
    world.check(call().another("dpop", "other"), "400 http.header").await;
    world.check(call().header("countersign-approval", "../apr_1"), "400 http.header").await;
    world.check(call().header("upgrade", "websocket"), "400 http.header").await;
    world.check(call().path("/mcp/gitlab"), "404 rpc.method").await;
    world.check(call().path("/mcp/github?x"), "404 rpc.method").await;
    world.check(call().method("PUT"), "405 rpc.method").await;
    world.check(call().method("OPTIONS"), "405 rpc.method").await;
}

#[tokio::test]
async fn what_two_parsers_could_read_differently_goes_no_further() {
    let world = World::new().await;
    let token = world.token_with(|_| {});
    let raw = |body: &str| world.message(&token, body, "tools/call").header("mcp-name", "read");
    let call = |rest: &str| {
        raw(&format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{{META},{rest}}}}}"#))
    };
    world.check(call(r#""name":"read","name":"wipe""#), "400 rpc.malformed").await;
    world.check(call(r#""name":"read","Name":"wipe""#), "400 rpc.malformed").await;
    world.check(call(r#""name":"read","arguments":{"a":1,"a":2}"#), "400 rpc.malformed").await;
    world.check(call(r#""name":"read","arguments":{"n":18446744073709551617}"#), "400 rpc.malformed").await;
    world.check(call(r#""name":"read\u200d""#), "400 http.header").await;
    world.check(raw("[]"), "400 rpc.malformed").await;
    world.check(raw(""), "400 rpc.malformed").await;
    world.check(raw(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#), "400 rpc.malformed").await;
    world.check(world.call("read", "{}").header("mcp-name", "wipe"), "400 http.header").await;
    world.check(world.call("read", "{}").without("mcp-name"), "400 http.header").await;
    world.check(world.call("read", "{}").another("mcp-name", "read"), "400 http.header").await;
    world.check(world.call("read", "{}").header("mcp-method", "tools/list"), "400 http.header").await;
    world
        .check(world.call("read", "{}").header("mcp-protocol-version", "2025-06-18"), "400 http.header")
        .await;
    world.check(world.call("route", r#"{"region":"eu"}"#), "400 http.header").await;
    world
        .check(world.call("route", r#"{"region":"eu"}"#).header("mcp-param-region", "us"), "400 http.header")
        .await;
    world.check(world.message(&token, &message("resources/read"), "resources/read"), "404 rpc.method").await;
    world.check(world.message(&token, &message("tasks/get"), "tasks/get"), "404 rpc.method").await;
    let notification =
        format!(r#"{{"jsonrpc":"2.0","method":"tools/call","params":{{{META},"name":"read"}}}}"#);
    world.check(raw(&notification), "400 rpc.malformed").await;
}

fn message(method: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{META}}}}}"#)
}

#[tokio::test]
async fn an_unknown_revision_is_told_which_ones_are_spoken() {
    let world = World::new().await;
    let reply = world.send(world.call("read", "{}").header("mcp-protocol-version", "2024-11-05")).await;
    assert_eq!((reply.status.as_u16(), reply.rpc_code()), (400, -32020), "{}", reply.text());
    let legacy = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    let attempt =
        world.legacy(&world.token_with(|_| {}), legacy).header("mcp-protocol-version", "2024-11-05");
    let reply = world.send(attempt).await;
    assert_eq!((reply.status.as_u16(), reply.rpc_code()), (400, -32022));
    assert!(reply.text().contains(ProtocolVersion::V2026_07_28.as_str()), "{}", reply.text());
}

#[tokio::test]
async fn an_agent_that_may_not_act_does_not_act() {
    let world = World::new().await;
    let set = |state| {
        move |body: &mut countersign_proto::snapshot::SnapshotBody| {
            body.agents.get_mut(&crate::world::agent()).unwrap().state = state;
        }
    };
    world.check_allowed(world.call("read", "{}")).await;
    world.publish(set(AgentState::Suspended)).await;
    world.check(world.call("read", "{}"), "403 agent.suspended").await;
    world.publish(set(AgentState::Retired)).await;
    world.check(world.call("read", "{}"), "401 agent.killed").await;
    world.publish(set(AgentState::Active)).await;
    world.check_allowed(world.call("read", "{}")).await;
    world.publish(|body| body.agents.get_mut(&crate::world::agent()).unwrap().generation = 2).await;
    world.check(world.call("read", "{}"), "401 agent.killed").await;
    let next = world.token_with(|claims| claims.generation = 2);
    world.check_allowed(world.call_with(&next, "read", "{}")).await;
    world.publish(|body| _ = body.revoked_tasks.insert(task("task_1"))).await;
    world.check(world.call_with(&next, "read", "{}"), "401 task.revoked").await;
    world.publish(|body| _ = body.revoked_runs.insert(RunId::parse("run_1").unwrap())).await;
    world.check(world.call_with(&next, "read", "{}"), "401 run.revoked").await;
    world.publish(|body| body.agents.clear()).await;
    world.check(world.call("read", "{}"), "403 agent.unknown").await;
}

#[tokio::test]
async fn a_machine_that_may_not_vouch_does_not_vouch() {
    let world = World::new().await;
    let set = |state| {
        move |body: &mut countersign_proto::snapshot::SnapshotBody| {
            body.machines.values_mut().for_each(|machine| machine.state = state);
        }
    };
    world.publish(set(MachineState::Locked)).await;
    world.check(world.call("read", "{}"), "403 machine.locked").await;
    world.publish(set(MachineState::Revoked)).await;
    world.check(world.call("read", "{}"), "401 machine.revoked").await;
    world.publish(set(MachineState::Active)).await;
    world.check_allowed(world.call("read", "{}")).await;
    let other = world.agent_key_thumbprint();
    world.publish(move |body| body.machines.values_mut().for_each(|machine| machine.jkt = other)).await;
    world.check(world.call("read", "{}"), "401 pop.key_not_attested").await;
    world.publish(|body| body.machines.clear()).await;
    world.check(world.call("read", "{}"), "403 machine.unknown").await;
}

#[tokio::test]
async fn a_task_allows_what_it_says_and_no_more() {
    let world = World::new().await;
    let only = |change: fn(&mut countersign_proto::token::AccessTokenClaims)| world.token_with(change);
    let without = only(|claims| claims.authorization_details[0].tools.clear());
    world.check(world.call_with(&without, "read", "{}"), "403 task.tool").await;
    let bounded = only(|claims| {
        let constraint = Constraint::Eq(Value::from("/src/a"));
        claims.authorization_details[0].tools[0].args.insert("path".to_owned(), constraint);
    });
    world.check(world.call_with(&bounded, "read", r#"{"path":"/etc/shadow"}"#), "403 task.args").await;
    world.check(world.call_with(&bounded, "read", "{}"), "403 task.args").await;
    world.check_allowed(world.call_with(&bounded, "read", r#"{"path":"/src/a"}"#)).await;
    let over = only(|claims| claims.authorization_details[0].expires_at = Some(crate::world::START));
    world.check(world.call_with(&over, "read", "{}"), "403 task.expired").await;
    let spent = only(|claims| claims.authorization_details[0].max_calls = 0);
    world.check(world.call_with(&spent, "read", "{}"), "403 task.budget").await;
}

#[tokio::test]
async fn policy_and_tools_have_the_last_word() {
    let world = World::new().await;
    world.check(world.call("wipe", "{}"), "403 policy.denied").await;
    world.check(world.call("unheard", "{}"), "403 tool.unknown").await;
    world.check(world.call("read", r#"{"path":5}"#), "403 tool.arguments").await;
    world
        .publish(|body| {
            let entry = body.upstreams.values_mut().next().unwrap();
            entry.tools.values_mut().for_each(|tool| tool.state = ToolState::Proposed);
        })
        .await;
    world.check(world.call("read", "{}"), "403 tool.unknown").await;
}

#[tokio::test]
async fn a_tool_that_changed_since_its_review_is_hidden_and_refused() {
    let world = World::new().await;
    let token = world.token_with(|_| {});
    world.upstream.shared.tools.lock()[0] =
        tool("read", r#"{"path":{"type":"string"},"also_to":{"type":"string"}}"#);
    let before = world.log.size();
    let reply = world.send(world.message(&token, &message("tools/list"), "tools/list")).await;
    assert!(!reply.text().contains("\"read\""), "{}", reply.text());
    assert!(reply.text().contains("\"pay\""), "{}", reply.text());
    let records = world.records_from(before).await;
    let alarm = records.iter().find(|record| text(record, "kind") == "alarm").unwrap();
    assert_eq!((text(alarm, "alarm"), text(alarm, "tool")), ("tool.changed", "read"));
    world.check(world.call("read", "{}"), "403 tool.changed").await;
    // The next listing by interval is an hour away; what a caller's own listing showed is proposed now.
    let proposed = world.next_proposal().await;
    world.pin(&proposed);
    world.publish(|_| {}).await;
    world.check_allowed(world.call("read", "{}")).await;
}

#[tokio::test]
async fn an_upstream_that_never_ends_its_list_holds_up_nobody() {
    let limits = countersign_gateway::GatewayLimits {
        listing_timeout: std::time::Duration::from_millis(100),
        ..crate::world::limits()
    };
    let mut world = World::with(true, limits).await;
    world.upstream.shared.stalls.store(true, std::sync::atomic::Ordering::SeqCst);
    world.restart().await;
    let before = world.log.size();
    let reply = world.send(world.call("read", "{}")).await;
    assert_eq!(reply.status.as_u16(), 502, "{}", reply.text());
    assert_eq!(text(&world.records_from(before).await[0], "code"), "upstream.failed");
    world.upstream.shared.stalls.store(false, std::sync::atomic::Ordering::SeqCst);
    world.check_allowed(world.call("read", "{}")).await;
}

#[tokio::test]
async fn what_was_attested_before_a_lock_is_worth_nothing_after_it() {
    let world = World::new().await;
    let before = world.token_with(|_| {});
    world.check_allowed(world.call_with(&before, "read", "{}")).await;
    let changed_at = world.now().plus_millis(1);
    world
        .publish(move |body| body.machines.values_mut().for_each(|machine| machine.changed_at = changed_at))
        .await;
    let reply = world.send(world.call_with(&before, "read", "{}")).await;
    assert!(reply.header("www-authenticate").contains(r#"error="invalid_token""#), "so a new one is fetched");
    world.check(world.call_with(&before, "read", "{}"), "401 machine.reattest").await;
    let listing = world.message(&before, &message("tools/list"), "tools/list");
    world.check(listing, "401 machine.reattest").await;
    world.clock.advance_secs(1);
    world.check_allowed(world.call("read", "{}")).await;
}

#[tokio::test]
async fn without_a_current_snapshot_everything_is_refused() {
    let world = World::new().await;
    let attempt = world.call("read", "{}");
    world.clock.advance_secs(61);
    world.check(attempt, "503 snapshot.stale").await;
    world.publish(|_| {}).await;
    world.check_allowed(world.call("read", "{}")).await;
}

#[tokio::test]
async fn a_snapshot_of_another_signer_or_an_older_version_changes_nothing() {
    let world = World::new().await;
    let mut forged = world.body.lock().clone();
    forged.version += 1;
    forged.agents.clear();
    let stranger = countersign_proto::jose::SoftwareEd25519::generate().unwrap();
    let sealed =
        countersign_proto::snapshot::SignedSnapshot::seal(&forged, &stranger, world.now(), 60_000).unwrap();
    let before = world.log.size();
    world.control.snapshots.send_replace(Some(sealed));
    assert_eq!(world.kinds_from(before, 1).await, ["alarm"]);
    world.check_allowed(world.call("read", "{}")).await;

    forged.version -= 2;
    let before = world.log.size();
    world.control.snapshots.send_replace(Some(world.seal(&forged, world.now())));
    assert_eq!(world.kinds_from(before, 1).await, ["alarm"]);
    world.check_allowed(world.call("read", "{}")).await;
}

#[tokio::test]
async fn policies_that_do_not_compile_keep_the_old_ones_and_hold_up_no_kill() {
    let world = World::new().await;
    let before = world.log.size();
    world.publish(|body| body.policies = policies(2, "permit (principal, nonsense")).await;
    assert_eq!(world.kinds_from(before, 1).await, ["alarm"]);
    world.check_allowed(world.call("read", "{}")).await;
    world.check(world.call("wipe", "{}"), "403 policy.denied").await;
    // A tool that policy names is gone, and with it the sense of the old policies too.
    let before = world.log.size();
    world
        .publish(|body| {
            body.upstreams
                .values_mut()
                .for_each(|entry| entry.tools.retain(|name, _| name.as_str() == "read"))
        })
        .await;
    assert_eq!(world.kinds_from(before, 1).await, ["alarm"]);
    world.check_allowed(world.call("read", "{}")).await;
    world.check(world.call("wipe", "{}"), "403 tool.unknown").await;
    world.publish(|body| body.agents.get_mut(&crate::world::agent()).unwrap().generation = 9).await;
    world.check(world.call("read", "{}"), "401 agent.killed").await;
}

#[tokio::test]
async fn what_cannot_be_recorded_does_not_happen() {
    let world = World::new().await;
    let broken = world.disk.broken.clone();
    world.check_allowed(world.call("read", "{}")).await;
    let (calls, attempt) = (world.calls(), world.call("read", "{}"));
    let refused = world.call("wipe", "{}");
    let mut wire = world.connect(Some(&world.ours)).await;
    broken.store(true, std::sync::atomic::Ordering::SeqCst);
    for attempt in [attempt, refused] {
        let reply = wire.send(attempt).await;
        assert_eq!((reply.status.as_u16(), reply.data("code").as_str()), (503, "audit.unavailable"));
    }
    assert_eq!(world.calls(), calls, "nothing reaches the upstream");
    assert!(!world.gateway().ready());
}

#[tokio::test]
async fn a_stranger_in_the_snapshot_is_not_our_agent() {
    let world = World::new().await;
    let other = world.token_with(|claims| {
        claims.client_id = AgentId::parse("other-bot").unwrap();
        claims.act.sub = "spiffe://td.test/agent/other-bot/run/run_1".parse_spiffe();
    });
    world.check(world.call_with(&other, "read", "{}"), "403 agent.unknown").await;
    assert_eq!(RESOURCE, format!("{}/mcp/github", crate::world::ORIGIN));
}

trait ParseSpiffe {
    fn parse_spiffe(&self) -> countersign_proto::id::SpiffeId;
}

impl ParseSpiffe for str {
    fn parse_spiffe(&self) -> countersign_proto::id::SpiffeId {
        countersign_proto::id::SpiffeId::parse(self).unwrap()
    }
}
