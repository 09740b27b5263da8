//! `countersign dev` and `countersign serve`: control plane and gateway in one process, joined as they would be over
//! a network. The gateway still decides from signed snapshots alone.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use countersign_audit::note::{LogKey, Origin as LogOrigin};
use countersign_gateway::{
    Credential, Gateway, GatewayConfig, GatewayLimits, Origin, RunningGateway, ServerIdentity,
    UpstreamConfig as GatewayUpstream,
};
use countersign_log::storage::Disk;
use countersign_log::{Log, LogLimits};
use countersign_proto::id::{TrustDomain, UpstreamId};
use countersign_proto::time::{Clock, Entropy, Timestamp};
use countersign_server::config::{Lifetimes, Limits, Listen, ServerConfig, UpstreamConfig as ServerUpstream};
use countersign_server::control::ServerControl;
use countersign_server::{RunningServer, Server, StartError as ServerStartError};
use countersign_store::open_sqlite;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::ambient::{SystemClock, SystemEntropy};
use crate::cli::{Dev, Serve};
use crate::config::{Config, ToolReview, Upstream};
use crate::exit::{Code, Failure};
use crate::joint::Joint;
use crate::remembered::Remembered;
use crate::secret_file;

/// How often the age of the gateway's certificate is looked at.
const RENEWAL_CHECK: Duration = Duration::from_secs(60);

/// `countersign dev`: the embedded defaults.
pub async fn dev(command: &Dev, json: bool) -> Result<ExitCode, Failure> {
    let credentials = pairs("--credential", &command.credentials)?;
    let upstreams = pairs("--upstream", &command.upstreams)?
        .into_iter()
        .map(|(id, url)| Upstream {
            credential_file: credentials.get(&id).map(PathBuf::from),
            credential_header: "authorization".to_owned(),
            ca_file: None,
            tool_review: ToolReview::FirstSight,
            insecure_plain_http: false,
            id,
            url,
        })
        .collect();
    let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let config = Config {
        trust_domain: TrustDomain::parse("dev.countersign")
            .map_err(|error| Failure::new(Code::Failed, error))?,
        data_dir: command.dir.join("data"),
        server_listen: loopback(command.server_port),
        server_url: None,
        ek_roots: command.ek_roots.clone(),
        console_listen: loopback(command.console_port),
        gateway_listen: loopback(command.gateway_port),
        gateway_url: None,
        status_listen: Some(loopback(command.status_port)),
        upstreams,
    };
    run(&config, json).await
}

/// `countersign serve`: as the file says.
pub async fn serve(command: &Serve, json: bool) -> Result<ExitCode, Failure> {
    let config = Config::load(&command.config).map_err(|error| Failure::chain(Code::Usage, &error))?;
    run(&config, json).await
}

fn pairs(flag: &str, given: &[String]) -> Result<BTreeMap<UpstreamId, String>, Failure> {
    given
        .iter()
        .map(|pair| {
            let (id, value) = pair
                .split_once('=')
                .ok_or_else(|| Failure::new(Code::Usage, format!("{flag} {pair}: write it as ID=VALUE")))?;
            let id = UpstreamId::parse(id)
                .map_err(|error| Failure::new(Code::Usage, format!("{flag} {pair}: {error}")))?;
            Ok((id, value.to_owned()))
        })
        .collect()
}

