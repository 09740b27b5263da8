//! The frame of TPM commands and responses (TPM 2.0 Part 1 §18): header, handles, authorizations, parameters.
//!
//! Only what our handful of commands needs. The structures inside belong to `proto::tpm`.

use super::TpmError;

/// `TPM_ST_NO_SESSIONS`.
const NO_SESSIONS: u16 = 0x8001;
/// `TPM_ST_SESSIONS`.
const SESSIONS: u16 = 0x8002;
/// `TPM_RS_PW`: authorization with a password, ours always empty.
const PASSWORD: u32 = 0x4000_0009;
/// The largest response we accept; TPMs announce at most 4096 bytes.
pub const MAX_RESPONSE_BYTES: usize = 4096;
/// The largest command we send.
pub const MAX_COMMAND_BYTES: usize = 4096;

/// Command codes (Part 2 §6.5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Code {
    NvReadPublic = 0x169,
    NvRead = 0x14E,
    CreatePrimary = 0x131,
    Create = 0x153,
    Load = 0x157,
    FlushContext = 0x165,
    StartAuthSession = 0x176,
    PolicySecret = 0x151,
    ActivateCredential = 0x147,
    Certify = 0x148,
    CertifyCreation = 0x14A,
    Quote = 0x158,
    PcrRead = 0x17E,
    PcrExtend = 0x182,
    Sign = 0x15D,
    GetRandom = 0x17B,
    GetCapability = 0x17A,
}

impl Code {
    /// The command as Part 3 names it, for messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::NvReadPublic => "TPM2_NV_ReadPublic",
            Self::NvRead => "TPM2_NV_Read",
            Self::CreatePrimary => "TPM2_CreatePrimary",
            Self::Create => "TPM2_Create",
            Self::Load => "TPM2_Load",
            Self::FlushContext => "TPM2_FlushContext",
            Self::StartAuthSession => "TPM2_StartAuthSession",
            Self::PolicySecret => "TPM2_PolicySecret",
            Self::ActivateCredential => "TPM2_ActivateCredential",
            Self::Certify => "TPM2_Certify",
            Self::CertifyCreation => "TPM2_CertifyCreation",
            Self::Quote => "TPM2_Quote",
            Self::PcrRead => "TPM2_PCR_Read",
            Self::PcrExtend => "TPM2_PCR_Extend",
            Self::Sign => "TPM2_Sign",
            Self::GetRandom => "TPM2_GetRandom",
            Self::GetCapability => "TPM2_GetCapability",
        }
    }
}

/// How one handle of a command is authorized.
#[derive(Clone, Copy, Debug)]
pub enum Auth {
    /// The empty password.
    Password,
    /// A policy session, which ends with the command.
    Policy(u32),
}

/// A command being written.
#[derive(Debug)]
pub struct CommandFrame {
    code: Code,
    body: Vec<u8>,
    authorized: bool,
}

impl CommandFrame {
    /// A command without authorizations.
    pub fn new(code: Code, handles: &[u32]) -> Self {
        let body = handles.iter().flat_map(|handle| handle.to_be_bytes()).collect();
        Self { code, body, authorized: false }
    }

    /// A command whose first `auths.len()` handles are authorized.
    pub fn authorized(code: Code, handles: &[u32], auths: &[Auth]) -> Self {
        let mut frame = Self::new(code, handles);
        frame.authorized = true;
        let area = u32::try_from(auths.len() * 9).unwrap_or(u32::MAX);
        frame = frame.u32(area);
        for auth in auths {
            let (handle, attributes) = match auth {
                Auth::Password => (PASSWORD, 1),
                // continueSession clear: the TPM flushes the session itself.
                Auth::Policy(session) => (*session, 0),
            };
            frame = frame.u32(handle).sized(&[]).u8(attributes).sized(&[]);
        }
        frame
    }

    pub fn u8(mut self, value: u8) -> Self {
        self.body.push(value);
        self
    }

