//! Quotes: what state is the machine in, right now? Signature, freshness, coverage, digest and clock, in that order.
//!
//! Values are compared with reference values, PCR by PCR; there is no event log here, so a quote says "as
//! expected", not "because of this kernel". Whoever gave the nonce consumes it.

use std::collections::BTreeMap;

use countersign_proto::digest::Sha256Digest;
use countersign_proto::tpm::{
    Attested, ClockInfo, PcrSelection, TpmError, TpmsAttest, TpmtSignature, alg, verify_signature,
};
use serde::{Deserialize, Serialize};

use crate::machine::AttestationKey;

/// Shortest nonce that makes a quote fresh, in bytes.
pub const MIN_NONCE_LEN: usize = 16;
/// PCRs that anyone can reset (locality 0): debug and application.
const RESETTABLE: [u8; 2] = [16, 23];
/// Highest PCR of a PC client.
const MAX_PCR: u8 = 23;

/// SHA-256 bank values by PCR.
pub type PcrValues = BTreeMap<u8, Sha256Digest>;

/// The values a machine's PCRs must have, and what that set is called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawReferenceValues", into = "RawReferenceValues")]
pub struct ReferenceValues {
    name: String,
    pcrs: PcrValues,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawReferenceValues {
    name: String,
    pcrs: PcrValues,
}

/// Reference values that would prove nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// No PCR at all.
    #[error("reference values name no pcr")]
    Empty,
    /// PCR 16 or 23, which software may reset, or one that does not exist.
    #[error("reference values name pcr {0}, which proves nothing")]
    Unsuitable(u8),
}

impl ReferenceValues {
    /// Names a set of values.
    ///
    /// # Errors
    /// [`ReferenceError`] for a set that would prove nothing.
    pub fn new(name: impl Into<String>, pcrs: PcrValues) -> Result<Self, ReferenceError> {
        if pcrs.is_empty() {
            return Err(ReferenceError::Empty);
        }
        match pcrs.keys().find(|pcr| RESETTABLE.contains(pcr) || **pcr > MAX_PCR) {
            Some(pcr) => Err(ReferenceError::Unsuitable(*pcr)),
            None => Ok(Self { name: name.into(), pcrs }),
        }
    }

    /// What the set is called, as `ref` in tokens.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The values.
    #[must_use]
    pub const fn pcrs(&self) -> &PcrValues {
        &self.pcrs
    }
}

impl TryFrom<RawReferenceValues> for ReferenceValues {
    type Error = ReferenceError;

    fn try_from(raw: RawReferenceValues) -> Result<Self, ReferenceError> {
        Self::new(raw.name, raw.pcrs)
    }
}

impl From<ReferenceValues> for RawReferenceValues {
    fn from(values: ReferenceValues) -> Self {
        Self { name: values.name, pcrs: values.pcrs }
    }
}

/// The last clock and firmware that a machine showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClockState {
    /// Clock and boot counters.
    pub clock_info: ClockInfo,
    /// Vendor's firmware number.
    pub firmware_version: u64,
}

impl ClockState {
    pub(crate) const fn of(attest: &TpmsAttest) -> Self {
        Self { clock_info: attest.clock_info, firmware_version: attest.firmware_version }
    }

    /// Whether `next` can come after `self` on one TPM that was not cleared, copied or rolled back. An unsafe clock
    /// may have lost some time at the last power cut, so across a reset it is not compared.
    #[must_use]
    pub fn is_followed_by(&self, next: &Self) -> bool {
        let (last, now) = (self.clock_info, next.clock_info);
        let counters = match now.reset_count.cmp(&last.reset_count) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => now.restart_count >= last.restart_count && now.clock >= last.clock,
            std::cmp::Ordering::Greater => !now.safe || now.clock >= last.clock,
        };
        counters && next.firmware_version >= self.firmware_version
    }
}

/// A quote as received.
#[derive(Clone, Copy, Debug)]
pub struct QuoteEvidence<'a> {
    /// `TPMS_ATTEST` of type quote.
    pub attest: &'a [u8],
    /// `TPMT_SIGNATURE` by the AK.
    pub signature: &'a [u8],
    /// The values that the quote is said to cover.
    pub pcr_values: &'a PcrValues,
}

/// A fresh statement of the machine's state that matched its reference values; made only by [`verify_quote`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedQuote {
    ak_name: Vec<u8>,
    reference: String,
    evidence_hash: Sha256Digest,
    clock: ClockState,
    rebooted: bool,
}

/// Why a quote does not count. Each variant is one step of the order in which they are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuoteError {
    /// A structure cannot be read, or the signature does not verify under the machine's AK.
    #[error(transparent)]
    Structure(#[from] TpmError),
    /// A certify or creation statement.
    #[error("attest structure is not a quote")]
    NotAQuote,
    /// Our own nonce is too short to expect anything by it.
    #[error("no nonce was given for this quote")]
    NoNonce,
    /// The quote answers another nonce.
    #[error("quote is not fresh")]
    StaleNonce,
    /// Signed below another parent than the AK was enrolled with.
    #[error("quote is signed by another key")]
    SignerMismatch,
    /// Not exactly one SHA-256 bank, or not exactly the PCRs that matter, selected and supplied.
    #[error("quote does not cover exactly the expected pcrs")]
    PcrNotCovered,
    /// The supplied values are not the quoted ones.
    #[error("pcr values do not match the quoted digest")]
    DigestMismatch,
    /// Counters or firmware went back: a copy, a rollback or a cleared TPM.
    #[error("tpm clock or firmware went back")]
    ClockRollback,
    /// A PCR differs from its reference value.
    #[error("pcr {0} differs from its reference value")]
    PcrMismatch(u8),
}

