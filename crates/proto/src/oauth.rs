//! OAuth 2.1 on the wire: forms, error codes, assurance levels, challenges.
//!
//! No grant rules (those are `identity::grant`) and no HTTP.

mod acr;
mod authenticate;
mod form;

pub use acr::{Acr, AcrError};
pub use authenticate::{AuthenticateError, Challenge, parse_www_authenticate};
pub use form::{Form, FormError};

/// An OAuth error answer: the code of the RFC that defines it, and a short fixed sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}: {description}")]
pub struct OauthError {
    /// The `error` code.
    pub error: &'static str,
    /// The `error_description`: fixed text, never an echo of the request.
    pub description: &'static str,
}

impl OauthError {
    /// An error with a code that has no constructor of its own below.
    #[must_use]
    pub const fn new(error: &'static str, description: &'static str) -> Self {
        Self { error, description }
    }

    /// `invalid_request` (RFC 6749 §5.2).
    #[must_use]
    pub const fn invalid_request(description: &'static str) -> Self {
        Self::new("invalid_request", description)
    }

    /// `invalid_client` (RFC 6749 §5.2), status 401.
    #[must_use]
    pub const fn invalid_client(description: &'static str) -> Self {
        Self::new("invalid_client", description)
    }

    /// `invalid_grant` (RFC 6749 §5.2).
    #[must_use]
    pub const fn invalid_grant(description: &'static str) -> Self {
        Self::new("invalid_grant", description)
    }

    /// `unauthorized_client` (RFC 6749 §5.2).
    #[must_use]
    pub const fn unauthorized_client(description: &'static str) -> Self {
        Self::new("unauthorized_client", description)
    }

    /// `unsupported_grant_type` (RFC 6749 §5.2).
    #[must_use]
    pub const fn unsupported_grant_type() -> Self {
        Self::new("unsupported_grant_type", "only client_credentials is supported")
    }

    /// `invalid_target` (RFC 8707 §2).
    #[must_use]
    pub const fn invalid_target(description: &'static str) -> Self {
        Self::new("invalid_target", description)
    }

    /// `invalid_authorization_details` (RFC 9396 §5).
    #[must_use]
    pub const fn invalid_authorization_details(description: &'static str) -> Self {
        Self::new("invalid_authorization_details", description)
    }

    /// `invalid_dpop_proof` (RFC 9449 §5).
    #[must_use]
    pub const fn invalid_dpop_proof(description: &'static str) -> Self {
        Self::new("invalid_dpop_proof", description)
    }

    /// `use_fresh_attestation` (draft-ietf-oauth-attestation-based-client-auth-10 §7.4).
    #[must_use]
    pub const fn use_fresh_attestation(description: &'static str) -> Self {
        Self::new("use_fresh_attestation", description)
    }

    /// The HTTP status of the token endpoint's answer (RFC 6749 §5.2).
    #[must_use]
    pub fn status(&self) -> u16 {
        if matches!(self.error, "invalid_client" | "invalid_client_attestation") { 401 } else { 400 }
    }

    /// The JSON body (RFC 6749 §5.2).
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let mut body = crate::json::Object::new();
        let _ = body.insert("error", self.error);
        let _ = body.insert("error_description", self.description);
        body.to_jcs()
    }
}

#[cfg(test)]
mod tests;
