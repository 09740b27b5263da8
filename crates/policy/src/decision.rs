//! A decision, and how it gets out: recorded first, then revealed.
//!
//! A `Decision` shows its record and hides its verdict. Only the receipt of exactly that record turns it into a
//! [`Verdict`], so nobody can act on a decision that is not durably written, whether it is a yes or a no.
//!
//! Acting on a decision that was not revealed does not compile:
//!
//! ```compile_fail,E0616
//! fn act(decision: countersign_policy::Decision) -> countersign_policy::Verdict {
//!     decision.verdict
//! }
//! ```
//!
//! One receipt reveals one decision, once:
//!
//! ```compile_fail,E0382
//! use countersign_policy::{Decision, Verdict, WrongReceipt};
//! fn twice(decision: Decision, receipt: countersign_audit::Receipt) -> Result<Verdict, WrongReceipt> {
//!     let _first = decision.reveal(receipt)?;
//!     decision.reveal(receipt)
//! }
//! ```

use countersign_audit::{Kind, Receipt, Record};
use countersign_proto::call::Call;
use countersign_proto::digest::Sha256Digest;
use countersign_proto::id::DecisionId;
use countersign_proto::json::{MAX_SAFE_INTEGER, Value};
use countersign_proto::time::Timestamp;

use crate::code::Code;
use crate::facts::Facts;
use crate::requirement::Needs;

/// A verdict nobody has seen yet, and the record that must be durable first.
#[must_use = "a decision has no effect until its record is durable and it is revealed"]
pub struct Decision {
    record: Record,
    verdict: Verdict,
}

/// What the gate does: forward, refuse, or tell the caller what would help.
#[derive(Debug)]
#[must_use]
pub enum Verdict {
    /// Forward this one call.
    Permit(Permit),
    /// Refuse.
    Deny(Denial),
    /// Refuse, and say what would turn it into a permit.
    Challenge(Challenge),
}

/// One permit for one call. It cannot be copied and cannot be made by hand:
///
/// ```compile_fail,E0451
/// use countersign_policy::Permit;
/// fn forge(decision_id: countersign_proto::id::DecisionId, digest: countersign_proto::digest::Sha256Digest) -> Permit {
///     Permit { decision_id, call: digest, policy: digest }
/// }
/// ```
///
/// Whatever consumes it consumes it once:
///
/// ```compile_fail,E0382
/// use countersign_policy::Permit;
/// fn forward(_permit: Permit) {}
/// fn twice(permit: Permit) {
///     forward(permit);
///     forward(permit);
/// }
/// ```
///
/// ```compile_fail,E0599
/// use countersign_policy::Permit;
/// fn copy(permit: Permit) -> (Permit, Permit) {
///     (permit.clone(), permit)
/// }
/// ```
#[derive(Debug)]
#[must_use = "a permit that is dropped is a call that was allowed and not made"]
pub struct Permit {
    decision_id: DecisionId,
    call: Sha256Digest,
    policy: Sha256Digest,
}

impl Permit {
    /// The decision.
    #[must_use]
    pub const fn decision_id(&self) -> &DecisionId {
        &self.decision_id
    }

    /// The digest of the one call it permits.
    #[must_use]
    pub const fn call_digest(&self) -> &Sha256Digest {
        &self.call
    }

    /// The digest of the policies that permitted it.
    #[must_use]
    pub const fn policy_digest(&self) -> &Sha256Digest {
        &self.policy
    }

    /// Whether this is the permit of exactly this call.
    #[must_use]
    pub fn covers(&self, call: &Call) -> bool {
        self.call.ct_eq(&call.digest())
    }
}

/// A no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Why, as a stable word.
    pub code: Code,
    /// Why, as one fixed sentence.
    pub reason: &'static str,
    /// The decision, for whoever asks later.
    pub decision_id: DecisionId,
}

/// A no that can become a yes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// The decision, for whoever asks later.
    pub decision_id: DecisionId,
    /// What to ask for now; what the machine can answer comes before what needs a person.
    pub needs: Needs,
    /// What will be asked for after that.
    pub then: Vec<Needs>,
}

