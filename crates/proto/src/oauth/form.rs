//! `application/x-www-form-urlencoded` bodies, strictly: no parameter twice (RFC 6749 §3.2), no broken escapes.

use std::fmt;

use super::OauthError;

/// Parameters one form may hold.
const MAX_PARAMETERS: usize = 64;
/// Bytes one form may have.
const MAX_BYTES: usize = 64 * 1024;

/// The parameters of a form, each name once.
#[derive(Clone, Default)]
pub struct Form {
    // INVARIANT: no name twice.
    parameters: Vec<(String, String)>,
}

/// Why a body is not a form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// A parameter came twice (RFC 6749 §3.2).
    #[error("duplicate parameter")]
    Duplicate(String),
    /// A broken percent escape, or bytes that are not UTF-8.
    #[error("malformed form")]
    Malformed,
    /// More parameters or bytes than any request of ours has.
    #[error("form too large")]
    TooLarge,
}

impl FormError {
    /// The answer to a body that is not a form. A second `resource` has a code of its own (RFC 8707 §2).
    #[must_use]
    pub fn to_oauth(&self) -> OauthError {
        match self {
            Self::Duplicate(name) if name == "resource" => OauthError::invalid_target("exactly one resource"),
            Self::Duplicate(_) => OauthError::invalid_request("duplicate parameter"),
            Self::Malformed => OauthError::invalid_request("malformed form"),
            Self::TooLarge => OauthError::invalid_request("form too large"),
        }
    }
}

impl Form {
    /// Reads a body. Parameters without a value are as if left out (RFC 6749 §3.1), but may still not repeat.
    ///
    /// # Errors
    /// [`FormError`].
    pub fn parse(body: &[u8]) -> Result<Self, FormError> {
        if body.len() > MAX_BYTES {
            return Err(FormError::TooLarge);
        }
        let mut all: Vec<(String, String)> = Vec::new();
        for pair in body.split(|&byte| byte == b'&') {
            if pair.is_empty() {
                if body.is_empty() {
                    break;
                }
                return Err(FormError::Malformed);
            }
            let mut halves = pair.splitn(2, |&byte| byte == b'=');
            let name = decode(halves.next().unwrap_or_default())?;
            let value = decode(halves.next().ok_or(FormError::Malformed)?)?;
            if name.is_empty() {
                return Err(FormError::Malformed);
            }
            if all.iter().any(|(other, _)| *other == name) {
                return Err(FormError::Duplicate(name));
            }
            if all.len() == MAX_PARAMETERS {
                return Err(FormError::TooLarge);
            }
            all.push((name, value));
        }
        all.retain(|(_, value)| !value.is_empty());
        Ok(Self { parameters: all })
    }

    /// The value of a parameter.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// The names that are there.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.parameters.iter().map(|(name, _)| name.as_str())
    }

    /// Writes a form.
    #[must_use]
    pub fn encode(parameters: &[(&str, &str)]) -> String {
        let mut out = String::new();
        for (name, value) in parameters {
            if !out.is_empty() {
                out.push('&');
            }
            encode(name, &mut out);
            out.push('=');
            encode(value, &mut out);
        }
        out
    }
}

/// Values may be credentials: only names are shown.
impl fmt::Debug for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

fn decode(text: &[u8]) -> Result<String, FormError> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || {
                    bytes.next().and_then(|byte| char::from(byte).to_digit(16)).ok_or(FormError::Malformed)
                };
                let code = digit()? << 4 | digit()?;
                u8::try_from(code).map_err(|_| FormError::Malformed)?
            }
            0x21..=0x7e => byte,
            _ => return Err(FormError::Malformed),
        });
    }
    let text = String::from_utf8(out).map_err(|_| FormError::Malformed)?;
    if text.contains('\0') { Err(FormError::Malformed) } else { Ok(text) }
}

fn encode(text: &str, out: &mut String) {
    use fmt::Write as _;
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'*' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
}
