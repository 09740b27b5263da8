//! What the control plane is told at start-up: every value already parsed.
//!
//! Reading files, flags and environment is the wiring's job; nothing here has a fallback that weakens a check.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use countersign_proto::digest::Sha256Digest;
use countersign_proto::id::TrustDomain;

/// Where a listener comes from.
#[derive(Debug)]
pub enum Listen {
    /// Bind this address; port 0 lets the system choose.
    Address(SocketAddr),
    /// Already bound, so that the issuer URL could be formed from its port.
    Bound(TcpListener),
}

/// The control plane's configuration.
#[derive(Debug)]
pub struct ServerConfig {
    /// Holds the keys (0600, created on first start). The directory is made 0700.
    pub data_dir: PathBuf,
    /// Our public origin, `https://host[:port]` without a trailing slash: RFC 8414 `issuer` and the base of every URL we print.
    pub issuer: String,
    /// The SPIFFE trust domain machines and runs are named in.
    pub trust_domain: TrustDomain,
    /// The TLS listener for machines and agents.
    pub listen: Listen,
    /// The loopback listener for people's browsers.
    pub console_listen: Listen,
    /// The admin API's Unix socket (0600, same uid or root only).
    pub admin_socket: PathBuf,
    /// Optional loopback listener that serves `/healthz`, `/readyz` and `/metrics` only.
    pub status_listen: Option<SocketAddr>,
    /// DNS names and IP addresses for our own TLS certificate.
    pub server_names: Vec<String>,
    /// Endorsement (EK) roots, DER; empty means no TPM is endorsed by certificate.
    pub ek_roots: Vec<Vec<u8>>,
    /// Digests of endorsement keys (SHA-256 of the `SubjectPublicKeyInfo`) admitted without a certificate.
    pub ek_allow_list: Vec<Sha256Digest>,
    /// Resource URL (token `aud`) of each upstream the gateway fronts.
    pub upstreams: Vec<UpstreamConfig>,
    /// Renders `/metrics`; the wiring installs the recorder.
    pub metrics: Option<metrics_exporter_prometheus::PrometheusHandle>,
    /// How long things live.
    pub lifetimes: Lifetimes,
    /// How much one may ask for.
    pub limits: Limits,
}

/// One upstream as the control plane knows it.
#[derive(Clone, Debug)]
pub struct UpstreamConfig {
    /// Its name in URLs and policy.
    pub id: countersign_proto::id::UpstreamId,
    /// Its public URL at the gateway, exactly as tokens name it in `aud`.
    pub resource: String,
    /// Whether a tool definition never seen before is pinned at once. A changed one always waits for an administrator.
    pub first_sight: bool,
}

/// Lifetimes, all in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Lifetimes {
    /// Machine certificate.
    pub machine_certificate_secs: i64,
    /// Attestation key certificate.
    pub ak_certificate_secs: i64,
    /// Our own TLS certificate; renewed in memory at two thirds.
    pub server_certificate_secs: i64,
    /// Client attestation (and so the freshness of a quote).
    pub client_attestation_secs: i64,
    /// Access token, at most 300 (DESIGN §4).
    pub access_token_secs: i64,
    /// ACME nonce.
    pub acme_nonce_secs: i64,
    /// Quote nonce and OAuth attestation challenge.
    pub challenge_secs: i64,
    /// Enrollment token, unless the administrator asks for less.
    pub enrollment_token_secs: i64,
    /// Invite link for a person's first passkey.
    pub invite_secs: i64,
    /// A pending approval.
    pub approval_secs: i64,
    /// A person's console session.
    pub session_secs: i64,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self {
            machine_certificate_secs: 3600,
            // Renewal of the AK certificate is a new activation; a revoked machine is refused whatever its certificates say.
            ak_certificate_secs: 365 * 86_400,
            server_certificate_secs: 86_400,
            client_attestation_secs: 300,
            access_token_secs: 300,
            acme_nonce_secs: 300,
            challenge_secs: 60,
            enrollment_token_secs: 3600,
            invite_secs: 86_400,
            approval_secs: 300,
            session_secs: 8 * 3600,
        }
    }
}

/// Limits, each with a name.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest request body.
    pub body_bytes: usize,
    /// Time for one request, from its head to its answer (long polls add their own wait).
    pub request_millis: u64,
    /// How often gateways get a new lease on the snapshot. Well below the ten seconds a lease lasts.
    pub renew_lease_millis: u64,
    /// No lease while the store takes longer than this for a write: then nobody could be killed.
    pub store_patience_millis: u64,
    /// Connections at once, per listener.
    pub connections: usize,
    /// Pending approvals per agent (approval fatigue).
    pub pending_approvals_per_agent: usize,
    /// How long a redeem call may wait for an answer.
    pub long_poll_millis: u64,
    /// Credential activations in flight.
    pub activations: usize,
    /// Orders an account may have open at once.
    pub open_orders_per_account: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 256 * 1024,
            request_millis: 30_000,
            renew_lease_millis: 3000,
            store_patience_millis: 3000,
            connections: 4096,
            pending_approvals_per_agent: 20,
            long_poll_millis: 25_000,
            activations: 1024,
            open_orders_per_account: 20,
        }
    }
}
