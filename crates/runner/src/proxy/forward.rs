//! A call's way to the gateway and back: proofs on, challenges answered, approvals waited for, bytes passed through.
//!
//! Bounded everywhere: a challenge is answered at most twice, a person is waited for at most as long as configured. A call
//! whose fate is unknown is never sent again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use countersign_proto::id::UpstreamId;
use countersign_proto::oauth::parse_www_authenticate;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};

use super::refusal::{Asked, Refused};
use super::reply;
use super::{AgentBody, Notices, ProofKind};
use crate::control_plane::ControlPlaneError;
use crate::http::{CHANNEL_PROOF, HttpError, ReplyBody, SendError};
use crate::session::{Session, Token};

/// How many challenges are answered for one call.
const MAX_CHALLENGES: u32 = 2;
/// How many connections that were closed under us are replaced for one call.
const MAX_CONNECTIONS_TRIED: u32 = 4;
/// How long the gateway may take until its answer begins: tools are slow, and it holds approvals.
const ANSWER_LIMIT: Duration = Duration::from_secs(600);
/// At most one question per interval about the same approval.
const APPROVAL_INTERVAL: Duration = Duration::from_secs(1);
/// The largest refusal that is read here instead of being passed on as a stream.
const MAX_REFUSAL_BYTES: usize = 64 * 1024;

/// Carries calls for one session.
pub struct Forwarder {
    session: Arc<Session>,
    /// Whether A proves itself with every call. Set by configuration, or by a gateway that takes nothing else.
    every_call: AtomicBool,
    gateway_nonce: parking_lot::Mutex<Option<String>>,
    hold_limit: Duration,
    notices: Arc<dyn Notices>,
}

/// What a call is made of, ready to be sent more than once.
struct Call<'c> {
    upstream: &'c UpstreamId,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
}

