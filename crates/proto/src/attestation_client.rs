//! OAuth client attestation (draft-ietf-oauth-attestation-based-client-auth-10): our attester vouches for a
//! machine's key M, and M proves that it is there. The machine half of a token request.
//!
//! The combined mode, where one DPoP proof serves as both, is not offered: it would make two factors one. That
//! the challenge is ours and unused is the caller's check.

use serde::{Deserialize, Serialize};

use crate::digest::Sha256Digest;
use crate::id::{AgentId, MachineId, SpiffeId};
use crate::jose::{
    Expected, JwsError, JwsSigner, KeySet, KeySource, MAX_TOKEN_BYTES, PublicJwk, SignError, Thumbprint,
    VerifyingKey, sign_compact, verify_compact,
};
use crate::json::{self, Limits, Object, Value, parse_object};
use crate::time::Timestamp;

/// The `typ` of a client attestation (§5.1).
pub const ATTESTATION_TYP: &str = "oauth-client-attestation+jwt";
/// The `typ` of its proof of possession (§5.2).
pub const POP_TYP: &str = "oauth-client-attestation-pop+jwt";
/// The claim that holds [`MachineClaim`].
pub const MACHINE_CLAIM: &str = "urn:countersign:machine";
/// How old a proof of possession may be, in seconds.
pub const MAX_POP_AGE_SECS: i64 = 60;
/// How far ahead of us a clock may be, in seconds.
pub const MAX_SKEW_SECS: i64 = 5;
/// No attestation lasts longer than this, in seconds, whatever it says.
pub const MAX_ATTESTATION_SECS: i64 = 24 * 3600;
/// Bytes a `jti` or `challenge` may have.
const MAX_NAME_BYTES: usize = 256;

/// What the attester found out about a machine. Times are seconds since the epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineClaim {
    /// The machine.
    pub id: MachineId,
    /// Its SPIFFE ID.
    pub sub: SpiffeId,
    /// The environment level, 0 to 4.
    pub lvl: u8,
    /// When it was attested.
    pub att_time: i64,
    /// Until when that counts.
    pub att_exp: i64,
    /// The reference values it matched.
    #[serde(rename = "ref")]
    pub reference: String,
    /// The digest of the evidence record.
    pub ev: Sha256Digest,
}

/// What an attestation must be.
#[derive(Clone, Copy, Debug)]
pub struct AttestationExpectation<'a> {
    /// The attester's `iss`.
    pub attester: &'a str,
    /// The attester's keys.
    pub keys: &'a KeySet,
    /// The time.
    pub now: Timestamp,
    /// How long ago the machine may have been attested, in seconds.
    pub max_age_secs: i64,
}

/// A verified attestation: our attester vouches that this key is this machine's. Not yet that the machine is here.
#[derive(Clone, Debug)]
pub struct VerifiedAttestation {
    client: AgentId,
    machine: MachineClaim,
    key: VerifyingKey,
    thumbprint: Thumbprint,
    expires_at: Timestamp,
}

/// A verified attestation and its proof of possession: this machine takes part in this request.
///
/// ```compile_fail,E0451
/// use countersign_proto::{attestation_client::{VerifiedAttestation, VerifiedClient}, time::Timestamp};
/// fn forge(attestation: VerifiedAttestation, now: Timestamp) -> VerifiedClient {
///     VerifiedClient { attestation, jti: String::new(), challenge: String::new(), issued_at: now }
/// }
/// ```
#[derive(Clone, Debug)]
pub struct VerifiedClient {
    attestation: VerifiedAttestation,
    jti: String,
    challenge: String,
    issued_at: Timestamp,
}

/// Why an attestation does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttestationError {
    /// Not a sound, correctly signed attestation (§7.1).
    #[error("attestation not verified")]
    Attestation(#[source] JwsError),
    /// Not a sound proof by the attested key (§7.2).
    #[error("proof of possession not verified")]
    Proof(#[source] JwsError),
    /// A claim is missing or of the wrong type.
    #[error("claim {0:?} is missing or malformed")]
    Claim(&'static str),
    /// From an attester we do not follow.
    #[error("unknown attester")]
    Attester,
    /// The attestation and its proof, or the request, name different clients.
    #[error("client names differ")]
    Client,
    /// The proof is for another server: `aud` must be our issuer alone.
    #[error("proof is for another server")]
    Audience,
    /// The proof is too old or from the future.
    #[error("proof is not current")]
    ProofTime,
    /// The attestation says it lasts longer than any may, or comes from the future.
    #[error("attestation times are not plausible")]
    Times,
    /// The attestation expired, or the machine was attested too long ago (§7.4).
    #[error("attestation is not fresh enough")]
    Stale,
    /// The proof carries no challenge of ours (§7.4).
    #[error("proof carries no challenge")]
    Challenge,
}

impl AttestationError {
    /// The error code (§7.4).
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Stale => "use_fresh_attestation",
            Self::Challenge => "use_attestation_challenge",
            Self::Attestation(_)
            | Self::Proof(_)
            | Self::Claim(_)
            | Self::Attester
            | Self::Client
            | Self::Audience
            | Self::ProofTime
            | Self::Times => "invalid_client_attestation",
        }
    }
}

