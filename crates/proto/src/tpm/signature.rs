//! `TPMT_SIGNATURE` (Part 2 §11.3.4) and its verification under a TPM key.
//!
//! Which algorithm is acceptable where is the caller's decision; SHA-1 never parses.

use aws_lc_rs::signature as lc;

use super::{
    EccPoint, HashAlg, Params, Reader, Scheme, TpmError, TpmtPublic, Unique, Writer, alg, curve, left_pad,
};

/// A signature as a TPM returns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TpmtSignature {
    /// RSASSA-PKCS1-v1_5.
    Rsassa {
        /// Hash of the message.
        hash: HashAlg,
        /// As long as the modulus.
        signature: Vec<u8>,
    },
    /// RSASSA-PSS.
    Rsapss {
        /// Hash of the message.
        hash: HashAlg,
        /// As long as the modulus.
        signature: Vec<u8>,
    },
    /// ECDSA.
    Ecdsa {
        /// Hash of the message.
        hash: HashAlg,
        /// r, big-endian.
        r: Vec<u8>,
        /// s, big-endian.
        s: Vec<u8>,
    },
}

impl TpmtSignature {
    /// Parses one whole `TPMT_SIGNATURE`.
    ///
    /// # Errors
    /// [`TpmError`] for other schemes, SHA-1 and malformed bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, TpmError> {
        let mut reader = Reader::new(bytes);
        let scheme = reader.u16()?;
        if !matches!(scheme, alg::RSASSA | alg::RSAPSS | alg::ECDSA) {
            return Err(TpmError::UnsupportedAlgorithm(scheme));
        }
        let hash = HashAlg::from_id(reader.u16()?)?;
        let first = reader.sized()?.to_vec();
        let signature = match scheme {
            alg::RSASSA => Self::Rsassa { hash, signature: first },
            alg::RSAPSS => Self::Rsapss { hash, signature: first },
            _ => Self::Ecdsa { hash, r: first, s: reader.sized()?.to_vec() },
        };
        reader.finish()?;
        Ok(signature)
    }

    /// Encodes as `TPMT_SIGNATURE`.
    ///
    /// # Errors
    /// [`TpmError::TooLong`] for an oversized field.
    pub fn to_bytes(&self) -> Result<Vec<u8>, TpmError> {
        let mut out = Writer::new();
        out.u16(self.scheme()).u16(self.hash().id());
        match self {
            Self::Rsassa { signature, .. } | Self::Rsapss { signature, .. } => out.sized(signature),
            Self::Ecdsa { r, s, .. } => out.sized(r).sized(s),
        };
        out.finish()
    }

    /// The scheme as `TPM_ALG_ID`.
    #[must_use]
    pub const fn scheme(&self) -> u16 {
        match self {
            Self::Rsassa { .. } => alg::RSASSA,
            Self::Rsapss { .. } => alg::RSAPSS,
            Self::Ecdsa { .. } => alg::ECDSA,
        }
    }

    /// The hash of the signed message.
    #[must_use]
    pub const fn hash(&self) -> HashAlg {
        match self {
            Self::Rsassa { hash, .. } | Self::Rsapss { hash, .. } | Self::Ecdsa { hash, .. } => *hash,
        }
    }

    /// `r ‖ s`, each left-padded to 32 bytes, as JOSE wants a P-256 signature; `None` for any other kind.
    #[must_use]
    pub fn to_p256_fixed(&self) -> Option<[u8; 64]> {
        let Self::Ecdsa { r, s, .. } = self else { return None };
        let mut out = [0_u8; 64];
        left_pad(r, &mut out[..32])?;
        left_pad(s, &mut out[32..])?;
        Some(out)
    }
}

/// Verifies `signature` over `message` under `public`. If the key fixes a scheme, the signature must use it.
///
/// # Errors
/// [`TpmError::BadSignature`] for a wrong signature and for any pair of key and algorithm outside
/// ES256 on P-256, ES384 on P-384, and RSASSA/RSAPSS with RSA of at least 2048 bits.
pub fn verify_signature(
    public: &TpmtPublic,
    message: &[u8],
    signature: &TpmtSignature,
) -> Result<(), TpmError> {
    match public.scheme() {
        Scheme::Null => {}
        Scheme::Signing { scheme, hash } => {
            if scheme != signature.scheme() || hash != signature.hash() {
                return Err(TpmError::BadSignature);
            }
        }
    }
    match (&public.params, &public.unique, signature) {
        (Params::Ecc { curve, .. }, Unique::Ecc(point), TpmtSignature::Ecdsa { hash, r, s }) => {
            verify_ecdsa(*curve, point, *hash, message, r, s).ok_or(TpmError::BadSignature)
        }
        (
            Params::Rsa { key_bits, exponent, .. },
            Unique::Rsa(modulus),
            TpmtSignature::Rsassa { hash, signature: bytes }
            | TpmtSignature::Rsapss { hash, signature: bytes },
        ) => {
            let algorithm: &lc::RsaParameters = match (signature.scheme(), hash) {
                (alg::RSASSA, HashAlg::Sha256) => &lc::RSA_PKCS1_2048_8192_SHA256,
                (alg::RSASSA, HashAlg::Sha384) => &lc::RSA_PKCS1_2048_8192_SHA384,
                (alg::RSASSA, HashAlg::Sha512) => &lc::RSA_PKCS1_2048_8192_SHA512,
                (_, HashAlg::Sha256) => &lc::RSA_PSS_2048_8192_SHA256,
                (_, HashAlg::Sha384) => &lc::RSA_PSS_2048_8192_SHA384,
                (_, HashAlg::Sha512) => &lc::RSA_PSS_2048_8192_SHA512,
            };
            if modulus.len() != usize::from(key_bits / 8) || modulus.first() == Some(&0) {
                return Err(TpmError::BadSignature);
            }
            let exponent = if *exponent == 0 { 65_537 } else { *exponent };
            let exponent = exponent.to_be_bytes();
            let leading = exponent.iter().take_while(|byte| **byte == 0).count();
            lc::RsaPublicKeyComponents { n: modulus.as_slice(), e: &exponent[leading..] }
                .verify(algorithm, message, bytes)
                .map_err(|_| TpmError::BadSignature)
        }
        (Params::Ecc { .. } | Params::Rsa { .. }, _, _) => Err(TpmError::BadSignature),
    }
}

fn verify_ecdsa(
    curve_id: u16,
    point: &EccPoint,
    hash: HashAlg,
    message: &[u8],
    r: &[u8],
    s: &[u8],
) -> Option<()> {
    let (algorithm, field): (&lc::EcdsaVerificationAlgorithm, usize) = match (curve_id, hash) {
        (curve::P256, HashAlg::Sha256) => (&lc::ECDSA_P256_SHA256_FIXED, 32),
        (curve::P384, HashAlg::Sha384) => (&lc::ECDSA_P384_SHA384_FIXED, 48),
        _ => return None,
    };
    let mut key = vec![0_u8; 1 + 2 * field];
    key[0] = 4;
    left_pad(&point.x, &mut key[1..=field])?;
    left_pad(&point.y, &mut key[1 + field..])?;
    let mut fixed = vec![0_u8; 2 * field];
    left_pad(r, &mut fixed[..field])?;
    left_pad(s, &mut fixed[field..])?;
    lc::UnparsedPublicKey::new(algorithm, key).verify(message, &fixed).ok()
}
