//! `CollectedClientData` (§5.8.1): what the browser says about who asked. Signed through its hash.

use super::{Expectation, MAX_CLIENT_DATA_BYTES, WebauthnError};
use crate::b64;
use crate::json::{self, Limits, Value};

const LIMITS: Limits = Limits { max_bytes: MAX_CLIENT_DATA_BYTES, max_depth: 4, max_members: 32 };

/// The members that we rely on. Others are the browser's own (§5.8.1 reserves the right to add some).
pub struct ClientData {
    ceremony: String,
    /// `challenge`, decoded.
    pub challenge: [u8; 32],
    origin: String,
    embedded: bool,
}

impl ClientData {
    /// Strict: one spelling per member, no duplicates, no byte order mark.
    pub fn parse(bytes: &[u8]) -> Result<Self, WebauthnError> {
        let object = json::parse_object(bytes, &LIMITS).map_err(|_| WebauthnError::ClientData)?;
        let text = |name| object.get(name).and_then(Value::as_str).ok_or(WebauthnError::ClientData);
        let challenge = b64::url_decode(text("challenge")?).map_err(|_| WebauthnError::ClientData)?;
        let cross_origin = match object.get("crossOrigin") {
            None => false,
            Some(value) => value.as_bool().ok_or(WebauthnError::ClientData)?,
        };
        Ok(Self {
            ceremony: text("type")?.to_owned(),
            challenge: challenge.try_into().map_err(|_| WebauthnError::ClientData)?,
            origin: text("origin")?.to_owned(),
            embedded: cross_origin || object.get("topOrigin").is_some(),
        })
    }

    /// That it belongs to this ceremony, challenge and origin.
    pub fn check(&self, ceremony: &str, expected: &Expectation<'_>) -> Result<(), WebauthnError> {
        if self.ceremony != ceremony {
            return Err(WebauthnError::WrongCeremony);
        }
        if self.challenge != *expected.challenge {
            return Err(WebauthnError::WrongChallenge);
        }
        if self.origin != expected.origin {
            return Err(WebauthnError::WrongOrigin);
        }
        if self.embedded {
            return Err(WebauthnError::CrossOrigin);
        }
        Ok(())
    }
}
