//! Acting: sending exactly what was let through, and passing the answer on.
//!
//! The message is written from the parsed value; the caller's bytes and headers end at the parser. Answers are
//! passed on unread, except the few that say what there is (`initialize`, `server/discover`, `tools/list`):
//! those are cut down to what this caller may use.

use std::borrow::Cow;

use bytes::Bytes;
use countersign_policy::{Code, Countersigned, Denial};
use countersign_proto::call::Call;
use countersign_proto::id::DecisionId;
use countersign_proto::json::{Object, Value};
use countersign_proto::mcp::{Era, McpRequest, Method, ProtocolVersion, error_body, result_body};
use futures_util::future::BoxFuture;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use hyper::body::Body as _;

use super::{Passage, Trail, Turn};
use crate::body::Body;
use crate::front::Route;
use crate::gate::Side;
use crate::outcome::{Ending, OutcomeOnDrop};
use crate::refusal::{self, Stop};
use crate::session::Owner;
use crate::sse::{self, Answer};
use crate::standing::{Bearer, Standing};
use crate::tools;
use crate::upstream::{Inbound, Outbound, SESSION, UpstreamError, is_event_stream};

const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// A legacy session as both ends call it.
pub(super) struct Session {
    ours: String,
    upstreams: HeaderValue,
}

/// What is sent, for whom, and where the answer's outcome is told.
pub(super) struct Forward<'w> {
    pub(super) side: &'w Side,
    pub(super) standing: &'w Standing,
    pub(super) who: &'w Countersigned,
    pub(super) bearer: Bearer,
    pub(super) session: Option<Session>,
}

