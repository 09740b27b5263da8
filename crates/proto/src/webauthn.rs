//! WebAuthn (Web Authentication Level 3): what a person's authenticator says, and whether it said it to us.
//!
//! Registration (§7.1) makes a [`Credential`], an assertion (§7.2) a [`VerifiedAssertion`]. Presence and
//! verification of the person are always required. Attestation statements are not looked at: whatever their format,
//! a credential counts as unattested. Whether a challenge is known, fresh and unused is the caller's business;
//! [`signed_challenge`] gives the signed value to look it up by.

mod authenticator_data;
mod client_data;
mod cose;
pub mod software;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use crate::cbor::Item;
use crate::digest::Sha256Digest;
use crate::jose::PublicJwk;

use authenticator_data::AuthenticatorData;
use client_data::ClientData;

/// Longest credential id (§4, "Credential ID").
pub const MAX_CREDENTIAL_ID_BYTES: usize = 1023;
/// Longest accepted client data.
pub const MAX_CLIENT_DATA_BYTES: usize = 4096;
/// Longest signature of an assertion; a DER-encoded P-256 signature has at most 72 bytes.
pub const MAX_SIGNATURE_BYTES: usize = 128;

/// Why a response is not accepted. Nothing of it may be used then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WebauthnError {
    /// The client data is not the strict JSON object of §5.8.1.
    #[error("malformed client data")]
    ClientData,
    /// `type` is another ceremony's (§7.1 step 7, §7.2 step 11).
    #[error("client data is for another ceremony")]
    WrongCeremony,
    /// `challenge` is not the one given (§7.1 step 8, §7.2 step 12).
    #[error("another challenge was signed")]
    WrongChallenge,
    /// `origin` is not ours, to the byte (§7.1 step 9, §7.2 step 13).
    #[error("another origin asked")]
    WrongOrigin,
    /// The page was embedded in one of another origin (§7.1 step 10, §7.2 step 14).
    #[error("asked from within another site")]
    CrossOrigin,
    /// The attestation object is not a CBOR map of `fmt`, `attStmt` and `authData`.
    #[error("malformed attestation object")]
    AttestationObject,
    /// The authenticator data does not parse, or carries what does not belong to the ceremony (§6.1).
    #[error("malformed authenticator data")]
    AuthenticatorData,
    /// `rpIdHash` is another site's (§7.1 step 13, §7.2 step 15).
    #[error("the authenticator answered for another site")]
    WrongRelyingParty,
    /// Nobody touched it (§7.1 step 14, §7.2 step 16).
    #[error("the person was not present")]
    NotPresent,
    /// It did not verify the person (§7.1 step 15, §7.2 step 17).
    #[error("the person was not verified")]
    NotVerified,
    /// Backed up without being eligible, or the eligibility changed (§7.2 steps 18 and 19).
    #[error("contradictory backup flags")]
    BackupFlags,
    /// The public key is not ES256 or `EdDSA`, or no valid point (§7.1 step 20).
    #[error("unsupported public key")]
    PublicKey,
    /// The response is by another credential than the one expected.
    #[error("another credential answered")]
    WrongCredential,
    /// The signature does not verify (§7.2 step 21).
    #[error("the signature does not verify")]
    Signature,
    /// The signature counter did not grow: two copies of the key may be in use (§7.2 step 22, §6.1.1).
    #[error("the signature counter did not grow")]
    Cloned,
}

/// What both ceremonies must agree with.
#[derive(Clone, Copy, Debug)]
pub struct Expectation<'a> {
    /// Our relying party id: a host name.
    pub rp_id: &'a str,
    /// Our origin as the browser writes it: scheme, host and any non-default port.
    pub origin: &'a str,
    /// The challenge given for this ceremony, looked up by [`signed_challenge`].
    pub challenge: &'a [u8; 32],
}

/// A registration as the browser's script sends it. Texts are base64url on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistrationResponse {
    /// `rawId`.
    #[serde(with = "bytes")]
    pub id: Vec<u8>,
    /// `response.clientDataJSON`.
    #[serde(with = "bytes")]
    pub client_data: Vec<u8>,
    /// `response.attestationObject`.
    #[serde(with = "bytes")]
    pub attestation_object: Vec<u8>,
}

/// An assertion as the browser's script sends it. Kept whole in the record, it can be verified again by anybody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AssertionResponse {
    /// `rawId`.
    #[serde(with = "bytes")]
    pub id: Vec<u8>,
    /// `response.clientDataJSON`.
    #[serde(with = "bytes")]
    pub client_data: Vec<u8>,
    /// `response.authenticatorData`.
    #[serde(with = "bytes")]
    pub authenticator_data: Vec<u8>,
    /// `response.signature`.
    #[serde(with = "bytes")]
    pub signature: Vec<u8>,
}

/// A registered passkey, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// Its id, chosen by the authenticator.
    #[serde(with = "bytes")]
    pub id: Vec<u8>,
    /// P-256 or Ed25519.
    pub public_key: PublicJwk,
    /// The highest signature counter seen; 0 if the authenticator does not count.
    pub sign_count: u32,
    /// Whether it may leave the authenticator by backup or synchronisation.
    pub backup_eligible: bool,
    /// Whether it was backed up when last seen.
    pub backed_up: bool,
    /// The model of the authenticator by its own word (unattested).
    #[serde(with = "bytes")]
    pub aaguid: Vec<u8>,
}