/// Why there is no answer from the gateway.
#[derive(Debug, thiserror::Error)]
enum ForwardError {
    #[error(transparent)]
    Credentials(#[from] ControlPlaneError),
    #[error(transparent)]
    Gateway(#[from] HttpError),
}

/// The gateway's answer as far as the proxy cares.
enum Answer {
    /// For the agent.
    Final(Box<Response<AgentBody>>),
    /// What the gateway wants to see, and its refusal in case that it cannot be shown.
    Challenge(Wanted, Refused),
    /// A person is being asked.
    Approval(Asked, Refused),
    /// No.
    Refused(Refused),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    NewToken,
    NewStatement,
    NewProof,
    NewCertificate,
    Nonce,
    Unknown,
}

impl Forwarder {
    pub fn new(
        session: Arc<Session>,
        proof: ProofKind,
        hold_limit: Duration,
        notices: Arc<dyn Notices>,
    ) -> Self {
        let every_call = AtomicBool::new(proof == ProofKind::EveryCall);
        Self { session, every_call, gateway_nonce: parking_lot::Mutex::default(), hold_limit, notices }
    }

    /// Carries one call and answers the agent.
    pub async fn forward(&self, upstream: &UpstreamId, head: &Parts, body: Bytes) -> Response<AgentBody> {
        let call = Call { upstream, method: head.method.clone(), headers: forwarded(&head.headers), body };
        match self.carry(&call).await {
            Ok(response) => response,
            Err(error) => {
                let reason = explain(&error);
                tracing::warn!(reason, %upstream, "a call was not carried");
                let (status, code) = match &error {
                    ForwardError::Credentials(_) => (StatusCode::SERVICE_UNAVAILABLE, "runner.credentials"),
                    ForwardError::Gateway(_) => (StatusCode::BAD_GATEWAY, "runner.gateway"),
                };
                reply::error(status, &call.body, code, &reason)
            }
        }
    }

    async fn carry(&self, call: &Call<'_>) -> Result<Response<AgentBody>, ForwardError> {
        match self.answer_challenges(call, None).await? {
            Answer::Final(response) => Ok(*response),
            Answer::Challenge(_, refused) | Answer::Refused(refused) => Ok(refused.into_response(&call.body)),
            Answer::Approval(asked, refused) => self.hold(call, asked, refused).await,
        }
    }

    /// Asks again with the approval's name until the person has answered or the limit is over; then the agent gets the
    /// gateway's own words and may come back later.
    async fn hold(
        &self,
        call: &Call<'_>,
        asked: Asked,
        refused: Refused,
    ) -> Result<Response<AgentBody>, ForwardError> {
        let mut latest = refused;
        let waiting = async {
            let mut interval = tokio::time::interval(APPROVAL_INTERVAL);
            let mut asked = asked;
            self.tell(call, &asked);
            loop {
                interval.tick().await;
                match self.answer_challenges(call, Some(&asked.id)).await? {
                    Answer::Final(response) => return Ok(*response),
                    Answer::Challenge(_, refused) | Answer::Refused(refused) => {
                        return Ok(refused.into_response(&call.body));
                    }
                    Answer::Approval(again, refused) => {
                        latest = refused;
                        if again.id != asked.id {
                            asked = again;
                            self.tell(call, &asked);
                        }
                    }
                }
            }
        };
        match tokio::time::timeout(self.hold_limit, waiting).await {
            Ok(answer) => answer,
            Err(_) => Ok(latest.into_response(&call.body)),
        }
    }

    fn tell(&self, call: &Call<'_>, asked: &Asked) {
        let place = if asked.url.is_empty() { &asked.id } else { &asked.url };
        let line = format!("{} waits for a person's approval: {place}", call.upstream);
        self.notices.say(&line.chars().filter(|character| !character.is_control()).collect::<String>());
    }

    /// Sends the call until the gateway has what it wants to see, or has asked too often.
    async fn answer_challenges(
        &self,
        call: &Call<'_>,
        approval: Option<&str>,
    ) -> Result<Answer, ForwardError> {
        let mut token = self.session.token(call.upstream).await?;
        let mut every_call = self.every_call.load(Ordering::Relaxed);
        let mut challenges = 0;
        loop {
            let response = self.attempt(call, &token, approval, every_call).await?;
            let answer = self.understand(response).await?;
            let (Answer::Challenge(wanted, _), true) = (&answer, challenges < MAX_CHALLENGES) else {
                if every_call && !matches!(answer, Answer::Challenge(..)) {
                    // It works this way, so the next calls begin this way.
                    self.every_call.store(true, Ordering::Relaxed);
                }
                return Ok(answer);
            };
            challenges += 1;
            tracing::debug!(?wanted, upstream = %call.upstream, "the gateway challenges");
            match wanted {
                Wanted::NewToken => token = self.session.replace(call.upstream, &token, false).await?,
                Wanted::NewStatement => token = self.session.replace(call.upstream, &token, true).await?,
                Wanted::NewCertificate => self.session.renew_certificate().await?,
                Wanted::Nonce => every_call = true,
                Wanted::NewProof => {
                    // A new connection first; if its proof is refused too, this gateway wants one per call.
                    self.session.client().start_over();
                    every_call = every_call || challenges > 1;
                }
                Wanted::Unknown => return Ok(answer),
            }
        }
    }

    async fn attempt(
        &self,
        call: &Call<'_>,
        token: &Token,
        approval: Option<&str>,
        every_call: bool,
    ) -> Result<Response<ReplyBody>, ForwardError> {
        let gateway = self.session.gateway();
        for _ in 0..MAX_CONNECTIONS_TRIED {
            let connection = self.session.client().connection(gateway).await?;
            let mut request = Request::new(Full::from(call.body.clone()));
            *request.method_mut() = call.method.clone();
            *request.uri_mut() = format!("/mcp/{}", call.upstream)
                .parse()
                .map_err(|_| HttpError::Url(call.upstream.to_string()))?;
            *request.headers_mut() = call.headers.clone();
            let headers = request.headers_mut();
            set(headers, header::AUTHORIZATION, &format!("DPoP {}", token.expose()))?;
            if let Some(approval) = approval {
                set(headers, HeaderName::from_static("countersign-approval"), approval)?;
            }
            if every_call {
                let nonce = self.gateway_nonce.lock().clone();
                let url = self.session.resource(call.upstream);
                let proof = self.session.prove_call(call.method.as_str(), &url, token, nonce.as_deref())?;
                set(headers, HeaderName::from_static("dpop"), &proof)?;
            } else if connection.needs_proof() {
                let proof = self.session.prove_connection(&connection)?;
                set(headers, HeaderName::from_static(CHANNEL_PROOF), &proof)?;
            }
            let sending = self.session.client().send(connection, request);
            match tokio::time::timeout(ANSWER_LIMIT, sending).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(SendError::Unsent(_))) => {}
                Ok(Err(SendError::Failed(error))) => return Err(error.into()),
                Err(_) => return Err(HttpError::TimedOut(gateway.to_string()).into()),
            }
        }
        Err(HttpError::Broken { origin: gateway.to_string(), why: "it closes every connection".to_owned() }
            .into())
    }

