//! ACME (RFC 8555) with `device-attest-01` (draft-ietf-acme-device-attest-09): requests, resources, problems and
//! attestation objects as they travel.
//!
//! No state and no decisions: orders live in `trust`, nonces are consumed by the server.

mod attestation;
mod binding;
mod jws;
mod problem;
mod resource;

pub use attestation::{AttestationError, TpmStatement, attestation_payload, parse_attestation_payload};
pub use binding::{ExternalBinding, MacKey, sign_binding};
pub use jws::{MAX_REQUEST_BYTES, SignedRequest, VerifiedAcmeRequest, sign_request};
pub use problem::{AcmeProblem, Problem};
pub use resource::{
    AccountResource, AuthorizationResource, ChallengeResource, Directory, DirectoryMeta, FinalizeRequest,
    Identifier, MAX_IDENTIFIERS, NewAccount, NewOrder, OrderResource, PermanentIdentifier, RevokeRequest,
    read_payload,
};

use crate::digest::Sha256Digest;
use crate::jose::PublicJwk;

/// `permanent-identifier` (draft-ietf-acme-device-attest §3).
pub const PERMANENT_IDENTIFIER: &str = "permanent-identifier";
/// `device-attest-01` (draft-ietf-acme-device-attest §5).
pub const DEVICE_ATTEST_01: &str = "device-attest-01";
/// Media type of every request body (RFC 8555 §6.2).
pub const CONTENT_TYPE_JOSE: &str = "application/jose+json";
/// Media type of problem documents (RFC 8555 §6.7).
pub const CONTENT_TYPE_PROBLEM: &str = "application/problem+json";
/// Media type of certificates (RFC 8555 §7.4.2).
pub const CONTENT_TYPE_CHAIN: &str = "application/pem-certificate-chain";

/// The key authorization `token "." base64url(thumbprint)` (RFC 8555 §8.1).
#[must_use]
pub fn key_authorization(token: &str, account_key: &PublicJwk) -> String {
    format!("{token}.{}", account_key.thumbprint())
}

/// What a TPM puts into `extraData`: SHA-256 of the key authorization.
#[must_use]
pub fn attestation_digest(key_authorization: &str) -> Sha256Digest {
    Sha256Digest::of(key_authorization.as_bytes())
}

#[cfg(test)]
mod tests;
