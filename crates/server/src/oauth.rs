//! The authorization server's front: metadata, keys, challenge, token endpoint (RFC 6749, 8414, 9449; attestation-based
//! client authentication). Who may have which token is decided in `identity::grant`.

mod token;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use countersign_proto::jose::KeySet;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::json;

use crate::http::{header_value, json_response};
use crate::nonce::Purpose;
use crate::plane::Plane;

/// Carries a new attestation challenge (draft-ietf-oauth-attestation-based-client-auth §8).
pub(crate) const CHALLENGE_HEADER: HeaderName = HeaderName::from_static("oauth-client-attestation-challenge");
/// Carries the client attestation.
pub(crate) const ATTESTATION_HEADER: HeaderName = HeaderName::from_static("oauth-client-attestation");
/// Carries the proof of possession of the attested key.
pub(crate) const ATTESTATION_POP_HEADER: HeaderName = HeaderName::from_static("oauth-client-attestation-pop");
/// Carries the DPoP proof (RFC 9449 §4.1).
pub(crate) const DPOP_HEADER: HeaderName = HeaderName::from_static("dpop");

/// The routes of the authorization server.
pub(crate) fn router(plane: Arc<Plane>) -> Router {
    Router::new()
        .route("/.well-known/oauth-authorization-server", get(metadata))
        .route("/oauth/jwks", get(jwks))
        .route("/oauth/challenge", post(challenge))
        // Every method: a GET is refused with an OAuth error and a record, not with a bare 405.
        .route("/oauth/token", axum::routing::any(token::token))
        .with_state(plane)
}

/// RFC 8414 §2. Only what this server really does is listed.
async fn metadata(State(plane): State<Arc<Plane>>) -> Response {
    let document = json!({
        "issuer": plane.settings.issuer,
        "token_endpoint": plane.url("/oauth/token"),
        "jwks_uri": plane.url("/oauth/jwks"),
        "challenge_endpoint": plane.url("/oauth/challenge"),
        "response_types_supported": [],
        "grant_types_supported": ["client_credentials"],
        "token_endpoint_auth_methods_supported": ["attest_jwt_client_auth"],
        "client_attestation_signing_alg_values_supported": ["ES256"],
        "client_attestation_pop_signing_alg_values_supported": ["ES256"],
        "dpop_signing_alg_values_supported": ["ES256", "EdDSA"],
        "authorization_details_types_supported": ["urn:countersign:task"],
    });
    cacheable(json_response(StatusCode::OK, &document))
}

/// The keys that verify access tokens. Names are RFC 7638 thumbprints.
async fn jwks(State(plane): State<Arc<Plane>>) -> Response {
    let keys = token_keys(&plane);
    let body = match keys {
        Some(keys) => keys.to_jwks_json(),
        None => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    };
    cacheable(([(CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"))], body).into_response())
}

/// `POST /oauth/challenge`: costs nothing to give out, spent once at the token endpoint.
async fn challenge(State(plane): State<Arc<Plane>>) -> Response {
    let challenge = fresh_challenge(&plane);
    let mut response = json_response(StatusCode::OK, &json!({"attestation_challenge": challenge}));
    response.headers_mut().insert(CHALLENGE_HEADER, header_value(&challenge));
    response
}

fn fresh_challenge(plane: &Plane) -> String {
    plane.nonces.mint(Purpose::AttestationChallenge, "", plane.now(), plane.rng.as_ref())
}

/// The published set of token keys.
pub(crate) fn token_keys(plane: &Plane) -> Option<KeySet> {
    let key = &plane.keys.token;
    KeySet::from_keys(vec![(key.kid().to_owned(), key.signer().public_jwk())]).ok()
}

fn cacheable(mut response: Response) -> Response {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    response
}
