//! Requests as flattened JWS (RFC 8555 §6.2, RFC 7515 §7.2.2), more strictly than either asks.
//!
//! A [`SignedRequest`] shows only what is needed to find the key; the payload appears after the signature was checked.

use super::problem::object;
use super::{AcmeProblem, Problem};
use crate::b64;
use crate::jose::{Algorithm, JwsSigner, PublicJwk, SignError};
use crate::json::{self, Limits, Object, Value};

/// Largest request body in bytes.
pub const MAX_REQUEST_BYTES: usize = 128 * 1024;

const LIMITS: Limits = Limits { max_bytes: MAX_REQUEST_BYTES, max_depth: 8, max_members: 1000 };

/// A request whose signature has not been checked yet.
#[derive(Clone, Debug)]
pub struct SignedRequest {
    algorithm: Algorithm,
    key: KeyReference,
    nonce: String,
    url: String,
    signing_input: String,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

#[derive(Clone, Debug)]
enum KeyReference {
    Embedded(PublicJwk),
    Account(String),
}

/// A request whose signature, key, URL and form were checked. Its nonce still has to be consumed.
#[derive(Clone, Debug)]
pub struct VerifiedAcmeRequest {
    payload: Vec<u8>,
    key: PublicJwk,
    account_url: Option<String>,
    nonce: String,
    url: String,
}

impl SignedRequest {
    /// Reads a flattened JWS with exactly `protected`, `payload` and `signature`, and a protected header with
    /// exactly `alg`, `nonce`, `url` and one of `jwk` and `kid`.
    ///
    /// # Errors
    /// `malformed`, `badSignatureAlgorithm` with the list of ours, `badPublicKey` or `badNonce`.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        let outer =
            json::parse_object(body, &LIMITS).map_err(|_| malformed("the body is not a json object"))?;
        let [protected, payload, signature] = flattened(&outer)?;
        let header = decode(protected, "the protected header is not base64url")?;
        let header = json::parse_object(&header, &LIMITS)
            .map_err(|_| malformed("the protected header is not a json object"))?;
        only(&header, &["alg", "nonce", "url", "jwk", "kid"])?;

        let algorithm = match header.get("alg").and_then(Value::as_str).and_then(Algorithm::parse) {
            Some(algorithm @ (Algorithm::Es256 | Algorithm::EdDsa)) => algorithm,
            _ => {
                return Err(Problem::new(
                    AcmeProblem::BadSignatureAlgorithm,
                    "the algorithm is not supported",
                ));
            }
        };
        let key = match (header.get("jwk"), header.get("kid")) {
            (Some(jwk), None) => KeyReference::Embedded(
                PublicJwk::parse(jwk)
                    .map_err(|_| Problem::new(AcmeProblem::BadPublicKey, "the jwk is not acceptable"))?,
            ),
            (None, Some(Value::Text(kid))) => KeyReference::Account(kid.clone()),
            _ => return Err(malformed("exactly one of jwk and kid is required")),
        };
        let nonce = required_text(&header, "nonce")?;
        if b64::url_decode(nonce).is_err() || nonce.is_empty() {
            return Err(Problem::new(AcmeProblem::BadNonce, "the nonce is not base64url"));
        }
        Ok(Self {
            algorithm,
            key,
            nonce: nonce.to_owned(),
            url: required_text(&header, "url")?.to_owned(),
            signing_input: format!("{protected}.{payload}"),
            payload: decode(payload, "the payload is not base64url")?,
            signature: decode(signature, "the signature is not base64url")?,
        })
    }

    /// The nonce to be consumed.
    #[must_use]
    pub fn nonce(&self) -> &str {
        &self.nonce
    }

    /// The account URL that the request names as its key, if it names one.
    #[must_use]
    pub fn account_url(&self) -> Option<&str> {
        match &self.key {
            KeyReference::Account(url) => Some(url),
            KeyReference::Embedded(_) => None,
        }
    }

    /// Verifies a request that brings its own key (newAccount, and revocation with the certificate's key).
    ///
    /// # Errors
    /// `malformed` for a request by `kid` or with a wrong signature, `unauthorized` for another URL.
    pub fn verify_embedded(self, url: &str) -> Result<VerifiedAcmeRequest, Problem> {
        let KeyReference::Embedded(key) = &self.key else {
            return Err(malformed("this request needs a jwk"));
        };
        let key = key.clone();
        self.verify(url, key, None)
    }

