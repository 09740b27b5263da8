//! JSON-RPC errors and results as bytes. Which HTTP status carries them is part of the error.

use super::{Era, Id, ProtocolVersion};
use crate::json::{Object, Value};

/// A message that gets no further than its envelope. The text is fixed and echoes nothing of the caller's.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct RpcError {
    code: i64,
    message: &'static str,
    id: Option<Id>,
}

impl RpcError {
    pub(crate) const PARSE: i64 = -32700;
    pub(crate) const INVALID_REQUEST: i64 = -32600;
    pub(crate) const METHOD_NOT_FOUND: i64 = -32601;
    pub(crate) const INVALID_PARAMS: i64 = -32602;
    pub(crate) const HEADER_MISMATCH: i64 = -32020;
    pub(crate) const UNSUPPORTED_VERSION: i64 = -32022;

    const fn new(code: i64, message: &'static str) -> Self {
        Self { code, message, id: None }
    }

    pub(crate) const fn parse_error(message: &'static str) -> Self {
        Self::new(Self::PARSE, message)
    }

    pub(crate) const fn invalid_request(message: &'static str) -> Self {
        Self::new(Self::INVALID_REQUEST, message)
    }

    pub(crate) const fn method_not_found() -> Self {
        Self::new(Self::METHOD_NOT_FOUND, "method not found")
    }

    pub(crate) const fn invalid_params(message: &'static str) -> Self {
        Self::new(Self::INVALID_PARAMS, message)
    }

    pub(crate) const fn header_mismatch(message: &'static str) -> Self {
        Self::new(Self::HEADER_MISMATCH, message)
    }

    /// `-32022`: the message is of a revision that its receiver does not speak.
    #[must_use]
    pub const fn unsupported_version() -> Self {
        Self::new(Self::UNSUPPORTED_VERSION, "unsupported protocol version")
    }

    /// The same error, answering the request with this id.
    #[must_use]
    pub fn answering(mut self, id: Option<Id>) -> Self {
        self.id = id;
        self
    }

    /// The JSON-RPC error code.
    #[must_use]
    pub const fn code(&self) -> i64 {
        self.code
    }

    /// The fixed text.
    #[must_use]
    pub const fn message(&self) -> &'static str {
        self.message
    }

    /// The request it answers, where that much could be read.
    #[must_use]
    pub const fn id(&self) -> Option<&Id> {
        self.id.as_ref()
    }

    /// The HTTP status (MCP 2026-07-28: 404 for an unknown method, else 400; legacy clients expect a
    /// JSON-RPC error of an unknown method in a 200).
    #[must_use]
    pub const fn http_status(&self, era: Era) -> u16 {
        match (self.code, era) {
            (Self::METHOD_NOT_FOUND, Era::Modern) => 404,
            (Self::METHOD_NOT_FOUND, Era::Legacy) => 200,
            _ => 400,
        }
    }

    /// The body of the answer; `spoken` is listed where the revision was the trouble.
    #[must_use]
    pub fn to_body(&self, spoken: &[ProtocolVersion]) -> Vec<u8> {
        let data = (self.code == Self::UNSUPPORTED_VERSION).then(|| {
            let versions = spoken.iter().map(|version| Value::Text(version.as_str().to_owned())).collect();
            Value::Object(members([("supported", Value::List(versions))]))
        });
        error_body(self.id.as_ref(), self.code, self.message, data)
    }
}

/// A JSON-RPC error object as bytes; `id` is null where none could be read.
#[must_use]
pub fn error_body(id: Option<&Id>, code: i64, message: &str, data: Option<Value>) -> Vec<u8> {
    let mut error = members([("code", Value::Int(code)), ("message", Value::Text(message.to_owned()))]);
    if let Some(data) = data {
        let _fresh = error.insert("data", data);
    }
    envelope(id, "error", Value::Object(error))
}

/// A JSON-RPC result object as bytes.
#[must_use]
pub fn result_body(id: &Id, result: Value) -> Vec<u8> {
    envelope(Some(id), "result", result)
}

fn envelope(id: Option<&Id>, member: &'static str, value: Value) -> Vec<u8> {
    let id = id.map_or(Value::Null, Id::to_value);
    Value::Object(members([("jsonrpc", Value::Text("2.0".to_owned())), ("id", id), (member, value)])).to_jcs()
}

fn members<const N: usize>(pairs: [(&'static str, Value); N]) -> Object {
    let mut object = Object::new();
    for (name, value) in pairs {
        let _fresh = object.insert(name, value);
    }
    object
}
