//! Tiles and entry bundles as C2SP tlog-tiles lays them out: paths, hash tiles, entry bundles.
//!
//! Bytes in, values out. Where the bytes lie, and whether they are true, is for others to say.

use std::fmt;

use crate::tree::{self, Hash, Nodes};

/// Hashes in a full tile and entries in a full bundle (tile height 8).
pub const TILE_WIDTH: u64 = 256;
/// Levels a tile may have (C2SP tlog-tiles: 0 to 63).
pub const MAX_LEVEL: u8 = 63;
/// The longest entry: its length travels as two bytes.
pub const MAX_ENTRY_BYTES: usize = 65_535;

/// What a tile holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TileKind {
    /// Hashes of this level (0 is leaf hashes).
    Hashes(u8),
    /// The entries themselves.
    Entries,
}

/// The name of a tile: `tile/<level|entries>/<index>[.p/<width>]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TilePath {
    kind: TileKind,
    index: u64,
    width: u16,
}

/// The text is not the one spelling of a tile path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a tile path")]
pub struct NotATilePath;

impl TilePath {
    /// The full tile `index`.
    #[must_use]
    pub const fn full(kind: TileKind, index: u64) -> Self {
        Self { kind, index, width: 256 }
    }

    /// Tile `index` with its first `width` items; `None` unless `1 <= width <= 256`.
    #[must_use]
    pub const fn with_width(kind: TileKind, index: u64, width: u16) -> Option<Self> {
        if width >= 1 && width <= 256 { Some(Self { kind, index, width }) } else { None }
    }

    /// Tile `index` as wide as it is in a tree of `size` leaves; `None` if it has nothing yet.
    #[must_use]
    pub fn at_size(kind: TileKind, index: u64, size: u64) -> Option<Self> {
        let items = match kind {
            TileKind::Entries => size,
            TileKind::Hashes(level) => size.checked_shr(8 * u32::from(level)).unwrap_or(0),
        };
        let start = index.checked_mul(TILE_WIDTH)?;
        let width = items.checked_sub(start)?.min(TILE_WIDTH);
        Self::with_width(kind, index, u16::try_from(width).ok()?)
    }

    /// What the tile holds.
    #[must_use]
    pub const fn kind(&self) -> TileKind {
        self.kind
    }

    /// Which tile of its level, from the left.
    #[must_use]
    pub const fn index(&self) -> u64 {
        self.index
    }

    /// Items in the tile, 1 to 256.
    #[must_use]
    pub const fn width(&self) -> u16 {
        self.width
    }

    /// The same tile when it has become full.
    #[must_use]
    pub const fn filled(&self) -> Self {
        Self::full(self.kind, self.index)
    }

    /// The directory that holds the partial versions of this tile: `tile/…/<index>.p`.
    #[must_use]
    pub fn partial_dir(&self) -> String {
        format!("{}.p", self.filled())
    }

    /// Reads the one spelling of a path.
    ///
    /// # Errors
    /// [`NotATilePath`] for any other text.
    pub fn parse(text: &str) -> Result<Self, NotATilePath> {
        let rest = text.strip_prefix("tile/").ok_or(NotATilePath)?;
        let (kind, rest) = rest.split_once('/').ok_or(NotATilePath)?;
        let kind = match kind {
            "entries" => TileKind::Entries,
            level => match decimal(level).and_then(|level| u8::try_from(level).ok()) {
                Some(level) if level <= MAX_LEVEL => TileKind::Hashes(level),
                _ => return Err(NotATilePath),
            },
        };
        let (groups, width) = match rest.split_once(".p/") {
            Some((groups, width)) => (groups, decimal(width).ok_or(NotATilePath)?),
            None => (rest, TILE_WIDTH),
        };
        let mut index = 0_u64;
        for group in groups.split('/') {
            let digits = group.strip_prefix('x').unwrap_or(group);
            if digits.len() != 3 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(NotATilePath);
            }
            let digits: u64 = digits.parse().map_err(|_| NotATilePath)?;
            index = index.checked_mul(1000).and_then(|i| i.checked_add(digits)).ok_or(NotATilePath)?;
        }
        let width = u16::try_from(width).map_err(|_| NotATilePath)?;
        let path = Self::with_width(kind, index, width).ok_or(NotATilePath)?;
        // One tile, one name: whatever is not printed the same way again is refused.
        if path.to_string() == text { Ok(path) } else { Err(NotATilePath) }
    }
}

impl fmt::Display for TilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            TileKind::Hashes(level) => write!(f, "tile/{level}/")?,
            TileKind::Entries => f.write_str("tile/entries/")?,
        }
        let mut divisor = 1_u64;
        while self.index / divisor >= 1000 {
            divisor *= 1000;
        }
        while divisor > 1 {
            write!(f, "x{:03}/", self.index / divisor % 1000)?;
            divisor /= 1000;
        }
        write!(f, "{:03}", self.index % 1000)?;
        if self.width < 256 { write!(f, ".p/{}", self.width) } else { Ok(()) }
    }
}

