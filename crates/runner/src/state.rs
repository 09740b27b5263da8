//! The runner's folder: who this machine is, its wrapped keys, its certificate.
//!
//! Nothing in it is worth stealing alone: M's private half opens only in the TPM that made it. It is kept from other
//! users all the same, and a folder that others could have prepared is refused, not repaired.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::tpm::MachineKeyBlob;

/// The identity file's name.
const IDENTITY: &str = "machine.json";
/// The certificate file's name.
const CERTIFICATE: &str = "certificate.pem";
/// No file of ours is larger.
const MAX_FILE_BYTES: u64 = 256 * 1024;
/// What others may do with our folder and files: nothing.
const FOREIGN_BITS: u32 = 0o077;

/// Why the state directory is not used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The folder or a file in it could have been prepared or read by somebody else.
    #[error("{path} is not safe to use: {why}; choose another --state folder, or remove it and enroll again")]
    Unsafe {
        /// What was looked at.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The operating system refused.
    #[error("cannot use {path}")]
    Io {
        /// What was being used.
        path: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// There is no enrolled machine here.
    #[error("this machine is not enrolled ({0} holds no identity); run `countersign machine enroll` first")]
    NotEnrolled(String),
    /// A file does not say what it should.
    #[error("{path} is damaged: {why}; restore it from a backup or enroll this machine again")]
    Damaged {
        /// The file.
        path: String,
        /// What the parser said.
        why: String,
    },
}

/// A machine that passed attestation once, and what it needs to do so again.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolledMachine {
    /// The format of this file.
    pub version: u32,
    /// The control plane's public URL, without a slash at its end.
    pub server: String,
    /// The name the control plane gave this machine.
    pub machine_id: String,
    /// What orders for certificates are about.
    pub permanent_identifier: String,
    /// M.
    pub machine_key: MachineKeyBlob,
    /// The attestation key's certificate and those above it, DER in base64url.
    pub ak_certificates: Vec<String>,
    /// The ACME account's key (PKCS #8 in base64url): identifies an account, proves nothing about the machine.
    pub account_key: AccountSecret,
    /// The ACME account's URL, once it exists.
    pub account_url: Option<String>,
    /// The binding of the account that is still to be made.
    pub pending_binding: Option<AccountBinding>,
}

/// External account binding (RFC 8555 §7.3.4): usable once, for this machine's permanent identifier.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountBinding {
    /// The key's name.
    pub kid: String,
    /// The HMAC key in base64url.
    pub key: AccountSecret,
}

/// A secret of the state directory. Its `Debug` shows nothing, and it is wiped when dropped.
#[derive(Clone)]
pub struct AccountSecret(Zeroizing<String>);

impl Serialize for AccountSecret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for AccountSecret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

impl AccountSecret {
    /// Takes the text over.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for AccountSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AccountSecret")
    }
}

impl std::fmt::Debug for AccountBinding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AccountBinding({:?})", self.kid)
    }
}

impl std::fmt::Debug for EnrolledMachine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EnrolledMachine({:?} at {:?})", self.machine_id, self.server)
    }
}

/// An open state directory: checked once, and held open so that it stays the one that was checked.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    folder: OwnedFd,
}

