//! The control plane over HTTP: ACME, attestation CA, OAuth, admin API, console. No upstream traffic.
//!
//! Every endpoint loads, calls a pure function of `trust`, `identity` or `policy`, records, commits and answers.
//! Issuing goes record first: nothing leaves here that the log does not know.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod admin;
pub mod config;
pub mod console;
pub mod control;
pub mod keys;
pub mod server;

mod acme;
mod activations;
mod alarm;
mod attest;
mod changes;
mod http;
mod listen;
mod nonce;
mod oauth;
mod people;
mod plane;
mod rows;
mod snapshot;
mod strangers;
mod tls;

pub use config::{Lifetimes, Limits, Listen, ServerConfig, UpstreamConfig};
pub use control::{
    ApprovalHandle, ApprovalOutcome, ApprovalRequest, ControlError, ProposedTool, ServerControl,
};
pub use plane::Trouble;
pub use server::{RunningServer, Server, StartError, TlsIdentity};
