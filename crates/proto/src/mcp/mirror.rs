//! Headers that mirror the body (MCP 2026-07-28): read strictly, compared, and rebuilt for the upstream.
//!
//! A header is never believed: it either says what the body says or the request is refused. In the legacy
//! era they mean nothing and are dropped.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{
    Era, META_CLIENT_CAPABILITIES, META_PROTOCOL_VERSION, McpRequest, Method, ProtocolVersion, RpcError,
};
use crate::json::{Object, Value};

const VERSION: &str = "mcp-protocol-version";
const METHOD: &str = "mcp-method";
const NAME: &str = "mcp-name";
const PARAM_PREFIX: &str = "mcp-param-";
/// The JSON Schema annotation that asks for an argument to be mirrored.
const ANNOTATION: &str = "x-mcp-header";
const SENTINEL_START: &str = "=?base64?";
const SENTINEL_END: &str = "?=";
const MAX_PARAM_HEADERS: usize = 64;
const MAX_SCHEMA_DEPTH: usize = 32;

/// The routing headers of one HTTP request, each at most once.
#[derive(Clone, Debug, Default)]
pub struct RoutingHeaders {
    version: Option<String>,
    method: Option<String>,
    name: Option<String>,
    params: Vec<(String, String)>,
}

impl RoutingHeaders {
    /// Picks them out of all header lines; names are lower case, as HTTP libraries give them.
    ///
    /// # Errors
    /// `-32020` if one is repeated or is not visible ASCII: first-copy and last-copy readers would disagree.
    pub fn collect<'a>(lines: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<Self, RpcError> {
        let mut headers = Self::default();
        for (name, value) in lines {
            let slot = match name {
                VERSION => &mut headers.version,
                METHOD => &mut headers.method,
                NAME => &mut headers.name,
                _ => {
                    if let Some(param) = name.strip_prefix(PARAM_PREFIX) {
                        let value = visible(value)?;
                        if headers.params.len() == MAX_PARAM_HEADERS
                            || headers.params.iter().any(|(seen, _)| seen == param)
                        {
                            return Err(RpcError::header_mismatch("an mcp-param header is repeated"));
                        }
                        headers.params.push((param.to_owned(), value));
                    }
                    continue;
                }
            };
            if slot.replace(visible(value)?).is_some() {
                return Err(RpcError::header_mismatch("a routing header is repeated"));
            }
        }
        Ok(headers)
    }

    /// The revision a request without a body (GET, DELETE) speaks; absent means 2025-03-26.
    ///
    /// # Errors
    /// `-32022` if it is not one of ours.
    pub fn version(&self) -> Result<ProtocolVersion, RpcError> {
        match &self.version {
            None => Ok(ProtocolVersion::V2025_03_26),
            Some(text) => ProtocolVersion::parse(text).ok_or(RpcError::unsupported_version()),
        }
    }

    pub(super) fn require_well_formed_params(&self) -> Result<(), RpcError> {
        match self.params.iter().all(|(_, value)| decode_header_value(value).is_some()) {
            true => Ok(()),
            false => Err(RpcError::header_mismatch("an mcp-param header is malformed")),
        }
    }
}

fn visible(value: &[u8]) -> Result<String, RpcError> {
    std::str::from_utf8(value)
        .ok()
        .filter(|text| text.bytes().all(|byte| (0x20..=0x7e).contains(&byte)))
        .map(str::to_owned)
        .ok_or(RpcError::header_mismatch("a routing header is not visible ASCII"))
}

/// The revision on which header and body agree. Claiming one in the header and another in `_meta` is
/// refused in both directions, so that no older revision's laxity can be borrowed.
pub(super) fn agreed_version(
    headers: &RoutingHeaders,
    params: Option<&Object>,
    is_request: bool,
) -> Result<ProtocolVersion, RpcError> {
    let meta = params.and_then(|params| params.get("_meta")).and_then(Value::as_object);
    let claimed = meta.and_then(|meta| meta.get(META_PROTOCOL_VERSION));
    if let (Some(header), Some(Value::Text(body))) = (&headers.version, claimed)
        && header != body
    {
        return Err(RpcError::header_mismatch("mcp-protocol-version and params._meta disagree"));
    }
    let version = headers.version()?;
    match (version.era(), claimed) {
        (Era::Legacy, None) => Ok(version),
        (Era::Legacy, Some(_)) => {
            Err(RpcError::header_mismatch("mcp-protocol-version and params._meta disagree"))
        }
        (Era::Modern, Some(Value::Text(_))) => {
            match is_request && meta.is_none_or(|meta| meta.get(META_CLIENT_CAPABILITIES).is_none()) {
                true => Err(RpcError::invalid_params("params._meta lacks the client capabilities")),
                false => Ok(version),
            }
        }
        (Era::Modern, None) if !is_request => Ok(version),
        (Era::Modern, None | Some(_)) => {
            Err(RpcError::invalid_params("params._meta lacks the protocol version"))
        }
    }
}

/// `Mcp-Method` and `Mcp-Name` against the body, on the raw names so that unknown methods are compared too.
pub(super) fn check_routing(
    headers: &RoutingHeaders,
    method: &str,
    params: Option<&Object>,
) -> Result<(), RpcError> {
    if headers.method.as_deref() != Some(method) {
        return Err(RpcError::header_mismatch("mcp-method is missing or differs from the body"));
    }
    let named = match method {
        "tools/call" | "prompts/get" => Some("name"),
        "resources/read" => Some("uri"),
        _ => None,
    };
    let expected = named.and_then(|member| params.and_then(|params| params.get(member)));
    let stated = headers.name.as_deref().map(decode_header_value);
    match (expected, stated) {
        (None, None) => Ok(()),
        (Some(Value::Text(body)), Some(Some(header))) if *body == header => Ok(()),
        (None | Some(_), None | Some(_)) => {
            Err(RpcError::header_mismatch("mcp-name is missing or differs from the body"))
        }
    }
}

