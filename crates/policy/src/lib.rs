//! The PDP: binds both factors, evaluates Cedar, makes Decision. No HTTP, no SQL.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod arguments;
mod bundle;
mod code;
mod decision;
mod facts;
mod index;
mod lint;
mod pdp;
mod requirement;
mod schema;
mod situation;

pub use arguments::ArgumentError;
pub use bundle::{MAX_BUNDLE_BYTES, MAX_POLICIES, PolicyError};
pub use code::Code;
pub use decision::{Challenge, Decision, Denial, Permit, Verdict, WrongReceipt, refuse};
pub use facts::Facts;
pub use lint::{Finding, Rule, lint};
pub use pdp::{Judgement, Outcome, Pdp};
pub use requirement::{DEFAULT_MAX_AGE_SECS, LONGEST_MAX_AGE_SECS, Needs};
pub use situation::{AgentProofKind, Situation};
