//! How bytes reach a TPM: the kernel's resource-managed device, or a simulator's socket.
//!
//! Every exchange is bounded in time. After a failed one the channel is out of step and is thrown away, never reused.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;

use super::TpmError;
use super::wire::MAX_RESPONSE_BYTES;

/// Carries one command to a TPM and its response back.
pub trait Transport: Send {
    /// Sends `command` and waits at most `limit` for the whole response.
    ///
    /// # Errors
    /// [`TpmError::Unreachable`] or [`TpmError::Busy`]; the transport must not be used again after either.
    fn transmit(&mut self, command: &[u8], limit: Duration) -> Result<Vec<u8>, TpmError>;

    /// Whether somebody else swaps objects in and out of the few slots, and forgets ours when we leave.
    fn is_resource_managed(&self) -> bool;
}

/// Which TPM a machine uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TpmLocation {
    /// A kernel device, `/dev/tpmrm0`.
    Device(PathBuf),
    /// A simulator's Unix socket with raw commands. Never worth more than its manufacturer's roots.
    Socket(PathBuf),
}

impl TpmLocation {
    /// Where Linux offers the TPM of this machine.
    #[must_use]
    pub fn system() -> Self {
        Self::Device(PathBuf::from("/dev/tpmrm0"))
    }

    /// Reads `unix:<path>` as a socket and anything else as a device.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        text.strip_prefix("unix:")
            .map_or_else(|| Self::Device(PathBuf::from(text)), |path| Self::Socket(PathBuf::from(path)))
    }

    /// Opens the channel.
    pub(super) fn open(&self) -> Result<Box<dyn Transport>, TpmError> {
        match self {
            Self::Device(path) => Ok(Box::new(Device::open(path)?)),
            Self::Socket(path) => Ok(Box::new(Socket::open(path)?)),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Device(path) | Self::Socket(path) => path,
        }
    }
}

impl std::fmt::Display for TpmLocation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.path().display().fmt(f)
    }
}

/// `/dev/tpmrm0`: one write is one command, one read its response.
struct Device {
    file: File,
    path: PathBuf,
}

impl Device {
    fn open(path: &Path) -> Result<Self, TpmError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(path)
            .map_err(|error| TpmError::unreachable(path, error))?;
        Ok(Self { file, path: path.to_owned() })
    }
}

impl Transport for Device {
    fn transmit(&mut self, command: &[u8], limit: Duration) -> Result<Vec<u8>, TpmError> {
        self.file.write_all(command).map_err(|error| TpmError::unreachable(&self.path, error))?;
        let limit = Timespec::try_from(limit).unwrap_or(Timespec { tv_sec: 2, tv_nsec: 0 });
        let mut ready = [PollFd::new(&self.file, PollFlags::IN)];
        let count = poll(&mut ready, Some(&limit))
            .map_err(|error| TpmError::unreachable(&self.path, error.into()))?;
        if count == 0 {
            return Err(TpmError::Busy);
        }
        let mut response = vec![0; MAX_RESPONSE_BYTES];
        let length =
            self.file.read(&mut response).map_err(|error| TpmError::unreachable(&self.path, error))?;
        response.truncate(length);
        Ok(response)
    }

    fn is_resource_managed(&self) -> bool {
        true
    }
}

/// A simulator: the same bytes on a stream, so the response's own header says where it ends.
struct Socket {
    stream: UnixStream,
    path: PathBuf,
}

impl Socket {
    fn open(path: &Path) -> Result<Self, TpmError> {
        let stream = UnixStream::connect(path).map_err(|error| TpmError::unreachable(path, error))?;
        Ok(Self { stream, path: path.to_owned() })
    }

    fn failed(&self, error: std::io::Error) -> TpmError {
        match error.kind() {
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => TpmError::Busy,
            _ => TpmError::unreachable(&self.path, error),
        }
    }
}

impl Transport for Socket {
    fn transmit(&mut self, command: &[u8], limit: Duration) -> Result<Vec<u8>, TpmError> {
        let exchange = |stream: &mut UnixStream| {
            stream.set_read_timeout(Some(limit))?;
            stream.set_write_timeout(Some(limit))?;
            stream.write_all(command)?;
            let mut response = vec![0; 10];
            stream.read_exact(&mut response)?;
            let size = u32::from_be_bytes([response[2], response[3], response[4], response[5]]);
            let size = usize::try_from(size)
                .ok()
                .filter(|size| (10..=MAX_RESPONSE_BYTES).contains(size))
                .ok_or_else(|| std::io::Error::other("response of an impossible size"))?;
            response.resize(size, 0);
            stream.read_exact(&mut response[10..])?;
            Ok(response)
        };
        exchange(&mut self.stream).map_err(|error| self.failed(error))
    }

    fn is_resource_managed(&self) -> bool {
        false
    }
}
