//! Where records get their place: staged, made durable by someone else, then part of the tree.
//!
//! No IO. A staged batch changes nothing until [`Staged::durable`]; so no checkpoint ever covers a record that
//! may be lost, and a batch whose write failed is dropped without a trace.

use std::collections::BTreeMap;

use crate::note::{Checkpoint, Origin};
use crate::record::Record;
use crate::tile::{self, EntryTooLong, MAX_LEVEL, TILE_WIDTH, TileKind, TilePath};
use crate::tree::{self, Frontier, Hash};

/// Proof that a record is durable at its place in the log.
///
/// Only [`Staged::durable`] makes one, after the caller's disk said so. It cannot be written down by hand:
///
/// ```compile_fail,E0451
/// use countersign_audit::{Origin, Receipt};
/// fn forge(origin: Origin, leaf: countersign_audit::tree::Hash) -> Receipt {
///     Receipt { origin, index: 0, leaf, size: 1 }
/// }
/// ```
///
/// nor copied, so that one record lets one decision out:
///
/// ```compile_fail,E0599
/// fn twice(receipt: countersign_audit::Receipt) -> (countersign_audit::Receipt, countersign_audit::Receipt) {
///     (receipt.clone(), receipt)
/// }
/// ```
#[derive(Debug)]
#[must_use = "a receipt is the only thing that lets a decision out"]
pub struct Receipt {
    origin: Origin,
    index: u64,
    leaf: Hash,
    size: u64,
}

impl Receipt {
    /// The log that holds the record.
    #[must_use]
    pub const fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The record's place in the log, counted from zero.
    #[must_use]
    pub const fn index(&self) -> u64 {
        self.index
    }

    /// The record's leaf hash.
    #[must_use]
    pub const fn leaf_hash(&self) -> &Hash {
        &self.leaf
    }

    /// The first tree size at which a published checkpoint covers the record and its whole batch.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Is this the receipt of `record`?
    #[must_use]
    pub fn is_for(&self, record: &Record) -> bool {
        self.leaf == *record.leaf_hash()
    }
}

/// A file to be written: a tile or an entry bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Its name.
    pub path: TilePath,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Why a sequencer cannot go on from stored tiles.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResumeError {
    /// The size to resume from does not end a tile.
    #[error("size {size} does not end a tile")]
    Unaligned {
        /// The size asked for.
        size: u64,
    },
    /// A full tile is missing or has the wrong length.
    #[error("{path} is missing or not a full tile")]
    BadTile {
        /// The tile.
        path: String,
    },
}

/// The growing end of a log.
#[derive(Clone, Debug)]
pub struct Sequencer {
    origin: Origin,
    frontier: Frontier,
    /// The partial tile of each level, from level 0.
    levels: Vec<Vec<Hash>>,
    /// The partial entry bundle.
    bundle: Vec<u8>,
    /// Tiles and bundles that became full and were not taken yet.
    full: BTreeMap<TilePath, Vec<u8>>,
    full_bytes: usize,
}

impl Sequencer {
    /// An empty log.
    #[must_use]
    pub const fn new(origin: Origin) -> Self {
        Self {
            origin,
            frontier: Frontier { size: 0, peaks: Vec::new() },
            levels: Vec::new(),
            bundle: Vec::new(),
            full: BTreeMap::new(),
            full_bytes: 0,
        }
    }

    /// Goes on at `size`, a multiple of 256, from full tiles. Reads at most 255 tiles of each level, and
    /// believes them: compare the root with a signed checkpoint.
    ///
    /// # Errors
    /// [`ResumeError`] if `size` does not end a tile or a tile cannot be read.
    pub fn resume(
        origin: Origin,
        size: u64,
        read: &impl Fn(&str) -> Option<Vec<u8>>,
    ) -> Result<Self, ResumeError> {
        if !size.is_multiple_of(TILE_WIDTH) {
            return Err(ResumeError::Unaligned { size });
        }
        let mut levels = vec![Vec::new()];
        let mut below = size / TILE_WIDTH;
        while below > 0 {
            let level = u8::try_from(levels.len()).unwrap_or(MAX_LEVEL);
            let mut edge = Vec::new();
            for index in below / TILE_WIDTH * TILE_WIDTH..below {
                let path = TilePath::full(TileKind::Hashes(level - 1), index).to_string();
                let hashes = read(&path).and_then(|bytes| tile::decode_hashes(&bytes, 256).ok());
                edge.push(tree::root_of(&hashes.ok_or(ResumeError::BadTile { path })?));
            }
            levels.push(edge);
            below /= TILE_WIDTH;
        }
        // Each level's partial tile holds, as its own little tree, the peaks of that height.
        let mut peaks = Vec::new();
        for edge in levels.iter().rev() {
            let mut little = Frontier::default();
            edge.iter().for_each(|hash| little.push(*hash));
            peaks.extend(little.peaks);
        }
        let frontier = Frontier::from_peaks(size, peaks).ok_or(ResumeError::Unaligned { size })?;
        Ok(Self { origin, frontier, levels, bundle: Vec::new(), full: BTreeMap::new(), full_bytes: 0 })
    }