/// Brings everything up, says so, and runs until SIGTERM or SIGINT.
async fn run(config: &Config, json: bool) -> Result<ExitCode, Failure> {
    for key in config.insecure() {
        tracing::warn!(key, "an insecure setting is in force");
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let rng: Arc<dyn Entropy> = Arc::new(SystemEntropy);
    let failed = |what: &str, error: &dyn std::error::Error| {
        let mut text = format!("{what}: {error}");
        let mut cause = error.source();
        while let Some(inner) = cause {
            text = format!("{text}: {inner}");
            cause = inner.source();
        }
        Failure::new(Code::Failed, text)
            .next("countersign doctor --config explains ports, disk, keys and roots")
    };
    let mut stop = [SignalKind::terminate(), SignalKind::interrupt()]
        .map(|kind| signal(kind).map_err(|error| failed("signals", &error)));

    private_folder(&config.data_dir).map_err(|error| failed("data folder", &error))?;
    let ports = Ports::bind(config)?;
    let metrics = PrometheusBuilder::new().install_recorder().map_err(|error| failed("metrics", &error))?;
    let upkeep = tokio::spawn(keep_metrics_small(metrics.clone()));
    let remembered = Remembered::new(&config.data_dir, &config.data_dir.join("log"));
    let log = open_log(config, &ports, &remembered, rng.as_ref(), Arc::clone(&clock))
        .map_err(|error| failed("audit log", &*error))?;
    let store = open_store(config, rng.as_ref()).map_err(|error| failed("store", &*error))?;

    let (server_url, gateway_url) = (ports.server_url.clone(), ports.gateway_url.clone());
    let console_url = ports.console_url.clone();
    let gateway_listener = ports.gateway;
    let server = Server::start(
        server_config(config, ports.server, ports.console, &server_url, &gateway_url, metrics)?,
        store,
        log.clone(),
        Arc::clone(&clock),
        Arc::clone(&rng),
    )
    .await
    .map_err(|error| failed("control plane", &error))?;
    let ca_file = config.data_dir.join("ca.pem");
    std::fs::write(&ca_file, pem(server.control.machine_root())).map_err(|error| failed("ca.pem", &error))?;

    let certificate_names = names(&gateway_url);
    let first = gateway_identity(&server.control, &certificate_names)
        .map_err(|error| failed("gateway certificate", &error))?;
    let (renewed, identity) = watch::channel(first);
    let gateway_config =
        gateway_config(config, gateway_listener, &server_url, &gateway_url, &server, identity)?;
    let renewing = tokio::spawn(renew_gateway_certificate(
        Arc::clone(&server.control),
        certificate_names,
        renewed,
        Arc::clone(&clock),
    ));
    let gateway = Gateway::start(
        gateway_config,
        Arc::new(Joint::new(Arc::clone(&server.control))),
        log.clone(),
        clock,
        rng,
    )
    .await
    .map_err(|error| failed("gateway", &error))?;

    let remembering = tokio::spawn(keep_remembering(remembered.clone()));
    // Ready means that a call would be decided: the gateway has verified a first snapshot.
    gateway.until_snapshot(1).await;
    let status_url = server.status_addr.map(|address| format!("http://{address}"));
    announce(
        config,
        json,
        &Urls { server: &server_url, gateway: &gateway_url, console: &console_url, status: status_url },
        &ca_file,
    );
    let [terminate, interrupt] = &mut stop;
    if let (Ok(terminate), Ok(interrupt)) = (terminate, interrupt) {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    }
    renewing.abort();
    remembering.abort();
    upkeep.abort();
    shut_down(gateway, server, log).await?;
    remembered.keep().map_err(|error| failed("remembered checkpoint", &error))?;
    Ok(ExitCode::SUCCESS)
}

/// Ends in the order in which requests travel, the log last: what the others still record gets in.
async fn shut_down(gateway: RunningGateway, server: RunningServer, log: Log) -> Result<(), Failure> {
    gateway.shutdown().await;
    server.shutdown().await;
    log.shutdown().await.map_err(|error| Failure::chain(Code::Audit, &error))
}

/// The listeners, bound first, so that URLs can be formed from their ports.
struct Ports {
    server: TcpListener,
    gateway: TcpListener,
    console: TcpListener,
    server_url: String,
    gateway_url: String,
    console_url: String,
}

impl Ports {
    fn bind(config: &Config) -> Result<Self, Failure> {
        let bind = |what: &str, address: SocketAddr| {
            TcpListener::bind(address)
                .and_then(|listener| listener.local_addr().map(|bound| (listener, bound.port())))
                .map_err(|error| {
                    Failure::new(Code::Failed, format!("{what} port {address}: {error}"))
                        .next("stop what listens there, or choose another port (0 takes a free one)")
                })
        };
        let (server, server_port) = bind("control plane", config.server_listen)?;
        let (gateway, gateway_port) = bind("gateway", config.gateway_listen)?;
        let (console, console_port) = bind("console", config.console_listen)?;
        let url = |given: &Option<String>, port: u16| {
            given.clone().unwrap_or_else(|| format!("https://localhost:{port}"))
        };
        Ok(Self {
            server_url: url(&config.server_url, server_port),
            gateway_url: url(&config.gateway_url, gateway_port),
            console_url: format!("http://localhost:{console_port}"),
            server,
            gateway,
            console,
        })
    }
}

fn private_folder(folder: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

type Boxed = Box<dyn std::error::Error + Send + Sync>;

fn open_log(
    config: &Config,
    ports: &Ports,
    remembered: &Remembered,
    rng: &dyn Entropy,
    clock: Arc<dyn Clock>,
) -> Result<Log, Boxed> {
    let folder = config.data_dir.join("log");
    private_folder(&folder)?;
    let seed = secret_file::load_or_create(&config.data_dir.join("log.key"), rng)?;
    let key = LogKey::from_seed(&seed)?;
    // The log's name never changes, whatever the ports are: it is made once and kept.
    let named = config.data_dir.join("log.origin");
    let name = match std::fs::read_to_string(&named) {
        Ok(name) => name,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let host = ports.server_url.trim_start_matches("https://");
            let name = format!("{host}/log/{}", config.trust_domain);
            std::fs::write(&named, &name)?;
            name
        }
        Err(error) => return Err(error.into()),
    };
    let origin = LogOrigin::parse(name.trim())?;
    let verifier = key.verifier(&origin);
    let before = remembered.load(&verifier)?;
    let storage = Arc::new(Disk::new(&folder)?);
    let log = Log::open_on(storage, origin, key, LogLimits::default(), clock, before.as_ref())?;
    // Only now: a start that is refused must not leave another log's key beside this one.
    std::fs::write(folder.join("key.pub"), format!("{verifier}\n"))?;
    Ok(log)
}

/// How often samples of histograms are folded together; without it they pile up until somebody scrapes.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);

async fn keep_metrics_small(metrics: PrometheusHandle) {
    let mut ticks = tokio::time::interval(METRICS_UPKEEP);
    loop {
        ticks.tick().await;
        metrics.run_upkeep();
    }
}

/// How often the newest checkpoint is remembered outside the log.
const REMEMBER_EVERY: Duration = Duration::from_secs(10);

/// Remembers the newest checkpoint now and then, until it is dropped.
async fn keep_remembering(remembered: Remembered) {
    let mut ticks = tokio::time::interval(REMEMBER_EVERY);
    loop {
        ticks.tick().await;
        let remembered = remembered.clone();
        let kept = tokio::task::spawn_blocking(move || remembered.keep()).await;
        if let Ok(Err(error)) = kept {
            tracing::warn!(%error, "the newest checkpoint could not be remembered");
        }
    }
}

fn open_store(config: &Config, rng: &dyn Entropy) -> Result<countersign_store::Store, Boxed> {
    let key = secret_file::load_or_create(&config.data_dir.join("store.key"), rng)?;
    Ok(open_sqlite(config.data_dir.join("store.db"), *key)?)
}

fn resource(gateway_url: &str, upstream: &UpstreamId) -> String {
    format!("{gateway_url}/mcp/{upstream}")
}

fn server_config(
    config: &Config,
    server: TcpListener,
    console: TcpListener,
    server_url: &str,
    gateway_url: &str,
    metrics: PrometheusHandle,
) -> Result<ServerConfig, Failure> {
    let ek_roots = super::pem_certificates(&config.ek_roots).map_err(|error| {
        Failure::new(Code::Usage, format!("endorsement roots: {}: {error}", config.ek_roots.display()))
            .next("name a folder with the TPM manufacturers' roots as PEM files")
    })?;
    Ok(ServerConfig {
        data_dir: config.data_dir.clone(),
        issuer: server_url.to_owned(),
        trust_domain: config.trust_domain.clone(),
        listen: Listen::Bound(server),
        console_listen: Listen::Bound(console),
        admin_socket: config.data_dir.join("admin.sock"),
        status_listen: config.status_listen,
        server_names: names(server_url),
        ek_roots,
        ek_allow_list: Vec::new(),
        upstreams: config
            .upstreams
            .iter()
            .map(|upstream| ServerUpstream {
                id: upstream.id.clone(),
                resource: resource(gateway_url, &upstream.id),
                first_sight: upstream.tool_review == ToolReview::FirstSight,
            })
            .collect(),
        metrics: Some(metrics),
        lifetimes: Lifetimes::default(),
        limits: Limits::default(),
    })
}

fn gateway_config(
    config: &Config,
    listener: TcpListener,
    server_url: &str,
    gateway_url: &str,
    server: &RunningServer,
    server_identity: watch::Receiver<Arc<ServerIdentity>>,
) -> Result<GatewayConfig, Failure> {
    let usage = |error: &dyn std::error::Error| Failure::chain(Code::Usage, error);
    let state_dir = config.data_dir.join("gateway");
    private_folder(&state_dir).map_err(|error| usage(&error))?;
    Ok(GatewayConfig {
        listener,
        public_origin: Origin::parse(gateway_url).map_err(|error| usage(&error))?,
        issuer: server_url.to_owned(),
        upstreams: config.upstreams.iter().map(upstream).collect::<Result<_, _>>()?,
        server_identity,
        machine_roots: vec![CertificateDer::from(server.control.machine_root().to_vec())],
        snapshot_key: server.control.snapshot_key(),
        state_dir,
        limits: GatewayLimits::default(),
    })
}

/// A new certificate and key for the gateway's listener.
fn gateway_identity(
    control: &ServerControl,
    names: &[String],
) -> Result<Arc<ServerIdentity>, ServerStartError> {
    let identity = control.tls_identity(names)?;
    Ok(Arc::new(ServerIdentity {
        certificates: identity.chain.into_iter().map(CertificateDer::from).collect(),
        key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key.expose().to_vec())),
    }))
}

