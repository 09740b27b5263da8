//! Assurance, as one name: how well the environment and the person are known.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

const PREFIX: &str = "urn:countersign:acr:";

/// An assurance level. One URN for both halves, because `acr_values` is a list of alternatives (OpenID Connect
/// Core §3.1.2.1) and two levels must hold together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Acr {
    env: u8,
    person: u8,
}

/// Not an assurance level of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an assurance level: urn:countersign:acr:e<0-4>u<0-3>")]
pub struct AcrError;

impl Acr {
    /// The highest environment level.
    pub const MAX_ENV: u8 = 4;
    /// The highest person level.
    pub const MAX_PERSON: u8 = 3;

    /// A level of both halves.
    ///
    /// # Errors
    /// [`AcrError`] beyond [`Acr::MAX_ENV`] or [`Acr::MAX_PERSON`].
    pub const fn new(env: u8, person: u8) -> Result<Self, AcrError> {
        if env <= Self::MAX_ENV && person <= Self::MAX_PERSON {
            Ok(Self { env, person })
        } else {
            Err(AcrError)
        }
    }

    /// Reads `urn:countersign:acr:e<0-4>u<0-3>`.
    ///
    /// # Errors
    /// [`AcrError`] for anything else.
    pub fn parse(text: &str) -> Result<Self, AcrError> {
        Self::parse_short(text.strip_prefix(PREFIX).ok_or(AcrError)?)
    }

    /// Reads the last part alone, `e<0-4>u<0-3>`, as policies write it.
    ///
    /// # Errors
    /// [`AcrError`] for anything else.
    pub fn parse_short(text: &str) -> Result<Self, AcrError> {
        match text.as_bytes() {
            [b'e', env @ b'0'..=b'9', b'u', person @ b'0'..=b'9'] => Self::new(env - b'0', person - b'0'),
            _ => Err(AcrError),
        }
    }

    /// The environment level: 0 none, 1 software key, 2 attested hardware key, 3 fresh quote, 4 TEE report.
    #[must_use]
    pub const fn env(self) -> u8 {
        self.env
    }

    /// The person level: 0 none, 1 sponsor's standing grant, 2 approved this task, 3 signed this call.
    #[must_use]
    pub const fn person(self) -> u8 {
        self.person
    }

    /// Whether both halves are at least those of `required`.
    #[must_use]
    pub const fn meets(self, required: Self) -> bool {
        self.env >= required.env && self.person >= required.person
    }

    /// The last part alone, `e3u2`.
    #[must_use]
    pub fn short(self) -> String {
        format!("e{}u{}", self.env, self.person)
    }
}

impl fmt::Display for Acr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}e{}u{}", self.env, self.person)
    }
}

impl Serialize for Acr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Acr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}
