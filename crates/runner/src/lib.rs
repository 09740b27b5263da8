//! On the agent's machine: hardware keys, enrollment, `run`, the local signing proxy.
//!
//! Nothing server-side is linked here, and no key ever enters the agent's process.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod control_plane;
pub mod enroll;
pub mod http;
pub mod proxy;
pub mod run;
pub mod session;
pub mod state;
pub mod tpm;

#[cfg(test)]
mod fake;
#[cfg(test)]
#[path = "../../testkit/src/swtpm.rs"]
#[allow(dead_code, missing_docs, reason = "shared with the tests of other crates")]
mod swtpm;
