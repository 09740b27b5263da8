//! One world per test: a control plane, a machine with its certificate, an agent with its key and token, a tool
//! server, a log, and a gateway between them.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use bytes::Bytes;
use countersign_audit::{LogKey, Origin as LogOrigin};
use countersign_gateway::{
    Credential, Gateway, GatewayConfig, GatewayLimits, Origin, RunningGateway, ServerIdentity, ToolManifest,
    UpstreamConfig,
};
use countersign_log::{Log, LogLimits};
use countersign_proto::digest::Sha256Digest;
use countersign_proto::dpop;
use countersign_proto::id::{AgentId, MachineId, PersonId, SpiffeId, TaskId, TrustDomain, UpstreamId};
use countersign_proto::jose::{
    JwsSigner, KeySet, PublicJwk, SoftwareEd25519, SoftwareP256, Thumbprint, sign_compact,
};
use countersign_proto::json::{self, Limits, Object, Value};
use countersign_proto::snapshot::{
    AgentEntry, AgentState, MachineEntry, MachineState, PolicyBundle, SignedSnapshot, SnapshotBody,
    ToolEntry, ToolState, UpstreamEntry,
};
use countersign_proto::time::{Clock, Entropy, Timestamp};
use countersign_proto::token::{ACCESS_TOKEN_TYP, AccessTokenClaims};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::control::FakeControl;
use crate::disk::FailingDisk;
use crate::upstream::ToolServer;

pub const START: i64 = 1_800_000_000;
pub const ISSUER: &str = "https://cs.test";
pub const ORIGIN: &str = "https://gw.test:8443";
pub const RESOURCE: &str = "https://gw.test:8443/mcp/github";
const LEASE_MILLIS: i64 = 60_000;
const SECRET: &str = "Bearer upstream-secret";

const POLICIES: &str = r#"
@id("base") permit(principal in AgentGroup::"builders", action in Action::"call", resource in Upstream::"github");
@id("no-wipe") forbid(principal, action == Action::"github/wipe", resource);
@id("fresh") @requires("fresh_attestation") @max_age("60")
forbid(principal, action == Action::"github/deploy", resource) when { context.machine.attested_age > 60 };
@id("person") @requires("approval")
forbid(principal, action == Action::"github/pay", resource) when { context.person.level < 3 };
"#;

pub struct TestClock(AtomicI64);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_millis(self.0.load(Ordering::SeqCst))
    }
}

impl TestClock {
    pub fn advance_secs(&self, secs: i64) {
        self.0.fetch_add(secs * 1000, Ordering::SeqCst);
    }
}

struct SystemRandom;

impl Entropy for SystemRandom {
    fn fill(&self, out: &mut [u8]) {
        aws_lc_rs::rand::fill(out).unwrap();
    }
}

/// A machine: its key and its certificate.
pub struct Machine {
    pub certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    pub jkt: Thumbprint,
}

/// Machine certificates come from here.
pub struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pub root: CertificateDer<'static>,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        let key = rcgen::KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: rcgen::Issuer::new(params, key), root }
    }

    pub fn machine(&self, id: &str) -> Machine {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, id);
        let uri = format!("spiffe://td.test/machine/{id}");
        params.subject_alt_names = vec![rcgen::SanType::URI(uri.try_into().unwrap())];
        params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let key = rcgen::KeyPair::generate().unwrap();
        let point: &[u8; 65] = key.public_key_raw().try_into().unwrap();
        Machine {
            jkt: PublicJwk::from_p256_uncompressed(point).unwrap().thumbprint(),
            certificate: params.signed_by(&key, &self.issuer).unwrap().der().clone(),
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        }
    }
}

