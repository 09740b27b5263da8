//! One MCP message over HTTP: the JSON-RPC envelope in both eras, parsed once and printed canonically.
//!
//! What a policy reads, a person approves, a record keeps and an upstream receives all come from the one
//! [`McpRequest`] made here. Client responses, batches and methods without a rule do not parse.
//! The modern era is revision 2026-07-28 (stateless, headers mirror the body); the legacy era is
//! 2025-03-26 to 2025-11-25 (sessions). Sockets, sessions and decisions are not here.

use crate::id::ToolName;
use crate::json::{self, Limits, Object, Value};

mod error;
mod mirror;

pub use error::{RpcError, error_body, result_body};
pub use mirror::{RoutingHeaders, decode_header_value, encode_header_value};

/// `params._meta` key that carries the protocol revision in the modern era.
pub const META_PROTOCOL_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
/// `params._meta` key that carries the client's capabilities in the modern era.
pub const META_CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
/// `params._meta` key that names the client software in the modern era; optional.
pub const META_CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";

const MAX_ID_BYTES: usize = 256;
const MAX_METHOD_BYTES: usize = 128;

/// A protocol revision that this gateway speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProtocolVersion {
    /// 2025-03-26, the first streamable HTTP revision; also what an absent header means.
    V2025_03_26,
    /// 2025-06-18.
    V2025_06_18,
    /// 2025-11-25.
    V2025_11_25,
    /// 2026-07-28, the stateless revision.
    V2026_07_28,
}

/// Which of the two shapes of MCP a message has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Era {
    /// 2026-07-28: stateless, one request per POST, headers mirror the body.
    Modern,
    /// 2025-03-26 to 2025-11-25: `initialize` and sessions.
    Legacy,
}

impl ProtocolVersion {
    /// Every revision spoken, newest first.
    pub const ALL: [Self; 4] = [Self::V2026_07_28, Self::V2025_11_25, Self::V2025_06_18, Self::V2025_03_26];

    /// The revision as its date.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V2025_03_26 => "2025-03-26",
            Self::V2025_06_18 => "2025-06-18",
            Self::V2025_11_25 => "2025-11-25",
            Self::V2026_07_28 => "2026-07-28",
        }
    }

    /// The revision with this date, if it is one we speak.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == text)
    }

    /// The era it belongs to.
    #[must_use]
    pub const fn era(self) -> Era {
        match self {
            Self::V2025_03_26 | Self::V2025_06_18 | Self::V2025_11_25 => Era::Legacy,
            Self::V2026_07_28 => Era::Modern,
        }
    }
}

/// The methods that have a rule. Everything else is `-32601`, whatever a policy would say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// `initialize` (legacy).
    Initialize,
    /// `notifications/initialized` (legacy).
    Initialized,
    /// `notifications/cancelled`.
    Cancelled,
    /// `ping` (legacy).
    Ping,
    /// `tools/list`.
    ToolsList,
    /// `tools/call`.
    ToolsCall,
    /// `server/discover` (modern).
    Discover,
}

impl Method {
    const ALL: [Self; 7] = [
        Self::Initialize,
        Self::Initialized,
        Self::Cancelled,
        Self::Ping,
        Self::ToolsList,
        Self::ToolsCall,
        Self::Discover,
    ];

    /// The method as it is written on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Initialize => "initialize",
            Self::Initialized => "notifications/initialized",
            Self::Cancelled => "notifications/cancelled",
            Self::Ping => "ping",
            Self::ToolsList => "tools/list",
            Self::ToolsCall => "tools/call",
            Self::Discover => "server/discover",
        }
    }

    const fn is_notification(self) -> bool {
        match self {
            Self::Initialized | Self::Cancelled => true,
            Self::Initialize | Self::Ping | Self::ToolsList | Self::ToolsCall | Self::Discover => false,
        }
    }

    const fn exists_in(self, era: Era) -> bool {
        match (self, era) {
            (Self::Initialize | Self::Initialized | Self::Ping, Era::Modern)
            | (Self::Discover, Era::Legacy) => false,
            (Self::Cancelled | Self::ToolsList | Self::ToolsCall, Era::Modern)
            | (Self::Discover, Era::Modern)
            | (
                Self::Initialize
                | Self::Initialized
                | Self::Cancelled
                | Self::Ping
                | Self::ToolsList
                | Self::ToolsCall,
                Era::Legacy,
            ) => true,
        }
    }

    /// Members that `params` may have. A member a server might read and we would not is refused, so that
    /// what was judged and what is acted upon cannot differ.
    const fn params_members(self) -> &'static [&'static str] {
        match self {
            Self::Initialize => &["_meta", "protocolVersion", "capabilities", "clientInfo"],
            Self::Initialized | Self::Ping | Self::Discover => &["_meta"],
            Self::Cancelled => &["_meta", "requestId", "reason"],
            Self::ToolsList => &["_meta", "cursor"],
            Self::ToolsCall => &["_meta", "name", "arguments"],
        }
    }
}

