//! The enrolled machine: one endorsement key, one attestation key, one current machine key, one state.
//!
//! Changes by value. Identity never changes: another TPM is another machine. Loading and saving is not done here.

use countersign_proto::acme::PermanentIdentifier;
use countersign_proto::attestation_client::MachineClaim;
use countersign_proto::digest::Sha256Digest;
use countersign_proto::id::{MachineId, SpiffeId, TrustDomain};
use countersign_proto::jose::Thumbprint;
use countersign_proto::snapshot::{MachineEntry, MachineState};
use countersign_proto::time::Timestamp;
use countersign_proto::tpm::TpmtPublic;
use countersign_proto::x509::TpmIdentity;
use countersign_proto::{b64, tpm};
use serde::{Deserialize, Serialize};

use crate::activation::{ActivatedAk, VerifiedAk};
use crate::device_attest::AttestedKey;
use crate::endorsement::Endorsement;
use crate::quote::{ClockState, ReferenceValues, VerifiedQuote};

/// How long an attestation result counts, in seconds.
pub const ATTESTATION_LIFETIME_SECS: i64 = 300;

/// The attestation key of an enrolled machine, as accepted by [`crate::activation::check_ak`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawAttestationKey", into = "RawAttestationKey")]
pub struct AttestationKey {
    public: TpmtPublic,
    name: Vec<u8>,
    qualified_name: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAttestationKey {
    public: String,
    qualified_name: String,
}

/// A stored attestation key that cannot be read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stored attestation key is malformed")]
pub struct MalformedKey;

impl From<&VerifiedAk> for AttestationKey {
    fn from(ak: &VerifiedAk) -> Self {
        Self {
            public: ak.public().clone(),
            name: ak.name().to_vec(),
            qualified_name: ak.qualified_name().to_vec(),
        }
    }
}

impl TryFrom<RawAttestationKey> for AttestationKey {
    type Error = MalformedKey;

    fn try_from(raw: RawAttestationKey) -> Result<Self, MalformedKey> {
        let public = b64::url_decode(&raw.public).map_err(|_| MalformedKey)?;
        let public = TpmtPublic::parse(&public).map_err(|_| MalformedKey)?;
        let qualified_name = b64::url_decode(&raw.qualified_name).map_err(|_| MalformedKey)?;
        Ok(Self { name: public.name(), public, qualified_name })
    }
}

impl From<AttestationKey> for RawAttestationKey {
    fn from(key: AttestationKey) -> Self {
        // A key that was parsed encodes; were it otherwise, the empty text would not read back as any key.
        let public = key.public.to_bytes().unwrap_or_default();
        Self { public: b64::url_encode(&public), qualified_name: b64::url_encode(&key.qualified_name) }
    }
}

impl AttestationKey {
    /// The public area.
    #[must_use]
    pub const fn public(&self) -> &TpmtPublic {
        &self.public
    }

    /// The Name.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// The qualified Name.
    #[must_use]
    pub fn qualified_name(&self) -> &[u8] {
        &self.qualified_name
    }
}

/// The key M that a machine proves itself with, and since when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineKey {
    /// RFC 7638 thumbprint.
    pub jkt: Thumbprint,
    /// When its certificate was issued.
    pub certified_at: Timestamp,
}

/// An enrolled machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Its name, never reused.
    pub id: MachineId,
    /// Its SPIFFE ID.
    pub spiffe: SpiffeId,
    /// What it is called in orders.
    pub permanent_identifier: PermanentIdentifier,
    /// Digest of the endorsement key, unique among machines.
    pub ek_digest: Sha256Digest,
    /// Who vouches for the endorsement key.
    pub endorsement: Endorsement,
    /// The attestation key.
    pub ak: AttestationKey,
    /// The machine key, once certified.
    pub key: Option<MachineKey>,
    /// What its PCRs must be.
    pub reference: ReferenceValues,
    /// The last clock it showed.
    pub clock: ClockState,
    /// Whether it may act.
    pub state: MachineState,
    /// Bumped by every change that must end what is open.
    pub generation: u64,
    /// When it was enrolled.
    pub enrolled_at: Timestamp,
    /// When its last quote was accepted.
    pub attested_at: Option<Timestamp>,
    /// When it last changed so that what was attested before is worth nothing; 0 for never.
    #[serde(default = "never")]
    pub changed_at: Timestamp,
}

