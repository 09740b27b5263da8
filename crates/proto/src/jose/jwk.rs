//! Public keys as JWK (RFC 7517, 7518 §6, 8037): strictly read, one algorithm each, named by thumbprint.

use std::fmt;

use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{self, ParsedPublicKey, RsaParameters};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Algorithm;
use crate::b64;
use crate::digest::Sha256Digest;
use crate::json::{Object, Value};

/// A public key that can check signatures.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum PublicJwk {
    /// P-256 (ES256): affine coordinates, big-endian. On the curve wherever it was parsed.
    P256 {
        /// The x coordinate.
        x: [u8; 32],
        /// The y coordinate.
        y: [u8; 32],
    },
    /// Ed25519 (`EdDSA`).
    Ed25519 {
        /// The encoded point.
        x: [u8; 32],
    },
    /// RSA; its JWK must name the one algorithm it is used with.
    Rsa {
        /// The modulus, big-endian without leading zeros, 2048 to 8192 bits.
        n: Vec<u8>,
        /// The public exponent, big-endian without leading zeros.
        e: Vec<u8>,
        /// The algorithm from the JWK's `alg`.
        alg: Algorithm,
    },
}

/// Why a JWK is not a key we verify with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwkError {
    /// Not an object, or a member is missing or of the wrong type.
    #[error("malformed jwk: {0}")]
    Malformed(&'static str),
    /// A private or symmetric member is there (RFC 7518 §6).
    #[error("jwk holds private material")]
    Private,
    /// A `kty`, `crv` or `alg` we do not verify with, or one that contradicts another.
    #[error("unsupported key type or algorithm")]
    Unsupported,
    /// `use` or `key_ops` forbid verifying (RFC 7517 §4.2, §4.3).
    #[error("jwk is not for verifying signatures")]
    Purpose,
    /// Wrong length, off the curve, of small order, too small or too large.
    #[error("invalid key value")]
    Value,
}

/// The encodings of Ed25519 points of small order, sign bit cleared: under them anything verifies.
const SMALL_ORDER: [[u8; 32]; 5] = [
    [0; 32],
    {
        let mut one = [0; 32];
        one[0] = 1;
        one
    },
    {
        let mut minus_one = [0xff; 32];
        minus_one[0] = 0xec;
        minus_one[31] = 0x7f;
        minus_one
    },
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5,
        0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a,
        0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
];

/// Members that belong to private or symmetric keys (RFC 7518 §6.2.2, §6.3.2, §6.4.1).
const PRIVATE_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

impl PublicJwk {
    /// Reads a JWK. Members without meaning for us are ignored (RFC 7517 §4).
    ///
    /// # Errors
    /// [`JwkError`] for anything but a sound public key meant for verifying.
    pub fn parse(value: &Value) -> Result<Self, JwkError> {
        VerifyingKey::parse(value).map(|key| key.jwk)
    }

    /// From an uncompressed SEC 1 point (`04 ‖ x ‖ y`).
    ///
    /// # Errors
    /// [`JwkError::Value`] if it is not a point of the curve.
    pub fn from_p256_uncompressed(point: &[u8; 65]) -> Result<Self, JwkError> {
        if point[0] != 4 {
            return Err(JwkError::Value);
        }
        let mut x = [0; 32];
        let mut y = [0; 32];
        x.copy_from_slice(&point[1..33]);
        y.copy_from_slice(&point[33..]);
        VerifyingKey::new(Self::P256 { x, y }).map(|key| key.jwk)
    }

    /// From an encoded Ed25519 point.
    ///
    /// # Errors
    /// [`JwkError::Value`] if the encoding is not canonical or the point is of small order.
    pub fn from_ed25519(point: &[u8; 32]) -> Result<Self, JwkError> {
        VerifyingKey::new(Self::Ed25519 { x: *point }).map(|key| key.jwk)
    }

    /// The uncompressed SEC 1 point, for P-256.
    #[must_use]
    pub fn to_p256_uncompressed(&self) -> Option<[u8; 65]> {
        match self {
            Self::P256 { x, y } => {
                let mut point = [4; 65];
                point[1..33].copy_from_slice(x);
                point[33..].copy_from_slice(y);
                Some(point)
            }
            Self::Ed25519 { .. } | Self::Rsa { .. } => None,
        }
    }

