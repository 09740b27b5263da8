//! What the log asks of a disk, and the disk.
//!
//! The trait is narrow so that a test can stand in for a disk that fails, fills up, hangs or loses what was not
//! flushed. It knows files, not records.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file whose lock says that a log is open.
const LOCK: &str = "lock";

/// A directory that outlives us. Paths are relative, with `/`, and made by the log only.
pub trait Storage: Send + Sync + 'static {
    /// Takes the directory for this process, until the returned value is dropped or the process ends.
    ///
    /// # Errors
    /// [`ErrorKind::WouldBlock`] if another has it.
    fn lock(&self) -> io::Result<Box<dyn Send>>;

    /// The whole file, or `None` if there is none.
    ///
    /// # Errors
    /// Whatever else keeps the file from being read.
    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>>;

    /// The names in a directory; none if it does not exist.
    ///
    /// # Errors
    /// Whatever keeps the directory from being read.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;

    /// Opens a journal for writing at its end, making an empty one if need be. Its name survives a power failure.
    ///
    /// # Errors
    /// Whatever keeps it from being opened.
    fn journal(&self, path: &str) -> io::Result<Box<dyn Journal>>;

    /// Replaces a file in one step. Others see the old or the new one; a power failure may leave either, or none.
    ///
    /// # Errors
    /// Whatever keeps it from being written; the old file is then still there.
    fn put(&self, path: &str, bytes: &[u8]) -> io::Result<()>;

    /// As [`Self::put`], and a power failure after it returns leaves the new file.
    ///
    /// # Errors
    /// As [`Self::put`].
    fn put_durable(&self, path: &str, bytes: &[u8]) -> io::Result<()>;

    /// Makes everything survive a power failure that was put or removed before.
    ///
    /// # Errors
    /// Whatever the disk says. Any of it may then be lost although a later attempt succeeds.
    fn sync(&self) -> io::Result<()>;

    /// Removes a file, or a directory with the files in it; nothing happens if there is none. A power failure may
    /// bring it back until the next [`Self::sync`].
    ///
    /// # Errors
    /// Whatever keeps it from being removed.
    fn remove(&self, path: &str) -> io::Result<()>;
}

/// A file that grows at its end.
pub trait Journal: Send {
    /// Bytes it has.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn length(&self) -> io::Result<u64>;

    /// Writes at the end. On an error any part of `bytes` may have been written.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Writes bytes again that are there already, so that the next [`Self::sync`] really writes them.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn rewrite(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Returns when everything appended survives a power failure. After an error nobody knows what does.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn sync(&mut self) -> io::Result<()>;

    /// Drops everything behind `length` bytes.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn truncate(&mut self, length: u64) -> io::Result<()>;

    /// Is the file still the one its name leads to? A deleted file accepts writes for ever.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn in_place(&self) -> io::Result<bool>;
}

/// A directory of the file system.
#[derive(Clone, Debug)]
pub struct Disk {
    root: PathBuf,
    /// Open for as long as the log: a flush then tells of every write error since.
    dir: Arc<File>,
}

impl Disk {
    /// The log directory `root`, made (for this user only) if it does not exist.
    ///
    /// # Errors
    /// Whatever keeps it from being made.
    pub fn new(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        make_dirs(&root)?;
        let dir = Arc::new(File::open(&root)?);
        Ok(Self { root, dir })
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Flushes the directories from the one that holds `path` up to the root.
    fn sync_dirs(&self, path: &str) -> io::Result<()> {
        let mut dir = self.path(path);
        while dir.pop() && dir.starts_with(&self.root) {
            File::open(&dir)?.sync_all()?;
        }
        Ok(())
    }

    fn put_with(&self, path: &str, bytes: &[u8], flush: bool) -> io::Result<()> {
        let target = self.path(path);
        let temporary = self.path(&format!("{path}.tmp"));
        if let Some(parent) = target.parent() {
            make_dirs(parent)?;
        }
        let mut file = private().write(true).create(true).truncate(true).open(&temporary)?;
        file.write_all(bytes)?;
        if flush {
            file.sync_all()?;
        }
        std::fs::rename(&temporary, &target)
    }
}

impl Storage for Disk {
    fn lock(&self) -> io::Result<Box<dyn Send>> {
        let file = private().write(true).create(true).truncate(false).open(self.path(LOCK))?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(file)),
            Err(TryLockError::WouldBlock) => Err(ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        match std::fs::read(self.path(path)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let entries = match std::fs::read_dir(self.path(dir)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        entries
            .map(|entry| {
                entry?.file_name().into_string().map_err(|_| io::Error::from(ErrorKind::InvalidData))
            })
            .collect()
    }

    fn journal(&self, path: &str) -> io::Result<Box<dyn Journal>> {
        let full = self.path(path);
        if let Some(parent) = full.parent() {
            make_dirs(parent)?;
        }
        let mut file = private().read(true).write(true).create(true).truncate(false).open(&full)?;
        file.seek(SeekFrom::End(0))?;
        self.sync_dirs(path)?;
        Ok(Box::new(DiskJournal { file, path: full }))
    }

    fn put(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.put_with(path, bytes, false)
    }

    fn put_durable(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.put_with(path, bytes, true)?;
        self.sync_dirs(path)
    }

    fn sync(&self) -> io::Result<()> {
        // One flush of the file system instead of one for each of hundreds of tiles and their directories.
        Ok(rustix::fs::syncfs(&*self.dir)?)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let full = self.path(path);
        let removed = match std::fs::symlink_metadata(&full) {
            Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(&full),
            Ok(_) => std::fs::remove_file(&full),
            Err(error) => Err(error),
        };
        match removed {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

struct DiskJournal {
    file: File,
    path: PathBuf,
}

impl Journal for DiskJournal {
    fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    fn rewrite(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.file.set_len(length)?;
        self.file.seek(SeekFrom::Start(length)).map(|_| ())
    }

    fn in_place(&self) -> io::Result<bool> {
        let named = match std::fs::symlink_metadata(&self.path) {
            Ok(named) => named,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let open = self.file.metadata()?;
        Ok((named.dev(), named.ino()) == (open.dev(), open.ino()))
    }
}

/// Reads a published log from a directory, for [`countersign_audit::verify_log`] and proofs. Takes no lock.
///
/// A file that cannot be read is reported as missing, which makes verification fail.
pub fn reader(root: &Path) -> impl Fn(&str) -> Option<Vec<u8>> {
    let root = root.to_owned();
    move |path| {
        let mut bytes = Vec::new();
        File::open(root.join(path)).ok()?.read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }
}

/// Records name people and machines: files are for this user only.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

fn make_dirs(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests;
