//! The head of a request: what may come in at all, before anyone asks who it is.
//!
//! One spelling per route, one line per header that matters, one content type. Whatever else a caller sends
//! (cookies, forwarded or identity headers, method overrides) is not read here and so exists nowhere.

use bytes::Bytes;
use countersign_policy::Code;
use countersign_proto::id::{ApprovalId, UpstreamId};
use countersign_proto::mcp::RoutingHeaders;
use http::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, ORIGIN, TRANSFER_ENCODING,
    UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method, Version};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;

use crate::config::{GatewayLimits, Origin};
use crate::refusal::Stop;
use crate::upstream::SESSION;

const DPOP: HeaderName = HeaderName::from_static("dpop");
const CHANNEL: HeaderName = HeaderName::from_static("countersign-channel");
const APPROVAL: HeaderName = HeaderName::from_static("countersign-approval");
const METADATA_PREFIX: &str = "/.well-known/oauth-protected-resource/mcp/";
const MCP_PREFIX: &str = "/mcp/";

/// Where a request goes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// Protected-resource metadata (RFC 9728), readable without a token.
    Metadata(UpstreamId),
    /// A message to an upstream.
    Message(UpstreamId),
    /// Opening a legacy session's stream.
    Stream(UpstreamId),
    /// Ending a legacy session.
    EndSession(UpstreamId),
}

/// What a caller presents, read and not yet believed.
#[derive(Debug)]
pub(crate) struct Presented {
    pub(crate) authorization: Option<String>,
    pub(crate) dpop: Option<String>,
    pub(crate) channel: Option<String>,
    pub(crate) approval: Option<ApprovalId>,
    pub(crate) session: Option<String>,
    pub(crate) routing: RoutingHeaders,
}

/// Checks the head of a request. `known` says which upstreams are served here.
pub(crate) fn admit(
    parts: &Parts,
    origin: &Origin,
    known: impl Fn(&UpstreamId) -> bool,
) -> Result<Route, Stop> {
    if parts.version != Version::HTTP_11 {
        return Err(Stop::head(Code::HttpHeader, "only HTTP/1.1 is spoken"));
    }
    // Absolute-form targets carry a second opinion about the host; one is enough (RFC 9112 §3.2).
    if parts.uri.scheme().is_some() || parts.uri.authority().is_some() {
        return Err(Stop::head(Code::HttpHost, "the target is not in origin form"));
    }
    if once(&parts.headers, &HOST)? != Some(origin.authority()) {
        return Err(Stop::head(Code::HttpHost, "host is missing, repeated or not ours"));
    }
    match once(&parts.headers, &ORIGIN)? {
        None => {}
        Some(claimed) if claimed == origin.as_str() => {}
        Some(_) => return Err(Stop::head(Code::HttpOrigin, "origin is not ours")),
    }
    if parts.headers.contains_key(UPGRADE) {
        return Err(Stop::head(Code::HttpHeader, "there is nothing to upgrade to"));
    }
    // The parser keeps only one of two lengths, so both together cannot be told from chunked alone: neither is read
    // (RFC 9112 §6.3; a server may insist on a length).
    if parts.headers.contains_key(TRANSFER_ENCODING) {
        return Err(Stop::head(Code::HttpHeader, "a body without a length, or with two"));
    }
    // Nothing here answers 100: a caller who waits would wait in vain, one who does not has nothing to expect.
    if parts.headers.contains_key(EXPECT) {
        return Err(Stop::head(Code::HttpHeader, "an expectation"));
    }
    let route = route(parts).filter(|route| known(route.upstream())).ok_or_else(Stop::no_such_route)?;
    let allowed = match (&route, &parts.method) {
        (Route::Metadata(_), &Method::GET) => true,
        (Route::Message(upstream), method) => return by_method(upstream.clone(), method, &parts.headers),
        (Route::Metadata(_) | Route::Stream(_) | Route::EndSession(_), _) => false,
    };
    if allowed { Ok(route) } else { Err(Stop::method_not_allowed()) }
}

