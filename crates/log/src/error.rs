//! Why a log does not open, or does not answer.

use std::io;

use countersign_audit::note::NoteError;

/// A log that cannot be opened is not repaired and not begun anew: someone must look.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// Another process, or another part of this one, has the log open.
    #[error("the log is open elsewhere")]
    Locked,
    /// The disk could not be read or written while opening.
    #[error("the log directory cannot be used")]
    Io(#[source] io::Error),
    /// The checkpoint on disk is not ours: another log, another key, or damaged.
    #[error("the checkpoint of the log cannot be trusted")]
    Checkpoint(#[source] NoteError),
    /// The checkpoint on disk, or one remembered elsewhere, promises more than is there.
    #[error("the log was rolled back: {promised} entries were signed for, {found} are there")]
    RolledBack {
        /// Entries a checkpoint covers.
        promised: u64,
        /// Entries found.
        found: u64,
    },
    /// The entries do not lead to the root that was signed.
    #[error("the log was changed: its first {size} entries are not those that were signed")]
    Changed {
        /// Size of the signed tree.
        size: u64,
    },
    /// Durable entries are damaged or gone.
    #[error("the log is damaged at entry {index}: {what}")]
    Damaged {
        /// First entry that cannot be read.
        index: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// A limit makes no sense.
    #[error("log limit {limit} is out of range")]
    Limit {
        /// Its name.
        limit: &'static str,
    },
    /// No answer in time, no room in the queue, or a full disk. The record may or may not become durable;
    /// whoever asked must refuse.
    #[error("the log did not answer in time")]
    Unavailable,
    /// The disk did not confirm a flush, or the log file was taken away. Nothing is acknowledged until the log is
    /// opened anew.
    #[error("the log has failed and must be opened anew")]
    Failed,
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
}

impl From<io::Error> for LogError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::WouldBlock { Self::Locked } else { Self::Io(error) }
    }
}
