//! Attestation objects of `device-attest-01` in format `tpm` (`WebAuthn` L3 §8.3, draft-ietf-acme-device-attest §5).
//!
//! Bytes in, parts out; whether the parts prove anything is decided in `trust::device_attest`.

use crate::b64;
use crate::cbor::{CborError, Item};
use crate::json::{self, Limits};
use crate::x509::MAX_DER;

/// Most certificates in `x5c`.
const MAX_CHAIN: usize = 5;
/// Largest payload in bytes: a chain and three TPM structures.
const LIMITS: Limits = Limits { max_bytes: super::MAX_REQUEST_BYTES, max_depth: 4, max_members: 32 };

/// The members of a `tpm` attestation statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TpmStatement {
    /// COSE algorithm of `sig`.
    pub alg: i64,
    /// AK certificate and its issuers, DER.
    pub x5c: Vec<Vec<u8>>,
    /// `TPMT_SIGNATURE`.
    pub sig: Vec<u8>,
    /// `TPMS_ATTEST`.
    pub cert_info: Vec<u8>,
    /// `TPMT_PUBLIC` of the attested key.
    pub pub_area: Vec<u8>,
}

/// Why a response is not a `tpm` attestation object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttestationError {
    /// The payload is not `{"attObj": …}`.
    #[error("challenge response has no attestation object")]
    Payload,
    /// Not CBOR as we read it.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// Not the members of an attestation object.
    #[error("attestation object is malformed")]
    Malformed,
    /// `none`, `packed` and every other format than `tpm`.
    #[error("attestation format is not tpm")]
    UnsupportedFormat,
    /// `ver` is not `2.0`.
    #[error("attestation is not by a tpm 2.0")]
    UnsupportedVersion,
}

/// Reads the payload of a challenge response.
///
/// # Errors
/// [`AttestationError`]; none of the variants says more than the bytes did.
pub fn parse_attestation_payload(payload: &[u8]) -> Result<TpmStatement, AttestationError> {
    #[derive(serde::Deserialize)]
    struct Response {
        #[serde(rename = "attObj")]
        attestation_object: String,
    }
    let response: Response = json::typed(payload, &LIMITS).map_err(|_| AttestationError::Payload)?;
    let object = b64::url_decode(&response.attestation_object).map_err(|_| AttestationError::Payload)?;
    TpmStatement::parse(&object)
}

/// Makes the payload of a challenge response.
#[must_use]
pub fn attestation_payload(statement: &TpmStatement) -> Vec<u8> {
    format!(r#"{{"attObj":"{}"}}"#, b64::url_encode(&statement.to_bytes())).into_bytes()
}

impl TpmStatement {
    /// Reads the attestation object. `authData` is ignored, since nothing covers it; other members are refused.
    ///
    /// # Errors
    /// [`AttestationError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, AttestationError> {
        let object = Item::parse(bytes)?;
        only(&object, &["fmt", "attStmt", "authData"])?;
        if object.get("fmt").and_then(Item::as_text).ok_or(AttestationError::Malformed)? != "tpm" {
            return Err(AttestationError::UnsupportedFormat);
        }
        let statement = object.get("attStmt").ok_or(AttestationError::Malformed)?;
        only(statement, &["ver", "alg", "x5c", "sig", "certInfo", "pubArea"])?;
        if statement.get("ver").and_then(Item::as_text) != Some("2.0") {
            return Err(AttestationError::UnsupportedVersion);
        }
        let bytes = |member: &str| {
            statement
                .get(member)
                .and_then(Item::as_bytes)
                .map(<[u8]>::to_vec)
                .ok_or(AttestationError::Malformed)
        };
        let chain = statement.get("x5c").and_then(Item::as_array).ok_or(AttestationError::Malformed)?;
        if chain.is_empty() || chain.len() > MAX_CHAIN {
            return Err(AttestationError::Malformed);
        }
        let x5c = chain
            .iter()
            .map(|entry| entry.as_bytes().filter(|der| der.len() <= MAX_DER).map(<[u8]>::to_vec))
            .collect::<Option<Vec<_>>>()
            .ok_or(AttestationError::Malformed)?;
        Ok(Self {
            alg: statement.get("alg").and_then(Item::as_i64).ok_or(AttestationError::Malformed)?,
            x5c,
            sig: bytes("sig")?,
            cert_info: bytes("certInfo")?,
            pub_area: bytes("pubArea")?,
        })
    }

    /// Encodes the attestation object.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let bytes = |bytes: &[u8]| Item::Bytes(bytes.to_vec());
        let alg = u64::try_from(self.alg).map_or(Item::Neg(self.alg), Item::Uint);
        let statement = Item::map([
            ("ver", Item::Text("2.0".to_owned())),
            ("alg", alg),
            ("x5c", Item::Array(self.x5c.iter().map(|der| bytes(der)).collect())),
            ("sig", bytes(&self.sig)),
            ("certInfo", bytes(&self.cert_info)),
            ("pubArea", bytes(&self.pub_area)),
        ]);
        Item::map([("fmt", Item::Text("tpm".to_owned())), ("attStmt", statement)]).to_bytes()
    }
}

fn only(item: &Item, names: &[&str]) -> Result<(), AttestationError> {
    let entries = item.as_map().ok_or(AttestationError::Malformed)?;
    if entries.iter().all(|(key, _)| key.as_text().is_some_and(|key| names.contains(&key))) {
        Ok(())
    } else {
        Err(AttestationError::Malformed)
    }
}
