//! The control plane's keys: files of 0600 made on first start, behind types that do not print.
//!
//! Whoever signs holds `dyn JwsSigner` or an `Issuer`; that the private half came from a file is known here
//! alone, so that a hardware module can take a key's place. The log's key belongs to the log.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use countersign_proto::jose::{JwsSigner, SoftwareEd25519, SoftwareP256};
use countersign_proto::time::Entropy;
use zeroize::Zeroizing;

/// Why the keys could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file could not be read or written.
    #[error("key file {0}")]
    File(PathBuf, #[source] std::io::Error),
    /// Others may read the file, or it is not a plain file.
    #[error("key file {0} must be a plain file that only its owner can read")]
    Permissions(PathBuf),
    /// The file does not hold the key it should.
    #[error("key file {0} does not hold the expected kind of key")]
    Format(PathBuf),
    /// A key could not be made.
    #[error("could not generate a key")]
    Generate,
}

/// All private keys of this server.
pub struct ServerKeys {
    /// Signs machine, server and gateway certificates; PKCS#8 of a P-256 key.
    pub(crate) ca: SecretBytes,
    /// Signs attestation key certificates; PKCS#8 of a P-256 key.
    pub(crate) attestation_ca: SecretBytes,
    /// Signs access tokens and client attestations.
    pub(crate) token: SigningKey,
    /// Signs approval grants.
    pub(crate) approval: SigningKey,
    /// Signs snapshots.
    pub(crate) snapshot: SigningKey,
    /// Makes nonces recognizable.
    pub(crate) nonce_secret: Zeroizing<[u8; 32]>,
    /// Seals credentials kept for later use (EAB keys).
    pub(crate) sealing_secret: Zeroizing<[u8; 32]>,
}

impl std::fmt::Debug for ServerKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ServerKeys(token {:?})", self.token)
    }
}

/// A signing key and its published name: `kid` is the RFC 7638 thumbprint.
#[derive(Clone)]
pub struct SigningKey {
    signer: Arc<dyn JwsSigner>,
    kid: Arc<str>,
}

impl SigningKey {
    fn new(signer: Arc<dyn JwsSigner>) -> Self {
        let kid = signer.public_jwk().thumbprint().to_string().into();
        Self { signer, kid }
    }

    /// The key as a signer.
    #[must_use]
    pub fn signer(&self) -> &dyn JwsSigner {
        self.signer.as_ref()
    }

    /// The key's published name.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({})", self.kid)
    }
}

/// Bytes that do not print and are wiped.
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// Takes the secret over.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The secret, for the one call that needs it.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretBytes(..)")
    }
}

impl ServerKeys {
    /// Reads the keys under `data_dir/keys`, making those that are not there yet.
    ///
    /// # Errors
    /// When a file is unreadable, readable by others, or holds something else.
    pub fn open(data_dir: &Path, rng: &dyn Entropy) -> Result<Self, KeyError> {
        let dir = data_dir.join("keys");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(|error| KeyError::File(dir.clone(), error))?;
        let p256 = |name: &str| -> Result<(SoftwareP256, Zeroizing<Vec<u8>>), KeyError> {
            let path = dir.join(name);
            let pkcs8 = read_or_create(&path, || {
                SoftwareP256::generate().and_then(|key| key.to_pkcs8()).map_err(|_| KeyError::Generate)
            })?;
            let key = SoftwareP256::from_pkcs8(&pkcs8).map_err(|_| KeyError::Format(path))?;
            Ok((key, pkcs8))
        };
        let ed25519 = |name: &str| -> Result<SoftwareEd25519, KeyError> {
            let path = dir.join(name);
            let pkcs8 = read_or_create(&path, || {
                SoftwareEd25519::generate().and_then(|key| key.to_pkcs8()).map_err(|_| KeyError::Generate)
            })?;
            SoftwareEd25519::from_pkcs8(&pkcs8).map_err(|_| KeyError::Format(path))
        };
        let secret = |name: &str| -> Result<Zeroizing<[u8; 32]>, KeyError> {
            let path = dir.join(name);
            let bytes = read_or_create(&path, || {
                let mut secret = Zeroizing::new(vec![0_u8; 32]);
                rng.fill(&mut secret);
                Ok(secret)
            })?;
            let array = <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| KeyError::Format(path))?;
            Ok(Zeroizing::new(array))
        };
        Ok(Self {
            ca: SecretBytes(p256("ca.p8")?.1),
            attestation_ca: SecretBytes(p256("attestation-ca.p8")?.1),
            token: SigningKey::new(Arc::new(p256("token.p8")?.0)),
            approval: SigningKey::new(Arc::new(p256("approval.p8")?.0)),
            snapshot: SigningKey::new(Arc::new(ed25519("snapshot.p8")?)),
            nonce_secret: secret("nonce.key")?,
            sealing_secret: secret("sealing.key")?,
        })
    }
}

/// The file's bytes; when there is no file, `make` decides them and they are durable before they are used.
fn read_or_create(
    path: &Path,
    make: impl FnOnce() -> Result<Zeroizing<Vec<u8>>, KeyError>,
) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let file_error = |error| KeyError::File(path.to_owned(), error);
    match fs::OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
    {
        Ok(mut file) => {
            let metadata = file.metadata().map_err(file_error)?;
            if !metadata.is_file() || metadata.permissions().mode() & 0o077 != 0 {
                return Err(KeyError::Permissions(path.to_owned()));
            }
            let mut bytes = Zeroizing::new(Vec::with_capacity(256));
            file.read_to_end(&mut bytes).map_err(file_error)?;
            Ok(bytes)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let bytes = make()?;
            // Written beside and renamed: a crash leaves no half a key under the real name.
            let partial = path.with_extension("new");
            match fs::remove_file(&partial) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(file_error(error)),
            }
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&partial)
                .map_err(file_error)?;
            file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(file_error)?;
            fs::rename(&partial, path).map_err(file_error)?;
            if let Some(parent) = path.parent() {
                fs::File::open(parent).and_then(|dir| dir.sync_all()).map_err(file_error)?;
            }
            Ok(bytes)
        }
        Err(error) => Err(file_error(error)),
    }
}

#[cfg(test)]
mod tests;
