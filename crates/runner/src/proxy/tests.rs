//! What `proxy` lets through and what it refuses.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use http::StatusCode;
use http_body_util::Full;
use serde_json::{Value, json};

use super::*;
use crate::fake::{Mood, Seen, SystemEntropy, World, ask, token_parts};

#[derive(Default)]
struct Heard(parking_lot::Mutex<Vec<String>>);

impl Notices for Heard {
    fn say(&self, line: &str) {
        self.0.lock().push(line.to_owned());
    }
}

struct Bench {
    world: World,
    proxy: Proxy,
    heard: Arc<Heard>,
}

fn work() -> UpstreamId {
    UpstreamId::parse("work").unwrap()
}

async fn bench_with(proof: ProofKind, hold_limit: Duration) -> Bench {
    let world = World::start().await;
    let session = world.session().await;
    bench_of(world, session, proof, hold_limit).await
}

/// With a certificate that can be renewed.
async fn enrolled_bench() -> Bench {
    let world = World::start().await;
    let session = world.enrolled_session().await;
    bench_of(world, session, ProofKind::Channel, DEFAULT_HOLD_LIMIT).await
}

async fn bench_of(world: World, session: Arc<Session>, proof: ProofKind, hold_limit: Duration) -> Bench {
    let heard = Arc::new(Heard::default());
    let notices = Arc::clone(&heard) as Arc<dyn Notices>;
    let config = ProxyConfig { upstreams: vec![work()], proof, hold_limit, notices };
    let proxy = Proxy::start(session, config, &SystemEntropy).await.unwrap();
    Bench { world, proxy, heard }
}

async fn bench() -> Bench {
    bench_with(ProofKind::Channel, DEFAULT_HOLD_LIMIT).await
}

const CALL: &str =
    r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"echo","arguments":{}}}"#;

impl Bench {
    fn request(&self) -> http::request::Builder {
        let url = self.proxy.url(&work());
        let path = url.strip_prefix(&format!("http://{}", self.proxy.address())).unwrap();
        Request::post(path)
            .header("host", self.proxy.address().to_string())
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream")
    }

    async fn send(&self, request: http::request::Builder) -> (StatusCode, Value) {
        let answer = ask(self.proxy.address(), request.body(Full::from(CALL)).unwrap()).await;
        (answer.status(), serde_json::from_slice(answer.body()).unwrap_or(Value::Null))
    }

    async fn proxy_call(&self) -> StatusCode {
        self.send(self.request()).await.0
    }

    /// A call while the gateway is in these moods, one after the other.
    async fn call(&self, moods: Vec<Mood>) -> (StatusCode, Value) {
        self.world.shared.script.lock().extend(moods);
        self.send(self.request()).await
    }

    fn seen(&self) -> Vec<Seen> {
        self.world.shared.calls()
    }

    fn statements(&self) -> Vec<String> {
        self.seen().iter().map(|seen| token_parts(seen.header("authorization").unwrap()).1).collect()
    }
}

fn fine() -> Mood {
    Mood::Result(json!({"jsonrpc": "2.0", "id": 7, "result": {"ok": true}}))
}

