//! `device-attest-01` with a TPM (draft-ietf-acme-device-attest §5, `WebAuthn` L3 §8.3): is this key in the TPM of the
//! machine that the order names, and does the answer belong to this account and challenge?
//!
//! Only format `tpm`, only our own AK certificates, and no self-attestation. Every failure is
//! `badAttestationStatement` outside; the variant goes to the record.

use countersign_proto::acme::{TpmStatement, attestation_digest};
use countersign_proto::jose::PublicJwk;
use countersign_proto::time::Timestamp;
use countersign_proto::tpm::{
    Attested, Attributes, HashAlg, Scheme, Symmetric, TpmError, TpmsAttest, TpmtPublic, TpmtSignature, alg,
    p256_point, verify_signature,
};
use countersign_proto::x509::{self, CertFacts, EKU_AK, X509Error};
use serde::{Deserialize, Serialize};

use crate::chain::{ChainError, Roots};
use crate::der;
use crate::machine::Machine;
use crate::quote::ClockState;

/// DER content of 2.23.133.8.3 (`tcg-kp-AIKCertificate`).
const EKU_DER: &[u8] = &[0x67, 0x81, 0x05, 0x08, 0x03];

/// What an attestation has to fit. Nothing in it is optional.
#[derive(Clone, Copy, Debug)]
pub struct Expectation<'a> {
    /// Key authorization of the challenge, by the account's own key.
    pub key_authorization: &'a str,
    /// Roots of our attestation CA.
    pub ak_roots: &'a Roots,
    /// The machine that the order's permanent identifier names.
    pub machine: &'a Machine,
    /// Now.
    pub now: Timestamp,
}

/// A P-256 key that cannot leave the TPM of a known machine; made only by [`verify`], or read back from an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttestedKey {
    jwk: PublicJwk,
    ak_name: Vec<u8>,
    clock: ClockState,
}

