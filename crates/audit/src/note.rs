//! Signed notes (C2SP signed-note) and the checkpoint they carry (C2SP tlog-checkpoint).
//!
//! Ed25519 only (signature type 0x01). Cosignatures of witnesses pass through unread. A [`Checkpoint`] is only
//! a claim; [`open`] returns one whose signature was checked.

use std::fmt;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::tree::Hash;

/// The longest note that is read.
pub const MAX_NOTE_BYTES: usize = 64 * 1024;
/// The most signature lines that are read.
pub const MAX_SIGNATURES: usize = 64;
/// The longest origin.
pub const MAX_ORIGIN_BYTES: usize = 255;

/// Ed25519 in C2SP signed-note.
const TYPE_ED25519: u8 = 0x01;
const ED25519_SIGNATURE_BYTES: usize = 64;
/// Signature lines start with an em dash (U+2014) and a space.
const SIGNATURE_PREFIX: &str = "\u{2014} ";

/// The name of a log: a schema-less URL such as `gw.example/audit`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin(Box<str>);

/// The text cannot name a log or a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an origin: 1 to 255 printable ASCII characters, no space, no plus, no scheme")]
pub struct NotAnOrigin;

impl Origin {
    /// Reads an origin.
    ///
    /// # Errors
    /// [`NotAnOrigin`] for white space, `+`, control or non-ASCII characters, a scheme, or a bad length.
    pub fn parse(text: &str) -> Result<Self, NotAnOrigin> {
        let plain = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'+');
        if plain && !text.is_empty() && text.len() <= MAX_ORIGIN_BYTES && !text.contains("://") {
            Ok(Self(text.into()))
        } else {
            Err(NotAnOrigin)
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The key a log signs its checkpoints with. Its `Debug` shows the public half only.
pub struct LogKey(Ed25519KeyPair);

/// The seed is not an Ed25519 seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an Ed25519 seed")]
pub struct NotASeed;

impl LogKey {
    /// The key that grows from `seed`. The caller keeps, and wipes, the seed.
    ///
    /// # Errors
    /// [`NotASeed`] if the crypto back end refuses it.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, NotASeed> {
        Ed25519KeyPair::from_seed_unchecked(seed).map(Self).map_err(|_| NotASeed)
    }

    /// Who checks what this key signs for `origin`.
    #[must_use]
    pub fn verifier(&self, origin: &Origin) -> LogVerifier {
        let mut public = [0_u8; 32];
        public.copy_from_slice(self.0.public_key().as_ref());
        LogVerifier::new(origin.clone(), public)
    }

    /// `checkpoint` as a signed note.
    #[must_use]
    pub fn sign(&self, checkpoint: &Checkpoint) -> String {
        let body = checkpoint.to_body();
        let verifier = self.verifier(&checkpoint.origin);
        let mut signature = verifier.key_id.to_vec();
        signature.extend_from_slice(self.0.sign(body.as_bytes()).as_ref());
        format!("{body}\n{SIGNATURE_PREFIX}{} {}\n", checkpoint.origin, STANDARD.encode(signature))
    }
}

impl fmt::Debug for LogKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogKey({})", Hash::of(self.0.public_key().as_ref()).b64())
    }
}

/// The public half: a name and an Ed25519 key. Written `<name>+<key id in hex>+<base64(0x01 || key)>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogVerifier {
    origin: Origin,
    key_id: [u8; 4],
    public: [u8; 32],
}

/// The text is not a verifier key of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an Ed25519 verifier key")]
pub struct NotAVerifierKey;

impl LogVerifier {
    /// The verifier of `origin` with this raw public key.
    #[must_use]
    pub fn new(origin: Origin, public: [u8; 32]) -> Self {
        let mut named = origin.as_str().as_bytes().to_vec();
        named.extend_from_slice(&[b'\n', TYPE_ED25519]);
        named.extend_from_slice(&public);
        let digest = Hash::of(&named);
        let key_id = [0, 1, 2, 3].map(|at: usize| digest.as_bytes()[at]);
        Self { origin, key_id, public }
    }

    /// Reads a verifier key (the `vkey` of C2SP signed-note).
    ///
    /// # Errors
    /// [`NotAVerifierKey`] for another algorithm, a key id that does not fit, or anything malformed.
    pub fn parse(text: &str) -> Result<Self, NotAVerifierKey> {
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(_), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NotAVerifierKey);
        };
        let origin = Origin::parse(name).map_err(|_| NotAVerifierKey)?;
        let key = STANDARD.decode(key).map_err(|_| NotAVerifierKey)?;
        let Some((&TYPE_ED25519, public)) = key.split_first() else { return Err(NotAVerifierKey) };
        let verifier = Self::new(origin, public.try_into().map_err(|_| NotAVerifierKey)?);
        if verifier.to_string() == text { Ok(verifier) } else { Err(NotAVerifierKey) }
    }

    /// The name the key signs under.
    #[must_use]
    pub const fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The raw Ed25519 public key.
    #[must_use]
    pub const fn public(&self) -> &[u8; 32] {
        &self.public
    }

    fn verifies(&self, body: &str, signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.public).verify(body.as_bytes(), signature).is_ok()
    }
}

