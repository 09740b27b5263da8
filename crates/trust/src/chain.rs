//! Chains from a certificate to roots that the administrator chose, by `webpki`.
//!
//! Nothing is fetched: intermediates come with the evidence, roots from configuration, and addresses inside
//! certificates are never followed. What the leaf must say beyond its chain is each caller's matter.

use countersign_proto::time::Timestamp;
use countersign_proto::x509::MAX_DER;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};

/// Most certificates in one chain, leaf included.
pub const MAX_CHAIN: usize = 6;

/// Roots for one purpose; there is no default set.
#[derive(Clone, Debug, Default)]
pub struct Roots {
    anchors: Vec<TrustAnchor<'static>>,
}

/// Why a certificate does not chain to the roots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// A root is not a certificate.
    #[error("root certificate is malformed")]
    MalformedRoot,
    /// No certificate, more than `MAX_CHAIN`, or one larger than `MAX_DER`.
    #[error("certificate chain has an unacceptable size")]
    Size,
    /// Not a certificate that `webpki` reads.
    #[error("certificate is malformed")]
    Malformed,
    /// No path to a root, a bad signature, a wrong usage or a violated constraint.
    #[error("certificate does not chain to a configured root")]
    Untrusted,
    /// Expired or not valid yet, somewhere on the path.
    #[error("certificate chain is not valid at this time")]
    Time,
}

impl Roots {
    /// From DER certificates.
    ///
    /// # Errors
    /// [`ChainError::MalformedRoot`].
    pub fn from_der<'a>(roots: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, ChainError> {
        let anchors = roots
            .into_iter()
            .map(|der| {
                webpki::anchor_from_trusted_cert(&CertificateDer::from(der))
                    .map(|anchor| anchor.to_owned())
                    .map_err(|_| ChainError::MalformedRoot)
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self { anchors })
    }

    /// Whether there is none, so that nothing can be trusted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.anchors.is_empty()
    }

    /// Verifies the path from the first certificate of `chain` over the others to a root. `eku` is the DER content
    /// of an extended key usage that every certificate with such a list must have.
    pub(crate) fn verify(
        &self,
        chain: &[Vec<u8>],
        eku: &'static [u8],
        now: Timestamp,
    ) -> Result<(), ChainError> {
        let (leaf, intermediates) = chain.split_first().ok_or(ChainError::Size)?;
        if chain.len() > MAX_CHAIN || chain.iter().any(|der| der.len() > MAX_DER) {
            return Err(ChainError::Size);
        }
        let leaf = CertificateDer::from(leaf.as_slice());
        let intermediates: Vec<CertificateDer<'_>> =
            intermediates.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
        let leaf = webpki::EndEntityCert::try_from(&leaf).map_err(|_| ChainError::Malformed)?;
        let seconds = u64::try_from(now.unix_secs()).map_err(|_| ChainError::Time)?;
        leaf.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &self.anchors,
            &intermediates,
            UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)),
            webpki::KeyUsage::required_if_present(eku),
            None,
            None,
        )
        .map(|_| ())
        .map_err(|error| match error {
            webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. } => ChainError::Time,
            _ => ChainError::Untrusted,
        })
    }
}
