//! The commands of TPM 2.0 Part 3 that we use, one function each: typed arguments in, checked response out.
//!
//! No policy about which keys exist or when: that is in `tpm.rs`. Handles made here must be flushed by the caller.

use std::time::Duration;

use super::transport::{TpmLocation, Transport};
use super::wire::{Auth, Code, CommandFrame, Response};
use super::{QuoteEvidence, TpmError};

/// `TPM_RH_OWNER`: the storage hierarchy.
pub const OWNER: u32 = 0x4000_0001;
/// `TPM_RH_NULL`.
const NULL: u32 = 0x4000_0007;
/// `TPM_RH_ENDORSEMENT`: the manufacturer's hierarchy.
pub const ENDORSEMENT: u32 = 0x4000_000B;
/// `TPM_ALG_NULL`.
const ALG_NULL: u16 = 0x0010;
/// `TPM_ALG_SHA256`.
const ALG_SHA256: u16 = 0x000B;
/// How long a command may take. A TPM that does not answer is a denial, never a reason for another key.
const COMMAND_LIMIT: Duration = Duration::from_secs(2);
/// How long making a key may take: physical TPMs search RSA primes for many seconds.
const KEY_CREATION_LIMIT: Duration = Duration::from_secs(60);
/// `TPM_RC_RETRY`: the TPM was not able to start the command, for instance because it first had to note in NV that
/// a key with lockout protection is in use. Nothing happened; the same command may be sent again (Part 3 §5.2).
const RC_RETRY: u32 = 0x922;
/// How often it is sent again.
const MAX_RESENDS: u32 = 4;
/// What one `TPM2_NV_Read` asks for; every TPM offers at least this.
const NV_CHUNK_BYTES: u16 = 512;
/// The largest NV index we read: an endorsement certificate is 1 to 2 KiB.
const MAX_NV_BYTES: u16 = 8192;

/// A newly made key: what the TPM says about it and its making.
#[derive(Debug)]
pub struct Created {
    /// `TPM2B_PRIVATE` contents: encrypted by the TPM for itself. Empty for a primary key.
    pub private: Vec<u8>,
    /// `TPMT_PUBLIC`.
    pub public: Vec<u8>,
    /// `TPMS_CREATION_DATA`.
    pub creation_data: Vec<u8>,
    /// Its digest.
    pub creation_hash: Vec<u8>,
    /// `TPMT_TK_CREATION`.
    pub creation_ticket: Vec<u8>,
}

/// A statement and its signature, both as the TPM wrote them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attested {
    /// `TPMS_ATTEST`.
    pub attest: Vec<u8>,
    /// `TPMT_SIGNATURE`.
    pub signature: Vec<u8>,
}

/// A conversation with one TPM. A failed exchange ends it; the next command begins a new one.
pub struct Commands {
    location: TpmLocation,
    transport: Option<Box<dyn Transport>>,
    /// Counts conversations: a handle belongs to the one that made it.
    pub epoch: u64,
}

impl Commands {
    pub fn new(location: TpmLocation) -> Self {
        Self { location, transport: None, epoch: 0 }
    }

    pub fn location(&self) -> &TpmLocation {
        &self.location
    }

    /// Makes sure a conversation is open. Without a resource manager, whatever an earlier client left in the
    /// few transient slots is flushed, because nobody else will.
    pub fn connect(&mut self) -> Result<(), TpmError> {
        if self.transport.is_some() {
            return Ok(());
        }
        let transport = self.location.open()?;
        let managed = transport.is_resource_managed();
        self.transport = Some(transport);
        self.epoch += 1;
        if !managed {
            // TPM_HT_TRANSIENT, loaded sessions.
            for first in [0x8000_0000, 0x0200_0000] {
                for handle in self.handles_from(first)? {
                    self.flush(handle)?;
                }
            }
        }
        Ok(())
    }

    fn run(
        &mut self,
        frame: CommandFrame,
        handles: usize,
        limit: Duration,
    ) -> Result<(Response, Vec<u32>), TpmError> {
        let code = frame.code();
        let bytes = frame.finish()?;
        let mut answer = self.exchange(code, &bytes, handles, limit);
        for _ in 0..MAX_RESENDS {
            match answer {
                Err(TpmError::Refused { code: RC_RETRY, .. }) => {
                    answer = self.exchange(code, &bytes, handles, limit)
                }
                _ => break,
            }
        }
        answer
    }

