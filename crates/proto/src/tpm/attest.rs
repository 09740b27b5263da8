//! `TPMS_ATTEST` (Part 2 §10.12) for certify, quote and creation, and `TPMS_CREATION_DATA` (§15).
//!
//! Parsing only shows what a blob says; who signed it and whether it is fresh is `trust`'s question.

use super::{
    Reader, ST_ATTEST_CERTIFY, ST_ATTEST_CREATION, ST_ATTEST_QUOTE, TPM_GENERATED, TpmError, Writer,
};

/// Most PCR banks in one selection; TPMs have four or five.
const MAX_SELECTIONS: u32 = 16;
/// Longest PCR bitmap in bytes (`PCR_SELECT_MAX` is 3 for 24 PCRs; some TPMs use 4).
const MAX_SELECT_LEN: u8 = 4;

/// What a TPM says about itself or an object, as signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TpmsAttest {
    /// Qualified Name of the signing key.
    pub qualified_signer: Vec<u8>,
    /// The caller's qualifying data: nonce or hash.
    pub extra_data: Vec<u8>,
    /// Clock and boot counters.
    pub clock_info: ClockInfo,
    /// Vendor's firmware number.
    pub firmware_version: u64,
    /// What is attested; the variant is the attest type.
    pub attested: Attested,
}

/// `TPMS_CLOCK_INFO`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClockInfo {
    /// Milliseconds the TPM was powered, never going back.
    pub clock: u64,
    /// TPM resets since it was cleared.
    pub reset_count: u32,
    /// Restarts and resumes since the last reset.
    pub restart_count: u32,
    /// Whether no greater `clock` was reported before.
    pub safe: bool,
}

/// `TPMU_ATTEST` for the types that we accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attested {
    /// `TPMS_CERTIFY_INFO`: an object with this Name is loaded.
    Certify {
        /// Its Name.
        name: Vec<u8>,
        /// Its qualified Name.
        qualified_name: Vec<u8>,
    },
    /// `TPMS_QUOTE_INFO`: the PCRs have this digest.
    Quote {
        /// Which PCRs.
        pcr_select: Vec<PcrSelection>,
        /// Digest of their concatenated values.
        pcr_digest: Vec<u8>,
    },
    /// `TPMS_CREATION_INFO`: the object was created by this TPM.
    Creation {
        /// Its Name.
        object_name: Vec<u8>,
        /// Digest of its creation data.
        creation_hash: Vec<u8>,
    },
}

/// `TPMS_PCR_SELECTION`: PCRs of one bank. The bitmap's length is kept, so that encoding gives the same bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PcrSelection {
    /// Bank as `TPM_ALG_ID` (SHA-1 may stand here, to be refused by the verifier).
    pub hash: u16,
    /// Bit `i % 8` of byte `i / 8` selects PCR `i`.
    pub bitmap: Vec<u8>,
}

/// `TPMS_CREATION_DATA`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TpmsCreationData {
    /// PCRs recorded at creation.
    pub pcr_select: Vec<PcrSelection>,
    /// Their digest.
    pub pcr_digest: Vec<u8>,
    /// Locality of the creating command.
    pub locality: u8,
    /// Name algorithm of the parent (`TPM_ALG_NULL` for a primary object).
    pub parent_name_alg: u16,
    /// Name of the parent, or the handle of the hierarchy.
    pub parent_name: Vec<u8>,
    /// Qualified Name of the parent.
    pub parent_qualified_name: Vec<u8>,
    /// The caller's own data.
    pub outside_info: Vec<u8>,
}

impl TpmsAttest {
    /// Parses one whole `TPMS_ATTEST`.
    ///
    /// # Errors
    /// [`TpmError::NotGenerated`] without the magic, otherwise what is wrong with the structure.
    pub fn parse(bytes: &[u8]) -> Result<Self, TpmError> {
        let mut reader = Reader::new(bytes);
        if reader.u32()? != TPM_GENERATED {
            return Err(TpmError::NotGenerated);
        }
        let kind = reader.u16()?;
        let qualified_signer = reader.sized()?.to_vec();
        let extra_data = reader.sized()?.to_vec();
        let clock_info = ClockInfo::read(&mut reader)?;
        let firmware_version = reader.u64()?;
        let attested = match kind {
            ST_ATTEST_CERTIFY => {
                Attested::Certify { name: reader.sized()?.to_vec(), qualified_name: reader.sized()?.to_vec() }
            }
            ST_ATTEST_QUOTE => Attested::Quote {
                pcr_select: parse_pcr_selections(&mut reader)?,
                pcr_digest: reader.sized()?.to_vec(),
            },
            ST_ATTEST_CREATION => Attested::Creation {
                object_name: reader.sized()?.to_vec(),
                creation_hash: reader.sized()?.to_vec(),
            },
            other => return Err(TpmError::UnsupportedAttest(other)),
        };
        reader.finish()?;
        Ok(Self { qualified_signer, extra_data, clock_info, firmware_version, attested })
    }

