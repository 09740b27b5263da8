//! The machine's TPM: its endorsement, its attestation key, the machine key M, and quotes.
//!
//! One conversation at a time, every command bounded in time, every transient object accounted for: a TPM has three
//! slots. There is no software fallback: if the TPM does not answer, the caller has no key.

mod command;
mod key;
mod transport;
mod wire;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use countersign_proto::tpm as structures;
use parking_lot::{Mutex, MutexGuard};

pub use command::Attested;
pub use key::{MachineKey, MachineKeyBlob};
pub use transport::{TpmLocation, Transport};

use command::{Commands, ENDORSEMENT, OWNER};

/// RSA-2048 endorsement certificate (TCG EK Credential Profile §2.2.1.4).
const EK_CERTIFICATE_INDEX: u32 = 0x01C0_0002;
/// Where manufacturers put the certificates above it (TCG EK Credential Profile §2.2.1.5.2).
const EK_CHAIN_INDEXES: std::ops::RangeInclusive<u32> = 0x01C0_0100..=0x01C0_01FF;
/// How long to wait for our turn at the TPM.
const TURN_LIMIT: Duration = Duration::from_secs(2);
/// The PCRs that a quote covers: firmware, boot loader and their configuration.
pub const QUOTED_PCRS: [u8; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

/// Why the TPM did not do what was asked. Whoever asked has no proof, and says so.
#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    /// No TPM there, or no right to use it.
    #[error(
        "cannot talk to the TPM at {path}; check that the machine has a TPM 2.0 and that this user may use it (group tss for /dev/tpmrm0)"
    )]
    Unreachable {
        /// Where it was looked for.
        path: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// It did not answer within the limit.
    #[error(
        "the TPM did not answer in time; another program may be holding it; try again, nothing was signed"
    )]
    Busy,
    /// It answered with an error.
    #[error("the TPM refused {command} with {code:#05x}{}", hint(*code))]
    Refused {
        /// The command, as Part 3 names it.
        command: &'static str,
        /// The response code (Part 2 §6.6).
        code: u32,
    },
    /// It answered with something that is not a response.
    #[error("{command}: {what}; the TPM or its driver is faulty")]
    Malformed {
        /// The command, as Part 3 names it.
        command: &'static str,
        /// What is wrong.
        what: &'static str,
    },
    /// A structure from the TPM that we do not understand.
    #[error("the TPM returned a structure that is not acceptable")]
    Structure(#[from] structures::TpmError),
    /// The key in the state directory was made by another TPM, or was changed.
    #[error(
        "the machine key does not belong to this TPM; the state directory was copied or the TPM was cleared; enroll this machine again"
    )]
    ForeignKey,
}

impl TpmError {
    fn unreachable(path: &Path, source: std::io::Error) -> Self {
        Self::Unreachable { path: path.display().to_string(), source }
    }
}

/// What to do about the response codes that people meet.
fn hint(code: u32) -> &'static str {
    match code {
        0x921 => {
            ": it is in dictionary-attack lockout; wait, or clear the lockout with tpm2_dictionarylockout"
        }
        0x902 | 0x903 => ": it has no free object slot; use /dev/tpmrm0, which shares them",
        0x9A2 | 0x98E => {
            ": an authorization is wrong; the owner or endorsement hierarchy has a password, which is not supported"
        }
        0x922 => ": it is too busy with itself; try again",
        0x1DF | 0x2DF => ": the data was made for another TPM or another key",
        _ => "",
    }
}

/// A quote and the PCR values it covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuoteEvidence {
    /// `TPMS_ATTEST`.
    pub attest: Vec<u8>,
    /// `TPMT_SIGNATURE` by the attestation key.
    pub signature: Vec<u8>,
    /// SHA-256 bank, by PCR number.
    pub pcr_values: BTreeMap<u8, [u8; 32]>,
}

/// The attestation key with the proof of how it was made.
#[derive(Clone, Debug)]
pub struct AttestationKeyProof {
    /// `TPMT_PUBLIC`.
    pub public: Vec<u8>,
    /// `TPMS_CREATION_DATA`.
    pub creation_data: Vec<u8>,
    /// `TPMS_ATTEST` of type creation and its signature by the key itself.
    pub creation: Attested,
}

/// A handle on the machine's TPM. Cloning it shares the conversation.
#[derive(Clone)]
pub struct Tpm {
    turn: Arc<Mutex<Turn>>,
}

/// What exactly one caller at a time may touch.
struct Turn {
    commands: Commands,
    /// Keys kept loaded, so that a signature is one command. Valid for the epoch they were loaded in.
    loaded_in: u64,
    attestation_key: Option<u32>,
    machine_key: Option<(Vec<u8>, u32)>,
}

impl std::fmt::Debug for Tpm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tpm")
    }
}

