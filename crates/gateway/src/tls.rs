//! TLS at both ends: callers show a machine certificate, upstreams one that we trust.
//!
//! Towards callers: TLS 1.3 only, client certificate asked for and verified, no tickets, no resumption, no early data, so
//! that every connection is one fresh proof by the machine key. What the certificate means is `trust`'s
//! business. There is no switch that turns verification off.

use std::sync::Arc;

use countersign_proto::channel;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::config::{ConfigError, ServerIdentity, UpstreamConfig};

const ALPN: &[u8] = b"http/1.1";

/// What a gateway accepts: machines whose certificate chains to `machine_roots`.
pub(crate) fn server_config(
    identity: &ServerIdentity,
    machine_roots: &[CertificateDer<'static>],
) -> Result<Arc<ServerConfig>, ConfigError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for root in machine_roots {
        roots.add(root.clone()).map_err(|_| ConfigError::MachineRoots)?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        // A caller without a certificate gets the walk's answer and a record, not a broken handshake; one that is
        // shown must verify.
        .allow_unauthenticated()
        .build()
        .map_err(|_| ConfigError::MachineRoots)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(ConfigError::Tls)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.certificates.clone(), identity.key.clone_key())
        .map_err(ConfigError::Tls)?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// How an upstream is verified: by its own roots if given, else by the system's.
pub(crate) fn upstream_config(upstream: &UpstreamConfig) -> Result<Arc<ClientConfig>, ConfigError> {
    let mut roots = RootCertStore::empty();
    match &upstream.ca_file {
        Some(path) => {
            let refuse = |source| ConfigError::CaFile { upstream: upstream.id.clone(), source };
            let pem = std::fs::read(path).map_err(|error| refuse(Some(error)))?;
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                let certificate = certificate.map_err(|_| refuse(None))?;
                roots.add(certificate).map_err(|_| refuse(None))?;
            }
            if roots.is_empty() {
                return Err(refuse(None));
            }
        }
        // Unreadable system roots leave fewer roots, never more: the handshake then fails.
        None => {
            let _counts = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(ConfigError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// The value that only the two ends of this connection know, for the agent to sign.
pub(crate) fn exporter(connection: &rustls::ServerConnection) -> Option<[u8; 32]> {
    connection.export_keying_material([0_u8; 32], channel::EXPORTER_LABEL, None).ok()
}
