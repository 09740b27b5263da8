//! ACME objects as JSON (RFC 8555 §7.1), both directions.
//!
//! Unknown members are ignored, as RFC 8555 asks; values that we use are typed.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{AcmeProblem, PERMANENT_IDENTIFIER, Problem};
use crate::json::{self, Limits, Value};

/// Most identifiers in one order.
pub const MAX_IDENTIFIERS: usize = 1;
/// Longest permanent identifier in bytes.
const MAX_IDENTIFIER_LEN: usize = 128;

const LIMITS: Limits = Limits { max_bytes: super::MAX_REQUEST_BYTES, max_depth: 8, max_members: 512 };

/// Reads the payload of a verified request.
///
/// # Errors
/// `malformed` if it is not the expected object.
pub fn read_payload<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Problem> {
    json::typed(payload, &LIMITS)
        .map_err(|_| Problem::new(AcmeProblem::Malformed, "the payload is not what this resource takes"))
}

/// A permanent identifier of ours: printable ASCII without space and `/`, compared octet for octet
/// (device-attest §3; an assigner is not used).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PermanentIdentifier(String);

impl PermanentIdentifier {
    /// Parses the one spelling.
    ///
    /// # Errors
    /// `malformed` for the empty text, `/`, white space, control and non-ASCII characters, and more than 128 bytes.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let fits = (1..=MAX_IDENTIFIER_LEN).contains(&text.len());
        if fits && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/') {
            Ok(Self(text.to_owned()))
        } else {
            Err(Problem::new(AcmeProblem::Malformed, "the permanent identifier is malformed"))
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for PermanentIdentifier {
    type Error = Problem;

    fn try_from(text: String) -> Result<Self, Problem> {
        Self::parse(&text)
    }
}

impl From<PermanentIdentifier> for String {
    fn from(identifier: PermanentIdentifier) -> Self {
        identifier.0
    }
}

/// `identifiers[]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identifier {
    /// Identifier type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its value.
    pub value: String,
}

/// newOrder payload (§7.4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewOrder {
    /// What the certificate is to name.
    pub identifiers: Vec<Identifier>,
    /// Asked start of validity; refused by us.
    #[serde(rename = "notBefore", skip_serializing_if = "Option::is_none")]
    pub not_before: Option<String>,
    /// Asked end of validity; refused by us.
    #[serde(rename = "notAfter", skip_serializing_if = "Option::is_none")]
    pub not_after: Option<String>,
}

impl NewOrder {
    /// The one permanent identifier that an order may hold.
    ///
    /// # Errors
    /// `malformed` for none, several, a malformed one or asked dates; `unsupportedIdentifier` for another type.
    pub fn permanent_identifier(&self) -> Result<PermanentIdentifier, Problem> {
        let [identifier] = self.identifiers.as_slice() else {
            return Err(Problem::new(AcmeProblem::Malformed, "an order names exactly one identifier"));
        };
        if self.not_before.is_some() || self.not_after.is_some() {
            return Err(Problem::new(AcmeProblem::Malformed, "the validity is not the client's to choose"));
        }
        if identifier.kind != PERMANENT_IDENTIFIER {
            return Err(Problem::new(
                AcmeProblem::UnsupportedIdentifier,
                "only permanent-identifier is supported",
            ));
        }
        PermanentIdentifier::parse(&identifier.value)
    }
}

/// newAccount payload (§7.3).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NewAccount {
    /// Contact URLs; not used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contact: Vec<String>,
    /// Agreement to terms; there are none.
    #[serde(rename = "termsOfServiceAgreed", default, skip_serializing_if = "Option::is_none")]
    pub terms_of_service_agreed: Option<bool>,
    /// Only look the account up.
    #[serde(rename = "onlyReturnExisting", default, skip_serializing_if = "std::ops::Not::not")]
    pub only_return_existing: bool,
    /// The binding, a JWS.
    #[serde(rename = "externalAccountBinding", default, skip_serializing_if = "Option::is_none")]
    pub external_account_binding: Option<serde_json::Value>,
}

impl NewAccount {
    /// The external account binding as a strict value.
    ///
    /// # Errors
    /// `externalAccountRequired` without one, `malformed` if it is no I-JSON.
    pub fn binding(&self) -> Result<super::ExternalBinding, Problem> {
        let value = self.external_account_binding.as_ref().ok_or_else(|| {
            Problem::new(AcmeProblem::ExternalAccountRequired, "an external account binding is required")
        })?;
        let value: Value = json::from_serde(value)
            .map_err(|_| Problem::new(AcmeProblem::Malformed, "the external account binding is not a jws"))?;
        super::ExternalBinding::parse(&value)
    }
}

/// finalize payload (§7.4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalizeRequest {
    /// DER of the request, base64url.
    pub csr: String,
}

/// revokeCert payload (§7.6).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokeRequest {
    /// DER of the certificate, base64url.
    pub certificate: String,
    /// Reason code (RFC 5280 §5.3.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<u8>,
}

/// The directory (§7.1.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Directory {
    /// Where nonces come from.
    pub new_nonce: String,
    /// Where accounts are made.
    pub new_account: String,
    /// Where orders are made.
    pub new_order: String,
    /// Where certificates are revoked.
    pub revoke_cert: String,
    /// About the server.
    pub meta: DirectoryMeta,
}

/// `meta` of the directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DirectoryMeta {
    /// Always true with us.
    #[serde(default)]
    pub external_account_required: bool,
}

/// An account (§7.1.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountResource {
    /// `valid`, `deactivated` or `revoked`.
    pub status: String,
    /// Where its orders are listed; may be empty with us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orders: Option<String>,
}

/// An order (§7.1.3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderResource {
    /// `pending`, `ready`, `processing`, `valid` or `invalid`.
    pub status: String,
    /// RFC 3339 end of the order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// What was ordered.
    pub identifiers: Vec<Identifier>,
    /// What has to be shown.
    pub authorizations: Vec<String>,
    /// Where the request for the certificate goes.
    pub finalize: String,
    /// Where the certificate is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// Why it is invalid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<serde_json::Value>,
}

/// An authorization (§7.1.4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizationResource {
    /// `pending`, `valid`, `invalid`, `deactivated`, `expired` or `revoked`.
    pub status: String,
    /// RFC 3339 end of the authorization.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// What is authorized.
    pub identifier: Identifier,
    /// Ways to show it.
    pub challenges: Vec<ChallengeResource>,
}

/// A challenge (§7.1.5, device-attest §5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChallengeResource {
    /// `device-attest-01`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Where the response goes.
    pub url: String,
    /// `pending`, `processing`, `valid` or `invalid`.
    pub status: String,
    /// At least 128 unpredictable bits, base64url.
    pub token: String,
    /// RFC 3339 time of validation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validated: Option<String>,
    /// Why it is invalid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<serde_json::Value>,
}