impl Tpm {
    /// Opens the TPM and makes it answer once.
    ///
    /// # Errors
    /// [`TpmError`] if there is none or it does not answer.
    pub fn open(location: TpmLocation) -> Result<Self, TpmError> {
        let turn = Turn {
            commands: Commands::new(location),
            loaded_in: 0,
            attestation_key: None,
            machine_key: None,
        };
        let tpm = Self { turn: Arc::new(Mutex::new(turn)) };
        tpm.random(1)?;
        Ok(tpm)
    }

    /// Runs blocking TPM work from asynchronous code without holding up its other tasks.
    ///
    /// # Errors
    /// What `act` answers.
    pub async fn run<T, F>(&self, act: F) -> Result<T, TpmError>
    where
        T: Send + 'static,
        F: FnOnce(&Self) -> Result<T, TpmError> + Send + 'static,
    {
        let tpm = self.clone();
        tokio::task::spawn_blocking(move || act(&tpm))
            .await
            .unwrap_or(Err(TpmError::Malformed { command: "TPM", what: "the work was abandoned" }))
    }

    /// Where this TPM is.
    ///
    /// # Errors
    /// [`TpmError::Busy`].
    pub fn location(&self) -> Result<TpmLocation, TpmError> {
        Ok(self.turn()?.commands.location().clone())
    }

    /// Random bytes from the TPM; it may return fewer than asked for.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn random(&self, length: u16) -> Result<Vec<u8>, TpmError> {
        self.turn()?.commands.random(length)
    }

    /// The endorsement certificate and whatever of its chain the manufacturer stored, leaf first, in DER.
    /// Empty if the TPM has none.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn endorsement_certificates(&self) -> Result<Vec<Vec<u8>>, TpmError> {
        let mut turn = self.turn()?;
        let Some(leaf) = turn.commands.nv_read(EK_CERTIFICATE_INDEX)? else { return Ok(Vec::new()) };
        let mut certificates = split_der(&leaf);
        certificates.truncate(1);
        for index in turn.commands.nv_indexes(EK_CHAIN_INDEXES)? {
            if let Some(contents) = turn.commands.nv_read(index)? {
                certificates.extend(split_der(&contents));
            }
        }
        Ok(certificates)
    }

    /// `TPMT_PUBLIC` of the RSA-2048 endorsement key: the key in the endorsement certificate.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn endorsement_public(&self) -> Result<Vec<u8>, TpmError> {
        let mut turn = self.turn()?;
        let template = structures::ek_rsa2048_template();
        let (handle, created) = turn.commands.create_primary(ENDORSEMENT, &template, &[])?;
        turn.commands.flush(handle)?;
        Ok(created.public)
    }

    /// Makes the attestation key and has it state how it was made; `qualifying` (at most 32 bytes) makes the statement fresh.
    ///
    /// The key is a primary of the endorsement hierarchy: the same key each time, and nothing to store.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn prove_attestation_key(&self, qualifying: &[u8]) -> Result<AttestationKeyProof, TpmError> {
        let mut turn = self.turn()?;
        turn.unload_attestation_key()?;
        let template = structures::ak_p256_template();
        let (handle, created) = turn.commands.create_primary(ENDORSEMENT, &template, &[])?;
        turn.adopt_attestation_key(handle);
        let creation = turn.commands.certify_creation(handle, handle, qualifying, &created)?;
        Ok(AttestationKeyProof { public: created.public, creation_data: created.creation_data, creation })
    }

    /// `TPM2_ActivateCredential`: the secret comes out only here and only for our attestation key.
    ///
    /// # Errors
    /// [`TpmError::Refused`] if the credential was made for another key or another TPM.
    pub fn activate_credential(
        &self,
        id_object: &[u8],
        encrypted_secret: &[u8],
    ) -> Result<Vec<u8>, TpmError> {
        let mut turn = self.turn()?;
        let key = turn.attestation_key()?;
        let (endorsement_key, _) =
            turn.commands.create_primary(ENDORSEMENT, &structures::ek_rsa2048_template(), &[])?;
        let activated = turn.commands.endorsement_session().and_then(|session| {
            turn.commands.activate(key, endorsement_key, session, id_object, encrypted_secret)
        });
        turn.commands.flush(endorsement_key)?;
        activated
    }

    /// Makes a new machine key M. It is not known to anybody until it has been attested.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn create_machine_key(&self) -> Result<MachineKeyBlob, TpmError> {
        self.create_key(&structures::machine_key_p256_template())
    }

    /// Makes a key of any template below the storage root key.
    fn create_key(&self, template: &[u8]) -> Result<MachineKeyBlob, TpmError> {
        let mut turn = self.turn()?;
        // A key needs a slot while it is made: three are only enough without the one in use.
        turn.unload_machine_key()?;
        let created = turn.below_storage_root(|commands, parent| commands.create(parent, template))?;
        Ok(MachineKeyBlob::new(created.public, created.private))
    }

    /// Takes the machine key of the state directory into use.
    ///
    /// # Errors
    /// [`TpmError::ForeignKey`] if this TPM did not make it.
    pub fn machine_key(&self, blob: MachineKeyBlob) -> Result<MachineKey, TpmError> {
        let key = MachineKey::new(self.clone(), blob)?;
        self.turn()?.machine_key(key.blob())?;
        Ok(key)
    }

    /// `TPM2_Certify` of the machine key by the attestation key, over `qualifying` (at most 32 bytes).
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn certify(&self, key: &MachineKey, qualifying: &[u8]) -> Result<Attested, TpmError> {
        let mut turn = self.turn()?;
        let object = turn.machine_key(key.blob())?;
        let signer = turn.attestation_key()?;
        turn.commands.certify(object, signer, qualifying)
    }

    /// `TPM2_Quote` over [`QUOTED_PCRS`] by the attestation key, over `qualifying` (at most 32 bytes).
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn quote(&self, qualifying: &[u8]) -> Result<QuoteEvidence, TpmError> {
        let mut turn = self.turn()?;
        let signer = turn.attestation_key()?;
        turn.commands.quote(signer, qualifying, &QUOTED_PCRS)
    }

    /// `TPM2_PCR_Extend`: changes what this machine is, until it reboots.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn extend(&self, pcr: u8, digest: &[u8; 32]) -> Result<(), TpmError> {
        self.turn()?.commands.pcr_extend(pcr, digest)
    }

    /// How many transient objects are loaded at this moment; for `doctor` and tests.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn loaded_objects(&self) -> Result<usize, TpmError> {
        Ok(self.turn()?.commands.transient_handles()?.len())
    }

    /// Signs a digest with the machine key; a `TPMT_SIGNATURE`.
    fn sign(&self, blob: &MachineKeyBlob, digest: &[u8; 32]) -> Result<Vec<u8>, TpmError> {
        let mut turn = self.turn()?;
        let handle = turn.machine_key(blob)?;
        turn.commands.sign(handle, digest)
    }

    fn turn(&self) -> Result<MutexGuard<'_, Turn>, TpmError> {
        let mut turn = self.turn.try_lock_for(TURN_LIMIT).ok_or(TpmError::Busy)?;
        turn.commands.connect()?;
        turn.forget_stale_handles();
        Ok(turn)
    }
}

