//! WebAuthn ceremonies as the page's script drives them: JSON in, JSON out, each begun and finished by a `POST`.
//!
//! A challenge is looked up by the value inside the signed client data and by nothing else. What a ceremony changes
//! is decided behind the port, in one transaction.

use std::sync::Arc;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use countersign_proto::b64;
use countersign_proto::digest::Sha256Digest;
use countersign_proto::id::ApprovalId;
use countersign_proto::json::{self, Limits};
use countersign_proto::webauthn::{
    AssertionResponse, Credential, Expectation, RegistrationResponse, WebauthnError, signed_challenge,
    verify_assertion, verify_registration,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Console;
use super::guard::{self, Visitor};
use super::port::{ConsolePerson, PortError, SignedApproval};
use super::session::{CHALLENGE_SECS, PendingApproval, Purpose};
use super::view::CallView;

type Shared = State<Arc<Console>>;

/// Why a ceremony ends without effect. The text is shown by the script, in the page.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    reason: String,
}

impl Refusal {
    fn new(status: StatusCode, reason: &str) -> Self {
        Self { status, reason: reason.to_owned() }
    }

    fn bad(reason: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, reason)
    }
}

impl From<PortError> for Refusal {
    fn from(error: PortError) -> Self {
        let status = super::pages::status_of(&error);
        if let PortError::Unavailable(detail) = &error {
            tracing::error!(detail, "console: control plane unavailable");
        }
        Self::new(status, &error.to_string())
    }
}

impl From<WebauthnError> for Refusal {
    fn from(error: WebauthnError) -> Self {
        Self::new(StatusCode::FORBIDDEN, &format!("the passkey's answer was not accepted: {error}"))
    }
}

/// What `navigator.credentials` is to be called with.
#[derive(Serialize)]
struct Offer {
    challenge: String,
    rp_id: String,
    timeout_millis: i64,
    /// Credential ids: allowed ones of an assertion, excluded ones of a registration.
    credentials: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<OfferedUser>,
}

#[derive(Serialize)]
struct OfferedUser {
    id: String,
    name: String,
    display_name: String,
}

/// Where to go when it is done.
#[derive(Serialize)]
struct Done {
    next: String,
}

/// The page's own word on which view the person is looking at.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BeginApproval {
    view: Sha256Digest,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// `POST /login/begin`
pub async fn begin_login(
    State(console): Shared,
    Extension(visitor): Extension<Visitor>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    answer(async {
        let Nothing {} = read(&console, &visitor, &headers, &body)?;
        // No list of credentials: a passkey knows its owner, and nobody learns who has one here.
        Ok(offer(&console, &visitor, Purpose::Login, &[], None))
    })
    .await
}

/// `POST /login/finish`
pub async fn finish_login(
    State(console): Shared,
    Extension(visitor): Extension<Visitor>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let done = async {
        let response: AssertionResponse = read(&console, &visitor, &headers, &body)?;
        let now = console.now();
        let challenge = signed_challenge(&response.client_data)?;
        if !console.sealer.challenge_holds(&visitor.cookie, Purpose::Login, &challenge, now) {
            return Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "this login took too long or was not begun here; try again",
            ));
        }
        let unknown = || Refusal::new(StatusCode::FORBIDDEN, "this passkey is not registered here");
        let (person, credential) = match console.port.passkey_owner(&response.id).await {
            Ok(owner) => owner,
            Err(PortError::NotFound) => {
                console.port.note_failed_login(&response.id, "unknown passkey").await?;
                return Err(unknown());
            }
            Err(error) => return Err(error.into()),
        };
        let assertion = match verified(&console, &person, &response, &challenge, &credential).await {
            Ok(assertion) => assertion,
            Err(refusal) => {
                console.port.note_failed_login(&response.id, "the passkey's answer does not hold").await?;
                return Err(refusal);
            }
        };
        // Consumes the challenge: a replay ends here.
        console.port.note_login(&person.id, &assertion, &challenge, now).await?;
        // A login from within a session ends that session, and no cookie known before is ever a session's.
        console.sessions.end(&visitor.cookie);
        Ok((
            console.sessions.begin(person, now, &*console.config.rng),
            Done { next: "/approvals".to_owned() },
        ))
    };
    match done.await {
        Ok((cookie, done)) => {
            let mut response = json_response(StatusCode::OK, &done);
            if let Ok(value) = HeaderValue::from_str(&cookie.to_header()) {
                response.headers_mut().insert(header::SET_COOKIE, value);
            }
            response
        }
        Err(refusal) => refused(&refusal),
    }
}

