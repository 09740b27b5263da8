//! A control plane and a gateway for tests: real TLS, real proofs checked with the product's own verifiers, and a script of
//! how the gateway feels about each call. It knows no policy.

pub mod authority;

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use bytes::Bytes;
use countersign_proto::attestation_client::{
    Attestation, AttestationExpectation, MachineClaim, prove_attestation, verify_attestation, verify_pop,
};
use countersign_proto::b64;
use countersign_proto::channel;
use countersign_proto::digest::Sha256Digest;
use countersign_proto::dpop::{self, DpopExpectation};
use countersign_proto::id::{AgentId, MachineId, SpiffeId};
use countersign_proto::jose::{JwsSigner as _, KeySet, PublicJwk, SoftwareP256, Thumbprint};
use countersign_proto::oauth::Form;
use countersign_proto::time::{Clock, Entropy, Timestamp};
use countersign_proto::tpm::{TpmsAttest, TpmtPublic, TpmtSignature, verify_signature};
use futures_util::stream;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::session::SessionConfig;
use crate::state::{AccountSecret, EnrolledMachine, StateDir};
use crate::swtpm::SimulatedTpm;
use crate::tpm::{Tpm, TpmLocation};

/// A clock that moves when told to.
pub struct ManualClock(AtomicI64);

impl ManualClock {
    pub fn advance(&self, secs: i64) {
        self.0.fetch_add(secs * 1000, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_millis(self.0.load(Ordering::SeqCst))
    }
}

/// The operating system's randomness.
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, out: &mut [u8]) {
        aws_lc_rs::rand::fill(out).unwrap();
    }
}