    fn exchange(
        &mut self,
        code: Code,
        bytes: &[u8],
        handles: usize,
        limit: Duration,
    ) -> Result<(Response, Vec<u32>), TpmError> {
        self.connect()?;
        let Some(transport) = &mut self.transport else {
            return Err(TpmError::Busy);
        };
        let answer =
            transport.transmit(bytes, limit).and_then(|response| Response::open(code, response, handles));
        if let Err(TpmError::Unreachable { .. } | TpmError::Busy | TpmError::Malformed { .. }) = &answer {
            // Out of step: a late answer must never be taken for the answer to a later command.
            self.transport = None;
        }
        answer
    }

    fn ask(&mut self, frame: CommandFrame) -> Result<Response, TpmError> {
        Ok(self.run(frame, 0, COMMAND_LIMIT)?.0)
    }

    fn handles_from(&mut self, first: u32) -> Result<Vec<u32>, TpmError> {
        // TPM_CAP_HANDLES
        let mut response = self.ask(CommandFrame::new(Code::GetCapability, &[]).u32(1).u32(first).u32(64))?;
        response.u8()?;
        response.u32()?;
        let count = response.u32()?;
        let handles = (0..count.min(64)).map(|_| response.u32()).collect::<Result<Vec<_>, _>>()?;
        response.end()?;
        Ok(handles)
    }

    /// The defined NV indexes within `range`.
    pub fn nv_indexes(&mut self, range: std::ops::RangeInclusive<u32>) -> Result<Vec<u32>, TpmError> {
        let mut handles = self.handles_from(*range.start())?;
        handles.retain(|handle| range.contains(handle));
        Ok(handles)
    }

    /// Which transient objects are loaded.
    pub fn transient_handles(&mut self) -> Result<Vec<u32>, TpmError> {
        self.handles_from(0x8000_0000)
    }

    /// `TPM2_GetRandom`.
    pub fn random(&mut self, length: u16) -> Result<Vec<u8>, TpmError> {
        let mut response = self.ask(CommandFrame::new(Code::GetRandom, &[]).u16(length))?;
        let bytes = response.sized()?;
        response.end()?;
        Ok(bytes)
    }

