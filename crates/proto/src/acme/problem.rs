//! ACME problem documents (RFC 8555 §6.7, RFC 9457).
//!
//! The detail is a fixed sentence; what exactly failed goes to the record, not to the client.

use crate::json::{Object, Value};

/// Problem types; each knows its URN and its HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AcmeProblem {
    /// The account does not exist.
    AccountDoesNotExist,
    /// The certificate is already revoked.
    AlreadyRevoked,
    /// Attestation evidence is invalid or does not fit (device-attest §5).
    BadAttestationStatement,
    /// The request for a certificate is unacceptable.
    #[serde(rename = "badCSR")]
    BadCsr,
    /// The nonce is unknown, used or malformed.
    BadNonce,
    /// The public key is not supported.
    BadPublicKey,
    /// The revocation reason is not allowed.
    BadRevocationReason,
    /// The signature algorithm is not supported.
    BadSignatureAlgorithm,
    /// An external account binding is required.
    ExternalAccountRequired,
    /// The request is malformed.
    Malformed,
    /// The order is not ready to be finalized.
    OrderNotReady,
    /// Too many requests.
    RateLimited,
    /// The server will not issue for this identifier.
    RejectedIdentifier,
    /// The server failed.
    ServerInternal,
    /// The client may not do this.
    Unauthorized,
    /// The identifier type is not supported.
    UnsupportedIdentifier,
}

impl AcmeProblem {
    /// The `type` member.
    #[must_use]
    pub const fn urn(self) -> &'static str {
        match self {
            Self::AccountDoesNotExist => "urn:ietf:params:acme:error:accountDoesNotExist",
            Self::AlreadyRevoked => "urn:ietf:params:acme:error:alreadyRevoked",
            Self::BadAttestationStatement => "urn:ietf:params:acme:error:badAttestationStatement",
            Self::BadCsr => "urn:ietf:params:acme:error:badCSR",
            Self::BadNonce => "urn:ietf:params:acme:error:badNonce",
            Self::BadPublicKey => "urn:ietf:params:acme:error:badPublicKey",
            Self::BadRevocationReason => "urn:ietf:params:acme:error:badRevocationReason",
            Self::BadSignatureAlgorithm => "urn:ietf:params:acme:error:badSignatureAlgorithm",
            Self::ExternalAccountRequired => "urn:ietf:params:acme:error:externalAccountRequired",
            Self::Malformed => "urn:ietf:params:acme:error:malformed",
            Self::OrderNotReady => "urn:ietf:params:acme:error:orderNotReady",
            Self::RateLimited => "urn:ietf:params:acme:error:rateLimited",
            Self::RejectedIdentifier => "urn:ietf:params:acme:error:rejectedIdentifier",
            Self::ServerInternal => "urn:ietf:params:acme:error:serverInternal",
            Self::Unauthorized => "urn:ietf:params:acme:error:unauthorized",
            Self::UnsupportedIdentifier => "urn:ietf:params:acme:error:unsupportedIdentifier",
        }
    }

    /// The HTTP status.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::AlreadyRevoked
            | Self::AccountDoesNotExist
            | Self::BadAttestationStatement
            | Self::BadCsr
            | Self::BadNonce
            | Self::BadPublicKey
            | Self::BadRevocationReason
            | Self::BadSignatureAlgorithm
            | Self::Malformed
            | Self::RejectedIdentifier
            | Self::UnsupportedIdentifier => 400,
            Self::ExternalAccountRequired | Self::OrderNotReady | Self::Unauthorized => 403,
            Self::RateLimited => 429,
            Self::ServerInternal => 500,
        }
    }
}

/// A problem as an error value and as a document.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, thiserror::Error)]
#[error("{}: {detail}", kind.urn())]
pub struct Problem {
    /// What kind.
    pub kind: AcmeProblem,
    /// A sentence for people.
    pub detail: String,
}

impl Problem {
    /// A problem with its sentence.
    #[must_use]
    pub fn new(kind: AcmeProblem, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }

    /// The document; `badSignatureAlgorithm` lists what is supported (RFC 8555 §6.2).
    #[must_use]
    pub fn document(&self) -> Value {
        let mut members = vec![
            ("type", Value::Text(self.kind.urn().to_owned())),
            ("detail", Value::Text(self.detail.clone())),
            ("status", Value::Int(i64::from(self.kind.status()))),
        ];
        if self.kind == AcmeProblem::BadSignatureAlgorithm {
            let supported = ["ES256", "EdDSA"].map(|alg| Value::Text(alg.to_owned()));
            members.push(("algorithms", Value::List(supported.to_vec())));
        }
        object(members)
    }
}

/// An object of members whose names differ.
pub(super) fn object<'a>(members: impl IntoIterator<Item = (&'a str, Value)>) -> Value {
    let mut object = Object::new();
    for (name, value) in members {
        let inserted = object.insert(name, value);
        debug_assert!(inserted.is_ok(), "the names are literals that differ");
    }
    Value::Object(object)
}
