//! Checks a published log from the first entry to the signature, and names the first entry that is wrong.
//!
//! Everything a checkpoint stands for is read again: entries, leaf hashes, every level of tiles, root, signature.
//! What no log can tell about itself is whether newer entries were cut off together with the newer checkpoint;
//! for that, pass a checkpoint remembered elsewhere to [`verify_log_since`].

use crate::note::{self, Checkpoint, LogVerifier, NoteError};
use crate::tile::{self, TILE_WIDTH, TileError, TileKind, TilePath};
use crate::tree::{self, Frontier, Hash, ProofError};

/// A log that was found whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    checkpoint: Checkpoint,
    entry_bytes: u64,
}

impl Summary {
    /// What the log claims, and kept.
    #[must_use]
    pub const fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Bytes of all entries together.
    #[must_use]
    pub const fn entry_bytes(&self) -> u64 {
        self.entry_bytes
    }
}

/// What is wrong with a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// There is no checkpoint.
    #[error("there is no checkpoint")]
    NoCheckpoint,
    /// The checkpoint does not open.
    #[error("the checkpoint is not usable")]
    Checkpoint(#[source] NoteError),
    /// A tile or bundle is missing.
    #[error("{path} is missing")]
    Missing {
        /// The file.
        path: String,
    },
    /// A tile or bundle has the wrong length.
    #[error("{path} is damaged")]
    Damaged {
        /// The file.
        path: String,
        /// How.
        #[source]
        error: TileError,
    },
    /// An entry is not the one whose hash is in the tree: changed, swapped, doubled, or its tile was.
    #[error("the entry does not match its leaf hash")]
    Entry,
    /// A hash tile does not follow from the level below.
    #[error("{path} does not follow from the level below")]
    Tile {
        /// The file.
        path: String,
    },
    /// Every tile agrees with every other, and the signed root is another.
    #[error("the root is not the one that was signed")]
    Root,
    /// The log is smaller than a checkpoint remembered elsewhere: rolled back or cut.
    #[error("the log is smaller than the remembered {remembered} entries")]
    RolledBack {
        /// Size remembered.
        remembered: u64,
    },
    /// The log does not contain the tree of a checkpoint remembered elsewhere: forked or rewritten.
    #[error("the log does not continue the remembered checkpoint")]
    Forked,
}

/// A log is not whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("audit log fails{}", .index.map(|index| format!(" at entry {index}")).unwrap_or_default())]
pub struct VerifyError {
    /// The first entry that is wrong or no longer provable; `None` where the fault is the checkpoint's.
    pub index: Option<u64>,
    /// What is wrong.
    #[source]
    pub fault: Fault,
}

/// Verifies the log that `read` reads, against the key of `verifier`.
///
/// # Errors
/// [`VerifyError`] at the first fault, in the order of the entries.
pub fn verify_log(
    read: &impl Fn(&str) -> Option<Vec<u8>>,
    verifier: &LogVerifier,
) -> Result<Summary, VerifyError> {
    walk(read, verifier, None)
}

/// As [`verify_log`], and the log must continue a checkpoint remembered elsewhere.
///
/// # Errors
/// [`VerifyError`]; [`Fault::RolledBack`] and [`Fault::Forked`] besides the others.
pub fn verify_log_since(
    read: &impl Fn(&str) -> Option<Vec<u8>>,
    verifier: &LogVerifier,
    remembered: &Checkpoint,
) -> Result<Summary, VerifyError> {
    walk(read, verifier, Some(remembered))
}

/// Each entry of a log that was found whole goes through `visit`, in order; for scans such as
/// [`crate::invariants`]. The entries are checked while they pass; on `Err`, forget what was seen.
///
/// # Errors
/// [`VerifyError`] as [`verify_log`].
pub fn verify_entries(
    read: &impl Fn(&str) -> Option<Vec<u8>>,
    verifier: &LogVerifier,
    mut visit: impl FnMut(u64, &[u8]),
) -> Result<Summary, VerifyError> {
    Walk::begin(read, verifier)?.run(None, &mut visit)
}

fn walk(
    read: &impl Fn(&str) -> Option<Vec<u8>>,
    verifier: &LogVerifier,
    remembered: Option<&Checkpoint>,
) -> Result<Summary, VerifyError> {
    Walk::begin(read, verifier)?.run(remembered, &mut |_, _| ())
}

struct Walk<'a, R> {
    read: &'a R,
    checkpoint: Checkpoint,
    frontier: Frontier,
    /// Tile roots that the next level must consist of, from level 1.
    above: Vec<Vec<Hash>>,
    entry_bytes: u64,
}

impl<'a, R: Fn(&str) -> Option<Vec<u8>>> Walk<'a, R> {
    fn begin(read: &'a R, verifier: &LogVerifier) -> Result<Self, VerifyError> {
        let note = read("checkpoint").ok_or(VerifyError { index: None, fault: Fault::NoCheckpoint })?;
        let checkpoint = note::open(&note, verifier)
            .map_err(|error| VerifyError { index: None, fault: Fault::Checkpoint(error) })?;
        Ok(Self { read, checkpoint, frontier: Frontier::default(), above: Vec::new(), entry_bytes: 0 })
    }

    fn run(
        mut self,
        remembered: Option<&Checkpoint>,
        visit: &mut impl FnMut(u64, &[u8]),
    ) -> Result<Summary, VerifyError> {
        let size = self.checkpoint.size;
        for bundle in 0..size.div_ceil(TILE_WIDTH) {
            self.bundle(bundle, visit)?;
        }
        for (level, expected) in (1..).zip(std::mem::take(&mut self.above)) {
            self.unfinished(level, &expected)?;
        }
        if self.frontier.root() != self.checkpoint.root {
            return Err(VerifyError { index: None, fault: Fault::Root });
        }
        if let Some(remembered) = remembered {
            self.continues(remembered)?;
        }
        Ok(Summary { checkpoint: self.checkpoint, entry_bytes: self.entry_bytes })
    }