#[tokio::test]
async fn only_this_users_programs_that_know_the_path_and_speak_json_get_in() {
    let bench = bench().await;
    let port = bench.proxy.address().port();
    let path = bench.proxy.url(&work()).replace(&format!("http://127.0.0.1:{port}"), "");
    let host = format!("127.0.0.1:{port}");
    let check = async |method: &str, path: &str, headers: &[(&str, &str)], expected: u16, code: &str| {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (status, body) = bench.send(request).await;
        assert_eq!(status.as_u16(), expected, "{method} {path} {headers:?}");
        assert_eq!(
            body["error"]["data"]["code"].as_str().unwrap_or_default(),
            code,
            "{method} {path} {headers:?}"
        );
    };
    let json = ("content-type", "application/json");
    let localhost = format!("localhost:{port}");
    let origin = format!("http://localhost:{port}");
    check("POST", &path, &[("host", &host), json], 200, "").await;
    check(
        "POST",
        &path,
        &[("host", &localhost), ("content-type", "application/json; charset=utf-8")],
        200,
        "",
    )
    .await;
    check("POST", &path, &[("host", &host), ("origin", &origin), json], 200, "").await;
    let before = bench.seen().len();
    check("POST", &path, &[("host", "evil.example"), json], 403, "http.host").await;
    check("POST", &path, &[("host", "127.0.0.1"), json], 403, "http.host").await;
    check("POST", &path, &[("host", &host), ("host", "evil.example"), json], 403, "http.host").await;
    check("POST", &path, &[("host", &host), ("origin", "http://evil.example"), json], 403, "http.origin")
        .await;
    check("POST", &path, &[("host", &host), ("origin", "null"), json], 403, "http.origin").await;
    check("POST", &path, &[("host", &host), ("content-type", "text/plain")], 415, "http.content_type").await;
    check("POST", &path, &[("host", &host)], 415, "http.content_type").await;
    check("PUT", &path, &[("host", &host), json], 405, "rpc.method").await;
    check("POST", &format!("{path}?x=1"), &[("host", &host), json], 404, "http.path").await;
    check("POST", &format!("{path}x"), &[("host", &host), json], 404, "http.path").await;
    check("POST", "/mcp/guess/work", &[("host", &host), json], 404, "http.path").await;
    check("POST", "/", &[("host", &host), json], 404, "http.path").await;
    assert_eq!(bench.seen().len(), before, "nothing refused reached the gateway");
}

#[tokio::test]
async fn another_users_program_stays_outside() {
    let bench = bench().await;
    // Only root can try this for real; whoever runs as somebody else cannot become a second user.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let script = format!(
        "exec 3<>/dev/tcp/127.0.0.1/{}; printf 'POST {} HTTP/1.1\\r\\nHost: {}\\r\\nContent-Type: application/json\\r\\nContent-Length: 2\\r\\nConnection: close\\r\\n\\r\\n{{}}' >&3; cat <&3",
        bench.proxy.address().port(),
        bench.proxy.url(&work()).split_once("/mcp/").map(|(_, rest)| format!("/mcp/{rest}")).unwrap(),
        bench.proxy.address(),
    );
    let output = tokio::process::Command::new("setpriv")
        .args(["--reuid", "65534", "--clear-groups", "bash", "-c", &script])
        .output()
        .await
        .unwrap();
    let answer = String::from_utf8_lossy(&output.stdout);
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}{}", String::from_utf8_lossy(&output.stderr));
    assert!(answer.contains("http.peer"), "{answer}");
    assert!(bench.seen().is_empty());
}

#[tokio::test]
async fn a_call_arrives_with_both_proofs_and_without_the_agents_own_credentials() {
    let bench = bench().await;
    let request = bench
        .request()
        .header("authorization", "Bearer agents-own")
        .header("cookie", "a=b")
        .header("dpop", "forged")
        .header("countersign-channel", "forged")
        .header("countersign-approval", "apr_forged")
        .header("x-forwarded-for", "1.2.3.4")
        .header("mcp-method", "tools/call")
        .header("mcp-protocol-version", "2026-07-28");
    let answer = ask(bench.proxy.address(), request.body(Full::from(CALL)).unwrap()).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let back: BTreeMap<_, _> = answer.headers().keys().map(|name| (name.as_str(), ())).collect();
    assert!(
        back.contains_key("mcp-session-id")
            && !back.contains_key("set-cookie")
            && !back.contains_key("server")
    );

    let seen = &bench.seen()[0];
    assert!(seen.machine, "the machine certificate was shown");
    assert_eq!((seen.proof.as_str(), seen.path.as_str()), ("channel", "/mcp/work"));
    assert_eq!(seen.body, CALL, "the bytes are the agent's");
    assert_eq!(seen.header("mcp-method"), Some("tools/call"));
    assert_eq!(seen.header("mcp-protocol-version"), Some("2026-07-28"));
    for name in ["cookie", "dpop", "countersign-approval", "x-forwarded-for"] {
        assert_eq!(seen.header(name), None, "{name}");
    }
}