/// Replaces the gateway's certificate when two thirds of its life are over. By the clock on the wall and not by a
/// timer, because a machine that slept wakes up with an old certificate.
async fn renew_gateway_certificate(
    control: Arc<ServerControl>,
    names: Vec<String>,
    renewed: watch::Sender<Arc<ServerIdentity>>,
    clock: Arc<dyn Clock>,
) {
    let mut issued_at = clock.now();
    let mut ticks = tokio::time::interval(RENEWAL_CHECK);
    loop {
        ticks.tick().await;
        if !is_renewal_due(issued_at, Lifetimes::default().server_certificate_secs, clock.now()) {
            continue;
        }
        match gateway_identity(&control, &names) {
            Ok(identity) => {
                renewed.send_replace(identity);
                issued_at = clock.now();
            }
            // The old one lasts for another third of its life; the next tick tries again.
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "gateway certificate not renewed")
            }
        }
    }
}

/// Also after the clock went back: what was issued in the future may not be valid yet.
const fn is_renewal_due(issued_at: Timestamp, life_secs: i64, now: Timestamp) -> bool {
    let age = now.secs_since(issued_at);
    age >= life_secs * 2 / 3 || age < 0
}

fn upstream(configured: &Upstream) -> Result<GatewayUpstream, Failure> {
    let invalid = |what: String| Failure::new(Code::Usage, format!("upstream {}: {what}", configured.id));
    let credential = configured
        .credential_file
        .as_ref()
        .map(|file| {
            let text = Zeroizing::new(
                std::fs::read_to_string(file)
                    .map_err(|error| invalid(format!("{}: {error}", file.display())))?,
            );
            let value = Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned());
            Credential::header(&configured.credential_header, value)
                .map_err(|error| invalid(error.to_string()))
        })
        .transpose()?;
    Ok(GatewayUpstream {
        id: configured.id.clone(),
        url: configured.url.parse().map_err(|error| invalid(format!("{}: {error}", configured.url)))?,
        credential,
        ca_file: configured.ca_file.clone(),
    })
}