fn by_method(upstream: UpstreamId, method: &Method, headers: &HeaderMap) -> Result<Route, Stop> {
    match *method {
        Method::POST => {
            check_content(headers)?;
            Ok(Route::Message(upstream))
        }
        Method::GET | Method::DELETE => {
            let has_body = once(headers, &CONTENT_LENGTH)?.is_some_and(|length| length != "0");
            if has_body {
                return Err(Stop::head(Code::HttpHeader, "a body where none belongs"));
            }
            // The stateless era has neither streams to open nor sessions to end.
            match (*method == Method::GET, headers.contains_key(SESSION)) {
                (_, false) => Err(Stop::method_not_allowed()),
                (true, true) => Ok(Route::Stream(upstream)),
                (false, true) => Ok(Route::EndSession(upstream)),
            }
        }
        _ => Err(Stop::method_not_allowed()),
    }
}

/// Exactly `/mcp/<upstream>` and its metadata; nothing is decoded, normalised or cut off.
fn route(parts: &Parts) -> Option<Route> {
    if parts.uri.query().is_some() {
        return None;
    }
    let path = parts.uri.path();
    if let Some(name) = path.strip_prefix(METADATA_PREFIX) {
        return UpstreamId::parse(name).ok().map(Route::Metadata);
    }
    UpstreamId::parse(path.strip_prefix(MCP_PREFIX)?).ok().map(Route::Message)
}

fn check_content(headers: &HeaderMap) -> Result<(), Stop> {
    let content_type = once(headers, &CONTENT_TYPE)?;
    let mut parts = content_type.unwrap_or_default().split(';').map(str::trim);
    let is_json = parts.next().is_some_and(|essence| essence.eq_ignore_ascii_case("application/json"))
        && parts.all(|parameter| parameter.eq_ignore_ascii_case("charset=utf-8"));
    if !is_json {
        return Err(Stop::head(Code::HttpContentType, "the body is not declared as application/json"));
    }
    match once(headers, &CONTENT_ENCODING)? {
        None | Some("identity") => Ok(()),
        Some(_) => Err(Stop::head(Code::HttpEncoding, "the body is encoded")),
    }
}

/// Reads what the caller presents.
pub(crate) fn presented(headers: &HeaderMap) -> Result<Presented, Stop> {
    let own = |name| once(headers, name).map(|value| value.map(str::to_owned));
    let approval = match once(headers, &APPROVAL)? {
        None => None,
        Some(text) => Some(
            ApprovalId::parse(text)
                .map_err(|_| Stop::head(Code::HttpHeader, "countersign-approval is not an approval id"))?,
        ),
    };
    let lines = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    Ok(Presented {
        authorization: own(&AUTHORIZATION)?,
        dpop: own(&DPOP)?,
        channel: own(&CHANNEL)?,
        approval,
        session: own(&SESSION)?,
        routing: RoutingHeaders::collect(lines).map_err(Stop::rpc)?,
    })
}

/// Reads the whole body, so that a refused request leaves nothing on the connection that could be taken for
/// another one.
pub(crate) async fn read_body(body: Incoming, limits: &GatewayLimits) -> Result<Bytes, Stop> {
    let collecting = Limited::new(body, limits.body_bytes).collect();
    match tokio::time::timeout(limits.body_timeout, collecting).await {
        Err(_) => Err(Stop::head(Code::RpcMalformed, "the body did not arrive in time")),
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(Stop::head(Code::HttpTooLarge, "the body is too large"))
        }
        Ok(Err(_)) => Err(Stop::head(Code::RpcMalformed, "the body broke off")),
    }
}

/// A header's one line; two of them would be read differently by different readers.
fn once<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Stop> {
    let mut lines = headers.get_all(name).iter();
    let Some(line) = lines.next() else { return Ok(None) };
    if lines.next().is_some() {
        return Err(Stop::head(repeated(name), "a header is repeated"));
    }
    line.to_str().map(Some).map_err(|_| Stop::head(Code::HttpHeader, "a header is not visible ASCII"))
}

fn repeated(name: &HeaderName) -> Code {
    match *name {
        HOST => Code::HttpHost,
        ORIGIN => Code::HttpOrigin,
        _ => Code::HttpHeader,
    }
}

impl Route {
    pub(crate) const fn upstream(&self) -> &UpstreamId {
        match self {
            Self::Metadata(upstream)
            | Self::Message(upstream)
            | Self::Stream(upstream)
            | Self::EndSession(upstream) => upstream,
        }
    }