impl Trail<'_> {
    /// The caller's session, if it names one: its own run's, or none that exists. The modern era has none.
    pub(super) fn session(&self, named: Option<&str>, bearer: &Bearer) -> Result<Option<Session>, Stop> {
        let (Some(named), Era::Legacy, Some(side)) = (named, self.era, self.side) else { return Ok(None) };
        let owner = owner(bearer, side);
        let upstreams =
            self.gate.sessions.resolve(named, &owner, self.gate.now()).ok_or_else(Stop::no_session)?;
        Ok(Some(Session { ours: named.to_owned(), upstreams }))
    }

    /// Sends what was let through. Consumes the passage: one permit, one call.
    pub(super) async fn forward(
        &self,
        forward: Forward<'_>,
        route: Route,
        message: Option<McpRequest>,
        passage: Passage,
    ) -> Result<Response<Body>, Turn> {
        let (decision_id, call, mut outcome) = match passage {
            Passage::Call(permit, call) => {
                // INVARIANT: what is sent is what was permitted; both come from the one parse.
                if !permit.covers(&call) {
                    return Err(Stop::because(Code::PolicyError, "the permit is for another call").into());
                }
                let outcome = OutcomeOnDrop::of(
                    self.gate.outcomes(),
                    permit.decision_id().clone(),
                    forward.side.upstream.id.clone(),
                );
                (permit.decision_id().clone(), Some(call), outcome)
            }
            Passage::Access(admitted) => (admitted.decision_id, None, OutcomeOnDrop::untold()),
        };
        let outbound = match &message {
            Some(message) => match self.outbound(message, call.as_deref(), &forward) {
                Some(outbound) => outbound,
                None => return Ok(accepted()),
            },
            None => Outbound {
                method: if matches!(route, Route::EndSession(_)) {
                    http::Method::DELETE
                } else {
                    http::Method::GET
                },
                body: Bytes::new(),
                mirrored: vec![version_line(ProtocolVersion::V2025_11_25)],
                session: forward.session.as_ref().map(|session| session.upstreams.clone()),
                decision: None,
            },
        };
        if let Route::EndSession(_) = route {
            self.close(&forward);
        }
        let outbound = Outbound { decision: Some(decision_id.to_string()), ..outbound };

        let started = tokio::time::Instant::now();
        // A session's own stream lasts no longer than the token that opened it; a call's answer may.
        let mut ended = self.gate.ended(forward.bearer.clone(), message.is_none());
        let sent = tokio::select! {
            sent = forward.side.upstream.send(outbound) => sent,
            () = &mut ended => return Ok(self.ended(&forward.bearer, decision_id, outcome)),
        };
        metrics::histogram!("cs_upstream_seconds").record(started.elapsed().as_secs_f64());
        let inbound = match sent {
            Ok(inbound) => inbound,
            Err(error) => return Ok(self.failed(&error, &mut outcome)),
        };
        outcome.status(inbound.response.status().as_u16());
        if inbound.response.status() == StatusCode::NOT_FOUND && forward.session.is_some() {
            self.close(&forward);
        }
        Ok(match message.as_ref().map(McpRequest::method) {
            Some(Method::Initialize | Method::Discover | Method::ToolsList)
                if inbound.response.status().is_success() =>
            {
                self.cut_down(forward, message, inbound).await
            }
            Some(
                Method::Initialize
                | Method::Discover
                | Method::ToolsList
                | Method::ToolsCall
                | Method::Ping
                | Method::Initialized
                | Method::Cancelled,
            ) => self.pass_on(message.as_ref(), inbound, outcome, ended),
            None => self.pass_on(None, inbound, outcome, ended),
        })
    }

    /// The message for the upstream; `None` where it ends here.
    fn outbound(&self, message: &McpRequest, call: Option<&Call>, forward: &Forward<'_>) -> Option<Outbound> {
        let session = forward.session.as_ref().map(|session| session.upstreams.clone());
        let spoken = match (message.method(), message.era()) {
            // Without a session of its own, a caller could cancel a request of somebody else's.
            (Method::Cancelled | Method::Initialized, Era::Legacy) if session.is_none() => return None,
            // The stateless era has no notifications from the client: closing the stream cancels.
            (Method::Cancelled | Method::Initialized, Era::Modern) => return None,
            (Method::Initialize, Era::Legacy) => Cow::Owned(in_our_name(message)),
            (
                Method::Initialize
                | Method::Initialized
                | Method::Cancelled
                | Method::Ping
                | Method::ToolsList
                | Method::ToolsCall
                | Method::Discover,
                Era::Legacy | Era::Modern,
            ) => Cow::Borrowed(message),
        };
        let schema = call.and_then(|call| {
            let entry = forward.standing.upstream(&call.upstream)?;
            Some(&entry.tools.get(&call.tool)?.input_schema)
        });
        Some(Outbound {
            method: http::Method::POST,
            body: Bytes::from(spoken.to_upstream_bytes()),
            mirrored: spoken.mirrored_headers(schema),
            session,
            decision: None,
        })
    }

    /// Reads an answer that says what there is, and leaves of it what this caller may use.
    async fn cut_down(
        &self,
        forward: Forward<'_>,
        message: Option<McpRequest>,
        inbound: Inbound,
    ) -> Response<Body> {
        let Some((message, id)) = message.as_ref().and_then(|message| Some((message, message.id()?))) else {
            return refusal::upstream_failed(Some(&self.decision_id), &self.asked());
        };
        let events = is_event_stream(&inbound.response);
        let (parts, body) = inbound.response.into_parts();
        let reading = sse::read_answer(body, events, id, self.gate.limits.listing_bytes);
        let answer = match tokio::time::timeout(self.gate.limits.answer_timeout, reading).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                tracing::warn!(%error, "an upstream's answer cannot be used");
                return refusal::upstream_failed(Some(&self.decision_id), &self.asked());
            }
            Err(_) => return refusal::upstream_failed(Some(&self.decision_id), &self.asked()),
        };
        if !events {
            inbound.lease.finish();
        }
        let result = match answer {
            Answer::Result(result) => result,
            Answer::Error(error) => return self.passed_error(&error),
        };
        let cut = match message.method() {
            Method::ToolsList => self.cut_listing(&forward, message, result).await,
            Method::Initialize | Method::Discover => Some(cut_capabilities(result)),
            Method::Initialized | Method::Cancelled | Method::Ping | Method::ToolsCall => None,
        };
        let Some(cut) = cut else {
            return refusal::upstream_failed(Some(&self.decision_id), &self.asked());
        };
        let mut response = refusal::answer(StatusCode::OK, result_body(id, Value::Object(cut)));
        if message.method() == Method::Initialize
            && let Some(upstreams) = parts.headers.get(SESSION)
        {
            let owner = owner(&forward.bearer, forward.side);
            let ours = self.gate.sessions.open(owner, upstreams.clone(), self.gate.now());
            match ours.and_then(|ours| HeaderValue::from_str(&ours).ok()) {
                Some(ours) => {
                    response.headers_mut().insert(SESSION, ours);
                }
                None => return refusal::upstream_failed(Some(&self.decision_id), &self.asked()),
            }
        }
        response
    }

    async fn cut_listing(
        &self,
        forward: &Forward<'_>,
        message: &McpRequest,
        result: Object,
    ) -> Option<Object> {
        let upstream = &forward.side.upstream.id;
        let entry = forward.standing.upstream(upstream)?;
        let (cut, changed) =
            tools::filter_listing(&forward.side.seen, entry, result, message.era(), |tool| {
                forward.standing.pdp.may_list(forward.who, upstream, tool)
            })?;
        self.gate.raise_changed(upstream, changed).await;
        Some(cut)
    }

    fn passed_error(&self, error: &Value) -> Response<Body> {
        let code =
            error.as_object().and_then(|error| error.get("code")).and_then(Value::as_i64).unwrap_or(-32603);
        let text = error.as_object().and_then(|error| error.get("message")).and_then(Value::as_str);
        let body =
            error_body(self.id.as_ref(), code, text.unwrap_or("the upstream answered with an error"), None);
        refusal::answer(StatusCode::OK, body)
    }

    /// Passes an answer on as it comes: status, content type and bytes, nothing else.
    fn pass_on(
        &self,
        message: Option<&McpRequest>,
        inbound: Inbound,
        mut outcome: OutcomeOnDrop,
        ended: BoxFuture<'static, ()>,
    ) -> Response<Body> {
        let awaits_answer = message.is_some_and(|message| message.id().is_some());
        let Inbound { response, lease } = inbound;
        let events = is_event_stream(&response);
        let (parts, incoming) = response.into_parts();
        let content_type = parts.headers.get(CONTENT_TYPE).cloned().filter(|value| events || is_json(value));
        let body = match (incoming.is_end_stream(), &content_type) {
            (true, _) => {
                outcome.finish(Ending::Completed);
                lease.finish();
                Body::full(Bytes::new())
            }
            (false, Some(_)) => Body::passed(incoming, lease, ended, outcome),
            // Neither JSON nor events: not an answer to a message, so not the caller's to see.
            (false, None) if awaits_answer && parts.status.is_success() => {
                outcome.detail("neither JSON nor an event stream".to_owned());
                outcome.finish(Ending::Failed);
                return refusal::upstream_failed(Some(&self.decision_id), &self.asked());
            }
            // Nothing anyone waits for, or an error page: the status is the answer.
            (false, None) => {
                outcome.finish(Ending::Completed);
                Body::full(Bytes::new())
            }
        };
        let mut passed = Response::new(body);
        *passed.status_mut() = parts.status;
        let headers = passed.headers_mut();
        if let Some(content_type) = content_type {
            headers.insert(CONTENT_TYPE, content_type);
        }
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if events {
            headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
        }
        passed
    }

    /// A kill came while the upstream was still at it: the connection to it closes, and the caller is told why.
    fn ended(&self, bearer: &Bearer, decision_id: DecisionId, mut outcome: OutcomeOnDrop) -> Response<Body> {
        outcome.finish(Ending::Ended);
        let code = match self.gate.standings.fresh(self.gate.now()) {
            None => Code::SnapshotStale,
            Some(standing) => standing.still_bears(bearer).err().unwrap_or(Code::TokenExpired),
        };
        refusal::denied(&Denial { code, reason: code.reason(), decision_id }, &self.asked())
    }

    fn failed(&self, error: &UpstreamError, outcome: &mut OutcomeOnDrop) -> Response<Body> {
        tracing::warn!(error = error as &dyn std::error::Error, "the upstream failed");
        outcome.detail(error.to_string());
        outcome.finish(Ending::Failed);
        refusal::upstream_failed(Some(&self.decision_id), &self.asked())
    }

    fn close(&self, forward: &Forward<'_>) {
        if let Some(session) = &forward.session {
            let _gone = self.gate.sessions.close(
                &session.ours,
                &owner(&forward.bearer, forward.side),
                self.gate.now(),
            );
        }
    }
}

