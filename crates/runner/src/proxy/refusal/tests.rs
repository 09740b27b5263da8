//! What `refusal` lets through and what it refuses.

use http_body_util::BodyExt as _;
use serde_json::json;

use super::*;

const CALL: &str = r#"{"jsonrpc":"2.0","id":"c-1","method":"tools/call","params":{"name":"echo"}}"#;
const NOTIFICATION: &str = r#"{"jsonrpc":"2.0","method":"notifications/cancelled"}"#;
const RESPONSE: &str = r#"{"jsonrpc":"2.0","id":"c-1","result":{}}"#;

fn body(code: i64, data: Value) -> String {
    json!({ "jsonrpc": "2.0", "id": null, "error": { "code": code, "message": "outer", "data": data } })
        .to_string()
}

async fn answered(status: u16, body: &str, request: &'static str) -> (u16, Value) {
    let refused = Refused {
        status: StatusCode::from_u16(status).unwrap(),
        body: Bytes::copy_from_slice(body.as_bytes()),
    };
    let response = refused.into_response(&Bytes::from_static(request.as_bytes()));
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap())
}

#[tokio::test]
async fn an_agent_reads_what_was_decided_and_what_it_can_do() {
    let check = async |code: i64, data: Value, expected: &str| {
        let (status, answer) = answered(403, &body(code, data.clone()), CALL).await;
        assert_eq!((status, &answer["id"]), (200, &json!("c-1")));
        assert_eq!(answer["error"]["message"], expected);
        assert_eq!((&answer["error"]["code"], &answer["error"]["data"]), (&json!(code), &data), "unchanged");
    };
    let data = |code: &str, reason: &str| json!({ "code": code, "reason": reason, "decision": "dec_1" });
    check(
        -32003,
        data("task.args", "the task does not allow these arguments"),
        "the task does not allow these arguments; the same tool with other arguments may be allowed (task.args, decision dec_1)",
    )
    .await;
    check(
        -32003,
        data("agent.killed", "the agent was stopped"),
        "the agent was stopped; trying again will not help; tell the person you work for (agent.killed, decision dec_1)",
    )
    .await;
    check(
        -32005,
        data("snapshot.stale", "the gateway has no current state"),
        "the gateway has no current state; nothing was done; try again in a few seconds (snapshot.stale, decision dec_1)",
    )
    .await;
    check(
        -32004,
        data("upstream.failed", "the upstream could not be reached"),
        "the upstream could not be reached; the call was allowed, but whether it took effect is unknown; check before repeating it (upstream.failed, decision dec_1)",
    )
    .await;
    check(
        -32001,
        json!({ "code": "approval.required", "decision": "dec_1", "approval": { "id": "apr_1", "url": "https://c.example/a" } }),
        "outer; nobody has answered yet; they can at https://c.example/a, then make the same call again (approval.required, decision dec_1)",
    )
    .await;
    check(
        -32001,
        json!({ "code": "approval.required", "decision": "dec_1", "approval": { "id": "apr_1", "url": "javascript:x" } }),
        "outer; make the same call again later (approval.required, decision dec_1)",
    )
    .await;
    check(-32603, json!({ "decision": "dec_1" }), "outer (decision dec_1)").await;
    check(-32603, json!({ "reason": "a\u{1b}[2Jb" }), "a[2Jb").await;
}

#[tokio::test]
async fn who_waits_for_an_answer_gets_one_and_others_get_a_status() {
    let denied = body(-32003, json!({ "code": "policy.denied", "decision": "dec_1" }));
    let check = async |status: u16, body: &str, request: &'static str, expected: u16, code: &str| {
        let (got, answer) = answered(status, body, request).await;
        assert_eq!(
            (got, answer["error"]["data"]["code"].as_str()),
            (expected, Some(code)),
            "{status} {request}"
        );
        assert_eq!(answer["id"].is_null(), expected != 200, "{answer}");
    };
    check(403, &denied, CALL, 200, "policy.denied").await;
    check(401, &denied, CALL, 200, "policy.denied").await;
    check(503, &denied, CALL, 200, "policy.denied").await;
    check(403, &denied, NOTIFICATION, 403, "policy.denied").await;
    check(403, &denied, RESPONSE, 403, "policy.denied").await;
    check(401, &denied, "", 403, "policy.denied").await;
    check(401, "no", CALL, 200, "runner.refused").await;
    check(403, r#"{"error":"text"}"#, CALL, 200, "runner.refused").await;
    check(403, r#"{"error":{"code":-32003},"error":{"code":1}}"#, CALL, 200, "runner.refused").await;
    check(502, "<html>", CALL, 200, "runner.gateway").await;
    check(503, "<html>", "", 503, "runner.gateway").await;
}
