//! Key sets (RFC 7517 §5): keys by name. Ambiguity is an error at loading, never a guess at verifying.

use super::jwk::{JwkError, PublicJwk, VerifyingKey};
use crate::json::{JsonError, Limits, Object, Value, parse_object};

/// Keys one set may hold.
const MAX_KEYS: usize = 64;
/// Bytes one `kid` may have.
pub(super) const MAX_KID_BYTES: usize = 256;

/// Verification keys by `kid`.
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    // INVARIANT: no two entries with the same kid; kept by `add`.
    keys: Vec<(String, VerifyingKey)>,
}

/// Why a set of keys is not loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// Not strict JSON.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// Not an object with a list `keys`, or a key without a usable `kid`.
    #[error("malformed key set: {0}")]
    Malformed(&'static str),
    /// Two keys of one name.
    #[error("two keys named {0:?}")]
    DuplicateKid(String),
    /// One of the keys is not ours to verify with.
    #[error("key {kid:?}")]
    Key {
        /// The key's name.
        kid: String,
        /// What is wrong with it.
        source: JwkError,
    },
}

impl KeySet {
    /// Reads a JWK Set. Every key must be sound, named and of its own name: one bad key refuses the set.
    ///
    /// # Errors
    /// [`KeySetError`] naming the key at fault.
    pub fn parse_jwks(bytes: &[u8]) -> Result<Self, KeySetError> {
        Self::parse_value(&Value::Object(parse_object(bytes, &Limits::DEFAULT)?))
    }

    /// Reads a JWK Set that is part of a larger document.
    ///
    /// # Errors
    /// As [`KeySet::parse_jwks`].
    pub fn parse_value(value: &Value) -> Result<Self, KeySetError> {
        let keys = value
            .as_object()
            .and_then(|object| object.get("keys"))
            .and_then(Value::as_list)
            .ok_or(KeySetError::Malformed("no list of keys"))?;
        let mut set = Self::default();
        for value in keys {
            let kid = value
                .as_object()
                .and_then(|key| key.get("kid"))
                .and_then(Value::as_str)
                .ok_or(KeySetError::Malformed("a key without kid"))?;
            let key = VerifyingKey::parse(value)
                .map_err(|source| KeySetError::Key { kid: kid.to_owned(), source })?;
            set.add(kid.to_owned(), key)?;
        }
        Ok(set)
    }

    /// Makes a set of keys we have.
    ///
    /// # Errors
    /// [`KeySetError`] for a name used twice or an unsound key.
    pub fn from_keys(keys: Vec<(String, PublicJwk)>) -> Result<Self, KeySetError> {
        let mut set = Self::default();
        for (kid, jwk) in keys {
            let key =
                VerifyingKey::new(jwk).map_err(|source| KeySetError::Key { kid: kid.clone(), source })?;
            set.add(kid, key)?;
        }
        Ok(set)
    }

    fn add(&mut self, kid: String, key: VerifyingKey) -> Result<(), KeySetError> {
        if kid.is_empty() || kid.len() > MAX_KID_BYTES {
            return Err(KeySetError::Malformed("a kid of no or too many bytes"));
        }
        if self.keys.len() >= MAX_KEYS {
            return Err(KeySetError::Malformed("too many keys"));
        }
        if self.key(&kid).is_some() {
            return Err(KeySetError::DuplicateKid(kid));
        }
        self.keys.push((kid, key));
        Ok(())
    }

    /// The key of that name.
    #[must_use]
    pub fn key(&self, kid: &str) -> Option<&VerifyingKey> {
        self.keys.iter().find(|(name, _)| name == kid).map(|(_, key)| key)
    }

    /// The names and keys.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &PublicJwk)> {
        self.keys.iter().map(|(kid, key)| (kid.as_str(), key.jwk()))
    }

    /// The set as a JWK Set value: each key with `kid`, `alg` and `use`.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let keys = self.iter().map(|(kid, jwk)| {
            let mut key = Object::new();
            if let Value::Object(members) = jwk.to_value() {
                for (name, member) in members {
                    let _ = key.insert(name, member);
                }
            }
            // RSA keys have their `alg` already; the second insert is then refused.
            let _ = key.insert("alg", jwk.algorithm().as_str());
            let _ = key.insert("kid", kid);
            let _ = key.insert("use", "sig");
            Value::Object(key)
        });
        let mut set = Object::new();
        let _ = set.insert("keys", keys.collect::<Vec<_>>());
        Value::Object(set)
    }

    /// The set as a JWK Set document.
    #[must_use]
    pub fn to_jwks_json(&self) -> String {
        String::from_utf8(self.to_value().to_jcs()).unwrap_or_default()
    }
}
