//! AUD-13: every public route, called once by a stranger. Each answers with its protocol's own error and leaves a
//! record, or is on the list of those that have nothing to tell.

use std::collections::BTreeSet;

use countersign_testkit::insider::{Answer, Caller};
use countersign_testkit::person::plain;
use countersign_testkit::world::World;
use http::{Method, Request, header};
use http_body_util::Full;

use super::Scene;
use crate::block_on;

/// What a stranger's request leaves in the log.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaves {
    /// A record.
    Record,
    /// Nothing: public facts, the same for everybody.
    NothingPublic,
    /// Nothing: a number that costs a MAC and means nothing until it is spent.
    NothingFresh,
    /// Nothing: bytes that are no message of the protocol, refused before anybody is asked who they are. A record
    /// of each would let strangers fill the disk.
    NothingMalformed,
    /// Nothing: a page that a person's browser opens.
    NothingPage,
    /// Nothing: whether it is well, asked every few seconds.
    NothingHealth,
}

use Leaves::{NothingFresh, NothingHealth, NothingMalformed, NothingPage, NothingPublic, Record};

struct Call {
    method: Method,
    /// As the router writes it.
    route: &'static str,
    path: &'static str,
    kind: &'static str,
    body: &'static str,
    status: u16,
    /// What the answer's body or challenge has to say.
    says: &'static str,
    leaves: Leaves,
}

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";
const JOSE: &str = "application/jose+json";
const PROBLEM: &str = "urn:ietf:params:acme:error:malformed";

const fn get(route: &'static str, status: u16, says: &'static str, leaves: Leaves) -> Call {
    Call { method: Method::GET, route, path: route, kind: "", body: "", status, says, leaves }
}

const fn post(
    route: &'static str,
    kind: &'static str,
    body: &'static str,
    status: u16,
    says: &'static str,
    leaves: Leaves,
) -> Call {
    Call { method: Method::POST, route, path: route, kind, body, status, says, leaves }
}

impl Call {
    const fn at(mut self, path: &'static str) -> Self {
        self.path = path;
        self
    }
}

fn server() -> Vec<Call> {
    let acme = |route| post(route, JOSE, "{}", 400, PROBLEM, NothingMalformed);
    vec![
        get("/.well-known/oauth-authorization-server", 200, "token_endpoint", NothingPublic),
        get("/oauth/jwks", 200, "keys", NothingPublic),
        post("/oauth/challenge", FORM, "", 200, "attestation_challenge", NothingFresh),
        post("/oauth/token", FORM, "", 400, "error", Record),
        get("/oauth/token", 400, "error", Record),
        post("/attest/v1/ak", JSON, "{}", 400, "invalid_request", Record),
        post("/attest/v1/ak/{session}", JSON, "{}", 400, "invalid_request", Record).at("/attest/v1/ak/none"),
        post("/attest/v1/nonce", JSON, "{}", 401, "machine_certificate_required", Record),
        post("/attest/v1/client-attestation", JSON, "{}", 400, "invalid_request", Record),
        get("/acme/directory", 200, "newNonce", NothingPublic),
        get("/acme/new-nonce", 204, "", NothingFresh),
        acme("/acme/new-account"),
        acme("/acme/account/{id}").at("/acme/account/none"),
        acme("/acme/new-order"),
        acme("/acme/order/{id}").at("/acme/order/none"),
        acme("/acme/authz/{id}").at("/acme/authz/none"),
        acme("/acme/challenge/{id}").at("/acme/challenge/none"),
        acme("/acme/order/{id}/finalize").at("/acme/order/none/finalize"),
        acme("/acme/cert/{id}").at("/acme/cert/none"),
        acme("/acme/revoke-cert"),
    ]
}

fn console() -> Vec<Call> {
    let form = |route| post(route, JSON, "{}", 403, "", NothingPage);
    vec![
        get("/", 303, "", NothingPage),
        get("/approvals", 303, "", NothingPage),
        get("/approvals/{id}", 303, "", NothingPage).at("/approvals/apr_none"),
        form("/approvals/{id}/begin").at("/approvals/apr_none/begin"),
        form("/approvals/{id}/approve").at("/approvals/apr_none/approve"),
        form("/approvals/{id}/refuse").at("/approvals/apr_none/refuse"),
        get("/invite/{token}", 404, "", NothingPage).at("/invite/none"),
        form("/invite/{token}/begin").at("/invite/none/begin"),
        form("/invite/{token}/register").at("/invite/none/register"),
        get("/login", 200, "", NothingPage),
        form("/login/begin"),
        form("/login/finish"),
        form("/logout"),
        get("/assets/console.css", 200, "", NothingPage),
        get("/assets/console.js", 200, "", NothingPage),
    ]
}

fn status() -> Vec<Call> {
    vec![
        get("/healthz", 200, "ok", NothingHealth),
        get("/readyz", 200, "ready", NothingHealth),
        get("/metrics", 200, "cs_", NothingHealth),
    ]
}