    /// The entries of one bundle against one tile of leaf hashes.
    fn bundle(&mut self, bundle: u64, visit: &mut impl FnMut(u64, &[u8])) -> Result<(), VerifyError> {
        let first = bundle * TILE_WIDTH;
        let path = self.path(TileKind::Entries, bundle)?;
        let (bytes, stored_width) = self.stored(path, first)?;
        let (entries, damage) = tile::whole_entries(&bytes, stored_width);
        let hash_path = self.path(TileKind::Hashes(0), bundle)?;
        let hashes = self.hashes(hash_path, first)?;
        for (index, (entry, expected)) in (first..).zip(entries.iter().zip(&hashes)) {
            let leaf = tree::leaf_hash(entry);
            if leaf != *expected {
                return Err(VerifyError { index: Some(index), fault: Fault::Entry });
            }
            self.frontier.push(leaf);
            self.entry_bytes += entry.len() as u64;
            visit(index, entry);
        }
        // The entries before the damage were compared first: an entry that is wrong comes before a bundle that
        // does not end well.
        if let Some(error) = damage {
            let at = u64::from(match error {
                TileError::Truncated { at } => at,
                TileError::ExtraBytes => path.width() - 1,
            });
            let fault = Fault::Damaged { path: path.to_string(), error };
            return Err(VerifyError { index: Some(first + at), fault });
        }
        if hashes.len() as u64 == TILE_WIDTH {
            self.finished(1, tree::root_of(&hashes))?;
        }
        Ok(())
    }

    /// A tile below `level` is complete and has this root.
    fn finished(&mut self, level: u8, root: Hash) -> Result<(), VerifyError> {
        let at = usize::from(level) - 1;
        if self.above.len() <= at {
            self.above.resize(at + 1, Vec::new());
        }
        self.above[at].push(root);
        if self.above[at].len() as u64 == TILE_WIDTH {
            let expected = std::mem::take(&mut self.above[at]);
            let index = (self.frontier.size() >> (8 * (u32::from(level) + 1))) - 1;
            self.compare(level, index, &expected)?;
            self.finished(level + 1, tree::root_of(&expected))?;
        }
        Ok(())
    }

    /// The partial tile of `level` must consist of `expected`.
    fn unfinished(&self, level: u8, expected: &[Hash]) -> Result<(), VerifyError> {
        if expected.is_empty() {
            return Ok(());
        }
        let index = self.checkpoint.size >> (8 * (u32::from(level) + 1));
        self.compare(level, index, expected)
    }

    fn compare(&self, level: u8, index: u64, expected: &[Hash]) -> Result<(), VerifyError> {
        let path = self.path(TileKind::Hashes(level), index)?;
        let span = 8 * u32::from(level);
        let first = (index * TILE_WIDTH) << span;
        let stored = self.hashes(path, first)?;
        match stored.iter().zip(expected).position(|(stored, expected)| stored != expected) {
            None => Ok(()),
            Some(at) => {
                let index = Some(first + ((at as u64) << span));
                Err(VerifyError { index, fault: Fault::Tile { path: path.to_string() } })
            }
        }
    }

    fn continues(&self, remembered: &Checkpoint) -> Result<(), VerifyError> {
        let size = self.checkpoint.size;
        if remembered.size > size {
            let fault = Fault::RolledBack { remembered: remembered.size };
            return Err(VerifyError { index: Some(size), fault });
        }
        let nodes = tile::TiledTree::new(self.read, size);
        let root = tree::root(&nodes, remembered.size).map_err(|error| match error {
            ProofError::OutOfRange => VerifyError { index: None, fault: Fault::Forked },
            ProofError::MissingNode { level, index } => VerifyError {
                index: Some(index << level),
                fault: Fault::Missing { path: format!("node {index} of level {level}") },
            },
        })?;
        let same = remembered.origin == self.checkpoint.origin && root == remembered.root;
        if same { Ok(()) } else { Err(VerifyError { index: None, fault: Fault::Forked }) }
    }

    /// The path of a tile the checkpoint says exists.
    fn path(&self, kind: TileKind, index: u64) -> Result<TilePath, VerifyError> {
        TilePath::at_size(kind, index, self.checkpoint.size)
            .ok_or(VerifyError { index: None, fault: Fault::Root })
    }

    /// The bytes of the tile, or of the full tile it grew into, and how many items those bytes hold.
    fn stored(&self, path: TilePath, first: u64) -> Result<(Vec<u8>, u16), VerifyError> {
        if let Some(bytes) = (self.read)(&path.to_string()) {
            return Ok((bytes, path.width()));
        }
        let full = (self.read)(&path.filled().to_string());
        let missing = VerifyError { index: Some(first), fault: Fault::Missing { path: path.to_string() } };
        full.map(|bytes| (bytes, 256)).ok_or(missing)
    }

    fn hashes(&self, path: TilePath, first: u64) -> Result<Vec<Hash>, VerifyError> {
        let (bytes, width) = self.stored(path, first)?;
        let mut hashes = tile::decode_hashes(&bytes, width).map_err(|error| VerifyError {
            index: Some(first),
            fault: Fault::Damaged { path: path.to_string(), error },
        })?;
        hashes.truncate(usize::from(path.width()));
        Ok(hashes)
    }
}

#[cfg(test)]
mod tests;
