//! The policy decision point: the join of both factors. Binds them, decides, and lets a decision out only against
//! the receipt of its record.
//!
//! Pure: no HTTP, no SQL, no clock and no randomness of its own. A caller goes one way:
//!
//! 1. [`Countersigned::bind`] a verified agent and a verified machine,
//! 2. [`Pdp::decide`] one call (or [`refuse`] a request that did not get this far),
//! 3. make [`Decision::record`] durable, which gives a receipt,
//! 4. [`Decision::reveal`] the [`Verdict`] with it, and forward only with a [`Permit`].
//!
//! ```
//! use countersign_audit::{Receipt, Record};
//! use countersign_policy::{CallState, Countersigned, Pdp, Permit, Verdict};
//! use countersign_proto::call::Call;
//!
//! fn walk(
//!     pdp: &Pdp,
//!     who: &Countersigned,
//!     call: &Call,
//!     state: &CallState<'_>,
//!     append: impl Fn(&Record) -> Receipt,
//!     forward: impl Fn(Permit),
//! ) {
//!     let decision = pdp.decide(who, call, state);
//!     let receipt = append(decision.record());
//!     match decision.reveal(receipt) {
//!         Ok(Verdict::Permit(permit)) => forward(permit),
//!         Ok(Verdict::Deny(denial)) => println!("{}", denial.code),
//!         Ok(Verdict::Challenge(challenge)) => println!("{}", challenge.needs),
//!         Err(wrong) => println!("{wrong}"),
//!     }
//! }
//! ```
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod arguments;
mod bundle;
mod code;
mod countersigned;
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
pub use countersigned::{BindError, Countersigned};
pub use decision::{Challenge, Decision, Denial, Permit, Verdict, WrongReceipt, refuse};
pub use facts::Facts;
pub use lint::{Finding, Rule, lint};
pub use pdp::{CallState, Judgement, Outcome, Pdp, ToolStanding};
pub use requirement::{DEFAULT_MAX_AGE_SECS, LONGEST_MAX_AGE_SECS, Needs};
pub use situation::{AgentProofKind, Situation};
