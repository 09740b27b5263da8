//! The local signing proxy: an MCP endpoint on loopback for one agent, behind which every call gets its proofs.
//!
//! The agent speaks plain MCP to it and holds nothing but its URL. The proxy decides nothing about calls: it lets in only
//! its own user's programs that know the path, adds the proofs, answers the gateway's challenges, and passes bytes on.
//! A refusal of a call is an answer to the agent (JSON-RPC, status 200); only who does not get in is refused with a status.

mod door;
mod forward;
mod peer;
mod refusal;
mod reply;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_proto::id::UpstreamId;
use countersign_proto::time::{Entropy, random_id};
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use crate::session::Session;
use door::Door;
use forward::Forwarder;
use peer::Peer;

/// The largest request body.
const MAX_REQUEST_BYTES: usize = 4 * 1024 * 1024;
/// How many connections the agent may have open.
const MAX_CONNECTIONS: usize = 128;
/// How long a client may take to send the head of a request.
const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// How long a call is held for a person by default.
pub const DEFAULT_HOLD_LIMIT: Duration = Duration::from_secs(300);

/// How A shows itself to the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProofKind {
    /// Once per connection, bound to its TLS exporter; per call if the gateway does not take that.
    Channel,
    /// A DPoP proof with every call (RFC 9449).
    EveryCall,
}

/// Tells the person at the terminal something that the agent should not be trusted to pass on.
pub trait Notices: Send + Sync {
    /// One line, without control characters.
    fn say(&self, line: &str);
}

/// What the proxy offers.
pub struct ProxyConfig {
    /// The tool servers the agent may reach.
    pub upstreams: Vec<UpstreamId>,
    /// How A shows itself.
    pub proof: ProofKind,
    /// How long a call is held while a person is asked.
    pub hold_limit: Duration,
    /// Where the person is told.
    pub notices: Arc<dyn Notices>,
}

/// Any body that goes back to the agent.
type AgentBody = BoxBody<Bytes, hyper::Error>;

/// A running proxy. It ends, with its connections, when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    secret: String,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Starts on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// If no port can be bound.
    pub async fn start(
        session: Arc<Session>,
        config: ProxyConfig,
        rng: &dyn Entropy,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let secret = random_id(rng, "");
        let door = Door::new(address.port(), secret.clone(), config.upstreams);
        let forwarder = Forwarder::new(session, config.proof, config.hold_limit, config.notices);
        let service = Arc::new(Service { door, forwarder });
        let accepting = tokio::spawn(accept(listener, service));
        Ok(Self { address, secret, accepting })
    }

    /// The endpoint of a tool server. Who knows it and runs as the same user may call: hand it to the agent only.
    #[must_use]
    pub fn url(&self, upstream: &UpstreamId) -> String {
        format!("http://{}/mcp/{}/{upstream}", self.address, self.secret)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

struct Service {
    door: Door,
    forwarder: Forwarder,
}

async fn accept(listener: TcpListener, service: Arc<Service>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        // Finished ones are taken out as we go, so that the set stays as small as what is open.
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, peer)) => {
                let service = Arc::clone(&service);
                connections.spawn(async move {
                    serve(stream, peer, &service).await;
                    drop(slot);
                });
            }
            Err(error) => tracing::warn!(%error, "a local connection was not accepted"),
        }
    }
}

async fn serve(stream: TcpStream, peer: SocketAddr, service: &Arc<Service>) {
    let _ = stream.set_nodelay(true);
    let owner = match stream.local_addr() {
        Ok(local) => peer::of(peer, local).await,
        Err(_) => Peer::Unknown,
    };
    match owner {
        Peer::OwnUser => {}
        Peer::OtherUser => tracing::warn!(%peer, "a program of another user tried to use this agent's proxy"),
        // Often a client that has closed the connection again.
        Peer::Unknown => tracing::debug!(%peer, "nobody is known at the other end of a connection"),
    }
    let same_user = owner == Peer::OwnUser;
    let handle = service_fn(move |request| {
        let service = Arc::clone(service);
        async move { Ok::<_, std::convert::Infallible>(answer(&service, same_user, request).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .serve_connection(TokioIo::new(stream), handle)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a local connection ended");
    }
}

/// One request: the door first, then the body, then the gateway.
async fn answer(service: &Service, same_user: bool, request: Request<Incoming>) -> Response<AgentBody> {
    let (head, body) = request.into_parts();
    let upstream = match service.door.admit(&head, same_user) {
        Ok(upstream) => upstream,
        Err(refusal) => return refusal.into_response(),
    };
    let body = match Limited::new(body, MAX_REQUEST_BYTES).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            return reply::error(
                http::StatusCode::PAYLOAD_TOO_LARGE,
                &Bytes::new(),
                "http.too_large",
                "the request is too large",
            );
        }
        Err(_) => {
            return reply::error(
                http::StatusCode::BAD_REQUEST,
                &Bytes::new(),
                "rpc.malformed",
                "the request broke off",
            );
        }
    };
    service.forwarder.forward(&upstream, &head, body).await
}

#[cfg(test)]
mod tests;