pub struct World {
    pub clock: Arc<TestClock>,
    pub control: Arc<FakeControl>,
    pub upstream: ToolServer,
    pub disk: FailingDisk,
    pub log: Log,
    pub gateway: Option<RunningGateway>,
    pub authority: Authority,
    pub ours: Machine,
    pub server_key: SoftwareP256,
    snapshot_key: SoftwareEd25519,
    pub agent_key: SoftwareEd25519,
    pub body: parking_lot::Mutex<SnapshotBody>,
    server_identity: watch::Sender<Arc<ServerIdentity>>,
    dir: tempfile::TempDir,
    proofs: AtomicUsize,
    proposed: tokio::sync::Mutex<mpsc::UnboundedReceiver<(UpstreamId, Vec<ToolManifest>)>>,
    pub limits: GatewayLimits,
    /// What the gateway stands before: names of the one tool server.
    upstreams: Vec<UpstreamId>,
}

pub fn limits() -> GatewayLimits {
    GatewayLimits {
        body_bytes: 64 << 10,
        // Listing again is asked for where a test is about it.
        relist_interval: std::time::Duration::from_secs(3600),
        ..GatewayLimits::default()
    }
}

fn domain() -> TrustDomain {
    TrustDomain::parse("td.test").unwrap()
}

pub fn agent() -> AgentId {
    AgentId::parse("build-bot").unwrap()
}

fn github() -> UpstreamId {
    UpstreamId::parse("github").unwrap()
}

fn machine_entry(id: &str, jkt: Thumbprint) -> (MachineId, MachineEntry) {
    let id = MachineId::parse(id).unwrap();
    let spiffe = SpiffeId::machine(&domain(), &id);
    (
        id,
        MachineEntry {
            spiffe,
            jkt,
            state: MachineState::Active,
            generation: 1,
            changed_at: Timestamp::from_unix_millis(0),
        },
    )
}

fn jwks(kid: &str, key: &PublicJwk) -> Value {
    let set = KeySet::from_keys(vec![(kid.to_owned(), key.clone())]).unwrap();
    json::parse(set.to_jwks_json().as_ref(), &Limits::DEFAULT).unwrap()
}

impl World {
    /// A world whose tools are reviewed and whose gateway decides.
    pub async fn new() -> Self {
        Self::with(true, limits()).await
    }

    pub async fn with(modern: bool, limits: GatewayLimits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(TestClock(AtomicI64::new(START * 1000)));
        let disk = FailingDisk::new(&dir.path().join("log"));
        let log = open_log(&disk, clock.clone());
        let authority = Authority::new();
        let ours = authority.machine("m-1");
        let server_key = SoftwareP256::generate().unwrap();
        let keys = jwks("k1", &server_key.public_jwk());
        let agent_entry = AgentEntry {
            state: AgentState::Active,
            generation: 1,
            groups: vec!["builders".to_owned()],
            sponsor: PersonId::parse("ada").unwrap(),
        };
        let entry = UpstreamEntry { resource: RESOURCE.to_owned(), tools: BTreeMap::new() };
        let body = SnapshotBody {
            version: 1,
            issuer: ISSUER.to_owned(),
            trust_domain: domain(),
            token_keys: keys.clone(),
            approval_keys: keys,
            machine_roots: Vec::new(),
            machines: [machine_entry("m-1", ours.jkt)].into(),
            agents: [(agent(), agent_entry)].into(),
            revoked_runs: Default::default(),
            revoked_tasks: Default::default(),
            policies: policies(1, POLICIES),
            upstreams: [(github(), entry)].into(),
        };
        let (proposing, proposed) = mpsc::unbounded_channel();
        let mut world = Self {
            control: Arc::new(FakeControl::new(proposing)),
            upstream: ToolServer::start(modern).await,
            gateway: None,
            snapshot_key: SoftwareEd25519::generate().unwrap(),
            agent_key: SoftwareEd25519::generate().unwrap(),
            body: parking_lot::Mutex::new(body),
            server_identity: watch::Sender::new(server_identity()),
            proofs: AtomicUsize::new(0),
            proposed: tokio::sync::Mutex::new(proposed),
            clock,
            disk,
            log,
            authority,
            ours,
            server_key,
            dir,
            limits,
            upstreams: vec![github()],
        };
        world.start().await;
        let tools = world.next_proposal().await;
        world.pin(&tools);
        world.publish(|_| {}).await;
        world
    }

