//! What happened, provably? Records, the tree over them, checkpoints, proofs; makes [`Receipt`].
//!
//! Formats are C2SP tlog-tiles, tlog-checkpoint, signed-note and tlog-proof over the tree of RFC 6962, so that
//! a third party can check a log with its own tools.
//!
//! Not here: disks, clocks, threads (the `log` crate has them), and what records mean.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod invariants;
pub mod note;
pub mod proof;
pub mod record;
pub mod sequencer;
pub mod tile;
pub mod tree;
pub mod verify;

pub use note::{Checkpoint, LogKey, LogVerifier, Origin};
pub use record::{Kind, Record, RecordBuilder, RecordError};
pub use sequencer::{Receipt, Sequencer, Staged, Write};
pub use verify::{Summary, VerifyError, verify_log};
