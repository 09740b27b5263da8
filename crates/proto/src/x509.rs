//! X.509 certificates (RFC 5280) and certification requests (RFC 2986) as the facts that we judge by.
//!
//! No path building and no trust: `webpki` verifies chains, `trust` decides what a certificate must say. A fact is
//! read from the same DER bytes that the signature covers, and anything ambiguous (duplicate or unknown critical
//! extensions, two signature algorithms) is not a certificate for us.

mod names;
mod request;

use x509_cert::Certificate;
use x509_cert::certificate::Version;
use x509_cert::der::asn1::{BitStringRef, ObjectIdentifier};
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages};
use x509_cert::ext::{Extension, Extensions};
use x509_cert::spki::SubjectPublicKeyInfoOwned;

pub use names::{AlternativeNames, TpmIdentity, permanent_identifier_der};
pub use request::{CsrFacts, parse_csr_der};

use crate::jose::PublicJwk;
use crate::time::Timestamp;

/// Largest certificate or request that is looked at, in bytes.
pub const MAX_DER: usize = 16 * 1024;
/// Largest RSA modulus in bytes (4096 bits); larger ones only cost CPU.
pub const MAX_RSA_MODULUS: usize = 512;

/// `clientAuth` (RFC 5280 §4.2.1.12).
pub const EKU_CLIENT_AUTH: &str = "1.3.6.1.5.5.7.3.2";
/// `serverAuth` (RFC 5280 §4.2.1.12).
pub const EKU_SERVER_AUTH: &str = "1.3.6.1.5.5.7.3.1";
/// `tcg-kp-EKCertificate` (TCG EK Credential Profile §3.2.16).
pub const EKU_ENDORSEMENT: &str = "2.23.133.8.1";
/// `tcg-kp-AIKCertificate` (`WebAuthn` L3 §8.3.1).
pub const EKU_AK: &str = "2.23.133.8.3";

const OID_KEY_USAGE: &str = "2.5.29.15";
const OID_SUBJECT_ALT_NAME: &str = "2.5.29.17";
const OID_BASIC_CONSTRAINTS: &str = "2.5.29.19";
const OID_EXTENDED_KEY_USAGE: &str = "2.5.29.37";
const OID_EC_PUBLIC_KEY: &str = "1.2.840.10045.2.1";
const OID_P256: &str = "1.2.840.10045.3.1.7";
const OID_P384: &str = "1.3.132.0.34";
const OID_RSA: &str = "1.2.840.113549.1.1.1";
const OID_RSA_OAEP: &str = "1.2.840.113549.1.1.7";

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertFacts {
    /// 1, 2 or 3.
    pub version: u8,
    /// Serial number in lower-case hexadecimal without leading zeros; "00" for zero.
    pub serial: String,
    /// Start of validity, inclusive.
    pub not_before: Timestamp,
    /// End of validity, inclusive.
    pub not_after: Timestamp,
    /// Whether the subject has no attributes.
    pub subject_empty: bool,
    /// `SubjectPublicKeyInfo`, DER.
    pub spki_der: Vec<u8>,
    /// The public key.
    pub public: PublicKeyKind,
    /// Subject alternative names; empty without the extension.
    pub names: AlternativeNames,
    /// Whether the subject alternative name extension is there and critical.
    pub has_san_critical: bool,
    /// Extended key usages as dotted identifiers; empty without the extension, and for the empty list.
    pub ekus: Vec<String>,
    /// Whether basic constraints say CA.
    pub is_ca: bool,
    /// Key usage, if the extension is there.
    pub key_usage: Option<KeyUsageBits>,
}

/// The bits of the key usage extension that we look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyUsageBits {
    /// Whether the extension is critical.
    pub critical: bool,
    /// `digitalSignature`.
    pub digital_signature: bool,
    /// `keyCertSign`.
    pub key_cert_sign: bool,
    /// `cRLSign`.
    pub crl_sign: bool,
}

/// A subject public key by kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublicKeyKind {
    /// Uncompressed point `04 ‖ x ‖ y`; not yet checked to be on the curve.
    P256([u8; 65]),
    /// Uncompressed point `04 ‖ x ‖ y`; not yet checked to be on the curve.
    P384([u8; 97]),
    /// RSA, also under the OAEP identifier that some endorsement certificates use. Big-endian, no leading zeros.
    Rsa {
        /// Modulus.
        n: Vec<u8>,
        /// Public exponent.
        e: Vec<u8>,
    },
    /// Anything else.
    Other,
}

/// How strict to read: endorsement certificates come from many vendors and live longer than their mistakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Profile {
    Strict,
    Endorsement,
}