    /// Starts the gateway; proofs are accepted from a moment later on.
    pub async fn start(&mut self) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let upstream = |id: &UpstreamId| UpstreamConfig {
            id: id.clone(),
            url: format!("http://{}/mcp", self.upstream.address).parse().unwrap(),
            credential: Some(Credential::header("authorization", SECRET.to_owned().into()).unwrap()),
            ca_file: None,
        };
        let config = GatewayConfig {
            listener,
            public_origin: Origin::parse(ORIGIN).unwrap(),
            issuer: ISSUER.to_owned(),
            upstreams: self.upstreams.iter().map(upstream).collect(),
            server_identity: self.server_identity.subscribe(),
            machine_roots: vec![self.authority.root.clone()],
            snapshot_key: self.snapshot_key.public_jwk(),
            state_dir: self.dir.path().to_owned(),
            limits: self.limits.clone(),
        };
        let (signed, version) = {
            let body = self.body.lock();
            (self.seal(&body, self.clock.now()), body.version)
        };
        self.control.snapshots.send_replace(Some(signed));
        let gateway = Gateway::start(
            config,
            self.control.clone(),
            self.log.clone(),
            self.clock.clone(),
            Arc::new(SystemRandom),
        )
        .await
        .unwrap();
        gateway.until_snapshot(version).await;
        self.gateway = Some(gateway);
        self.clock.advance_secs(2);
    }

    /// Gives the gateway another certificate; from now on only that one is trusted.
    pub fn renew_certificate(&self) {
        self.server_identity.send_replace(server_identity());
    }

    /// Stops the gateway and starts another one on the same log.
    pub async fn restart(&mut self) {
        self.gateway.take().unwrap().shutdown().await;
        self.log.clone().shutdown().await.unwrap();
        self.log = open_log(&self.disk, self.clock.clone());
        self.start().await;
        // Proofs dated ahead may have been used before; from here on none made now was.
        self.clock.advance_secs(self.limits.clock_skew_secs);
    }

    /// Serves the tool server under a second name too: its tools are as reviewed, and builders may call them.
    pub async fn serve_also(&mut self, upstream: &str, resource: &str) {
        let id = UpstreamId::parse(upstream).unwrap();
        {
            let mut body = self.body.lock();
            let tools = body.upstreams[&github()].tools.clone();
            body.upstreams.insert(id.clone(), UpstreamEntry { resource: resource.to_owned(), tools });
            let permit = format!(
                r#"@id("{id}") permit(principal in AgentGroup::"builders", action in Action::"call", resource in Upstream::"{id}");"#
            );
            body.policies = policies(2, &format!("{POLICIES}{permit}"));
            body.version += 1;
        }
        self.upstreams.push(id);
        self.restart().await;
    }

    pub async fn next_proposal(&self) -> Vec<ToolManifest> {
        self.proposed.lock().await.recv().await.unwrap().1
    }

    /// Reviews these tools.
    pub fn pin(&self, tools: &[ToolManifest]) {
        let mut body = self.body.lock();
        let entry = body.upstreams.get_mut(&github()).unwrap();
        for tool in tools {
            let input_schema = tool.definition.as_object().unwrap().get("inputSchema").unwrap().clone();
            let pinned = ToolEntry { digest: tool.digest, state: ToolState::Pinned, input_schema };
            entry.tools.insert(tool.name.clone(), pinned);
        }
    }

    /// Publishes a new version and waits until it decides.
    pub async fn publish(&self, change: impl FnOnce(&mut SnapshotBody)) {
        let version = {
            let mut body = self.body.lock();
            body.version += 1;
            change(&mut body);
            let signed = self.seal(&body, self.clock.now());
            self.control.snapshots.send_replace(Some(signed));
            body.version
        };
        self.gateway().until_snapshot(version).await;
    }

    pub fn seal(&self, body: &SnapshotBody, now: Timestamp) -> SignedSnapshot {
        SignedSnapshot::seal(body, &self.snapshot_key, now, LEASE_MILLIS).unwrap()
    }

    pub fn gateway(&self) -> &RunningGateway {
        self.gateway.as_ref().unwrap()
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A token as the server would issue it, after `change`.
    pub fn token_with(&self, change: impl FnOnce(&mut AccessTokenClaims)) -> String {
        let mut claims = self.claims();
        change(&mut claims);
        self.sign(&claims, &self.server_key)
    }

    pub fn sign(&self, claims: &AccessTokenClaims, key: &dyn JwsSigner) -> String {
        let payload = json::from_serde(claims).unwrap().to_jcs();
        sign_compact(key, ACCESS_TOKEN_TYP, &[("kid", "k1".into())], &payload).unwrap()
    }

    pub fn claims(&self) -> AccessTokenClaims {
        let now = self.now().unix_secs();
        let text = format!(
            r#"{{"iss":"{ISSUER}","aud":"{RESOURCE}","client_id":"agent:build-bot","sub":"user:ada","sid":"run_1","txn":"task_1",
            "jti":"t1","iat":{now},"nbf":{now},"exp":{exp},"act":{{"sub":"spiffe://td.test/agent/build-bot/run/run_1"}},
            "cnf":{{"jkt":"{agent}"}},
            "urn:countersign:env":{{"sub":"spiffe://td.test/machine/m-1","jkt":"{machine}","lvl":3,"min_lvl":3,
              "att_time":{now},"att_exp":{exp},"ref":"pcr@1","ev":"{digest}"}},
            "acr":"urn:countersign:acr:e3u1","auth_time":0,"urn:countersign:gen":1,
            "authorization_details":[{{"type":"urn:countersign:task","task":"task_1","purpose":"build",
              "locations":["{RESOURCE}"],"max_calls":20,"tools":[{{"name":"read"}},{{"name":"deploy"}},{{"name":"pay"}},
              {{"name":"wipe"}},{{"name":"route"}},{{"name":"unheard"}}]}}]}}"#,
            exp = now + 300,
            agent = self.agent_key.public_jwk().thumbprint(),
            machine = self.ours.jkt,
            digest = Sha256Digest::of(b"evidence"),
        );
        json::typed(text.as_bytes(), &Limits::DEFAULT).unwrap()
    }

    /// A proof for this token, method and URL.
    pub fn proof(&self, token: &str, method: &str, url: &str) -> String {
        let jti = format!("proof-{}", self.proofs.fetch_add(1, Ordering::SeqCst));
        dpop::prove(&self.agent_key, method, url, Some(token), None, &jti, self.now()).unwrap()
    }

    /// A call of `tool` that is fine in every respect.
    pub fn call(&self, tool: &str, arguments: &str) -> Attempt {
        let token = self.token_with(|_| {});
        self.call_with(&token, tool, arguments)
    }

    pub fn call_with(&self, token: &str, tool: &str, arguments: &str) -> Attempt {
        self.message(
            token,
            &format!(
                r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{{META},"name":"{tool}","arguments":{arguments}}}}}"#
            ),
            "tools/call",
        )
        .header("mcp-name", tool)
    }

    pub fn message(&self, token: &str, body: &str, method: &str) -> Attempt {
        let mut attempt = self.legacy(token, body);
        attempt.headers.insert("mcp-protocol-version", "2026-07-28".parse().unwrap());
        attempt.headers.insert("mcp-method", method.parse().unwrap());
        attempt
    }

    /// A message of the older era.
    pub fn legacy(&self, token: &str, body: &str) -> Attempt {
        self.bare("POST", token).body(body).header("content-type", "application/json")
    }

    pub fn bare(&self, method: &'static str, token: &str) -> Attempt {
        let attempt =
            Attempt { method, path: "/mcp/github".to_owned(), headers: HeaderMap::new(), body: Bytes::new() };
        attempt
            .header("host", "gw.test:8443")
            .header("authorization", &format!("DPoP {token}"))
            .header("dpop", &self.proof(token, method, RESOURCE))
    }

    pub async fn tls(&self, machine: Option<&Machine>) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.server_identity.borrow().certificates[0].clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match machine {
            Some(machine) => config
                .with_client_auth_cert(vec![machine.certificate.clone()], machine.key.clone_key())
                .unwrap(),
            None => config.with_no_client_auth(),
        };
        let tcp = TcpStream::connect(self.gateway().local_addr()).await?;
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("gw.test").unwrap(), tcp).await
    }

    pub async fn connect(&self, machine: Option<&Machine>) -> Wire {
        let tls = self.tls(machine).await.unwrap();
        let exporter =
            tls.get_ref().1.export_keying_material([0_u8; 32], b"EXPORTER-Channel-Binding", None).unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(tls)).await.unwrap();
        tokio::spawn(connection);
        Wire { sender, exporter }
    }

    /// Sends on a fresh connection of our machine.
    pub async fn send(&self, attempt: Attempt) -> Reply {
        self.connect(Some(&self.ours)).await.send(attempt).await
    }

    pub fn calls(&self) -> usize {
        self.upstream.shared.calls.load(Ordering::SeqCst)
    }

    pub fn reached(&self) -> usize {
        self.upstream.shared.seen.lock().len()
    }

    /// Everything recorded from `index` on.
    pub async fn records_from(&self, index: u64) -> Vec<Object> {
        self.log.flush().await.unwrap();
        let entries = self.log.entries_from(index);
        entries.map(|entry| json::parse_object(&entry.unwrap().1, &Limits::DEFAULT).unwrap()).collect()
    }

    /// Sends it and asserts the whole story: `status code`, one record that says the same, nothing upstream.
    pub async fn check(&self, attempt: Attempt, expected: &str) {
        let mut wire = self.connect(Some(&self.ours)).await;
        self.check_on(&mut wire, attempt, expected).await;
    }

    pub async fn check_on(&self, wire: &mut Wire, attempt: Attempt, expected: &str) {
        let (before, reached) = (self.log.size(), self.reached());
        let reply = wire.send(attempt).await;
        let mut records = self.records_from(before).await;
        // What earlier calls came to, and alarms of the background, are told in between.
        records.retain(|record| !matches!(text(record, "kind"), "outcome" | "alarm"));
        let code =
            records.iter().find_map(|record| record.get("code")).and_then(Value::as_str).unwrap_or("-");
        assert_eq!(format!("{} {code}", reply.status.as_u16()), expected, "{}", reply.text());
        if expected == "200 -" {
            return;
        }
        assert_eq!(records.len(), 1, "one record for one refusal: {records:?}");
        assert_eq!(self.reached(), reached, "nothing reaches the upstream");
        let told = reply.data("code");
        assert!(
            told == code || told == "approval.required" || told == "insufficient_user_authentication",
            "{told}"
        );
        assert_eq!(reply.data("decision"), text(&records[0], "dec"), "the answer names its record");
    }

    /// One answer that was allowed: an intent before, an outcome after.
    pub async fn check_allowed(&self, attempt: Attempt) -> Reply {
        let (before, calls) = (self.log.size(), self.calls());
        let reply = self.send(attempt).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
        let kinds = self.kinds_from(before, 2).await;
        assert_eq!(kinds, ["intent", "outcome completed"]);
        assert_eq!(self.calls(), calls + 1);
        reply
    }

    /// The kinds of the next `count` records, outcomes with their ending.
    pub async fn kinds_from(&self, index: u64, count: usize) -> Vec<String> {
        // The outcome follows the last byte of the answer; it is queued without anyone waiting for it.
        while self.log.size() < index + count as u64 {
            tokio::task::yield_now().await;
        }
        let records = self.records_from(index).await;
        let kind = |record: &Object| match text(record, "outcome") {
            "" => text(record, "kind").to_owned(),
            ending => format!("outcome {ending}"),
        };
        records.iter().map(kind).collect()
    }
}