/// The receipt is for another record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the receipt is for another record")]
pub struct WrongReceipt;

impl Decision {
    /// What must be durable before the verdict is known to anyone.
    #[must_use]
    pub const fn record(&self) -> &Record {
        &self.record
    }

    /// Trades the receipt of this decision's record for its verdict.
    ///
    /// # Errors
    /// [`WrongReceipt`] if it is the receipt of another record; the decision is lost and the call denied.
    pub fn reveal(self, receipt: Receipt) -> Result<Verdict, WrongReceipt> {
        if receipt.is_for(&self.record) { Ok(self.verdict) } else { Err(WrongReceipt) }
    }
}

/// What is unpredictable or new about one decision: given by the caller, because nothing here is ambient.
#[derive(Clone, Debug)]
pub(crate) struct Occasion {
    pub(crate) decision_id: DecisionId,
    pub(crate) now: Timestamp,
    pub(crate) nonce: [u8; 16],
}

/// A verdict before it has an id.
pub(crate) enum Ruling {
    Permit { call: Sha256Digest, policy: Sha256Digest },
    Deny(Code),
    Challenge { needs: Needs, then: Vec<Needs> },
}

impl Ruling {
    /// A challenge, unless there is nothing to ask for.
    pub(crate) fn challenge(needs: Vec<Needs>) -> Option<Self> {
        let mut needs = needs.into_iter();
        Some(Self::Challenge { needs: needs.next()?, then: needs.collect() })
    }
}

/// Refuses a request that never reached a decision, so that it leaves a record like every other.
///
/// `facts` holds what was established before the request failed, and nothing it merely claimed.
pub fn refuse(
    code: Code,
    decision_id: DecisionId,
    now: Timestamp,
    nonce: [u8; 16],
    facts: Facts,
) -> Decision {
    conclude(Occasion { decision_id, now, nonce }, facts, Ruling::Deny(code))
}

/// Makes the decision and its record, the only place where either is made.
pub(crate) fn conclude(occasion: Occasion, facts: Facts, ruling: Ruling) -> Decision {
    let Occasion { decision_id, now, nonce } = occasion;
    // A clock beyond what JSON can say must not make a decision unrecordable.
    let now = Timestamp::from_unix_millis(now.unix_millis().clamp(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER));
    let (kind, word, code) = match &ruling {
        Ruling::Permit { .. } => (Kind::Intent, "permit", None),
        Ruling::Deny(code) => (Kind::Denial, "deny", Some(*code)),
        Ruling::Challenge { .. } => (Kind::Challenge, "challenge", Some(Code::PolicyDenied)),
    };
    let begin = |kind, word: &str, code: Option<Code>| {
        Record::new(kind, now, nonce)
            .decision(&decision_id)
            .with("verdict", word)
            .with_some("code", code.map(Code::as_str))
    };
    let mut record = begin(kind, word, code);
    if let Ruling::Challenge { needs, then } = &ruling {
        let asked =
            [needs].into_iter().chain(then).map(|needs| Value::from(needs.to_string())).collect::<Vec<_>>();
        record = record.with("needs", asked);
    }
    match facts.write(record).build() {
        Ok(record) => {
            let verdict = match ruling {
                Ruling::Permit { call, policy } => Verdict::Permit(Permit { decision_id, call, policy }),
                Ruling::Deny(code) => Verdict::Deny(Denial { code, reason: code.reason(), decision_id }),
                Ruling::Challenge { needs, then } => {
                    Verdict::Challenge(Challenge { decision_id, needs, then })
                }
            };
            Decision { record, verdict }
        }
        // Fail closed: what cannot be recorded in full is not permitted.
        Err(_) => {
            let code = Code::AuditUnavailable;
            #[expect(
                clippy::expect_used,
                reason = "two short members of fixed form and a clamped time always fit"
            )]
            let record = begin(Kind::Denial, "deny", Some(code)).build().expect("a minimal record fits");
            Decision { record, verdict: Verdict::Deny(Denial { code, reason: code.reason(), decision_id }) }
        }
    }
}

#[cfg(test)]
mod tests;