#[tokio::test]
async fn a_connection_is_proven_once_and_kept() {
    let bench = bench().await;
    for _ in 0..3 {
        assert_eq!(bench.call(vec![fine()]).await.0, StatusCode::OK);
    }
    let seen = bench.seen();
    assert!(seen.iter().all(|seen| seen.proof == "channel"));
    assert_eq!(seen.iter().filter(|seen| seen.header("countersign-channel").is_some()).count(), 1);
    assert_eq!(seen.iter().map(|seen| seen.connection).collect::<std::collections::BTreeSet<_>>().len(), 1);
    let shared = &bench.world.shared;
    assert_eq!((shared.tokens.load(Ordering::SeqCst), shared.attestations.load(Ordering::SeqCst)), (1, 1));
}

#[tokio::test]
async fn a_gateway_that_takes_no_channel_proof_gets_one_per_call_from_then_on() {
    let bench = bench().await;
    bench.world.shared.takes_channel.store(false, Ordering::SeqCst);
    assert_eq!(bench.call(vec![]).await.0, StatusCode::OK);
    let tries = bench.seen().len();
    assert_eq!(bench.call(vec![]).await.0, StatusCode::OK);
    let seen = bench.seen();
    assert_eq!(seen.len(), tries + 1, "it is remembered");
    assert_eq!(seen.last().unwrap().proof, "dpop");
}

#[tokio::test]
async fn proofs_per_call_are_never_the_same_twice() {
    let bench = bench_with(ProofKind::EveryCall, DEFAULT_HOLD_LIMIT).await;
    for _ in 0..2 {
        assert_eq!(bench.call(vec![]).await.0, StatusCode::OK);
    }
    let proofs: Vec<_> = bench.seen().iter().map(|seen| seen.header("dpop").unwrap().to_owned()).collect();
    assert_ne!(proofs[0], proofs[1]);
}

#[tokio::test]
async fn a_challenge_for_fresh_evidence_is_answered_with_a_new_quote_and_the_agent_notices_nothing() {
    let bench = bench().await;
    bench.call(vec![fine()]).await;
    let stale = Mood::Challenge("insufficient_user_authentication", None);
    let (status, body) = bench.call(vec![stale, fine()]).await;
    assert_eq!((status, &body["result"]["ok"]), (StatusCode::OK, &json!(true)));
    assert_eq!(bench.statements(), ["statement 1", "statement 1", "statement 2"]);
}

#[tokio::test]
async fn a_refused_token_is_replaced_and_a_nonce_is_used() {
    let bench = bench().await;
    let (status, _) = bench.call(vec![Mood::Challenge("invalid_token", None), fine()]).await;
    assert_eq!(status, StatusCode::OK);
    let numbers: Vec<_> =
        bench.seen().iter().map(|seen| token_parts(seen.header("authorization").unwrap()).0).collect();
    assert_eq!(numbers, ["token-1", "token-2"]);
    assert_eq!(bench.world.shared.attestations.load(Ordering::SeqCst), 1, "the statement was still good");

    let (status, _) = bench.call(vec![Mood::Challenge("use_dpop_nonce", Some("n-1")), fine()]).await;
    assert_eq!(status, StatusCode::OK);
    let seen = bench.seen();
    let proof = seen.last().unwrap().header("dpop").unwrap();
    let claims = countersign_proto::b64::url_decode(proof.split('.').nth(1).unwrap()).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&claims).unwrap()["nonce"], "n-1");
}