/// An assertion whose every part was checked. Made by [`verify_assertion`] alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedAssertion {
    credential: Credential,
    challenge: [u8; 32],
}

impl VerifiedAssertion {
    /// The credential that answered.
    #[must_use]
    pub fn credential_id(&self) -> &[u8] {
        &self.credential.id
    }

    /// The credential as it is to be stored now: with the new counter and backup state.
    #[must_use]
    pub const fn credential(&self) -> &Credential {
        &self.credential
    }

    /// The counter in the assertion.
    #[must_use]
    pub const fn sign_count(&self) -> u32 {
        self.credential.sign_count
    }

    /// Whether the passkey is a synchronised one.
    #[must_use]
    pub const fn backup_eligible(&self) -> bool {
        self.credential.backup_eligible
    }

    /// The challenge that was signed.
    #[must_use]
    pub const fn challenge(&self) -> &[u8; 32] {
        &self.challenge
    }
}

/// The challenge inside signed client data: the only value by which a pending ceremony may be looked up.
///
/// # Errors
/// [`WebauthnError::ClientData`] if there is none of 32 bytes.
pub fn signed_challenge(client_data: &[u8]) -> Result<[u8; 32], WebauthnError> {
    ClientData::parse(client_data).map(|client_data| client_data.challenge)
}

/// Registers a credential (§7.1).
///
/// # Errors
/// [`WebauthnError`] naming the first step that does not hold.
pub fn verify_registration(
    response: &RegistrationResponse,
    expected: &Expectation<'_>,
) -> Result<Credential, WebauthnError> {
    ClientData::parse(&response.client_data)?.check("webauthn.create", expected)?;
    let attestation =
        Item::parse(&response.attestation_object).map_err(|_| WebauthnError::AttestationObject)?;
    let (Some(_format), Some(Item::Map(_statement)), Some(data), Some(3)) = (
        attestation.get("fmt").and_then(Item::as_text),
        attestation.get("attStmt"),
        attestation.get("authData").and_then(Item::as_bytes),
        attestation.as_map().map(<[_]>::len),
    ) else {
        return Err(WebauthnError::AttestationObject);
    };
    let data = AuthenticatorData::parse(data)?;
    data.check_person(expected.rp_id)?;
    let attested = data.attested.ok_or(WebauthnError::AuthenticatorData)?;
    if attested.credential_id != response.id {
        return Err(WebauthnError::WrongCredential);
    }
    Ok(Credential {
        id: attested.credential_id,
        public_key: attested.public_key,
        sign_count: data.sign_count,
        backup_eligible: data.backup_eligible,
        backed_up: data.backed_up,
        aaguid: attested.aaguid.to_vec(),
    })
}

/// Verifies that `credential` answered `expected.challenge` (§7.2).
///
/// # Errors
/// [`WebauthnError`] naming the first step that does not hold; [`WebauthnError::Cloned`] only when all else did.
pub fn verify_assertion(
    response: &AssertionResponse,
    expected: &Expectation<'_>,
    credential: &Credential,
) -> Result<VerifiedAssertion, WebauthnError> {
    if response.id != credential.id {
        return Err(WebauthnError::WrongCredential);
    }
    ClientData::parse(&response.client_data)?.check("webauthn.get", expected)?;
    let data = AuthenticatorData::parse(&response.authenticator_data)?;
    data.check_person(expected.rp_id)?;
    if data.attested.is_some() {
        return Err(WebauthnError::AuthenticatorData);
    }
    if data.backup_eligible != credential.backup_eligible {
        return Err(WebauthnError::BackupFlags);
    }
    let mut signed = response.authenticator_data.clone();
    signed.extend_from_slice(Sha256Digest::of(&response.client_data).as_bytes());
    verify_signature(&credential.public_key, &signed, &response.signature)?;
    // §6.1.1: only an authenticator that has never counted may go on not counting.
    if (data.sign_count != 0 || credential.sign_count != 0) && data.sign_count <= credential.sign_count {
        return Err(WebauthnError::Cloned);
    }
    let credential =
        Credential { sign_count: data.sign_count, backed_up: data.backed_up, ..credential.clone() };
    Ok(VerifiedAssertion { credential, challenge: *expected.challenge })
}

/// ES256 is DER-encoded here (§6.5.5), unlike in JOSE.
fn verify_signature(key: &PublicJwk, message: &[u8], signature: &[u8]) -> Result<(), WebauthnError> {
    if signature.len() > MAX_SIGNATURE_BYTES {
        return Err(WebauthnError::Signature);
    }
    match key {
        PublicJwk::P256 { .. } => {
            let point = key.to_p256_uncompressed().ok_or(WebauthnError::PublicKey)?;
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
                .verify(message, signature)
                .map_err(|_| WebauthnError::Signature)
        }
        PublicJwk::Ed25519 { .. } => key.verify(message, signature).map_err(|_| WebauthnError::Signature),
        PublicJwk::Rsa { .. } => Err(WebauthnError::PublicKey),
    }
}

/// Byte strings as base64url texts.
mod bytes {
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    use crate::b64;

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&b64::url_encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        b64::url_decode(&text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