/// Appraises a quote by `ak` over `nonce` against `reference`; `last` is what the machine showed before.
///
/// # Errors
/// [`QuoteError`] of the first step that fails.
pub fn verify_quote(
    evidence: &QuoteEvidence<'_>,
    ak: &AttestationKey,
    nonce: &[u8],
    reference: &ReferenceValues,
    last: &ClockState,
) -> Result<VerifiedQuote, QuoteError> {
    let clock = check(evidence, ak, nonce, &reference.pcrs.keys().copied().collect::<Vec<_>>())?;
    if !last.is_followed_by(&clock) {
        return Err(QuoteError::ClockRollback);
    }
    for (pcr, expected) in &reference.pcrs {
        if evidence.pcr_values.get(pcr) != Some(expected) {
            return Err(QuoteError::PcrMismatch(*pcr));
        }
    }
    Ok(VerifiedQuote {
        ak_name: ak.name().to_vec(),
        reference: reference.name.clone(),
        evidence_hash: evidence.hash(),
        rebooted: clock.clock_info.reset_count != last.clock_info.reset_count,
        clock,
    })
}

/// Takes the first quote of a machine as its baseline (trust on first enrollment): everything is checked as in
/// [`verify_quote`], except that the values themselves become the reference.
///
/// # Errors
/// [`QuoteError`]; [`QuoteError::PcrNotCovered`] also for a set that would prove nothing.
pub fn read_baseline(
    evidence: &QuoteEvidence<'_>,
    ak: &AttestationKey,
    nonce: &[u8],
    pcrs: &[u8],
    name: &str,
) -> Result<(ReferenceValues, ClockState), QuoteError> {
    let clock = check(evidence, ak, nonce, pcrs)?;
    let reference =
        ReferenceValues::new(name, evidence.pcr_values.clone()).map_err(|_| QuoteError::PcrNotCovered)?;
    Ok((reference, clock))
}

fn check(
    evidence: &QuoteEvidence<'_>,
    ak: &AttestationKey,
    nonce: &[u8],
    pcrs: &[u8],
) -> Result<ClockState, QuoteError> {
    let signature = TpmtSignature::parse(evidence.signature)?;
    verify_signature(ak.public(), evidence.attest, &signature)?;
    let attest = TpmsAttest::parse(evidence.attest)?;
    let Attested::Quote { pcr_select, pcr_digest } = &attest.attested else {
        return Err(QuoteError::NotAQuote);
    };
    if nonce.len() < MIN_NONCE_LEN {
        return Err(QuoteError::NoNonce);
    }
    if aws_lc_rs::constant_time::verify_slices_are_equal(&attest.extra_data, nonce).is_err() {
        return Err(QuoteError::StaleNonce);
    }
    if attest.qualified_signer != ak.qualified_name() {
        return Err(QuoteError::SignerMismatch);
    }
    check_coverage(pcr_select, evidence.pcr_values, pcrs)?;
    let hash = signature.hash();
    let values: Vec<&[u8]> = evidence.pcr_values.values().map(|value| value.as_bytes().as_slice()).collect();
    if hash.digest(&values) != *pcr_digest {
        return Err(QuoteError::DigestMismatch);
    }
    Ok(ClockState::of(&attest))
}

/// Selected, supplied and expected PCRs are one set; the map keeps the index order that the digest needs.
fn check_coverage(
    selected: &[PcrSelection],
    supplied: &PcrValues,
    expected: &[u8],
) -> Result<(), QuoteError> {
    let [selection] = selected else { return Err(QuoteError::PcrNotCovered) };
    let covers = selection.hash == alg::SHA256
        && !expected.is_empty()
        && selection.pcrs().eq(supplied.keys().copied())
        && expected.len() == supplied.len()
        && expected.iter().all(|pcr| supplied.contains_key(pcr));
    if covers { Ok(()) } else { Err(QuoteError::PcrNotCovered) }
}

impl QuoteEvidence<'_> {
    /// Digest of everything that was shown, for the record and the token's `ev`.
    #[must_use]
    pub fn hash(&self) -> Sha256Digest {
        let mut all = Vec::new();
        for part in [self.attest, self.signature] {
            all.extend_from_slice(&(part.len() as u64).to_be_bytes());
            all.extend_from_slice(part);
        }
        for (pcr, value) in self.pcr_values {
            all.push(*pcr);
            all.extend_from_slice(value.as_bytes());
        }
        Sha256Digest::of(&all)
    }
}

impl VerifiedQuote {
    /// The environment level that such a quote gives: hardware key and measured state.
    pub const LEVEL: u8 = 3;

    /// Name of the AK that signed.
    #[must_use]
    pub fn ak_name(&self) -> &[u8] {
        &self.ak_name
    }

    /// The reference values that were matched.
    #[must_use]
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// Digest of the evidence.
    #[must_use]
    pub const fn evidence_hash(&self) -> Sha256Digest {
        self.evidence_hash
    }

    /// The clock to be remembered.
    #[must_use]
    pub const fn clock(&self) -> ClockState {
        self.clock
    }

    /// Whether the machine was reset since it was last seen.
    #[must_use]
    pub const fn rebooted(&self) -> bool {
        self.rebooted
    }
}

#[cfg(test)]
mod tests;