const fn never() -> Timestamp {
    Timestamp::from_unix_millis(0)
}

/// Why a machine cannot change as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MachineError {
    /// Another EK or AK under the same name (`identity_immutable`).
    #[error("a machine's identity cannot change")]
    IdentityImmutable,
    /// The machine is revoked; that is final.
    #[error("machine is revoked")]
    Revoked,
    /// The machine is locked.
    #[error("machine is locked")]
    Locked,
    /// The evidence is another machine's.
    #[error("evidence belongs to another machine")]
    OtherMachine,
    /// No machine key has been certified yet.
    #[error("machine has no certified key")]
    NoKey,
}

/// What enrollment found out; everything a new [`Machine`] consists of.
#[derive(Clone, Debug)]
pub struct Enrollment {
    /// Its name.
    pub id: MachineId,
    /// Where it lives.
    pub trust_domain: TrustDomain,
    /// What it is called in orders.
    pub permanent_identifier: PermanentIdentifier,
    /// The reference values of its baseline, or the administrator's.
    pub reference: ReferenceValues,
    /// The clock of its first quote.
    pub clock: ClockState,
}

impl Machine {
    /// A machine whose AK was activated against its EK.
    #[must_use]
    pub fn enroll(enrollment: Enrollment, activated: &ActivatedAk, now: Timestamp) -> Self {
        Self {
            spiffe: SpiffeId::machine(&enrollment.trust_domain, &enrollment.id),
            id: enrollment.id,
            permanent_identifier: enrollment.permanent_identifier,
            ek_digest: activated.ek().digest(),
            endorsement: activated.ek().endorsement().clone(),
            ak: AttestationKey::from(activated.ak()),
            key: None,
            reference: enrollment.reference,
            clock: enrollment.clock,
            state: MachineState::Active,
            generation: 0,
            enrolled_at: now,
            attested_at: None,
            changed_at: never(),
        }
    }

    /// Whether these keys are the ones this machine was enrolled with; anything else is a take-over.
    ///
    /// # Errors
    /// [`MachineError::IdentityImmutable`], or the state that forbids enrolling again.
    pub fn recognizes(&self, activated: &ActivatedAk) -> Result<(), MachineError> {
        self.may_act()?;
        if activated.ek().digest() == self.ek_digest && AttestationKey::from(activated.ak()) == self.ak {
            Ok(())
        } else {
            Err(MachineError::IdentityImmutable)
        }
    }

    /// Takes a freshly attested key as the machine key. A new key ends what was open under the old one.
    ///
    /// # Errors
    /// [`MachineError`] if the key was attested by another machine's AK, or the machine may not act.
    pub fn certify(mut self, key: &AttestedKey, now: Timestamp) -> Result<Self, MachineError> {
        self.may_act()?;
        if key.ak_name() != self.ak.name {
            return Err(MachineError::OtherMachine);
        }
        let jkt = key.jwk().thumbprint();
        if self.key.as_ref().is_some_and(|known| !known.jkt.ct_eq(&jkt)) {
            self.generation += 1;
        }
        self.key = Some(MachineKey { jkt, certified_at: now });
        if self.clock.is_followed_by(&key.clock()) {
            self.clock = key.clock();
        }
        Ok(self)
    }

    /// Remembers an accepted quote.
    ///
    /// # Errors
    /// [`MachineError`] if it is another machine's, or the machine may not act.
    pub fn attested(mut self, quote: &VerifiedQuote, now: Timestamp) -> Result<Self, MachineError> {
        self.may_act()?;
        if quote.ak_name() != self.ak.name {
            return Err(MachineError::OtherMachine);
        }
        self.clock = quote.clock();
        self.attested_at = Some(now);
        Ok(self)
    }

    /// Stops the machine until [`Machine::unlock`]; a revoked one stays revoked.
    #[must_use]
    pub fn lock(self, now: Timestamp) -> Self {
        match self.state {
            MachineState::Active => self.turned(MachineState::Locked, now),
            MachineState::Locked | MachineState::Revoked => self,
        }
    }

    /// Lets a locked machine act again, after a new attestation.
    ///
    /// # Errors
    /// [`MachineError::Revoked`].
    pub fn unlock(self, now: Timestamp) -> Result<Self, MachineError> {
        match self.state {
            MachineState::Active => Ok(self),
            MachineState::Locked => Ok(self.turned(MachineState::Active, now)),
            MachineState::Revoked => Err(MachineError::Revoked),
        }
    }

