//! What a refusal looks like on the wire: one exhaustive mapping from a code to a status, a JSON-RPC error and
//! a challenge (RFC 6750 §3, RFC 9449 §7.1, RFC 9470 §3, RFC 9728 §5.1).
//!
//! Nothing here decides, and nothing says more than the code's fixed sentence.

use bytes::Bytes;
use countersign_policy::{Challenge, Code, Denial, Needs};
use countersign_proto::id::DecisionId;
use countersign_proto::json::{Object, Value};
use countersign_proto::mcp::{Era, Id, ProtocolVersion, RpcError, error_body};
use countersign_proto::oauth;
use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};

use crate::body::Body;
use crate::control::ApprovalHandle;

const APPROVAL_REQUIRED: i64 = -32001;
const DENIED: i64 = -32003;
const UPSTREAM_FAILED: i64 = -32004;
const UNAVAILABLE: i64 = -32005;
const HEADER_MISMATCH: i64 = -32020;
const INVALID_REQUEST: i64 = -32600;
const METHOD_NOT_FOUND: i64 = -32601;

/// Why the walk ends before a decision. Becomes a record first and an answer second.
#[derive(Debug)]
pub(crate) struct Stop {
    pub(crate) code: Code,
    /// For the record only.
    pub(crate) detail: String,
    pub(crate) alarm: Option<&'static str>,
    shape: Shape,
}

#[derive(Debug)]
enum Shape {
    /// As the code says.
    Plain,
    /// Before the body was read: the connection ends with the answer.
    Unread(StatusCode),
    /// The message itself is at fault.
    Rpc(RpcError),
    /// No such session (legacy).
    NoSession,
}

impl Stop {
    pub(crate) fn because(code: Code, detail: impl std::fmt::Display) -> Self {
        Self { code, detail: detail.to_string(), alarm: None, shape: Shape::Plain }
    }

    /// Stops before the body was read.
    pub(crate) fn head(code: Code, detail: &'static str) -> Self {
        let status = plain(code).0;
        Self { code, detail: detail.to_owned(), alarm: None, shape: Shape::Unread(status) }
    }

    pub(crate) fn no_such_route() -> Self {
        Self::unread(StatusCode::NOT_FOUND, "no such route")
    }

    pub(crate) fn method_not_allowed() -> Self {
        Self::unread(StatusCode::METHOD_NOT_ALLOWED, "no such method on this route")
    }

    fn unread(status: StatusCode, detail: &'static str) -> Self {
        Self { code: Code::RpcMethod, detail: detail.to_owned(), alarm: None, shape: Shape::Unread(status) }
    }

    pub(crate) fn no_session() -> Self {
        let detail = "no such session, or another run's".to_owned();
        Self { code: Code::HttpHeader, detail, alarm: None, shape: Shape::NoSession }
    }

    pub(crate) fn rpc(error: RpcError) -> Self {
        let code = match error.code() {
            METHOD_NOT_FOUND => Code::RpcMethod,
            HEADER_MISMATCH => Code::HttpHeader,
            _ => Code::RpcMalformed,
        };
        Self { code, detail: error.message().to_owned(), alarm: None, shape: Shape::Rpc(error) }
    }

    pub(crate) fn alarming(mut self, what: &'static str) -> Self {
        self.alarm = Some(what);
        self
    }

    #[cfg(test)]
    pub(crate) fn status(&self) -> StatusCode {
        match &self.shape {
            Shape::Plain => plain(self.code).0,
            Shape::Unread(status) => *status,
            Shape::Rpc(_) => StatusCode::BAD_REQUEST,
            Shape::NoSession => StatusCode::NOT_FOUND,
        }
    }
}

/// What is known about the request for the answer's own sake.
pub(crate) struct Asked<'a> {
    pub(crate) id: Option<&'a Id>,
    pub(crate) era: Era,
    /// RFC 9728 §5.1, where the upstream is known.
    pub(crate) metadata_url: Option<&'a str>,
    /// Revisions the upstream speaks, for `-32022`.
    pub(crate) spoken: &'a [ProtocolVersion],
}

