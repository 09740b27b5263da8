//! The way to one tool server: a small pool of HTTP/1.1 connections and nothing a caller sent but the call.
//!
//! Headers are written from scratch, so no caller's credential, cookie, identity or routing header can pass.
//! Redirects are not followed, the credential goes to the configured URL alone, and answers keep only their
//! status and content type. What may be sent is decided elsewhere: sending takes a [`Passage`].

use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use countersign_proto::id::UpstreamId;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HOST};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::config::{ConfigError, Credential, GatewayLimits, UpstreamConfig};
use crate::tls;

pub(crate) const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const DECISION: HeaderName = HeaderName::from_static("countersign-decision");
/// Fits any sane status line and header block.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// Why an upstream gave no usable answer. The text goes to the log and the record, never to the caller.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    #[error("the upstream cannot be reached")]
    Connect(#[source] std::io::Error),
    #[error("the upstream did not accept a connection in time")]
    ConnectTimeout,
    #[error("the upstream did not begin to answer in time")]
    AnswerTimeout,
    #[error("the upstream broke the connection off")]
    Http(#[source] hyper::Error),
    #[error("the upstream answered with a redirect")]
    Redirect,
    #[error("the upstream refused our credential")]
    Credential,
    #[error("the upstream answered in an encoding nobody asked for")]
    Encoding,
    #[error("the request could not be built")]
    Request,
}

/// One message to an upstream.
pub(crate) struct Outbound {
    pub(crate) method: Method,
    /// Canonical bytes, empty without a body.
    pub(crate) body: Bytes,
    /// The routing headers that mirror the body.
    pub(crate) mirrored: Vec<(String, String)>,
    /// The upstream's own session id.
    pub(crate) session: Option<HeaderValue>,
    /// The decision that let it through, for the upstream's own logs.
    pub(crate) decision: Option<String>,
}

/// An upstream's answer and the connection it still occupies.
pub(crate) struct Inbound {
    pub(crate) response: Response<Incoming>,
    pub(crate) lease: ConnectionLease,
}

/// A connection on loan; given back once its answer was read to the end, closed otherwise.
pub(crate) struct ConnectionLease {
    pool: Arc<Pool>,
    sender: SendRequest<Full<Bytes>>,
}

pub(crate) struct Upstream {
    pub(crate) id: UpstreamId,
    path: Uri,
    host: HeaderValue,
    credential: Option<Credential>,
    address: (String, u16),
    tls: Option<(TlsConnector, ServerName<'static>)>,
    pool: Arc<Pool>,
    limits: GatewayLimits,
}

struct Pool {
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
    capacity: usize,
}

impl Upstream {
    pub(crate) fn new(config: UpstreamConfig, limits: &GatewayLimits) -> Result<Self, ConfigError> {
        let refuse = || ConfigError::UpstreamUrl(config.id.clone());
        let authority = config.url.authority().ok_or_else(refuse)?.clone();
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() || authority.as_str().contains('@') {
            return Err(refuse());
        }
        let (tls, default_port) = match config.url.scheme_str() {
            Some("http") => (None, 80),
            Some("https") => {
                let name = ServerName::try_from(host.clone()).map_err(|_| refuse())?;
                (Some((TlsConnector::from(tls::upstream_config(&config)?), name)), 443)
            }
            Some(_) | None => return Err(refuse()),
        };
        let path = config.url.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self {
            path: path.parse().map_err(|_| refuse())?,
            host: HeaderValue::from_str(authority.as_str()).map_err(|_| refuse())?,
            credential: config.credential,
            address: (host, authority.port_u16().unwrap_or(default_port)),
            tls,
            pool: Arc::new(Pool { idle: Mutex::new(Vec::new()), capacity: limits.idle_upstream_connections }),
            limits: limits.clone(),
            id: config.id,
        })
    }

    /// Sends one message and waits for the head of the answer.
    ///
    /// A pooled connection that closed before anything was written is replaced once; a message of which any
    /// byte may have arrived is never sent again.
    pub(crate) async fn send(&self, outbound: Outbound) -> Result<Inbound, UpstreamError> {
        let mut request = self.request(outbound)?;
        let sending = async {
            while let Some(mut sender) = self.pool.take() {
                match sender.try_send_request(request).await {
                    Ok(response) => return Ok((response, sender)),
                    Err(mut error) => match error.take_message() {
                        Some(unsent) => request = unsent,
                        None => return Err(UpstreamError::Http(error.into_error())),
                    },
                }
            }
            let mut sender = self.connect().await?;
            let response = sender.send_request(request).await.map_err(UpstreamError::Http)?;
            Ok((response, sender))
        };
        let (response, sender) = tokio::time::timeout(self.limits.answer_timeout, sending)
            .await
            .map_err(|_| UpstreamError::AnswerTimeout)??;
        check_answer(&response)?;
        Ok(Inbound { response, lease: ConnectionLease { pool: self.pool.clone(), sender } })
    }

    fn request(&self, outbound: Outbound) -> Result<Request<Full<Bytes>>, UpstreamError> {
        let has_body = !outbound.body.is_empty();
        let accept = match outbound.method {
            Method::GET => "text/event-stream",
            _ => "application/json, text/event-stream",
        };
        let mut request = Request::new(Full::new(outbound.body));
        *request.method_mut() = outbound.method;
        *request.uri_mut() = self.path.clone();
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if has_body {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        for (name, value) in outbound.mirrored {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| UpstreamError::Request)?;
            headers.insert(name, HeaderValue::from_str(&value).map_err(|_| UpstreamError::Request)?);
        }
        if let Some(session) = outbound.session {
            headers.insert(SESSION, session);
        }
        if let Some(decision) = outbound.decision {
            headers.insert(DECISION, HeaderValue::from_str(&decision).map_err(|_| UpstreamError::Request)?);
        }
        if let Some(credential) = &self.credential {
            let (name, value) = credential.line().ok_or(UpstreamError::Request)?;
            headers.insert(name, value);
        }
        Ok(request)
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, UpstreamError> {
        let connecting = async {
            let (host, port) = (self.address.0.as_str(), self.address.1);
            let tcp = TcpStream::connect((host, port)).await.map_err(UpstreamError::Connect)?;
            tcp.set_nodelay(true).map_err(UpstreamError::Connect)?;
            match &self.tls {
                None => handshake(tcp).await,
                Some((connector, name)) => {
                    let tls = connector.connect(name.clone(), tcp).await.map_err(UpstreamError::Connect)?;
                    handshake(tls).await
                }
            }
        };
        tokio::time::timeout(self.limits.connect_timeout, connecting)
            .await
            .map_err(|_| UpstreamError::ConnectTimeout)?
    }
}

async fn handshake<S>(stream: S) -> Result<SendRequest<Full<Bytes>>, UpstreamError>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(UpstreamError::Http)?;
    // Ends by itself when the sender is dropped or the upstream closes.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "an upstream connection ended");
        }
    });
    Ok(sender)
}