/// Verifies an attestation (§7.1).
///
/// # Errors
/// [`AttestationError`], the first thing that is not as expected.
pub fn verify_attestation(
    attestation: &str,
    expectation: &AttestationExpectation<'_>,
) -> Result<VerifiedAttestation, AttestationError> {
    let expected = Expected {
        typ: &[ATTESTATION_TYP],
        keys: KeySource::Set(expectation.keys),
        max_bytes: MAX_TOKEN_BYTES,
    };
    let verified = verify_compact(attestation, &expected).map_err(AttestationError::Attestation)?;
    let claims = parse_object(&verified.payload, &Limits::DEFAULT)
        .map_err(|_| AttestationError::Attestation(JwsError::Malformed))?;
    if text(&claims, "iss")? != expectation.attester {
        return Err(AttestationError::Attester);
    }
    let client =
        AgentId::from_client_id(text(&claims, "sub")?).map_err(|_| AttestationError::Claim("sub"))?;
    let key = claims
        .get("cnf")
        .and_then(Value::as_object)
        .filter(|cnf| cnf.len() == 1)
        .and_then(|cnf| cnf.get("jwk"))
        .and_then(|jwk| VerifyingKey::parse(jwk).ok())
        .filter(|key| !key.jwk().algorithm().is_rsa())
        .ok_or(AttestationError::Claim("cnf"))?;
    let machine: MachineClaim = claims
        .get(MACHINE_CLAIM)
        .cloned()
        .and_then(|claim| claim.into_typed().ok())
        .filter(|claim: &MachineClaim| claim.lvl <= crate::oauth::Acr::MAX_ENV)
        .ok_or(AttestationError::Claim(MACHINE_CLAIM))?;

    let (iat, exp) = (int(&claims, "iat")?, int(&claims, "exp")?);
    let now = expectation.now.unix_secs();
    let newest = now.saturating_add(MAX_SKEW_SECS);
    if iat > newest
        || machine.att_time > newest
        || exp <= iat
        || exp.saturating_sub(iat) > MAX_ATTESTATION_SECS
        || machine.att_exp <= machine.att_time
    {
        return Err(AttestationError::Times);
    }
    let too_old = now.saturating_sub(machine.att_time) > expectation.max_age_secs;
    if now >= exp || now >= machine.att_exp || too_old {
        return Err(AttestationError::Stale);
    }
    Ok(VerifiedAttestation {
        thumbprint: key.jwk().thumbprint(),
        expires_at: Timestamp::from_unix_secs(exp.min(machine.att_exp)),
        client,
        machine,
        key,
    })
}

/// Verifies the proof of possession that came with an attestation (§7.2). `issuer` is our own identifier.
///
/// # Errors
/// [`AttestationError`], the first thing that is not as expected.
pub fn verify_pop(
    pop: &str,
    attestation: VerifiedAttestation,
    issuer: &str,
    now: Timestamp,
) -> Result<VerifiedClient, AttestationError> {
    let expected =
        Expected { typ: &[POP_TYP], keys: KeySource::Ready(&attestation.key), max_bytes: MAX_TOKEN_BYTES };
    let verified = verify_compact(pop, &expected).map_err(AttestationError::Proof)?;
    let claims = parse_object(&verified.payload, &Limits::DEFAULT)
        .map_err(|_| AttestationError::Proof(JwsError::Malformed))?;
    // Earlier drafts required `iss`, the current one does not: whoever says it must say it right.
    if claims.get("iss").is_some() && text(&claims, "iss")? != attestation.client.client_id() {
        return Err(AttestationError::Client);
    }
    match claims.get("aud") {
        Some(Value::Text(audience)) if audience == issuer => {}
        _ => return Err(AttestationError::Audience),
    }
    let issued_at = int(&claims, "iat")?;
    let age_secs = now.unix_secs().saturating_sub(issued_at);
    if !(-MAX_SKEW_SECS..=MAX_POP_AGE_SECS).contains(&age_secs) {
        return Err(AttestationError::ProofTime);
    }
    let jti = name(text(&claims, "jti")?).ok_or(AttestationError::Claim("jti"))?;
    let challenge = match claims.get("challenge") {
        None => return Err(AttestationError::Challenge),
        Some(_) => name(text(&claims, "challenge")?).ok_or(AttestationError::Claim("challenge"))?,
    };
    Ok(VerifiedClient { attestation, jti, challenge, issued_at: Timestamp::from_unix_secs(issued_at) })
}

