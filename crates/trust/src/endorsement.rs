//! Endorsement: is this a TPM, and which one? An EK certificate that chains to an administrator's root, or an EK
//! that the administrator listed by its digest.
//!
//! No vendor root is built in and none is fetched. That the other side holds the EK is shown later, by activation.

use std::collections::BTreeSet;

use countersign_proto::digest::Sha256Digest;
use countersign_proto::time::Timestamp;
use countersign_proto::tpm::{Attributes, Scheme, Symmetric, TpmtPublic};
use countersign_proto::x509::{self, CertFacts, EKU_ENDORSEMENT, PublicKeyKind, TpmIdentity, X509Error};
use serde::{Deserialize, Serialize};

use crate::chain::{ChainError, Roots};
use crate::der;

/// DER content of 2.23.133.8.1 (`tcg-kp-EKCertificate`).
const EKU_DER: &[u8] = &[0x67, 0x81, 0x05, 0x08, 0x01];

/// Endorsement keys without a certificate that the administrator vouches for, by [`ek_digest`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EkAllowList(BTreeSet<Sha256Digest>);

impl FromIterator<Sha256Digest> for EkAllowList {
    fn from_iter<I: IntoIterator<Item = Sha256Digest>>(digests: I) -> Self {
        Self(digests.into_iter().collect())
    }
}

/// An endorsement key that somebody vouches for; made only by [`appraise_endorsement`].
#[derive(Clone, Debug)]
pub struct EndorsedKey {
    public: TpmtPublic,
    digest: Sha256Digest,
    endorsement: Endorsement,
}

/// Who vouches for the endorsement key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case", deny_unknown_fields)]
pub enum Endorsement {
    /// A certificate that chains to a configured root.
    Certificate {
        /// Maker, model and version, if the certificate says so.
        tpm: Option<TpmIdentity>,
    },
    /// The administrator's list.
    AllowList {},
}

/// Why an endorsement key is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndorsementError {
    /// Neither a certificate nor an entry in the list.
    #[error("endorsement key has no certificate and is not listed")]
    Unendorsed,
    /// The certificate does not chain to a configured root.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The certificate cannot be read.
    #[error(transparent)]
    Certificate(#[from] X509Error),
    /// The certificate is an authority's, or not for endorsement keys (TCG EK Credential Profile §3.2.16).
    #[error("certificate is not an endorsement certificate")]
    NotAnEndorsementCertificate,
    /// The key in the certificate is not the key to be activated.
    #[error("endorsement certificate is for another key")]
    KeyMismatch,
    /// Not a storage key that a TPM made for itself.
    #[error("endorsement key has unacceptable attributes")]
    Attributes,
}

/// Accepts `ek_public` on the word of its certificate (leaf first, then the client's intermediates), else of the list.
///
/// # Errors
/// [`EndorsementError`]; a bad certificate is forgiven only for a listed key.
pub fn appraise_endorsement(
    certificates: &[Vec<u8>],
    ek_public: &[u8],
    roots: &Roots,
    listed: &EkAllowList,
    now: Timestamp,
) -> Result<EndorsedKey, EndorsementError> {
    let public = TpmtPublic::parse(ek_public).map_err(|_| EndorsementError::Attributes)?;
    let required = Attributes::RESIDENT | Attributes::RESTRICTED | Attributes::DECRYPT;
    let is_storage_key = public.attributes.has(required)
        && !public.attributes.has_any(Attributes::SIGN)
        && public.scheme() == Scheme::Null
        && matches!(public.symmetric(), Symmetric::AesCfb(_));
    let digest = ek_digest(&public).filter(|_| is_storage_key).ok_or(EndorsementError::Attributes)?;

    let by_certificate = match certificates {
        [] => Err(EndorsementError::Unendorsed),
        chain => check_certificate(chain, &public, roots, now),
    };
    let endorsement = match by_certificate {
        Ok(tpm) => Endorsement::Certificate { tpm },
        Err(_) if listed.0.contains(&digest) => Endorsement::AllowList {},
        Err(error) => return Err(error),
    };
    Ok(EndorsedKey { public, digest, endorsement })
}

fn check_certificate(
    chain: &[Vec<u8>],
    public: &TpmtPublic,
    roots: &Roots,
    now: Timestamp,
) -> Result<Option<TpmIdentity>, EndorsementError> {
    let leaf = chain.first().ok_or(EndorsementError::Unendorsed)?;
    roots.verify(chain, EKU_DER, now)?;
    let facts = x509::parse_endorsement_der(leaf)?;
    // Intermediates of some vendors carry the same usage, so the CA flag is looked at as well.
    if facts.is_ca || facts.version != 3 || !facts.has_eku(EKU_ENDORSEMENT) {
        return Err(EndorsementError::NotAnEndorsementCertificate);
    }
    if certified_spki(&facts) != der::spki(public) {
        return Err(EndorsementError::KeyMismatch);
    }
    Ok(facts.names.tpm_identity())
}

/// The key of a certificate in the form [`der::spki`] gives, also where the certificate restricts it to OAEP.
fn certified_spki(facts: &CertFacts) -> Option<Vec<u8>> {
    match &facts.public {
        PublicKeyKind::P256(_) | PublicKeyKind::P384(_) => Some(facts.spki_der.clone()),
        PublicKeyKind::Rsa { n, e } => Some(der::rsa_spki(n, e)),
        PublicKeyKind::Other => None,
    }
}

/// SHA-256 of the endorsement key's `SubjectPublicKeyInfo`: the same for every way to describe the same key, so that
/// one TPM cannot be two machines. `None` if it is not a whole key.
#[must_use]
pub fn ek_digest(public: &TpmtPublic) -> Option<Sha256Digest> {
    der::spki(public).map(|spki| Sha256Digest::of(&spki))
}

impl EndorsedKey {
    /// The public area, for [`crate::activation::make_credential`].
    #[must_use]
    pub const fn public(&self) -> &TpmtPublic {
        &self.public
    }

    /// Names the TPM in the inventory.
    #[must_use]
    pub const fn digest(&self) -> Sha256Digest {
        self.digest
    }

    /// Who vouches for it.
    #[must_use]
    pub const fn endorsement(&self) -> &Endorsement {
        &self.endorsement
    }
}

#[cfg(test)]
mod tests;
