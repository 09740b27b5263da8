//! Compact JWS (RFC 7515 §7.1), verified against what the caller expects and nothing else (RFC 8725).

use super::Algorithm;
use super::jwk::{JwkError, PublicJwk, VerifyingKey};
use super::key_set::{KeySet, MAX_KID_BYTES};
use crate::b64;
use crate::json::{Limits, Object, Value, parse_object};

/// Bytes a token of ours may have; the `max_bytes` to use where nothing smaller is known.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// What a token must be.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The `typ` values accepted, compared exactly. Never empty: a token without `typ` is refused.
    pub typ: &'a [&'a str],
    /// Where the key comes from.
    pub keys: KeySource<'a>,
    /// Bytes the whole token may have.
    pub max_bytes: usize,
}

/// Where the verification key comes from. Never from the token, save for proofs of possession.
#[derive(Clone, Copy, Debug)]
pub enum KeySource<'a> {
    /// This key.
    One(&'a PublicJwk),
    /// This key, made ready beforehand.
    Ready(&'a VerifyingKey),
    /// The key of the set that `kid` names; `kid` is required.
    Set(&'a KeySet),
    /// The `jwk` of the header: proves possession of that key, and nothing about whose it is.
    Embedded,
}

/// A header whose every member was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The type, one of those expected.
    pub typ: String,
    /// The algorithm, which is the key's.
    pub alg: Algorithm,
    /// The key's name, if the header has one.
    pub kid: Option<String>,
    /// The embedded key, with [`KeySource::Embedded`] only.
    pub jwk: Option<PublicJwk>,
}

/// A token whose signature verified. Its payload are the very bytes that were signed.
#[derive(Clone, Debug)]
pub struct VerifiedJws {
    /// The header.
    pub header: Header,
    /// The payload.
    pub payload: Vec<u8>,
    /// The key that signed.
    pub key: PublicJwk,
}

/// Why a token is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwsError {
    /// More bytes than expected.
    #[error("token too large")]
    TooLarge,
    /// Not three parts of strict base64url, or a header that is not a strict JSON object.
    #[error("malformed token")]
    Malformed,
    /// A header member that lets a token choose its own rules (RFC 8725 §3.1, §3.10).
    #[error("header member {0:?} is not accepted")]
    ForbiddenHeader(&'static str),
    /// A header member of the wrong type.
    #[error("malformed header member {0:?}")]
    HeaderMember(&'static str),
    /// `alg` is unknown or is not the key's (RFC 8725 §3.1).
    #[error("algorithm is not the key's")]
    Algorithm,
    /// `typ` is missing or another (RFC 8725 §3.11).
    #[error("unexpected token type")]
    Typ,
    /// `kid` is missing or names no key of the set.
    #[error("unknown key")]
    UnknownKey,
    /// The key is not sound.
    #[error("unsound key")]
    Jwk(#[from] JwkError),
    /// The signature does not verify.
    #[error("signature does not verify")]
    Signature,
}

/// Verifies a compact JWS.
///
/// # Errors
/// [`JwsError`] for anything unexpected. The order is: size, form, header, type, key, algorithm, signature; an
/// unsound header never gets as far as a key lookup.
pub fn verify_compact(token: &str, expected: &Expected<'_>) -> Result<VerifiedJws, JwsError> {
    verify(token, Some(expected.typ), expected.keys, expected.max_bytes)
}

/// As [`verify_compact`]; `typ: None` looks at no type, which only published vectors need.
pub(super) fn verify(
    token: &str,
    typ: Option<&[&str]>,
    keys: KeySource<'_>,
    max_bytes: usize,
) -> Result<VerifiedJws, JwsError> {
    if token.len() > max_bytes {
        return Err(JwsError::TooLarge);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(JwsError::Malformed)?;
    let (header, payload) = signed.split_once('.').ok_or(JwsError::Malformed)?;
    if payload.contains('.') {
        return Err(JwsError::Malformed);
    }
    let header = parse_object(&decode(header)?, &HEADER_LIMITS).map_err(|_| JwsError::Malformed)?;
    refuse_forbidden(&header, matches!(keys, KeySource::Embedded))?;
    let alg = text(&header, "alg")?.and_then(Algorithm::parse).ok_or(JwsError::Algorithm)?;
    let found_typ = text(&header, "typ")?;
    if let Some(accepted) = typ
        && !found_typ.is_some_and(|found| accepted.contains(&found))
    {
        return Err(JwsError::Typ);
    }
    let kid = text(&header, "kid")?;
    if kid.is_some_and(|kid| kid.len() > MAX_KID_BYTES) {
        return Err(JwsError::HeaderMember("kid"));
    }

    let owned;
    let key = match keys {
        KeySource::Ready(key) => key,
        KeySource::Set(set) => kid.and_then(|kid| set.key(kid)).ok_or(JwsError::UnknownKey)?,
        KeySource::One(jwk) => {
            owned = VerifyingKey::new(jwk.clone())?;
            &owned
        }
        KeySource::Embedded => {
            owned = VerifyingKey::parse(header.get("jwk").ok_or(JwsError::HeaderMember("jwk"))?)?;
            &owned
        }
    };
    if key.jwk().algorithm() != alg {
        return Err(JwsError::Algorithm);
    }
    let payload = decode(payload)?;
    key.verify(signed.as_bytes(), &decode(signature)?)?;

    let embedded = matches!(keys, KeySource::Embedded).then(|| key.jwk().clone());
    Ok(VerifiedJws {
        header: Header {
            typ: found_typ.unwrap_or_default().to_owned(),
            alg,
            kid: kid.map(str::to_owned),
            jwk: embedded,
        },
        payload,
        key: key.jwk().clone(),
    })
}

/// A header is small and flat; a `jwk` in it is one level more.
const HEADER_LIMITS: Limits = Limits { max_bytes: 8 * 1024, max_depth: 4, max_members: 64 };

fn decode(part: &str) -> Result<Vec<u8>, JwsError> {
    b64::url_decode(part).map_err(|_| JwsError::Malformed)
}

fn text<'a>(header: &'a Object, member: &'static str) -> Result<Option<&'a str>, JwsError> {
    match header.get(member) {
        None => Ok(None),
        Some(Value::Text(text)) => Ok(Some(text)),
        Some(_) => Err(JwsError::HeaderMember(member)),
    }
}

/// We understand no extension (`crit`, `b64`), no compression, no encryption, and take keys from nowhere else.
fn refuse_forbidden(header: &Object, embedded: bool) -> Result<(), JwsError> {
    const FORBIDDEN: [&str; 9] = ["crit", "b64", "zip", "enc", "jku", "x5u", "x5c", "x5t", "x5t#S256"];
    if let Some(member) = FORBIDDEN.iter().find(|member| header.get(member).is_some()) {
        return Err(JwsError::ForbiddenHeader(member));
    }
    if !embedded && header.get("jwk").is_some() {
        return Err(JwsError::ForbiddenHeader("jwk"));
    }
    Ok(())
}
