//! The attestation CA and the attester over HTTP: a TPM's endorsement becomes an AK certificate, a fresh quote becomes
//! a client attestation. Evidence is appraised in `trust`; nothing here believes what a machine says of itself.

pub(crate) mod client;
pub(crate) mod enroll;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use countersign_proto::b64;
use countersign_proto::digest::Sha256Digest;
use countersign_store::StoreError;
use countersign_trust::quote;
use http::StatusCode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::http::{json_response, read_json};
use crate::listen::Peer;
use crate::plane::{Plane, Trouble};

/// Largest request.
const BODY_BYTES: usize = 64 * 1024;

/// The routes under `/attest/v1`.
pub(crate) fn router(plane: Arc<Plane>) -> Router {
    Router::new()
        .route("/attest/v1/ak", post(enroll::begin))
        .route("/attest/v1/ak/{session}", post(enroll::activate))
        .route("/attest/v1/nonce", post(client::nonce))
        .route("/attest/v1/client-attestation", post(client::client_attestation))
        .with_state(plane)
}

/// Why a machine was refused. The sentence is fixed; the cause is in the record.
#[derive(Debug)]
pub(crate) enum AttestError {
    /// Not the request this endpoint takes.
    InvalidRequest,
    /// Unknown, used or expired.
    EnrollmentToken,
    /// The connection shows no certificate of an enrolled machine.
    MachineCertificate,
    /// The endorsement key is of nobody we trust.
    Endorsement,
    /// The attestation key is not what it must be, or its creation is not proven.
    Ak,
    /// Wrong secret, or too late.
    Activation,
    /// The quote is not by this machine's AK, not fresh, or not of a state we accept.
    Quote,
    /// Locked or revoked.
    MachineState,
    /// The machine, or its endorsement key, is enrolled already.
    MachineExists,
    /// The nonce is not ours, too old or spent.
    Nonce,
    /// Too many enrollments at once.
    Busy,
    /// We could not find out or could not write down.
    Unavailable(Trouble),
}

impl From<Trouble> for AttestError {
    fn from(trouble: Trouble) -> Self {
        Self::Unavailable(trouble)
    }
}

impl From<StoreError> for AttestError {
    fn from(error: StoreError) -> Self {
        Self::Unavailable(error.into())
    }
}

impl AttestError {
    fn parts(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::InvalidRequest => {
                (StatusCode::BAD_REQUEST, "invalid_request", "the request is not what this endpoint takes")
            }
            Self::EnrollmentToken => (
                StatusCode::UNAUTHORIZED,
                "invalid_enrollment_token",
                "the enrollment token is unknown, used or expired",
            ),
            Self::MachineCertificate => (
                StatusCode::UNAUTHORIZED,
                "machine_certificate_required",
                "this endpoint needs the certificate of an enrolled machine",
            ),
            Self::Endorsement => {
                (StatusCode::FORBIDDEN, "endorsement_untrusted", "the endorsement key is not trusted here")
            }
            Self::Ak => (StatusCode::FORBIDDEN, "ak_unacceptable", "the attestation key is not acceptable"),
            Self::Activation => {
                (StatusCode::FORBIDDEN, "activation_failed", "the credential was not activated")
            }
            Self::Quote => (StatusCode::FORBIDDEN, "quote_unacceptable", "the quote is not acceptable"),
            Self::MachineState => {
                (StatusCode::FORBIDDEN, "machine_revoked", "the machine is locked or revoked")
            }
            Self::MachineExists => (
                StatusCode::CONFLICT,
                "machine_exists",
                "the machine or its endorsement key is enrolled already",
            ),
            Self::Nonce => {
                (StatusCode::BAD_REQUEST, "use_fresh_nonce", "the nonce is unknown, used or too old")
            }
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy", "too many enrollments at once"),
            Self::Unavailable(Trouble::Log(_)) => {
                (StatusCode::SERVICE_UNAVAILABLE, "audit_unavailable", "nothing can be recorded right now")
            }
            Self::Unavailable(Trouble::Store(_) | Trouble::Form(_)) => {
                (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the server cannot do that right now")
            }
        }
    }

