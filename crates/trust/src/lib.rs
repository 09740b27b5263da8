//! Which machine is this? Appraises evidence and makes [`VerifiedMachine`]. Knows no agents, tokens or policy.
//!
//! Everything here is a function of its arguments: certificates, TPM structures and stored values go in, verdicts
//! come out. A value that stands for a check is made by that check and by nothing else:
//!
//! ```compile_fail,E0451
//! use countersign_trust::VerifiedMachine;
//! fn forge(id: countersign_proto::id::MachineId, spiffe: countersign_proto::id::SpiffeId) -> VerifiedMachine {
//!     VerifiedMachine { id, spiffe_id: spiffe, thumbprint: todo!(), generation: 0 }
//! }
//! ```
//!
//! ```compile_fail,E0277
//! let machine: countersign_trust::VerifiedMachine = serde_json::from_str("{}").unwrap();
//! ```
//!
//! ```compile_fail,E0616
//! fn rename(mut machine: countersign_trust::VerifiedMachine, other: &countersign_trust::VerifiedMachine) {
//!     machine.id = other.id().clone();
//! }
//! ```
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod acme;
pub mod activation;
mod chain;
mod der;
pub mod device_attest;
pub mod endorsement;
pub mod issue;
pub mod machine;
mod peer;
pub mod quote;
#[cfg(test)]
mod simulated;

pub use chain::{ChainError, Roots};
pub use machine::{Machine, appraise_attestation};
pub use peer::{AppraisalError, PeerCertificate, PeerCertificateError, VerifiedMachine, appraise_peer};