/// Why an attestation does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceAttestError {
    /// A structure cannot be read, or its signature does not verify.
    #[error(transparent)]
    Structure(#[from] TpmError),
    /// The AK certificate cannot be read.
    #[error(transparent)]
    Certificate(#[from] X509Error),
    /// The AK certificate does not chain to our attestation CA.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// An AK certificate that breaks `WebAuthn` L3 §8.3.1.
    #[error("ak certificate breaks the rule on {0}")]
    AkCertificate(&'static str),
    /// The AK certificate is for another key than the machine's AK.
    #[error("attestation is by another machine's key")]
    AkMismatch,
    /// The evidence names another device than the order (or none).
    #[error("attestation names another device")]
    IdentifierMismatch,
    /// An algorithm that is not accepted, or not the one that was used.
    #[error("attestation algorithm is not acceptable")]
    Algorithm,
    /// A quote or a creation statement.
    #[error("attestation is not a certification")]
    NotCertify,
    /// Not for this key authorization.
    #[error("attestation is for another challenge or account")]
    Stale,
    /// About another key than `pubArea`.
    #[error("attestation is about another key")]
    NameMismatch,
    /// A key that may leave the TPM, is no plain signing key, or not P-256.
    #[error("attested key has unacceptable attributes")]
    KeyAttributes,
    /// Boot counters or firmware went back.
    #[error("tpm clock or firmware went back")]
    ClockRollback,
}

/// Verifies an attestation statement.
///
/// # Errors
/// [`DeviceAttestError`] of the first check that fails.
pub fn verify(
    statement: &TpmStatement,
    expected: &Expectation<'_>,
) -> Result<AttestedKey, DeviceAttestError> {
    let machine = expected.machine;
    check_ak_certificate(statement, expected)?;

    let signature = TpmtSignature::parse(&statement.sig)?;
    if cose_algorithm(&signature) != Some(statement.alg) {
        return Err(DeviceAttestError::Algorithm);
    }
    verify_signature(machine.ak.public(), &statement.cert_info, &signature)?;

    let attest = TpmsAttest::parse(&statement.cert_info)?;
    let Attested::Certify { name, .. } = &attest.attested else { return Err(DeviceAttestError::NotCertify) };
    if attest.extra_data != attestation_digest(expected.key_authorization).as_bytes() {
        return Err(DeviceAttestError::Stale);
    }
    if attest.qualified_signer != machine.ak.qualified_name() {
        return Err(DeviceAttestError::AkMismatch);
    }
    let public = TpmtPublic::parse(&statement.pub_area)?;
    if *name != public.name() {
        return Err(DeviceAttestError::NameMismatch);
    }
    let jwk = check_key(&public).ok_or(DeviceAttestError::KeyAttributes)?;
    let clock = ClockState::of(&attest);
    if !machine.clock.is_followed_by(&clock) {
        return Err(DeviceAttestError::ClockRollback);
    }
    Ok(AttestedKey { jwk, ak_name: machine.ak.name().to_vec(), clock })
}

fn check_ak_certificate(
    statement: &TpmStatement,
    expected: &Expectation<'_>,
) -> Result<(), DeviceAttestError> {
    let leaf = statement.x5c.first().ok_or(DeviceAttestError::Chain(ChainError::Size))?;
    let facts = x509::parse_der(leaf)?;
    check_ak_form(&facts)?;
    expected.ak_roots.verify(&statement.x5c, EKU_DER, expected.now)?;
    if Some(&facts.spki_der) != der::spki(expected.machine.ak.public()).as_ref() {
        return Err(DeviceAttestError::AkMismatch);
    }
    // The identifier is what the certificate of our CA says, octet for octet; absence is not agreement.
    match facts.names.permanent_identifiers.as_slice() {
        [one] if one == expected.machine.permanent_identifier.as_str() => Ok(()),
        _ => Err(DeviceAttestError::IdentifierMismatch),
    }
}

/// `WebAuthn` L3 §8.3.1.
fn check_ak_form(facts: &CertFacts) -> Result<(), DeviceAttestError> {
    let broken = |rule: &'static str| Err(DeviceAttestError::AkCertificate(rule));
    if facts.version != 3 {
        return broken("version");
    }
    if !facts.subject_empty {
        return broken("subject");
    }
    if !facts.has_san_critical || facts.names.tpm_identity().is_none() {
        return broken("names");
    }
    if !facts.has_eku(EKU_AK) {
        return broken("extended key usage");
    }
    if facts.is_ca || facts.key_usage.is_some_and(|usage| usage.key_cert_sign) {
        return broken("basic constraints");
    }
    Ok(())
}

/// The COSE algorithm (RFC 9053 §2) of a TPM signature, for the ones accepted; RS1 is not among them.
const fn cose_algorithm(signature: &TpmtSignature) -> Option<i64> {
    match signature {
        TpmtSignature::Ecdsa { hash: HashAlg::Sha256, .. } => Some(-7),
        TpmtSignature::Ecdsa { hash: HashAlg::Sha384, .. } => Some(-35),
        TpmtSignature::Rsassa { hash: HashAlg::Sha256, .. } => Some(-257),
        TpmtSignature::Rsapss { hash: HashAlg::Sha256, .. } => Some(-37),
        TpmtSignature::Ecdsa { hash: HashAlg::Sha512, .. }
        | TpmtSignature::Rsassa { hash: HashAlg::Sha384 | HashAlg::Sha512, .. }
        | TpmtSignature::Rsapss { hash: HashAlg::Sha384 | HashAlg::Sha512, .. } => None,
    }
}

fn check_key(public: &TpmtPublic) -> Option<PublicJwk> {
    let is_signer = public.attributes.has(Attributes::RESIDENT | Attributes::SIGN)
        && !public.attributes.has_any(Attributes::RESTRICTED | Attributes::DECRYPT)
        && public.symmetric() == Symmetric::Null;
    let is_es256 = match public.scheme() {
        Scheme::Null => true,
        Scheme::Signing { scheme, hash } => scheme == alg::ECDSA && hash == HashAlg::Sha256,
    };
    p256_point(public).filter(|_| is_signer && is_es256)
}

impl AttestedKey {
    /// The key.
    #[must_use]
    pub const fn jwk(&self) -> &PublicJwk {
        &self.jwk
    }

    /// Name of the AK that attested it.
    #[must_use]
    pub fn ak_name(&self) -> &[u8] {
        &self.ak_name
    }

    /// The clock to be remembered.
    #[must_use]
    pub const fn clock(&self) -> ClockState {
        self.clock
    }
}

#[cfg(test)]
mod tests;
