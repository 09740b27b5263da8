//! Names, identifiers and wire formats: bytes in, typed values out.
//!
//! Parsed strictly, signatures checked. What is absent on purpose: a clock, private keys at rest, and decisions.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod acme;
pub mod approval;
pub mod attestation_client;
pub mod b64;
pub mod call;
pub mod cbor;
pub mod channel;
pub mod digest;
pub mod dpop;
pub mod id;
pub mod jose;
pub mod json;
pub mod mcp;
pub mod oauth;
pub mod snapshot;
pub mod time;
pub mod token;
pub mod tpm;
pub mod webauthn;
pub mod x509;