/// How the gateway answers one call that proves itself.
#[derive(Clone, Debug)]
pub enum Mood {
    /// 200 with this JSON.
    Result(Value),
    /// 200, `text/event-stream`, these chunks one after the other.
    Stream(Vec<&'static str>),
    /// 401 with this error, and `DPoP-Nonce` if given.
    Challenge(&'static str, Option<&'static str>),
    /// 403: a person is asked under this name.
    Approval(&'static str),
    /// 403: no.
    Denied,
    /// This status with this body.
    Unwell(u16, &'static str),
    /// The connection is closed without an answer.
    Close,
    /// Nothing, for ever.
    Silence,
}

/// A call as the gateway saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: Method,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// `channel`, `dpop` or what was wrong.
    pub proof: String,
    /// Which TLS connection it came over.
    pub connection: u64,
    /// Whether a machine certificate was shown.
    pub machine: bool,
    /// The digest of the one that was.
    pub certificate: Option<Sha256Digest>,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// What both sides know.
pub struct Shared {
    pub script: Mutex<VecDeque<Mood>>,
    pub seen: Mutex<Vec<Seen>>,
    /// Whether the gateway takes one proof per connection.
    pub takes_channel: std::sync::atomic::AtomicBool,
    /// What the token endpoint corrects first: (error, header, value).
    pub corrections: Mutex<VecDeque<(&'static str, &'static str, &'static str)>>,
    pub clock: ManualClock,
    /// The attestation CA and the ACME server, which appraise with the product's own code.
    pub authority: Mutex<authority::AttestationAuthority>,
    pub attestations: AtomicU64,
    pub tokens: AtomicU64,
    connections: AtomicU64,
    origin: Mutex<String>,
    ak_public: Mutex<Vec<u8>>,
    nonces: Mutex<Vec<Vec<u8>>>,
    challenges: Mutex<Vec<String>>,
    attester: SoftwareP256,
    machine_key: Mutex<Option<PublicJwk>>,
}

impl Shared {
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub fn calls(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }

    fn origin(&self) -> String {
        self.origin.lock().clone()
    }
}

/// The clock that the session under test shares with the fake.
pub struct SharedClock(pub Arc<Shared>);

impl Clock for SharedClock {
    fn now(&self) -> Timestamp {
        self.0.now()
    }
}

/// An enrolled machine and the world around it.
pub struct World {
    pub shared: Arc<Shared>,
    pub tpm: Tpm,
    pub simulated: SimulatedTpm,
    pub dir: tempfile::TempDir,
    ca_pem: String,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    serving: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(serving) = self.serving.lock().take() {
            serving.abort();
        }
    }
}

impl World {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let simulated = SimulatedTpm::manufacture(&dir.path().join("tpm")).unwrap();
        let tpm = Tpm::open(TpmLocation::Socket(simulated.socket())).unwrap();
        let shared = Arc::new(Shared {
            script: Mutex::default(),
            seen: Mutex::default(),
            takes_channel: true.into(),
            corrections: Mutex::default(),
            clock: ManualClock(AtomicI64::new(1_900_000_000_000)),
            authority: Mutex::new(authority::AttestationAuthority::new(&simulated)),
            attestations: AtomicU64::new(0),
            tokens: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            origin: Mutex::default(),
            ak_public: Mutex::new(tpm.prove_attestation_key(&[]).unwrap().public),
            nonces: Mutex::default(),
            challenges: Mutex::default(),
            attester: SoftwareP256::generate().unwrap(),
            machine_key: Mutex::default(),
        });
        let authority = authority();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        *shared.origin.lock() = format!("https://{address}");
        let machine_key = enrolled_machine(&dir.path().join("state"), &tpm, &authority.1, &shared.origin());
        *shared.machine_key.lock() = Some(machine_key);
        let acceptor = acceptor(&authority, &shared);
        let serving = tokio::spawn(serve(listener, acceptor.clone(), Arc::clone(&shared)));
        let (ca_pem, serving) = (authority.0.pem(), Mutex::new(Some(serving)));
        Self { shared, tpm, simulated, dir, ca_pem, address, acceptor, serving }
    }

    /// Control plane and gateway stop, and everything that was connected to them breaks off.
    pub async fn go_away(&self) {
        let serving = self.serving.lock().take().unwrap();
        serving.abort();
        serving.await.unwrap_err();
    }

    /// They are back, on the same port.
    pub async fn come_back(&self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        let serving = tokio::spawn(serve(listener, self.acceptor.clone(), Arc::clone(&self.shared)));
        *self.serving.lock() = Some(serving);
    }

    pub fn config(&self) -> SessionConfig {
        SessionConfig {
            gateway: self.shared.origin(),
            agent: AgentId::parse("bot").unwrap(),
            task: None,
            ca_pem: self.ca_pem.clone().into_bytes(),
            state: StateDir::open(&self.dir.path().join("state")).unwrap(),
            tpm: self.tpm.clone(),
        }
    }

    /// A folder of its own for an enrollment.
    pub fn enroll_config(&self, token: &str) -> crate::enroll::EnrollConfig {
        crate::enroll::EnrollConfig {
            server: self.shared.origin(),
            ca_pem: self.ca_pem.clone().into_bytes(),
            state: StateDir::open(&self.dir.path().join("enrolled")).unwrap(),
            tpm: self.tpm.clone(),
            token: crate::enroll::EnrollmentToken::new(token),
        }
    }

    /// A session of a machine that went through enrollment, whose certificate can be renewed.
    pub async fn enrolled_session(&self) -> Arc<crate::session::Session> {
        let enrollment = self.enroll_config(authority::TOKEN);
        crate::enroll::enroll(&enrollment).await.unwrap();
        let machine = enrollment.state.machine().unwrap();
        let key = crate::enroll::machine_key(&self.tpm, &machine).await.unwrap();
        *self.shared.machine_key.lock() = Some(key.public_jwk());
        self.session_again().await
    }

    /// A later session of the machine that was enrolled.
    pub async fn session_again(&self) -> Arc<crate::session::Session> {
        let state = StateDir::open(&self.dir.path().join("enrolled")).unwrap();
        let clock = Arc::new(SharedClock(Arc::clone(&self.shared)));
        let config = SessionConfig { state, ..self.config() };
        crate::session::Session::open(config, clock, Arc::new(SystemEntropy)).await.unwrap()
    }

    pub async fn session(&self) -> Arc<crate::session::Session> {
        let clock = Arc::new(SharedClock(Arc::clone(&self.shared)));
        crate::session::Session::open(self.config(), clock, Arc::new(SystemEntropy)).await.unwrap()
    }
}

type Authority = (rcgen::Certificate, Issuer<'static, KeyPair>);

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap(), Issuer::new(params, key))
}

fn enrolled_machine(path: &Path, tpm: &Tpm, issuer: &Issuer<'static, KeyPair>, server: &str) -> PublicJwk {
    let key = tpm.machine_key(tpm.create_machine_key().unwrap()).unwrap();
    let mut params = CertificateParams::default();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, issuer).unwrap();
    let state = StateDir::open(path).unwrap();
    state
        .save_machine(&EnrolledMachine {
            version: 1,
            server: server.to_owned(),
            machine_id: "m-1".to_owned(),
            permanent_identifier: "m-1".to_owned(),
            machine_key: key.blob().clone(),
            ak_certificates: Vec::new(),
            account_key: AccountSecret::new(String::new()),
            account_url: None,
            pending_binding: None,
        })
        .unwrap();
    state.save_certificate(certificate.pem().as_bytes()).unwrap();
    key.public_jwk()
}