impl StateDir {
    /// Opens `path`, making it (mode 0700) if only its last component is missing.
    ///
    /// # Errors
    /// [`StateError::Unsafe`] for a symbolic link, a foreign owner, access for others, or a parent in which others could
    /// swap the folder.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let io = |error: rustix::io::Errno| StateError::Io {
            path: path.display().to_string(),
            source: error.into(),
        };
        let unsafe_because = |why| StateError::Unsafe { path: path.display().to_string(), why };
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let above = rustix::fs::stat(parent).map_err(io)?;
        let others_may_write = above.st_mode & 0o022 != 0;
        let sticky = above.st_mode & 0o1000 != 0;
        if others_may_write && !sticky {
            return Err(unsafe_because("others may rename it: its parent is writable by them"));
        }
        match rustix::fs::mkdir(path, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(io(error)),
        }
        let entry = rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).map_err(io)?;
        if FileType::from_raw_mode(entry.st_mode) != FileType::Directory {
            return Err(unsafe_because("it is not a folder of its own (symbolic links are not followed)"));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = rustix::fs::open(path, flags, Mode::empty()).map_err(io)?;
        check_ownership(&rustix::fs::fstat(&folder).map_err(io)?).map_err(unsafe_because)?;
        Ok(Self { path: path.to_owned(), folder })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The machine's identity, or `None` if nothing was enrolled here.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn load_machine(&self) -> Result<Option<EnrolledMachine>, StateError> {
        let Some(bytes) = self.read(IDENTITY)? else { return Ok(None) };
        let machine: EnrolledMachine =
            serde_json::from_slice(&bytes).map_err(|error| self.damaged(IDENTITY, &error.to_string()))?;
        if machine.version != 1 {
            return Err(self.damaged(IDENTITY, "written by another version of countersign"));
        }
        Ok(Some(machine))
    }

    /// The machine's identity.
    ///
    /// # Errors
    /// [`StateError::NotEnrolled`] if there is none.
    pub fn machine(&self) -> Result<EnrolledMachine, StateError> {
        self.load_machine()?.ok_or_else(|| StateError::NotEnrolled(self.path.display().to_string()))
    }

    /// Keeps the machine's identity.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn save_machine(&self, machine: &EnrolledMachine) -> Result<(), StateError> {
        let bytes =
            serde_json::to_vec_pretty(machine).map_err(|error| self.damaged(IDENTITY, &error.to_string()))?;
        self.write(IDENTITY, &Zeroizing::new(bytes))
    }

    /// The machine's certificate chain in PEM.
    ///
    /// # Errors
    /// [`StateError::NotEnrolled`] if there is none.
    pub fn certificate(&self) -> Result<Vec<u8>, StateError> {
        let bytes = self.read(CERTIFICATE)?;
        bytes
            .map(|bytes| bytes.to_vec())
            .ok_or_else(|| StateError::NotEnrolled(self.path.display().to_string()))
    }

    /// Keeps the machine's certificate chain in PEM.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn save_certificate(&self, pem: &[u8]) -> Result<(), StateError> {
        self.write(CERTIFICATE, pem)
    }

    fn read(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.folder, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(rustix::io::Errno::LOOP) => {
                return Err(StateError::Unsafe { path: self.name(name), why: "it is a symbolic link" });
            }
            Err(error) => return Err(self.io(name, error.into())),
        };
        let status = rustix::fs::fstat(&file).map_err(|error| self.io(name, error.into()))?;
        check_ownership(&status).map_err(|why| StateError::Unsafe { path: self.name(name), why })?;
        let mut bytes = Zeroizing::new(Vec::new());
        File::from(file)
            .take(MAX_FILE_BYTES)
            .read_to_end(&mut bytes)
            .map_err(|error| self.io(name, error))?;
        Ok(Some(bytes))
    }

    /// Replaces a file as a whole: a reader sees the old or the new one, also after a power failure.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        let temporary = format!(".{name}.{}", std::process::id());
        // One that a crash left behind under our number.
        let _ = rustix::fs::unlinkat(&self.folder, &temporary, AtFlags::empty());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let written = rustix::fs::openat(&self.folder, &temporary, flags, Mode::RUSR | Mode::WUSR)
            .map_err(std::io::Error::from)
            .and_then(|file| {
                let mut file = File::from(file);
                file.write_all(bytes)?;
                file.sync_all()?;
                rustix::fs::renameat(&self.folder, &temporary, &self.folder, name)?;
                rustix::fs::fsync(&self.folder)?;
                Ok(())
            });
        written.map_err(|error| {
            let _ = rustix::fs::unlinkat(&self.folder, &temporary, AtFlags::empty());
            self.io(name, error)
        })
    }

    fn name(&self, file: &str) -> String {
        self.path.join(file).display().to_string()
    }

    fn io(&self, file: &str, source: std::io::Error) -> StateError {
        StateError::Io { path: self.name(file), source }
    }

    fn damaged(&self, file: &str, why: &str) -> StateError {
        StateError::Damaged { path: self.name(file), why: why.to_owned() }
    }
}

fn check_ownership(status: &Stat) -> Result<(), &'static str> {
    if status.st_uid != rustix::process::geteuid().as_raw() {
        return Err("it belongs to another user");
    }
    if status.st_mode & FOREIGN_BITS != 0 {
        return Err("others have access to it (chmod go-rwx)");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
