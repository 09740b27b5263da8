//! Access tokens of ours, verified: signature, audience, times, and that the claims agree with one another.
//!
//! A verified token is not yet an agent: whoever shows it must also hold its key (`authenticate`).

use countersign_proto::digest::Sha256Digest;
use countersign_proto::id::SpiffeId;
use countersign_proto::jose::{Expected, JwsError, KeySet, KeySource, MAX_TOKEN_BYTES, verify_compact};
use countersign_proto::json::{self, Limits};
use countersign_proto::time::Timestamp;
use countersign_proto::token::{ACCESS_TOKEN_TYP, AccessTokenClaims};

/// How far ahead of us the issuer's clock may be, in seconds.
pub const MAX_SKEW_SECS: i64 = 5;

/// What a token must be.
#[derive(Clone, Copy, Debug)]
pub struct TokenExpectation<'a> {
    /// The authorization server.
    pub issuer: &'a str,
    /// The one resource it must be for; compared byte for byte.
    pub audience: &'a str,
    /// The server's token keys.
    pub keys: &'a KeySet,
    /// The time.
    pub now: Timestamp,
    /// How long any token may last, in seconds (300).
    pub max_lifetime_secs: i64,
}

/// A genuine token of ours. Made by [`verify_token`] alone; safe to keep and share until it expires.
///
/// ```compile_fail,E0451
/// use countersign_identity::VerifiedToken;
/// use countersign_proto::{digest::Sha256Digest, time::Timestamp, token::AccessTokenClaims};
/// fn forge(claims: AccessTokenClaims, digest: Sha256Digest, expires_at: Timestamp) -> VerifiedToken {
///     VerifiedToken { claims, digest, expires_at }
/// }
/// ```
///
/// What can be had is what was signed:
///
/// ```
/// use countersign_identity::VerifiedToken;
/// fn read(token: &VerifiedToken) -> &countersign_proto::token::AccessTokenClaims {
///     token.claims()
/// }
/// ```
#[derive(Debug)]
pub struct VerifiedToken {
    claims: AccessTokenClaims,
    digest: Sha256Digest,
    expires_at: Timestamp,
}

impl VerifiedToken {
    /// What the token says.
    #[must_use]
    pub const fn claims(&self) -> &AccessTokenClaims {
        &self.claims
    }

    /// The digest of the token's text: its name in records and caches.
    #[must_use]
    pub const fn digest(&self) -> &Sha256Digest {
        &self.digest
    }

    /// When it ends.
    #[must_use]
    pub const fn expires_at(&self) -> Timestamp {
        self.expires_at
    }
}

/// Why a token does not count. All are `invalid_token` (RFC 6750 §3.1) outside.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a sound token signed by our server.
    #[error("token not verified")]
    Jws(#[from] JwsError),
    /// Genuine, but the claims are not those of our profile.
    #[error("unexpected claims: {0}")]
    Claims(String),
    /// Another server's.
    #[error("token of another issuer")]
    Issuer,
    /// For another resource.
    #[error("token for another resource")]
    Audience,
    /// Over.
    #[error("token has expired")]
    Expired,
    /// Not yet valid.
    #[error("token is not yet valid")]
    NotYetValid,
    /// Lasts longer than any token may.
    #[error("token lasts too long")]
    Lifetime,
    /// Two claims contradict each other.
    #[error("claims contradict each other: {0}")]
    Contradiction(&'static str),
}

/// Verifies an access token.
///
/// # Errors
/// [`TokenError`], the first thing that is not as expected.
pub fn verify_token(token: &str, expect: &TokenExpectation<'_>) -> Result<VerifiedToken, TokenError> {
    let expected =
        Expected { typ: &[ACCESS_TOKEN_TYP], keys: KeySource::Set(expect.keys), max_bytes: MAX_TOKEN_BYTES };
    let verified = verify_compact(token, &expected)?;
    let claims: AccessTokenClaims = json::typed(&verified.payload, &Limits::DEFAULT)
        .map_err(|error| TokenError::Claims(error.to_string()))?;
    if claims.iss != expect.issuer {
        return Err(TokenError::Issuer);
    }
    if claims.aud != expect.audience {
        return Err(TokenError::Audience);
    }
    check_times(&claims, expect)?;
    check_consistency(&claims)?;
    Ok(VerifiedToken {
        expires_at: Timestamp::from_unix_secs(claims.exp),
        digest: Sha256Digest::of(token.as_bytes()),
        claims,
    })
}

fn check_times(claims: &AccessTokenClaims, expect: &TokenExpectation<'_>) -> Result<(), TokenError> {
    let now = expect.now.unix_secs();
    if now >= claims.exp {
        return Err(TokenError::Expired);
    }
    let newest = now.saturating_add(MAX_SKEW_SECS);
    if claims.nbf > newest || claims.iat > newest {
        return Err(TokenError::NotYetValid);
    }
    let lifetime_secs = claims.exp.saturating_sub(claims.iat);
    if lifetime_secs <= 0 || lifetime_secs > expect.max_lifetime_secs {
        return Err(TokenError::Lifetime);
    }
    Ok(())
}

/// The server never issues such tokens; if one appears, something upstream of us is broken, and we deny.
fn check_consistency(claims: &AccessTokenClaims) -> Result<(), TokenError> {
    let task = claims.task();
    let run = SpiffeId::run(&claims.act.sub.trust_domain(), &claims.client_id, &claims.sid);
    let contradiction = if claims.txn != task.task {
        "txn and task"
    } else if !task.locations.contains(&claims.aud) {
        "aud and locations"
    } else if claims.act.sub != run {
        "act and client_id, sid"
    } else if claims.env.lvl != claims.acr.env() {
        "env and acr"
    } else if claims.env.min_lvl > claims.env.lvl {
        "lvl and min_lvl"
    } else if claims.env.att_exp < claims.exp {
        "exp and att_exp"
    } else if claims.env.jkt == claims.cnf.jkt {
        "one key for both factors"
    } else {
        return Ok(());
    };
    Err(TokenError::Contradiction(contradiction))
}

#[cfg(test)]
mod tests;