    pub fn u16(mut self, value: u16) -> Self {
        self.body.extend(value.to_be_bytes());
        self
    }

    pub fn u32(mut self, value: u32) -> Self {
        self.body.extend(value.to_be_bytes());
        self
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.body.extend_from_slice(bytes);
        self
    }

    /// A TPM2B: two bytes of length, then the bytes. Oversized input makes the frame oversized, which `finish` refuses.
    pub fn sized(self, bytes: &[u8]) -> Self {
        let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        self.u16(length).raw(bytes)
    }

    /// The command's code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The whole command.
    pub fn finish(self) -> Result<Vec<u8>, TpmError> {
        let size = self.body.len() + 10;
        if size > MAX_COMMAND_BYTES {
            return Err(TpmError::Malformed {
                command: self.code.name(),
                what: "command larger than the TPM takes",
            });
        }
        let mut bytes = Vec::with_capacity(size);
        bytes.extend(if self.authorized { SESSIONS } else { NO_SESSIONS }.to_be_bytes());
        bytes.extend(u32::try_from(size).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend((self.code as u32).to_be_bytes());
        bytes.extend(self.body);
        Ok(bytes)
    }
}

/// A successful response: its handle, if the command returns one, and its parameters.
#[derive(Debug)]
pub struct Response {
    command: &'static str,
    bytes: Vec<u8>,
    at: usize,
    end: usize,
}

impl Response {
    /// Checks the frame and the response code; `handles` is how many the command returns.
    pub fn open(code: Code, bytes: Vec<u8>, handles: usize) -> Result<(Self, Vec<u32>), TpmError> {
        let command = code.name();
        let end = bytes.len();
        let mut response = Self { command, bytes, at: 0, end };
        let tag = response.u16()?;
        let size = response.u32()?;
        let result = response.u32()?;
        if usize::try_from(size).ok() != Some(end) {
            return Err(response.malformed("length disagrees with its header"));
        }
        if result != 0 {
            return Err(TpmError::Refused { command, code: result });
        }
        let handles = (0..handles).map(|_| response.u32()).collect::<Result<Vec<_>, _>>()?;
        match tag {
            NO_SESSIONS => {}
            SESSIONS => {
                let length = usize::try_from(response.u32()?).unwrap_or(usize::MAX);
                // What follows the parameters are the sessions' answers, meaningless for empty passwords.
                response.end = response
                    .at
                    .checked_add(length)
                    .filter(|end| *end <= response.bytes.len())
                    .ok_or_else(|| response.malformed("parameters longer than the response"))?;
            }
            _ => return Err(response.malformed("unknown tag")),
        }
        Ok((response, handles))
    }

    fn malformed(&self, what: &'static str) -> TpmError {
        TpmError::Malformed { command: self.command, what }
    }

    pub fn take(&mut self, length: usize) -> Result<&[u8], TpmError> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.end);
        let Some(end) = end else { return Err(self.malformed("response too short")) };
        let start = std::mem::replace(&mut self.at, end);
        Ok(&self.bytes[start..end])
    }

    pub fn u8(&mut self) -> Result<u8, TpmError> {
        Ok(self.take(1)?[0])
    }

    pub fn u16(&mut self) -> Result<u16, TpmError> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    pub fn u32(&mut self) -> Result<u32, TpmError> {
        let bytes = self.take(4)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// A TPM2B's contents.
    pub fn sized(&mut self) -> Result<Vec<u8>, TpmError> {
        let length = usize::from(self.u16()?);
        Ok(self.take(length)?.to_vec())
    }

    /// Everything up to the end of the parameters.
    pub fn rest(mut self) -> Result<Vec<u8>, TpmError> {
        let length = self.end - self.at;
        Ok(self.take(length)?.to_vec())
    }

    /// That nothing follows.
    pub fn end(self) -> Result<(), TpmError> {
        if self.at == self.end { Ok(()) } else { Err(self.malformed("bytes after its end")) }
    }
}