/// Why bytes are not a certificate or request that we read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum X509Error {
    /// More than [`MAX_DER`].
    #[error("certificate is too large")]
    TooLarge,
    /// Not DER, or not of this type.
    #[error("certificate is malformed")]
    Malformed,
    /// Negative, zero or more than 20 octets (RFC 5280 §4.1.2.2).
    #[error("certificate serial number is not a positive number of at most 20 octets")]
    Serial,
    /// Inner and outer signature algorithm differ (RFC 5280 §4.1.1.2).
    #[error("certificate names two signature algorithms")]
    AlgorithmMismatch,
    /// An extension occurs twice, or outside version 3 (RFC 5280 §4.2).
    #[error("certificate extensions are ambiguous")]
    Extensions,
    /// A critical extension that we do not process (RFC 5280 §4.2).
    #[error("certificate has an unknown critical extension")]
    UnknownCritical,
    /// RSA modulus above [`MAX_RSA_MODULUS`].
    #[error("certificate key is too large")]
    KeyTooLarge,
    /// Request: a key other than P-256 with ECDSA and SHA-256.
    #[error("request key or algorithm is not supported")]
    UnsupportedKey,
    /// Request: its own signature does not verify.
    #[error("request signature does not verify")]
    BadSignature,
}

/// Reads a certificate strictly.
///
/// # Errors
/// [`X509Error`] naming the first rule that it breaks.
pub fn parse_der(der: &[u8]) -> Result<CertFacts, X509Error> {
    parse(der, Profile::Strict)
}

/// Reads an endorsement certificate: odd serial numbers and unknown critical extensions are the vendor's business,
/// since only its chain, key, usage and CA flag matter.
///
/// # Errors
/// [`X509Error`] for everything else that [`parse_der`] refuses.
pub fn parse_endorsement_der(der: &[u8]) -> Result<CertFacts, X509Error> {
    parse(der, Profile::Endorsement)
}

fn parse(der: &[u8], profile: Profile) -> Result<CertFacts, X509Error> {
    if der.len() > MAX_DER {
        return Err(X509Error::TooLarge);
    }
    let certificate = Certificate::from_der(der).map_err(|_| X509Error::Malformed)?;
    let tbs = certificate.tbs_certificate();
    if tbs.signature() != certificate.signature_algorithm() {
        return Err(X509Error::AlgorithmMismatch);
    }
    let serial = serial_hex(tbs.serial_number().as_bytes(), profile)?;
    let mut facts = CertFacts {
        version: match tbs.version() {
            Version::V1 => 1,
            Version::V2 => 2,
            Version::V3 => 3,
        },
        serial,
        not_before: timestamp(tbs.validity().not_before)?,
        not_after: timestamp(tbs.validity().not_after)?,
        subject_empty: tbs.subject().is_empty(),
        spki_der: tbs.subject_public_key_info().to_der().map_err(|_| X509Error::Malformed)?,
        public: public_key(tbs.subject_public_key_info())?,
        names: AlternativeNames::default(),
        has_san_critical: false,
        ekus: Vec::new(),
        is_ca: false,
        key_usage: None,
    };
    if let Some(extensions) = tbs.extensions() {
        if facts.version != 3 {
            return Err(X509Error::Extensions);
        }
        refuse_duplicates(extensions)?;
        for extension in extensions {
            facts.read_extension(extension, profile)?;
        }
    }
    Ok(facts)
}

impl CertFacts {
    fn read_extension(&mut self, extension: &Extension, profile: Profile) -> Result<(), X509Error> {
        let value = extension.extn_value.as_bytes();
        match extension.extn_id.to_string().as_str() {
            OID_BASIC_CONSTRAINTS => self.is_ca = decode::<BasicConstraints>(value)?.ca,
            OID_KEY_USAGE => {
                let bits = decode::<KeyUsage>(value)?.0;
                self.key_usage = Some(KeyUsageBits {
                    critical: extension.critical,
                    digital_signature: bits.contains(KeyUsages::DigitalSignature),
                    key_cert_sign: bits.contains(KeyUsages::KeyCertSign),
                    crl_sign: bits.contains(KeyUsages::CRLSign),
                });
            }
            OID_EXTENDED_KEY_USAGE => {
                self.ekus = decode::<ExtendedKeyUsage>(value)?.0.iter().map(ToString::to_string).collect();
            }
            OID_SUBJECT_ALT_NAME => {
                self.names = AlternativeNames::parse(value)?;
                self.has_san_critical = extension.critical;
            }
            _ if extension.critical && profile == Profile::Strict => return Err(X509Error::UnknownCritical),
            _ => {}
        }
        Ok(())
    }

    /// Whether `now` lies in the validity period, both ends included (RFC 5280 §4.1.2.5).
    #[must_use]
    pub fn is_valid_at(&self, now: Timestamp) -> bool {
        self.not_before.unix_secs() <= now.unix_secs() && now.unix_secs() <= self.not_after.unix_secs()
    }

