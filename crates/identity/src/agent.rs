//! Agents as registered: their own kind of principal, each with a person who answers for it.

use std::collections::BTreeSet;

use countersign_proto::id::{AgentId, PersonId};
use countersign_proto::snapshot::{AgentEntry, AgentState};
use countersign_proto::time::Timestamp;
use serde::{Deserialize, Serialize};

/// An agent. Ids are never reused: a retired agent stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    /// Who.
    pub id: AgentId,
    /// The person who answers for it.
    pub sponsor: PersonId,
    /// The groups policies speak of.
    pub groups: BTreeSet<String>,
    /// Where it is in its life.
    pub standing: Standing,
    /// Bumped by every kill; tokens of an earlier generation are worthless.
    pub generation: u64,
    /// When it was registered.
    pub registered_at: Timestamp,
}

/// Where an agent is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state", deny_unknown_fields)]
pub enum Standing {
    /// Seen somewhere, registered by nobody.
    Discovered,
    /// Registered, not yet let loose.
    Pending,
    /// It may act.
    Active,
    /// Not now.
    Suspended {
        /// Who stopped it.
        by: PersonId,
        /// When.
        at: Timestamp,
    },
    /// Never again.
    Retired {
        /// Who retired it.
        by: PersonId,
        /// When.
        at: Timestamp,
    },
}

/// Why a change is not possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgentError {
    /// Not from where it is now.
    #[error("agent cannot do that from where it is")]
    Standing,
    /// Generations are used up.
    #[error("no generation left")]
    Generation,
}

impl Agent {
    /// Registers an agent: pending, in its first generation.
    #[must_use]
    pub const fn register(id: AgentId, sponsor: PersonId, groups: BTreeSet<String>, now: Timestamp) -> Self {
        Self { id, sponsor, groups, standing: Standing::Pending, generation: 1, registered_at: now }
    }

    /// Lets a registered or suspended agent act.
    ///
    /// # Errors
    /// [`AgentError::Standing`] if it was only discovered, acts already, or is retired.
    pub fn activate(self) -> Result<Self, AgentError> {
        match self.standing {
            Standing::Pending | Standing::Suspended { .. } => Ok(Self { standing: Standing::Active, ..self }),
            Standing::Discovered | Standing::Active | Standing::Retired { .. } => Err(AgentError::Standing),
        }
    }

    /// Gives a discovered agent a sponsor; it then waits to be activated.
    ///
    /// # Errors
    /// [`AgentError::Standing`] unless it was discovered.
    pub fn adopt(self, sponsor: PersonId) -> Result<Self, AgentError> {
        match self.standing {
            Standing::Discovered => Ok(Self { standing: Standing::Pending, sponsor, ..self }),
            Standing::Pending | Standing::Active | Standing::Suspended { .. } | Standing::Retired { .. } => {
                Err(AgentError::Standing)
            }
        }
    }

    /// Stops an agent and makes everything it holds worthless, for good: what comes back is another generation.
    ///
    /// # Errors
    /// [`AgentError::Standing`] if it is retired.
    pub fn kill(self, by: PersonId, now: Timestamp) -> Result<Self, AgentError> {
        match self.standing {
            Standing::Retired { .. } => Err(AgentError::Standing),
            Standing::Discovered | Standing::Pending | Standing::Active | Standing::Suspended { .. } => {
                Ok(Self { standing: Standing::Suspended { by, at: now }, ..self.next_generation()? })
            }
        }
    }

    /// Ends an agent for ever.
    ///
    /// # Errors
    /// [`AgentError::Standing`] if it is retired already.
    pub fn retire(self, by: PersonId, now: Timestamp) -> Result<Self, AgentError> {
        match self.standing {
            Standing::Retired { .. } => Err(AgentError::Standing),
            Standing::Discovered | Standing::Pending | Standing::Active | Standing::Suspended { .. } => {
                Ok(Self { standing: Standing::Retired { by, at: now }, ..self.next_generation()? })
            }
        }
    }

    /// Hands an agent to another sponsor. What it holds was given in the old one's name and becomes worthless.
    ///
    /// # Errors
    /// [`AgentError::Standing`] if it is retired or was only discovered.
    pub fn hand_over(self, sponsor: PersonId) -> Result<Self, AgentError> {
        match self.standing {
            Standing::Discovered | Standing::Retired { .. } => Err(AgentError::Standing),
            Standing::Pending | Standing::Active | Standing::Suspended { .. } => {
                Ok(Self { sponsor, ..self.next_generation()? })
            }
        }
    }

    fn next_generation(self) -> Result<Self, AgentError> {
        let generation = self.generation.checked_add(1).ok_or(AgentError::Generation)?;
        Ok(Self { generation, ..self })
    }

    /// Whether it may act.
    #[must_use]
    pub const fn is_active(&self) -> bool {
        matches!(self.standing, Standing::Active)
    }

    /// What gateways need to know; nothing while nobody has let it act.
    #[must_use]
    pub fn entry(&self) -> Option<AgentEntry> {
        let state = match self.standing {
            Standing::Discovered | Standing::Pending => return None,
            Standing::Active => AgentState::Active,
            Standing::Suspended { .. } => AgentState::Suspended,
            Standing::Retired { .. } => AgentState::Retired,
        };
        Some(AgentEntry {
            state,
            generation: self.generation,
            groups: self.groups.iter().cloned().collect(),
            sponsor: self.sponsor.clone(),
        })
    }
}

#[cfg(test)]
mod tests;