/// `POST /invite/{token}/begin`
pub async fn begin_registration(
    State(console): Shared,
    Extension(visitor): Extension<Visitor>,
    Path(token): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    answer(async {
        let Nothing {} = read(&console, &visitor, &headers, &body)?;
        let invitation = console.port.person_by_invite(&token, console.now()).await?;
        let registered = console.port.passkeys(&invitation.person.id).await?;
        Ok(offer(&console, &visitor, Purpose::Register, &registered, Some(&invitation.person)))
    })
    .await
}

/// `POST /invite/{token}/register`
pub async fn finish_registration(
    State(console): Shared,
    Extension(visitor): Extension<Visitor>,
    Path(token): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    answer(async {
        let response: RegistrationResponse = read(&console, &visitor, &headers, &body)?;
        let now = console.now();
        let challenge = signed_challenge(&response.client_data)?;
        if !console.sealer.challenge_holds(&visitor.cookie, Purpose::Register, &challenge, now) {
            return Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "this registration took too long or was not begun here; try again",
            ));
        }
        let credential = verify_registration(&response, &expectation(&console, &challenge))?;
        let invitation = console.port.person_by_invite(&token, now).await?;
        console.port.register_passkey(&token, &invitation.person.id, credential, now).await?;
        Ok(Done { next: "/login?registered=yes".to_owned() })
    })
    .await
}

