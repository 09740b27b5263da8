//! A small HTTPS/1.1 client: TLS 1.3 to servers under one configured root, with the machine certificate where we have it.
//!
//! It keeps connections, because a TPM signs slowly and once per connection is enough, and shows their TLS exporter, so
//! that a proof can be bound to them. It follows no redirects and has no notion of proxies, cookies or plain HTTP.

mod body;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use parking_lot::{Mutex, RwLock};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::CertifiedKey;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::tpm::MachineKey;

pub use body::ReplyBody;

/// How long connecting may take, TLS and the TPM's signature included.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// The pauses before a server that does not take connections is tried again: one that restarts is not noticed.
const RECONNECT_PAUSES: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(300), Duration::from_millis(900)];
/// How long a control-plane request may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);
/// The largest control-plane reply.
const MAX_REPLY_BYTES: usize = 256 * 1024;
/// How many idle connections are kept per origin.
const MAX_IDLE: usize = 16;

/// The header that carries a proof for the whole connection.
pub const CHANNEL_PROOF: &str = "countersign-channel";

/// Why a request got no reply.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Not a URL we would connect to.
    #[error("{0:?} is not an https URL of the form https://host[:port]/…; correct it in the configuration")]
    Url(String),
    /// The file with the roots.
    #[error("the CA file holds no usable certificate; give the control plane's root certificates in PEM")]
    Roots,
    /// The machine certificate.
    #[error("the machine certificate cannot be used: {0}; enroll this machine again")]
    Certificate(String),
    /// TCP.
    #[error("cannot connect to {origin}; check that it runs and that the address is right")]
    Connect {
        /// Whom.
        origin: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// TLS.
    #[error(
        "no trusted connection to {origin}: {why}; check the CA file, the host name and this machine's certificate"
    )]
    Tls {
        /// Whom.
        origin: String,
        /// What the TLS stack said.
        why: String,
    },
    /// It takes too long.
    #[error("{0} did not answer in time; try again")]
    TimedOut(String),
    /// HTTP.
    #[error("the conversation with {origin} broke off: {why}; whether the request took effect is unknown")]
    Broken {
        /// Whom.
        origin: String,
        /// What the HTTP stack said.
        why: String,
    },
    /// More than we read.
    #[error("the reply of {0} is too large")]
    TooLarge(String),
}

impl HttpError {
    /// Whether the other side is simply not there, and may be later.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::TimedOut(_) | Self::Broken { .. } => true,
            Self::Url(_) | Self::Roots | Self::Certificate(_) | Self::Tls { .. } | Self::TooLarge(_) => false,
        }
    }
}

/// Scheme, host and port: `https://host[:port]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    host: String,
    port: u16,
    text: String,
}

