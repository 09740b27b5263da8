//! What a gateway is told at start: already parsed values, every limit with a name.
//!
//! Files, flags and defaults of the command line are the wiring's business.

use std::fmt;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use countersign_proto::id::UpstreamId;
use countersign_proto::jose::PublicJwk;
use http::{HeaderName, HeaderValue, Uri};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;
use zeroize::Zeroizing;

/// Everything a gateway needs to start.
pub struct GatewayConfig {
    /// The bound listener. Bound by the caller, so that the caller decides what is exposed.
    pub listener: TcpListener,
    /// `https://host[:port]`, as callers see it: `Host` must name it, proofs must be made for it.
    pub public_origin: Origin,
    /// The control plane's issuer name, in tokens and snapshots.
    pub issuer: String,
    /// The tool servers behind this gateway.
    pub upstreams: Vec<UpstreamConfig>,
    /// Our own certificate and key. A value sent later is used for every handshake from then on: certificates are
    /// short-lived, and whoever issues them renews them here.
    pub server_identity: watch::Receiver<Arc<ServerIdentity>>,
    /// Roots that machine certificates chain to until a snapshot names others.
    pub machine_roots: Vec<CertificateDer<'static>>,
    /// The key that signs snapshots and their leases.
    pub snapshot_key: PublicJwk,
    /// Where the folded call budgets are kept between starts.
    pub state_dir: PathBuf,
    /// Sizes, counts and times.
    pub limits: GatewayLimits,
}

/// What the gateway shows to callers.
pub struct ServerIdentity {
    /// Our own certificate chain, leaf first.
    pub certificates: Vec<CertificateDer<'static>>,
    /// The key of the leaf.
    pub key: PrivateKeyDer<'static>,
}

/// One tool server.
pub struct UpstreamConfig {
    /// Its name in URLs, policy and records.
    pub id: UpstreamId,
    /// Its one URL, `http` or `https`.
    pub url: Uri,
    /// The credential the gateway presents to it.
    pub credential: Option<Credential>,
    /// A PEM file of roots for its certificate; the system's roots if absent.
    pub ca_file: Option<PathBuf>,
}

/// An upstream credential: one header line that only the upstream ever sees.
pub struct Credential {
    name: HeaderName,
    value: Zeroizing<Vec<u8>>,
}

impl Credential {
    /// A credential sent as the header `name` with `value`.
    ///
    /// # Errors
    /// [`ConfigError`] if either is not valid in HTTP, or the header is one the gateway writes itself.
    pub fn header(name: &str, value: Zeroizing<String>) -> Result<Self, ConfigError> {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| ConfigError::Credential)?;
        let ours = ["host", "content-length", "content-type", "transfer-encoding", "connection", "accept"];
        if ours.contains(&name.as_str()) || name.as_str().starts_with("mcp-") {
            return Err(ConfigError::Credential);
        }
        HeaderValue::from_bytes(value.as_bytes()).map_err(|_| ConfigError::Credential)?;
        Ok(Self { name, value: Zeroizing::new(value.as_bytes().to_vec()) })
    }

    /// The header line, marked as sensitive so that nothing prints it.
    pub(crate) fn line(&self) -> Option<(HeaderName, HeaderValue)> {
        let mut value = HeaderValue::from_bytes(&self.value).ok()?;
        value.set_sensitive(true);
        Some((self.name.clone(), value))
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({})", self.name)
    }
}

/// `https://host[:port]` and nothing after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    text: String,
}

impl Origin {
    /// Parses an `https` origin in its one spelling: lower case, no path, no default port.
    ///
    /// # Errors
    /// [`ConfigError::Origin`] for anything else.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let authority = text.strip_prefix("https://").ok_or(ConfigError::Origin)?;
        let parsed: http::uri::Authority = authority.parse().map_err(|_| ConfigError::Origin)?;
        let canonical = parsed.as_str() == authority
            && !authority.contains('@')
            && !authority.bytes().any(|byte| byte.is_ascii_uppercase())
            && parsed.port_u16() != Some(443)
            && !parsed.host().is_empty();
        if canonical { Ok(Self { text: text.to_owned() }) } else { Err(ConfigError::Origin) }
    }

    /// The origin as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// `host[:port]`, what `Host` must say.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.text.strip_prefix("https://").unwrap_or(&self.text)
    }

    /// The public URL of an upstream's MCP endpoint.
    #[must_use]
    pub fn mcp_url(&self, upstream: &UpstreamId) -> String {
        format!("{}/mcp/{upstream}", self.text)
    }

    /// The URL of an upstream's protected-resource metadata (RFC 9728 §3.1).
    #[must_use]
    pub fn metadata_url(&self, upstream: &UpstreamId) -> String {
        format!("{}/.well-known/oauth-protected-resource/mcp/{upstream}", self.text)
    }
}

