//! One caller: a kept connection of its own, over which it makes one call after the other and checks every answer.
//!
//! To the gateway it comes as a runner does, with the machine's certificate and the agent's proofs; to the peer it
//! comes with nothing.

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use clap::ValueEnum;
use countersign_proto::channel;
use countersign_runner::http::MachineCertificate;
use countersign_runner::state::StateDir;
use countersign_testkit::insider::{PROTOCOL, now};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::installation::{Credentials, Installation};
use crate::wire::Wire;

/// How a call proves whose it is, if it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Mode {
    /// The gateway, with a DPoP proof by the agent's Ed25519 key for every call.
    Dpop,
    /// The gateway, with one proof by the agent's key for the whole connection.
    Channel,
    /// nginx, with no proof and no check.
    Peer,
}

impl Mode {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Dpop => "gateway, DPoP for every call",
            Self::Channel => "gateway, connection-bound proof",
            Self::Peer => "nginx, no check",
        }
    }

    pub(crate) const fn short(self) -> &'static str {
        match self {
            Self::Dpop => "dpop",
            Self::Channel => "channel",
            Self::Peer => "peer",
        }
    }
}

/// Whom to call, and with what.
pub(crate) enum Target {
    Gateway(Box<Gateway>),
    Peer(SocketAddr),
}

/// The gateway as one run of the agent sees it.
pub(crate) struct Gateway {
    installation: Arc<Installation>,
    credentials: Credentials,
    every_call: bool,
    tls: TlsConnector,
    port: u16,
    url: String,
}

impl Gateway {
    pub(crate) fn new(
        installation: Arc<Installation>,
        credentials: Credentials,
        every_call: bool,
    ) -> io::Result<Self> {
        let port = installation.ready.gateway.rsplit(':').next().and_then(|port| port.parse().ok());
        Ok(Self {
            tls: connector(&installation)?,
            port: port.ok_or_else(|| io::Error::other("the gateway's URL has no port"))?,
            url: installation.insider.url(),
            credentials,
            every_call,
            installation,
        })
    }

    fn authority(&self) -> &str {
        self.installation.ready.gateway.trim_start_matches("https://")
    }

    fn path(&self) -> &str {
        self.url.strip_prefix(self.installation.ready.gateway.as_str()).unwrap_or("/")
    }
}

/// A caller and its connection.
pub(crate) struct Caller {
    target: Arc<Target>,
    wire: Wire,
    /// What every request begins with.
    head: Vec<u8>,
    /// The proof for this connection, until it was shown.
    channel_proof: Option<String>,
    request: Vec<u8>,
    body: Vec<u8>,
    calls: u64,
}

#[derive(Deserialize)]
struct Reply {
    id: u64,
    result: Option<IgnoredAny>,
}

impl Caller {
    pub(crate) async fn connect(target: Arc<Target>) -> io::Result<Self> {
        let (wire, head, channel_proof) = match target.as_ref() {
            Target::Peer(address) => {
                (Wire::new(Box::new(tcp(*address).await?)), head(&address.to_string(), "/mcp", &[]), None)
            }
            Target::Gateway(gateway) => {
                let tcp = tcp((Ipv4Addr::LOCALHOST, gateway.port).into()).await?;
                let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
                let stream = gateway.tls.connect(name, tcp).await?;
                let exporter = stream
                    .get_ref()
                    .1
                    .export_keying_material([0_u8; 32], channel::EXPORTER_LABEL, None)
                    .map_err(io::Error::other)?;
                let (insider, origin) = (&gateway.installation.insider, &gateway.installation.ready.gateway);
                let proof = if gateway.every_call {
                    None
                } else {
                    Some(channel::prove(&insider.key, &exporter, origin, now()).map_err(io::Error::other)?)
                };
                let lines = [
                    ("authorization", format!("DPoP {}", gateway.credentials.token)),
                    ("mcp-session-id", gateway.credentials.session.clone()),
                ];
                (Wire::new(Box::new(stream)), head(gateway.authority(), gateway.path(), &lines), proof)
            }
        };
        Ok(Self { target, wire, head, channel_proof, request: Vec::new(), body: Vec::new(), calls: 0 })
    }

    /// One `tools/call`, answered with a result.
    pub(crate) async fn call(&mut self) -> io::Result<()> {
        self.calls += 1;
        self.write_request()?;
        let answer = self.wire.exchange(&self.request).await?;
        let reply = serde_json::from_slice::<Reply>(answer.body).ok();
        match reply {
            Some(Reply { id, result: Some(_) }) if answer.status == 200 && id == self.calls => Ok(()),
            Some(_) | None => {
                let said = String::from_utf8_lossy(answer.body);
                Err(io::Error::other(format!("call {}: {} {said}", self.calls, answer.status)))
            }
        }
    }

    fn write_request(&mut self) -> io::Result<()> {
        self.body.clear();
        write!(
            self.body,
            r#"{{"jsonrpc":"2.0","id":{},"method":"tools/call","params":{{"name":"notes.read","arguments":{{"topic":"roadmap"}}}}}}"#,
            self.calls
        )?;
        self.request.clear();
        self.request.extend_from_slice(&self.head);
        if let Some(proof) = self.channel_proof.take() {
            write!(self.request, "countersign-channel: {proof}\r\n")?;
        }
        if let Target::Gateway(gateway) = self.target.as_ref()
            && gateway.every_call
        {
            let insider = &gateway.installation.insider;
            let proof = insider.proof_for("POST", &gateway.url, Some(&gateway.credentials.token))?;
            write!(self.request, "dpop: {proof}\r\n")?;
        }
        write!(self.request, "content-length: {}\r\n\r\n", self.body.len())?;
        self.request.extend_from_slice(&self.body);
        Ok(())
    }
}

fn head(authority: &str, path: &str, lines: &[(&str, String)]) -> Vec<u8> {
    let mut head = format!(
        "POST {path} HTTP/1.1\r\nhost: {authority}\r\ncontent-type: application/json\r\n\
         accept: application/json, text/event-stream\r\nmcp-protocol-version: {PROTOCOL}\r\n"
    );
    for (name, value) in lines {
        head.extend([name, ": ", value, "\r\n"]);
    }
    head.into_bytes()
}

async fn tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// TLS 1.3 with the machine's certificate, whose key signs in the TPM, and no resumption: as the runner connects.
fn connector(installation: &Installation) -> io::Result<TlsConnector> {
    let state = StateDir::open(&installation.machine.state).map_err(io::Error::other)?;
    let certificate = Arc::new(MachineCertificate::default());
    certificate
        .replace(&state.certificate().map_err(io::Error::other)?, &installation.insider.machine)
        .map_err(io::Error::other)?;
    let mut roots = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(&installation.ready.ca).map_err(io::Error::other)? {
        roots.add(root.map_err(io::Error::other)?).map_err(io::Error::other)?;
    }
    let mut config = rustls::ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
        .with_root_certificates(roots)
        .with_client_cert_resolver(certificate);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}