/// The answer to a request that was stopped and whose refusal is recorded.
pub(crate) fn stopped(stop: Stop, denial: &Denial, asked: &Asked<'_>) -> Response<Body> {
    let (status, rpc_code, www_error) = plain(denial.code);
    match stop.shape {
        Shape::Plain => denied(denial, asked),
        Shape::Unread(status) => {
            let mut response = answer(status, refusal_body(asked.id, rpc_code, denial));
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            if status == StatusCode::METHOD_NOT_ALLOWED {
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
            }
            response
        }
        Shape::Rpc(error) if denial.code == stop.code => {
            let status =
                StatusCode::from_u16(error.http_status(asked.era)).unwrap_or(StatusCode::BAD_REQUEST);
            let mut data = refusal_data(denial);
            if error.code() == -32022 {
                let spoken =
                    asked.spoken.iter().map(|version| Value::from(version.as_str())).collect::<Vec<_>>();
                insert(&mut data, "supported", spoken);
            }
            let id = error.id().or(asked.id);
            answer(status, error_body(id, error.code(), error.message(), Some(Value::Object(data))))
        }
        Shape::NoSession => answer(StatusCode::NOT_FOUND, refusal_body(asked.id, rpc_code, denial)),
        // The refusal could not be recorded as it was: what was recorded counts.
        Shape::Rpc(_) => challenge(status, www_error, asked, refusal_body(asked.id, rpc_code, denial)),
    }
}

