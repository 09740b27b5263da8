//! JOSE, the narrow part we use: compact JWS over keys that fix their algorithm, JWK, key sets, thumbprints.
//!
//! One `verify_compact` with every expectation stated by the caller; what the token says about itself decides
//! nothing. No JWE, no symmetric keys, no JSON serialization, and nothing is ever fetched.

mod compact;
mod jwk;
mod key_set;
mod sign;

pub use compact::{Expected, Header, JwsError, KeySource, MAX_TOKEN_BYTES, VerifiedJws, verify_compact};
pub use jwk::{JwkError, PublicJwk, Thumbprint, VerifyingKey};
pub use key_set::{KeySet, KeySetError};
pub use sign::{JwsSigner, KeyError, SignError, SoftwareEd25519, SoftwareP256, sign_compact};

/// A signature algorithm (RFC 7518 §3.1, RFC 8037 §3.1). We sign with the first two and verify all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Rs512,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// RSASSA-PSS with SHA-384.
    Ps384,
    /// RSASSA-PSS with SHA-512.
    Ps512,
}

impl Algorithm {
    /// The `alg` value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
        }
    }

    /// Reads an `alg` value, exactly; `none` and the symmetric ones do not exist here.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "ES256" => Self::Es256,
            "EdDSA" => Self::EdDsa,
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            _ => return None,
        })
    }

    /// Whether this is one of the RSA algorithms.
    #[must_use]
    pub const fn is_rsa(self) -> bool {
        match self {
            Self::Es256 | Self::EdDsa => false,
            Self::Rs256 | Self::Rs384 | Self::Rs512 | Self::Ps256 | Self::Ps384 | Self::Ps512 => true,
        }
    }
}

#[cfg(test)]
pub(crate) mod rsa_fixture;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod wycheproof;