#[tokio::test]
async fn a_challenge_that_does_not_end_is_a_refusal_after_two_answers() {
    let bench = bench().await;
    let stale = || Mood::Challenge("insufficient_user_authentication", None);
    let (status, body) = bench.call(vec![stale(), stale(), stale(), fine()]).await;
    assert_eq!(status, StatusCode::OK, "and not a 401, which agents answer with a login");
    assert_eq!((&body["id"], &body["error"]["data"]["code"]), (&json!(7), &json!("pop.invalid")));
    assert_eq!(bench.seen().len(), 3);
}

#[tokio::test]
async fn a_call_that_waits_for_a_person_is_held_and_then_goes_through() {
    let bench = bench().await;
    let asked = || Mood::Approval("apr_1");
    let (status, body) = bench.call(vec![asked(), asked(), fine()]).await;
    assert_eq!((status, &body["result"]["ok"]), (StatusCode::OK, &json!(true)));
    let approvals: Vec<_> =
        bench.seen().iter().map(|seen| seen.header("countersign-approval").map(str::to_owned)).collect();
    assert_eq!(approvals, [None, Some("apr_1".to_owned()), Some("apr_1".to_owned())]);
    let heard = bench.heard.0.lock().clone();
    assert_eq!(heard, ["work waits for a person's approval: http://localhost:1/approvals/apr_1"]);
}

#[tokio::test]
async fn a_refused_approval_is_the_agents_answer() {
    let bench = bench().await;
    let (status, body) = bench.call(vec![Mood::Approval("apr_1"), Mood::Denied]).await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::OK, &json!(-32003)));
}

#[tokio::test]
async fn a_refused_request_is_an_answer_and_a_refused_notification_has_none() {
    let bench = bench().await;
    let (status, body) = bench.call(vec![Mood::Denied]).await;
    assert_eq!((status, &body["id"]), (StatusCode::OK, &json!(7)));
    assert_eq!(
        body["error"]["message"],
        "policy does not permit this call; trying again will not help; go on without this call or ask the person you work for (policy.denied, decision dec_1)"
    );
    let unwaited = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    for (method, body) in [("POST", unwaited), ("GET", ""), ("DELETE", "")] {
        bench.world.shared.script.lock().push_back(Mood::Denied);
        let request = bench.request().method(method).body(Full::from(body)).unwrap();
        let answer = ask(bench.proxy.address(), request).await;
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{method} {body}");
    }
}

#[tokio::test]
async fn a_gateway_that_is_not_well_is_an_answer_too() {
    let bench = bench().await;
    for (status, body, code) in [
        (
            503,
            r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32005,"message":"m","data":{"code":"snapshot.stale"}}}"#,
            "snapshot.stale",
        ),
        (502, "<html>bad gateway</html>", "runner.gateway"),
        (403, "no", "runner.refused"),
    ] {
        let (got, answer) = bench.call(vec![Mood::Unwell(status, body)]).await;
        assert_eq!((got, &answer["error"]["data"]["code"]), (StatusCode::OK, &json!(code)), "{answer}");
    }
    // A fault of the message itself keeps the status that MCP gives it.
    let (got, _) = bench.call(vec![Mood::Unwell(400, "{}")]).await;
    assert_eq!(got, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_certificate_that_the_gateway_no_longer_takes_is_renewed_and_shown_on_a_new_connection() {
    let bench = enrolled_bench().await;
    assert_eq!(bench.call(vec![fine()]).await.0, StatusCode::OK);
    let expired = r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32003,"message":"m","data":{"code":"machine.cert_expired","decision":"dec_1"}}}"#;
    let (status, body) = bench.call(vec![Mood::Unwell(403, expired), fine()]).await;
    assert_eq!((status, &body["result"]["ok"]), (StatusCode::OK, &json!(true)), "{body}");
    let seen = bench.seen();
    assert_ne!(seen[1].connection, seen[2].connection);
    assert_ne!(seen[1].certificate, seen[2].certificate);
    assert!(seen.iter().all(|seen| seen.machine));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_restarts_is_not_noticed_and_one_that_is_gone_is_an_answer() {
    let bench = bench().await;
    assert_eq!(bench.call(vec![fine()]).await.0, StatusCode::OK);
    bench.world.go_away().await;
    let (status, body) = bench.call(vec![]).await;
    assert_eq!(
        (status, &body["error"]["data"]["code"]),
        (StatusCode::OK, &json!("runner.gateway")),
        "{body}"
    );
    assert!(body["error"]["message"].as_str().unwrap().contains("check that it runs"), "{body}");
    assert_eq!(bench.seen().len(), 1, "nothing was sent");

    bench.world.come_back().await;
    assert_eq!(bench.call(vec![fine()]).await.0, StatusCode::OK);

    // Away when the call is made, back before the patience with it is over.
    bench.world.go_away().await;
    let (answer, ()) = tokio::join!(bench.proxy_call(), bench.world.come_back());
    assert_eq!(answer, StatusCode::OK);
}