/// `initialize` as the gateway says it: without the client capabilities whose requests could not be answered
/// through a gateway that takes no responses from clients.
fn in_our_name(message: &McpRequest) -> McpRequest {
    let mut params = message.params().cloned().unwrap_or_default();
    params.remove("capabilities");
    let inserted = params.insert("capabilities", Object::new());
    debug_assert!(inserted.is_ok(), "the member was just removed");
    message.clone().with_params(params)
}

/// What remains of what an upstream can do: tools, and the revisions we speak.
fn cut_capabilities(mut result: Object) -> Object {
    // Free text for the model that nobody reviewed and no pin covers: a changed one would be a changed tool
    // description by another way.
    result.remove("instructions");
    let tools = match result.remove("capabilities") {
        Some(Value::Object(mut capabilities)) => capabilities.remove("tools"),
        Some(_) | None => None,
    };
    let mut capabilities = Object::new();
    if tools.is_some() {
        let _fresh = capabilities.insert("tools", Object::new());
    }
    let _fresh = result.insert("capabilities", capabilities);
    if let Some(Value::List(versions)) = result.remove("supportedVersions") {
        let spoken: Vec<Value> = versions
            .into_iter()
            .filter(|version| {
                version.as_str().is_some_and(|version| ProtocolVersion::parse(version).is_some())
            })
            .collect();
        let _fresh = result.insert("supportedVersions", spoken);
    }
    result
}

fn accepted() -> Response<Body> {
    let mut response = Response::new(Body::full(Bytes::new()));
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}

fn is_json(value: &HeaderValue) -> bool {
    value
        .to_str()
        .ok()
        .and_then(|value| value.split(';').next())
        .is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

fn version_line(version: ProtocolVersion) -> (String, String) {
    ("mcp-protocol-version".to_owned(), version.as_str().to_owned())
}

fn owner(bearer: &Bearer, side: &Side) -> Owner {
    Owner { agent: bearer.agent.clone(), run: bearer.run.clone(), upstream: side.upstream.id.clone() }
}
