//! A control plane on loopback with a clock that only moves when told, and a plain HTTPS client.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use countersign_audit::{LogKey, Origin};
use countersign_log::{Log, LogLimits};
use countersign_proto::id::{TrustDomain, UpstreamId};
use countersign_proto::time::{Clock, Entropy, Timestamp};
use countersign_server::{Lifetimes, Limits, Listen, RunningServer, Server, ServerConfig, UpstreamConfig};
use countersign_store::{SqliteBackend, Store};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub mod acme;
pub mod faulty;
pub mod people;
pub mod tpm;
pub mod world;

pub const ISSUER: &str = "https://localhost";
pub const RESOURCE: &str = "https://gw.test/mcp/files";

/// A clock that starts at the real time (TLS clients read theirs) and then moves only when told.
#[derive(Clone)]
pub struct TestClock(Arc<AtomicI64>);

impl TestClock {
    #[expect(clippy::disallowed_methods, reason = "the client side of TLS reads the real clock")]
    fn new() -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        Self(Arc::new(AtomicI64::new(i64::try_from(since.as_millis()).unwrap())))
    }
    pub fn advance_secs(&self, secs: i64) {
        self.0.fetch_add(secs * 1000, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_millis(self.0.load(Ordering::SeqCst))
    }
}

pub struct SystemRandom;
impl Entropy for SystemRandom {
    fn fill(&self, out: &mut [u8]) {
        aws_lc_rs::rand::fill(out).unwrap();
    }
}

pub struct Harness {
    pub server: RunningServer,
    pub clock: TestClock,
    pub log: Log,
    pub dir: tempfile::TempDir,
    pub faults: faulty::Faults,
}

/// An answer, whole.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not json: {self:?}"))
    }
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// A client certificate with its key.
#[derive(Clone)]
pub struct ClientIdentity {
    pub chain: Vec<Vec<u8>>,
    pub key_pkcs8: Vec<u8>,
}

impl Harness {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut ServerConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = TestClock::new();
        Self::open(dir, clock, change).await
    }

    async fn open(dir: tempfile::TempDir, clock: TestClock, change: impl FnOnce(&mut ServerConfig)) -> Self {
        let faults = faulty::Faults::default();
        let backend = SqliteBackend::open(&dir.path().join("store.db"), &[7; 32]).unwrap();
        let store = Store::new(Arc::new(faulty::Faulty::new(backend, faults.clone())));
        let log = Log::open(
            dir.path().join("log"),
            Origin::parse("log.test/server").unwrap(),
            LogKey::from_seed(&[9; 32]).unwrap(),
            LogLimits::default(),
            Arc::new(clock.clone()),
        )
        .unwrap();
        let loopback: SocketAddr = ([127, 0, 0, 1], 0).into();
        let mut config = ServerConfig {
            data_dir: dir.path().join("data"),
            issuer: ISSUER.into(),
            trust_domain: TrustDomain::parse("test.example").unwrap(),
            listen: Listen::Address(loopback),
            console_listen: Listen::Address(loopback),
            admin_socket: dir.path().join("admin.sock"),
            status_listen: Some(loopback),
            server_names: vec!["localhost".into()],
            ek_roots: Vec::new(),
            ek_allow_list: Vec::new(),
            upstreams: vec![UpstreamConfig {
                id: UpstreamId::parse("files").unwrap(),
                resource: RESOURCE.into(),
                first_sight: false,
            }],
            metrics: None,
            lifetimes: Lifetimes::default(),
            limits: Limits::default(),
        };
        change(&mut config);
        let server =
            Server::start(config, store, log.clone(), Arc::new(clock.clone()), Arc::new(SystemRandom))
                .await
                .unwrap();
        Self { server, clock, log, dir, faults }
    }

    /// Stops everything and starts it again over the same files.
    pub async fn restart(self) -> Self {
        let Self { server, clock, log, dir, faults: _ } = self;
        server.shutdown().await;
        log.shutdown().await.unwrap();
        Self::open(dir, clock, |_| {}).await
    }

    pub fn socket(&self) -> PathBuf {
        self.server.admin_socket.clone()
    }

    /// One admin call, from a thread of its own as the command line would.
    pub async fn admin<A: DeserializeOwned + Send + 'static>(
        &self,
        method: &'static str,
        path: &str,
        body: impl Serialize,
    ) -> Result<A, (u16, String)> {
        let (socket, path) = (self.socket(), path.to_owned());
        let body = serde_json::to_value(body).unwrap();
        let call = move || countersign_server::admin::client::call(&socket, method, &path, &body);
        tokio::task::spawn_blocking(call).await.unwrap().map_err(|error| match error {
            countersign_server::admin::client::ClientError::Refused { status, error } => {
                (status, error.error)
            }
            other => panic!("{other:?}"),
        })
    }

    /// One HTTPS request on a connection of its own.
    pub async fn https(
        &self,
        identity: Option<&ClientIdentity>,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from(self.server.control.machine_root().to_vec())).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match identity {
            None => config.with_no_client_auth(),
            Some(identity) => config
                .with_client_auth_cert(
                    identity.chain.iter().cloned().map(CertificateDer::from).collect(),
                    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key_pkcs8.clone())),
                )
                .unwrap(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let stream = tokio::net::TcpStream::connect(self.server.addr).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let mut request = hyper::Request::builder().method(method).uri(path).header("host", "localhost");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        drop(sender);
        drop(connection.await);
        Answer { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    pub async fn post_json(
        &self,
        identity: Option<&ClientIdentity>,
        path: &str,
        body: &serde_json::Value,
    ) -> Answer {
        let headers = [("content-type", "application/json")];
        self.https(identity, "POST", path, &headers, serde_json::to_vec(body).unwrap()).await
    }

    /// Every record of the log so far, in order.
    pub async fn records(&self) -> Vec<serde_json::Value> {
        self.log.flush().await.unwrap();
        self.log.entries_from(0).map(|entry| serde_json::from_slice(&entry.unwrap().1).unwrap()).collect()
    }

    /// Records of one kind.
    pub async fn records_of(&self, kind: &str) -> Vec<serde_json::Value> {
        self.records().await.into_iter().filter(|record| record["kind"] == kind).collect()
    }

    /// How many refusals with this code are recorded.
    pub async fn refusals(&self, code: &str) -> usize {
        self.records_of("denial").await.iter().filter(|record| record["code"] == code).count()
    }

    /// The newest snapshot's body.
    pub fn snapshot(&self) -> countersign_proto::snapshot::SnapshotBody {
        let signed = self.server.control.snapshots().borrow().clone().unwrap();
        let key = self.server.control.snapshot_key();
        countersign_proto::snapshot::open(&signed, &key, ISSUER, self.clock.now(), 0).unwrap()
    }
}