    /// The log's name.
    #[must_use]
    pub const fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Entries in the tree.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.frontier.size
    }

    /// The claim a checkpoint may make now: durable entries only.
    #[must_use]
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint { origin: self.origin.clone(), size: self.size(), root: self.frontier.root() }
    }

    /// Proposes `records` as the next entries, in this order.
    pub const fn stage(&mut self, records: Vec<Record>) -> Staged<'_> {
        Staged { sequencer: self, records }
    }

    /// Takes in an entry that is durable already: recovery from a journal.
    ///
    /// # Errors
    /// [`EntryTooLong`] if it cannot be an entry.
    pub fn replay(&mut self, entry: &[u8]) -> Result<(), EntryTooLong> {
        self.push(entry, tree::leaf_hash(entry))
    }

    /// Bytes of full tiles waiting in [`Self::take_full`].
    #[must_use]
    pub const fn waiting_bytes(&self) -> usize {
        self.full_bytes
    }

    /// The tiles and bundles that became full since the last call, in the order they should be written.
    #[must_use]
    pub fn take_full(&mut self) -> Vec<Write> {
        self.full_bytes = 0;
        std::mem::take(&mut self.full).into_iter().map(|(path, bytes)| Write { path, bytes }).collect()
    }

    /// The partial tiles and the partial bundle as they are now.
    #[must_use]
    pub fn partial(&self) -> Vec<Write> {
        let mut writes = Vec::new();
        if let Some(path) = self.edge(TileKind::Entries) {
            writes.push(Write { path, bytes: self.bundle.clone() });
        }
        for (level, hashes) in (0..=MAX_LEVEL).zip(&self.levels) {
            if let Some(path) = self.edge(TileKind::Hashes(level)) {
                writes.push(Write { path, bytes: tile::encode_hashes(hashes) });
            }
        }
        writes
    }

    /// The partial tile of this kind, if there is one.
    fn edge(&self, kind: TileKind) -> Option<TilePath> {
        let items = match kind {
            TileKind::Entries => self.size(),
            TileKind::Hashes(level) => self.size().checked_shr(8 * u32::from(level)).unwrap_or(0),
        };
        TilePath::with_width(kind, items / TILE_WIDTH, u16::try_from(items % TILE_WIDTH).ok()?)
    }

    fn push(&mut self, entry: &[u8], leaf: Hash) -> Result<(), EntryTooLong> {
        tile::push_entry(&mut self.bundle, entry)?;
        self.frontier.push(leaf);
        if self.size().is_multiple_of(TILE_WIDTH) {
            let bundle = std::mem::take(&mut self.bundle);
            self.filled(TileKind::Entries, self.size() / TILE_WIDTH - 1, bundle);
        }
        self.push_hash(0, leaf);
        Ok(())
    }

    /// Puts a hash on a level; a tile that becomes full puts its root on the next.
    fn push_hash(&mut self, level: u8, hash: Hash) {
        let at = usize::from(level);
        if self.levels.len() <= at {
            self.levels.resize(at + 1, Vec::new());
        }
        self.levels[at].push(hash);
        if self.levels[at].len() as u64 == TILE_WIDTH {
            let hashes = std::mem::take(&mut self.levels[at]);
            let index = (self.size() >> (8 * (u32::from(level) + 1))) - 1;
            self.filled(TileKind::Hashes(level), index, tile::encode_hashes(&hashes));
            self.push_hash(level + 1, tree::root_of(&hashes));
        }
    }

    fn filled(&mut self, kind: TileKind, index: u64, bytes: Vec<u8>) {
        self.full_bytes += bytes.len();
        self.full.insert(TilePath::full(kind, index), bytes);
    }
}

/// Records that would be next. Dropped, they never were.
#[derive(Debug)]
pub struct Staged<'a> {
    sequencer: &'a mut Sequencer,
    records: Vec<Record>,
}

impl Staged<'_> {
    /// The place of the first record.
    #[must_use]
    pub const fn first_index(&self) -> u64 {
        self.sequencer.size()
    }

    /// The records, in order.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// The caller's promise that the records of this batch, in this order, survive a power failure.
    /// Only now are they part of the tree; one receipt for each, in order.
    pub fn durable(self) -> Vec<Receipt> {
        let Self { sequencer, records } = self;
        let first = sequencer.size();
        let size = first + records.len() as u64;
        let mut receipts = Vec::with_capacity(records.len());
        for (index, record) in (first..).zip(records) {
            let leaf = *record.leaf_hash();
            // A record is an entry by its type: `RecordBuilder::build` and `Record::parse` bound its length.
            if sequencer.push(record.bytes(), leaf).is_ok() {
                receipts.push(Receipt { origin: sequencer.origin.clone(), index, leaf, size });
            }
        }
        receipts
    }
}

#[cfg(test)]
mod tests;