    /// Ends the machine for good.
    #[must_use]
    pub fn revoke(self, now: Timestamp) -> Self {
        match self.state {
            MachineState::Active | MachineState::Locked => self.turned(MachineState::Revoked, now),
            MachineState::Revoked => self,
        }
    }

    /// Takes the machine key away, because its certificate was revoked; what was attested with it is worth nothing,
    /// also if the same key is certified again.
    #[must_use]
    pub fn without_key(self, now: Timestamp) -> Self {
        let state = self.state;
        Self { key: None, ..self.turned(state, now) }
    }

    fn turned(self, state: MachineState, now: Timestamp) -> Self {
        // A clock that stepped back must not make old attestations count again.
        let changed_at = self.changed_at.max(now);
        Self { state, changed_at, generation: self.generation + 1, ..self }
    }

    /// Replaces the reference values; the next quote is judged by them, and what is open ends.
    #[must_use]
    pub fn with_reference(self, reference: ReferenceValues, now: Timestamp) -> Self {
        let state = self.state;
        Self { reference, ..self.turned(state, now) }
    }

    /// Whether something made at that time counts no more, because the machine was stopped, started or judged anew since.
    #[must_use]
    pub fn outdates(&self, made_at: Timestamp) -> bool {
        made_at < self.changed_at
    }

    /// Whether the machine may act at all.
    ///
    /// # Errors
    /// [`MachineError::Locked`] or [`MachineError::Revoked`].
    pub const fn may_act(&self) -> Result<(), MachineError> {
        match self.state {
            MachineState::Active => Ok(()),
            MachineState::Locked => Err(MachineError::Locked),
            MachineState::Revoked => Err(MachineError::Revoked),
        }
    }

    /// What gateways need to know; `None` before a key is certified.
    #[must_use]
    pub fn entry(&self) -> Option<MachineEntry> {
        let key = self.key.as_ref()?;
        Some(MachineEntry {
            spiffe: self.spiffe.clone(),
            jkt: key.jkt,
            state: self.state,
            generation: self.generation,
            changed_at: self.changed_at,
        })
    }

    /// The AK's Name, base64url, as an index.
    #[must_use]
    pub fn ak_name_text(&self) -> String {
        b64::url_encode(self.ak.name())
    }

    /// The maker of the TPM as the AK certificate says it; a TPM without a certificate has no known maker.
    #[must_use]
    pub fn tpm_identity(&self) -> TpmIdentity {
        match &self.endorsement {
            Endorsement::Certificate { tpm: Some(tpm) } => tpm.clone(),
            Endorsement::Certificate { tpm: None } | Endorsement::AllowList {} => TpmIdentity {
                manufacturer: "id:00000000".to_owned(),
                model: "unknown".to_owned(),
                version: "id:00000000".to_owned(),
            },
        }
    }
}

/// What the attester asserts about a machine after a fresh quote.
///
/// # Errors
/// [`MachineError`] if the quote is another machine's or matched other reference values, the machine may not act,
/// or has no certified key.
pub fn appraise_attestation(
    machine: &Machine,
    quote: &VerifiedQuote,
    now: Timestamp,
) -> Result<MachineClaim, MachineError> {
    machine.may_act()?;
    if quote.ak_name() != machine.ak.name || quote.reference() != machine.reference.name() {
        return Err(MachineError::OtherMachine);
    }
    if machine.key.is_none() {
        return Err(MachineError::NoKey);
    }
    Ok(MachineClaim {
        id: machine.id.clone(),
        sub: machine.spiffe.clone(),
        lvl: VerifiedQuote::LEVEL,
        att_time: now.unix_secs(),
        att_exp: now.plus_secs(ATTESTATION_LIFETIME_SECS).unix_secs(),
        reference: quote.reference().to_owned(),
        ev: quote.evidence_hash(),
    })
}

/// The Name of a public area, base64url, for messages and records.
///
/// # Errors
/// As [`tpm::name`].
pub fn name_text(public_area: &[u8]) -> Result<String, tpm::TpmError> {
    tpm::name(public_area).map(|name| b64::url_encode(&name))
}

#[cfg(test)]
mod tests;
