//! The agent proof that is made once per connection: the agent's key signs the TLS exporter of that connection
//! (RFC 9266 channel binding). It proves nothing anywhere else, so there is nothing to replay.

use crate::b64;
use crate::jose::{
    Expected, JwsError, JwsSigner, KeySource, PublicJwk, SignError, Thumbprint, sign_compact, verify_compact,
};
use crate::json::{Limits, Object, Value, parse_object};
use crate::time::Timestamp;

/// The `typ` of a channel proof.
pub const CHANNEL_TYP: &str = "countersign-channel+jwt";
/// The TLS exporter label (RFC 9266 §4.2); no context, 32 bytes.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-Channel-Binding";
/// How old a channel proof may be when it arrives, in seconds.
pub const MAX_AGE_SECS: i64 = 60;
/// How far ahead of us its clock may be, in seconds.
pub const MAX_SKEW_SECS: i64 = 5;
/// Bytes a channel proof may have.
const MAX_PROOF_BYTES: usize = 4096;

/// A verified channel proof: whoever is at the other end of this connection holds this key.
///
/// ```compile_fail,E0451
/// use countersign_proto::{channel::VerifiedChannel, jose::PublicJwk};
/// fn forge(key: PublicJwk) -> VerifiedChannel {
///     let thumbprint = key.thumbprint();
///     VerifiedChannel { key, thumbprint }
/// }
/// ```
#[derive(Clone, Debug)]
pub struct VerifiedChannel {
    key: PublicJwk,
    thumbprint: Thumbprint,
}

impl VerifiedChannel {
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
}

/// Why a channel proof does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// Not a sound, correctly signed proof.
    #[error("channel proof not verified")]
    Jws(#[from] JwsError),
    /// A key of a kind agents do not use.
    #[error("proof key must be P-256 or Ed25519")]
    KeyType,
    /// A claim is missing or of the wrong type.
    #[error("claim {0:?} is missing or malformed")]
    Claim(&'static str),
    /// Made for another connection.
    #[error("proof is for another connection")]
    Exporter,
    /// Made for another gateway.
    #[error("proof is for another gateway")]
    Audience,
    /// Too old or from the future.
    #[error("proof is not current")]
    Time,
}

/// Verifies a channel proof against this connection's exporter and this gateway's origin.
///
/// # Errors
/// [`ChannelError`], the first thing that is not as expected.
pub fn verify(
    proof: &str,
    exporter: &[u8; 32],
    audience: &str,
    now: Timestamp,
) -> Result<VerifiedChannel, ChannelError> {
    let expected = Expected { typ: &[CHANNEL_TYP], keys: KeySource::Embedded, max_bytes: MAX_PROOF_BYTES };
    let verified = verify_compact(proof, &expected)?;
    if verified.header.alg.is_rsa() {
        return Err(ChannelError::KeyType);
    }
    let claims = parse_object(&verified.payload, &Limits::DEFAULT).map_err(|_| JwsError::Malformed)?;
    let claimed = b64::url_decode(text(&claims, "exporter")?).map_err(|_| ChannelError::Claim("exporter"))?;
    if aws_lc_rs::constant_time::verify_slices_are_equal(&claimed, exporter).is_err() {
        return Err(ChannelError::Exporter);
    }
    if text(&claims, "aud")? != audience {
        return Err(ChannelError::Audience);
    }
    let issued_at = claims.get("iat").and_then(Value::as_i64).ok_or(ChannelError::Claim("iat"))?;
    let age_secs = now.unix_secs().saturating_sub(issued_at);
    if !(-MAX_SKEW_SECS..=MAX_AGE_SECS).contains(&age_secs) {
        return Err(ChannelError::Time);
    }
    Ok(VerifiedChannel { thumbprint: verified.key.thumbprint(), key: verified.key })
}

/// Makes a channel proof.
///
/// # Errors
/// [`SignError`] from the key.
pub fn prove(
    signer: &dyn JwsSigner,
    exporter: &[u8; 32],
    audience: &str,
    now: Timestamp,
) -> Result<String, SignError> {
    let mut claims = Object::new();
    claims.insert("exporter", b64::url_encode(exporter))?;
    claims.insert("aud", audience)?;
    claims.insert("iat", Value::int(now.unix_secs())?)?;
    sign_compact(signer, CHANNEL_TYP, &[("jwk", signer.public_jwk().to_value())], &claims.to_jcs())
}

fn text<'a>(claims: &'a Object, claim: &'static str) -> Result<&'a str, ChannelError> {
    claims.get(claim).and_then(Value::as_str).ok_or(ChannelError::Claim(claim))
}

#[cfg(test)]
mod tests;
