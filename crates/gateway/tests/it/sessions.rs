//! The older era: sessions of our own making, each its run's alone.

use countersign_proto::id::RunId;
use http::StatusCode;
use http_body_util::BodyExt as _;

use crate::world::{META, Reply, World, limits, text};

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"roots":{},"sampling":{}},"clientInfo":{"name":"c","version":"1"}}}"#;
const LIST: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
const CALL: &str =
    r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"read","arguments":{}}}"#;

async fn initialize(world: &World, token: &str) -> Reply {
    let reply = world.send(world.legacy(token, INITIALIZE)).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    reply
}

#[tokio::test]
async fn a_session_has_a_name_of_ours_and_says_nothing_of_the_upstreams() {
    let world = World::with(false, limits()).await;
    let token = world.token_with(|_| {});
    let reply = initialize(&world, &token).await;
    let session = reply.header("mcp-session-id").to_owned();
    assert!(session.starts_with("mcps_") && !session.contains("inner"), "{session}");
    assert_eq!(reply.header("content-type"), "application/json");
    assert!(
        reply.text().contains(r#""capabilities":{"tools":{}}"#),
        "only what is reachable: {}",
        reply.text()
    );
    assert!(!reply.text().contains("instructions"), "nobody reviewed them: {}", reply.text());
    {
        let seen = world.upstream.shared.seen.lock();
        let sent = String::from_utf8_lossy(&seen.last().unwrap().2).into_owned();
        assert!(sent.contains(r#""capabilities":{}"#), "{sent}");
    }
    let with = |body: &str| {
        world
            .legacy(&token, body)
            .header("mcp-session-id", &session)
            .header("mcp-protocol-version", "2025-11-25")
    };
    let reply = world.send(with(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#)).await;
    assert_eq!(reply.status, StatusCode::ACCEPTED);
    let reply = world.send(with(LIST)).await;
    assert!(reply.text().contains(r#""name":"read""#), "{}", reply.text());
    let reply = world.check_allowed(with(CALL)).await;
    assert_eq!(reply.header("mcp-session-id"), "");
    let inner = world.upstream.shared.seen.lock().last().unwrap().1["mcp-session-id"].clone();
    assert!(inner.to_str().unwrap().starts_with("inner-"));

    // Header and body of the newer era mean nothing here.
    let reply = world.check_allowed(with(CALL).header("mcp-name", "wipe")).await;
    assert!(reply.text().contains("done"));
}

#[tokio::test]
async fn a_session_is_nobody_elses() {
    let world = World::with(false, limits()).await;
    let token = world.token_with(|_| {});
    let session = initialize(&world, &token).await.header("mcp-session-id").to_owned();
    let other = world.token_with(|claims| {
        claims.sid = RunId::parse("run_2").unwrap();
        claims.act.sub =
            countersign_proto::id::SpiffeId::parse("spiffe://td.test/agent/build-bot/run/run_2").unwrap();
    });
    let with = |token: &str, session: &str| world.legacy(token, CALL).header("mcp-session-id", session);
    let bare =
        |method: &'static str, token: &str| world.bare(method, token).header("mcp-session-id", &session);
    world.check(with(&other, &session), "404 http.header").await;
    world.check(with(&token, "mcps_guess"), "404 http.header").await;
    world.check(with(&token, "inner-0"), "404 http.header").await;
    world.check(bare("GET", &other), "404 http.header").await;
    world.check(bare("DELETE", &other), "404 http.header").await;
    world.check_allowed(with(&token, &session)).await;

    let reply = world.send(bare("DELETE", &token)).await;
    assert_eq!(reply.status, StatusCode::OK);
    world.check(with(&token, &session), "404 http.header").await;
}

#[tokio::test]
async fn a_sessions_stream_ends_with_its_agent() {
    let world = World::with(false, limits()).await;
    let token = world.token_with(|_| {});
    let session = initialize(&world, &token).await.header("mcp-session-id").to_owned();
    let before = world.log.size();
    let mut wire = world.connect(Some(&world.ours)).await;
    let response = wire.open(world.bare("GET", &token).header("mcp-session-id", &session)).await;
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body();
    assert!(body.frame().await.unwrap().is_ok());
    assert_eq!(world.kinds_from(before, 1).await, ["access"]);
    let seen = world.upstream.shared.seen.lock().last().unwrap().clone();
    assert!(!seen.1.contains_key("last-event-id"));
    world.publish(|body| body.agents.get_mut(&crate::world::agent()).unwrap().generation += 1).await;
    assert!(body.frame().await.is_none_or(|frame| frame.is_err()));
    world.upstream.shared.abandoned.notified().await;
}

#[tokio::test]
async fn the_newer_era_is_not_spoken_to_a_server_of_the_older() {
    let world = World::with(false, limits()).await;
    let before = world.log.size();
    let token = world.token_with(|_| {});
    let discover = format!(r#"{{"jsonrpc":"2.0","id":2,"method":"server/discover","params":{{{META}}}}}"#);
    let reply = world.send(world.message(&token, &discover, "server/discover")).await;
    assert_eq!((reply.status.as_u16(), reply.rpc_code()), (400, -32022));
    assert!(reply.text().contains("2025-11-25") && !reply.text().contains("2026-07-28"), "{}", reply.text());
    assert_eq!(text(&world.records_from(before).await[0], "code"), "rpc.malformed");
}

#[tokio::test]
async fn the_stateless_era_has_no_sessions_and_no_streams() {
    let world = World::new().await;
    let token = world.token_with(|_| {});
    let with = |method| {
        world.bare(method, &token).header("mcp-session-id", "x").header("mcp-protocol-version", "2026-07-28")
    };
    world.check(with("GET"), "405 rpc.method").await;
    world.check(with("DELETE"), "405 rpc.method").await;
    world.check(world.bare("GET", &token), "405 rpc.method").await;
    // A session id means nothing to a stateless call.
    world.check_allowed(world.call("read", "{}").header("mcp-session-id", "mcps_guess")).await;
}
