//! An authenticator in software, for tests and demonstrations: it says yes without asking anybody.
//!
//! Never a factor of anything: its key is in memory and its flags are what the caller wants them to be.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};

use super::{AssertionResponse, RegistrationResponse, cose};
use crate::b64;
use crate::cbor::Item;
use crate::digest::Sha256Digest;
use crate::jose::{JwsSigner as _, PublicJwk, SoftwareEd25519};

/// UP, UV.
pub const PRESENT_AND_VERIFIED: u8 = 0x05;

enum Key {
    P256(Box<EcdsaKeyPair>),
    Ed25519(Box<SoftwareEd25519>),
}

/// One credential and the browser around it.
pub struct SoftwareAuthenticator {
    key: Key,
    id: Vec<u8>,
    /// Flags of the next response.
    pub flags: u8,
    /// Counter of the next assertion; stays 0 if set to 0.
    pub sign_count: u32,
}

/// The key could not be generated or did not sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("software authenticator failed")]
pub struct SoftwareError;

impl SoftwareAuthenticator {
    /// With a new P-256 key.
    ///
    /// # Errors
    /// [`SoftwareError`] if the key cannot be generated.
    pub fn p256() -> Result<Self, SoftwareError> {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(|_| SoftwareError)?;
        Ok(Self::with(Key::P256(Box::new(key))))
    }

    /// With a new Ed25519 key.
    ///
    /// # Errors
    /// [`SoftwareError`] if the key cannot be generated.
    pub fn ed25519() -> Result<Self, SoftwareError> {
        let key = SoftwareEd25519::generate().map_err(|_| SoftwareError)?;
        Ok(Self::with(Key::Ed25519(Box::new(key))))
    }

    fn with(key: Key) -> Self {
        let mut made = Self { key, id: Vec::new(), flags: PRESENT_AND_VERIFIED, sign_count: 1 };
        made.id = made.public_key().map_or_else(|_| Vec::new(), |key| key.thumbprint().as_bytes().to_vec());
        made
    }

    /// The credential id.
    #[must_use]
    pub fn id(&self) -> &[u8] {
        &self.id
    }

    /// The public key.
    ///
    /// # Errors
    /// [`SoftwareError`] if it is no valid point, which does not happen.
    pub fn public_key(&self) -> Result<PublicJwk, SoftwareError> {
        match &self.key {
            Key::P256(key) => {
                let point = key.public_key().as_ref().try_into().map_err(|_| SoftwareError)?;
                PublicJwk::from_p256_uncompressed(point).map_err(|_| SoftwareError)
            }
            Key::Ed25519(key) => Ok(key.public_jwk()),
        }
    }

    /// Answers `navigator.credentials.create` from a page at `origin`.
    ///
    /// # Errors
    /// [`SoftwareError`] if the key fails.
    pub fn register(
        &self,
        rp_id: &str,
        origin: &str,
        challenge: &[u8; 32],
    ) -> Result<RegistrationResponse, SoftwareError> {
        let mut data = self.header(rp_id, self.flags | 0x40, 0);
        data.extend_from_slice(&[0; 16]);
        data.extend_from_slice(&u16::try_from(self.id.len()).map_err(|_| SoftwareError)?.to_be_bytes());
        data.extend_from_slice(&self.id);
        data.extend(cose::from_public_key(&self.public_key()?).ok_or(SoftwareError)?.to_bytes());
        let attestation = Item::map([
            ("fmt", Item::Text("none".to_owned())),
            ("attStmt", Item::Map(Vec::new())),
            ("authData", Item::Bytes(data)),
        ]);
        Ok(RegistrationResponse {
            id: self.id.clone(),
            client_data: client_data("webauthn.create", origin, challenge),
            attestation_object: attestation.to_bytes(),
        })
    }

    /// Answers `navigator.credentials.get` from a page at `origin`, and counts.
    ///
    /// # Errors
    /// [`SoftwareError`] if the key fails.
    pub fn assert(
        &mut self,
        rp_id: &str,
        origin: &str,
        challenge: &[u8; 32],
    ) -> Result<AssertionResponse, SoftwareError> {
        let data = self.header(rp_id, self.flags, self.sign_count);
        if self.sign_count != 0 {
            self.sign_count += 1;
        }
        self.sign(data, client_data("webauthn.get", origin, challenge))
    }

    /// Signs exactly these two, whatever they say.
    ///
    /// # Errors
    /// [`SoftwareError`] if the key fails.
    pub fn sign(
        &self,
        authenticator_data: Vec<u8>,
        client_data: Vec<u8>,
    ) -> Result<AssertionResponse, SoftwareError> {
        let mut signed = authenticator_data.clone();
        signed.extend_from_slice(Sha256Digest::of(&client_data).as_bytes());
        let signature = match &self.key {
            Key::P256(key) => {
                key.sign(&SystemRandom::new(), &signed).map_err(|_| SoftwareError)?.as_ref().to_vec()
            }
            Key::Ed25519(key) => key.sign(&signed).map_err(|_| SoftwareError)?,
        };
        Ok(AssertionResponse { id: self.id.clone(), client_data, authenticator_data, signature })
    }

    /// The fixed part of authenticator data.
    #[must_use]
    pub fn header(&self, rp_id: &str, flags: u8, sign_count: u32) -> Vec<u8> {
        let mut data = Sha256Digest::of(rp_id.as_bytes()).as_bytes().to_vec();
        data.push(flags);
        data.extend_from_slice(&sign_count.to_be_bytes());
        data
    }
}

/// Client data as browsers write it.
#[must_use]
pub fn client_data(ceremony: &str, origin: &str, challenge: &[u8; 32]) -> Vec<u8> {
    let challenge = b64::url_encode(challenge);
    format!(r#"{{"type":"{ceremony}","challenge":"{challenge}","origin":"{origin}","crossOrigin":false}}"#)
        .into_bytes()
}
