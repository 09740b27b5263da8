//! What a call is judged in: agent, machine, task and person as plain values.
//!
//! A `Situation` stands for nothing and proves nothing: it may be made up, which is what policy tests and
//! explanations do. Only `Pdp::decide` makes one from checked factors, and only `decide` can lead to a `Permit`.

use cedar_policy::{Context, RestrictedExpression};
use countersign_proto::id::{AgentId, MachineId};
use countersign_proto::oauth::Acr;

use crate::requirement::{ATTESTED, Requirements, SIGNED, raised};

/// Everything about a call but the call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Situation {
    /// Who calls.
    pub agent: AgentId,
    /// From where.
    pub machine: MachineId,
    /// How well the machine is known now, and how far a person answers for the call.
    pub level: Acr,
    /// Seconds since the machine was attested; never negative.
    pub attested_age_secs: i64,
    /// How the agent proved its key.
    pub agent_proof: AgentProofKind,
    /// The task's id.
    pub task: String,
    /// The task's purpose.
    pub purpose: String,
    /// Calls made under the task before this one.
    pub calls_used: u64,
}

/// How a call carries the agent's proof of possession.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentProofKind {
    /// A DPoP proof of its own (RFC 9449).
    Dpop,
    /// One proof for the connection, over its exporter.
    Channel,
}

impl AgentProofKind {
    /// As policies and records spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dpop => "dpop",
            Self::Channel => "channel",
        }
    }
}

/// How the machine proved its key: mutual TLS is the only way so far.
pub(crate) const MACHINE_PROOF: &str = "mtls";

impl Situation {
    /// The same situation with requirements met.
    pub(crate) fn assuming(&self, met: &Requirements) -> Self {
        let mut then = self.clone();
        if met.fresh_attestation.is_some() {
            then.attested_age_secs = 0;
            then.level = raised(then.level, ATTESTED);
        }
        if let Some(acr) = met.acr {
            then.level = raised(then.level, acr);
        }
        if met.approval {
            then.level = raised(then.level, SIGNED);
        }
        then
    }

    /// The Cedar context. Everything in it comes from here or from the mapped arguments. Nothing if Cedar cannot
    /// hold it, which denies.
    pub(crate) fn context(&self, args: RestrictedExpression) -> Option<Context> {
        let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
        let long = RestrictedExpression::new_long;
        let machine = record([
            ("id", text(self.machine.as_str())),
            ("level", long(i64::from(self.level.env()))),
            ("attested_age", long(self.attested_age_secs)),
        ])?;
        let proof = record([("agent", text(self.agent_proof.as_str())), ("machine", text(MACHINE_PROOF))])?;
        let task = record([
            ("id", text(&self.task)),
            ("purpose", text(&self.purpose)),
            ("calls_used", long(i64::try_from(self.calls_used).unwrap_or(i64::MAX))),
        ])?;
        let person = record([("level", long(i64::from(self.level.person())))])?;
        Context::from_pairs(
            [("machine", machine), ("proof", proof), ("task", task), ("person", person), ("args", args)]
                .map(|(name, value)| (name.to_owned(), value)),
        )
        .ok()
    }
}

fn record<const N: usize>(members: [(&str, RestrictedExpression); N]) -> Option<RestrictedExpression> {
    RestrictedExpression::new_record(members.map(|(name, value)| (name.to_owned(), value))).ok()
}
