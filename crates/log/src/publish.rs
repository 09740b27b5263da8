//! From durable entries to files a third party can read: full tiles, partial tiles, then the checkpoint.
//!
//! Runs beside the commit path and never holds it up; what it cannot write it hands back to be tried again.

use std::io;
use std::sync::Arc;

use countersign_audit::note::LogKey;
use countersign_audit::sequencer::{Sequencer, Write};

use crate::journal;
use crate::storage::Storage;

/// A state of the log to be made visible.
pub(crate) struct Publication {
    pub(crate) full: Vec<Write>,
    pub(crate) partial: Vec<Write>,
    pub(crate) checkpoint: Vec<u8>,
    pub(crate) size: u64,
    /// Journal segments before this entry can go once every full tile is durable.
    pub(crate) settle: Option<u64>,
}

impl Publication {
    /// What `sequencer` has to show now. `unwritten` failed to be written earlier.
    pub(crate) fn of(
        sequencer: &mut Sequencer,
        key: &LogKey,
        mut unwritten: Vec<Write>,
        settle: Option<u64>,
    ) -> Self {
        unwritten.append(&mut sequencer.take_full());
        let checkpoint = sequencer.checkpoint();
        Self {
            full: unwritten,
            partial: sequencer.partial(),
            size: checkpoint.size,
            checkpoint: key.sign(&checkpoint).into_bytes(),
            settle,
        }
    }
}

/// Writes publications.
pub(crate) struct Publisher {
    storage: Arc<dyn Storage>,
}

impl Publisher {
    pub(crate) const fn new(storage: Arc<dyn Storage>) -> Self {
        Self { storage }
    }

    /// Writes one publication. A reader who sees the new checkpoint finds every tile it stands for.
    pub(crate) fn publish(&self, publication: &Publication) -> Result<(), PublishError> {
        for write in publication.full.iter().chain(&publication.partial) {
            self.storage.put(&write.path.to_string(), &write.bytes).map_err(PublishError::Again)?;
        }
        if publication.settle.is_some() {
            self.storage.sync().map_err(PublishError::Fatal)?;
        }
        self.storage.put_durable("checkpoint", &publication.checkpoint).map_err(PublishError::Again)?;
        for write in &publication.full {
            self.storage.remove(&write.path.partial_dir()).map_err(PublishError::Again)?;
        }
        if let Some(settle) = publication.settle {
            self.drop_segments(settle)?;
        }
        Ok(())
    }

    /// Removes journal segments before `settle`, oldest first and one by one, so that what a power failure
    /// leaves never has a gap.
    fn drop_segments(&self, settle: u64) -> Result<(), PublishError> {
        let names = self.storage.list(journal::DIR).map_err(PublishError::Again)?;
        let mut firsts: Vec<u64> = names.iter().filter_map(|name| journal::segment_first(name)).collect();
        firsts.sort_unstable();
        for first in firsts.into_iter().filter(|first| *first < settle) {
            self.storage.remove(&journal::segment_path(first)).map_err(PublishError::Again)?;
            self.storage.sync().map_err(PublishError::Fatal)?;
        }
        Ok(())
    }
}

/// Why a publication was not written.
#[derive(Debug)]
pub(crate) enum PublishError {
    /// Nothing durable depends on it: the same can be tried again.
    Again(io::Error),
    /// Tiles could not be flushed. Trying again would prove nothing, and the journal must stay.
    Fatal(io::Error),
}
