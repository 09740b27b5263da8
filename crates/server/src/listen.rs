//! Listeners: accept, bound, shake hands, serve HTTP/1.1, drain. What is served is a router given by the caller.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// Who is at the other end of a connection, as far as the connection itself shows.
#[derive(Clone, Debug)]
pub(crate) enum Peer {
    /// TLS without a certificate.
    Anonymous,
    /// TLS with a certificate whose chain and key the handshake verified, DER.
    Certified(Arc<[u8]>),
    /// Something on this host, in the clear.
    Loopback,
    /// A process of this user, over the Unix socket.
    Local {
        /// As the kernel says.
        uid: u32,
    },
}

/// Bounds of one listener.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionLimits {
    pub(crate) connections: usize,
    pub(crate) handshake: Duration,
    pub(crate) head: Duration,
    pub(crate) request: Duration,
    pub(crate) drain: Duration,
}

/// Tells every listener to stop accepting and to drain.
pub(crate) type Stopping = watch::Receiver<bool>;

/// Serves `router` over TLS until told to stop.
pub(crate) async fn serve_tls(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    router: Router,
    limits: ConnectionLimits,
    stopping: Stopping,
) {
    serve(
        limits,
        stopping,
        || listener.accept(),
        move |(stream, _), stopping| {
            let acceptor = acceptor.clone();
            let router = router.clone();
            async move {
                // Not latency that matters here, but small answers must not wait for more of themselves.
                drop(stream.set_nodelay(true));
                let Ok(Ok(stream)) = tokio::time::timeout(limits.handshake, acceptor.accept(stream)).await
                else {
                    return;
                };
                let peer =
                    match stream.get_ref().1.peer_certificates().and_then(<[CertificateDer<'_>]>::first) {
                        Some(certificate) => Peer::Certified(Arc::from(certificate.as_ref())),
                        None => Peer::Anonymous,
                    };
                connection(stream, router, peer, limits, stopping).await;
            }
        },
    )
    .await;
}

/// Serves `router` in the clear; the caller made sure that the listener is on loopback.
pub(crate) async fn serve_loopback(
    listener: TcpListener,
    router: Router,
    limits: ConnectionLimits,
    stopping: Stopping,
) {
    serve(
        limits,
        stopping,
        || listener.accept(),
        move |(stream, _), stopping| {
            let router = router.clone();
            async move {
                drop(stream.set_nodelay(true));
                connection(stream, router, Peer::Loopback, limits, stopping).await;
            }
        },
    )
    .await;
}

/// Serves `router` to processes of our own user, or root, over a Unix socket.
pub(crate) async fn serve_unix(
    listener: UnixListener,
    router: Router,
    limits: ConnectionLimits,
    stopping: Stopping,
) {
    let own_uid = rustix::process::getuid().as_raw();
    serve(
        limits,
        stopping,
        || listener.accept(),
        move |(stream, _), stopping| {
            let router = router.clone();
            async move {
                // The file's mode already says so; the kernel's word on the peer does not depend on the path.
                match stream.peer_cred() {
                    Ok(peer) if peer.uid() == own_uid || peer.uid() == 0 => {
                        let local = Peer::Local { uid: peer.uid() };
                        connection(stream, router, local, limits, stopping).await;
                    }
                    Ok(peer) => tracing::warn!(uid = peer.uid(), "admin socket: peer refused"),
                    Err(error) => tracing::warn!(%error, "admin socket: peer unknown, refused"),
                }
            }
        },
    )
    .await;
}

/// The accept loop: bounded, survives accept errors, drains on stop.
async fn serve<Accepted, Accepting, Serving>(
    limits: ConnectionLimits,
    mut stopping: Stopping,
    accept: impl Fn() -> Accepting,
    serve_one: impl Fn(Accepted, Stopping) -> Serving,
) where
    Accepting: Future<Output = std::io::Result<Accepted>>,
    Serving: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    loop {
        let place = tokio::select! {
            () = stopped(&mut stopping) => break,
            place = Arc::clone(&places).acquire_owned() => place,
        };
        let Ok(place) = place else { break };
        let accepted = tokio::select! {
            () = stopped(&mut stopping) => break,
            accepted = accept() => accepted,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
        };
        match accepted {
            Ok(accepted) => {
                let serving = serve_one(accepted, stopping.clone());
                connections.spawn(async move {
                    serving.await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of descriptors: trying again at once would spin.
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.drain, drained).await.is_err() {
        tracing::warn!("connections did not drain in time");
    }
}

/// One HTTP/1.1 connection, ended gracefully on stop.
async fn connection<Stream>(
    stream: Stream,
    router: Router,
    peer: Peer,
    limits: ConnectionLimits,
    mut stopping: Stopping,
) where
    Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer.clone());
        let answer = answer(router.clone(), request, limits.request);
        async move { Ok::<Response, Infallible>(answer.await) }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(limits.head).max_buf_size(64 * 1024);
    let mut serving = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stopped(&mut stopping) => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

/// Answers one request in a task of its own: a client that hangs up does not cut a state change in half, and a
/// panic is that request's 500 and nobody else's.
async fn answer(router: Router, request: hyper::Request<Body>, within: Duration) -> Response {
    use hyper::service::Service as _;
    let handling = tokio::spawn(async move {
        let call = hyper_util::service::TowerToHyperService::new(router).call(request);
        tokio::time::timeout(within, call).await
    });
    match handling.await {
        Ok(Ok(Ok(response))) => response,
        Ok(Ok(Err(infallible))) => match infallible {},
        Ok(Err(_elapsed)) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Err(error) => {
            tracing::error!(%error, "request handler failed");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// Waits until told to stop, or until nobody is left who could tell.
pub(crate) async fn stopped(stopping: &mut Stopping) {
    drop(stopping.wait_for(|stop| *stop).await);
}
