//! Certificates that we issue: roots, AK certificates, machine certificates (X.509-SVIDs) and TLS server certificates.
//!
//! Issues what a check has produced and nothing a client asked for. P-256 only; serial numbers come from `rng`, the
//! randomness of ECDSA from the crypto library. Recording an issuance before it happens is the server's part.

use std::time::Duration;

use countersign_proto::id::TrustDomain;
use countersign_proto::jose::PublicJwk;
use countersign_proto::time::{Entropy, Timestamp};
use countersign_proto::x509::{self, TpmIdentity, p256_spki_der, permanent_identifier_der};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData as _, SerialNumber, SubjectPublicKeyInfo,
    date_time_ymd,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use crate::acme::Issuance;
use crate::der;
use crate::machine::Machine;

/// How far certificates start in the past, in seconds, for clocks that are slow.
const BACKDATE_SECS: i64 = 60;
/// Most names of a server certificate.
const MAX_SERVER_NAMES: usize = 16;

/// A certification authority with its key at hand.
pub struct Issuer {
    issuer: rcgen::Issuer<'static, KeyPair>,
    certificate: Vec<u8>,
    not_after: Timestamp,
}

/// An issued certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedCertificate {
    /// DER.
    pub der: Vec<u8>,
    /// Serial number in hexadecimal.
    pub serial: String,
    /// End of validity.
    pub not_after: Timestamp,
}

/// Why a certificate could not be issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The authority's key or certificate cannot be read, or they do not belong together.
    #[error("authority key or certificate is unusable")]
    Authority,
    /// The subject's key is not of a kind that we certify.
    #[error("subject key is not supported")]
    Key,
    /// No name, too many, or one that is neither a DNS name nor an address.
    #[error("subject names are unusable")]
    Names,
    /// The time is out of range, or the authority ends before the certificate begins.
    #[error("validity is out of range")]
    Validity,
    /// The issuance is for another machine.
    #[error("issuance belongs to another machine")]
    OtherMachine,
    /// The library could not sign.
    #[error("certificate could not be signed")]
    Signing,
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

impl Issuer {
    /// A new root that signs itself. With a trust domain it can sign X.509-SVIDs (SPIFFE X.509-SVID §5.1): it names
    /// the domain, without a path.
    ///
    /// # Errors
    /// [`IssueError`].
    pub fn self_signed_root(
        common_name: &str,
        trust_domain: Option<&TrustDomain>,
        key_pkcs8: &[u8],
        now: Timestamp,
        lifetime_secs: i64,
        rng: &dyn Entropy,
    ) -> Result<Self, IssueError> {
        let key = key_pair(key_pkcs8)?;
        let (mut params, not_after) = base(now, lifetime_secs, Timestamp::from_unix_millis(i64::MAX), rng)?;
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = false;
        if let Some(domain) = trust_domain {
            params.custom_extensions.push(names_extension(&[uri(&format!("spiffe://{domain}"))], false));
        }
        let certificate = params.self_signed(&key).map_err(|_| IssueError::Signing)?.der().to_vec();
        Ok(Self { issuer: rcgen::Issuer::new(params, key), certificate, not_after })
    }

    /// An authority from its certificate and key.
    ///
    /// # Errors
    /// [`IssueError::Authority`] if they cannot be read, do not belong together, or are no authority's.
    pub fn from_der(certificate: &[u8], key_pkcs8: &[u8]) -> Result<Self, IssueError> {
        let key = key_pair(key_pkcs8)?;
        let facts = x509::parse_der(certificate).map_err(|_| IssueError::Authority)?;
        if !facts.is_ca || facts.spki_der != key.subject_public_key_info() {
            return Err(IssueError::Authority);
        }
        let issuer = rcgen::Issuer::from_ca_cert_der(&CertificateDer::from(certificate), key)
            .map_err(|_| IssueError::Authority)?;
        Ok(Self { issuer, certificate: certificate.to_vec(), not_after: facts.not_after })
    }

    /// The authority's own certificate, DER.
    #[must_use]
    pub fn certificate_der(&self) -> &[u8] {
        &self.certificate
    }

