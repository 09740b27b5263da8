//! Start and stop of the control plane: keys, CA, listeners, background jobs. No endpoint's rules.

use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use countersign_audit::Kind;
use countersign_log::Log;
use countersign_proto::id::TrustDomain;
use countersign_proto::jose::PublicJwk;
use countersign_proto::time::{Clock, Entropy, Timestamp};
use countersign_store::Store;
use countersign_trust::Roots;
use countersign_trust::issue::Issuer;
use serde_json::json;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::activations::Sessions;
use crate::config::{Listen, ServerConfig};
use crate::control::{Manifests, ServerControl, expire_approvals};
use crate::keys::{KeyError, SecretBytes, ServerKeys};
use crate::listen::{ConnectionLimits, Stopping, serve_loopback, serve_tls, serve_unix, stopped};
use crate::nonce::NonceMint;
use crate::plane::{Plane, Settings, Trouble};
use crate::strangers::Strangers;
use crate::tls::{CurrentCertificate, TlsError};
use crate::{acme, admin, alarm, attest, console, oauth, people, snapshot};

/// Life of a CA certificate, in seconds: ten years.
const ROOT_LIFETIME_SECS: i64 = 3650 * 86_400;
/// Longest the stop waits for requests in flight.
const DRAIN: Duration = Duration::from_secs(10);
/// How often spent names past their time are forgotten.
const COLLECT_EVERY: Duration = Duration::from_secs(60);

