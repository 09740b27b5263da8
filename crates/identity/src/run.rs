//! Runs: one agent process from start to end. Its key A lives and dies with it, on one machine.

use countersign_proto::id::{AgentId, MachineId, RunId};
use countersign_proto::jose::Thumbprint;
use countersign_proto::oauth::OauthError;
use countersign_proto::time::Timestamp;
use serde::{Deserialize, Serialize};

/// A run, opened by the first token for a new key A.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Which.
    pub id: RunId,
    /// Whose.
    pub agent: AgentId,
    /// The thumbprint of its key A.
    pub agent_jkt: Thumbprint,
    /// The machine it started on.
    pub machine: MachineId,
    /// The thumbprint of that machine's key M at the time.
    pub machine_jkt: Thumbprint,
    /// The agent's generation at the time.
    pub generation: u64,
    /// When it started.
    pub started_at: Timestamp,
    /// When it was ended, if it was.
    pub ended_at: Option<Timestamp>,
}

impl Run {
    /// Whether a token request by this agent, key and machine belongs to this run.
    ///
    /// # Errors
    /// `invalid_grant`: a run that ended, was killed, or whose key turns up elsewhere gets nothing any more.
    pub fn admit(
        &self,
        agent: &AgentId,
        generation: u64,
        agent_jkt: &Thumbprint,
        machine: &MachineId,
    ) -> Result<(), OauthError> {
        if self.ended_at.is_some() || self.generation != generation {
            Err(OauthError::invalid_grant("the run has ended"))
        } else if self.agent != *agent || self.agent_jkt != *agent_jkt {
            Err(OauthError::invalid_grant("the run is another agent's"))
        } else if self.machine != *machine {
            // A key A on a second machine is a stolen one.
            Err(OauthError::invalid_grant("the run started on another machine"))
        } else {
            Ok(())
        }
    }

    /// Ends the run; ending twice keeps the first time.
    #[must_use]
    pub fn end(self, now: Timestamp) -> Self {
        Self { ended_at: self.ended_at.or(Some(now)), ..self }
    }
}

#[cfg(test)]
mod tests;
