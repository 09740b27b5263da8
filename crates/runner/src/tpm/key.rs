//! The machine key M as the rest of the program sees it: something that signs ES256 and has a public half.
//!
//! The private half is a blob that only the TPM that made it can use; a copy of it is worth nothing elsewhere.

use std::sync::Arc;

use countersign_proto::b64;
use countersign_proto::digest::Sha256Digest;
use countersign_proto::jose::{Algorithm, JwsSigner, PublicJwk, SignError};
use countersign_proto::tpm::{TpmtPublic, TpmtSignature, p256_uncompressed};
use serde::{Deserialize, Serialize};

use super::{Tpm, TpmError};

/// A key below the storage root key, as the state directory keeps it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, try_from = "Stored", into = "Stored")]
pub struct MachineKeyBlob {
    public: Vec<u8>,
    private: Vec<u8>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    public: String,
    private: String,
}

impl MachineKeyBlob {
    pub(super) fn new(public: Vec<u8>, private: Vec<u8>) -> Self {
        Self { public, private }
    }

    /// `TPMT_PUBLIC`.
    #[must_use]
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    pub(super) fn private(&self) -> &[u8] {
        &self.private
    }
}

impl std::fmt::Debug for MachineKeyBlob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MachineKeyBlob({})", Sha256Digest::of(&self.public))
    }
}

impl From<MachineKeyBlob> for Stored {
    fn from(blob: MachineKeyBlob) -> Self {
        Self { public: b64::url_encode(&blob.public), private: b64::url_encode(&blob.private) }
    }
}

impl TryFrom<Stored> for MachineKeyBlob {
    type Error = b64::B64Error;

    fn try_from(stored: Stored) -> Result<Self, b64::B64Error> {
        Ok(Self { public: b64::url_decode(&stored.public)?, private: b64::url_decode(&stored.private)? })
    }
}

/// M in use. Cloning shares the key, which stays in the TPM.
#[derive(Clone)]
pub struct MachineKey {
    tpm: Tpm,
    blob: Arc<MachineKeyBlob>,
    point: [u8; 65],
    jwk: PublicJwk,
}

impl std::fmt::Debug for MachineKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MachineKey({})", Sha256Digest::of(&self.point))
    }
}

impl MachineKey {
    pub(super) fn new(tpm: Tpm, blob: MachineKeyBlob) -> Result<Self, TpmError> {
        let public = TpmtPublic::parse(blob.public())?;
        let point = p256_uncompressed(&public).ok_or(TpmError::ForeignKey)?;
        let jwk = PublicJwk::from_p256_uncompressed(&point).map_err(|_| TpmError::ForeignKey)?;
        Ok(Self { tpm, blob: Arc::new(blob), point, jwk })
    }

    /// The blob to keep.
    #[must_use]
    pub fn blob(&self) -> &MachineKeyBlob {
        &self.blob
    }

    /// The TPM that holds it.
    #[must_use]
    pub fn tpm(&self) -> &Tpm {
        &self.tpm
    }

    /// `TPMT_PUBLIC`.
    #[must_use]
    pub fn public(&self) -> &[u8] {
        self.blob.public()
    }

    /// The public point, `04 ‖ x ‖ y`.
    #[must_use]
    pub fn point(&self) -> &[u8; 65] {
        &self.point
    }

    /// ES256 over `message`: `r ‖ s`. Blocks for one TPM command, at most two seconds.
    ///
    /// # Errors
    /// [`TpmError`]; nothing else signs in its place.
    pub fn sign_fixed(&self, message: &[u8]) -> Result<[u8; 64], TpmError> {
        let digest = Sha256Digest::of(message);
        let signature = TpmtSignature::parse(&self.tpm.sign(&self.blob, digest.as_bytes())?)?;
        signature
            .to_p256_fixed()
            .ok_or(TpmError::Malformed { command: "TPM2_Sign", what: "a signature of another kind" })
    }

    /// ES256 over `message` as the DER of TLS and X.509.
    ///
    /// # Errors
    /// As [`MachineKey::sign_fixed`].
    pub fn sign_der(&self, message: &[u8]) -> Result<Vec<u8>, TpmError> {
        Ok(ecdsa_der(&self.sign_fixed(message)?))
    }
}

/// `SEQUENCE { INTEGER r, INTEGER s }` with minimal, non-negative integers.
fn ecdsa_der(fixed: &[u8; 64]) -> Vec<u8> {
    let mut body = Vec::with_capacity(72);
    for number in fixed.chunks(32) {
        let zeros = number.iter().take(31).take_while(|byte| **byte == 0).count();
        let digits = &number[zeros..];
        let sign = usize::from(digits[0] & 0x80 != 0);
        // At most 33 bytes: the short length form is enough here and for the sequence.
        body.extend([0x02, u8::try_from(digits.len() + sign).unwrap_or(0)]);
        body.extend(std::iter::repeat_n(0, sign));
        body.extend_from_slice(digits);
    }
    let mut der = vec![0x30, u8::try_from(body.len()).unwrap_or(0)];
    der.extend(body);
    der
}

impl JwsSigner for MachineKey {
    fn algorithm(&self) -> Algorithm {
        Algorithm::Es256
    }

    fn public_jwk(&self) -> PublicJwk {
        self.jwk.clone()
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        self.sign_fixed(message).map(Vec::from).map_err(|error| SignError::Key(error.to_string()))
    }
}

impl rcgen::PublicKeyData for MachineKey {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for MachineKey {
    fn sign(&self, msg: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.sign_der(msg).map_err(|error| {
            tracing::warn!(%error, "the machine key did not sign a request");
            rcgen::Error::RemoteKeyError
        })
    }
}

impl rustls::sign::SigningKey for MachineKey {
    fn choose_scheme(&self, offered: &[rustls::SignatureScheme]) -> Option<Box<dyn rustls::sign::Signer>> {
        offered
            .contains(&rustls::SignatureScheme::ECDSA_NISTP256_SHA256)
            .then(|| Box::new(self.clone()) as Box<dyn rustls::sign::Signer>)
    }

    fn algorithm(&self) -> rustls::SignatureAlgorithm {
        rustls::SignatureAlgorithm::ECDSA
    }
}

impl rustls::sign::Signer for MachineKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        self.sign_der(message).map_err(|error| rustls::Error::General(error.to_string()))
    }

    fn scheme(&self) -> rustls::SignatureScheme {
        rustls::SignatureScheme::ECDSA_NISTP256_SHA256
    }
}