/// A JSON-RPC request id: never null, never fractional (MCP base protocol).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Id {
    /// An integer within ±(2^53 − 1).
    Number(i64),
    /// A text of at most 256 bytes.
    Text(String),
}

impl Id {
    /// The id as a JSON value.
    #[must_use]
    pub fn to_value(&self) -> Value {
        match self {
            Self::Number(number) => Value::Int(*number),
            Self::Text(text) => Value::Text(text.clone()),
        }
    }

    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Int(number) => Some(Self::Number(*number)),
            Value::Text(text) if text.len() <= MAX_ID_BYTES => Some(Self::Text(text.clone())),
            _ => None,
        }
    }
}

/// One request or notification, judged by shape alone. Made by [`parse_request`] and nothing else.
#[derive(Clone, Debug, PartialEq)]
pub struct McpRequest {
    id: Option<Id>,
    method: Method,
    params: Option<Object>,
    version: ProtocolVersion,
}

/// The parameters of a `tools/call`.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    /// The tool, as its server names it.
    pub name: ToolName,
    /// The arguments; empty where the message has none.
    pub arguments: Object,
}

impl McpRequest {
    /// The request id; `None` exactly for notifications.
    #[must_use]
    pub const fn id(&self) -> Option<&Id> {
        self.id.as_ref()
    }

    /// The method.
    #[must_use]
    pub const fn method(&self) -> Method {
        self.method
    }

    /// The parameters.
    #[must_use]
    pub const fn params(&self) -> Option<&Object> {
        self.params.as_ref()
    }

    /// The revision the message was read under.
    #[must_use]
    pub const fn version(&self) -> ProtocolVersion {
        self.version
    }

    /// The era the message was read under.
    #[must_use]
    pub const fn era(&self) -> Era {
        self.version.era()
    }

    /// The tool call, if the method is `tools/call`.
    ///
    /// # Errors
    /// `-32602` if the name is missing or not a tool name, or the arguments are not an object.
    pub fn tool_call(&self) -> Result<ToolCall, RpcError> {
        let refuse = |message| RpcError::invalid_params(message).answering(self.id.clone());
        let params = self.params.as_ref().ok_or_else(|| refuse("tools/call needs params"))?;
        let name = params
            .get("name")
            .and_then(Value::as_str)
            .and_then(|text| ToolName::parse(text).ok())
            .ok_or_else(|| refuse("params.name is not a tool name"))?;
        let arguments = match params.get("arguments") {
            None => Object::new(),
            Some(Value::Object(arguments)) => arguments.clone(),
            Some(_) => return Err(refuse("params.arguments is not an object")),
        };
        Ok(ToolCall { name, arguments })
    }

    /// The same request with other parameters: the gateway speaks `initialize` in its own name.
    #[must_use]
    pub fn with_params(mut self, params: Object) -> Self {
        self.params = Some(params);
        self
    }

    /// The canonical bytes (RFC 8785) that go upstream: exactly what was parsed and nothing else.
    #[must_use]
    pub fn to_upstream_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(256);
        bytes.push(b'{');
        if let Some(id) = &self.id {
            bytes.extend_from_slice(b"\"id\":");
            id.to_value().write_jcs(&mut bytes);
            bytes.push(b',');
        }
        bytes.extend_from_slice(b"\"jsonrpc\":\"2.0\",\"method\":\"");
        bytes.extend_from_slice(self.method.as_str().as_bytes());
        bytes.push(b'"');
        if let Some(params) = &self.params {
            bytes.extend_from_slice(b",\"params\":");
            params.write_jcs(&mut bytes);
        }
        bytes.push(b'}');
        bytes
    }

    /// The routing headers that mirror this request for a modern upstream, `Mcp-Param-*` as `schema`
    /// (the tool's pinned input schema) declares them; none in the legacy era.
    #[must_use]
    pub fn mirrored_headers(&self, schema: Option<&Value>) -> Vec<(String, String)> {
        mirror::headers_for(self, schema)
    }
}

