//! One TLS connection: what its handshake proved, kept for as long as it lives.
//!
//! The certificate is parsed once and appraised again for every request. Nothing survives a connection: there
//! are no tickets and no resumption, so each one is a fresh proof by its machine.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, OnceLock};

use countersign_proto::channel::VerifiedChannel;
use countersign_proto::jose::Thumbprint;
use countersign_proto::time::Timestamp;
use countersign_trust::PeerCertificate;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::gate::Gate;
use crate::tls;
use crate::walk::walk;

/// What a handshake proved.
pub(crate) struct Connection {
    /// The machine certificate, or why there is none to speak of.
    pub(crate) peer: Result<PeerCertificate, String>,
    /// What an agent signs to bind its key to this connection.
    pub(crate) exporter: Option<[u8; 32]>,
    /// The agent key this connection was bound to.
    pub(crate) channel: OnceLock<VerifiedChannel>,
}

/// Connections open per machine key, and those without one.
#[derive(Clone, Default)]
pub(crate) struct PerMachine(Arc<Mutex<HashMap<Option<Thumbprint>, usize>>>);

/// How many strangers were heard in the current second.
#[derive(Clone, Default)]
pub(crate) struct Strangers(Arc<Mutex<(i64, u32)>>);

impl Strangers {
    fn admit(&self, now: Timestamp, per_sec: u32) -> bool {
        let mut heard = self.0.lock();
        if heard.0 != now.unix_secs() {
            *heard = (now.unix_secs(), 0);
        }
        heard.1 = heard.1.saturating_add(1);
        heard.1 <= per_sec
    }
}

struct Counted {
    counts: PerMachine,
    key: Option<Thumbprint>,
}

impl PerMachine {
    fn enter(&self, key: Option<Thumbprint>, limit: usize) -> Option<Counted> {
        let mut counts = self.0.lock();
        let count = counts.entry(key).or_insert(0);
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Counted { counts: self.clone(), key })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.counts.0.lock();
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

/// Serves one connection until it ends or the gateway stops.
pub(crate) async fn serve(
    gate: Arc<Gate>,
    acceptor: TlsAcceptor,
    tcp: TcpStream,
    per_machine: PerMachine,
    strangers: Strangers,
    mut stopping: watch::Receiver<bool>,
) {
    if let Err(error) = tcp.set_nodelay(true) {
        tracing::debug!(%error, "a connection ended before it began");
        return;
    }
    let tls = match tokio::time::timeout(gate.limits.handshake_timeout, acceptor.accept(tcp)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => {
            metrics::counter!("cs_handshakes_failed_total").increment(1);
            tracing::info!(%error, "a handshake failed");
            return;
        }
        Err(_) => return,
    };
    let connection = Arc::new(Connection::of(&tls));
    let limits = gate.limits.clone();
    let (key, places, header_timeout) = match &connection.peer {
        Ok(peer) => (Some(peer.thumbprint()), limits.connections_per_machine, limits.idle_timeout),
        Err(_) => (None, limits.anonymous_connections, limits.header_timeout),
    };
    // Each connection of a stranger is good for one answer (see `walk`), so this also counts requests.
    if key.is_none() && !strangers.admit(gate.now(), limits.anonymous_per_sec) {
        metrics::counter!("cs_strangers_dropped_total").increment(1);
        return;
    }
    let Some(_counted) = per_machine.enter(key, places) else {
        tracing::warn!(machine = key.is_some(), "too many connections of one kind");
        return;
    };
    let service = service_fn(move |request| {
        let (gate, connection) = (gate.clone(), connection.clone());
        async move { Ok::<_, Infallible>(walk(&gate, &connection, request).await) }
    });
    let mut served = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(header_timeout)
            .max_headers(limits.header_lines)
            .max_buf_size(limits.header_bytes.max(8192))
            .half_close(false)
            .serve_connection(TokioIo::new(tls), service)
    );
    let ended = tokio::select! {
        ended = served.as_mut() => Some(ended),
        () = stopped(&mut stopping) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke off");
    }
}

/// Ready when the gateway stops, or nobody is left who could stop it.
pub(crate) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _either = stopping.wait_for(|stopping| *stopping).await;
}

impl Connection {
    fn of(tls: &TlsStream<TcpStream>) -> Self {
        let session = tls.get_ref().1;
        let peer = match session.peer_certificates().and_then(|chain| chain.first()) {
            Some(leaf) => PeerCertificate::from_der(leaf).map_err(|error| error.to_string()),
            None => Err("the connection showed no machine certificate".to_owned()),
        };
        Self { peer, exporter: tls::exporter(session), channel: OnceLock::new() }
    }
}
