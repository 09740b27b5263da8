//! What is allowed, and how it ends: forwarding, budgets, people, and streams that outlive their permission.

use std::sync::atomic::Ordering;

use countersign_gateway::{ApprovalOutcome, GatewayLimits};
use countersign_proto::approval::ApprovalGrant;
use countersign_proto::id::{ApprovalId, PersonId, RunId};
use countersign_proto::snapshot::{MachineState, SnapshotBody};
use http::StatusCode;
use http_body_util::BodyExt as _;

use crate::upstream::Manner;
use crate::world::{ISSUER, META, World, agent, limits, text};

#[tokio::test]
async fn the_upstream_gets_the_canonical_call_and_nothing_of_the_callers() {
    let world = World::new().await;
    let token = world.token_with(|_| {});
    let attempt = world
        .call_with(&token, "read", r#"{"path":"\u0041", "n": 1.0}"#)
        .header("cookie", "a=b")
        .header("x-forwarded-user", "root")
        .header("x-forwarded-client-cert", "x")
        .header("forwarded", "for=x")
        .header("x-http-method-override", "DELETE")
        .header("connection", "x-forwarded-user");
    let reply = world.check_allowed(attempt).await;
    assert!(reply.text().contains("done"));
    for header in ["set-cookie", "x-secret", "server", "mcp-session-id"] {
        assert_eq!(reply.header(header), "", "{header} came through");
    }
    assert_eq!(reply.header("cache-control"), "no-store");

    let seen = world.upstream.shared.seen.lock();
    let (method, headers, body) = seen.last().unwrap();
    assert_eq!(method, "POST");
    let mut names: Vec<_> = headers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "accept",
            "accept-encoding",
            "authorization",
            "content-length",
            "content-type",
            "countersign-decision",
            "host",
            "mcp-method",
            "mcp-name",
            "mcp-protocol-version",
        ]
    );
    assert_eq!(headers["authorization"], "Bearer upstream-secret");
    let expected = format!(
        r#"{{"id":1,"jsonrpc":"2.0","method":"tools/call","params":{{{},"arguments":{{"n":1,"path":"A"}},"name":"read"}}}}"#,
        r#""_meta":{"io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/protocolVersion":"2026-07-28"}"#
    );
    assert_eq!(String::from_utf8_lossy(body), expected);
}

