//! Identifiers, each a type of its own that cannot hold nonsense.
//!
//! One spelling per thing: no case folding, no Unicode, no trimming. What does not parse does not exist.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is not the identifier it was taken for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a valid {kind}: {rule}")]
pub struct IdError {
    kind: &'static str,
    rule: &'static str,
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Parses the one valid spelling.
            ///
            /// # Errors
            /// [`IdError`] naming the rule that the text breaks.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                let check: fn(&str) -> bool = $check;
                if check(text) { Ok(Self(text.to_owned())) } else { Err(IdError { kind: $kind, rule: $rule }) }
            }

            /// The identifier as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

fn is_label(text: &str, max_len: usize) -> bool {
    let bytes = text.as_bytes();
    (1..=max_len).contains(&bytes.len())
        && bytes[0] != b'-'
        && bytes.iter().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

fn is_prefixed(text: &str, prefix: &str) -> bool {
    text.strip_prefix(prefix).is_some_and(|rest| {
        (1..=64).contains(&rest.len())
            && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    })
}

identifier!(
    /// An agent: a principal of its own, never a person.
    AgentId, "agent id", "1 to 63 of a-z 0-9 and -, not starting with -", |text| is_label(text, 63)
);
identifier!(
    /// A person: sponsor, approver, reviewer.
    PersonId, "person id", "1 to 63 of a-z 0-9 and -, not starting with -", |text| is_label(text, 63)
);
identifier!(
    /// An enrolled machine. Ids are never reused.
    MachineId, "machine id", "1 to 63 of a-z 0-9 and -, not starting with -", |text| is_label(text, 63)
);
identifier!(
    /// A tool server behind the gateway.
    UpstreamId, "upstream id", "1 to 32 of a-z 0-9 and -, not starting with -", |text| is_label(text, 32)
);
identifier!(
    /// A policy's own name, its `@id`.
    PolicyId, "policy id", "1 to 63 of a-z 0-9 and -, not starting with -", |text| is_label(text, 63)
);
identifier!(
    /// A tool as its server names it. MCP recommends this alphabet; at our door it is required.
    ToolName, "tool name", "1 to 128 of A-Z a-z 0-9 _ . -",
    |text| (1..=128).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
);
identifier!(
    /// A task: one purpose, one boundary, one expiry.
    TaskId, "task id", "task_ and 1 to 64 of A-Z a-z 0-9 - _", |text| is_prefixed(text, "task_")
);
identifier!(
    /// One run of an agent; its key A lives and dies with it.
    RunId, "run id", "run_ and 1 to 64 of A-Z a-z 0-9 - _", |text| is_prefixed(text, "run_")
);
identifier!(
    /// A person's answer to one exact call.
    ApprovalId, "approval id", "apr_ and 1 to 64 of A-Z a-z 0-9 - _", |text| is_prefixed(text, "apr_")
);
identifier!(
    /// One decision, named in the reply, the log lines and the record.
    DecisionId, "decision id", "dec_ and 1 to 64 of A-Z a-z 0-9 - _", |text| is_prefixed(text, "dec_")
);
identifier!(
    /// A SPIFFE trust domain (SPIFFE-ID §2.1), lower case only.
    TrustDomain, "trust domain", "1 to 255 of a-z 0-9 . - _",
    |text| (1..=255).contains(&text.len())
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_'))
);
identifier!(
    /// A SPIFFE ID (SPIFFE-ID §2): strict, one spelling, at most 2048 bytes.
    SpiffeId, "SPIFFE ID", "spiffe://<trust domain>/<segments of A-Z a-z 0-9 . - _>", is_spiffe_id
);

fn is_spiffe_id(text: &str) -> bool {
    if text.len() > 2048 {
        return false;
    }
    let Some(rest) = text.strip_prefix("spiffe://") else { return false };
    let (domain, path) = match rest.split_once('/') {
        Some((domain, path)) => (domain, Some(path)),
        None => (rest, None),
    };
    TrustDomain::parse(domain).is_ok()
        && path.is_none_or(|path| {
            path.split('/').all(|segment| {
                !matches!(segment, "" | "." | "..")
                    && segment
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
            })
        })
}

impl AgentId {
    /// The agent as an OAuth `client_id`.
    #[must_use]
    pub fn client_id(&self) -> String {
        format!("agent:{}", self.0)
    }

    /// Reads an OAuth `client_id` of ours.
    ///
    /// # Errors
    /// [`IdError`] if it is not `agent:` and an agent id.
    pub fn from_client_id(text: &str) -> Result<Self, IdError> {
        text.strip_prefix("agent:")
            .ok_or(IdError { kind: "client_id", rule: "agent: and an agent id" })
            .and_then(Self::parse)
    }
}

impl PersonId {
    /// The person as a token's `sub`.
    #[must_use]
    pub fn subject(&self) -> String {
        format!("user:{}", self.0)
    }

    /// Reads a `sub` that names a person.
    ///
    /// # Errors
    /// [`IdError`] if it is not `user:` and a person id.
    pub fn from_subject(text: &str) -> Result<Self, IdError> {
        text.strip_prefix("user:")
            .ok_or(IdError { kind: "subject", rule: "user: and a person id" })
            .and_then(Self::parse)
    }
}

impl SpiffeId {
    /// `spiffe://<domain>/machine/<id>`.
    #[must_use]
    pub fn machine(domain: &TrustDomain, machine: &MachineId) -> Self {
        Self(format!("spiffe://{domain}/machine/{machine}"))
    }

    /// `spiffe://<domain>/agent/<id>/run/<run>`.
    #[must_use]
    pub fn run(domain: &TrustDomain, agent: &AgentId, run: &RunId) -> Self {
        Self(format!("spiffe://{domain}/agent/{agent}/run/{run}"))
    }

    /// The trust domain, between the scheme and the first slash.
    #[must_use]
    pub fn trust_domain(&self) -> TrustDomain {
        let rest = self.0.strip_prefix("spiffe://").unwrap_or(&self.0);
        TrustDomain(rest.split('/').next().unwrap_or(rest).to_owned())
    }

    /// The path without its first slash; empty for the trust domain itself.
    #[must_use]
    pub fn path(&self) -> &str {
        let rest = self.0.strip_prefix("spiffe://").unwrap_or(&self.0);
        rest.split_once('/').map_or("", |(_, path)| path)
    }
}

#[cfg(test)]
mod tests;
