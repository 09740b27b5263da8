//! TLS connections as a client makes them who would like to resume: it keeps every ticket it is given.
//!
//! Not the product's client, which never resumes; only what is seen of the handshake matters here.

use std::io;
use std::sync::Arc;

use countersign_runner::http::MachineCertificate;
use countersign_runner::state::StateDir;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::insider::Insider;
use crate::world::{Machine, Ready};

/// A client that resumes whenever it is allowed to.
pub struct Resuming {
    config: Arc<ClientConfig>,
}

impl Resuming {
    /// One that shows `machine`'s certificate where it is asked for.
    ///
    /// # Errors
    /// If roots or certificate cannot be used.
    pub fn new(ready: &Ready, machine: &Machine, insider: &Insider) -> io::Result<Self> {
        let state = StateDir::open(&machine.state).map_err(io::Error::other)?;
        let certificate = MachineCertificate::default();
        certificate
            .replace(&state.certificate().map_err(io::Error::other)?, &insider.machine)
            .map_err(io::Error::other)?;
        let roots = roots(&std::fs::read(&ready.ca)?)?;
        let config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_cert_resolver(Arc::new(certificate));
        Ok(Self::keeping_tickets(config))
    }

    fn keeping_tickets(mut config: ClientConfig) -> Self {
        config.resumption = Resumption::in_memory_sessions(16);
        config.enable_early_data = true;
        Self { config: Arc::new(config) }
    }

    /// Connects to `authority` (`localhost:port`), asks for a path that is not there, reads the answer (and with it
    /// any ticket), and says what kind of handshake it was, and how many bytes of TLS 1.3 tickets could be kept.
    ///
    /// # Errors
    /// If there is no connection or no answer.
    pub async fn visit(&self, authority: &str) -> io::Result<HandshakeKind> {
        let stream = TcpStream::connect(authority).await?;
        let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
        let mut tls = TlsConnector::from(Arc::clone(&self.config)).connect(name, stream).await?;
        let request = format!("GET /nowhere HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n\r\n");
        tls.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        // Some servers close without a TLS goodbye after a refusal; what counts is that they answered.
        let read = tls.read_to_end(&mut answer).await;
        if answer.is_empty() {
            read?;
        }
        tls.get_ref().1.handshake_kind().ok_or_else(|| io::Error::other("there was no handshake"))
    }
}

/// The control: a server that does hand out tickets, and what such a client does there on its second visit.
///
/// # Errors
/// If the server cannot be set up.
pub async fn visits_to_a_server_with_tickets() -> io::Result<[HandshakeKind; 2]> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).map_err(io::Error::other)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .map_err(io::Error::other)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let authority = format!("localhost:{}", listener.local_addr()?.port());
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let serving = tokio::spawn(async move {
        for _ in 0..2 {
            let (stream, _) = listener.accept().await?;
            let mut tls = acceptor.accept(stream).await?;
            let mut request = [0; 16];
            tls.read_exact(&mut request).await?;
            tls.write_all(b"HTTP/1.1 404 Not Found\r\n\r\n").await?;
            tls.shutdown().await?;
        }
        Ok::<(), io::Error>(())
    });
    let config = ClientConfig::builder()
        .with_root_certificates(roots(made.cert.pem().as_bytes())?)
        .with_no_client_auth();
    let client = Resuming::keeping_tickets(config);
    let kinds = [client.visit(&authority).await?, client.visit(&authority).await?];
    serving.await.map_err(io::Error::other)??;
    Ok(kinds)
}

fn roots(pem: &[u8]) -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
    }
    Ok(roots)
}