/// A certificate for `gw.test` that nobody else signed.
fn server_identity() -> Arc<ServerIdentity> {
    let tls = rcgen::generate_simple_self_signed(vec!["gw.test".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(tls.signing_key.serialize_der()));
    Arc::new(ServerIdentity { certificates: vec![tls.cert.der().clone()], key })
}

fn open_log(disk: &FailingDisk, clock: Arc<TestClock>) -> Log {
    let origin = LogOrigin::parse("log.test/gw").unwrap();
    let limits = LogLimits { publish_every: std::time::Duration::from_millis(20), ..LogLimits::default() };
    Log::open_on(Arc::new(disk.clone()), origin, LogKey::from_seed(&[7; 32]).unwrap(), limits, clock, None)
        .unwrap()
}

pub fn policies(revision: u64, cedar: &str) -> PolicyBundle {
    PolicyBundle { revision, cedar: cedar.to_owned(), digest: Sha256Digest::of(cedar.as_bytes()) }
}

pub fn task(name: &str) -> TaskId {
    TaskId::parse(name).unwrap()
}

pub fn text<'a>(object: &'a Object, name: &str) -> &'a str {
    object.get(name).and_then(Value::as_str).unwrap_or("")
}

pub const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;

/// A request about to be made.
#[derive(Clone)]
pub struct Attempt {
    pub method: &'static str,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Attempt {
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.insert(name, value.parse().unwrap());
        self
    }

    pub fn another(mut self, name: &'static str, value: &str) -> Self {
        self.headers.append(name, value.parse().unwrap());
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.headers.remove(name);
        self
    }

    pub fn body(mut self, body: &str) -> Self {
        self.body = Bytes::from(body.to_owned());
        self
    }

    pub fn method(mut self, method: &'static str) -> Self {
        self.method = method;
        self
    }

    pub fn path(mut self, path: &str) -> Self {
        self.path = path.to_owned();
        self
    }
}