    /// Certifies the attestation key of an enrolled machine (`WebAuthn` L3 §8.3.1): empty subject, critical names with
    /// the TPM's maker and the permanent identifier, usage 2.23.133.8.3.
    ///
    /// # Errors
    /// [`IssueError`].
    pub fn issue_ak_certificate(
        &self,
        machine: &Machine,
        now: Timestamp,
        lifetime_secs: i64,
        rng: &dyn Entropy,
    ) -> Result<IssuedCertificate, IssueError> {
        let spki = der::spki(machine.ak.public()).ok_or(IssueError::Key)?;
        let identifier =
            permanent_identifier_der(machine.permanent_identifier.as_str()).map_err(|_| IssueError::Names)?;
        let (mut params, not_after) = base(now, lifetime_secs, self.not_after, rng)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 3])];
        params
            .custom_extensions
            .push(names_extension(&[tpm_directory_name(&machine.tpm_identity()), identifier], true));
        self.sign(&params, &spki, not_after)
    }

    /// Certifies a machine key: an X.509-SVID with exactly one URI, and the permanent identifier. The issuance is
    /// used up, so one finalized order gives one certificate.
    ///
    /// # Errors
    /// [`IssueError`].
    pub fn issue_machine_certificate(
        &self,
        issuance: Issuance,
        machine: &Machine,
        now: Timestamp,
        lifetime_secs: i64,
        rng: &dyn Entropy,
    ) -> Result<IssuedCertificate, IssueError> {
        let (key, identifier) = issuance.into_parts(machine).ok_or(IssueError::OtherMachine)?;
        let names = [
            uri(machine.spiffe.as_str()),
            permanent_identifier_der(identifier.as_str()).map_err(|_| IssueError::Names)?,
        ];
        let (mut params, not_after) = base(now, lifetime_secs, self.not_after, rng)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.custom_extensions.push(names_extension(&names, true));
        self.sign(&params, &p256_spki(&key)?, not_after)
    }

    /// Certifies a TLS server of ours (gateway, control plane) under DNS names and IP addresses.
    ///
    /// # Errors
    /// [`IssueError`].
    pub fn issue_server_certificate(
        &self,
        key: &PublicJwk,
        names: &[String],
        now: Timestamp,
        lifetime_secs: i64,
        rng: &dyn Entropy,
    ) -> Result<IssuedCertificate, IssueError> {
        if names.is_empty() || names.len() > MAX_SERVER_NAMES {
            return Err(IssueError::Names);
        }
        let names = names
            .iter()
            .map(|name| server_name(name))
            .collect::<Option<Vec<_>>>()
            .ok_or(IssueError::Names)?;
        let (mut params, not_after) = base(now, lifetime_secs, self.not_after, rng)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.custom_extensions.push(names_extension(&names, true));
        self.sign(&params, &p256_spki(key)?, not_after)
    }

    fn sign(
        &self,
        params: &CertificateParams,
        spki: &[u8],
        not_after: Timestamp,
    ) -> Result<IssuedCertificate, IssueError> {
        let key = SubjectPublicKeyInfo::from_der(spki).map_err(|_| IssueError::Key)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(|_| IssueError::Signing)?;
        let der = certificate.der().to_vec();
        // What was signed is read back by the same strict reader that will judge it; odd serials end here.
        let facts = x509::parse_der(&der).map_err(|_| IssueError::Signing)?;
        Ok(IssuedCertificate { der, serial: facts.serial, not_after })
    }
}

fn key_pair(pkcs8: &[u8]) -> Result<KeyPair, IssueError> {
    let der = PrivatePkcs8KeyDer::from(pkcs8);
    let key = KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ECDSA_P256_SHA256);
    key.map_err(|_| IssueError::Authority)
}

/// Parameters that all certificates share: empty subject, no CA, fresh serial, validity within the authority's.
fn base(
    now: Timestamp,
    lifetime_secs: i64,
    no_later_than: Timestamp,
    rng: &dyn Entropy,
) -> Result<(CertificateParams, Timestamp), IssueError> {
    let not_before = now.plus_secs(-BACKDATE_SECS);
    let not_after = now.plus_secs(lifetime_secs).min(no_later_than);
    if lifetime_secs <= 0 || not_after <= now {
        return Err(IssueError::Validity);
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since_epoch(not_before)?;
    params.not_after = epoch + since_epoch(not_after)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.serial_number = Some(serial(rng));
    params.use_authority_key_identifier_extension = true;
    params.key_identifier_method = KeyIdMethod::Sha256;
    Ok((params, Timestamp::from_unix_secs(not_after.unix_secs())))
}

/// 126 unpredictable bits; positive and never starting with zero.
fn serial(rng: &dyn Entropy) -> SerialNumber {
    let mut bytes = [0; 16];
    rng.fill(&mut bytes);
    bytes[0] = bytes[0] & 0x3f | 0x40;
    SerialNumber::from_slice(&bytes)
}

fn since_epoch(at: Timestamp) -> Result<Duration, IssueError> {
    // 9999-12-31T23:59:59Z, the last instant that a certificate can name.
    const LAST: i64 = 253_402_300_799;
    let secs =
        u64::try_from(at.unix_secs()).ok().filter(|_| at.unix_secs() <= LAST).ok_or(IssueError::Validity)?;
    Ok(Duration::from_secs(secs))
}

fn p256_spki(key: &PublicJwk) -> Result<Vec<u8>, IssueError> {
    key.to_p256_uncompressed().map(|point| p256_spki_der(&point)).ok_or(IssueError::Key)
}

/// The subject alternative name extension, written by us so that its criticality and its names are ours to choose.
fn names_extension(names: &[Vec<u8>], critical: bool) -> CustomExtension {
    let parts: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 17], der::tlv(der::SEQUENCE, &parts));
    extension.set_criticality(critical);
    extension
}

fn uri(text: &str) -> Vec<u8> {
    der::tlv(0x86, &[text.as_bytes()])
}

fn server_name(name: &str) -> Option<Vec<u8>> {
    if let Ok(address) = name.parse::<std::net::IpAddr>() {
        return Some(match address {
            std::net::IpAddr::V4(address) => der::tlv(0x87, &[&address.octets()]),
            std::net::IpAddr::V6(address) => der::tlv(0x87, &[&address.octets()]),
        });
    }
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    (name.len() <= 253 && name.split('.').all(is_label)).then(|| der::tlv(0x82, &[name.as_bytes()]))
}

/// `directoryName` with the TPM's maker, model and version (TCG EK Credential Profile §3.2.9).
fn tpm_directory_name(tpm: &TpmIdentity) -> Vec<u8> {
    let attribute = |arc: u8, value: &str| {
        let oid = der::tlv(der::OID, &[&[0x67, 0x81, 0x05, 0x02, arc]]);
        der::tlv(
            der::SET,
            &[&der::tlv(der::SEQUENCE, &[&oid, &der::tlv(der::UTF8_STRING, &[value.as_bytes()])])],
        )
    };
    let name = der::tlv(
        der::SEQUENCE,
        &[&attribute(1, &tpm.manufacturer), &attribute(2, &tpm.model), &attribute(3, &tpm.version)],
    );
    der::tlv(0xa4, &[&name])
}

#[cfg(test)]
mod tests;