impl Origin {
    /// The origin of an https URL; user information is refused.
    ///
    /// # Errors
    /// [`HttpError::Url`].
    pub fn of(url: &str) -> Result<Self, HttpError> {
        let wrong = || HttpError::Url(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?;
        if uri.scheme_str() != Some("https")
            || authority.as_str().contains('@')
            || authority.host().is_empty()
        {
            return Err(wrong());
        }
        let port = authority.port_u16().unwrap_or(443);
        Ok(Self { host: authority.host().to_owned(), port, text: format!("https://{authority}") })
    }

    /// As written, without a path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// The certificate that this machine shows, replaced as it is renewed.
#[derive(Debug, Default)]
pub struct MachineCertificate {
    current: RwLock<Option<Arc<CertifiedKey>>>,
}

impl MachineCertificate {
    /// Takes a PEM chain, leaf first, and the key it is for into use.
    ///
    /// # Errors
    /// [`HttpError::Certificate`] if the chain does not parse or its leaf is for another key.
    pub fn replace(&self, chain_pem: &[u8], key: &MachineKey) -> Result<(), HttpError> {
        let chain = CertificateDer::pem_slice_iter(chain_pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| HttpError::Certificate(error.to_string()))?;
        let leaf = chain.first().ok_or_else(|| HttpError::Certificate("it is empty".to_owned()))?;
        if !leaf.windows(key.point().len()).any(|window| window == key.point()) {
            return Err(HttpError::Certificate("it is for another key".to_owned()));
        }
        *self.current.write() = Some(Arc::new(CertifiedKey::new(chain, Arc::new(key.clone()))));
        Ok(())
    }

    /// Shows none from now on.
    pub fn withdraw(&self) {
        *self.current.write() = None;
    }
}

impl ResolvesClientCert for MachineCertificate {
    fn resolve(&self, _: &[&[u8]], schemes: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        if !schemes.contains(&rustls::SignatureScheme::ECDSA_NISTP256_SHA256) {
            return None;
        }
        self.current.read().clone()
    }

    fn has_certs(&self) -> bool {
        self.current.read().is_some()
    }
}

/// One open connection and what is known about it.
#[derive(Debug)]
pub struct Connection {
    origin: Origin,
    sender: http1::SendRequest<Full<Bytes>>,
    exporter: [u8; 32],
    /// Which generation of the client's connections it belongs to.
    generation: u64,
    /// Whether a proof for it was sent and not answered with 401.
    proven: bool,
}

impl Connection {
    /// The TLS exporter of this connection (RFC 9266 label, no context).
    #[must_use]
    pub fn exporter(&self) -> &[u8; 32] {
        &self.exporter
    }

    /// Whether the server has not accepted a proof for it yet.
    #[must_use]
    pub fn needs_proof(&self) -> bool {
        !self.proven
    }
}

/// The client. Cloning it shares its connections.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    tls: TlsConnector,
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    generation: u64,
    by_origin: HashMap<Origin, Vec<Connection>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

/// A whole reply.
#[derive(Debug)]
pub struct Reply {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body, at most 256 KiB.
    pub body: Bytes,
}

impl Client {
    /// A client that trusts the certificates in `roots_pem` and nothing else.
    ///
    /// # Errors
    /// [`HttpError::Roots`].
    pub fn new(roots_pem: &[u8], certificate: Arc<MachineCertificate>) -> Result<Self, HttpError> {
        let mut roots = rustls::RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(roots_pem) {
            roots.add(root.map_err(|_| HttpError::Roots)?).map_err(|_| HttpError::Roots)?;
        }
        if roots.is_empty() {
            return Err(HttpError::Roots);
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|_| HttpError::Roots)?
            .with_root_certificates(roots)
            .with_client_cert_resolver(certificate);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Every connection shows the machine key: a resumed one would not.
        config.resumption = rustls::client::Resumption::disabled();
        let inner = Inner { tls: TlsConnector::from(Arc::new(config)), idle: Mutex::default() };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// An idle connection to `origin`, or a new one. Connecting is tried again for a moment: nothing was sent yet.
    ///
    /// # Errors
    /// [`HttpError`].
    pub async fn connection(&self, origin: &Origin) -> Result<Connection, HttpError> {
        while let Some(mut connection) = self.take_idle(origin) {
            if connection.sender.ready().await.is_ok() {
                return Ok(connection);
            }
        }
        let generation = self.inner.idle.lock().generation;
        let connecting = async {
            for pause in RECONNECT_PAUSES {
                match self.connect(origin, generation).await {
                    Err(HttpError::Connect { .. }) => tokio::time::sleep(pause).await,
                    connected => return connected,
                }
            }
            self.connect(origin, generation).await
        };
        tokio::time::timeout(CONNECT_LIMIT, connecting)
            .await
            .map_err(|_| HttpError::TimedOut(origin.to_string()))?
    }

    /// Opens a connection and keeps it.
    ///
    /// # Errors
    /// [`HttpError`].
    pub async fn reach(&self, origin: &Origin) -> Result<(), HttpError> {
        let connection = self.connection(origin).await?;
        self.give_back(connection);
        Ok(())
    }

    /// Drops idle connections and keeps those in use from coming back: the next ones show the new certificate.
    pub fn start_over(&self) {
        let mut idle = self.inner.idle.lock();
        idle.generation += 1;
        idle.by_origin.clear();
    }

    fn take_idle(&self, origin: &Origin) -> Option<Connection> {
        self.inner.idle.lock().by_origin.get_mut(origin)?.pop()
    }

    fn give_back(&self, connection: Connection) {
        let mut idle = self.inner.idle.lock();
        if connection.generation == idle.generation && !connection.sender.is_closed() {
            let kept = idle.by_origin.entry(connection.origin.clone()).or_default();
            if kept.len() < MAX_IDLE {
                kept.push(connection);
            }
        }
    }

    async fn connect(&self, origin: &Origin, generation: u64) -> Result<Connection, HttpError> {
        let tls_error = |why: String| HttpError::Tls { origin: origin.to_string(), why };
        let host = origin.host.trim_start_matches('[').trim_end_matches(']');
        let tcp = TcpStream::connect((host, origin.port))
            .await
            .map_err(|source| HttpError::Connect { origin: origin.to_string(), source })?;
        let _ = tcp.set_nodelay(true);
        let name = ServerName::try_from(host.to_owned()).map_err(|error| tls_error(error.to_string()))?;
        let stream = self.inner.tls.connect(name, tcp).await.map_err(|source| match source.kind() {
            // What the TLS stack itself found wrong; everything else is a connection that broke off.
            std::io::ErrorKind::InvalidData => tls_error(source.to_string()),
            _ => HttpError::Connect { origin: origin.to_string(), source },
        })?;
        let exporter = stream
            .get_ref()
            .1
            .export_keying_material([0_u8; 32], countersign_proto::channel::EXPORTER_LABEL, None)
            .map_err(|error| tls_error(error.to_string()))?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| HttpError::Broken { origin: origin.to_string(), why: error.to_string() })?;
        tokio::spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, "connection ended");
            }
        });
        Ok(Connection { origin: origin.clone(), sender, exporter, generation, proven: false })
    }

    /// Sends one request on `connection` and returns its reply as a stream, after which the connection is kept.
    ///
    /// `request` needs a path, not a whole URL; `Host` is set here.
    ///
    /// # Errors
    /// [`SendError::Unsent`] if the server had closed the connection before any byte was written: the caller may send it
    /// on another one. Any other failure leaves open whether the request took effect.
    pub async fn send(
        &self,
        mut connection: Connection,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<ReplyBody>, SendError> {
        let authority = connection.origin.text.trim_start_matches("https://");
        let host = http::HeaderValue::from_str(authority)
            .map_err(|_| SendError::Failed(HttpError::Url(connection.origin.text.clone())))?;
        request.headers_mut().insert(http::header::HOST, host);
        let proving = request.headers().contains_key(CHANNEL_PROOF);
        match connection.sender.try_send_request(request).await {
            Ok(response) => {
                connection.proven |= proving && response.status() != StatusCode::UNAUTHORIZED;
                Ok(response.map(|body: Incoming| ReplyBody::new(body, self.clone(), connection)))
            }
            Err(mut error) => match error.take_message() {
                Some(request) => Err(SendError::Unsent(Box::new(request))),
                None => Err(SendError::Failed(HttpError::Broken {
                    origin: connection.origin.to_string(),
                    why: error.into_error().to_string(),
                })),
            },
        }
    }

    /// A control-plane request and its whole reply.
    ///
    /// # Errors
    /// [`HttpError`].
    pub async fn request(&self, origin: &Origin, request: Request<Full<Bytes>>) -> Result<Reply, HttpError> {
        tokio::time::timeout(REQUEST_LIMIT, self.request_unbounded(origin, request))
            .await
            .map_err(|_| HttpError::TimedOut(origin.to_string()))?
    }

    async fn request_unbounded(
        &self,
        origin: &Origin,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Reply, HttpError> {
        for _ in 0..=MAX_IDLE {
            let connection = self.connection(origin).await?;
            match self.send(connection, request).await {
                Ok(response) => return whole(origin, response).await,
                Err(SendError::Unsent(unsent)) => request = *unsent,
                Err(SendError::Failed(error)) => return Err(error),
            }
        }
        Err(HttpError::Broken { origin: origin.to_string(), why: "it closes every connection".to_owned() })
    }
}

/// Why a request on a kept connection failed.
#[derive(Debug)]
pub enum SendError {
    /// Not a byte of it left: it may be sent again.
    Unsent(Box<Request<Full<Bytes>>>),
    /// It may have taken effect.
    Failed(HttpError),
}

async fn whole(origin: &Origin, response: Response<ReplyBody>) -> Result<Reply, HttpError> {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, MAX_REPLY_BYTES).collect().await.map_err(|error| {
        if error.is::<http_body_util::LengthLimitError>() {
            HttpError::TooLarge(origin.to_string())
        } else {
            HttpError::Broken { origin: origin.to_string(), why: error.to_string() }
        }
    })?;
    Ok(Reply { status: head.status, headers: head.headers, body: body.to_bytes() })
}