/// One connection to the gateway.
pub struct Wire {
    pub sender: SendRequest<Full<Bytes>>,
    pub exporter: [u8; 32],
}

impl Wire {
    pub async fn open(&mut self, attempt: Attempt) -> Response<Incoming> {
        let mut request = Request::new(Full::new(attempt.body));
        *request.method_mut() = attempt.method.parse().unwrap();
        *request.uri_mut() = attempt.path.parse().unwrap();
        *request.headers_mut() = attempt.headers;
        self.sender.ready().await.unwrap();
        self.sender.send_request(request).await.unwrap()
    }

    pub async fn send(&mut self, attempt: Attempt) -> Reply {
        let (parts, body) = self.open(attempt).await.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Reply { status: parts.status, headers: parts.headers, body }
    }
}

/// An answer, read to its end.
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Object {
        json::parse_object(&self.body, &Limits::DEFAULT).unwrap()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn error(&self) -> Object {
        self.json().get("error").and_then(Value::as_object).cloned().unwrap_or_default()
    }

    /// A member of the JSON-RPC error's data.
    pub fn data(&self, name: &str) -> String {
        let data = self.error().get("data").and_then(Value::as_object).cloned().unwrap_or_default();
        text(&data, name).to_owned()
    }

    pub fn rpc_code(&self) -> i64 {
        self.error().get("code").and_then(Value::as_i64).unwrap_or(0)
    }
}

impl World {
    pub fn agent_key_thumbprint(&self) -> Thumbprint {
        self.agent_key.public_jwk().thumbprint()
    }
}