fn gateway() -> Vec<Call> {
    let message =
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"notes.read","arguments":{}}}"#;
    let mcp = |method: Method, kind, body, status, says| Call {
        method,
        route: "/mcp",
        path: "/mcp/work",
        kind,
        body,
        status,
        says,
        leaves: Record,
    };
    vec![
        get("/.well-known/oauth-protected-resource/mcp/work", 200, "authorization_servers", NothingPublic),
        mcp(Method::POST, JSON, message, 401, "resource_metadata"),
        mcp(Method::GET, "", "", 405, ""),
        mcp(Method::DELETE, "", "", 405, ""),
        mcp(Method::PUT, "", "", 405, ""),
        mcp(Method::OPTIONS, "", "", 405, ""),
        mcp(Method::POST, JSON, "{", 400, "-32"),
        mcp(Method::POST, "text/plain", message, 415, "-32"),
        Call { path: "/nowhere", ..mcp(Method::GET, "", "", 404, "") },
        Call { path: "/mcp/nothing", ..mcp(Method::POST, JSON, message, 404, "") },
        Call { path: "/", ..mcp(Method::GET, "", "", 404, "") },
    ]
}

#[test]
fn every_route_answers_strangers_in_its_protocols_words_and_leaves_a_record() {
    let scene = Scene::new();
    let world = &scene.stage.world;
    all_routes_are_in_the_table(world, &["oauth", "attest", "acme"], &server());
    all_routes_are_in_the_table(world, &["console"], &console());
    all_routes_are_in_the_table(world, &["admin/status"], &status());
    let stranger = Caller::anonymous(world.ready()).expect("a stranger");
    let gateway_host = world.ready().gateway.trim_start_matches("https://").to_owned();
    let console_host = world.ready().console.trim_start_matches("http://").to_owned();
    for call in gateway() {
        check("gateway", world, &call, |request| {
            block_on(stranger.to_gateway(with_host(request, &gateway_host)))
        });
    }
    for call in server() {
        check("control plane", world, &call, |request| block_on(stranger.to_server(request)));
    }
    let status_host = status_host(world);
    for call in status() {
        check("status", world, &call, |request| {
            block_on(plain(&status_host, with_host(request, &status_host)))
        });
    }
    for call in console() {
        check("console", world, &call, |request| {
            block_on(plain(&console_host, with_host(request, &console_host)))
        });
    }
}

/// Where numbers are read; `countersign dev` says so when it is ready.
fn status_host(world: &World) -> String {
    let said = world.said().expect("what it said");
    let ready = said.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let ready = ready.into_iter().find(|line| line["ready"] == true).expect("it is ready");
    ready["status"].as_str().expect("a URL").trim_start_matches("http://").to_owned()
}

fn check(
    side: &str,
    world: &World,
    call: &Call,
    send: impl FnOnce(Request<Full<bytes::Bytes>>) -> std::io::Result<Answer>,
) {
    let name = format!("{side} {} {}", call.method, call.path);
    let before = world.log_size().expect("a size");
    let bytes = world.upstream_stats().expect("counters")["calls"].clone();
    let mut request = Request::builder().method(call.method.clone()).uri(call.path);
    if !call.kind.is_empty() {
        request = request.header(header::CONTENT_TYPE, call.kind);
    }
    let answer = send(request.body(Full::from(call.body)).expect("a request")).expect("an answer");
    let said = format!("{}{}", String::from_utf8_lossy(&answer.body), answer.header("www-authenticate"));
    assert_eq!(answer.status, call.status, "{name}: {said}");
    assert!(said.contains(call.says), "{name}: {} is not in {said}", call.says);
    for word in ["panicked", "RUST_", "/crates/", "sqlite", "stack backtrace"] {
        assert!(!said.contains(word), "{name} tells strangers too much: {said}");
    }
    assert_eq!(world.upstream_stats().expect("counters")["calls"], bytes, "{name}");
    let refusals: Vec<String> = world
        .records(before)
        .expect("records")
        .iter()
        .filter_map(|entry| entry["record"]["kind"].as_str())
        .filter(|kind| *kind == "denial")
        .map(str::to_owned)
        .collect();
    let expected = usize::from(call.leaves == Record);
    assert_eq!(refusals.len(), expected, "{name}: records: {refusals:?}");
}

/// Adds what our client adds only for tool calls.
fn with_host(mut request: Request<Full<bytes::Bytes>>, host: &str) -> Request<Full<bytes::Bytes>> {
    if !request.headers().contains_key(header::HOST) {
        request.headers_mut().insert(header::HOST, host.parse().expect("a host"));
    }
    request
}

/// A route that somebody adds has to be added here.
fn all_routes_are_in_the_table(world: &World, areas: &[&str], table: &[Call]) {
    let known: BTreeSet<&str> = table.iter().map(|call| call.route).collect();
    let mut found = BTreeSet::new();
    for area in areas {
        let file = world.repository().join(format!("crates/server/src/{area}.rs"));
        let source = std::fs::read_to_string(file).expect("the router");
        let routes = source.split(".route(\"").skip(1).filter_map(|rest| rest.split('"').next());
        found.extend(routes.map(str::to_owned));
    }
    let found: BTreeSet<&str> = found.iter().map(String::as_str).collect();
    assert_eq!(found, known, "the routers and this table differ");
}