/// Bounds on what callers and upstreams may use. The defaults are the safe choice.
#[derive(Clone, Debug)]
pub struct GatewayLimits {
    /// Connections at a time; more wait in the accept queue.
    pub connections: usize,
    /// Connections at a time from one machine key.
    pub connections_per_machine: usize,
    /// Connections at a time that show no machine certificate; they get little more than a refusal.
    pub anonymous_connections: usize,
    /// Requests per second without a machine certificate that are answered and recorded; beyond that their
    /// connections end unread, so that strangers cannot fill the log.
    pub anonymous_per_sec: u32,
    /// Bytes of a request body.
    pub body_bytes: usize,
    /// Bytes of an upstream answer that the gateway itself must read (`tools/list`, `initialize`).
    pub listing_bytes: usize,
    /// Header lines of a request.
    pub header_lines: usize,
    /// Bytes of a request's head.
    pub header_bytes: usize,
    /// Time for the TLS handshake.
    pub handshake_timeout: Duration,
    /// Time for a request's head on a connection without a machine certificate, from the end of the request
    /// before.
    pub header_timeout: Duration,
    /// The same on a machine's connection: what it costs to connect again is a signature of its key.
    pub idle_timeout: Duration,
    /// Time for a request's body.
    pub body_timeout: Duration,
    /// Time to connect to an upstream.
    pub connect_timeout: Duration,
    /// Time until an upstream's answer begins. Tools may be slow.
    pub answer_timeout: Duration,
    /// Time for one listing of an upstream's tools, all pages together.
    pub listing_timeout: Duration,
    /// Age at which an access-proof is too old, in seconds.
    pub proof_max_age_secs: i64,
    /// How far a caller's clock may be ahead, in seconds.
    pub clock_skew_secs: i64,
    /// Proof ids remembered at a time, over all agents.
    pub remembered_proofs: usize,
    /// Verified tokens kept at a time.
    pub cached_tokens: usize,
    /// Legacy sessions at a time.
    pub sessions: usize,
    /// Idle time after which a legacy session is forgotten, in seconds.
    pub session_idle_secs: i64,
    /// Tasks whose calls are counted at a time.
    pub counted_tasks: usize,
    /// Idle connections kept to one upstream.
    pub idle_upstream_connections: usize,
    /// How often an upstream's tools are listed again.
    pub relist_interval: Duration,
}

impl Default for GatewayLimits {
    fn default() -> Self {
        Self {
            connections: 4096,
            connections_per_machine: 256,
            anonymous_connections: 128,
            anonymous_per_sec: 50,
            body_bytes: 1 << 20,
            listing_bytes: 8 << 20,
            header_lines: 64,
            header_bytes: 32 << 10,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(300),
            body_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            answer_timeout: Duration::from_secs(300),
            listing_timeout: Duration::from_secs(30),
            proof_max_age_secs: 60,
            clock_skew_secs: 5,
            remembered_proofs: 1 << 22,
            cached_tokens: 10_000,
            sessions: 10_000,
            session_idle_secs: 1800,
            counted_tasks: 1 << 20,
            idle_upstream_connections: 64,
            relist_interval: Duration::from_secs(30),
        }
    }
}

/// What makes a configuration unusable.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The public origin is not `https://host[:port]` in its one spelling.
    #[error("the public origin is not https://host[:port] in lower case without a path")]
    Origin,
    /// An upstream URL is not `http(s)://host[:port]/path`.
    #[error("upstream {0}: the url is not http or https with a host")]
    UpstreamUrl(UpstreamId),
    /// Two upstreams share a name.
    #[error("upstream {0} is named twice")]
    UpstreamTwice(UpstreamId),
    /// A credential is not a header line of its own.
    #[error("a credential is not a valid header, or one the gateway writes itself")]
    Credential,
    /// A file with roots cannot be used.
    #[error("upstream {upstream}: no usable certificate in the ca file")]
    CaFile {
        /// Whose file it is.
        upstream: UpstreamId,
        /// What reading it said.
        #[source]
        source: Option<std::io::Error>,
    },
    /// Our certificate, key or roots do not make a TLS server.
    #[error("the certificate, its key or the machine roots cannot be used")]
    Tls(#[source] rustls::Error),
    /// The machine roots cannot verify anything.
    #[error("the machine roots cannot be used")]
    MachineRoots,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_has_one_spelling() {
        for good in
            ["https://gw.example", "https://localhost:8443", "https://127.0.0.1:1", "https://[::1]:8443"]
        {
            assert!(Origin::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "http://gw.example",
            "https://gw.example/",
            "https://GW.example",
            "https://gw.example:443",
            "https://a@gw.example",
            "https://",
            "gw.example",
        ] {
            assert!(Origin::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_credential_does_not_print_and_cannot_be_one_of_our_own_headers() {
        let secret = Zeroizing::new("Bearer hunter2".to_owned());
        let credential = Credential::header("authorization", secret.clone()).unwrap();
        assert_eq!(format!("{credential:?}"), "Credential(authorization)");
        assert!(!format!("{:?}", credential.line().unwrap()).contains("hunter2"));
        for name in ["Host", "content-length", "mcp-session-id", "two words", ""] {
            assert!(Credential::header(name, secret.clone()).is_err(), "{name}");
        }
        assert!(Credential::header("x-key", Zeroizing::new("a\r\nb: c".to_owned())).is_err());
    }
}