impl fmt::Display for LogVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut key = vec![TYPE_ED25519];
        key.extend_from_slice(&self.public);
        let id = u32::from_be_bytes(self.key_id);
        write!(f, "{}+{id:08x}+{}", self.origin, STANDARD.encode(key))
    }
}

/// What a log claims: its name, how many entries it has, and the root over them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log.
    pub origin: Origin,
    /// Entries in the tree.
    pub size: u64,
    /// The root hash of the tree.
    pub root: Hash,
}

/// Why a note does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Not a signed note, or longer than [`MAX_NOTE_BYTES`].
    #[error("not a signed note")]
    Malformed,
    /// The text above the signatures is not a checkpoint of three lines.
    #[error("not a checkpoint")]
    NotACheckpoint,
    /// A checkpoint of another log.
    #[error("a checkpoint of another log")]
    WrongOrigin,
    /// No signature by the key that was asked for.
    #[error("not signed by the expected key")]
    Unsigned,
    /// A signature claims to be by the expected key and is not.
    #[error("the signature is wrong")]
    BadSignature,
}

impl Checkpoint {
    /// The text that is signed: three lines.
    #[must_use]
    pub fn to_body(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root.as_bytes()))
    }

    /// Reads the signed text. Extension lines are refused: we write none, and a reader must not skip any.
    ///
    /// # Errors
    /// [`NoteError::NotACheckpoint`].
    pub fn parse_body(body: &str) -> Result<Self, NoteError> {
        let read = || {
            let mut lines = body.strip_suffix('\n')?.split('\n');
            let origin = Origin::parse(lines.next()?).ok()?;
            let size = lines.next()?.parse().ok()?;
            let root: [u8; 32] = STANDARD.decode(lines.next()?).ok()?.try_into().ok()?;
            let checkpoint = Self { origin, size, root: Hash::from_bytes(root) };
            // One checkpoint, one text: signs, leading zeros and further lines do not survive this.
            (lines.next().is_none() && checkpoint.to_body() == body).then_some(checkpoint)
        };
        read().ok_or(NoteError::NotACheckpoint)
    }
}

/// Opens a signed checkpoint: the body as `verifier` signed it. Other signatures are not looked at.
///
/// # Errors
/// [`NoteError`] if it is malformed, of another log, or not signed by `verifier`.
pub fn open(note: &[u8], verifier: &LogVerifier) -> Result<Checkpoint, NoteError> {
    let (body, signatures) = split(note)?;
    let mut found = false;
    for (name, blob) in signatures {
        let Some((id, signature)) = blob.split_first_chunk::<4>() else { return Err(NoteError::Malformed) };
        if name != verifier.origin.as_str() || *id != verifier.key_id {
            continue;
        }
        if signature.len() != ED25519_SIGNATURE_BYTES || !verifier.verifies(body, signature) {
            return Err(NoteError::BadSignature);
        }
        found = true;
    }
    if !found {
        return Err(NoteError::Unsigned);
    }
    let checkpoint = Checkpoint::parse_body(body)?;
    if checkpoint.origin == verifier.origin { Ok(checkpoint) } else { Err(NoteError::WrongOrigin) }
}

/// A signature line: who, and the bytes (key id first).
type SignatureLine<'a> = (&'a str, Vec<u8>);

/// The signed text (with its last newline) and the signature lines of a note.
fn split(note: &[u8]) -> Result<(&str, Vec<SignatureLine<'_>>), NoteError> {
    if note.len() > MAX_NOTE_BYTES {
        return Err(NoteError::Malformed);
    }
    let text = std::str::from_utf8(note).map_err(|_| NoteError::Malformed)?;
    if text.chars().any(|c| c.is_control() && c != '\n') {
        return Err(NoteError::Malformed);
    }
    let border = text.rfind("\n\n").ok_or(NoteError::Malformed)?;
    let (body, lines) = (&text[..=border], &text[border + 2..]);
    let lines = lines.strip_suffix('\n').ok_or(NoteError::Malformed)?;
    let mut signatures = Vec::new();
    for line in lines.split('\n') {
        let line = line.strip_prefix(SIGNATURE_PREFIX).ok_or(NoteError::Malformed)?;
        let (name, blob) = line.split_once(' ').ok_or(NoteError::Malformed)?;
        let named = !name.is_empty() && !name.contains(['+', ' ']);
        let blob = STANDARD.decode(blob).map_err(|_| NoteError::Malformed)?;
        if !named || blob.len() < 5 || signatures.len() == MAX_SIGNATURES {
            return Err(NoteError::Malformed);
        }
        signatures.push((name, blob));
    }
    Ok((body, signatures))
}

#[cfg(test)]
mod tests;
