//! Configuration: as written (`RawConfig`, unknown keys are errors) becomes as meant (`Config`) in one step.
//!
//! Leaving something out gives the safe choice. Anything weaker is spelled `insecure_…` and announces itself.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use countersign_proto::id::{TrustDomain, UpstreamId};
use serde::Deserialize;

/// Why a configuration is not usable; says which key, what is wrong, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}; name an existing file with --config")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Somebody else could change the file.
    #[error("{path} can be written by others (mode {mode:o}); run: chmod go-w {path}")]
    WritableByOthers {
        /// The file.
        path: PathBuf,
        /// Its mode bits.
        mode: u32,
    },
    /// The file is not TOML of our shape.
    #[error("{path}: {message}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the parser says, with line and column.
        message: String,
    },
    /// A value has the right form and the wrong meaning.
    #[error("{key}: {problem}")]
    Invalid {
        /// The key.
        key: String,
        /// What is wrong and what to write instead.
        problem: String,
    },
}

/// The file, as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    trust_domain: String,
    data_dir: PathBuf,
    server: RawServer,
    #[serde(default)]
    console: RawConsole,
    gateway: RawGateway,
    status: Option<RawStatus>,
    #[serde(default, rename = "upstream")]
    upstreams: Vec<RawUpstream>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawServer {
    listen: SocketAddr,
    public_url: Option<String>,
    ek_roots: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConsole {
    #[serde(default = "default_console_listen")]
    listen: SocketAddr,
}

impl Default for RawConsole {
    fn default() -> Self {
        Self { listen: default_console_listen() }
    }
}

fn default_console_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7480))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGateway {
    listen: SocketAddr,
    public_url: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStatus {
    listen: SocketAddr,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawUpstream {
    id: String,
    url: String,
    credential_file: Option<PathBuf>,
    #[serde(default = "default_credential_header")]
    credential_header: String,
    ca_file: Option<PathBuf>,
    #[serde(default)]
    tool_review: ToolReview,
    #[serde(default)]
    insecure_plain_http: bool,
}

fn default_credential_header() -> String {
    "authorization".to_owned()
}

/// Who says that a tool definition is the one we mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToolReview {
    /// An administrator approves every definition before it can be called.
    #[default]
    Manual,
    /// The first definition seen is pinned; any later change waits for an administrator.
    FirstSight,
}

/// The configuration, as meant.
#[derive(Clone, Debug)]
pub struct Config {
    /// The SPIFFE trust domain of machines and agents.
    pub trust_domain: TrustDomain,
    /// Where keys, store and log live; mode 0700.
    pub data_dir: PathBuf,
    /// The control plane's listener.
    pub server_listen: SocketAddr,
    /// The control plane's public URL; by default `https://localhost:<port>`.
    pub server_url: Option<String>,
    /// A folder of PEM files: the manufacturers' roots that endorsement keys chain to.
    pub ek_roots: PathBuf,
    /// The listener of the pages for people; loopback only.
    pub console_listen: SocketAddr,
    /// The gateway's listener.
    pub gateway_listen: SocketAddr,
    /// The gateway's public URL; by default `https://localhost:<port>`.
    pub gateway_url: Option<String>,
    /// Where `/healthz`, `/readyz` and `/metrics` are answered besides the admin socket; loopback only.
    pub status_listen: Option<SocketAddr>,
    /// The tool servers behind the gateway.
    pub upstreams: Vec<Upstream>,
}

/// One tool server behind the gateway.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Its name in URLs, policies and records.
    pub id: UpstreamId,
    /// Where its MCP endpoint is.
    pub url: String,
    /// The header that carries its credential.
    pub credential_header: String,
    /// The file that holds the credential; read at start, never shown.
    pub credential_file: Option<PathBuf>,
    /// The roots its certificate has to chain to; the system's roots if absent.
    pub ca_file: Option<PathBuf>,
    /// Who approves its tools.
    pub tool_review: ToolReview,
    /// Plain HTTP off this machine was asked for.
    pub insecure_plain_http: bool,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`], naming the key and what to do.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
        let mode = std::fs::metadata(path).map_err(unreadable)?.mode();
        if mode & 0o022 != 0 {
            return Err(ConfigError::WritableByOthers { path: path.to_owned(), mode: mode & 0o777 });
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        Self::parse(&text).map_err(|error| match error {
            ConfigError::Malformed { message, .. } => {
                ConfigError::Malformed { path: path.to_owned(), message }
            }
            other => other,
        })
    }

    /// The weaker choices that were asked for, each as its key. They announce themselves at every start.
    pub fn insecure(&self) -> impl Iterator<Item = String> {
        let plain = self.upstreams.iter().filter(|upstream| upstream.insecure_plain_http);
        plain.map(|upstream| format!("upstream {}: insecure_plain_http", upstream.id))
    }

    /// Checks the text of a file.
    ///
    /// # Errors
    /// [`ConfigError`], naming the key and what to do.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let raw: RawConfig = toml::from_str(text)
            .map_err(|error| ConfigError::Malformed { path: PathBuf::new(), message: error.to_string() })?;
        raw.try_into()
    }
}

fn invalid(key: impl Into<String>, problem: impl Into<String>) -> ConfigError {
    ConfigError::Invalid { key: key.into(), problem: problem.into() }
}

impl TryFrom<RawConfig> for Config {
    type Error = ConfigError;

    fn try_from(raw: RawConfig) -> Result<Self, ConfigError> {
        let trust_domain = TrustDomain::parse(&raw.trust_domain)
            .map_err(|error| invalid("trust_domain", error.to_string()))?;
        if !raw.console.listen.ip().is_loopback() {
            return Err(invalid(
                "console.listen",
                "must be a loopback address; put a TLS-terminating proxy in front to reach it from elsewhere",
            ));
        }
        if raw.status.as_ref().is_some_and(|status| !status.listen.ip().is_loopback()) {
            return Err(invalid(
                "status.listen",
                "must be a loopback address; let a scraper on this machine read it",
            ));
        }
        for (key, url) in
            [("server.public_url", &raw.server.public_url), ("gateway.public_url", &raw.gateway.public_url)]
        {
            if let Some(url) = url {
                check_origin(key, url)?;
            }
        }
        let upstreams = raw.upstreams.into_iter().map(Upstream::try_from).collect::<Result<Vec<_>, _>>()?;
        let mut seen = std::collections::BTreeSet::new();
        for upstream in &upstreams {
            if !seen.insert(upstream.id.clone()) {
                return Err(invalid("upstream.id", format!("{} is used twice; ids are unique", upstream.id)));
            }
        }
        Ok(Self {
            trust_domain,
            data_dir: raw.data_dir,
            server_listen: raw.server.listen,
            server_url: raw.server.public_url,
            ek_roots: raw.server.ek_roots,
            console_listen: raw.console.listen,
            gateway_listen: raw.gateway.listen,
            gateway_url: raw.gateway.public_url,
            status_listen: raw.status.map(|status| status.listen),
            upstreams,
        })
    }
}

/// A public URL is an origin: https, a host, perhaps a port, and nothing after it.
fn check_origin(key: &str, url: &str) -> Result<(), ConfigError> {
    let host = url.strip_prefix("https://").ok_or_else(|| invalid(key, "must start with https://"))?;
    if host.is_empty()
        || host.contains(['/', '?', '#', '@', ' '])
        || host.chars().any(|c| c.is_ascii_uppercase())
    {
        return Err(invalid(
            key,
            "must be an origin like https://gw.example:8443: lower case, no path, no trailing slash",
        ));
    }
    Ok(())
}

impl TryFrom<RawUpstream> for Upstream {
    type Error = ConfigError;

    fn try_from(raw: RawUpstream) -> Result<Self, ConfigError> {
        let id = UpstreamId::parse(&raw.id).map_err(|error| invalid("upstream.id", error.to_string()))?;
        let key = |name: &str| format!("upstream {id}: {name}");
        let plain = raw.url.strip_prefix("http://");
        if plain.is_none() && !raw.url.starts_with("https://") {
            return Err(invalid(key("url"), "must start with https:// (or http:// on loopback)"));
        }
        if plain.is_some_and(|rest| !is_loopback(rest)) && !raw.insecure_plain_http {
            return Err(invalid(
                key("url"),
                "plain http leaves this machine, and the credential with it; use https, or say insecure_plain_http = true",
            ));
        }
        Ok(Self {
            url: raw.url,
            credential_header: raw.credential_header.to_ascii_lowercase(),
            credential_file: raw.credential_file,
            ca_file: raw.ca_file,
            tool_review: raw.tool_review,
            insecure_plain_http: raw.insecure_plain_http,
            id,
        })
    }
}

/// Whether `host[:port]/…` is an address literal of the loopback range. Names are not: they can be made to mean anything.
fn is_loopback(rest: &str) -> bool {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    authority
        .parse::<SocketAddr>()
        .map(|address| address.ip())
        .or_else(|_| authority.parse())
        .is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests;