    /// The whole of an NV index, or `None` if it is not defined.
    pub fn nv_read(&mut self, index: u32) -> Result<Option<Vec<u8>>, TpmError> {
        let size = match self.ask(CommandFrame::new(Code::NvReadPublic, &[index])) {
            Ok(mut response) => nv_size(&response.sized()?)?,
            // TPM_RC_HANDLE for the first handle: there is no such index.
            Err(TpmError::Refused { code: 0x18B, .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut contents = Vec::with_capacity(usize::from(size));
        while contents.len() < usize::from(size) {
            let offset = u16::try_from(contents.len()).unwrap_or(u16::MAX);
            let chunk = self.nv_chunk(index, NV_CHUNK_BYTES.min(size - offset), offset)?;
            if chunk.is_empty() {
                return Err(TpmError::Malformed { command: "TPM2_NV_Read", what: "empty chunk" });
            }
            contents.extend(chunk);
        }
        Ok(Some(contents))
    }

    fn nv_chunk(&mut self, index: u32, length: u16, offset: u16) -> Result<Vec<u8>, TpmError> {
        let read = |authority: u32| {
            CommandFrame::authorized(Code::NvRead, &[authority, index], &[Auth::Password])
                .u16(length)
                .u16(offset)
        };
        // Certificates are readable by their own empty password (AUTHREAD) or by the owner (OWNERREAD).
        let mut response = match self.ask(read(index)) {
            Err(TpmError::Refused { .. }) => self.ask(read(OWNER))?,
            answer => answer?,
        };
        let bytes = response.sized()?;
        response.end()?;
        Ok(bytes)
    }

    /// `TPM2_CreatePrimary` without a password; `template` is a `TPMT_PUBLIC`.
    pub fn create_primary(
        &mut self,
        hierarchy: u32,
        template: &[u8],
        outside: &[u8],
    ) -> Result<(u32, Created), TpmError> {
        let frame = CommandFrame::authorized(Code::CreatePrimary, &[hierarchy], &[Auth::Password])
            .sized(&[0, 0, 0, 0])
            .sized(template)
            .sized(outside)
            .u32(0);
        let (mut response, handles) = self.run(frame, 1, KEY_CREATION_LIMIT)?;
        let handle = handles.first().copied().unwrap_or(NULL);
        let created = Self::creation(&mut response, Vec::new());
        if created.is_err() {
            let _ = self.flush(handle);
        }
        Ok((handle, created?))
    }

    /// `TPM2_Create` without a password.
    pub fn create(&mut self, parent: u32, template: &[u8]) -> Result<Created, TpmError> {
        let frame = CommandFrame::authorized(Code::Create, &[parent], &[Auth::Password])
            .sized(&[0, 0, 0, 0])
            .sized(template)
            .sized(&[])
            .u32(0);
        let (mut response, _) = self.run(frame, 0, KEY_CREATION_LIMIT)?;
        let private = response.sized()?;
        Self::creation(&mut response, private)
    }

    fn creation(response: &mut Response, private: Vec<u8>) -> Result<Created, TpmError> {
        let public = response.sized()?;
        let creation_data = response.sized()?;
        let creation_hash = response.sized()?;
        let mut creation_ticket = response.take(6)?.to_vec();
        let digest = response.sized()?;
        creation_ticket.extend(u16::try_from(digest.len()).unwrap_or(0).to_be_bytes());
        creation_ticket.extend(digest);
        Ok(Created { private, public, creation_data, creation_hash, creation_ticket })
    }

    /// `TPM2_Load`.
    pub fn load(&mut self, parent: u32, private: &[u8], public: &[u8]) -> Result<u32, TpmError> {
        let frame =
            CommandFrame::authorized(Code::Load, &[parent], &[Auth::Password]).sized(private).sized(public);
        let (_, handles) = self.run(frame, 1, COMMAND_LIMIT)?;
        Ok(handles.first().copied().unwrap_or(NULL))
    }

    /// `TPM2_FlushContext`.
    pub fn flush(&mut self, handle: u32) -> Result<(), TpmError> {
        self.ask(CommandFrame::new(Code::FlushContext, &[]).u32(handle))?.end()
    }

    /// A policy session satisfied by the endorsement hierarchy's (empty) password: what the default EK asks for.
    pub fn endorsement_session(&mut self) -> Result<u32, TpmError> {
        let nonce = self.random(16)?;
        let frame = CommandFrame::new(Code::StartAuthSession, &[NULL, NULL])
            .sized(&nonce)
            .sized(&[])
            .u8(1)
            .u16(ALG_NULL)
            .u16(ALG_SHA256);
        let (_, handles) = self.run(frame, 1, COMMAND_LIMIT)?;
        let session = handles.first().copied().unwrap_or(NULL);
        let satisfied = self.ask(
            CommandFrame::authorized(Code::PolicySecret, &[ENDORSEMENT, session], &[Auth::Password])
                .sized(&[])
                .sized(&[])
                .sized(&[])
                .u32(0),
        );
        match satisfied {
            Ok(_) => Ok(session),
            Err(error) => {
                let _ = self.flush(session);
                Err(error)
            }
        }
    }

    /// `TPM2_ActivateCredential`. The session ends with it, also when it fails.
    pub fn activate(
        &mut self,
        key: u32,
        endorsement_key: u32,
        session: u32,
        id_object: &[u8],
        encrypted_secret: &[u8],
    ) -> Result<Vec<u8>, TpmError> {
        let frame = CommandFrame::authorized(
            Code::ActivateCredential,
            &[key, endorsement_key],
            &[Auth::Password, Auth::Policy(session)],
        )
        .sized(id_object)
        .sized(encrypted_secret);
        match self.ask(frame) {
            Ok(mut response) => response.sized(),
            Err(error) => {
                // A refused command leaves its session behind.
                let _ = self.flush(session);
                Err(error)
            }
        }
    }

    /// `TPM2_Certify`: `signer` states that `object` is in this TPM and what it is.
    pub fn certify(&mut self, object: u32, signer: u32, qualifying: &[u8]) -> Result<Attested, TpmError> {
        let frame =
            CommandFrame::authorized(Code::Certify, &[object, signer], &[Auth::Password, Auth::Password])
                .sized(qualifying)
                .u16(ALG_NULL);
        attested(self.ask(frame)?)
    }

    /// `TPM2_CertifyCreation`: `signer` states how `object` was made.
    pub fn certify_creation(
        &mut self,
        signer: u32,
        object: u32,
        qualifying: &[u8],
        created: &Created,
    ) -> Result<Attested, TpmError> {
        let frame = CommandFrame::authorized(Code::CertifyCreation, &[signer, object], &[Auth::Password])
            .sized(qualifying)
            .sized(&created.creation_hash)
            .u16(ALG_NULL)
            .raw(&created.creation_ticket);
        attested(self.ask(frame)?)
    }

    /// `TPM2_Quote` over PCRs of the SHA-256 bank, with the values read beside it.
    ///
    /// A PCR extended between the two commands gives a quote that does not match its values: the verifier
    /// refuses it and the caller asks again.
    pub fn quote(&mut self, signer: u32, qualifying: &[u8], pcrs: &[u8]) -> Result<QuoteEvidence, TpmError> {
        let selection = selection(pcrs);
        let frame = CommandFrame::authorized(Code::Quote, &[signer], &[Auth::Password])
            .sized(qualifying)
            .u16(ALG_NULL)
            .raw(&selection);
        let quoted = attested(self.ask(frame)?)?;
        let mut pcr_values = std::collections::BTreeMap::new();
        for chunk in pcrs.chunks(8) {
            let values = self.pcr_read(chunk)?;
            pcr_values.extend(chunk.iter().copied().zip(values));
        }
        Ok(QuoteEvidence { attest: quoted.attest, signature: quoted.signature, pcr_values })
    }

    /// `TPM2_PCR_Read`, at most eight PCRs of the SHA-256 bank, in the order of their numbers.
    fn pcr_read(&mut self, pcrs: &[u8]) -> Result<Vec<[u8; 32]>, TpmError> {
        let malformed = |what| TpmError::Malformed { command: "TPM2_PCR_Read", what };
        let mut response = self.ask(CommandFrame::new(Code::PcrRead, &[]).raw(&selection(pcrs)))?;
        response.u32()?;
        let asked = selection(pcrs);
        if response.take(asked.len())? != asked {
            return Err(malformed("another selection than asked for"));
        }
        if usize::try_from(response.u32()?).ok() != Some(pcrs.len()) {
            return Err(malformed("another number of values than asked for"));
        }
        let values = pcrs
            .iter()
            .map(|_| response.sized()?.try_into().map_err(|_| malformed("value of another length")))
            .collect::<Result<Vec<_>, _>>()?;
        response.end()?;
        Ok(values)
    }

    /// `TPM2_PCR_Extend` of the SHA-256 bank.
    pub fn pcr_extend(&mut self, pcr: u8, digest: &[u8; 32]) -> Result<(), TpmError> {
        let frame = CommandFrame::authorized(Code::PcrExtend, &[u32::from(pcr)], &[Auth::Password])
            .u32(1)
            .u16(ALG_SHA256)
            .raw(digest);
        self.ask(frame)?.end()
    }

    /// `TPM2_Sign` of an external digest with the key's own scheme; a `TPMT_SIGNATURE`.
    pub fn sign(&mut self, key: u32, digest: &[u8; 32]) -> Result<Vec<u8>, TpmError> {
        let frame = CommandFrame::authorized(Code::Sign, &[key], &[Auth::Password])
            .sized(digest)
            .u16(ALG_NULL)
            // No ticket: the digest comes from outside (TPM_ST_HASHCHECK, TPM_RH_NULL, empty).
            .u16(0x8024)
            .u32(NULL)
            .sized(&[]);
        self.ask(frame)?.rest()
    }
}

fn attested(mut response: Response) -> Result<Attested, TpmError> {
    let attest = response.sized()?;
    Ok(Attested { attest, signature: response.rest()? })
}

/// `TPML_PCR_SELECTION` of the SHA-256 bank.
fn selection(pcrs: &[u8]) -> Vec<u8> {
    let mut map = [0_u8; 3];
    for pcr in pcrs {
        if let Some(byte) = map.get_mut(usize::from(pcr / 8)) {
            *byte |= 1 << (pcr % 8);
        }
    }
    let mut bytes = vec![0, 0, 0, 1, 0x00, 0x0B, 3];
    bytes.extend(map);
    bytes
}

/// The size in a `TPMS_NV_PUBLIC`: its last two bytes, after index, name algorithm, attributes and policy.
fn nv_size(public: &[u8]) -> Result<u16, TpmError> {
    let malformed = |what| TpmError::Malformed { command: "TPM2_NV_ReadPublic", what };
    let policy = public.get(10..12).map(|length| usize::from(u16::from_be_bytes([length[0], length[1]])));
    match (policy, public.last_chunk::<2>()) {
        (Some(policy), Some(size)) if public.len() == 14 + policy => match u16::from_be_bytes(*size) {
            size if size <= MAX_NV_BYTES => Ok(size),
            _ => Err(malformed("index too large")),
        },
        _ => Err(malformed("index description of another length")),
    }
}