/// The clock of the fake, as TLS wants it: certificates run out when the test says so.
impl rustls::time_provider::TimeProvider for SharedClock {
    fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
        let secs = u64::try_from(self.0.now().unix_secs()).ok()?;
        Some(rustls::pki_types::UnixTime::since_unix_epoch(std::time::Duration::from_secs(secs)))
    }
}

impl std::fmt::Debug for SharedClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedClock")
    }
}

fn acceptor((root, issuer): &Authority, shared: &Arc<Shared>) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, issuer).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(root.der().to_vec())).unwrap();
    roots.add(CertificateDer::from(shared.authority.lock().certificate())).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .unwrap();
    let clock = Arc::new(SharedClock(Arc::clone(shared)));
    let mut config = rustls::ServerConfig::builder_with_details(provider, clock)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
        connections.spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let tls = stream.get_ref().1;
            let connection = Arc::new(Accepted {
                number: shared.connections.fetch_add(1, Ordering::SeqCst),
                certificate: tls.peer_certificates().map(|chain| Sha256Digest::of(&chain[0])),
                exporter: tls.export_keying_material([0; 32], channel::EXPORTER_LABEL, None).unwrap(),
                proven: Mutex::default(),
            });
            let handle =
                service_fn(move |request| handle(Arc::clone(&shared), Arc::clone(&connection), request));
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), handle)
                .await;
        });
    }
}

struct Accepted {
    number: u64,
    certificate: Option<Sha256Digest>,
    exporter: [u8; 32],
    proven: Mutex<Option<Thumbprint>>,
}

pub type Reply = Response<BoxBody<Bytes, std::io::Error>>;

pub fn reply(status: u16, body: &Value) -> Reply {
    let body = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {}).boxed();
    Response::builder().status(status).header("content-type", "application/json").body(body).unwrap()
}

async fn handle(
    shared: Arc<Shared>,
    connection: Arc<Accepted>,
    request: Request<Incoming>,
) -> std::io::Result<Reply> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let path = head.uri.path().to_owned();
    if !path.starts_with("/mcp/") {
        return Ok(control_plane(&shared, &connection, &path, &head.headers, &body));
    }
    let proof = agent_proof(&shared, &connection, &head.method, &path, &head.headers);
    let seen = Seen {
        method: head.method,
        path,
        headers: head.headers,
        body,
        proof: proof.clone().unwrap_or_else(|wrong| wrong),
        connection: connection.number,
        machine: connection.certificate.is_some(),
        certificate: connection.certificate,
    };
    shared.seen.lock().push(seen.clone());
    if proof.is_err() {
        return Ok(challenge("invalid_dpop_proof", None));
    }
    let mood = shared.script.lock().pop_front();
    match mood.unwrap_or_else(|| Mood::Result(json!({"jsonrpc": "2.0", "id": 1, "result": {}}))) {
        Mood::Result(value) => {
            let mut reply = reply(200, &value);
            for (name, value) in [("mcp-session-id", "s-1"), ("set-cookie", "a=b"), ("server", "secret/1.0")]
            {
                reply.headers_mut().insert(name, value.parse().unwrap());
            }
            Ok(reply)
        }
        Mood::Stream(chunks) => {
            let frames = chunks.into_iter().map(|chunk| Ok(Frame::data(Bytes::from(chunk))));
            let body = StreamBody::new(stream::iter(frames)).boxed();
            Ok(Response::builder().header("content-type", "text/event-stream").body(body).unwrap())
        }
        Mood::Challenge(error, nonce) => Ok(challenge(error, nonce)),
        Mood::Approval(id) => Ok(reply(
            403,
            &json!({"jsonrpc": "2.0", "id": 1, "error": {"code": -32001, "message": "approval required", "data": {
                "code": "approval.required", "decision": "dec_1",
                "approval": {"id": id, "url": format!("http://localhost:1/approvals/{id}"), "expires_at": 1}}}}),
        )),
        Mood::Denied => Ok(reply(
            403,
            &json!({"jsonrpc": "2.0", "id": 1, "error": {"code": -32003, "message": "denied", "data": {
                "code": "policy.denied", "reason": "policy does not permit this call", "decision": "dec_1"}}}),
        )),
        Mood::Unwell(status, text) => {
            let mut reply = reply(status, &Value::Null);
            *reply.body_mut() = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed();
            Ok(reply)
        }
        Mood::Close => Err(std::io::Error::other("closed on purpose")),
        Mood::Silence => std::future::pending().await,
    }
}

