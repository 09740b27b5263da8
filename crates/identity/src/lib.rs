//! Which agent is this? Authenticates agents and makes [`VerifiedAgent`].
//!
//! What is absent on purpose: machines' evidence, policy, storage, clocks. The machine half of a token request
//! arrives here already verified, and only its thumbprint and level are copied into the token.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod agent;
pub mod approval;
mod authenticate;
pub mod grant;
pub mod person;
pub mod run;
pub mod task;
mod token;

pub use approval::{GrantedApproval, verify_grant};
pub use authenticate::{AgentProof, AuthenticationError, Revoked, VerifiedAgent, authenticate};
pub use token::{TokenError, TokenExpectation, VerifiedToken, verify_token};

#[cfg(test)]
mod fixture;