#[tokio::test]
async fn mirrored_arguments_are_computed_anew() {
    let world = World::new().await;
    let attempt = world.call("route", r#"{"region":"eu"}"#).header("mcp-param-region", "eu");
    world.check_allowed(attempt).await;
    assert_eq!(world.upstream.shared.seen.lock().last().unwrap().1["mcp-param-region"], "eu");
}

#[tokio::test]
async fn the_record_of_a_call_names_both_factors_and_what_was_called() {
    let world = World::new().await;
    let before = world.log.size();
    world.check_allowed(world.call("read", "{}")).await;
    let records = world.records_from(before).await;
    let (intent, outcome) = (&records[0], &records[1]);
    for (member, value) in [
        ("kind", "intent"),
        ("agent", "build-bot"),
        ("run", "run_1"),
        ("task", "task_1"),
        ("upstream", "github"),
        ("tool", "read"),
        ("agent_proof", "dpop"),
    ] {
        assert_eq!(text(intent, member), value);
    }
    assert!(intent.get("machine").is_some() && intent.get("env").is_some());
    assert_eq!(text(outcome, "dec"), text(intent, "dec"));
}

#[tokio::test]
async fn calls_at_once_never_exceed_the_budget_and_a_restart_does_not_refill_it() {
    let mut world = World::new().await;
    let token = world.token_with(|claims| claims.authorization_details[0].max_calls = 5);
    for _ in 0..3 {
        world.check(world.call_with(&token, "wipe", "{}"), "403 policy.denied").await;
    }
    let before = world.calls();
    let tries = (0..20).map(|_| world.send(world.call_with(&token, "read", "{}")));
    let replies = futures_util::future::join_all(tries).await;
    let allowed = replies.iter().filter(|reply| reply.status.is_success()).count();
    assert_eq!(
        (allowed, world.calls() - before),
        (5, 5),
        "refused calls cost nothing, permitted ones all count"
    );
    assert!(
        replies
            .iter()
            .filter(|reply| !reply.status.is_success())
            .all(|reply| reply.data("code") == "task.budget")
    );

    world.restart().await;
    let token = world.token_with(|claims| claims.authorization_details[0].max_calls = 5);
    world.check(world.call_with(&token, "read", "{}"), "403 task.budget").await;
    let token = world.token_with(|claims| claims.authorization_details[0].max_calls = 6);
    world.check_allowed(world.call_with(&token, "read", "{}")).await;
}

#[tokio::test]
async fn stale_evidence_is_asked_for_again_and_then_does() {
    let world = World::new().await;
    let stale = world.token_with(|claims| claims.env.att_time -= 120);
    let before = world.log.size();
    let reply = world.send(world.call_with(&stale, "deploy", "{}")).await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{}", reply.text());
    let challenge = reply.header("www-authenticate");
    for part in [
        r#"error="insufficient_user_authentication""#,
        r#"max_age="60""#,
        "acr_values=\"urn:countersign:acr:e3",
    ] {
        assert!(challenge.contains(part), "{challenge}");
    }
    assert_eq!(world.kinds_from(before, 1).await, ["challenge"]);
    assert_eq!(world.calls(), 0);
    let fresh = world.token_with(|_| {});
    world.check_allowed(world.call_with(&fresh, "deploy", "{}")).await;
}

#[tokio::test]
async fn a_person_is_asked_and_the_yes_works_once_for_exactly_this_call() {
    let world = World::new().await;
    let pay = |amount: u32| world.call("pay", &format!(r#"{{"amount":{amount}}}"#));
    let before = world.log.size();
    let reply = world.send(pay(5)).await;
    assert_eq!((reply.status, reply.rpc_code()), (StatusCode::FORBIDDEN, -32001), "{}", reply.text());
    assert!(reply.text().contains("http://localhost:1/approvals/apr_1"), "{}", reply.text());
    assert_eq!(world.kinds_from(before, 1).await, ["challenge"]);
    let asked = world.control.asked.lock()[0].clone();
    assert_eq!((asked.agent, asked.requester.as_str(), asked.machine_jkt), (agent(), "ada", world.ours.jkt));

    // Not answered yet: the same question, not a second one.
    let reply = world.send(pay(5).header("countersign-approval", "apr_1")).await;
    assert!(reply.text().contains("apr_1"), "{}", reply.text());
    assert_eq!(world.control.asked.lock().len(), 1);

    let answer = |outcome: ApprovalOutcome| {
        let id = ApprovalId::parse("apr_1").unwrap();
        world.control.answers.lock().insert(id, outcome);
    };
    let grant = |amount: u32| grant_of_first(&world, amount);
    answer(ApprovalOutcome::Granted(grant(5)));
    world.check_allowed(pay(5).header("countersign-approval", "apr_1")).await;
    world.check(pay(5).header("countersign-approval", "apr_1"), "403 approval.spent").await;
    answer(ApprovalOutcome::Granted(grant(5)));
    world.check(pay(6).header("countersign-approval", "apr_1"), "403 approval.digest").await;
    answer(ApprovalOutcome::Granted(format!("{}x", grant(5))));
    world.check(pay(5).header("countersign-approval", "apr_1"), "403 approval.invalid").await;
    answer(ApprovalOutcome::Refused);
    world.check(pay(5).header("countersign-approval", "apr_1"), "403 approval.refused").await;
    answer(ApprovalOutcome::Expired);
    world.check(pay(5).header("countersign-approval", "apr_1"), "403 approval.expired").await;
    world.check(pay(5).header("countersign-approval", "apr_9"), "403 approval.digest").await;
}

/// A person's yes to the first question, had it been about this amount.
fn grant_of_first(world: &World, amount: u32) -> String {
    let asked = world.control.asked.lock()[0].clone();
    let mut arguments = countersign_proto::json::Object::new();
    arguments.insert("amount", amount).unwrap();
    let grant = ApprovalGrant {
        iss: ISSUER.to_owned(),
        apr: ApprovalId::parse("apr_1").unwrap(),
        call_digest: countersign_proto::call::Call { arguments, ..asked.call }.digest(),
        run: RunId::parse("run_1").unwrap(),
        machine_jkt: world.ours.jkt,
        agent: agent(),
        policy: asked.policy,
        approver: PersonId::parse("eve").unwrap(),
        exp: world.now().unix_secs() + 60,
        jti: "g1".to_owned(),
    };
    grant.sign(&world.server_key, "k1").unwrap()
}

#[tokio::test]
async fn a_kill_while_a_person_hesitates_outweighs_their_yes() {
    let world = World::new().await;
    let pay = || world.call("pay", r#"{"amount":5}"#);
    assert_eq!(world.send(pay()).await.status, StatusCode::FORBIDDEN, "a person is asked");
    let granted = ApprovalOutcome::Granted(grant_of_first(&world, 5));
    world.control.answers.lock().insert(ApprovalId::parse("apr_1").unwrap(), granted);

    let hesitating = world.control.hesitation.clone().lock_owned().await;
    let kill_meanwhile = async {
        world.control.redeeming.notified().await;
        world.publish(|body| body.agents.get_mut(&agent()).unwrap().generation += 1).await;
        drop(hesitating);
    };
    let attempt = pay().header("countersign-approval", "apr_1");
    futures_util::future::join(world.check(attempt, "401 agent.killed"), kill_meanwhile).await;
}

#[tokio::test]
async fn with_nobody_to_ask_the_answer_is_no() {
    let world = World::new().await;
    *world.control.deaf.lock() = true;
    let reply = world.send(world.call("pay", r#"{"amount":5}"#)).await;
    assert_eq!((reply.status, reply.rpc_code()), (StatusCode::SERVICE_UNAVAILABLE, -32001));
    assert_eq!(world.calls(), 0);
}

#[tokio::test]
async fn what_the_upstream_does_wrong_stays_there() {
    let world = World::new().await;
    for manner in [Manner::Redirect, Manner::Unauthorized, Manner::Html] {
        *world.upstream.shared.manner.lock() = manner;
        let (before, reached) = (world.log.size(), world.reached());
        let reply = world.send(world.call("read", "{}")).await;
        assert_eq!((reply.status, reply.data("code").as_str()), (StatusCode::BAD_GATEWAY, "upstream.failed"));
        for leak in ["location", "www-authenticate"] {
            assert_eq!(reply.header(leak), "", "{manner:?}");
        }
        assert!(!reply.text().contains("upstream-secret") && !reply.text().contains("<script>"));
        assert_eq!(world.kinds_from(before, 2).await, ["intent", "outcome failed"]);
        assert_eq!(world.reached(), reached + 1, "a redirect is not followed");
    }
}

#[tokio::test]
async fn events_pass_as_they_come() {
    let world = World::new().await;
    *world.upstream.shared.manner.lock() = Manner::Events;
    let reply = world.check_allowed(world.call("read", "{}")).await;
    assert_eq!(reply.header("content-type"), "text/event-stream");
    assert_eq!(reply.header("x-accel-buffering"), "no");
    assert!(reply.text().contains("event: message"));
}

#[tokio::test]
async fn a_caller_who_leaves_cancels_the_call() {
    let world = World::new().await;
    for manner in [Manner::Silent, Manner::Endless] {
        *world.upstream.shared.manner.lock() = manner;
        let before = world.log.size();
        let mut wire = world.connect(Some(&world.ours)).await;
        let attempt = world.call("read", "{}");
        let leaving = tokio::spawn(async move {
            let response = wire.open(attempt).await;
            response.into_body().frame().await
        });
        world.upstream.shared.arrived.notified().await;
        if manner == Manner::Endless {
            leaving.await.unwrap();
        } else {
            leaving.abort();
        }
        world.upstream.shared.abandoned.notified().await;
        assert_eq!(world.kinds_from(before, 2).await, ["intent", "outcome cancelled"], "{manner:?}");
    }
}

#[tokio::test]
async fn a_kill_also_ends_a_call_that_has_no_answer_yet() {
    let world = World::new().await;
    *world.upstream.shared.manner.lock() = Manner::Silent;
    let before = world.log.size();
    let mut wire = world.connect(Some(&world.ours)).await;
    let attempt = world.call("read", "{}");
    let waiting = tokio::spawn(async move { wire.send(attempt).await });
    world.upstream.shared.arrived.notified().await;
    world.publish(|body| body.agents.get_mut(&agent()).unwrap().generation += 1).await;
    let reply = waiting.await.unwrap();
    assert_eq!((reply.status, reply.data("code").as_str()), (StatusCode::UNAUTHORIZED, "agent.killed"));
    world.upstream.shared.abandoned.notified().await;
    assert_eq!(world.kinds_from(before, 2).await, ["intent", "outcome ended"]);
}

async fn check_stream_ends(change: impl FnOnce(&mut SnapshotBody)) {
    let world = World::new().await;
    *world.upstream.shared.manner.lock() = Manner::Endless;
    let before = world.log.size();
    let mut wire = world.connect(Some(&world.ours)).await;
    let mut body = wire.open(world.call("read", "{}")).await.into_body();
    assert!(body.frame().await.unwrap().is_ok(), "the stream is open");
    world.publish(change).await;
    assert!(body.frame().await.is_none_or(|frame| frame.is_err()), "and ends");
    world.upstream.shared.abandoned.notified().await;
    assert_eq!(world.kinds_from(before, 2).await, ["intent", "outcome ended"]);
}

#[tokio::test]
async fn a_kill_ends_open_streams() {
    check_stream_ends(|body| body.agents.get_mut(&agent()).unwrap().generation += 1).await;
}

#[tokio::test]
async fn a_revoked_run_ends_open_streams() {
    check_stream_ends(|body| _ = body.revoked_runs.insert(RunId::parse("run_1").unwrap())).await;
}

#[tokio::test]
async fn a_locked_machine_ends_open_streams() {
    check_stream_ends(|body| {
        body.machines.values_mut().for_each(|machine| machine.state = MachineState::Locked);
    })
    .await;
}

#[tokio::test]
async fn silence_from_the_control_plane_ends_open_streams() {
    let world = World::new().await;
    *world.upstream.shared.manner.lock() = Manner::Endless;
    let mut wire = world.connect(Some(&world.ours)).await;
    let mut body = wire.open(world.call("read", "{}")).await.into_body();
    assert!(body.frame().await.unwrap().is_ok());
    world.clock.advance_secs(61);
    assert!(body.frame().await.is_none_or(|frame| frame.is_err()));
}

#[tokio::test]
async fn only_tools_that_may_be_called_are_listed_and_nobody_keeps_the_list() {
    let world = World::new().await;
    let token = world.token_with(|_| {});
    let listing = format!(r#"{{"jsonrpc":"2.0","id":"l","method":"tools/list","params":{{{META}}}}}"#);
    let before = world.log.size();
    let reply = world.send(world.message(&token, &listing, "tools/list")).await;
    assert_eq!(world.kinds_from(before, 1).await, ["access"]);
    let answer = reply.text();
    assert!(answer.contains(r#""name":"read""#) && answer.contains(r#""id":"l""#), "{answer}");
    assert!(answer.contains(r#""cacheScope":"private""#) && answer.contains(r#""ttlMs":0"#), "{answer}");
    let discover = format!(r#"{{"jsonrpc":"2.0","id":2,"method":"server/discover","params":{{{META}}}}}"#);
    let reply = world.send(world.message(&token, &discover, "server/discover")).await;
    assert_eq!(
        reply.text(),
        r#"{"id":2,"jsonrpc":"2.0","result":{"capabilities":{"tools":{}},"supportedVersions":["2026-07-28"]}}"#
    );
}

#[tokio::test]
async fn metadata_is_there_before_any_token() {
    let world = World::new().await;
    let attempt = world
        .bare("GET", "x")
        .without("authorization")
        .without("dpop")
        .path("/.well-known/oauth-protected-resource/mcp/github");
    let reply = world.connect(None).await.send(attempt).await;
    assert_eq!(reply.status, StatusCode::OK);
    assert!(reply.text().contains(r#""resource":"https://gw.test:8443/mcp/github""#), "{}", reply.text());
    assert!(reply.text().contains(r#""dpop_bound_access_tokens_required":true"#));
}

#[tokio::test]
async fn one_machine_cannot_take_all_connections() {
    let world = World::with(true, GatewayLimits { connections_per_machine: 2, ..limits() }).await;
    let mut first = world.connect(Some(&world.ours)).await;
    let mut second = world.connect(Some(&world.ours)).await;
    assert!(first.send(world.call("read", "{}")).await.status.is_success());
    assert!(second.send(world.call("read", "{}")).await.status.is_success());
    let third = world.tls(Some(&world.ours)).await;
    let served = match third {
        Err(_) => false,
        Ok(mut tls) => {
            tokio::io::AsyncReadExt::read(&mut tls, &mut [0_u8; 1]).await.is_ok_and(|read| read > 0)
        }
    };
    assert!(!served);
    assert_eq!(world.upstream.shared.calls.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn strangers_get_few_answers_and_cannot_fill_the_log() {
    let world = World::with(true, GatewayLimits { anonymous_per_sec: 3, ..limits() }).await;
    let before = world.log.size();
    let mut answered = 0;
    for _ in 0..10 {
        let Ok(mut tls) = world.tls(None).await else { continue };
        let request = b"POST /mcp/github HTTP/1.1\r\nhost: gw.test:8443\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
        let mut answer = Vec::new();
        if tokio::io::AsyncWriteExt::write_all(&mut tls, request).await.is_ok() {
            let _closed = tokio::io::AsyncReadExt::read_to_end(&mut tls, &mut answer).await;
        }
        answered += usize::from(answer.starts_with(b"HTTP/1.1 400"));
    }
    assert_eq!((answered, world.records_from(before).await.len()), (3, 3));
    world.check_allowed(world.call("read", "{}")).await;
}
