//! The Merkle tree of RFC 6962 §2.1 (the same as RFC 9162 §2.1): hashes, proofs, and checking them.
//!
//! Not here: where hashes are stored. Proofs are made from anything that can name the root of a perfect
//! subtree ([`Nodes`]); [`Frontier`] grows a tree while keeping only its right edge.

use countersign_proto::digest::Sha256Digest;

/// A node of the tree.
pub type Hash = Sha256Digest;

/// The hash of an entry (RFC 6962 §2.1: `SHA-256(0x00 || entry)`).
#[must_use]
pub fn leaf_hash(entry: &[u8]) -> Hash {
    prefixed(&[&[0x00], entry])
}

/// The hash of two subtrees (RFC 6962 §2.1: `SHA-256(0x01 || left || right)`).
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    prefixed(&[&[0x01], left.as_bytes(), right.as_bytes()])
}

/// The root of the tree without entries (RFC 6962 §2.1: `SHA-256()`).
#[must_use]
pub fn empty_root() -> Hash {
    Hash::of(&[])
}

fn prefixed(parts: &[&[u8]]) -> Hash {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for part in parts {
        context.update(part);
    }
    let mut out = [0_u8; 32];
    out.copy_from_slice(context.finish().as_ref());
    Hash::from_bytes(out)
}

/// The root over perfect-subtree hashes that lie side by side on one level. Empty input is the empty tree.
#[must_use]
pub fn root_of(hashes: &[Hash]) -> Hash {
    let mut frontier = Frontier::default();
    for hash in hashes {
        frontier.push(*hash);
    }
    frontier.root()
}

/// The right edge of a growing tree: one hash per set bit of its size, largest subtree first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    pub(crate) size: u64,
    pub(crate) peaks: Vec<Hash>,
}

impl Frontier {
    /// A tree of `size` leaves whose perfect subtrees, left to right, have these roots. `None` unless there
    /// is exactly one for each set bit of `size`.
    #[must_use]
    pub fn from_peaks(size: u64, peaks: Vec<Hash>) -> Option<Self> {
        (u64::from(size.count_ones()) == peaks.len() as u64).then_some(Self { size, peaks })
    }

    /// Appends one leaf hash.
    pub fn push(&mut self, leaf: Hash) {
        let mut subtree = leaf;
        let mut carry = self.size;
        while carry & 1 == 1 {
            if let Some(left) = self.peaks.pop() {
                subtree = node_hash(&left, &subtree);
            }
            carry >>= 1;
        }
        self.peaks.push(subtree);
        self.size += 1;
    }

    /// Number of leaves.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The root of the tree as it stands.
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut peaks = self.peaks.iter().rev();
        let Some(last) = peaks.next() else { return empty_root() };
        peaks.fold(*last, |right, left| node_hash(left, &right))
    }
}

/// Something that knows the roots of perfect subtrees.
pub trait Nodes {
    /// The root of leaves `[index << level, (index + 1) << level)`; `None` if it is not known.
    fn node(&self, level: u32, index: u64) -> Option<Hash>;
}

/// A proof could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The question has no answer: index or old size beyond the tree.
    #[error("no such entry or size in this tree")]
    OutOfRange,
    /// A node the proof needs is not available.
    #[error("the tree is missing node {index} of level {level}")]
    MissingNode {
        /// Height of the missing subtree.
        level: u32,
        /// Which subtree of that height, counted from the left.
        index: u64,
    },
}

/// The root of the first `size` leaves.
///
/// # Errors
/// [`ProofError::MissingNode`] if `nodes` does not know the tree up to `size`.
pub fn root(nodes: &impl Nodes, size: u64) -> Result<Hash, ProofError> {
    if size == 0 { Ok(empty_root()) } else { range_root(nodes, 0, size) }
}