fn challenge(error: &str, nonce: Option<&str>) -> Reply {
    let mut reply = reply(
        401,
        &json!({"jsonrpc": "2.0", "id": 1, "error": {"code": -32003, "message": "challenge", "data": {"code": "pop.invalid"}}}),
    );
    let header = format!("DPoP algs=\"ES256 EdDSA\", error=\"{error}\", error_description=\"because, well\"");
    reply.headers_mut().insert("www-authenticate", header.parse().unwrap());
    if let Some(nonce) = nonce {
        reply.headers_mut().insert("dpop-nonce", nonce.parse().unwrap());
    }
    reply
}

/// Checks token and proof as the gateway does.
fn agent_proof(
    shared: &Shared,
    connection: &Accepted,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> Result<String, String> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap());
    let token = text("authorization").and_then(|value| value.strip_prefix("DPoP ")).ok_or("no token")?;
    let bound_to = token.split('.').next_back().unwrap();
    let thumbprint = match (text("dpop"), text("countersign-channel")) {
        (Some(proof), None) => {
            let url = format!("{}{path}", shared.origin());
            let expectation = DpopExpectation {
                method: method.as_str(),
                url: &url,
                now: shared.now(),
                max_age_secs: 60,
                max_skew_secs: 5,
                access_token: Some(token),
                nonce: None,
            };
            let proof = dpop::verify(proof, &expectation).map_err(|error| error.to_string())?;
            (*proof.thumbprint(), "dpop")
        }
        (None, Some(proof)) if shared.takes_channel.load(Ordering::SeqCst) => {
            let proof = channel::verify(proof, &connection.exporter, &shared.origin(), shared.now())
                .map_err(|error| error.to_string())?;
            *connection.proven.lock() = Some(*proof.thumbprint());
            (*proof.thumbprint(), "channel")
        }
        (None, Some(_)) => return Err("channel not taken".to_owned()),
        (None, None) => (connection.proven.lock().ok_or("no proof")?, "channel"),
        (Some(_), Some(_)) => return Err("two proofs".to_owned()),
    };
    if thumbprint.0.to_string() == bound_to {
        Ok(thumbprint.1.to_owned())
    } else {
        Err("other key".to_owned())
    }
}