    /// Encodes as `TPMS_ATTEST` (simulated machines need it; a verifier does not).
    ///
    /// # Errors
    /// [`TpmError::TooLong`] for an oversized field.
    pub fn to_bytes(&self) -> Result<Vec<u8>, TpmError> {
        let mut out = Writer::new();
        let kind = match self.attested {
            Attested::Certify { .. } => ST_ATTEST_CERTIFY,
            Attested::Quote { .. } => ST_ATTEST_QUOTE,
            Attested::Creation { .. } => ST_ATTEST_CREATION,
        };
        out.u32(TPM_GENERATED).u16(kind).sized(&self.qualified_signer).sized(&self.extra_data);
        out.u64(self.clock_info.clock).u32(self.clock_info.reset_count).u32(self.clock_info.restart_count);
        out.u8(u8::from(self.clock_info.safe)).u64(self.firmware_version);
        match &self.attested {
            Attested::Certify { name, qualified_name } => out.sized(name).sized(qualified_name),
            Attested::Quote { pcr_select, pcr_digest } => {
                write_pcr_selections(&mut out, pcr_select)?;
                out.sized(pcr_digest)
            }
            Attested::Creation { object_name, creation_hash } => out.sized(object_name).sized(creation_hash),
        };
        out.finish()
    }
}

impl ClockInfo {
    fn read(reader: &mut Reader<'_>) -> Result<Self, TpmError> {
        Ok(Self {
            clock: reader.u64()?,
            reset_count: reader.u32()?,
            restart_count: reader.u32()?,
            safe: match reader.u8()? {
                0 => false,
                1 => true,
                _ => return Err(TpmError::InvalidValue),
            },
        })
    }
}

impl PcrSelection {
    /// A selection with the usual three-byte bitmap. PCRs above 23 do not exist and are refused.
    ///
    /// # Errors
    /// [`TpmError::InvalidValue`] for a PCR above 23.
    pub fn of(hash: u16, pcrs: impl IntoIterator<Item = u8>) -> Result<Self, TpmError> {
        let mut bitmap = vec![0_u8; 3];
        for pcr in pcrs {
            *bitmap.get_mut(usize::from(pcr / 8)).ok_or(TpmError::InvalidValue)? |= 1 << (pcr % 8);
        }
        Ok(Self { hash, bitmap })
    }

    /// The selected PCRs in ascending order.
    pub fn pcrs(&self) -> impl Iterator<Item = u8> + '_ {
        (0_u8..).zip(&self.bitmap).flat_map(|(index, byte)| {
            (0..8_u8).filter(move |bit| byte & (1 << bit) != 0).map(move |bit| index * 8 + bit)
        })
    }
}

/// Reads a `TPML_PCR_SELECTION`.
///
/// # Errors
/// [`TpmError`] when truncated or larger than any TPM's.
pub fn parse_pcr_selections(reader: &mut Reader<'_>) -> Result<Vec<PcrSelection>, TpmError> {
    let count = reader.u32()?;
    if count > MAX_SELECTIONS {
        return Err(TpmError::TooLong);
    }
    (0..count)
        .map(|_| {
            let hash = reader.u16()?;
            let length = reader.u8()?;
            if length > MAX_SELECT_LEN {
                return Err(TpmError::TooLong);
            }
            Ok(PcrSelection { hash, bitmap: reader.bytes(usize::from(length))?.to_vec() })
        })
        .collect()
}

/// Writes a `TPML_PCR_SELECTION`.
///
/// # Errors
/// [`TpmError::TooLong`] if it is larger than [`parse_pcr_selections`] would accept.
pub fn write_pcr_selections(out: &mut Writer, selections: &[PcrSelection]) -> Result<(), TpmError> {
    let count = u32::try_from(selections.len())
        .ok()
        .filter(|count| *count <= MAX_SELECTIONS)
        .ok_or(TpmError::TooLong)?;
    out.u32(count);
    for selection in selections {
        let length = u8::try_from(selection.bitmap.len())
            .ok()
            .filter(|length| *length <= MAX_SELECT_LEN)
            .ok_or(TpmError::TooLong)?;
        out.u16(selection.hash).u8(length).bytes(&selection.bitmap);
    }
    Ok(())
}

impl TpmsCreationData {
    /// Parses one whole `TPMS_CREATION_DATA`.
    ///
    /// # Errors
    /// [`TpmError`] for anything else.
    pub fn parse(bytes: &[u8]) -> Result<Self, TpmError> {
        let mut reader = Reader::new(bytes);
        let creation = Self {
            pcr_select: parse_pcr_selections(&mut reader)?,
            pcr_digest: reader.sized()?.to_vec(),
            locality: reader.u8()?,
            parent_name_alg: reader.u16()?,
            parent_name: reader.sized()?.to_vec(),
            parent_qualified_name: reader.sized()?.to_vec(),
            outside_info: reader.sized()?.to_vec(),
        };
        reader.finish()?;
        Ok(creation)
    }

    /// Encodes as `TPMS_CREATION_DATA`.
    ///
    /// # Errors
    /// [`TpmError::TooLong`] for an oversized field.
    pub fn to_bytes(&self) -> Result<Vec<u8>, TpmError> {
        let mut out = Writer::new();
        write_pcr_selections(&mut out, &self.pcr_select)?;
        out.sized(&self.pcr_digest).u8(self.locality).u16(self.parent_name_alg);
        out.sized(&self.parent_name).sized(&self.parent_qualified_name).sized(&self.outside_info);
        out.finish()
    }
}
