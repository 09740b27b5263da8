//! The journal: what makes a record durable with one flush for a whole batch. Bytes only, no files.
//!
//! A segment is a header and frames; a frame is one batch under one SHA-256. Tiles are made from it afterwards.
//! It is our own format and nobody else's business: readers look at tiles.
//!
//! ```text
//! segment = "cslog\0\0\1" first_index:u64 origin:[u8;32] check:[u8;16]            64 bytes
//! frame   = C5 46 00 01  payload_length:u32 first_index:u64 count:u32 0:u32  sha256:[u8;32]  payload
//! payload = count × ( length:u16 entry )                                 all numbers big-endian
//! ```

use countersign_audit::note::Origin;
use countersign_audit::record::Record;
use countersign_audit::tile;
use countersign_proto::digest::Sha256Digest;

/// Bytes of a segment's header.
pub(crate) const HEADER_BYTES: usize = 64;
const SEGMENT_MAGIC: [u8; 8] = *b"cslog\0\0\x01";
/// Holds a NUL, which no record (JSON text) can: a frame never seems to begin inside an entry.
const FRAME_MAGIC: [u8; 4] = [0xc5, 0x46, 0x00, 0x01];
const FRAME_HEADER_BYTES: usize = 24;
const FRAME_OVERHEAD: usize = FRAME_HEADER_BYTES + 32;

/// The directory of segments.
pub(crate) const DIR: &str = "journal";

/// The file of the segment that begins with entry `first`.
pub(crate) fn segment_path(first: u64) -> String {
    format!("{DIR}/{first:016x}")
}

/// The first entry of the segment of this file name.
pub(crate) fn segment_first(name: &str) -> Option<u64> {
    let first = u64::from_str_radix(name, 16).ok()?;
    (segment_path(first) == format!("{DIR}/{name}")).then_some(first)
}

/// The header of the segment that begins with entry `first`.
pub(crate) fn header(origin: &Origin, first: u64) -> Vec<u8> {
    let mut bytes = SEGMENT_MAGIC.to_vec();
    bytes.extend_from_slice(&first.to_be_bytes());
    bytes.extend_from_slice(Sha256Digest::of(origin.as_str().as_bytes()).as_bytes());
    let check = Sha256Digest::of(&bytes);
    bytes.extend_from_slice(&check.as_bytes()[..16]);
    bytes
}

/// One batch as a frame. Every record fits: its length was bounded when it was built.
pub(crate) fn frame(first: u64, records: &[Record]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(records.iter().map(|record| 2 + record.bytes().len()).sum());
    let mut count = 0_u32;
    for record in records {
        if tile::push_entry(&mut payload, record.bytes()).is_ok() {
            count += 1;
        }
    }
    let mut bytes = Vec::with_capacity(FRAME_OVERHEAD + payload.len());
    bytes.extend_from_slice(&FRAME_MAGIC);
    // The committer bounds a batch far below 4 GiB (`LogLimits::batch_bytes`).
    bytes.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(&first.to_be_bytes());
    bytes.extend_from_slice(&count.to_be_bytes());
    bytes.extend_from_slice(&[0; 4]);
    let digest = frame_digest(&bytes, &payload);
    bytes.extend_from_slice(digest.as_bytes());
    bytes.extend_from_slice(&payload);
    bytes
}

fn frame_digest(header: &[u8], payload: &[u8]) -> Sha256Digest {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    context.update(header);
    context.update(payload);
    let mut out = [0_u8; 32];
    out.copy_from_slice(context.finish().as_ref());
    Sha256Digest::from_bytes(out)
}

/// A frame that was read whole.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) first: u64,
    pub(crate) entries: Vec<&'a [u8]>,
    /// Bytes of the whole frame.
    pub(crate) length: usize,
}

/// What the bytes from here on are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next<'a> {
    /// A whole frame.
    Frame(Frame<'a>),
    /// Nothing more.
    End,
    /// Not a whole frame, and no whole frame anywhere behind: what a crash leaves of a batch nobody was told about.
    TornTail,
    /// Not a whole frame, but whole frames follow: durable batches were damaged.
    Damaged,
}

/// Reads the next frame.
pub(crate) fn next_frame(bytes: &[u8]) -> Next<'_> {
    if bytes.is_empty() {
        return Next::End;
    }
    if let Some(frame) = whole_frame(bytes) {
        return Next::Frame(frame);
    }
    // A batch is written only after the one before it was flushed; so a whole frame behind a broken one
    // means that the broken one had been whole.
    let later = (1..bytes.len())
        .any(|at| bytes[at..].starts_with(&FRAME_MAGIC) && whole_frame(&bytes[at..]).is_some());
    if later { Next::Damaged } else { Next::TornTail }
}

fn whole_frame(bytes: &[u8]) -> Option<Frame<'_>> {
    let (header, rest) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>()?;
    let (digest, rest) = rest.split_first_chunk::<32>()?;
    let number = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let payload = rest.get(..usize::try_from(number(4)).ok()?)?;
    if !header.starts_with(&FRAME_MAGIC) || frame_digest(header, payload) != Sha256Digest::from_bytes(*digest)
    {
        return None;
    }
    let first = u64::from(number(8)) << 32 | u64::from(number(12));
    let mut entries = Vec::new();
    let mut rest = payload;
    for _ in 0..number(16) {
        let (length, tail) = rest.split_first_chunk::<2>()?;
        let (entry, tail) = tail.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        entries.push(entry);
        rest = tail;
    }
    let length = FRAME_OVERHEAD + payload.len();
    rest.is_empty().then_some(Frame { first, entries, length })
}

#[cfg(test)]
mod tests;