/// What an attester is about to sign.
#[derive(Clone, Copy, Debug)]
pub struct Attestation<'a> {
    /// The attester's `iss`.
    pub issuer: &'a str,
    /// The agent it is for.
    pub client: &'a AgentId,
    /// The machine's key M.
    pub machine_key: &'a PublicJwk,
    /// What was found out about the machine.
    pub machine: &'a MachineClaim,
    /// The time.
    pub now: Timestamp,
    /// When it stops counting.
    pub expires_at: Timestamp,
}

/// Makes an attestation. `kid` names the attester's key.
///
/// # Errors
/// [`SignError`] from the key.
pub fn prove_attestation(
    attester: &dyn JwsSigner,
    kid: &str,
    attestation: &Attestation<'_>,
) -> Result<String, SignError> {
    let mut cnf = Object::new();
    cnf.insert("jwk", attestation.machine_key.to_value())?;
    let mut claims = Object::new();
    claims.insert("iss", attestation.issuer)?;
    claims.insert("sub", attestation.client.client_id())?;
    claims.insert("iat", Value::int(attestation.now.unix_secs())?)?;
    claims.insert("exp", Value::int(attestation.expires_at.unix_secs())?)?;
    claims.insert("cnf", cnf)?;
    claims.insert(MACHINE_CLAIM, json::from_serde(attestation.machine)?)?;
    sign_compact(attester, ATTESTATION_TYP, &[("kid", Value::from(kid))], &claims.to_jcs())
}

/// Makes the machine's proof of possession for one request.
///
/// # Errors
/// [`SignError`] from the key.
pub fn prove_pop(
    machine: &dyn JwsSigner,
    client: &AgentId,
    issuer: &str,
    challenge: &str,
    jti: &str,
    now: Timestamp,
) -> Result<String, SignError> {
    let mut claims = Object::new();
    claims.insert("iss", client.client_id())?;
    claims.insert("aud", issuer)?;
    claims.insert("iat", Value::int(now.unix_secs())?)?;
    claims.insert("jti", jti)?;
    claims.insert("challenge", challenge)?;
    sign_compact(machine, POP_TYP, &[], &claims.to_jcs())
}

impl VerifiedAttestation {
    /// The agent it was made for.
    #[must_use]
    pub const fn client(&self) -> &AgentId {
        &self.client
    }

    /// What the attester says about the machine.
    #[must_use]
    pub const fn machine(&self) -> &MachineClaim {
        &self.machine
    }

    /// The machine's key M.
    #[must_use]
    pub const fn key(&self) -> &PublicJwk {
        self.key.jwk()
    }

    /// The thumbprint of M.
    #[must_use]
    pub const fn thumbprint(&self) -> &Thumbprint {
        &self.thumbprint
    }

    /// When it stops counting: the earlier of its own end and the evidence's.
    #[must_use]
    pub const fn expires_at(&self) -> Timestamp {
        self.expires_at
    }
}

impl VerifiedClient {
    /// The attestation that the proof belongs to.
    #[must_use]
    pub const fn attestation(&self) -> &VerifiedAttestation {
        &self.attestation
    }

    /// The proof's own name; to be consumed once per key.
    #[must_use]
    pub fn jti(&self) -> &str {
        &self.jti
    }

    /// The challenge it answers; to be consumed once.
    #[must_use]
    pub fn challenge(&self) -> &str {
        &self.challenge
    }

    /// When the proof was made.
    #[must_use]
    pub const fn issued_at(&self) -> Timestamp {
        self.issued_at
    }
}

fn text<'a>(claims: &'a Object, claim: &'static str) -> Result<&'a str, AttestationError> {
    claims.get(claim).and_then(Value::as_str).ok_or(AttestationError::Claim(claim))
}

fn int(claims: &Object, claim: &'static str) -> Result<i64, AttestationError> {
    claims.get(claim).and_then(Value::as_i64).ok_or(AttestationError::Claim(claim))
}

fn name(text: &str) -> Option<String> {
    (1..=MAX_NAME_BYTES).contains(&text.len()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests;
