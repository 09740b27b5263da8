//! The machine at the other end of a TLS connection: a strict X.509-SVID (SPIFFE X.509-SVID §2-5) and what the
//! snapshot says about it today.
//!
//! The chain itself was verified by TLS against the machine roots; here is everything that TLS does not ask.

use countersign_proto::id::{MachineId, SpiffeId};
use countersign_proto::jose::{PublicJwk, Thumbprint};
use countersign_proto::snapshot::{MachineEntry, MachineState};
use countersign_proto::time::Timestamp;
use countersign_proto::x509::{self, CertFacts, EKU_CLIENT_AUTH, X509Error};

/// A machine that proved possession of an attested key and may act; made only by [`appraise_peer`].
#[derive(Clone, Debug)]
pub struct VerifiedMachine {
    id: MachineId,
    spiffe_id: SpiffeId,
    thumbprint: Thumbprint,
    generation: u64,
}

/// Why the peer is not a machine that may act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppraisalError {
    /// The certificate is not valid now.
    #[error("machine certificate is not valid at this time")]
    CertificateExpired,
    /// No such machine, or its name leads elsewhere.
    #[error("machine is unknown")]
    Unknown,
    /// The certificate's key is not the key that was attested last.
    #[error("machine key is not the attested one")]
    KeyNotAttested,
    /// Locked.
    #[error("machine is locked")]
    Locked,
    /// Revoked.
    #[error("machine is revoked")]
    Revoked,
}

impl AppraisalError {
    /// The denial code.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::CertificateExpired => "machine.cert_expired",
            Self::Unknown => "machine.unknown",
            Self::KeyNotAttested => "pop.key_not_attested",
            Self::Locked => "machine.locked",
            Self::Revoked => "machine.revoked",
        }
    }
}

/// Appraises the peer of a connection, at every request: certificates expire and machines are locked while
/// connections live on.
///
/// # Errors
/// [`AppraisalError`]; a missing entry is an unknown machine.
pub fn appraise_peer(
    peer: &PeerCertificate,
    entry: Option<&MachineEntry>,
    now: Timestamp,
) -> Result<VerifiedMachine, AppraisalError> {
    if now.unix_secs() < peer.not_before.unix_secs() || now.unix_secs() > peer.not_after.unix_secs() {
        return Err(AppraisalError::CertificateExpired);
    }
    let entry = entry.ok_or(AppraisalError::Unknown)?;
    if entry.spiffe != peer.spiffe_id {
        return Err(AppraisalError::Unknown);
    }
    match entry.state {
        MachineState::Active => {}
        MachineState::Locked => return Err(AppraisalError::Locked),
        MachineState::Revoked => return Err(AppraisalError::Revoked),
    }
    if !entry.jkt.ct_eq(&peer.thumbprint) {
        return Err(AppraisalError::KeyNotAttested);
    }
    Ok(VerifiedMachine {
        id: peer.machine_id.clone(),
        spiffe_id: peer.spiffe_id.clone(),
        thumbprint: peer.thumbprint,
        generation: entry.generation,
    })
}

impl VerifiedMachine {
    /// The machine's name.
    #[must_use]
    pub const fn id(&self) -> &MachineId {
        &self.id
    }

    /// Its SPIFFE ID.
    #[must_use]
    pub const fn spiffe_id(&self) -> &SpiffeId {
        &self.spiffe_id
    }

    /// The thumbprint of the key it proved.
    #[must_use]
    pub const fn thumbprint(&self) -> Thumbprint {
        self.thumbprint
    }

    /// The generation of the entry it was checked against.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }
}

/// A certificate that is a machine's X.509-SVID of ours by form. Says nothing about now.
#[derive(Clone, Debug)]
pub struct PeerCertificate {
    machine_id: MachineId,
    spiffe_id: SpiffeId,
    key: PublicJwk,
    thumbprint: Thumbprint,
    serial: String,
    not_before: Timestamp,
    not_after: Timestamp,
}

