//! Signing: a trait for keys wherever they live, and the two kinds that live in memory.

use std::fmt;

use aws_lc_rs::encoding::AsBigEndian as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use zeroize::Zeroizing;

use super::{Algorithm, PublicJwk};
use crate::b64;
use crate::json::{JsonError, Object, Value};

/// A key that signs: in memory, in a TPM, elsewhere.
pub trait JwsSigner: Send + Sync {
    /// What it signs with.
    fn algorithm(&self) -> Algorithm;
    /// The public half.
    fn public_jwk(&self) -> PublicJwk;
    /// Signs; ES256 answers `r ‖ s`.
    ///
    /// # Errors
    /// [`SignError::Key`] if the key cannot be used now.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError>;
}

/// Why there is no signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The key could not be used (hardware busy, absent, locked out).
    #[error("signing key unavailable: {0}")]
    Key(String),
    /// The header or payload cannot be written as strict JSON.
    #[error("unsignable content")]
    Content(#[from] JsonError),
}

/// The bytes are not a private key of the expected kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a usable private key")]
pub struct KeyError;

/// Signs `payload` as a compact JWS with `alg`, `typ` and `extra_header` in its header.
///
/// # Errors
/// [`SignError::Content`] if `extra_header` repeats a member; [`SignError::Key`] from the key.
pub fn sign_compact(
    signer: &dyn JwsSigner,
    typ: &str,
    extra_header: &[(&str, Value)],
    payload: &[u8],
) -> Result<String, SignError> {
    let mut header = Object::new();
    header.insert("alg", signer.algorithm().as_str())?;
    header.insert("typ", typ)?;
    for (name, value) in extra_header {
        header.insert(*name, value.clone())?;
    }
    let mut token = b64::url_encode(&header.to_jcs());
    token.push('.');
    token.push_str(&b64::url_encode(payload));
    let signature = signer.sign(token.as_bytes())?;
    token.push('.');
    token.push_str(&b64::url_encode(&signature));
    Ok(token)
}

/// A P-256 key in memory.
pub struct SoftwareP256 {
    pair: EcdsaKeyPair,
    public: PublicJwk,
}

impl SoftwareP256 {
    /// A new key.
    ///
    /// # Errors
    /// [`KeyError`] if the generator fails.
    pub fn generate() -> Result<Self, KeyError> {
        Self::from_pair(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| KeyError)?)
    }

    /// Reads PKCS #8.
    ///
    /// # Errors
    /// [`KeyError`] for anything but a P-256 key.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, KeyError> {
        Self::from_pair(
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8).map_err(|_| KeyError)?,
        )
    }

    fn from_pair(pair: EcdsaKeyPair) -> Result<Self, KeyError> {
        let point: &[u8; 65] = pair.public_key().as_ref().try_into().map_err(|_| KeyError)?;
        let public = PublicJwk::from_p256_uncompressed(point).map_err(|_| KeyError)?;
        Ok(Self { pair, public })
    }

    /// The key as PKCS #8, for a file of mode 0600.
    ///
    /// # Errors
    /// [`KeyError`] if it cannot be encoded.
    pub fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        Ok(Zeroizing::new(self.pair.to_pkcs8v1().map_err(|_| KeyError)?.as_ref().to_vec()))
    }

    /// The private scalar, big-endian.
    ///
    /// # Errors
    /// [`KeyError`] if it cannot be encoded.
    pub fn scalar(&self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let scalar: aws_lc_rs::encoding::EcPrivateKeyBin<'_> =
            self.pair.private_key().as_be_bytes().map_err(|_| KeyError)?;
        Ok(Zeroizing::new(scalar.as_ref().to_vec()))
    }
}

impl JwsSigner for SoftwareP256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::Es256
    }

    fn public_jwk(&self) -> PublicJwk {
        self.public.clone()
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let signature = self
            .pair
            .sign(&SystemRandom::new(), message)
            .map_err(|_| SignError::Key("software key failed".to_owned()))?;
        Ok(signature.as_ref().to_vec())
    }
}

impl fmt::Debug for SoftwareP256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SoftwareP256({:?})", self.public)
    }
}

/// An Ed25519 key in memory.
pub struct SoftwareEd25519 {
    pair: Ed25519KeyPair,
    public: PublicJwk,
}

impl SoftwareEd25519 {
    /// A new key.
    ///
    /// # Errors
    /// [`KeyError`] if the generator fails.
    pub fn generate() -> Result<Self, KeyError> {
        Self::from_pair(Ed25519KeyPair::generate().map_err(|_| KeyError)?)
    }

    /// Reads PKCS #8.
    ///
    /// # Errors
    /// [`KeyError`] for anything but an Ed25519 key.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, KeyError> {
        Self::from_pair(Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|_| KeyError)?)
    }

    fn from_pair(pair: Ed25519KeyPair) -> Result<Self, KeyError> {
        let point: &[u8; 32] = pair.public_key().as_ref().try_into().map_err(|_| KeyError)?;
        let public = PublicJwk::from_ed25519(point).map_err(|_| KeyError)?;
        Ok(Self { pair, public })
    }

    /// The key as PKCS #8, for a file of mode 0600.
    ///
    /// # Errors
    /// [`KeyError`] if it cannot be encoded.
    pub fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        Ok(Zeroizing::new(self.pair.to_pkcs8().map_err(|_| KeyError)?.as_ref().to_vec()))
    }

    /// The 32-byte seed.
    ///
    /// # Errors
    /// [`KeyError`] if it cannot be encoded.
    pub fn seed(&self) -> Result<Zeroizing<[u8; 32]>, KeyError> {
        let seed = self.pair.seed().map_err(|_| KeyError)?;
        let bytes: aws_lc_rs::encoding::Curve25519SeedBin<'_> = seed.as_be_bytes().map_err(|_| KeyError)?;
        Ok(Zeroizing::new(bytes.as_ref().try_into().map_err(|_| KeyError)?))
    }
}

impl JwsSigner for SoftwareEd25519 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::EdDsa
    }

    fn public_jwk(&self) -> PublicJwk {
        self.public.clone()
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let signature =
            self.pair.try_sign(message).map_err(|_| SignError::Key("software key failed".to_owned()))?;
        Ok(signature.as_ref().to_vec())
    }
}

impl fmt::Debug for SoftwareEd25519 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SoftwareEd25519({:?})", self.public)
    }
}