/// `Mcp-Param-*` against the arguments: present together and equal, or absent together.
pub(super) fn check_params(
    schema: &Value,
    arguments: &Object,
    headers: &RoutingHeaders,
) -> Result<(), RpcError> {
    let declared = declared_params(schema);
    for (name, _) in &headers.params {
        if !declared.iter().any(|(token, _)| token == name) {
            return Err(RpcError::header_mismatch("an mcp-param header is not declared by the tool"));
        }
    }
    for (token, path) in &declared {
        let stated = headers.params.iter().find(|(name, _)| name == token).map(|(_, value)| value.as_str());
        let expected = value_at(arguments, path).and_then(render);
        match (stated, expected) {
            (None, None) => {}
            (Some(stated), Some(expected)) if decode_header_value(stated).as_ref() == Some(&expected) => {}
            (None | Some(_), None | Some(_)) => {
                return Err(RpcError::header_mismatch("an mcp-param header differs from its argument"));
            }
        }
    }
    Ok(())
}

/// What a conforming client would have sent; computed from the body, never copied from the caller.
pub(super) fn headers_for(request: &McpRequest, schema: Option<&Value>) -> Vec<(String, String)> {
    let mut lines = vec![(VERSION.to_owned(), request.version().as_str().to_owned())];
    if request.era() == Era::Legacy {
        // `initialize` negotiates the revision, so it names none yet.
        return if request.method() == Method::Initialize { Vec::new() } else { lines };
    }
    lines.push((METHOD.to_owned(), request.method().as_str().to_owned()));
    if let Ok(call) = request.tool_call()
        && request.method() == Method::ToolsCall
    {
        lines.push((NAME.to_owned(), encode_header_value(call.name.as_str())));
        for (token, path) in schema.map(declared_params).unwrap_or_default() {
            if let Some(text) = value_at(&call.arguments, &path).and_then(render) {
                lines.push((format!("{PARAM_PREFIX}{token}"), encode_header_value(&text)));
            }
        }
    }
    lines
}

/// Annotated properties reachable through `properties` alone: (lower-case token, path). A schema whose
/// annotations are not valid declares nothing (MCP 2026-07-28, custom headers).
fn declared_params(schema: &Value) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    let valid = collect_params(schema, &mut Vec::new(), &mut found);
    let mut tokens: Vec<&String> = found.iter().map(|(token, _)| token).collect();
    tokens.sort_unstable();
    let unique = tokens.windows(2).all(|pair| pair[0] != pair[1]);
    if valid && unique && found.len() <= MAX_PARAM_HEADERS { found } else { Vec::new() }
}

fn collect_params(schema: &Value, path: &mut Vec<String>, found: &mut Vec<(String, Vec<String>)>) -> bool {
    let Some(schema) = schema.as_object() else { return true };
    if path.len() > MAX_SCHEMA_DEPTH {
        return false;
    }
    if let Some(annotation) = schema.get(ANNOTATION) {
        let token = annotation.as_str().filter(|token| {
            !token.is_empty()
                && token
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
        });
        let scalar =
            matches!(schema.get("type").and_then(Value::as_str), Some("string" | "integer" | "boolean"));
        match token {
            Some(token) if scalar && !path.is_empty() => {
                found.push((token.to_ascii_lowercase(), path.clone()))
            }
            _ => return false,
        }
    }
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return true };
    properties.iter().all(|(name, property)| {
        path.push(name.to_owned());
        let valid = collect_params(property, path, found);
        path.pop();
        valid
    })
}

fn value_at<'a>(arguments: &'a Object, path: &[String]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(arguments.get(first)?, |value, name| value.as_object()?.get(name))
}

fn render(value: &Value) -> Option<String> {
    match value {
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Int(number) => Some(number.to_string()),
        Value::Text(text) => Some(text.clone()),
        Value::Null | Value::Float(_) | Value::List(_) | Value::Object(_) => None,
    }
}

/// A text as a header value: as it is where that survives HTTP, else `=?base64?…?=`.
#[must_use]
pub fn encode_header_value(text: &str) -> String {
    let plain = text.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
        && text.trim() == text
        && !(text.starts_with(SENTINEL_START) && text.ends_with(SENTINEL_END));
    if plain { text.to_owned() } else { format!("{SENTINEL_START}{}{SENTINEL_END}", STANDARD.encode(text)) }
}

/// The text a header value stands for. `None` if it looks like the sentinel, in any case of letters, and
/// its spelling or its payload is not the one valid one (lower case, padded, canonical base64 of UTF-8).
#[must_use]
pub fn decode_header_value(value: &str) -> Option<String> {
    let wrapped = value.len() >= SENTINEL_START.len() + SENTINEL_END.len()
        && value.is_char_boundary(SENTINEL_START.len())
        && value[..SENTINEL_START.len()].eq_ignore_ascii_case(SENTINEL_START)
        && value.ends_with(SENTINEL_END);
    if !wrapped {
        return Some(value.to_owned());
    }
    let payload = value.strip_prefix(SENTINEL_START)?.strip_suffix(SENTINEL_END)?;
    let decoded = STANDARD.decode(payload).ok()?;
    String::from_utf8(decoded).ok()
}
