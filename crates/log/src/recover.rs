//! From what a directory holds to a log that can go on, or to a clear refusal.
//!
//! Only bytes of batches that were never acknowledged are dropped. Everything else that is not as it should be
//! stops here; nothing is repaired by guessing.

use countersign_audit::Checkpoint;
use countersign_audit::note::{self, LogVerifier, Origin};
use countersign_audit::sequencer::Sequencer;

use crate::LogError;
use crate::journal::{self, Next};
use crate::storage::{Journal, Storage};

/// A log, ready to go on.
pub(crate) struct Recovered {
    pub(crate) sequencer: Sequencer,
    pub(crate) segment: Segment,
    /// Segments before the open one that can go once their tiles are durable.
    pub(crate) older_segments: bool,
}

/// The segment being written.
pub(crate) struct Segment {
    pub(crate) first: u64,
    /// Bytes of whole frames, and the header.
    pub(crate) length: u64,
    pub(crate) journal: Box<dyn Journal>,
}

impl Segment {
    /// Begins a segment with entry `first`. Durable when it returns.
    pub(crate) fn begin(storage: &dyn Storage, origin: &Origin, first: u64) -> std::io::Result<Self> {
        let mut journal = storage.journal(&journal::segment_path(first))?;
        journal.truncate(0)?;
        let header = journal::header(origin, first);
        journal.append(&header)?;
        journal.sync()?;
        Ok(Self { first, length: header.len() as u64, journal })
    }
}

/// Recovers the log of `verifier` from `storage`, which is locked.
pub(crate) fn recover(storage: &dyn Storage, verifier: &LogVerifier) -> Result<Recovered, LogError> {
    let mut firsts = Vec::new();
    for name in storage.list(journal::DIR)? {
        let what = "a file in the journal is not one of ours";
        firsts.push(journal::segment_first(&name).ok_or(LogError::Damaged { index: 0, what })?);
    }
    firsts.sort_unstable();
    match storage.read("checkpoint")? {
        None => begin(storage, verifier.origin(), &firsts),
        Some(note) => {
            let checkpoint = note::open(&note, verifier).map_err(LogError::Checkpoint)?;
            go_on(storage, &checkpoint, &firsts)
        }
    }
}

/// No checkpoint: a new log, if nothing says that there was one.
fn begin(storage: &dyn Storage, origin: &Origin, firsts: &[u64]) -> Result<Recovered, LogError> {
    let untouched = match firsts {
        [] => true,
        // A crash while the log was made; nothing is accepted before the first checkpoint is durable.
        [0] => {
            let bytes = storage.read(&journal::segment_path(0))?.unwrap_or_default();
            bytes.len() <= journal::HEADER_BYTES
        }
        _ => false,
    };
    if !untouched || !storage.list("tile")?.is_empty() {
        return Err(LogError::Damaged { index: 0, what: "the checkpoint is missing" });
    }
    let segment = Segment::begin(storage, origin, 0)?;
    Ok(Recovered { sequencer: Sequencer::new(origin.clone()), segment, older_segments: false })
}

fn go_on(storage: &dyn Storage, checkpoint: &Checkpoint, firsts: &[u64]) -> Result<Recovered, LogError> {
    let Some(&oldest) = firsts.first() else {
        return Err(LogError::RolledBack { promised: checkpoint.size, found: 0 });
    };
    if checkpoint.size < oldest {
        return Err(LogError::Damaged {
            index: checkpoint.size,
            what: "the checkpoint is older than the journal",
        });
    }
    let read = |path: &str| storage.read(path).ok().flatten();
    let sequencer = Sequencer::resume(checkpoint.origin.clone(), oldest, &read).map_err(|_| {
        LogError::Damaged { index: oldest, what: "a full tile before the journal is missing" }
    })?;
    let mut replay = Replay { storage, checkpoint, sequencer, open: None };
    replay.compare()?;
    for (at, first) in firsts.iter().enumerate() {
        replay.segment(*first, at + 1 == firsts.len())?;
    }
    let Replay { sequencer, open, .. } = replay;
    if sequencer.size() < checkpoint.size {
        return Err(LogError::RolledBack { promised: checkpoint.size, found: sequencer.size() });
    }
    let segment = match open {
        Some(open) => open,
        None => Segment::begin(storage, &checkpoint.origin, sequencer.size())?,
    };
    let older_segments = segment.first != oldest;
    Ok(Recovered { sequencer, segment, older_segments })
}

