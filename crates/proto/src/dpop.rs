//! DPoP proofs (RFC 9449): possession of the agent's key, shown anew for one request.
//!
//! Whether the `jti` was seen before, and whose key it is, are the caller's questions.

use crate::b64;
use crate::digest::Sha256Digest;
use crate::jose::{
    Expected, JwsError, JwsSigner, KeySource, PublicJwk, SignError, Thumbprint, sign_compact, verify_compact,
};
use crate::json::{Limits, Object, Value, parse_object};
use crate::time::Timestamp;

/// The `typ` of a proof (RFC 9449 §4.2).
pub const DPOP_TYP: &str = "dpop+jwt";
/// How old a proof may be, in seconds.
pub const MAX_AGE_SECS: i64 = 60;
/// How far ahead of us its clock may be, in seconds.
pub const MAX_SKEW_SECS: i64 = 5;
/// Bytes a proof may have.
pub const MAX_PROOF_BYTES: usize = 4096;
/// Bytes a `jti` may have.
pub const MAX_JTI_BYTES: usize = 128;

/// What a proof must say.
#[derive(Clone, Copy, Debug)]
pub struct DpopExpectation<'a> {
    /// The request's method.
    pub method: &'a str,
    /// Our public URL of the request, without query and fragment; compared byte for byte.
    pub url: &'a str,
    /// The time.
    pub now: Timestamp,
    /// How old the proof may be, in seconds ([`MAX_AGE_SECS`]).
    pub max_age_secs: i64,
    /// How far ahead of us its clock may be, in seconds ([`MAX_SKEW_SECS`]).
    pub max_skew_secs: i64,
    /// The token it comes with. `None` at the token endpoint only, where there is none yet.
    pub access_token: Option<&'a str>,
    /// The nonce it must carry; `None` where none is required.
    pub nonce: Option<&'a str>,
}

/// A proof that was verified: whoever made this request holds this key.
///
/// ```compile_fail,E0451
/// use countersign_proto::{dpop::VerifiedDpop, jose::PublicJwk, time::Timestamp};
/// fn forge(key: PublicJwk, now: Timestamp) -> VerifiedDpop {
///     let thumbprint = key.thumbprint();
///     VerifiedDpop { key, thumbprint, jti: String::new(), issued_at: now, access_token: None }
/// }
/// ```
#[derive(Clone, Debug)]
pub struct VerifiedDpop {
    key: PublicJwk,
    thumbprint: Thumbprint,
    jti: String,
    issued_at: Timestamp,
    access_token: Option<Sha256Digest>,
}

impl VerifiedDpop {
    /// The key that signed.
    #[must_use]
    pub const fn key(&self) -> &PublicJwk {
        &self.key
    }

    /// Its thumbprint.
    #[must_use]
    pub const fn thumbprint(&self) -> &Thumbprint {
        &self.thumbprint
    }

    /// The proof's own name; to be consumed once per key.
    #[must_use]
    pub fn jti(&self) -> &str {
        &self.jti
    }

    /// When it was made.
    #[must_use]
    pub const fn issued_at(&self) -> Timestamp {
        self.issued_at
    }

    /// The digest of the token it was verified to belong to; `None` at the token endpoint.
    #[must_use]
    pub const fn access_token(&self) -> Option<&Sha256Digest> {
        self.access_token.as_ref()
    }
}

/// Why a proof does not count (RFC 9449 §4.3).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DpopError {
    /// Not a sound, correctly signed proof (checks 2 to 7).
    #[error("proof not verified")]
    Jws(#[from] JwsError),
    /// A key of a kind agents do not use.
    #[error("proof key must be P-256 or Ed25519")]
    KeyType,
    /// A claim is missing or of the wrong type (check 3).
    #[error("claim {0:?} is missing or malformed")]
    Claim(&'static str),
    /// For another method (check 8).
    #[error("proof is for another method")]
    Method,
    /// For another URL (check 9).
    #[error("proof is for another url")]
    Url,
    /// Too old or from the future (check 11).
    #[error("proof is not current")]
    Time,
    /// For another token (check 12).
    #[error("proof is for another token")]
    Token,
    /// Without the nonce we asked for (check 10).
    #[error("proof lacks the current nonce")]
    Nonce,
}

impl DpopError {
    /// The error code: `use_dpop_nonce` (RFC 9449 §8) or `invalid_dpop_proof` (§5, §7.1).
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Nonce => "use_dpop_nonce",
            Self::Jws(_)
            | Self::KeyType
            | Self::Claim(_)
            | Self::Method
            | Self::Url
            | Self::Time
            | Self::Token => "invalid_dpop_proof",
        }
    }
}