/// The audit path of leaf `index` in the tree of `size` leaves, bottom first (RFC 6962 §2.1.1).
///
/// # Errors
/// [`ProofError`] if `index` is not in the tree or a node is missing.
pub fn inclusion_proof(nodes: &impl Nodes, index: u64, size: u64) -> Result<Vec<Hash>, ProofError> {
    if index >= size {
        return Err(ProofError::OutOfRange);
    }
    let (mut start, mut end) = (0, size);
    let mut path = Vec::new();
    while end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            path.push(range_root(nodes, middle, end)?);
            end = middle;
        } else {
            path.push(range_root(nodes, start, middle)?);
            start = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// The proof that the tree of `old` leaves is a prefix of the tree of `new` leaves (RFC 6962 §2.1.2).
/// Empty if `old` is zero or both are the same.
///
/// # Errors
/// [`ProofError`] if `old > new` or a node is missing.
pub fn consistency_proof(nodes: &impl Nodes, old: u64, new: u64) -> Result<Vec<Hash>, ProofError> {
    if old > new {
        return Err(ProofError::OutOfRange);
    }
    if old == 0 || old == new {
        return Ok(Vec::new());
    }
    let (mut start, mut end) = (0, new);
    let mut path = Vec::new();
    // SUBPROOF walks towards the border `old`; it ends where the subtree ends exactly there.
    while end != old {
        let middle = start + split(end - start);
        if old <= middle {
            path.push(range_root(nodes, middle, end)?);
            end = middle;
        } else {
            path.push(range_root(nodes, start, middle)?);
            start = middle;
        }
    }
    if start != 0 {
        path.push(range_root(nodes, start, end)?);
    }
    path.reverse();
    Ok(path)
}

/// Does `proof` show that `leaf` is entry `index` of the tree of `size` leaves with `root`? (RFC 9162 §2.1.3.2)
#[must_use]
pub fn verify_inclusion(proof: &[Hash], index: u64, leaf: &Hash, size: u64, root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut node, mut last) = (index, size - 1);
    let mut hash = *leaf;
    for sibling in proof {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// Does `proof` show that the first tree is a prefix of the second? (RFC 9162 §2.1.4.2)
#[must_use]
pub fn verify_consistency(proof: &[Hash], old: u64, old_root: &Hash, new: u64, new_root: &Hash) -> bool {
    if old > new {
        return false;
    }
    if old == new {
        return proof.is_empty() && old_root == new_root;
    }
    if old == 0 {
        return proof.is_empty() && *old_root == empty_root();
    }
    let mut path = proof.iter();
    // A tree of a power-of-two size is itself the first node of the path, left out of the proof.
    let first = if old.is_power_of_two() { Some(old_root) } else { path.next() };
    let Some(first) = first else { return false };
    let (mut node, mut last) = (old - 1, new - 1);
    while node & 1 == 1 {
        node >>= 1;
        last >>= 1;
    }
    let (mut old_hash, mut new_hash) = (*first, *first);
    for sibling in path {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            old_hash = node_hash(sibling, &old_hash);
            new_hash = node_hash(sibling, &new_hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            new_hash = node_hash(&new_hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && old_hash == *old_root && new_hash == *new_root
}

/// The root over `[start, end)`, built from perfect subtrees. `start` is aligned as RFC 6962 splits fall.
fn range_root(nodes: &impl Nodes, start: u64, end: u64) -> Result<Hash, ProofError> {
    let width = end - start;
    if width.is_power_of_two() {
        let level = width.trailing_zeros();
        let index = start >> level;
        return nodes.node(level, index).ok_or(ProofError::MissingNode { level, index });
    }
    let middle = start + split(width);
    Ok(node_hash(&range_root(nodes, start, middle)?, &range_root(nodes, middle, end)?))
}

/// The largest power of two smaller than `width` (`width >= 2`).
const fn split(width: u64) -> u64 {
    1 << (u64::BITS - 1 - (width - 1).leading_zeros())
}

#[cfg(test)]
mod tests;
