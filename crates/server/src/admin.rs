//! The admin API on the Unix socket: the administrator's commands, each recorded before it takes effect.
//!
//! Who may connect is the socket's matter (`listen`). Rules of persons, agents, machines, tasks and
//! policies are in their own crates; a command here is load, transition, record, commit, publish.

pub mod api;
pub mod client;

mod agents;
mod machines;
mod policies;
mod status;
mod tasks;
mod upstreams;

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRequest, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use countersign_audit::Kind;
use countersign_proto::id::PersonId;
use countersign_store::{StoreError, Tx};
use http::StatusCode;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::http::{BodyError, json_response, read_json};
use crate::listen::Peer;
use crate::plane::{Plane, Trouble};
pub(crate) use status::status_router;

/// Largest admin request, but for policies.
const ADMIN_BODY_BYTES: usize = 2 * 1024 * 1024;
/// Longest free text an administrator may leave in a record.
const TEXT_CHARS: usize = 500;

/// The routes of the admin socket, the status routes among them.
pub(crate) fn router(plane: Arc<Plane>) -> Router {
    Router::new()
        .route("/admin/v1/status", get(status::status))
        .route("/admin/v1/snapshot", get(status::snapshot))
        .route("/admin/v1/records", get(status::records))
        .route("/admin/v1/persons", get(agents::list_persons).post(agents::add_person))
        .route("/admin/v1/persons/{id}/invite", post(agents::invite_person))
        .route("/admin/v1/persons/{id}/disable", post(agents::disable_person))
        .route("/admin/v1/agents", get(agents::list_agents).post(agents::add_agent))
        .route("/admin/v1/agents/{id}", get(agents::show_agent))
        .route("/admin/v1/agents/{id}/suspend", post(agents::suspend_agent))
        .route("/admin/v1/agents/{id}/resume", post(agents::resume_agent))
        .route("/admin/v1/agents/{id}/kill", post(agents::kill_agent))
        .route("/admin/v1/agents/{id}/retire", post(agents::retire_agent))
        .route("/admin/v1/runs/{id}/revoke", post(agents::revoke_run))
        .route("/admin/v1/machines", get(machines::list_machines))
        .route("/admin/v1/machines/tokens", post(machines::create_token))
        .route("/admin/v1/machines/{id}/lock", post(machines::lock_machine))
        .route("/admin/v1/machines/{id}/unlock", post(machines::unlock_machine))
        .route("/admin/v1/machines/{id}/revoke", post(machines::revoke_machine))
        .route("/admin/v1/tasks", get(tasks::list_tasks).post(tasks::create_task))
        .route("/admin/v1/tasks/{id}/revoke", post(tasks::revoke_task))
        .route("/admin/v1/policies", get(policies::active_policy).post(policies::activate_policy))
        .route("/admin/v1/policies/{revision}", get(policies::policy_revision))
        .route("/admin/v1/upstreams", get(upstreams::list_upstreams))
        .route("/admin/v1/upstreams/{id}/tools/{tool}/approve", post(upstreams::approve_tool))
        .route("/admin/v1/approvals", get(tasks::list_approvals))
        .route("/admin/v1/approvals/{id}", get(tasks::show_approval))
        .with_state(Arc::clone(&plane))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&plane), note_refusal))
        .merge(status_router(plane))
        .fallback(|| async { AdminError::NotFound })
}

/// A command that is refused leaves a record, too: who tried, what, and why not. Questions leave none.
async fn note_refusal(State(plane): State<Arc<Plane>>, request: Request, next: Next) -> Response {
    let is_command = request.method() != http::Method::GET;
    let peer = request.extensions().get::<Peer>().cloned().unwrap_or(Peer::Anonymous);
    let path: String = request.uri().path().chars().take(TEXT_CHARS).collect();
    let response = next.run(request).await;
    let Some(RefusedAs(code)) = response.extensions().get::<RefusedAs>().copied() else { return response };
    if !is_command {
        return response;
    }
    let members = serde_json::json!({
        "what": "admin", "code": format!("admin.{code}"), "path": path, "by": by(&peer),
    });
    match plane.record(Kind::Denial, members).await {
        Ok(()) => response,
        Err(trouble) => AdminError::Unavailable(trouble).into_response(),
    }
}

/// Marks the answer to a refused command with its code.
#[derive(Clone, Copy)]
struct RefusedAs(&'static str);

/// Why a command was refused.
#[derive(Debug)]
pub(crate) enum AdminError {
    /// The request is not what this endpoint takes.
    Invalid(&'static str),
    /// The body is not JSON by its content type.
    ContentType,
    /// The body is too large.
    TooLarge,
    /// There is no such thing.
    NotFound,
    /// The name is taken, now or for ever.
    Exists,
    /// Somebody else changed it; look again.
    Conflict,
    /// Its state does not allow that.
    State(&'static str),
    /// The policy set does not compile.
    Policy(Vec<String>),
    /// We could not find out or could not write down.
    Unavailable(Trouble),
}

impl From<Trouble> for AdminError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Store(error) => error.into(),
            trouble @ (Trouble::Log(_) | Trouble::Form(_)) => Self::Unavailable(trouble),
        }
    }
}