    /// The key as a JWK, if it is a sound P-256 key.
    #[must_use]
    pub fn p256_jwk(&self) -> Option<PublicJwk> {
        match &self.public {
            PublicKeyKind::P256(point) => PublicJwk::from_p256_uncompressed(point).ok(),
            PublicKeyKind::P384(_) | PublicKeyKind::Rsa { .. } | PublicKeyKind::Other => None,
        }
    }

    /// Whether the list of extended key usages holds `oid`.
    #[must_use]
    pub fn has_eku(&self, oid: &str) -> bool {
        self.ekus.iter().any(|eku| eku == oid)
    }
}

fn decode<'a, T: x509_cert::der::Decode<'a>>(value: &'a [u8]) -> Result<T, X509Error> {
    T::from_der(value).map_err(|_| X509Error::Malformed)
}

fn refuse_duplicates(extensions: &Extensions) -> Result<(), X509Error> {
    let mut seen: Vec<ObjectIdentifier> = Vec::new();
    for extension in extensions {
        if seen.contains(&extension.extn_id) {
            return Err(X509Error::Extensions);
        }
        seen.push(extension.extn_id);
    }
    Ok(())
}

/// The content octets of the INTEGER may start with one zero octet that only says "positive".
fn serial_hex(octets: &[u8], profile: Profile) -> Result<String, X509Error> {
    let negative = octets.first().is_some_and(|first| first & 0x80 != 0);
    let zero = octets.iter().all(|octet| *octet == 0);
    if profile == Profile::Strict && (negative || zero || octets.len() > 20) {
        return Err(X509Error::Serial);
    }
    let digits = octets.strip_prefix(&[0]).filter(|rest| !rest.is_empty()).unwrap_or(octets);
    use std::fmt::Write as _;
    Ok(digits.iter().fold(String::new(), |mut text, octet| {
        let _ = write!(text, "{octet:02x}");
        text
    }))
}

fn timestamp(time: x509_cert::time::Time) -> Result<Timestamp, X509Error> {
    let secs = i64::try_from(time.to_unix_duration().as_secs()).map_err(|_| X509Error::Malformed)?;
    Ok(Timestamp::from_unix_secs(secs))
}

/// Reads a `SubjectPublicKeyInfo`.
fn public_key(spki: &SubjectPublicKeyInfoOwned) -> Result<PublicKeyKind, X509Error> {
    let bits = spki.subject_public_key.as_bytes().ok_or(X509Error::Malformed)?;
    match spki.algorithm.oid.to_string().as_str() {
        OID_EC_PUBLIC_KEY => {
            let parameters = spki.algorithm.parameters.as_ref().ok_or(X509Error::Malformed)?;
            let Ok(curve) = parameters.decode_as::<ObjectIdentifier>() else {
                return Ok(PublicKeyKind::Other);
            };
            Ok(match curve.to_string().as_str() {
                OID_P256 => <[u8; 65]>::try_from(bits)
                    .ok()
                    .filter(|point| point[0] == 4)
                    .map_or(PublicKeyKind::Other, PublicKeyKind::P256),
                OID_P384 => <[u8; 97]>::try_from(bits)
                    .ok()
                    .filter(|point| point[0] == 4)
                    .map_or(PublicKeyKind::Other, PublicKeyKind::P384),
                _ => PublicKeyKind::Other,
            })
        }
        OID_RSA | OID_RSA_OAEP => {
            use x509_cert::der::Reader as _;
            use x509_cert::der::asn1::{AnyRef, UintRef};
            let sequence = decode::<AnyRef<'_>>(bits)?;
            let (n, e) = sequence
                .sequence(|reader| {
                    Ok::<_, x509_cert::der::Error>((
                        reader.decode::<UintRef<'_>>()?,
                        reader.decode::<UintRef<'_>>()?,
                    ))
                })
                .map_err(|_| X509Error::Malformed)?;
            if n.as_bytes().len() > MAX_RSA_MODULUS {
                return Err(X509Error::KeyTooLarge);
            }
            Ok(PublicKeyKind::Rsa { n: n.as_bytes().to_vec(), e: e.as_bytes().to_vec() })
        }
        _ => Ok(PublicKeyKind::Other),
    }
}

/// `SubjectPublicKeyInfo` of an uncompressed P-256 point.
#[must_use]
pub fn p256_spki_der(point: &[u8; 65]) -> Vec<u8> {
    // SEQUENCE { SEQUENCE { id-ecPublicKey, prime256v1 }, BIT STRING }: every P-256 key has this prefix.
    const PREFIX: [u8; 26] = [
        0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
        0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
    ];
    [PREFIX.as_slice(), point].concat()
}

/// The bits of a BIT STRING that has no unused bits.
fn whole_bits<'a>(bits: &BitStringRef<'a>) -> Result<&'a [u8], X509Error> {
    bits.as_bytes().ok_or(X509Error::Malformed)
}

#[cfg(test)]
mod tests;
