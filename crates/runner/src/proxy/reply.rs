//! Answers that the proxy makes up itself, in the gateway's form: a JSON-RPC error that echoes the request's id.

use bytes::Bytes;
use countersign_proto::json::{Limits, Value, parse_object};
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};

use super::AgentBody;

/// JSON-RPC code of everything that happens on this side of the gateway.
const RUNNER_ERROR: i32 = -32000;

/// An error of our own. `request` is the body it answers, as far as there is one.
pub fn error(status: StatusCode, request: &Bytes, code: &str, reason: &str) -> Response<AgentBody> {
    let id = request_id(request);
    let id = serde_json::from_slice::<serde_json::Value>(&id.to_jcs()).unwrap_or(serde_json::Value::Null);
    let body = serde_json::json!({
        "jsonrpc": "2.0",
        "id": id,
        "error": { "code": RUNNER_ERROR, "message": reason, "data": { "code": code, "reason": reason } },
    });
    whole(status, Bytes::from(body.to_string()))
}

/// A complete JSON answer.
pub fn whole(status: StatusCode, body: Bytes) -> Response<AgentBody> {
    let mut response = Response::new(Full::new(body).map_err(|never| match never {}).boxed());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    response
}

fn request_id(request: &Bytes) -> Value {
    let id = parse_object(request, &Limits::DEFAULT).ok().and_then(|mut object| object.remove("id"));
    match id {
        Some(id @ (Value::Int(_) | Value::Text(_))) => id,
        _ => Value::Null,
    }
}
