//! The offline proof of one entry (C2SP tlog-proof): inclusion path and signed checkpoint in one small text.
//!
//! It proves that an entry is in the tree its checkpoint claims; it does not say that the checkpoint is the
//! newest, nor that others were shown the same tree.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::note::{self, Checkpoint, LogVerifier, NoteError};
use crate::tile::TiledTree;
use crate::tree::{self, Hash, ProofError};

/// First line of a proof.
pub const PROOF_HEADER: &str = "c2sp.org/tlog-proof@v1";
/// The longest path of a tree with 2^64 leaves.
const MAX_PATH: usize = 64;

/// Why a proof cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MakeError {
    /// There is no checkpoint, or it does not open.
    #[error("the checkpoint is not usable")]
    Checkpoint(#[source] NoteError),
    /// The tree lacks a node, or has no such entry.
    #[error("the path cannot be read")]
    Path(#[source] ProofError),
    /// The tiles are not the tree the checkpoint claims.
    #[error("the tiles do not lead to the root of the checkpoint")]
    WrongTiles,
}

/// Why a proof proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// The text is not a proof.
    #[error("not a tlog-proof")]
    Malformed,
    /// Its checkpoint does not open.
    #[error("the checkpoint in the proof is not usable")]
    Checkpoint(#[source] NoteError),
    /// The entry is not where the proof says, or the path is wrong.
    #[error("the proof is not for this entry")]
    NotThisEntry,
}

/// What a good proof shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proved {
    index: u64,
    checkpoint: Checkpoint,
}

impl Proved {
    /// The entry's place in the log.
    #[must_use]
    pub const fn index(&self) -> u64 {
        self.index
    }

    /// The checkpoint whose tree holds the entry.
    #[must_use]
    pub const fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }
}

/// The proof for entry `index`, from a published log.
///
/// # Errors
/// [`MakeError`] if checkpoint or tiles are not what they should be; nothing false is ever printed.
pub fn prove(
    read: &impl Fn(&str) -> Option<Vec<u8>>,
    verifier: &LogVerifier,
    index: u64,
) -> Result<String, MakeError> {
    let note = read("checkpoint").unwrap_or_default();
    let checkpoint = note::open(&note, verifier).map_err(MakeError::Checkpoint)?;
    let nodes = TiledTree::new(read, checkpoint.size);
    let path = tree::inclusion_proof(&nodes, index, checkpoint.size).map_err(MakeError::Path)?;
    let missing = MakeError::Path(ProofError::MissingNode { level: 0, index });
    let leaf = tree::Nodes::node(&nodes, 0, index).ok_or(missing)?;
    if !tree::verify_inclusion(&path, index, &leaf, checkpoint.size, &checkpoint.root) {
        return Err(MakeError::WrongTiles);
    }
    let mut text = format!("{PROOF_HEADER}\nindex {index}\n");
    for hash in &path {
        let _ = writeln!(text, "{}", STANDARD.encode(hash.as_bytes()));
    }
    text.push('\n');
    text.push_str(&String::from_utf8_lossy(&note));
    Ok(text)
}

/// Checks that `text` proves `entry`. An `extra` line is read over; it is not covered by the proof.
///
/// # Errors
/// [`CheckError`] if the text is malformed, its checkpoint is not signed by `verifier`, or the entry is another.
pub fn check(text: &str, entry: &[u8], verifier: &LogVerifier) -> Result<Proved, CheckError> {
    let (index, path, note) = parse(text).ok_or(CheckError::Malformed)?;
    let checkpoint = note::open(note.as_bytes(), verifier).map_err(CheckError::Checkpoint)?;
    let leaf = tree::leaf_hash(entry);
    if tree::verify_inclusion(&path, index, &leaf, checkpoint.size, &checkpoint.root) {
        Ok(Proved { index, checkpoint })
    } else {
        Err(CheckError::NotThisEntry)
    }
}

/// Index, path and checkpoint note.
fn parse(text: &str) -> Option<(u64, Vec<Hash>, &str)> {
    let rest = text.strip_prefix(PROOF_HEADER)?.strip_prefix('\n')?;
    let rest = match rest.strip_prefix("extra ") {
        Some(extra) => {
            let (data, rest) = extra.split_once('\n')?;
            STANDARD.decode(data).ok()?;
            rest
        }
        None => rest,
    };
    let (index, rest) = rest.strip_prefix("index ")?.split_once('\n')?;
    let number: u64 = index.parse().ok()?;
    if number.to_string() != index {
        return None;
    }
    let mut path = Vec::new();
    let mut rest = rest;
    loop {
        let (line, tail) = rest.split_once('\n')?;
        rest = tail;
        if line.is_empty() {
            return Some((number, path, rest));
        }
        if path.len() == MAX_PATH {
            return None;
        }
        let hash: [u8; 32] = STANDARD.decode(line).ok()?.try_into().ok()?;
        path.push(Hash::from_bytes(hash));
    }
}

#[cfg(test)]
mod tests;
