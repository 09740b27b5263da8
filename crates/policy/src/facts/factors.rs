//! What the two factors put into a record.

use countersign_identity::VerifiedAgent;
use countersign_proto::json::Value;
use countersign_trust::VerifiedMachine;

use super::{Facts, int, object};
use crate::situation::{AgentProofKind, MACHINE_PROOF};

impl Facts {
    /// The agent was authenticated.
    #[must_use]
    pub fn agent(self, agent: &VerifiedAgent) -> Self {
        let claims = agent.claims();
        let env = &claims.env;
        let attested = object([
            ("sub", env.sub.as_str().into()),
            ("jkt", env.jkt.to_string().into()),
            ("lvl", Value::Int(i64::from(env.lvl))),
            ("min_lvl", Value::Int(i64::from(env.min_lvl))),
            ("att_time", int(env.att_time)),
            ("ref", env.reference.as_str().into()),
            ("ev", env.ev.b64().into()),
        ]);
        self.with("agent", agent.agent().as_str())
            .with("run", agent.run().as_str())
            .with("sponsor", claims.sub.as_str())
            .with("task", agent.task().task.as_str())
            .with("acr", claims.acr.short())
            .with("env", attested)
            .with("token", agent.token_digest().b64())
            .with("agent_proof", proof_kind(agent).as_str())
    }

    /// The machine was appraised.
    #[must_use]
    pub fn machine(self, machine: &VerifiedMachine) -> Self {
        let facts = object([
            ("id", machine.id().as_str().into()),
            ("sub", machine.spiffe_id().as_str().into()),
            ("jkt", machine.thumbprint().to_string().into()),
        ]);
        self.with("machine", facts).with("machine_proof", MACHINE_PROOF)
    }
}

/// How the agent's proof came.
pub(crate) fn proof_kind(agent: &VerifiedAgent) -> AgentProofKind {
    match agent.proof_kind() {
        "channel" => AgentProofKind::Channel,
        _ => AgentProofKind::Dpop,
    }
}