/// The names for the TLS certificate of a public URL. On loopback both ways to write it work.
fn names(url: &str) -> Vec<String> {
    let authority = url.trim_start_matches("https://");
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        Some(_) | None => authority,
    };
    let mut names = vec![host.trim_matches(['[', ']']).to_owned()];
    if host == "localhost" {
        names.push("127.0.0.1".to_owned());
    }
    names
}

fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// Where everything is.
struct Urls<'a> {
    server: &'a str,
    gateway: &'a str,
    console: &'a str,
    status: Option<String>,
}

fn announce(config: &Config, json: bool, urls: &Urls<'_>, ca_file: &Path) {
    let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    let facts = json!({
        "ready": true,
        "server": urls.server,
        "gateway": urls.gateway,
        "console": urls.console,
        "status": urls.status,
        "admin": absolute(config.data_dir.join("admin.sock")),
        "ca": absolute(ca_file.to_owned()),
        "log": absolute(config.data_dir.join("log")),
    });
    crate::output::show(&facts, json);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_at_two_thirds_of_its_life_and_when_the_clock_went_back() {
        let issued = Timestamp::from_unix_secs(1_000_000);
        for (age, due) in [(0, false), (59_999, false), (60_000, true), (200_000, true), (-1, true)] {
            assert_eq!(is_renewal_due(issued, 90_000, issued.plus_secs(age)), due, "{age}");
        }
    }
}
