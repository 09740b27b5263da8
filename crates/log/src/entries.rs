//! Reading published entries back, a bundle at a time.

use std::sync::Arc;

use countersign_audit::tile::{TILE_WIDTH, TileKind, TilePath, decode_entries};

use crate::LogError;
use crate::storage::Storage;

/// Entries with their index, in order; ends at the size that was published when it was made, or after an error.
pub struct Entries {
    storage: Arc<dyn Storage>,
    next: u64,
    end: u64,
    /// Entries of the current bundle still to be given out, last first.
    bundle: Vec<Vec<u8>>,
}

impl Entries {
    pub(crate) const fn new(storage: Arc<dyn Storage>, next: u64, end: u64) -> Self {
        Self { storage, next, end, bundle: Vec::new() }
    }

    /// The entries of the bundle that holds `self.next`, from there on.
    fn load(&self) -> Result<Vec<Vec<u8>>, LogError> {
        let damaged = LogError::Damaged { index: self.next, what: "an entry bundle cannot be read" };
        let index = self.next / TILE_WIDTH;
        let Some(path) = TilePath::at_size(TileKind::Entries, index, self.end) else { return Err(damaged) };
        // The partial bundle is tidied away once the full one is there.
        let (bytes, width) = match self.storage.read(&path.to_string())? {
            Some(bytes) => (bytes, path.width()),
            None => match self.storage.read(&path.filled().to_string())? {
                Some(bytes) => (bytes, 256),
                None => return Err(damaged),
            },
        };
        let Ok(entries) = decode_entries(&bytes, width) else { return Err(damaged) };
        let skip = usize::try_from(self.next % TILE_WIDTH).unwrap_or(usize::MAX);
        let take = usize::from(path.width()).saturating_sub(skip);
        Ok(entries.into_iter().skip(skip).take(take).map(<[u8]>::to_vec).rev().collect())
    }
}

impl Iterator for Entries {
    type Item = Result<(u64, Vec<u8>), LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.end {
            return None;
        }
        if self.bundle.is_empty() {
            match self.load() {
                Ok(bundle) => self.bundle = bundle,
                Err(error) => {
                    self.end = self.next;
                    return Some(Err(error));
                }
            }
        }
        let entry = self.bundle.pop()?;
        let index = self.next;
        self.next += 1;
        Some(Ok((index, entry)))
    }
}
