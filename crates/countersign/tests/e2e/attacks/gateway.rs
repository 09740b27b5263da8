//! GWY and POP: one meaning for every message, and nothing upstream for the others.

use countersign_testkit::insider::tool_call;
use serde_json::json;

use super::Scene;
use crate::block_on;

#[test]
fn a_message_with_two_meanings_reaches_nobody() {
    let scene = Scene::new();
    // The control: with nothing wrong, it works.
    block_on(async {
        let watch = scene.watch();
        let good = tool_call(1, "notes.read", &json!({ "topic": "roadmap" })).to_string();
        let seen = watch.end(scene.post(good.as_bytes(), |_| {}).await).expect("seen");
        assert_eq!((seen.status, seen.code.as_str()), (200, ""), "{seen:?}");
        assert!(seen.upstream_bytes > 0 && seen.verdicts == 1, "{seen:?}");
    });
    let check = |name: &str, body: &[u8], status: u16| {
        block_on(async {
            let watch = scene.watch();
            let seen = watch.end(scene.post(body, |_| {}).await).expect("seen");
            assert_eq!(seen.status, status, "{name}: {seen:?}");
            assert_eq!((seen.upstream_bytes, seen.verdicts), (0, 1), "{name}: {seen:?}");
        });
    };
    let call = |arguments: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"notes.read","arguments":{arguments}}}}}"#
        )
    };
    // GWY-01
    check("two names", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"notes.read","name":"secrets.dump","arguments":{}}}"#, 400);
    check("an escaped twin", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"notes.read","\u006eame":"secrets.dump","arguments":{}}}"#, 400);
    check("a twin in other case", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"notes.read","Name":"secrets.dump","arguments":{}}}"#, 400);
    check("a twin deep inside", call(r#"{"topic":"roadmap","x":{"a":1,"a":2}}"#).as_bytes(), 400);
    check("two methods", br#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call","params":{"name":"notes.read","arguments":{}}}"#, 400);
    // GWY-02
    check("a batch", format!("[{}]", call("{}")).as_bytes(), 400);
    check("a byte-order mark", format!("\u{feff}{}", call("{}")).as_bytes(), 400);
    check("trailing bytes", format!("{} {{}}", call("{}")).as_bytes(), 400);
    check("not a number", call(r#"{"topic":NaN}"#).as_bytes(), 400);
    check("a lone surrogate", call(r#"{"topic":"\ud800"}"#).as_bytes(), 400);
    check("invalid UTF-8", b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\xff\"}", 400);
    check("a comment", call("{} /* hello */").as_bytes(), 400);
    check("too deep", call(&format!("{}{}", "[".repeat(200), "]".repeat(200))).as_bytes(), 400);
    // POL-17
    check("an integer nobody can hold", call(r#"{"topic":9007199254740993}"#).as_bytes(), 400);
    check("a number too large", call(r#"{"topic":1e400}"#).as_bytes(), 400);
    // GWY-33, GWY-38
    // The older protocol says it in the body, with 200.
    check("an unknown method", br#"{"jsonrpc":"2.0","id":1,"method":"tools/destroy","params":{}}"#, 200);
    check(
        "a call without an id",
        br#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"notes.read","arguments":{}}}"#,
        400,
    );
    check("a response", br#"{"jsonrpc":"2.0","id":1,"result":{}}"#, 400);
    // GWY-14
    check(
        "larger than is read",
        call(&format!(r#"{{"topic":"{}"}}"#, "x".repeat(2 * 1024 * 1024))).as_bytes(),
        413,
    );
}

#[test]
fn headers_cannot_say_what_the_body_does_not() {
    let scene = Scene::new();
    let body = tool_call(1, "notes.read", &json!({ "topic": "roadmap" })).to_string();
    let check = |name: &str, headers: &[(&str, &str)], without: &[&str], status: u16| {
        block_on(async {
            let watch = scene.watch();
            let answer = scene
                .post(body.as_bytes(), |sent| {
                    sent.retain(|(name, _)| !without.contains(&name.as_str()));
                    sent.extend(
                        headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
                    );
                })
                .await;
            let seen = watch.end(answer).expect("seen");
            assert_eq!(seen.status, status, "{name}: {seen:?}");
            assert_eq!((seen.upstream_bytes, seen.verdicts), (0, 1), "{name}: {seen:?}");
        });
    };
    // POP-01, identity §5 18
    let bearer = format!("Bearer {}", scene.token);
    check("the token as a bearer token", &[("authorization", &bearer)], &["authorization"], 401);
    check("no token", &[], &["authorization"], 401);
    check("two tokens", &[("authorization", "DPoP x")], &[], 400);
    check("two proofs", &[("dpop", "x")], &[], 400);
    // GWY-15
    check("a compressed body", &[("content-encoding", "gzip")], &[], 415);
    // GWY-05
    check(
        "an unknown protocol version",
        &[("mcp-protocol-version", "2024-01-01")],
        &["mcp-protocol-version"],
        400,
    );
    check(
        "a newer version without its headers",
        &[("mcp-protocol-version", "2026-07-28")],
        &["mcp-protocol-version"],
        400,
    );
    // GWY-07
    check("a web page", &[("origin", "https://evil.example")], &[], 403);
}

#[test]
fn identity_headers_and_client_credentials_stay_outside() {
    let scene = Scene::new();
    let body = tool_call(1, "notes.read", &json!({ "topic": "roadmap" })).to_string();
    block_on(async {
        let answer = scene
            .post(body.as_bytes(), |sent| {
                for name in [
                    "x-forwarded-user",
                    "x-forwarded-client-cert",
                    "x-http-method-override",
                    "cookie",
                    "forwarded",
                ] {
                    sent.push((name.to_owned(), "attacker".to_owned()));
                }
            })
            .await;
        // Stripped (GWY-11, GWY-18), or the whole request refused: both keep them outside.
        let stats = scene.stage.world.upstream_stats().expect("counters");
        let names: Vec<&str> =
            stats["header_names"].as_array().into_iter().flatten().filter_map(|name| name.as_str()).collect();
        for name in [
            "x-forwarded-user",
            "x-forwarded-client-cert",
            "x-http-method-override",
            "cookie",
            "forwarded",
            "dpop",
        ] {
            assert!(!names.contains(&name), "{name} reached the tool server ({})", answer.status);
        }
        assert!(names.contains(&"authorization"), "the gateway's own credential is there");
        assert_eq!(stats["unauthorized"], 0, "and it is the only one that ever arrived");
    });
}

#[test]
fn a_session_belongs_to_its_run() {
    let scene = Scene::new();
    block_on(async {
        let other = scene.insider.another_run().expect("another run");
        let token = other.token(&scene.task).await.expect("its token");
        let body = tool_call(1, "notes.read", &json!({ "topic": "roadmap" }));
        let proof = other.proof_for("POST", &other.url(), Some(&token)).expect("a proof");
        let authorization = format!("DPoP {token}");
        let headers = [
            ("authorization", authorization.as_str()),
            ("dpop", proof.as_str()),
            ("mcp-session-id", scene.session.as_str()),
            ("mcp-protocol-version", countersign_testkit::insider::PROTOCOL),
        ];
        let watch = scene.watch();
        let seen = watch
            .end(other.caller.call(&other.url(), &headers, &body).await.expect("an answer"))
            .expect("seen");
        assert_eq!((seen.status, seen.upstream_bytes), (404, 0), "{seen:?}");
    });
}

#[test]
fn a_channel_proof_is_worth_nothing_on_another_connection() {
    let scene = Scene::new();
    block_on(async {
        let insider = &scene.insider;
        let hello = countersign_testkit::insider::initialize();
        let (answer, proof) = insider
            .caller
            .call_on_channel(&insider.url(), &scene.token, &insider.key, None, None, &hello)
            .await
            .expect("an answer");
        assert_eq!(answer.status, 200, "the control: {}", answer.json());
        let watch = scene.watch();
        let (answer, _) = insider
            .caller
            .call_on_channel(&insider.url(), &scene.token, &insider.key, Some(&proof), None, &hello)
            .await
            .expect("an answer");
        let seen = watch.end(answer).expect("seen");
        assert_eq!((seen.status, seen.upstream_bytes, seen.verdicts), (401, 0, 1), "{seen:?}");
        assert_eq!(seen.code, "pop.invalid", "{seen:?}");
    });
}