    /// The one algorithm this key verifies.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        match self {
            Self::P256 { .. } => Algorithm::Es256,
            Self::Ed25519 { .. } => Algorithm::EdDsa,
            Self::Rsa { alg, .. } => *alg,
        }
    }

    /// The key as a JWK with its required members; RSA keys with `alg` too.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let text = |bytes: &[u8]| b64::url_encode(bytes);
        let members: Vec<(&str, String)> = match self {
            Self::P256 { x, y } => {
                vec![("crv", "P-256".into()), ("kty", "EC".into()), ("x", text(x)), ("y", text(y))]
            }
            Self::Ed25519 { x } => vec![("crv", "Ed25519".into()), ("kty", "OKP".into()), ("x", text(x))],
            Self::Rsa { n, e, alg } => {
                vec![("alg", alg.as_str().into()), ("e", text(e)), ("kty", "RSA".into()), ("n", text(n))]
            }
        };
        let mut object = Object::new();
        for (key, member) in members {
            let inserted = object.insert(key, member);
            debug_assert!(inserted.is_ok(), "the keys above differ");
        }
        Value::Object(object)
    }

    /// The RFC 7638 thumbprint with SHA-256.
    #[must_use]
    pub fn thumbprint(&self) -> Thumbprint {
        // RFC 7638 §3.2: required members only, sorted, without white space; none of them ever needs escaping.
        let text = match self {
            Self::P256 { x, y } => format!(
                r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#,
                b64::url_encode(x),
                b64::url_encode(y)
            ),
            Self::Ed25519 { x } => format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, b64::url_encode(x)),
            Self::Rsa { n, e, .. } => {
                format!(r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#, b64::url_encode(e), b64::url_encode(n))
            }
        };
        Thumbprint(*Sha256Digest::of(text.as_bytes()).as_bytes())
    }

    /// Checks one signature, in the form JWS carries it (`r ‖ s` for ES256).
    ///
    /// For many signatures under one key, keep a [`VerifyingKey`].
    ///
    /// # Errors
    /// [`super::JwsError::Signature`] if it does not verify.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), super::JwsError> {
        VerifyingKey::new(self.clone())?.verify(message, signature)
    }
}

/// A public key made ready: checked once, quick to verify with again and again.
#[derive(Clone)]
pub struct VerifyingKey {
    jwk: PublicJwk,
    parsed: ParsedPublicKey,
}

impl VerifyingKey {
    /// Reads a JWK.
    ///
    /// # Errors
    /// [`JwkError`] for anything but a sound public key meant for verifying.
    pub fn parse(value: &Value) -> Result<Self, JwkError> {
        let object = value.as_object().ok_or(JwkError::Malformed("not an object"))?;
        if PRIVATE_MEMBERS.iter().any(|member| object.get(member).is_some()) {
            return Err(JwkError::Private);
        }
        check_purpose(object)?;
        let alg = match object.get("alg") {
            None => None,
            Some(Value::Text(alg)) => Some(Algorithm::parse(alg).ok_or(JwkError::Unsupported)?),
            Some(_) => return Err(JwkError::Malformed("alg")),
        };
        let jwk = match (text(object, "kty")?, alg) {
            ("EC", None | Some(Algorithm::Es256)) => {
                expect_curve(object, "P-256")?;
                PublicJwk::P256 { x: bytes32(object, "x")?, y: bytes32(object, "y")? }
            }
            ("OKP", None | Some(Algorithm::EdDsa)) => {
                expect_curve(object, "Ed25519")?;
                PublicJwk::Ed25519 { x: bytes32(object, "x")? }
            }
            ("RSA", Some(alg)) if alg.is_rsa() => {
                PublicJwk::Rsa { n: bytes(object, "n")?, e: bytes(object, "e")?, alg }
            }
            ("oct", _) => return Err(JwkError::Private),
            _ => return Err(JwkError::Unsupported),
        };
        Self::new(jwk)
    }

    /// Makes a key ready, checking its value.
    ///
    /// # Errors
    /// [`JwkError::Value`] if the key is not sound.
    pub fn new(jwk: PublicJwk) -> Result<Self, JwkError> {
        let parsed = match &jwk {
            PublicJwk::P256 { .. } => {
                let point = jwk.to_p256_uncompressed().ok_or(JwkError::Value)?;
                ParsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point)
            }
            PublicJwk::Ed25519 { x } => {
                if !is_sound_ed25519(x) {
                    return Err(JwkError::Value);
                }
                ParsedPublicKey::new(&signature::ED25519, x)
            }
            PublicJwk::Rsa { n, e, alg } => {
                if !(256..=1024).contains(&n.len()) || !is_sound_exponent(e) || is_roca(n) {
                    return Err(JwkError::Value);
                }
                let parameters = rsa_parameters(*alg).ok_or(JwkError::Unsupported)?;
                PublicKeyComponents { n, e }.to_parsed_public_key(parameters)
            }
        };
        Ok(Self { jwk, parsed: parsed.map_err(|_| JwkError::Value)? })
    }

    /// The key itself.
    #[must_use]
    pub const fn jwk(&self) -> &PublicJwk {
        &self.jwk
    }

    /// The key itself, by value.
    #[must_use]
    pub fn into_jwk(self) -> PublicJwk {
        self.jwk
    }

    /// Checks one signature, in the form JWS carries it.
    ///
    /// # Errors
    /// [`super::JwsError::Signature`] if it does not verify.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), super::JwsError> {
        self.parsed.verify_sig(message, signature).map_err(|_| super::JwsError::Signature)
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.jwk.fmt(f)
    }
}