fn check_answer(response: &Response<Incoming>) -> Result<(), UpstreamError> {
    let status = response.status();
    if status.is_redirection() {
        return Err(UpstreamError::Redirect);
    }
    // Passed on, these would make the caller doubt its own token.
    if matches!(
        status,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::PROXY_AUTHENTICATION_REQUIRED
    ) {
        return Err(UpstreamError::Credential);
    }
    if response.headers().get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(UpstreamError::Encoding);
    }
    Ok(())
}

/// Whether the answer is an event stream.
pub(crate) fn is_event_stream(response: &Response<Incoming>) -> bool {
    response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|essence| essence.trim().eq_ignore_ascii_case("text/event-stream"))
}

impl Pool {
    fn take(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock();
        while let Some(sender) = idle.pop() {
            if sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    fn give(&self, sender: SendRequest<Full<Bytes>>) {
        let mut idle = self.idle.lock();
        if idle.len() < self.capacity {
            idle.push(sender);
        }
    }
}

impl ConnectionLease {
    /// Gives the connection back after its answer was read to the end.
    pub(crate) fn finish(self) {
        let Self { pool, mut sender } = self;
        if sender.is_ready() {
            pool.give(sender);
            return;
        }
        // The end of the body is seen just before the connection itself turns ready.
        tokio::spawn(async move {
            if poll_fn(|context| sender.poll_ready(context)).await.is_ok() {
                pool.give(sender);
            }
        });
    }
}

#[cfg(test)]
mod tests;