    /// Verifies a request of the account that it names, under that account's key.
    ///
    /// # Errors
    /// `malformed` for a request with `jwk` or with a wrong signature, `unauthorized` for another URL.
    pub fn verify_account(self, url: &str, key: &PublicJwk) -> Result<VerifiedAcmeRequest, Problem> {
        let KeyReference::Account(account) = &self.key else {
            return Err(malformed("this request needs a kid"));
        };
        let account = account.clone();
        self.verify(url, key.clone(), Some(account))
    }

    fn verify(
        self,
        url: &str,
        key: PublicJwk,
        account_url: Option<String>,
    ) -> Result<VerifiedAcmeRequest, Problem> {
        if key.algorithm() != self.algorithm {
            return Err(Problem::new(AcmeProblem::BadPublicKey, "the key does not fit the algorithm"));
        }
        key.verify(self.signing_input.as_bytes(), &self.signature)
            .map_err(|_| malformed("the signature does not verify"))?;
        // RFC 8555 §6.4: after the signature, so that only the signer learns about it.
        if self.url != url {
            return Err(Problem::new(
                AcmeProblem::Unauthorized,
                "the url in the header is not the request's",
            ));
        }
        Ok(VerifiedAcmeRequest { payload: self.payload, key, account_url, nonce: self.nonce, url: self.url })
    }
}

impl VerifiedAcmeRequest {
    /// The payload; empty for POST-as-GET.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Whether this only reads (RFC 8555 §6.3).
    #[must_use]
    pub fn is_post_as_get(&self) -> bool {
        self.payload.is_empty()
    }

    /// The key that signed.
    #[must_use]
    pub const fn key(&self) -> &PublicJwk {
        &self.key
    }

    /// The account URL, unless the request brought its key.
    #[must_use]
    pub fn account_url(&self) -> Option<&str> {
        self.account_url.as_deref()
    }

    /// The nonce to be consumed.
    #[must_use]
    pub fn nonce(&self) -> &str {
        &self.nonce
    }

    /// The URL it was sent to.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// Signs a request as the client. Without an account URL the key itself goes along.
///
/// # Errors
/// [`SignError`] of the signer.
pub fn sign_request(
    signer: &dyn JwsSigner,
    account_url: Option<&str>,
    nonce: &str,
    url: &str,
    payload: &[u8],
) -> Result<Vec<u8>, SignError> {
    let key = match account_url {
        Some(account) => ("kid", Value::Text(account.to_owned())),
        None => ("jwk", signer.public_jwk().to_value()),
    };
    let header = object([
        ("alg", Value::Text(signer.algorithm().as_str().to_owned())),
        key,
        ("nonce", Value::Text(nonce.to_owned())),
        ("url", Value::Text(url.to_owned())),
    ]);
    let protected = b64::url_encode(&header.to_jcs());
    let payload = b64::url_encode(payload);
    let signature = signer.sign(format!("{protected}.{payload}").as_bytes())?;
    Ok(flatten(protected, payload, &signature).to_jcs())
}

/// The three members of a flattened JWS and no other; `header` and `signatures` thereby are refused.
pub(super) fn flattened(outer: &Object) -> Result<[&str; 3], Problem> {
    only(outer, &["protected", "payload", "signature"])?;
    Ok([
        required_text(outer, "protected")?,
        required_text(outer, "payload")?,
        required_text(outer, "signature")?,
    ])
}

pub(super) fn flatten(protected: String, payload: String, signature: &[u8]) -> Value {
    object([
        ("protected", Value::Text(protected)),
        ("payload", Value::Text(payload)),
        ("signature", Value::Text(b64::url_encode(signature))),
    ])
}

pub(super) fn only(object: &Object, names: &[&str]) -> Result<(), Problem> {
    if object.iter().all(|(name, _)| names.contains(&name)) {
        Ok(())
    } else {
        Err(malformed("the jws has a member that is not allowed"))
    }
}

pub(super) fn required_text<'a>(object: &'a Object, name: &str) -> Result<&'a str, Problem> {
    object.get(name).and_then(Value::as_str).ok_or_else(|| malformed("the jws lacks a required member"))
}

pub(super) fn decode(text: &str, otherwise: &'static str) -> Result<Vec<u8>, Problem> {
    b64::url_decode(text).map_err(|_| malformed(otherwise))
}

pub(super) fn malformed(detail: &'static str) -> Problem {
    Problem::new(AcmeProblem::Malformed, detail)
}
