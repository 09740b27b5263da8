//! TPM 2.0 structures (TCG TPM 2.0 Library, Part 2), as far as attestation needs them: public areas, attest
//! blobs, signatures and creation data, each parsed whole and strictly, and the templates of our own keys.
//!
//! No device access, no command codes and no judgement of attributes: the runner talks to the TPM, `trust` judges.
//!
//! INVARIANT: every accepted structure has exactly one encoding, the one that was read. `parse` re-encodes and
//! compares, so a Name computed from a parsed structure is the Name of the received bytes.

mod attest;
mod public;
mod signature;
mod template;
mod wire;

pub use attest::{
    Attested, ClockInfo, PcrSelection, TpmsAttest, TpmsCreationData, parse_pcr_selections,
    write_pcr_selections,
};
pub use public::{Attributes, EccPoint, Params, Scheme, Symmetric, TpmtPublic, Unique};
pub use signature::{TpmtSignature, verify_signature};
pub use template::{
    ak_p256, ak_p256_template, ek_ecc_p256, ek_rsa2048, ek_rsa2048_template, machine_key_p256,
    machine_key_p256_template, srk_p256, srk_p256_template,
};
pub use wire::{MAX_SIZED, Reader, Writer};

use crate::jose::PublicJwk;

/// `TPM_GENERATED_VALUE`: only the TPM itself may sign a structure that starts with it.
pub const TPM_GENERATED: u32 = 0xff54_4347;
/// `TPM_ST_ATTEST_CERTIFY`.
pub const ST_ATTEST_CERTIFY: u16 = 0x8017;
/// `TPM_ST_ATTEST_QUOTE`.
pub const ST_ATTEST_QUOTE: u16 = 0x8018;
/// `TPM_ST_ATTEST_CREATION`.
pub const ST_ATTEST_CREATION: u16 = 0x801a;
/// `TPM_RH_OWNER`.
pub const RH_OWNER: u32 = 0x4000_0001;
/// `TPM_RH_ENDORSEMENT`.
pub const RH_ENDORSEMENT: u32 = 0x4000_000b;
/// Algorithm identifiers (`TPM_ALG_ID`, Part 2 §6.3).
pub mod alg {
    /// RSA.
    pub const RSA: u16 = 0x0001;
    /// SHA-1: parsed so that it can be refused by name.
    pub const SHA1: u16 = 0x0004;
    /// AES.
    pub const AES: u16 = 0x0006;
    /// SHA-256.
    pub const SHA256: u16 = 0x000b;
    /// SHA-384.
    pub const SHA384: u16 = 0x000c;
    /// SHA-512.
    pub const SHA512: u16 = 0x000d;
    /// The absence of an algorithm.
    pub const NULL: u16 = 0x0010;
    /// RSASSA-PKCS1-v1_5.
    pub const RSASSA: u16 = 0x0014;
    /// RSAES-PKCS1-v1_5.
    pub const RSAES: u16 = 0x0015;
    /// RSASSA-PSS.
    pub const RSAPSS: u16 = 0x0016;
    /// RSAES-OAEP.
    pub const OAEP: u16 = 0x0017;
    /// ECDSA.
    pub const ECDSA: u16 = 0x0018;
    /// ECDH.
    pub const ECDH: u16 = 0x0019;
    /// Elliptic curve keys.
    pub const ECC: u16 = 0x0023;
    /// Cipher feedback mode.
    pub const CFB: u16 = 0x0043;
}

/// Curve identifiers (`TPM_ECC_CURVE`, Part 2 §6.4).
pub mod curve {
    /// NIST P-256.
    pub const P256: u16 = 0x0003;
    /// NIST P-384.
    pub const P384: u16 = 0x0004;
}