/// Why the control plane did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A value of the configuration cannot be used.
    #[error("configuration: {0}")]
    Config(&'static str),
    /// The keys are not usable.
    #[error("keys")]
    Keys(#[from] KeyError),
    /// The CA could not be set up.
    #[error("certificate authority: {0}")]
    Ca(String),
    /// TLS could not be set up.
    #[error("tls")]
    Tls(#[from] TlsError),
    /// A listener could not be opened.
    #[error("listener {0}")]
    Listen(String, #[source] std::io::Error),
    /// Store or log are not usable.
    #[error("storage")]
    Trouble(#[from] Trouble),
}

/// The control plane, not yet running.
#[derive(Debug)]
pub struct Server;

/// The control plane, running. Dropping it stops everything at once; [`RunningServer::shutdown`] drains first.
pub struct RunningServer {
    /// Where machines and agents connect.
    pub addr: SocketAddr,
    /// Where people's browsers connect (loopback).
    pub console_addr: SocketAddr,
    /// Where the optional status listener is.
    pub status_addr: Option<SocketAddr>,
    /// The admin API's socket.
    pub admin_socket: PathBuf,
    /// What gateways of this process use.
    pub control: Arc<ServerControl>,
    stop: watch::Sender<bool>,
    jobs: JoinSet<()>,
}

/// A certificate chain and its key, for a TLS listener.
#[derive(Debug)]
pub struct TlsIdentity {
    /// DER, leaf first, without the root.
    pub chain: Vec<Vec<u8>>,
    /// PKCS#8 of a P-256 key.
    pub key: SecretBytes,
}

impl Server {
    /// Starts the control plane on a current tokio runtime.
    ///
    /// # Errors
    /// See [`StartError`]; nothing keeps running then.
    pub async fn start(
        config: ServerConfig,
        store: Store,
        log: Log,
        clock: Arc<dyn Clock>,
        rng: Arc<dyn Entropy>,
    ) -> Result<RunningServer, StartError> {
        check_issuer(&config.issuer)?;
        if !(1..=300).contains(&config.lifetimes.access_token_secs) {
            return Err(StartError::Config("an access token lives 1 to 300 seconds"));
        }
        let now = clock.now();
        let keys = ServerKeys::open(&config.data_dir, rng.as_ref())?;
        let ca = authority(
            &config,
            &keys.ca,
            "countersign machine CA",
            Some(&config.trust_domain),
            "ca.der",
            now,
            rng.as_ref(),
        )?;
        let attestation_ca = authority(
            &config,
            &keys.attestation_ca,
            "countersign attestation CA",
            None,
            "attestation-ca.der",
            now,
            rng.as_ref(),
        )?;

        let listener = bind(config.listen).await?;
        let console_listener = bind(config.console_listen).await?;
        let status_listener = match config.status_listen {
            Some(address) => Some(bind(Listen::Address(address)).await?),
            None => None,
        };
        let local = |listener: &TcpListener| {
            listener.local_addr().map_err(|error| StartError::Listen("local address".into(), error))
        };
        let addr = local(&listener)?;
        let console_addr = local(&console_listener)?;
        let status_addr = status_listener.as_ref().map(local).transpose()?;
        if !console_addr.ip().is_loopback() || status_addr.is_some_and(|addr| !addr.ip().is_loopback()) {
            return Err(StartError::Config("console and status listen on loopback only"));
        }
        let admin_listener = bind_unix(&config.admin_socket)?;
        let console_url = format!("http://localhost:{}", console_addr.port());

        let limits = config.limits;
        let plane = Arc::new(Plane {
            nonces: NonceMint::new(&keys.nonce_secret),
            ak_roots: roots([attestation_ca.certificate_der()])?,
            keys,
            ca,
            attestation_ca,
            endorsement_roots: roots(config.ek_roots.iter().map(Vec::as_slice))?,
            endorsement_listed: config.ek_allow_list.into_iter().collect(),
            activations: Sessions::new(limits.activations),
            store,
            log,
            clock,
            rng,
            snapshots: watch::Sender::new(None),
            changes: Arc::default(),
            strangers: Strangers::default(),
            manifests: Manifests::default(),
            publishing: tokio::sync::Mutex::default(),
            metrics: config.metrics,
            approvals_changed: Notify::new(),
            settings: Settings {
                issuer: config.issuer,
                trust_domain: config.trust_domain,
                console_url: console_url.clone(),
                upstreams: config.upstreams,
                lifetimes: config.lifetimes,
                limits,
            },
        });
        let members = json!({
            "role": "server", "issuer": plane.settings.issuer, "token_key": plane.keys.token.kid(),
            "approval_key": plane.keys.approval.kid(), "snapshot_key": plane.keys.snapshot.kid(),
        });
        plane.record(Kind::Start, members).await?;
        plane.publish_first().await?;

        let names = config.server_names;
        let identity = plane.tls_identity(&names)?;
        let certificate = CurrentCertificate::new(identity.chain, identity.key.expose())?;
        let tls = crate::tls::server_config(
            Arc::clone(&certificate),
            plane.ca.certificate_der(),
            Arc::clone(&plane.clock),
        )?;

        let (stop, stopping) = watch::channel(false);
        let connections = ConnectionLimits {
            connections: limits.connections,
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(30),
            request: Duration::from_millis(limits.request_millis),
            drain: DRAIN,
        };
        let mut jobs = JoinSet::new();
        let public = Router::new()
            .merge(acme::router(Arc::clone(&plane)))
            .merge(attest::router(Arc::clone(&plane)))
            .merge(oauth::router(Arc::clone(&plane)));
        jobs.spawn(serve_tls(listener, TlsAcceptor::from(tls), public, connections, stopping.clone()));
        let console_config = console::ConsoleConfig::new(
            console_addr.port(),
            Arc::clone(&plane.clock),
            Arc::clone(&plane.rng),
        );
        let console = console::router(Arc::new(people::People::new(Arc::clone(&plane))), console_config);
        jobs.spawn(serve_loopback(console_listener, console, connections, stopping.clone()));
        let admin = admin::router(Arc::clone(&plane));
        jobs.spawn(serve_unix(admin_listener, admin, connections, stopping.clone()));
        if let Some(listener) = status_listener {
            let status = admin::status_router(Arc::clone(&plane));
            jobs.spawn(serve_loopback(listener, status, connections, stopping.clone()));
        }
        jobs.spawn(snapshot::keep_leasing(Arc::clone(&plane), stopping.clone()));
        jobs.spawn(alarm::watch_log(Arc::clone(&plane), stopping.clone()));
        jobs.spawn(renew_certificate(Arc::clone(&plane), certificate, names, stopping.clone()));
        jobs.spawn(collect(Arc::clone(&plane), stopping));
        Ok(RunningServer {
            addr,
            console_addr,
            status_addr,
            admin_socket: config.admin_socket,
            control: Arc::new(ServerControl { plane }),
            stop,
            jobs,
        })
    }
}

impl RunningServer {
    /// Stops accepting, lets requests in flight end (at most ten seconds), removes the admin socket.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        while self.jobs.join_next().await.is_some() {}
        if let Err(error) = std::fs::remove_file(&self.admin_socket) {
            tracing::debug!(%error, "admin socket not removed");
        }
    }
}

impl std::fmt::Debug for RunningServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RunningServer({})", self.addr)
    }
}

impl ServerControl {
    /// The machine CA certificate, DER: the root gateways accept machine certificates under, and clients our TLS.
    #[must_use]
    pub fn machine_root(&self) -> &[u8] {
        self.plane.ca.certificate_der()
    }

    /// The key snapshots are signed with.
    #[must_use]
    pub fn snapshot_key(&self) -> PublicJwk {
        self.plane.keys.snapshot.signer().public_jwk()
    }

    /// A TLS certificate under our CA for a gateway of this process. The key is made here and kept by nobody else.
    ///
    /// # Errors
    /// When a name is not a DNS name or an address.
    pub fn tls_identity(&self, names: &[String]) -> Result<TlsIdentity, StartError> {
        self.plane.tls_identity(names)
    }
}

fn roots<'a>(roots: impl IntoIterator<Item = &'a [u8]>) -> Result<Roots, StartError> {
    Roots::from_der(roots).map_err(|_| StartError::Config("a root is not a certificate"))
}