fn decimal(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

/// The bytes of a tile are not what its path promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TileError {
    /// The tile ends before item `at`, or within it.
    #[error("ends before or within item {at}")]
    Truncated {
        /// First item (counted within the tile) that is not whole.
        at: u16,
    },
    /// There are bytes after the last item.
    #[error("has extra bytes")]
    ExtraBytes,
}

/// The bytes of a hash tile.
#[must_use]
pub fn encode_hashes(hashes: &[Hash]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(hashes.len() * 32);
    for hash in hashes {
        bytes.extend_from_slice(hash.as_bytes());
    }
    bytes
}

/// Reads a hash tile of exactly `width` hashes.
///
/// # Errors
/// [`TileError`] if the length is not 32 bytes for each.
pub fn decode_hashes(bytes: &[u8], width: u16) -> Result<Vec<Hash>, TileError> {
    let (chunks, rest) = bytes.as_chunks::<32>();
    if chunks.len() < usize::from(width) {
        return Err(TileError::Truncated { at: u16::try_from(chunks.len()).unwrap_or(u16::MAX) });
    }
    if chunks.len() > usize::from(width) || !rest.is_empty() {
        return Err(TileError::ExtraBytes);
    }
    Ok(chunks.iter().map(|chunk| Hash::from_bytes(*chunk)).collect())
}

/// An entry is longer than [`MAX_ENTRY_BYTES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("entry is longer than 65535 bytes")]
pub struct EntryTooLong;

/// Appends one entry to a bundle: two bytes of length, big-endian, and the entry.
///
/// # Errors
/// [`EntryTooLong`]; the bundle is then unchanged.
pub fn push_entry(bundle: &mut Vec<u8>, entry: &[u8]) -> Result<(), EntryTooLong> {
    let length = u16::try_from(entry.len()).map_err(|_| EntryTooLong)?;
    bundle.extend_from_slice(&length.to_be_bytes());
    bundle.extend_from_slice(entry);
    Ok(())
}

/// Reads a bundle of exactly `width` entries.
///
/// # Errors
/// [`TileError`] if it ends early or has more.
pub fn decode_entries(bytes: &[u8], width: u16) -> Result<Vec<&[u8]>, TileError> {
    let (entries, error) = whole_entries(bytes, width);
    error.map_or(Ok(entries), Err)
}

/// The entries of a bundle up to the first that is not whole, and what is wrong with the rest.
#[must_use]
pub fn whole_entries(bytes: &[u8], width: u16) -> (Vec<&[u8]>, Option<TileError>) {
    let mut entries = Vec::with_capacity(usize::from(width.min(256)));
    let mut rest = bytes;
    for at in 0..width {
        let next = rest
            .split_first_chunk::<2>()
            .and_then(|(length, tail)| tail.split_at_checked(usize::from(u16::from_be_bytes(*length))));
        let Some((entry, tail)) = next else { return (entries, Some(TileError::Truncated { at })) };
        entries.push(entry);
        rest = tail;
    }
    (entries, (!rest.is_empty()).then_some(TileError::ExtraBytes))
}

/// Reads the tile for a tree of `size` leaves: the partial one, or a prefix of the full one where the
/// partial has been tidied away (C2SP tlog-tiles allows that once the full tile exists).
pub fn read_hashes(
    read: &impl Fn(&str) -> Option<Vec<u8>>,
    path: TilePath,
) -> Option<Result<Vec<Hash>, TileError>> {
    if let Some(bytes) = read(&path.to_string()) {
        return Some(decode_hashes(&bytes, path.width()));
    }
    let bytes = read(&path.filled().to_string())?;
    Some(decode_hashes(&bytes, 256).map(|mut hashes| {
        hashes.truncate(usize::from(path.width()));
        hashes
    }))
}

/// A tree of `size` leaves seen through its stored tiles. It believes what it reads; compare the root.
pub struct TiledTree<'a, R> {
    read: &'a R,
    size: u64,
}

impl<'a, R: Fn(&str) -> Option<Vec<u8>>> TiledTree<'a, R> {
    /// The tree of the first `size` leaves, its tiles read through `read`.
    #[must_use]
    pub const fn new(read: &'a R, size: u64) -> Self {
        Self { read, size }
    }
}

impl<R: Fn(&str) -> Option<Vec<u8>>> Nodes for TiledTree<'_, R> {
    fn node(&self, level: u32, index: u64) -> Option<Hash> {
        let (tile_level, within) = (u8::try_from(level / 8).ok()?, level % 8);
        let first = index << within;
        let path = TilePath::at_size(TileKind::Hashes(tile_level), first / TILE_WIDTH, self.size)?;
        let hashes = read_hashes(self.read, path)?.ok()?;
        let start = usize::try_from(first % TILE_WIDTH).ok()?;
        hashes.get(start..start + (1 << within)).map(tree::root_of)
    }
}

#[cfg(test)]
mod tests;
