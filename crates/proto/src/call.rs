//! One call of one tool, exactly: what is decided, approved, recorded and sent.
//!
//! Not how it arrived (see `mcp`) and not whether it may happen.

use serde::{Deserialize, Serialize};

use crate::digest::Sha256Digest;
use crate::id::{ToolName, UpstreamId};
use crate::json::{Object, Value};

/// A tool call after its one canonical parse.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// The tool server behind the gateway.
    pub upstream: UpstreamId,
    /// The tool as its server names it.
    pub tool: ToolName,
    /// The arguments; empty where the request had none.
    pub arguments: Object,
}

impl Call {
    /// SHA-256 over the canonical JSON (RFC 8785) of `{"arguments":…,"tool":…,"upstream":…}`.
    ///
    /// Key order and number spelling of the request do not change it; anything else does.
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        Sha256Digest::of(&self.to_jcs())
    }

    /// The bytes behind [`Call::digest`].
    #[must_use]
    pub fn to_jcs(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        // The three keys stand in canonical order; both names are of an alphabet that JSON never escapes.
        out.extend_from_slice(b"{\"arguments\":");
        self.arguments.write_jcs(&mut out);
        out.extend_from_slice(b",\"tool\":\"");
        out.extend_from_slice(self.tool.as_str().as_bytes());
        out.extend_from_slice(b"\",\"upstream\":\"");
        out.extend_from_slice(self.upstream.as_str().as_bytes());
        out.extend_from_slice(b"\"}");
        out
    }

    /// The call as a JSON object with the members `arguments`, `tool` and `upstream`.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut object = Object::new();
        let inserted = object
            .insert("arguments", self.arguments.clone())
            .and_then(|()| object.insert("tool", self.tool.as_str()))
            .and_then(|()| object.insert("upstream", self.upstream.as_str()));
        debug_assert!(inserted.is_ok(), "three different keys");
        Value::Object(object)
    }
}

#[cfg(test)]
mod tests;