/// `POST /approvals/{id}/begin`
pub async fn begin_approval(
    State(console): Shared,
    Extension(visitor): Extension<Visitor>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    answer(async {
        let seen: BeginApproval = read(&console, &visitor, &headers, &body)?;
        let (person, id) = (logged_in(&visitor)?, approval_id(&id)?);
        let now = console.now();
        let object = console.port.begin_approval(&id, &person.id, now).await?;
        let view = CallView::of(&object.call).hash();
        // INVARIANT: what is signed is what was on the screen, by the person of the session.
        if object.id != id || object.approver != person.id || object.view_hash != view || seen.view != view {
            return Err(Refusal::new(
                StatusCode::CONFLICT,
                "the request is not the one on this page any more; reload it",
            ));
        }
        let challenge = object
            .challenge()
            .map_err(|_| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the request cannot be signed"))?;
        let passkeys = console.port.passkeys(&person.id).await?;
        if passkeys.is_empty() {
            return Err(Refusal::new(StatusCode::FORBIDDEN, "no passkey is registered for you"));
        }
        let pending = PendingApproval { object, challenge, given_at: now };
        console.sessions.offer(&visitor.cookie, pending, now);
        Ok(Offer {
            challenge: b64::url_encode(&challenge),
            rp_id: console.config.rp_id.clone(),
            timeout_millis: CHALLENGE_SECS * 1000,
            credentials: ids(&passkeys),
            user: None,
        })
    })
    .await
}

/// `POST /approvals/{id}/approve`
pub async fn finish_approval(
    State(console): Shared,
    Extension(visitor): Extension<Visitor>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    answer(async {
        let response: AssertionResponse = read(&console, &visitor, &headers, &body)?;
        let (person, id) = (logged_in(&visitor)?, approval_id(&id)?);
        let now = console.now();
        let signed = signed_challenge(&response.client_data)?;
        let pending = console
            .sessions
            .take(&visitor.cookie, &signed, now)
            .filter(|pending| pending.object.id == id && pending.object.approver == person.id)
            .ok_or_else(|| {
                Refusal::new(
                    StatusCode::FORBIDDEN,
                    "this approval took too long or was not begun here; try again",
                )
            })?;
        let passkeys = console.port.passkeys(&person.id).await?;
        let credential = passkeys
            .iter()
            .find(|credential| credential.id == response.id)
            .ok_or_else(|| Refusal::new(StatusCode::FORBIDDEN, "this passkey is not one of yours"))?;
        let assertion = verified(&console, person, &response, &pending.challenge, credential).await?;
        let signed = SignedApproval { object: pending.object, assertion, response };
        console.port.grant_approval(&id, &person.id, signed, now).await?;
        Ok(Done { next: format!("/approvals/{id}") })
    })
    .await
}

/// Verifies an assertion; a counter that went back raises its alarm on the way out.
async fn verified(
    console: &Console,
    person: &ConsolePerson,
    response: &AssertionResponse,
    challenge: &[u8; 32],
    credential: &Credential,
) -> Result<countersign_proto::webauthn::VerifiedAssertion, Refusal> {
    let verified = verify_assertion(response, &expectation(console, challenge), credential);
    if verified == Err(WebauthnError::Cloned) {
        console.port.note_cloned_passkey(&person.id, &credential.id, console.now()).await?;
    }
    Ok(verified?)
}

fn expectation<'a>(console: &'a Console, challenge: &'a [u8; 32]) -> Expectation<'a> {
    Expectation { rp_id: &console.config.rp_id, origin: &console.config.origin, challenge }
}

fn offer(
    console: &Console,
    visitor: &Visitor,
    purpose: Purpose,
    credentials: &[Credential],
    person: Option<&ConsolePerson>,
) -> Offer {
    let challenge = console.sealer.challenge(&visitor.cookie, purpose, console.now(), &*console.config.rng);
    Offer {
        challenge: b64::url_encode(&challenge),
        rp_id: console.config.rp_id.clone(),
        timeout_millis: CHALLENGE_SECS * 1000,
        credentials: ids(credentials),
        user: person.map(|person| OfferedUser {
            id: b64::url_encode(person.id.as_str().as_bytes()),
            name: person.id.as_str().to_owned(),
            display_name: person.display_name.clone(),
        }),
    }
}

fn ids(credentials: &[Credential]) -> Vec<String> {
    credentials.iter().map(|credential| b64::url_encode(&credential.id)).collect()
}

fn logged_in(visitor: &Visitor) -> Result<&ConsolePerson, Refusal> {
    visitor
        .person
        .as_ref()
        .ok_or_else(|| Refusal::new(StatusCode::UNAUTHORIZED, "you are not logged in any more"))
}

fn approval_id(text: &str) -> Result<ApprovalId, Refusal> {
    ApprovalId::parse(text).map_err(|_| Refusal::from(PortError::NotFound))
}

/// A JSON body from our own script: media type, CSRF token, strict JSON.
fn read<T: DeserializeOwned>(
    console: &Console,
    visitor: &Visitor,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<T, Refusal> {
    if headers.get(header::CONTENT_TYPE).is_none_or(|kind| kind != "application/json") {
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "only application/json"));
    }
    if !console.sealer.csrf_holds(&visitor.cookie, guard::csrf_header(headers)) {
        return Err(Refusal::new(StatusCode::FORBIDDEN, "this page is out of date; reload it"));
    }
    json::typed(body, &Limits { max_bytes: super::MAX_BODY_BYTES, max_depth: 4, max_members: 32 })
        .map_err(|_| Refusal::bad("malformed request"))
}

async fn answer<T: Serialize>(work: impl Future<Output = Result<T, Refusal>>) -> Response {
    match work.await {
        Ok(value) => json_response(StatusCode::OK, &value),
        Err(refusal) => refused(&refusal),
    }
}

fn refused(refusal: &Refusal) -> Response {
    #[derive(Serialize)]
    struct Body<'a> {
        error: &'a str,
    }
    json_response(refusal.status, &Body { error: &refusal.reason })
}

fn json_response<T: Serialize>(status: StatusCode, value: &T) -> Response {
    let mut response = match serde_json::to_vec(value) {
        Ok(body) => Response::new(Body::from(body)),
        Err(_) => Response::new(Body::from(r#"{"error":"the answer cannot be written"}"#)),
    };
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