    /// The HTTP method a proof must be made for.
    pub(crate) const fn method(&self) -> &'static str {
        match self {
            Self::Message(_) => "POST",
            Self::Metadata(_) | Self::Stream(_) => "GET",
            Self::EndSession(_) => "DELETE",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: &str, target: &str, lines: &[(&str, &str)], expected: &str) {
        let mut request = http::Request::builder().method(method).uri(target);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let origin = Origin::parse("https://gw.test:8443").unwrap();
        let seen = match admit(&parts, &origin, |id| id.as_str() == "github") {
            Ok(Route::Metadata(_)) => "metadata".to_owned(),
            Ok(Route::Message(_)) => "message".to_owned(),
            Ok(Route::Stream(_)) => "stream".to_owned(),
            Ok(Route::EndSession(_)) => "end".to_owned(),
            Err(stop) => stop.status().as_u16().to_string(),
        };
        assert_eq!(seen, expected, "{method} {target} {lines:?}");
    }

    const HOST_LINE: (&str, &str) = ("host", "gw.test:8443");
    const JSON_LINE: (&str, &str) = ("content-type", "application/json");

    #[test]
    fn one_spelling_leads_to_one_upstream() {
        check("POST", "/mcp/github", &[HOST_LINE, JSON_LINE], "message");
        for target in [
            "//mcp/github",
            "/x/../mcp/github",
            "/%6dcp/github",
            "/mcp/github/",
            "/mcp;x/github",
            "/mcp%2fgithub",
            "/mcp/GitHub",
            "/mcp/github?x=1",
            "/mcp/other",
            "/mcp",
            "/",
        ] {
            check("POST", target, &[HOST_LINE, JSON_LINE], "404");
        }
        check("POST", "https://gw.test:8443/mcp/github", &[HOST_LINE, JSON_LINE], "403");
    }

    #[test]
    fn a_page_in_a_browser_cannot_speak_to_us() {
        let with = |name, value| [HOST_LINE, JSON_LINE, (name, value)];
        check("POST", "/mcp/github", &with("origin", "https://gw.test:8443"), "message");
        check("POST", "/mcp/github", &with("origin", "https://evil.test"), "403");
        check("POST", "/mcp/github", &with("origin", "null"), "403");
        check("POST", "/mcp/github", &with("host", "gw.test:8443"), "403");
        check("POST", "/mcp/github", &[("host", "evil.test"), JSON_LINE], "403");
        check("POST", "/mcp/github", &[JSON_LINE], "403");
        check("POST", "/mcp/github", &[HOST_LINE, ("content-type", "text/plain")], "415");
        check("POST", "/mcp/github", &[HOST_LINE], "415");
    }

    #[test]
    fn only_plain_json_is_read() {
        let with = |name, value| [HOST_LINE, (name, value)];
        check("POST", "/mcp/github", &with("content-type", "application/json; charset=UTF-8"), "message");
        check("POST", "/mcp/github", &with("content-type", "application/jsonx"), "415");
        check("POST", "/mcp/github", &with("content-type", "application/json; charset=utf-16"), "415");
        for encoding in ["gzip", "br", "identity, gzip", "x"] {
            check("POST", "/mcp/github", &[HOST_LINE, JSON_LINE, ("content-encoding", encoding)], "415");
        }
        check("POST", "/mcp/github", &[HOST_LINE, JSON_LINE, ("upgrade", "websocket")], "400");
    }

    #[test]
    fn other_methods_are_for_legacy_sessions() {
        let session = ("mcp-session-id", "mcps_x");
        check("GET", "/mcp/github", &[HOST_LINE, session], "stream");
        check("DELETE", "/mcp/github", &[HOST_LINE, session], "end");
        check("GET", "/mcp/github", &[HOST_LINE], "405");
        check("DELETE", "/mcp/github", &[HOST_LINE], "405");
        check("GET", "/mcp/github", &[HOST_LINE, session, ("content-length", "5")], "400");
        for method in ["PUT", "PATCH", "HEAD", "OPTIONS", "TRACE"] {
            check(method, "/mcp/github", &[HOST_LINE, JSON_LINE], "405");
        }
        check("GET", "/.well-known/oauth-protected-resource/mcp/github", &[HOST_LINE], "metadata");
        check("POST", "/.well-known/oauth-protected-resource/mcp/github", &[HOST_LINE], "405");
    }
}