/// Parses one POST body together with the headers that mirror it (MCP 2026-07-28, streamable HTTP).
///
/// # Errors
/// The [`RpcError`] to answer with: `-32700` not strict JSON, `-32600` not one request or notification,
/// `-32601` no such method, `-32602` bad parameters, `-32020` headers and body disagree, `-32022` unknown
/// revision.
pub fn parse_request(body: &[u8], headers: &RoutingHeaders, limits: &Limits) -> Result<McpRequest, RpcError> {
    let value =
        json::parse(body, limits).map_err(|_| RpcError::parse_error("the body is not strict JSON"))?;
    let envelope = match value {
        Value::Object(envelope) => envelope,
        Value::List(_) => return Err(RpcError::invalid_request("batches are not accepted")),
        _ => return Err(RpcError::invalid_request("the body is not a JSON-RPC message")),
    };

    let id = match envelope.get("id") {
        None => None,
        Some(value) => Some(
            Id::from_value(value)
                .ok_or_else(|| RpcError::invalid_request("id is neither a string nor an integer"))?,
        ),
    };
    let refuse = |message| RpcError::invalid_request(message).answering(id.clone());
    if envelope.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return Err(refuse("jsonrpc is not \"2.0\""));
    }
    if envelope.get("result").is_some() || envelope.get("error").is_some() {
        return Err(refuse("client responses are not accepted"));
    }
    if envelope.iter().any(|(name, _)| !matches!(name, "jsonrpc" | "id" | "method" | "params")) {
        return Err(refuse("unknown envelope member"));
    }
    let method_name = envelope
        .get("method")
        .and_then(Value::as_str)
        .filter(|name| (1..=MAX_METHOD_BYTES).contains(&name.len()))
        .ok_or_else(|| refuse("method is missing"))?;
    let params = match envelope.get("params") {
        None => None,
        Some(Value::Object(params)) => Some(params),
        Some(_) => return Err(refuse("params is not an object")),
    };

    let version =
        mirror::agreed_version(headers, params, id.is_some()).map_err(|error| error.answering(id.clone()))?;
    if version.era() == Era::Modern && id.is_some() {
        mirror::check_routing(headers, method_name, params).map_err(|error| error.answering(id.clone()))?;
    }
    let method = Method::ALL
        .into_iter()
        .find(|method| method.as_str() == method_name && method.exists_in(version.era()))
        .ok_or_else(|| RpcError::method_not_found().answering(id.clone()))?;

    // A side effect asked for as a notification would have no answer, and so no refusal either.
    match (method.is_notification(), &id) {
        (true, None) | (false, Some(_)) => {}
        (true, Some(_)) => return Err(refuse("a notification has no id")),
        (false, None) => return Err(refuse("a request needs an id")),
    }
    if let Some(params) = params {
        let unknown = params.iter().any(|(name, _)| !method.params_members().contains(&name));
        if unknown {
            return Err(RpcError::invalid_params("unknown member of params").answering(id));
        }
        if params.get("_meta").is_some_and(|meta| meta.as_object().is_none()) {
            return Err(RpcError::invalid_params("params._meta is not an object").answering(id));
        }
    }
    if version.era() == Era::Modern && method == Method::ToolsCall {
        // Declared ones are compared by `check_param_headers`, which needs the pinned schema.
        headers.require_well_formed_params().map_err(|error| error.answering(id.clone()))?;
    }
    let params = params.map(|params| with_our_meta(params.clone(), version, id.is_some()));
    Ok(McpRequest { id, method, params, version })
}

/// Longest progress token that is passed on.
const MAX_PROGRESS_TOKEN_BYTES: usize = 128;

/// Replaces `_meta` by what a gateway can stand for: the progress token, and in the modern era the revision.
///
/// INVARIANT: `_meta` is outside the call's digest, so nothing in it may reach the upstream that could change what
/// the call does: what a person approved is what is sent. Client capabilities go as none, because what the upstream
/// would ask of the client is not passed on either.
fn with_our_meta(mut params: Object, version: ProtocolVersion, is_request: bool) -> Object {
    let theirs = params.remove("_meta");
    let mut ours = Object::new();
    // The names are distinct and the object is fresh, so that no insertion can fail.
    if let Some(Value::Object(theirs)) = &theirs
        && let Some(token) = theirs.get("progressToken").filter(|token| is_progress_token(token))
    {
        let _fresh = ours.insert("progressToken", token.clone());
    }
    if version.era() == Era::Modern && is_request {
        let _fresh = ours.insert(META_PROTOCOL_VERSION, version.as_str().to_owned());
        let _fresh = ours.insert(META_CLIENT_CAPABILITIES, Object::new());
    }
    if !ours.is_empty() {
        let _fresh = params.insert("_meta", ours);
    }
    params
}

fn is_progress_token(token: &Value) -> bool {
    match token {
        Value::Int(_) => true,
        Value::Text(text) => {
            text.len() <= MAX_PROGRESS_TOKEN_BYTES && text.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
        }
        Value::Null | Value::Bool(_) | Value::Float(_) | Value::List(_) | Value::Object(_) => false,
    }
}

/// Compares the `Mcp-Param-*` headers of a modern `tools/call` with its arguments, as the tool's pinned
/// input schema declares them (`x-mcp-header`). Legacy messages have no such headers and nothing to compare.
///
/// # Errors
/// `-32020` if one is missing, repeated, undeclared or differs from the argument it mirrors.
pub fn check_param_headers(
    request: &McpRequest,
    arguments: &Object,
    schema: &Value,
    headers: &RoutingHeaders,
) -> Result<(), RpcError> {
    match request.era() {
        Era::Legacy => Ok(()),
        Era::Modern => mirror::check_params(schema, arguments, headers)
            .map_err(|error| error.answering(request.id.clone())),
    }
}

#[cfg(test)]
mod tests;
