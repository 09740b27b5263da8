//! All persistence: versioned rows, lookups, single-use memory, all-or-nothing transactions. No rules.
//!
//! A back end stores bytes under `(kind, id)` and knows nothing of what they mean; [`Store`] puts typed aggregates
//! on top. Two promises carry everything above: an answered write survives a crash, and [`Op::Consume`] succeeds
//! once per name no matter how many ask at the same moment. `docs/adr/0002-embedded-store.md` says why it is built so.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod aggregate;
pub mod backend;
pub mod conformance;
mod seal;
mod sqlite;

pub use aggregate::{Aggregate, Store, Stored, Tx};
pub use backend::{Backend, BoxFuture, ConsumeKind, Op, Page, Row, StoreError};
pub use sqlite::{SqliteBackend, open_sqlite};