/// A hash that may carry trust: SHA-1 is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HashAlg {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl HashAlg {
    /// From a `TPM_ALG_ID`.
    ///
    /// # Errors
    /// [`TpmError::UnsupportedHash`] for anything else, SHA-1 included.
    pub const fn from_id(id: u16) -> Result<Self, TpmError> {
        match id {
            alg::SHA256 => Ok(Self::Sha256),
            alg::SHA384 => Ok(Self::Sha384),
            alg::SHA512 => Ok(Self::Sha512),
            _ => Err(TpmError::UnsupportedHash(id)),
        }
    }

    /// The `TPM_ALG_ID`.
    #[must_use]
    pub const fn id(self) -> u16 {
        match self {
            Self::Sha256 => alg::SHA256,
            Self::Sha384 => alg::SHA384,
            Self::Sha512 => alg::SHA512,
        }
    }

    /// Digest length in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "the length of a hash's digests is never zero")]
    pub const fn len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// The digest of the concatenation of `parts`.
    #[must_use]
    pub fn digest(self, parts: &[&[u8]]) -> Vec<u8> {
        let mut context = aws_lc_rs::digest::Context::new(match self {
            Self::Sha256 => &aws_lc_rs::digest::SHA256,
            Self::Sha384 => &aws_lc_rs::digest::SHA384,
            Self::Sha512 => &aws_lc_rs::digest::SHA512,
        });
        for part in parts {
            context.update(part);
        }
        context.finish().as_ref().to_vec()
    }
}

/// The Name of an object: `nameAlg ‖ H_nameAlg(TPMT_PUBLIC)` (Part 1 §16), computed over the received bytes.
///
/// # Errors
/// [`TpmError`] if `public_area` is not one whole `TPMT_PUBLIC` that we accept.
pub fn name(public_area: &[u8]) -> Result<Vec<u8>, TpmError> {
    Ok(TpmtPublic::parse(public_area)?.name())
}

/// The uncompressed point (`04 ‖ x ‖ y`) of a P-256 key, `None` for any other key.
#[must_use]
pub fn p256_uncompressed(public: &TpmtPublic) -> Option<[u8; 65]> {
    match (&public.params, &public.unique) {
        (Params::Ecc { curve: curve::P256, .. }, Unique::Ecc(point)) => {
            let mut out = [0_u8; 65];
            out[0] = 4;
            left_pad(&point.x, &mut out[1..33])?;
            left_pad(&point.y, &mut out[33..])?;
            Some(out)
        }
        _ => None,
    }
}

/// A P-256 key as a JWK; `None` for any other key and for a point off the curve.
#[must_use]
pub fn p256_point(public: &TpmtPublic) -> Option<PublicJwk> {
    PublicJwk::from_p256_uncompressed(&p256_uncompressed(public)?).ok()
}

/// Writes a big-endian number into a field of fixed length; `None` if it does not fit.
fn left_pad(number: &[u8], field: &mut [u8]) -> Option<()> {
    let start = field.len().checked_sub(number.len())?;
    field[..start].fill(0);
    field[start..].copy_from_slice(number);
    Some(())
}

/// Why bytes are not the TPM structure they were taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TpmError {
    /// The structure ends before its last field.
    #[error("tpm structure is cut short")]
    Truncated,
    /// Bytes follow the structure.
    #[error("bytes follow the tpm structure")]
    TrailingBytes,
    /// A length field exceeds what the structure allows, or a `TPM2B` would not fit its length field.
    #[error("tpm field is too long")]
    TooLong,
    /// Not `TPM_GENERATED_VALUE`: not made by a TPM.
    #[error("attest structure was not generated by a tpm")]
    NotGenerated,
    /// An attest type other than certify, quote and creation.
    #[error("attest type {0:#06x} is not supported")]
    UnsupportedAttest(u16),
    /// An object, scheme or symmetric algorithm that we do not use.
    #[error("tpm algorithm {0:#06x} is not supported")]
    UnsupportedAlgorithm(u16),
    /// A hash that we do not accept.
    #[error("tpm hash {0:#06x} is not supported")]
    UnsupportedHash(u16),
    /// A curve other than P-256 and P-384.
    #[error("tpm curve {0:#06x} is not supported")]
    UnsupportedCurve(u16),
    /// A value that Part 2 does not allow in this place.
    #[error("tpm field holds a value that is not allowed")]
    InvalidValue,
    /// The signature does not fit the key, or is wrong.
    #[error("tpm signature does not verify")]
    BadSignature,
}

#[cfg(test)]
mod tests;