#[tokio::test]
async fn an_approval_that_takes_too_long_is_given_back_to_the_agent() {
    let bench = bench_with(ProofKind::Channel, Duration::from_millis(300)).await;
    let (status, body) = bench.call(vec![Mood::Approval("apr_1"), Mood::Silence]).await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::OK, &json!(-32001)));
    assert_eq!(body["error"]["data"]["approval"]["id"], "apr_1");
    let message = body["error"]["message"].as_str().unwrap();
    assert!(message.contains("http://localhost:1/approvals/apr_1") && message.contains("dec_1"), "{message}");
}

#[tokio::test]
async fn a_call_whose_fate_is_unknown_is_not_sent_again() {
    let bench = bench().await;
    let (status, body) = bench.call(vec![Mood::Close, fine()]).await;
    assert_eq!((status, &body["error"]["data"]["code"]), (StatusCode::OK, &json!("runner.gateway")));
    assert_eq!(body["id"], 7, "the agent can tell which call it was");
    assert_eq!(bench.seen().len(), 1);
}

#[tokio::test]
async fn streams_pass_through_and_sessions_can_be_opened_and_ended() {
    let bench = bench().await;
    bench.world.shared.script.lock().push_back(Mood::Stream(vec![
        "data: 1\n\n",
        ": ping\n\n",
        "data: 2\n\n",
    ]));
    let answer = ask(bench.proxy.address(), bench.request().body(Full::from(CALL)).unwrap()).await;
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    assert_eq!(answer.body(), "data: 1\n\n: ping\n\ndata: 2\n\n");
    for method in ["GET", "DELETE"] {
        let request =
            bench.request().method(method).header("mcp-session-id", "s-1").header("last-event-id", "9");
        let answer = ask(bench.proxy.address(), request.body(Full::default()).unwrap()).await;
        assert_eq!(answer.status(), StatusCode::OK);
        let seen = bench.seen();
        let last = seen.last().unwrap();
        assert_eq!((last.method.as_str(), last.header("mcp-session-id")), (method, Some("s-1")));
    }
}

#[tokio::test]
async fn without_its_tpm_the_machine_cannot_renew_and_the_agent_is_told() {
    let mut bench = bench().await;
    assert_eq!(bench.call(vec![fine()]).await.0, StatusCode::OK);
    bench.world.simulated.power_off();
    bench.world.shared.clock.advance(400);
    let (status, body) = bench.call(vec![fine()]).await;
    assert_eq!((status, &body["error"]["data"]["code"]), (StatusCode::OK, &json!("runner.credentials")));
    assert_eq!(bench.seen().len(), 1);
}

#[tokio::test]
async fn the_proxy_ends_with_the_run() {
    let bench = bench().await;
    let address = bench.proxy.address();
    drop(bench.proxy);
    let mut step = tokio::time::interval(Duration::from_millis(5));
    while TcpStream::connect(address).await.is_ok() {
        step.tick().await;
    }
}