/// Verifies one proof. That there was exactly one `DPoP` header is the caller's check (RFC 9449 §4.3, check 1).
///
/// # Errors
/// [`DpopError`], the first thing that is not as expected.
pub fn verify(proof: &str, expectation: &DpopExpectation<'_>) -> Result<VerifiedDpop, DpopError> {
    let expected = Expected { typ: &[DPOP_TYP], keys: KeySource::Embedded, max_bytes: MAX_PROOF_BYTES };
    let verified = verify_compact(proof, &expected)?;
    if verified.header.alg.is_rsa() {
        return Err(DpopError::KeyType);
    }
    let claims = parse_object(&verified.payload, &Limits::DEFAULT).map_err(|_| JwsError::Malformed)?;
    let jti = text(&claims, "jti")?;
    if jti.is_empty() || jti.len() > MAX_JTI_BYTES {
        return Err(DpopError::Claim("jti"));
    }
    if text(&claims, "htm")? != expectation.method {
        return Err(DpopError::Method);
    }
    if text(&claims, "htu")? != expectation.url {
        return Err(DpopError::Url);
    }
    let issued_at = claims.get("iat").and_then(Value::as_i64).ok_or(DpopError::Claim("iat"))?;
    let age_secs = expectation.now.unix_secs().saturating_sub(issued_at);
    if age_secs > expectation.max_age_secs || age_secs < -expectation.max_skew_secs {
        return Err(DpopError::Time);
    }
    let access_token = expectation.access_token.map(|token| Sha256Digest::of(token.as_bytes()));
    if let Some(token) = &access_token {
        let ath = Sha256Digest::parse(text(&claims, "ath")?).map_err(|_| DpopError::Claim("ath"))?;
        if !ath.ct_eq(token) {
            return Err(DpopError::Token);
        }
    }
    if let Some(nonce) = expectation.nonce
        && claims.get("nonce").and_then(Value::as_str) != Some(nonce)
    {
        return Err(DpopError::Nonce);
    }
    Ok(VerifiedDpop {
        thumbprint: verified.key.thumbprint(),
        key: verified.key,
        jti: jti.to_owned(),
        issued_at: Timestamp::from_unix_secs(issued_at),
        access_token,
    })
}

/// Makes a proof.
///
/// # Errors
/// [`SignError`] from the key.
pub fn prove(
    signer: &dyn JwsSigner,
    method: &str,
    url: &str,
    access_token: Option<&str>,
    nonce: Option<&str>,
    jti: &str,
    now: Timestamp,
) -> Result<String, SignError> {
    let mut claims = Object::new();
    claims.insert("jti", jti)?;
    claims.insert("htm", method)?;
    claims.insert("htu", url)?;
    claims.insert("iat", Value::int(now.unix_secs())?)?;
    if let Some(token) = access_token {
        claims.insert("ath", b64::url_encode(Sha256Digest::of(token.as_bytes()).as_bytes()))?;
    }
    if let Some(nonce) = nonce {
        claims.insert("nonce", nonce)?;
    }
    sign_compact(signer, DPOP_TYP, &[("jwk", signer.public_jwk().to_value())], &claims.to_jcs())
}

fn text<'a>(claims: &'a Object, claim: &'static str) -> Result<&'a str, DpopError> {
    claims.get(claim).and_then(Value::as_str).ok_or(DpopError::Claim(claim))
}

#[cfg(test)]
mod tests;