const fn rsa_parameters(alg: Algorithm) -> Option<&'static RsaParameters> {
    match alg {
        Algorithm::Rs256 => Some(&signature::RSA_PKCS1_2048_8192_SHA256),
        Algorithm::Rs384 => Some(&signature::RSA_PKCS1_2048_8192_SHA384),
        Algorithm::Rs512 => Some(&signature::RSA_PKCS1_2048_8192_SHA512),
        Algorithm::Ps256 => Some(&signature::RSA_PSS_2048_8192_SHA256),
        Algorithm::Ps384 => Some(&signature::RSA_PSS_2048_8192_SHA384),
        Algorithm::Ps512 => Some(&signature::RSA_PSS_2048_8192_SHA512),
        Algorithm::Es256 | Algorithm::EdDsa => None,
    }
}

/// Canonical (`y` below 2^255-19) and not of small order.
fn is_sound_ed25519(encoded: &[u8; 32]) -> bool {
    let mut y = *encoded;
    y[31] &= 0x7f;
    let beyond_prime = y[31] == 0x7f && y[1..31].iter().all(|&byte| byte == 0xff) && y[0] >= 0xed;
    !beyond_prime && !SMALL_ORDER.contains(&y)
}

/// Odd, above 1, and no larger than anybody needs.
fn is_sound_exponent(e: &[u8]) -> bool {
    (1..=8).contains(&e.len()) && e[0] != 0 && e != [1] && e.last().is_some_and(|last| last % 2 == 1)
}

/// Whether a modulus has the shape of the keys of CVE-2017-15361 (ROCA), whose factors can be computed: modulo
/// every one of these primes it is a power of 65537. A sound modulus is so by chance once in 2^27.
fn is_roca(n: &[u8]) -> bool {
    const PRIMES: [u32; 17] = [11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157];
    PRIMES.iter().all(|&prime| {
        let residue = n.iter().fold(0, |residue, &byte| (residue * 256 + u32::from(byte)) % prime);
        let mut power = 1;
        (0..prime).any(|_| {
            power = power * 65537 % prime;
            power == residue
        })
    })
}

fn check_purpose(object: &Object) -> Result<(), JwkError> {
    match object.get("use") {
        None => {}
        Some(Value::Text(purpose)) if purpose == "sig" => {}
        Some(Value::Text(_)) => return Err(JwkError::Purpose),
        Some(_) => return Err(JwkError::Malformed("use")),
    }
    match object.get("key_ops") {
        None => Ok(()),
        Some(Value::List(operations)) => {
            let duplicate = operations.iter().enumerate().any(|(at, one)| operations[..at].contains(one));
            if duplicate || operations.iter().any(|operation| operation.as_str().is_none()) {
                Err(JwkError::Malformed("key_ops"))
            } else if operations.iter().any(|operation| operation.as_str() == Some("verify")) {
                Ok(())
            } else {
                Err(JwkError::Purpose)
            }
        }
        Some(_) => Err(JwkError::Malformed("key_ops")),
    }
}

fn text<'a>(object: &'a Object, member: &'static str) -> Result<&'a str, JwkError> {
    object.get(member).and_then(Value::as_str).ok_or(JwkError::Malformed(member))
}

fn expect_curve(object: &Object, curve: &str) -> Result<(), JwkError> {
    if text(object, "crv")? == curve { Ok(()) } else { Err(JwkError::Unsupported) }
}

fn bytes(object: &Object, member: &'static str) -> Result<Vec<u8>, JwkError> {
    b64::url_decode(text(object, member)?).map_err(|_| JwkError::Malformed(member))
}

fn bytes32(object: &Object, member: &'static str) -> Result<[u8; 32], JwkError> {
    bytes(object, member)?.try_into().map_err(|_| JwkError::Value)
}

/// A public key is named by its thumbprint.
impl fmt::Debug for PublicJwk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm().as_str(), self.thumbprint())
    }
}

impl Serialize for PublicJwk {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_value().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for PublicJwk {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&Value::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// An RFC 7638 thumbprint: the name of a key. Shown and serialised as base64url.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Thumbprint([u8; 32]);

impl Thumbprint {
    /// A thumbprint computed elsewhere.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads base64url without padding.
    ///
    /// # Errors
    /// [`b64::B64Error`] unless the text spells exactly 32 bytes.
    pub fn parse(text: &str) -> Result<Self, b64::B64Error> {
        Sha256Digest::parse(text).map(|digest| Self(*digest.as_bytes()))
    }

    /// Compares without telling by its timing where two thumbprints differ.
    #[must_use]
    pub fn ct_eq(&self, other: &Self) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl fmt::Display for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&b64::url_encode(&self.0))
    }
}

impl fmt::Debug for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Thumbprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Thumbprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}