impl From<StoreError> for AdminError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Exists { .. } => Self::Exists,
            StoreError::Conflict { .. } | StoreError::Consumed { .. } => Self::Conflict,
            StoreError::NotFound => Self::NotFound,
            StoreError::TooLarge(what) => Self::Invalid(what),
            error @ (StoreError::Unavailable(_)
            | StoreError::Corrupt(_)
            | StoreError::InUse(_)
            | StoreError::Newer { .. }
            | StoreError::WrongKey) => Self::Unavailable(Trouble::Store(error)),
        }
    }
}

impl IntoResponse for AdminError {
    fn into_response(self) -> Response {
        let (status, error, message, details) = match self {
            Self::Invalid(message) => (StatusCode::BAD_REQUEST, "invalid_request", message, Vec::new()),
            Self::ContentType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "invalid_request",
                "the body must be application/json",
                vec![],
            ),
            Self::TooLarge => {
                (StatusCode::PAYLOAD_TOO_LARGE, "invalid_request", "the body is too large", vec![])
            }
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found", "there is no such thing", vec![]),
            Self::Exists => (StatusCode::CONFLICT, "exists", "this name is taken", vec![]),
            Self::Conflict => (StatusCode::CONFLICT, "conflict", "it was changed in the meantime", vec![]),
            Self::State(message) => (StatusCode::CONFLICT, "state", message, vec![]),
            Self::Policy(details) => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "invalid_policy",
                "the policy set does not compile",
                details,
            ),
            Self::Unavailable(trouble) => {
                tracing::error!(error = &trouble as &dyn std::error::Error, "admin command failed");
                (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "unavailable",
                    "the control plane cannot do that right now",
                    vec![],
                )
            }
        };
        let answer = api::ApiError { error: error.into(), message: message.into(), details };
        let mut response = json_response(status, &answer);
        if status != StatusCode::SERVICE_UNAVAILABLE {
            response.extensions_mut().insert(RefusedAs(error));
        }
        response
    }
}

/// A strict JSON body.
pub(crate) struct Strict<T, const BYTES: usize = ADMIN_BODY_BYTES>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync, const BYTES: usize> FromRequest<S> for Strict<T, BYTES> {
    type Rejection = AdminError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, AdminError> {
        let (parts, body) = request.into_parts();
        match read_json(&parts.headers, body, BYTES).await {
            Ok(value) => Ok(Self(value)),
            Err(BodyError::ContentType) => Err(AdminError::ContentType),
            Err(BodyError::TooLarge) => Err(AdminError::TooLarge),
            Err(BodyError::Malformed) => Err(AdminError::Invalid("the body is not the expected json")),
        }
    }
}

/// A JSON answer.
pub(crate) struct Reply<T>(pub(crate) T);

impl<T: Serialize> IntoResponse for Reply<T> {
    fn into_response(self) -> Response {
        json_response(StatusCode::OK, &self.0)
    }
}

type Answer<T> = Result<Reply<T>, AdminError>;

/// Records the command, commits its transaction, publishes what it changed. In this order: nothing takes effect
/// without a record, and a command that then fails leaves a second record saying so.
async fn carry_out(
    plane: &Arc<Plane>,
    peer: &Peer,
    kind: Kind,
    act: &'static str,
    members: serde_json::Value,
    tx: Tx,
) -> Result<(), AdminError> {
    let mut members = members;
    if let Some(object) = members.as_object_mut() {
        object.insert("act".into(), act.into());
        object.insert("by".into(), by(peer).into());
    }
    let plane = Arc::clone(plane);
    // In a task of its own: a command that is in the log is carried out, also if whoever gave it stops waiting.
    let carrying_out = tokio::spawn(async move {
        plane.record(kind, members.clone()).await?;
        if let Err(error) = plane.commit_and_publish(tx).await {
            let result = if matches!(error, StoreError::Unavailable(_)) { "unknown" } else { "failed" };
            if let Some(object) = members.as_object_mut() {
                object.insert("result".into(), result.into());
            }
            plane.record(kind, members).await?;
            return Err(error.into());
        }
        Ok(())
    });
    carrying_out.await.map_err(|_| AdminError::Unavailable(Trouble::Form("outcome")))?
}

/// How often a command is tried again after the thing changed under it.
const ATTEMPTS: usize = 8;

/// A kill or a lock does not give way to a quote or an answer that came in the same moment: it is decided anew.
async fn insistently<T, Deciding>(command: impl Fn() -> Deciding) -> Result<T, AdminError>
where
    Deciding: Future<Output = Result<T, AdminError>>,
{
    for _ in 1..ATTEMPTS {
        match command().await {
            Err(AdminError::Conflict) => {}
            outcome => return outcome,
        }
    }
    command().await
}

/// The administrator as records name them.
fn by(peer: &Peer) -> String {
    match peer {
        Peer::Local { uid } => format!("uid-{uid}"),
        Peer::Anonymous | Peer::Certified(_) | Peer::Loopback => "unknown".into(),
    }
}

/// The same where a person's name is asked for: a user of this host is one, if not one with passkeys.
fn acting(peer: &Peer) -> Result<PersonId, AdminError> {
    PersonId::parse(&by(peer)).map_err(|_| AdminError::State("the administrator has no name"))
}

/// Free text fit for a record.
fn text(text: &str) -> Result<&str, AdminError> {
    if text.chars().count() > TEXT_CHARS || text.chars().any(char::is_control) {
        return Err(AdminError::Invalid("the text is too long or contains control characters"));
    }
    Ok(text)
}

/// A name in the path, parsed.
fn named<T, E>(parsed: Result<T, E>) -> Result<T, AdminError> {
    parsed.map_err(|_| AdminError::NotFound)
}