fn check_issuer(issuer: &str) -> Result<(), StartError> {
    let origin =
        issuer.strip_prefix("https://").ok_or(StartError::Config("the issuer is an https origin"))?;
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-:[]".contains(&byte);
    if origin.is_empty() || !origin.bytes().all(plain) {
        return Err(StartError::Config("the issuer is an https origin in lower case, without a path"));
    }
    Ok(())
}

/// The CA whose key and certificate are in the data directory; the certificate is made once and kept.
fn authority(
    config: &ServerConfig,
    key: &SecretBytes,
    name: &str,
    trust_domain: Option<&TrustDomain>,
    file: &str,
    now: Timestamp,
    rng: &dyn Entropy,
) -> Result<Issuer, StartError> {
    let path = config.data_dir.join(file);
    let failed = |what: &dyn std::fmt::Display| StartError::Ca(format!("{name}: {what}"));
    match std::fs::read(&path) {
        Ok(certificate) => Issuer::from_der(&certificate, key.expose()).map_err(|error| failed(&error)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let issuer =
                Issuer::self_signed_root(name, trust_domain, key.expose(), now, ROOT_LIFETIME_SECS, rng)
                    .map_err(|error| failed(&error))?;
            let partial = path.with_extension("new");
            std::fs::write(&partial, issuer.certificate_der())
                .and_then(|()| std::fs::File::open(&partial)?.sync_all())
                .and_then(|()| std::fs::rename(&partial, &path))
                .and_then(|()| std::fs::File::open(&config.data_dir)?.sync_all())
                .map_err(|error| failed(&error))?;
            Ok(issuer)
        }
        Err(error) => Err(failed(&error)),
    }
}

async fn bind(listen: Listen) -> Result<TcpListener, StartError> {
    match listen {
        Listen::Address(address) => {
            TcpListener::bind(address).await.map_err(|error| StartError::Listen(address.to_string(), error))
        }
        Listen::Bound(listener) => {
            adopt(listener).map_err(|error| StartError::Listen("bound socket".into(), error))
        }
    }
}

fn adopt(listener: StdTcpListener) -> std::io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Binds the admin socket with mode 0600. A socket left behind by a crash is replaced, a live one is not.
fn bind_unix(path: &Path) -> Result<UnixListener, StartError> {
    let failed = |error| StartError::Listen(path.display().to_string(), error);
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(failed(std::io::ErrorKind::AddrInUse.into()));
            }
            std::fs::remove_file(path).map_err(failed)?;
        }
        Ok(_) => return Err(failed(std::io::ErrorKind::AlreadyExists.into())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    // Between bind and chmod the mode is the umask's; the peer's uid is checked on every connection besides.
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Replaces our TLS certificate at two thirds of its life.
async fn renew_certificate(
    plane: Arc<Plane>,
    certificate: Arc<CurrentCertificate>,
    names: Vec<String>,
    mut stopping: Stopping,
) {
    let life = u64::try_from(plane.settings.lifetimes.server_certificate_secs).unwrap_or(60).max(60);
    let mut ticks = tokio::time::interval(Duration::from_secs(life * 2 / 3));
    ticks.tick().await;
    loop {
        tokio::select! {
            () = stopped(&mut stopping) => return,
            _ = ticks.tick() => {}
        }
        let renewed = plane.tls_identity(&names).map_err(|error| error.to_string()).and_then(|identity| {
            certificate.replace(identity.chain, identity.key.expose()).map_err(|error| error.to_string())
        });
        if let Err(error) = renewed {
            tracing::error!(error, "tls certificate not renewed");
        }
    }
}

/// Forgets spent names whose time is over, closes approvals nobody answered, sums up what strangers were refused.
async fn collect(plane: Arc<Plane>, mut stopping: Stopping) {
    let mut ticks = tokio::time::interval(COLLECT_EVERY);
    loop {
        tokio::select! {
            () = stopped(&mut stopping) => return plane.sum_up_refusals().await,
            _ = ticks.tick() => {}
        }
        plane.sum_up_refusals().await;
        if let Err(error) = plane.store.collect(plane.now()).await {
            tracing::warn!(%error, "spent names not collected");
        }
        if let Err(error) = expire_approvals(&plane).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "approvals not expired");
        }
    }
}