/// The answer to a denial.
pub(crate) fn denied(denial: &Denial, asked: &Asked<'_>) -> Response<Body> {
    let (status, rpc_code, www_error) = plain(denial.code);
    let mut response = challenge(status, www_error, asked, refusal_body(asked.id, rpc_code, denial));
    if denial.code == Code::MachineCertExpired {
        // A connection cannot show a newer certificate; the next one can.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The answer to a challenge that the caller's own machine or a new token can meet (RFC 9470 §3).
pub(crate) fn step_up(needed: &Challenge, asked: &Asked<'_>) -> Response<Body> {
    let (acr, max_age) = match &needed.needs {
        Needs::FreshAttestation { max_age_secs, acr } => {
            (Some(acr.to_string()), Some(max_age_secs.to_string()))
        }
        Needs::Acr(acr) => (Some(acr.to_string()), None),
        Needs::Approval => (None, None),
    };
    let mut header = scheme(asked)
        .with("error", "insufficient_user_authentication")
        .with("error_description", "stronger or fresher evidence is required for this call");
    if let Some(acr) = &acr {
        header = header.with("acr_values", acr);
    }
    if let Some(max_age) = &max_age {
        header = header.with("max_age", max_age);
    }
    let mut data = decision_data("insufficient_user_authentication", &needed.decision_id);
    insert(&mut data, "needs", needed.needs.to_string());
    let body =
        error_body(asked.id, DENIED, "stronger or fresher evidence is required", Some(Value::Object(data)));
    with_challenge(answer(StatusCode::UNAUTHORIZED, body), &header)
}

/// The answer to a challenge that only a person can meet. Without a handle the question could not be asked.
pub(crate) fn approval_required(
    needed: &Challenge,
    handle: Option<&ApprovalHandle>,
    asked: &Asked<'_>,
) -> Response<Body> {
    let mut data = decision_data("approval.required", &needed.decision_id);
    if let Some(handle) = handle {
        let mut approval = Object::new();
        insert(&mut approval, "id", handle.id.as_str());
        insert(&mut approval, "url", handle.url.as_str());
        insert(&mut approval, "expires_at", Value::int(handle.expires_at.unix_secs()).unwrap_or(Value::Null));
        insert(&mut data, "approval", approval);
    }
    let body =
        error_body(asked.id, APPROVAL_REQUIRED, "a person must approve this call", Some(Value::Object(data)));
    answer(if handle.is_some() { StatusCode::FORBIDDEN } else { StatusCode::SERVICE_UNAVAILABLE }, body)
}

/// The answer when nothing can be recorded: no action, and no details.
pub(crate) fn unrecorded(asked: &Asked<'_>) -> Response<Body> {
    let mut data = Object::new();
    insert(&mut data, "code", Code::AuditUnavailable.as_str());
    insert(&mut data, "reason", Code::AuditUnavailable.reason());
    let body = error_body(asked.id, UNAVAILABLE, Code::AuditUnavailable.reason(), Some(Value::Object(data)));
    answer(StatusCode::SERVICE_UNAVAILABLE, body)
}

/// The answer when a permitted message did not get a usable answer upstream. Its record is the outcome.
pub(crate) fn upstream_failed(decision: Option<&DecisionId>, asked: &Asked<'_>) -> Response<Body> {
    let mut data = Object::new();
    insert(&mut data, "code", Code::UpstreamFailed.as_str());
    insert(&mut data, "reason", Code::UpstreamFailed.reason());
    if let Some(decision) = decision {
        insert(&mut data, "decision", decision.as_str());
    }
    let body =
        error_body(asked.id, UPSTREAM_FAILED, Code::UpstreamFailed.reason(), Some(Value::Object(data)));
    answer(StatusCode::BAD_GATEWAY, body)
}

/// Status, JSON-RPC code and `WWW-Authenticate` error of each code. `Some("")` asks for a token without
/// naming an error (RFC 6750 §3.1).
const fn plain(code: Code) -> (StatusCode, i64, Option<&'static str>) {
    match code {
        Code::TokenMissing => (StatusCode::UNAUTHORIZED, DENIED, Some("")),
        Code::TokenInvalid
        | Code::TokenExpired
        | Code::TokenAudience
        | Code::PopNoMachine
        | Code::PopKeyNotAttested
        | Code::BindAgentKey
        | Code::BindMachineKey
        // What ended for good also ends its tokens (RFC 6750 §3.1: expired, revoked, malformed or otherwise invalid).
        | Code::AgentKilled
        | Code::RunRevoked
        | Code::TaskRevoked
        | Code::MachineRevoked
        // A new token needs a new attestation, which settles it.
        | Code::MachineReattest => (StatusCode::UNAUTHORIZED, DENIED, Some("invalid_token")),
        Code::PopMissing | Code::PopInvalid | Code::PopReplayed => {
            (StatusCode::UNAUTHORIZED, DENIED, Some("invalid_dpop_proof"))
        }
        Code::MachineUnknown
        | Code::MachineLocked
        | Code::MachineCertExpired
        | Code::AgentUnknown
        | Code::AgentSuspended
        | Code::TaskTool
        | Code::TaskArgs
        | Code::TaskExpired
        | Code::TaskBudget
        | Code::PolicyDenied
        | Code::PolicyError
        | Code::ToolUnknown
        | Code::ToolChanged
        | Code::ToolArguments
        | Code::ApprovalDigest
        | Code::ApprovalSpent
        | Code::ApprovalExpired
        | Code::ApprovalRefused
        | Code::ApprovalInvalid => (StatusCode::FORBIDDEN, DENIED, None),
        Code::SnapshotStale | Code::AuditUnavailable => (StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE, None),
        Code::RpcMalformed => (StatusCode::BAD_REQUEST, INVALID_REQUEST, None),
        Code::RpcMethod => (StatusCode::NOT_FOUND, METHOD_NOT_FOUND, None),
        Code::HttpHost | Code::HttpOrigin => (StatusCode::FORBIDDEN, DENIED, None),
        Code::HttpContentType | Code::HttpEncoding => {
            (StatusCode::UNSUPPORTED_MEDIA_TYPE, INVALID_REQUEST, None)
        }
        Code::HttpTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, INVALID_REQUEST, None),
        Code::HttpHeader => (StatusCode::BAD_REQUEST, HEADER_MISMATCH, None),
        Code::UpstreamFailed => (StatusCode::BAD_GATEWAY, UPSTREAM_FAILED, None),
    }
}

fn challenge(status: StatusCode, error: Option<&str>, asked: &Asked<'_>, body: Vec<u8>) -> Response<Body> {
    let response = answer(status, body);
    match error {
        None => response,
        Some("") => with_challenge(response, &scheme(asked)),
        Some(error) => with_challenge(response, &scheme(asked).with("error", error)),
    }
}

fn scheme(asked: &Asked<'_>) -> oauth::Challenge {
    let scheme = oauth::Challenge::new("DPoP").with("algs", "ES256 EdDSA");
    match asked.metadata_url {
        Some(url) => scheme.with("resource_metadata", url),
        None => scheme,
    }
}

fn with_challenge(mut response: Response<Body>, header: &oauth::Challenge) -> Response<Body> {
    if let Ok(value) = HeaderValue::from_str(&header.to_header()) {
        response.headers_mut().insert(WWW_AUTHENTICATE, value);
    }
    response
}

fn refusal_body(id: Option<&Id>, rpc_code: i64, denial: &Denial) -> Vec<u8> {
    error_body(id, rpc_code, denial.reason, Some(Value::Object(refusal_data(denial))))
}

fn refusal_data(denial: &Denial) -> Object {
    let mut data = decision_data(denial.code.as_str(), &denial.decision_id);
    insert(&mut data, "reason", denial.reason);
    data
}

fn decision_data(code: &str, decision: &DecisionId) -> Object {
    let mut data = Object::new();
    insert(&mut data, "code", code);
    insert(&mut data, "decision", decision.as_str());
    data
}

fn insert(object: &mut Object, name: &'static str, value: impl Into<Value>) {
    let inserted = object.insert(name, value);
    debug_assert!(inserted.is_ok(), "each member is given once");
}

/// A JSON answer that nobody may keep.
pub(crate) fn answer(status: StatusCode, body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::full(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
