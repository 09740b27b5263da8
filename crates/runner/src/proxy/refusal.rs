//! A no, as an agent can use it: a JSON-RPC error that answers the agent's own request and says in words what to do.
//!
//! The gateway answers with HTTP statuses, as OAuth wants it; MCP clients report those as a broken transport and show their
//! model nothing. On this side of the proxy a refused request is an answered request. The gateway's code and data stay as
//! they are; nothing is refused or decided here.

use bytes::Bytes;
use countersign_proto::id::ApprovalId;
use countersign_proto::json::{Limits, parse_object};
use http::{Response, StatusCode};
use serde_json::Value;

use super::{AgentBody, reply};
use crate::control_plane::printable;

/// JSON-RPC code of "a person must be asked".
const APPROVAL_REQUIRED: i64 = -32001;
/// JSON-RPC code of "no".
const DENIED: i64 = -32003;
/// JSON-RPC code of "allowed, but the tool server did not answer".
const UPSTREAM_FAILED: i64 = -32004;
/// JSON-RPC code of "not now".
const UNAVAILABLE: i64 = -32005;

/// A refusal of the gateway: its status and its bytes.
pub struct Refused {
    pub status: StatusCode,
    pub body: Bytes,
}

/// A person who was asked.
pub struct Asked {
    pub id: String,
    pub url: String,
}

impl Refused {
    /// Who is being asked, if this is the gateway's "a person must approve".
    pub fn asked(&self) -> Option<Asked> {
        let error = self.error()?;
        if error["code"].as_i64() != Some(APPROVAL_REQUIRED) || self.status != StatusCode::FORBIDDEN {
            return None;
        }
        let approval = &error["data"]["approval"];
        let id = ApprovalId::parse(approval["id"].as_str()?).ok()?;
        let url = approval["url"].as_str().filter(|url| is_web_url(url)).unwrap_or_default();
        Some(Asked { id: id.as_str().to_owned(), url: url.to_owned() })
    }

    /// Whether the gateway wants to see a newer machine certificate, which only another connection can show.
    pub fn wants_new_certificate(&self) -> bool {
        self.status == StatusCode::FORBIDDEN
            && self.error().is_some_and(|error| error["data"]["code"] == "machine.cert_expired")
    }

    /// The answer for the agent. Never a 401: the agent has nothing to authenticate with, and would only begin to ask
    /// its person for a login.
    pub fn into_response(self, request: &Bytes) -> Response<AgentBody> {
        let status =
            if self.status == StatusCode::UNAUTHORIZED { StatusCode::FORBIDDEN } else { self.status };
        let Some(mut error) = self.error() else {
            return match status {
                StatusCode::FORBIDDEN => {
                    let reason = "the gateway does not accept what this machine and this run can prove";
                    reply::error(status, request, "runner.refused", reason)
                }
                _ => {
                    let reason =
                        format!("the gateway is not available (status {}); try again later", status.as_u16());
                    reply::error(status, request, "runner.gateway", &reason)
                }
            };
        };
        error["message"] = words(&error).into();
        reply::rpc_error(status, request, error)
    }

    /// The `error` member, if the body is a JSON-RPC error.
    fn error(&self) -> Option<Value> {
        // The strict parser first: what has a second reading is no answer.
        parse_object(&self.body, &Limits::DEFAULT).ok()?;
        let mut body: Value = serde_json::from_slice(&self.body).ok()?;
        let error = body.get_mut("error")?.take();
        (error.is_object() && error["code"].is_i64()).then_some(error)
    }
}

/// The gateway's reason, its name for the decision, and what an agent can do about it. MCP clients show a model the
/// message of an error and not its data.
fn words(error: &Value) -> String {
    let data = &error["data"];
    let text = |value: &Value| value.as_str().map(printable).filter(|text| !text.is_empty());
    let reason =
        text(&data["reason"]).or_else(|| text(&error["message"])).unwrap_or_else(|| "refused".to_owned());
    let Some(decision) = text(&data["decision"]) else { return reason };
    let code = text(&data["code"]).unwrap_or_default();
    let advice = match error["code"].as_i64() {
        Some(APPROVAL_REQUIRED) => match data["approval"]["url"].as_str().filter(|url| is_web_url(url)) {
            Some(url) => format!("nobody has answered yet; they can at {url}, then make the same call again"),
            None => "make the same call again later".to_owned(),
        },
        Some(DENIED) => denied_advice(&code).to_owned(),
        Some(UPSTREAM_FAILED) => {
            "the call was allowed, but whether it took effect is unknown; check before repeating it"
                .to_owned()
        }
        Some(UNAVAILABLE) => "nothing was done; try again in a few seconds".to_owned(),
        Some(_) | None => return format!("{reason} (decision {decision})"),
    };
    format!("{reason}; {advice} ({code}, decision {decision})")
}

fn denied_advice(code: &str) -> &'static str {
    match code {
        "task.args" | "tool.arguments" => "the same tool with other arguments may be allowed",
        "task.tool" | "tool.unknown" | "tool.changed" | "policy.denied" => {
            "trying again will not help; go on without this call or ask the person you work for"
        }
        "task.budget" | "task.expired" | "task.revoked" => {
            "no further call will be allowed; ask the person you work for to grant a new task"
        }
        "approval.expired" | "approval.spent" | "approval.digest" | "approval.invalid" => {
            "make the call again to ask anew"
        }
        "approval.refused" => "do not make this call again",
        _ => "trying again will not help; tell the person you work for",
    }
}

/// A URL that is safe to show and to click on: http or https, visible ASCII only.
fn is_web_url(url: &str) -> bool {
    let (https, http) = (url.starts_with("https://"), url.starts_with("http://"));
    (https || http) && url.len() <= 2048 && url.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests;