/// Why a certificate is not a machine's X.509-SVID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerCertificateError {
    /// It cannot be read.
    #[error(transparent)]
    Certificate(#[from] X509Error),
    /// Not version 3.
    #[error("certificate is not version 3")]
    Version,
    /// Not exactly one URI (X.509-SVID §2).
    #[error("certificate does not have exactly one uri name")]
    NotOneUri,
    /// The URI is no SPIFFE ID of the form `spiffe://<domain>/machine/<id>` (pathless ones are signers, §5.2).
    #[error("certificate does not name a machine")]
    NotAMachine,
    /// An authority, or one that may sign certificates or revocation lists (§4.1, §4.3).
    #[error("certificate may sign certificates")]
    MaySignCertificates,
    /// Key usage is missing, not critical, or without digital signature (§4.3).
    #[error("certificate has no critical key usage digital signature")]
    KeyUsage,
    /// Extended key usage without client authentication (§4.4; required by us).
    #[error("certificate is not for client authentication")]
    ExtendedKeyUsage,
    /// A subject is empty and the alternative names are not critical (RFC 5280 §4.2.1.6).
    #[error("certificate has neither a subject nor critical names")]
    Subject,
    /// Not a sound P-256 key.
    #[error("certificate key is not p-256")]
    Key,
}

impl PeerCertificate {
    /// Reads the peer's leaf certificate.
    ///
    /// # Errors
    /// [`PeerCertificateError`] naming the first rule that it breaks.
    pub fn from_der(der: &[u8]) -> Result<Self, PeerCertificateError> {
        Self::from_facts(&x509::parse_der(der)?)
    }

    fn from_facts(facts: &CertFacts) -> Result<Self, PeerCertificateError> {
        if facts.version != 3 {
            return Err(PeerCertificateError::Version);
        }
        let [uri] = facts.names.uris.as_slice() else { return Err(PeerCertificateError::NotOneUri) };
        let spiffe_id = SpiffeId::parse(uri).map_err(|_| PeerCertificateError::NotAMachine)?;
        let machine_id = spiffe_id
            .path()
            .strip_prefix("machine/")
            .and_then(|id| MachineId::parse(id).ok())
            .ok_or(PeerCertificateError::NotAMachine)?;
        let usage = facts.key_usage.ok_or(PeerCertificateError::KeyUsage)?;
        if facts.is_ca || usage.key_cert_sign || usage.crl_sign {
            return Err(PeerCertificateError::MaySignCertificates);
        }
        if !usage.critical || !usage.digital_signature {
            return Err(PeerCertificateError::KeyUsage);
        }
        if !facts.has_eku(EKU_CLIENT_AUTH) {
            return Err(PeerCertificateError::ExtendedKeyUsage);
        }
        if facts.subject_empty && !facts.has_san_critical {
            return Err(PeerCertificateError::Subject);
        }
        let key = facts.p256_jwk().ok_or(PeerCertificateError::Key)?;
        Ok(Self {
            machine_id,
            spiffe_id,
            thumbprint: key.thumbprint(),
            key,
            serial: facts.serial.clone(),
            not_before: facts.not_before,
            not_after: facts.not_after,
        })
    }

    /// The machine it names: the key under which its entry is looked up.
    #[must_use]
    pub const fn machine_id(&self) -> &MachineId {
        &self.machine_id
    }

    /// Its SPIFFE ID.
    #[must_use]
    pub const fn spiffe_id(&self) -> &SpiffeId {
        &self.spiffe_id
    }

    /// Its key.
    #[must_use]
    pub const fn key(&self) -> &PublicJwk {
        &self.key
    }

    /// The thumbprint of its key.
    #[must_use]
    pub const fn thumbprint(&self) -> Thumbprint {
        self.thumbprint
    }

    /// Its serial number in hexadecimal.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// End of its validity.
    #[must_use]
    pub const fn not_after(&self) -> Timestamp {
        self.not_after
    }
}

#[cfg(test)]
mod tests;