struct Replay<'a> {
    storage: &'a dyn Storage,
    checkpoint: &'a Checkpoint,
    sequencer: Sequencer,
    open: Option<Segment>,
}

impl Replay<'_> {
    fn damaged(&self, what: &'static str) -> LogError {
        LogError::Damaged { index: self.sequencer.size(), what }
    }

    /// At the size that was signed, the root must be the one that was signed.
    fn compare(&self) -> Result<(), LogError> {
        let size = self.checkpoint.size;
        if self.sequencer.size() == size && self.sequencer.checkpoint().root != self.checkpoint.root {
            return Err(LogError::Changed { size });
        }
        Ok(())
    }

    fn segment(&mut self, first: u64, last: bool) -> Result<(), LogError> {
        let path = journal::segment_path(first);
        let bytes = self.storage.read(&path)?.ok_or_else(|| self.damaged("a journal segment vanished"))?;
        if first != self.sequencer.size() {
            return Err(self.damaged("a journal segment is missing"));
        }
        let header = journal::header(&self.checkpoint.origin, first);
        if !bytes.starts_with(&header) {
            // A crash while the segment was begun leaves at most a header; no batch is written before it is durable.
            let unfinished =
                last && self.sequencer.size() >= self.checkpoint.size && bytes.len() <= header.len();
            return if unfinished {
                Ok(())
            } else {
                Err(self.damaged("the header of a journal segment is wrong"))
            };
        }
        let mut at = header.len();
        let mut signed_for = at;
        loop {
            if self.sequencer.size() <= self.checkpoint.size {
                signed_for = at;
            }
            match journal::next_frame(&bytes[at..]) {
                Next::End => break,
                Next::Frame(frame) => {
                    if frame.first != self.sequencer.size() {
                        return Err(self.damaged("a journal frame is out of order"));
                    }
                    for entry in frame.entries {
                        let what = "a journal entry is too long";
                        self.sequencer.replay(entry).map_err(|_| self.damaged(what))?;
                        self.compare()?;
                    }
                    at += frame.length;
                }
                Next::Damaged => return Err(self.damaged("a journal frame is damaged")),
                Next::TornTail if last => break,
                Next::TornTail => return Err(self.damaged("a finished journal segment ends early")),
            }
        }
        if last {
            if self.sequencer.size() < self.checkpoint.size {
                let found = self.sequencer.size();
                return Err(LogError::RolledBack { promised: self.checkpoint.size, found });
            }
            self.open = Some(self.reopen(first, &bytes[..at], signed_for)?);
        }
        Ok(())
    }

    /// Opens the last segment behind its last whole frame.
    ///
    /// Frames nobody signed for yet are written again before they are trusted: after a failed flush a kernel may
    /// show bytes that are not on the disk, and the next flush would say nothing.
    fn reopen(&self, first: u64, whole: &[u8], signed_for: usize) -> Result<Segment, LogError> {
        let mut journal = self.storage.journal(&journal::segment_path(first))?;
        let length = whole.len() as u64;
        if journal.length()? > length {
            tracing::warn!(bytes = journal.length()? - length, "dropping the torn end of the audit journal");
            journal.truncate(length)?;
        }
        journal.rewrite(signed_for as u64, &whole[signed_for..])?;
        journal.sync()?;
        Ok(Segment { first, length, journal })
    }
}