    /// The stable reason code in records; `None` where no refusal was decided.
    fn code(&self) -> Option<&'static str> {
        match self {
            Self::InvalidRequest => Some("att.malformed"),
            Self::EnrollmentToken => Some("att.token"),
            Self::MachineCertificate => Some("att.no_certificate"),
            Self::Endorsement => Some("att.endorsement"),
            Self::Ak => Some("att.ak"),
            Self::Activation => Some("att.activation"),
            Self::Quote => Some("att.quote"),
            Self::MachineState => Some("att.machine_state"),
            Self::MachineExists => Some("att.identity_takeover"),
            Self::Nonce => Some("att.nonce"),
            Self::Busy | Self::Unavailable(_) => None,
        }
    }
}

impl IntoResponse for AttestError {
    fn into_response(self) -> Response {
        if let Self::Unavailable(trouble) = &self {
            tracing::error!(error = trouble as &dyn std::error::Error, "attestation request failed");
        }
        let (status, error, description) = self.parts();
        json_response(status, &serde_json::json!({"error": error, "error_description": description}))
    }
}

/// A refusal and what is known of its cause, for the record.
#[derive(Debug)]
pub(crate) struct Refused {
    error: AttestError,
    facts: serde_json::Value,
}

impl<E: Into<AttestError>> From<E> for Refused {
    fn from(error: E) -> Self {
        Self { error: error.into(), facts: serde_json::json!({}) }
    }
}

impl AttestError {
    /// With the cause's own words and whatever was established.
    fn because(self, cause: &dyn std::fmt::Display, facts: serde_json::Value) -> Refused {
        let mut facts = facts;
        if let Some(object) = facts.as_object_mut() {
            object.insert("detail".into(), cause.to_string().into());
        }
        Refused { error: self, facts }
    }

    /// With whatever was established.
    fn knowing(self, facts: serde_json::Value) -> Refused {
        Refused { error: self, facts }
    }
}

/// Answers; a refusal leaves exactly one record, and if that cannot be written the refusal is `audit_unavailable`.
async fn conclude<T: Serialize>(
    plane: &Plane,
    peer: &Peer,
    step: &'static str,
    outcome: Result<T, Refused>,
) -> Response {
    let refused = match outcome {
        Ok(answer) => return json_response(StatusCode::OK, &answer),
        Err(refused) => refused,
    };
    if let Some(code) = refused.error.code() {
        let mut members = refused.facts;
        if let Some(object) = members.as_object_mut() {
            object.insert("code".into(), code.into());
            object.insert("what".into(), step.into());
        }
        if let Err(trouble) = plane.record_refusal(peer, members).await {
            return AttestError::Unavailable(trouble).into_response();
        }
    }
    refused.error.into_response()
}

async fn body_of<T: DeserializeOwned>(request: Request) -> Result<T, AttestError> {
    let (parts, body) = request.into_parts();
    read_json(&parts.headers, body, BODY_BYTES).await.map_err(|_| AttestError::InvalidRequest)
}

/// Bytes as they travel: base64url without padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Octets(pub(crate) Vec<u8>);

impl<'de> Deserialize<'de> for Octets {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        b64::url_decode(&text).map(Self).map_err(serde::de::Error::custom)
    }
}

impl Serialize for Octets {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&b64::url_encode(&self.0))
    }
}

/// PCR values as they travel: index as text to 32 bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct PcrValues(BTreeMap<String, Octets>);

impl PcrValues {
    /// Index to value; `None` for an index that is none, is spelled twice, or a value of another length.
    pub(crate) fn parse(&self) -> Option<quote::PcrValues> {
        let mut values = BTreeMap::new();
        for (index, value) in &self.0 {
            let number: u8 =
                index.parse().ok().filter(|number: &u8| *number < 24 && number.to_string() == *index)?;
            let value = <[u8; 32]>::try_from(value.0.as_slice()).ok()?;
            values.insert(number, Sha256Digest::from_bytes(value));
        }
        Some(values)
    }
}