impl Turn {
    /// A new conversation knows none of the old handles.
    fn forget_stale_handles(&mut self) {
        if self.loaded_in != self.commands.epoch {
            self.loaded_in = self.commands.epoch;
            self.attestation_key = None;
            self.machine_key = None;
        }
    }

    fn adopt_attestation_key(&mut self, handle: u32) {
        self.attestation_key = Some(handle);
    }

    fn unload_attestation_key(&mut self) -> Result<(), TpmError> {
        self.attestation_key.take().map_or(Ok(()), |handle| self.commands.flush(handle))
    }

    fn attestation_key(&mut self) -> Result<u32, TpmError> {
        if let Some(handle) = self.attestation_key {
            return Ok(handle);
        }
        let template = structures::ak_p256_template();
        let (handle, _) = self.commands.create_primary(ENDORSEMENT, &template, &[])?;
        self.adopt_attestation_key(handle);
        Ok(handle)
    }

    fn unload_machine_key(&mut self) -> Result<(), TpmError> {
        self.machine_key.take().map_or(Ok(()), |(_, handle)| self.commands.flush(handle))
    }

    fn machine_key(&mut self, blob: &MachineKeyBlob) -> Result<u32, TpmError> {
        match &self.machine_key {
            Some((public, handle)) if public == blob.public() => return Ok(*handle),
            Some(_) | None => self.unload_machine_key()?,
        }
        let handle = self.below_storage_root(|commands, parent| {
            commands.load(parent, blob.private(), blob.public()).map_err(|error| match error {
                // TPM_RC_INTEGRITY, _BINDING, _SIZE, _VALUE of a parameter: not our blob.
                TpmError::Refused { code: 0x1DF | 0x2DF | 0x1E5 | 0x2E5 | 0x1D5 | 0x1C4, .. } => {
                    TpmError::ForeignKey
                }
                other => other,
            })
        })?;
        self.machine_key = Some((blob.public().to_vec(), handle));
        Ok(handle)
    }

    /// The storage root key occupies a slot only while `act` needs it.
    fn below_storage_root<T>(
        &mut self,
        act: impl FnOnce(&mut Commands, u32) -> Result<T, TpmError>,
    ) -> Result<T, TpmError> {
        let (parent, _) = self.commands.create_primary(OWNER, &structures::srk_p256_template(), &[])?;
        let done = act(&mut self.commands, parent);
        self.commands.flush(parent)?;
        done
    }
}

/// The DER certificates at the start of `bytes`; NV indexes are often larger than what they hold.
fn split_der(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while let Some(length) = der_length(bytes) {
        let Some((certificate, rest)) = bytes.split_at_checked(length) else { break };
        found.push(certificate.to_vec());
        bytes = rest;
    }
    found
}

/// The whole length of a DER SEQUENCE with a two-byte length, which is what certificates are.
fn der_length(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [0x30, 0x82, high, low, ..] => Some(4 + usize::from(u16::from_be_bytes([*high, *low]))),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
