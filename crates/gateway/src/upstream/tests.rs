//! Which servers get our credential: those whose certificate we trust, for the name we meant, today.

use std::path::Path;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use super::*;

struct Server {
    port: u16,
    pem: String,
    /// What reached it, decrypted.
    heard: mpsc::UnboundedReceiver<Vec<u8>>,
}

async fn serve(name: &str, expired: bool) -> Server {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    if expired {
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    }
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, heard) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok(mut tls) = acceptor.accept(tcp).await else { continue };
            let mut bytes = vec![0_u8; 4096];
            let Ok(read) = tls.read(&mut bytes).await else { continue };
            bytes.truncate(read);
            sender.send(bytes).unwrap();
            let answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
            let _written = tls.write_all(answer).await;
        }
    });
    Server { port, pem: certificate.pem(), heard }
}

async fn check(server: &mut Server, ca_file: Option<&Path>, expected: &str) {
    let credential = Credential::header("x-api-key", "secret".to_owned().into()).unwrap();
    let config = UpstreamConfig {
        id: UpstreamId::parse("u").unwrap(),
        url: format!("https://localhost:{}/mcp", server.port).parse().unwrap(),
        credential: Some(credential),
        ca_file: ca_file.map(Path::to_owned),
    };
    let upstream = Upstream::new(config, &GatewayLimits::default()).unwrap();
    let outbound = Outbound {
        method: Method::POST,
        body: Bytes::from_static(b"{}"),
        mirrored: Vec::new(),
        session: None,
        decision: None,
    };
    let seen = match upstream.send(outbound).await {
        Ok(inbound) => inbound.response.status().to_string(),
        Err(error) => error.to_string(),
    };
    assert_eq!(seen, expected);
    let heard = server.heard.try_recv().is_ok();
    assert_eq!(heard, expected == "200 OK", "nobody else hears the credential");
}

#[tokio::test]
async fn only_the_server_we_mean_gets_the_credential() {
    let dir = tempfile::tempdir().unwrap();
    let pem = |name: &str, server: &Server| {
        let path = dir.path().join(name);
        std::fs::write(&path, &server.pem).unwrap();
        path
    };
    let unreachable = "the upstream cannot be reached";
    let mut good = serve("localhost", false).await;
    let good_pem = pem("good.pem", &good);
    check(&mut good, Some(&good_pem), "200 OK").await;
    check(&mut good, None, unreachable).await;

    let mut other_name = serve("other.test", false).await;
    let other_pem = pem("other.pem", &other_name);
    check(&mut other_name, Some(&other_pem), unreachable).await;
    check(&mut good, Some(&other_pem), unreachable).await;

    let mut expired = serve("localhost", true).await;
    let expired_pem = pem("expired.pem", &expired);
    check(&mut expired, Some(&expired_pem), unreachable).await;
}

#[test]
fn an_upstream_has_a_scheme_a_host_and_usable_roots() {
    let build = |url: &str, ca_file: Option<&str>| {
        let config = UpstreamConfig {
            id: UpstreamId::parse("u").unwrap(),
            url: url.parse().unwrap(),
            credential: None,
            ca_file: ca_file.map(Into::into),
        };
        Upstream::new(config, &GatewayLimits::default()).is_ok()
    };
    assert!(build("http://127.0.0.1:1/mcp", None));
    assert!(build("http://[::1]:1/mcp", None));
    assert!(!build("ftp://127.0.0.1/mcp", None));
    assert!(!build("/mcp", None));
    assert!(!build("http://user@127.0.0.1/mcp", None));
    assert!(!build("https://127.0.0.1/mcp", Some("/nonexistent")));
    assert!(!build("https://127.0.0.1/mcp", Some("/dev/null")));
}
