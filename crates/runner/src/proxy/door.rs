//! Who may come in: this user's programs, addressing us by our loopback name, knowing the path, speaking JSON.
//!
//! Against other users, web pages in a browser (DNS rebinding, cross-origin posts) and the merely curious.

use countersign_proto::id::UpstreamId;
use http::header::{CONTENT_TYPE, HOST, ORIGIN};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method, Response, StatusCode};

use super::{AgentBody, reply};

/// The door of one proxy.
#[derive(Debug)]
pub struct Door {
    authorities: [String; 2],
    secret: String,
    upstreams: Vec<UpstreamId>,
}

/// Why somebody stays outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another user's program.
    Peer,
    /// `Host` is not our loopback name: a rebound name of somebody else.
    Host,
    /// A web page.
    Origin,
    /// An unknown path.
    Path,
    /// Another method than MCP's.
    Method,
    /// Not JSON.
    ContentType,
}

impl Refusal {
    /// The answer: fixed, and the same for every path that is not ours.
    pub fn into_response(self) -> Response<AgentBody> {
        let (status, code, reason) = match self {
            Self::Peer => {
                (StatusCode::FORBIDDEN, "http.peer", "this endpoint belongs to another user's agent")
            }
            Self::Host => (
                StatusCode::FORBIDDEN,
                "http.host",
                "this endpoint is reached as 127.0.0.1 or localhost only",
            ),
            Self::Origin => (StatusCode::FORBIDDEN, "http.origin", "web pages may not use this endpoint"),
            Self::Path => (StatusCode::NOT_FOUND, "http.path", "nothing is here"),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "rpc.method", "use POST, GET or DELETE"),
            Self::ContentType => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "http.content_type", "send application/json")
            }
        };
        reply::error(status, &bytes::Bytes::new(), code, reason)
    }
}

impl Door {
    pub fn new(port: u16, secret: String, upstreams: Vec<UpstreamId>) -> Self {
        Self { authorities: [format!("127.0.0.1:{port}"), format!("localhost:{port}")], secret, upstreams }
    }

    /// Lets a request in, to the tool server it asks for.
    pub fn admit(&self, head: &Parts, same_user: bool) -> Result<UpstreamId, Refusal> {
        if !same_user {
            return Err(Refusal::Peer);
        }
        match only(&head.headers, &HOST) {
            Some(Some(host)) if self.is_ours(host) => {}
            _ => return Err(Refusal::Host),
        }
        match only(&head.headers, &ORIGIN) {
            None => {}
            Some(Some(origin)) if origin.strip_prefix("http://").is_some_and(|host| self.is_ours(host)) => {}
            Some(_) => return Err(Refusal::Origin),
        }
        let upstream = self.upstream(head).ok_or(Refusal::Path)?;
        match head.method {
            Method::GET | Method::DELETE => {}
            Method::POST => match only(&head.headers, &CONTENT_TYPE) {
                Some(Some(kind)) if is_json(kind) => {}
                _ => return Err(Refusal::ContentType),
            },
            _ => return Err(Refusal::Method),
        }
        Ok(upstream)
    }

    fn is_ours(&self, authority: &str) -> bool {
        self.authorities.iter().any(|ours| ours == authority)
    }

    fn upstream(&self, head: &Parts) -> Option<UpstreamId> {
        let (secret, upstream) = head.uri.path().strip_prefix("/mcp/")?.split_once('/')?;
        let known =
            aws_lc_rs::constant_time::verify_slices_are_equal(secret.as_bytes(), self.secret.as_bytes());
        let upstream = self.upstreams.iter().find(|candidate| candidate.as_str() == upstream)?;
        (known.is_ok() && head.uri.query().is_none()).then(|| upstream.clone())
    }
}

/// `None` if the header is absent; `Some(None)` if it is there twice or is not text.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<Option<&'h str>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    Some(if values.next().is_none() { first.to_str().ok() } else { None })
}

fn is_json(kind: &str) -> bool {
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}
