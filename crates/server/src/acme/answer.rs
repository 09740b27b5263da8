//! ACME answers: problem documents, and the records refusals leave.

use axum::response::{IntoResponse, Response};
use countersign_audit::Kind;
use countersign_proto::acme::{AcmeProblem, CONTENT_TYPE_PROBLEM, Problem};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};

use crate::listen::Peer;
use crate::plane::{Plane, Trouble};

/// Why an ACME request was refused.
#[derive(Debug)]
pub(super) enum AcmeError {
    /// A problem of the protocol.
    Problem(Problem),
    /// Not `application/jose+json` (RFC 8555 §6.2).
    ContentType,
    /// The body is too large.
    TooLarge,
    /// We could not find out or could not write down.
    Unavailable(Trouble),
}

impl From<Problem> for AcmeError {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<Trouble> for AcmeError {
    fn from(trouble: Trouble) -> Self {
        Self::Unavailable(trouble)
    }
}

impl From<countersign_store::StoreError> for AcmeError {
    fn from(error: countersign_store::StoreError) -> Self {
        Self::Unavailable(error.into())
    }
}

impl IntoResponse for AcmeError {
    fn into_response(self) -> Response {
        let (status, problem) = match self {
            Self::Problem(problem) => {
                (StatusCode::from_u16(problem.kind.status()).unwrap_or(StatusCode::BAD_REQUEST), problem)
            }
            Self::ContentType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                Problem::new(AcmeProblem::Malformed, "the content type must be application/jose+json"),
            ),
            Self::TooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                Problem::new(AcmeProblem::Malformed, "the request is too large"),
            ),
            Self::Unavailable(trouble) => {
                tracing::error!(error = &trouble as &dyn std::error::Error, "acme request failed");
                (
                    StatusCode::SERVICE_UNAVAILABLE,
                    Problem::new(AcmeProblem::ServerInternal, "the server cannot do that right now"),
                )
            }
        };
        let headers = [(CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE_PROBLEM))];
        (status, headers, problem.document().to_jcs()).into_response()
    }
}

/// A refusal worth a record: `code` is stable, `members` a JSON object.
pub(super) async fn record_refusal(
    plane: &Plane,
    code: &'static str,
    members: serde_json::Value,
) -> Result<(), Trouble> {
    plane.record(Kind::Denial, with_code(code, members)).await
}

/// The same where nobody has an account yet.
pub(super) async fn record_strangers_refusal(
    plane: &Plane,
    code: &'static str,
    members: serde_json::Value,
) -> Result<(), Trouble> {
    plane.record_refusal(&Peer::Anonymous, with_code(code, members)).await
}

fn with_code(code: &'static str, mut members: serde_json::Value) -> serde_json::Value {
    if let Some(object) = members.as_object_mut() {
        object.insert("code".into(), code.into());
        object.insert("what".into(), "certificate".into());
    }
    members
}