fn control_plane(
    shared: &Shared,
    connection: &Accepted,
    path: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Reply {
    let origin = shared.origin();
    match path {
        "/.well-known/oauth-authorization-server" => reply(
            200,
            &json!({"issuer": origin, "token_endpoint": format!("{origin}/oauth/token"),
                "challenge_endpoint": format!("{origin}/oauth/challenge")}),
        ),
        "/attest/v1/nonce" => {
            let mut nonce = vec![0; 32];
            SystemEntropy.fill(&mut nonce);
            shared.nonces.lock().push(nonce.clone());
            reply(200, &json!({"nonce": b64::url_encode(&nonce), "expires_in": 60}))
        }
        "/attest/v1/client-attestation" if connection.certificate.is_some() => {
            client_attestation(shared, body)
        }
        path if path.starts_with("/attest/v1/ak") || path.starts_with("/acme/") => {
            shared.authority.lock().answer(&origin, path, body, shared.now())
        }
        "/oauth/challenge" => {
            let challenge = format!("challenge-{}", shared.challenges.lock().len());
            shared.challenges.lock().push(challenge.clone());
            reply(200, &json!({"attestation_challenge": challenge}))
        }
        "/oauth/token" if connection.certificate.is_some() => {
            if let Some((error, header, value)) = shared.corrections.lock().pop_front() {
                let mut reply = reply(400, &json!({"error": error}));
                reply.headers_mut().insert(header, value.parse().unwrap());
                return reply;
            }
            token(shared, headers, body)
        }
        _ => reply(404, &json!({"error": "not_found"})),
    }
}

/// A statement if the quote is over one of our nonces and by the known attestation key.
fn client_attestation(shared: &Shared, body: &[u8]) -> Reply {
    let body: Value = serde_json::from_slice(body).unwrap();
    let bytes = |name: &str| b64::url_decode(body[name].as_str().unwrap()).unwrap();
    let quote = TpmsAttest::parse(&bytes("quote")).unwrap();
    let public = TpmtPublic::parse(&shared.ak_public.lock()).unwrap();
    verify_signature(&public, &bytes("quote"), &TpmtSignature::parse(&bytes("signature")).unwrap()).unwrap();
    let mut nonces = shared.nonces.lock();
    let Some(position) = nonces.iter().position(|nonce| *nonce == quote.extra_data) else {
        return reply(400, &json!({"error": "use_fresh_nonce"}));
    };
    nonces.remove(position);
    let serial = shared.attestations.fetch_add(1, Ordering::SeqCst) + 1;
    let now = shared.now();
    let claim = MachineClaim {
        id: MachineId::parse("m-1").unwrap(),
        sub: SpiffeId::parse("spiffe://td/machine/m-1").unwrap(),
        lvl: 3,
        att_time: now.unix_secs(),
        att_exp: now.unix_secs() + 300,
        reference: format!("statement {serial}"),
        ev: Sha256Digest::of(b"evidence"),
    };
    let machine_key = shared.machine_key.lock().clone().unwrap();
    let attestation = Attestation {
        issuer: &shared.origin(),
        client: &AgentId::from_client_id(body["client_id"].as_str().unwrap()).unwrap(),
        machine_key: &machine_key,
        machine: &claim,
        now,
        expires_at: now.plus_secs(300),
    };
    let jwt = prove_attestation(&shared.attester, "k", &attestation).unwrap();
    reply(200, &json!({"client_attestation": jwt, "att_exp": now.unix_secs() + 300}))
}

/// A token bound to A, if attestation, M's possession and A's proof hold.
fn token(shared: &Shared, headers: &HeaderMap, body: &[u8]) -> Reply {
    let text = |name: &str| headers.get(name).unwrap().to_str().unwrap();
    let form = Form::parse(body).unwrap();
    let origin = shared.origin();
    let keys = KeySet::from_keys(vec![("k".to_owned(), shared.attester.public_jwk())]).unwrap();
    let expectation =
        AttestationExpectation { attester: &origin, keys: &keys, now: shared.now(), max_age_secs: 300 };
    let attestation = verify_attestation(text("oauth-client-attestation"), &expectation).unwrap();
    let statement = attestation.machine().reference.clone();
    let client =
        verify_pop(text("oauth-client-attestation-pop"), attestation, &origin, shared.now()).unwrap();
    let mut challenges = shared.challenges.lock();
    let Some(position) = challenges.iter().position(|challenge| challenge == client.challenge()) else {
        return reply(400, &json!({"error": "use_attestation_challenge"}));
    };
    challenges[position] = String::new();
    let url = format!("{origin}/oauth/token");
    let proof = DpopExpectation {
        method: "POST",
        url: &url,
        now: shared.now(),
        max_age_secs: 60,
        max_skew_secs: 5,
        access_token: None,
        nonce: None,
    };
    let proof = dpop::verify(text("dpop"), &proof).unwrap();
    assert_eq!(form.get("grant_type"), Some("client_credentials"));
    assert!(form.get("resource").unwrap().starts_with(&format!("{origin}/mcp/")));
    let number = shared.tokens.fetch_add(1, Ordering::SeqCst) + 1;
    let token = format!("token-{number}.{}.{}", b64::url_encode(statement.as_bytes()), proof.thumbprint());
    reply(200, &json!({"access_token": token, "token_type": "DPoP", "expires_in": 300}))
}

/// The number of the token and of the statement in a header that carried one.
pub fn token_parts(authorization: &str) -> (String, String) {
    let mut parts = authorization.strip_prefix("DPoP ").unwrap().split('.');
    let number = parts.next().unwrap().to_owned();
    let statement = b64::url_decode(parts.next().unwrap()).unwrap();
    (number, String::from_utf8(statement).unwrap())
}

/// A plain HTTP client of the proxy, as an agent is one.
pub async fn ask(address: SocketAddr, request: Request<Full<Bytes>>) -> Response<Bytes> {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let driver = tokio::spawn(driver);
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    driver.abort();
    assert_ne!(head.status, StatusCode::UNAUTHORIZED, "the agent is never asked to authenticate");
    Response::from_parts(head, body)
}
