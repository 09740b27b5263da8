//! `WWW-Authenticate` challenges (RFC 9110 §11.6.1, RFC 6750 §3, RFC 9449 §7.1, RFC 9470 §3).

use std::fmt::Write as _;

/// Parameters one challenge may hold.
const MAX_PARAMETERS: usize = 32;

/// One challenge: a scheme and its parameters. Written with every value quoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    scheme: String,
    parameters: Vec<(String, String)>,
}

/// Why a header value is not one challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a single well-formed challenge")]
pub struct AuthenticateError;

impl Challenge {
    /// A challenge of `scheme` (`DPoP`, `Bearer`), without parameters yet.
    #[must_use]
    pub fn new(scheme: &str) -> Self {
        Self { scheme: scheme.to_owned(), parameters: Vec::new() }
    }

    /// Adds a parameter. Characters that a header cannot carry are left out of the value.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        let value = value.chars().filter(|character| matches!(character, ' '..='~')).collect();
        self.parameters.push((name.to_owned(), value));
        self
    }

    /// The scheme as it was written.
    #[must_use]
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The value of a parameter; names are compared without case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The header value.
    #[must_use]
    pub fn to_header(&self) -> String {
        let mut out = self.scheme.clone();
        for (at, (name, value)) in self.parameters.iter().enumerate() {
            out.push_str(if at == 0 { " " } else { ", " });
            let _ = write!(out, "{name}=\"");
            for character in value.chars() {
                if matches!(character, '"' | '\\') {
                    out.push('\\');
                }
                out.push(character);
            }
            out.push('"');
        }
        out
    }
}

/// Reads a header value that holds one challenge with `name=value` parameters.
///
/// # Errors
/// [`AuthenticateError`] for several challenges in one value, a parameter twice, or bytes out of place.
pub fn parse_www_authenticate(header: &str) -> Result<Challenge, AuthenticateError> {
    let (scheme, mut rest) = header.split_once(' ').unwrap_or((header, ""));
    if !is_token(scheme) {
        return Err(AuthenticateError);
    }
    let mut challenge = Challenge::new(scheme);
    rest = rest.trim_matches([' ', '\t']);
    while !rest.is_empty() {
        let (name, after_name) = rest.split_once('=').ok_or(AuthenticateError)?;
        let name = name.trim_end_matches([' ', '\t']);
        if !is_token(name) || challenge.get(name).is_some() || challenge.parameters.len() == MAX_PARAMETERS {
            return Err(AuthenticateError);
        }
        let (value, after_value) = value(after_name.trim_start_matches([' ', '\t']))?;
        challenge.parameters.push((name.to_owned(), value));
        rest = after_value.trim_start_matches([' ', '\t']);
        if !rest.is_empty() {
            rest = rest.strip_prefix(',').ok_or(AuthenticateError)?.trim_start_matches([' ', '\t']);
            if rest.is_empty() {
                return Err(AuthenticateError);
            }
        }
    }
    Ok(challenge)
}

/// A token or a quoted string, and what follows it.
fn value(text: &str) -> Result<(String, &str), AuthenticateError> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        let (token, rest) = text.split_at(end);
        return if is_token(token) { Ok((token.to_owned(), rest)) } else { Err(AuthenticateError) };
    };
    let mut out = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((out, &quoted[at + 1..])),
            '\\' => match characters.next() {
                Some((_, escaped @ (' '..='~' | '\t'))) => out.push(escaped),
                _ => return Err(AuthenticateError),
            },
            ' '..='~' | '\t' => out.push(character),
            _ => return Err(AuthenticateError),
        }
    }
    Err(AuthenticateError)
}

fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}
