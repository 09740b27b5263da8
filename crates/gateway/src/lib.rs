//! The PEP: one walk for every request (`walk.rs`).
//!
//! No CA or token-signing keys, no SQL, no network round trip to decide: a gateway decides by a signed snapshot
//! and fails closed when it gets old. What it sends upstream, what it refuses and what became of it is in its
//! log, before the effect where there is one.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod body;
mod budget;
mod config;
mod connection;
mod control;
mod front;
mod gate;
mod gateway;
mod outcome;
mod refusal;
mod replay;
mod session;
mod sse;
mod standing;
mod step_up;
mod tls;
mod tools;
mod upstream;
mod walk;

pub use budget::FoldError;
pub use config::{
    ConfigError, Credential, GatewayConfig, GatewayLimits, Origin, ServerIdentity, UpstreamConfig,
};
pub use control::{
    ApprovalHandle, ApprovalOutcome, ApprovalRequest, ControlError, ControlPlane, ToolManifest,
};
pub use gateway::{Gateway, RunningGateway, StartError};
