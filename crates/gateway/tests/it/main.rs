//! The gateway from outside: real TLS, real log, a control plane and an upstream that behave.
//!
//! Each test steals, forges, replays or races something and asserts three things: the answer, the one record
//! it left, and what reached the upstream.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod calls;
mod channel;
mod control;
mod disk;
mod proofs;
mod refusals;
mod sessions;
mod transport;
mod upstream;
mod world;
