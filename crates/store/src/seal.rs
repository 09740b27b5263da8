//! The row seal: HMAC-SHA256 over everything a stored row says, so that an edited or swapped row is noticed.
//!
//! It is not encryption, and alone it does not notice that a whole older file, or an older version of one row,
//! was put back; the audit log and its witnesses are there for that.

use std::fmt;

use aws_lc_rs::hmac;

/// What kind of row a seal is for; part of the sealed bytes, so that no seal fits another table.
#[derive(Clone, Copy, Debug)]
pub enum Sealed {
    /// `rows`.
    Row,
    /// `keys`.
    Key,
    /// `consumed`.
    Consumed,
    /// `meta`.
    Meta,
}

impl Sealed {
    const fn label(self) -> &'static [u8] {
        match self {
            Self::Row => b"countersign/store/row/v1",
            Self::Key => b"countersign/store/key/v1",
            Self::Consumed => b"countersign/store/consumed/v1",
            Self::Meta => b"countersign/store/meta/v1",
        }
    }
}

/// Makes and checks seals. The key does not leave it.
#[derive(Clone)]
pub struct Sealer {
    key: hmac::Key,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer")
    }
}

impl Sealer {
    /// With the 32-byte key of this store.
    pub fn new(key: &[u8; 32]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, key) }
    }

    /// The seal over `parts`.
    pub fn seal(&self, what: Sealed, parts: &[&[u8]]) -> [u8; 32] {
        let mut seal = [0_u8; 32];
        seal.copy_from_slice(hmac::sign(&self.key, &framed(what, parts)).as_ref());
        seal
    }

    /// Whether `seal` is the seal over `parts`, compared in constant time.
    pub fn holds(&self, what: Sealed, parts: &[&[u8]], seal: &[u8]) -> bool {
        hmac::verify(&self.key, &framed(what, parts), seal).is_ok()
    }
}

/// INVARIANT: injective. Each part is preceded by its length, so moving a byte across a boundary changes the text.
fn framed(what: Sealed, parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64 + parts.iter().map(|part| part.len() + 8).sum::<usize>());
    for part in std::iter::once(&what.label()).chain(parts) {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}
