//! The newest checkpoint of the log, remembered outside the log's own folder, so that a log folder that was put back
//! to an older state as a whole is refused at the start instead of being forked.
//!
//! Not a witness: whoever can put back the whole data folder puts back this memory with it.

use std::io;
use std::path::{Path, PathBuf};

use countersign_audit::note::{self, Checkpoint, LogVerifier};

/// Where the memory is, and what it is of.
#[derive(Clone, Debug)]
pub struct Remembered {
    published: PathBuf,
    kept: PathBuf,
}

impl Remembered {
    /// The memory in `data_dir` of the log in `log_dir`.
    pub fn new(data_dir: &Path, log_dir: &Path) -> Self {
        Self { published: log_dir.join("checkpoint"), kept: data_dir.join("log.checkpoint") }
    }

    /// What was remembered last; nothing before the first time.
    ///
    /// # Errors
    /// If the memory cannot be read or is not signed by the log's key.
    pub fn load(&self, verifier: &LogVerifier) -> io::Result<Option<Checkpoint>> {
        match std::fs::read(&self.kept) {
            Ok(text) => note::open(&text, verifier).map(Some).map_err(|error| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", self.kept.display()))
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Remembers what the log has published by now.
    ///
    /// # Errors
    /// If it cannot be read or written; what was remembered before stays.
    pub fn keep(&self) -> io::Result<()> {
        let text = std::fs::read(&self.published)?;
        let partial = self.kept.with_extension("new");
        std::fs::write(&partial, text)?;
        std::fs::File::open(&partial)?.sync_all()?;
        std::fs::rename(&partial, &self.kept)
    }
}
