//! External account binding (RFC 8555 §7.3.4): a MAC by which the inventory vouches for an account key.
//!
//! The only place with HS256. Whether a key was used before is a matter of the store.

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use super::jws::{decode, flatten, flattened, only, required_text};
use super::problem::object;
use super::{AcmeProblem, Problem};
use crate::b64;
use crate::jose::PublicJwk;
use crate::json::{self, Limits, Value};

const LIMITS: Limits = Limits { max_bytes: 8192, max_depth: 4, max_members: 32 };

/// The secret of an external account, at least 256 bits (RFC 7518 §3.2).
#[derive(Clone)]
pub struct MacKey(Zeroizing<Vec<u8>>);

impl MacKey {
    /// From at least 32 bytes; shorter ones are no key.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Option<Self> {
        let bytes = Zeroizing::new(bytes);
        (bytes.len() >= 32).then_some(Self(bytes))
    }

    fn hmac(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.0)
    }
}

impl std::fmt::Debug for MacKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MacKey(..)")
    }
}

/// A binding whose MAC has not been checked yet.
#[derive(Clone, Debug)]
pub struct ExternalBinding {
    kid: String,
    url: String,
    signing_input: String,
    payload: Vec<u8>,
    mac: Vec<u8>,
}

impl ExternalBinding {
    /// Reads the `externalAccountBinding` member: HS256, `kid`, `url`, no `nonce`.
    ///
    /// # Errors
    /// `malformed`, or `badSignatureAlgorithm` for anything but HS256.
    pub fn parse(value: &Value) -> Result<Self, Problem> {
        let malformed = |detail: &'static str| Problem::new(AcmeProblem::Malformed, detail);
        let outer =
            value.as_object().ok_or_else(|| malformed("the external account binding is not a jws"))?;
        let [protected, payload, mac] = flattened(outer)?;
        let header = decode(protected, "the binding's header is not base64url")?;
        let header = json::parse_object(&header, &LIMITS)
            .map_err(|_| malformed("the binding's header is not a json object"))?;
        only(&header, &["alg", "kid", "url"])?;
        if required_text(&header, "alg")? != "HS256" {
            return Err(Problem::new(AcmeProblem::BadSignatureAlgorithm, "the binding must use HS256"));
        }
        Ok(Self {
            kid: required_text(&header, "kid")?.to_owned(),
            url: required_text(&header, "url")?.to_owned(),
            signing_input: format!("{protected}.{payload}"),
            payload: decode(payload, "the binding's payload is not base64url")?,
            mac: decode(mac, "the binding's signature is not base64url")?,
        })
    }

    /// Names the external account.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Checks the MAC, and that exactly this account key at this newAccount URL is bound. Hands back the `kid`.
    ///
    /// # Errors
    /// `unauthorized` for a wrong MAC, `malformed` for another URL or key.
    pub fn verify(self, key: &MacKey, account_key: &PublicJwk, url: &str) -> Result<String, Problem> {
        hmac::verify(&key.hmac(), self.signing_input.as_bytes(), &self.mac).map_err(|_| {
            Problem::new(AcmeProblem::Unauthorized, "the external account binding is not acceptable")
        })?;
        let bound = json::parse(&self.payload, &LIMITS).ok().and_then(|jwk| PublicJwk::parse(&jwk).ok());
        if self.url != url || bound.as_ref() != Some(account_key) {
            return Err(Problem::new(
                AcmeProblem::Malformed,
                "the external account binding is for another key or url",
            ));
        }
        Ok(self.kid)
    }
}

/// Makes the `externalAccountBinding` member as the client.
#[must_use]
pub fn sign_binding(kid: &str, key: &MacKey, account_key: &PublicJwk, url: &str) -> Value {
    let header = object([
        ("alg", Value::Text("HS256".to_owned())),
        ("kid", Value::Text(kid.to_owned())),
        ("url", Value::Text(url.to_owned())),
    ]);
    let protected = b64::url_encode(&header.to_jcs());
    let payload = b64::url_encode(&account_key.to_value().to_jcs());
    let mac = hmac::sign(&key.hmac(), format!("{protected}.{payload}").as_bytes());
    flatten(protected, payload, mac.as_ref())
}