    /// Sorts the gateway's answer. Only refusals are read; everything else streams through.
    async fn understand(&self, response: Response<ReplyBody>) -> Result<Answer, ForwardError> {
        match response.status() {
            StatusCode::UNAUTHORIZED => {
                let wanted = self.wanted(response.headers());
                Ok(Answer::Challenge(wanted, self.refused(response).await?))
            }
            StatusCode::FORBIDDEN => {
                let refused = self.refused(response).await?;
                Ok(match refused.asked() {
                    Some(asked) => Answer::Approval(asked, refused),
                    None if refused.wants_new_certificate() => {
                        Answer::Challenge(Wanted::NewCertificate, refused)
                    }
                    None => Answer::Refused(refused),
                })
            }
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => {
                Ok(Answer::Refused(self.refused(response).await?))
            }
            _ => {
                let (mut head, body) = response.into_parts();
                head.headers = returned(&head.headers);
                Ok(Answer::Final(Box::new(Response::from_parts(head, body.boxed()))))
            }
        }
    }

    async fn refused(&self, response: Response<ReplyBody>) -> Result<Refused, ForwardError> {
        let status = response.status();
        let read = Limited::new(response.into_body(), MAX_REFUSAL_BYTES).collect().await;
        let gateway = self.session.gateway().to_string();
        let body =
            read.map_err(|error| HttpError::Broken { origin: gateway, why: error.to_string() })?.to_bytes();
        Ok(Refused { status, body })
    }

    /// What a 401 asks for (RFC 9449 §7.1 and §9, RFC 9470 §3).
    fn wanted(&self, headers: &HeaderMap) -> Wanted {
        let challenge = headers
            .get_all(header::WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| parse_www_authenticate(value.to_str().ok()?).ok())
            .find(|challenge| challenge.scheme().eq_ignore_ascii_case("DPoP"));
        match challenge.as_ref().and_then(|challenge| challenge.get("error")) {
            Some("insufficient_user_authentication" | "use_fresh_attestation") => Wanted::NewStatement,
            Some("invalid_token") => Wanted::NewToken,
            Some("invalid_dpop_proof") => Wanted::NewProof,
            Some("use_dpop_nonce") => {
                let nonce = headers.get("dpop-nonce").and_then(|value| value.to_str().ok());
                *self.gateway_nonce.lock() = nonce.map(str::to_owned);
                Wanted::Nonce
            }
            _ => Wanted::Unknown,
        }
    }
}

/// An error with its causes, in one line: there is no log that the agent's person would look into.
fn explain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// What of the agent's headers reaches the gateway: content negotiation and MCP's own. No credential, no cookie, and
/// nothing that we set ourselves.
fn forwarded(headers: &HeaderMap) -> HeaderMap {
    kept(headers, |name| {
        matches!(name, "accept" | "content-type" | "last-event-id") || name.starts_with("mcp-")
    })
}

/// What of the gateway's headers reaches the agent.
fn returned(headers: &HeaderMap) -> HeaderMap {
    kept(headers, |name| {
        matches!(name, "content-type" | "cache-control" | "retry-after" | "allow" | "x-accel-buffering")
            || name.starts_with("mcp-")
    })
}

fn kept(headers: &HeaderMap, keep: impl Fn(&str) -> bool) -> HeaderMap {
    let mut kept = HeaderMap::new();
    for (name, value) in headers {
        if keep(name.as_str()) {
            // A header that came twice goes on twice: it is the gateway's to refuse.
            kept.append(name.clone(), value.clone());
        }
    }
    kept
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) -> Result<(), ForwardError> {
    let mut value = HeaderValue::from_str(value)
        .map_err(|_| ControlPlaneError::Key("a proof or token that no header can carry".to_owned()))?;
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(())
}
