//! Answers that the proxy writes itself: JSON-RPC errors that echo the request's id.
//!
//! Whoever made a request gets an answer to it, with status 200; an HTTP status is for those who made none.

use bytes::Bytes;
use countersign_proto::json::{Limits, Value, parse_object};
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};

use super::AgentBody;

/// JSON-RPC code of everything that happens on this side of the gateway.
const RUNNER_ERROR: i32 = -32000;

/// An error of our own. `request` is the body it answers, as far as there is one.
pub fn error(status: StatusCode, request: &Bytes, code: &str, reason: &str) -> Response<AgentBody> {
    let data = serde_json::json!({ "code": code, "reason": reason });
    let error = serde_json::json!({ "code": RUNNER_ERROR, "message": reason, "data": data });
    rpc_error(status, request, error)
}

/// A JSON-RPC error as the answer to `request`; with `status` if that is no request that waits for one.
pub fn rpc_error(status: StatusCode, request: &Bytes, error: serde_json::Value) -> Response<AgentBody> {
    let id = request_id(request);
    let status = if id.is_some() { StatusCode::OK } else { status };
    let body = serde_json::json!({ "jsonrpc": "2.0", "id": id, "error": error });
    let mut response =
        Response::new(Full::new(Bytes::from(body.to_string())).map_err(|never| match never {}).boxed());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    response
}

/// The id under which a JSON-RPC request waits for its answer; notifications and responses do not wait.
fn request_id(request: &Bytes) -> Option<serde_json::Value> {
    let mut object = parse_object(request, &Limits::DEFAULT).ok()?;
    object.get("method")?;
    match object.remove("id")? {
        id @ (Value::Int(_) | Value::Text(_)) => serde_json::from_slice(&id.to_jcs()).ok(),
        _ => None,
    }
}
