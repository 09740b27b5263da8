//! The bind: a verified agent and a verified machine that belong together.
//!
//! Both factors being genuine is not enough. The token names the machine it was issued for, by key; the machine
//! that carries the call must hold that key. Not here: what the pair may do.

use countersign_identity::VerifiedAgent;
use countersign_trust::VerifiedMachine;

use crate::code::Code;

/// An agent and a machine that vouch for one call together. Only [`Countersigned::bind`] makes one:
///
/// ```compile_fail,E0451
/// use countersign_identity::VerifiedAgent;
/// use countersign_policy::Countersigned;
/// use countersign_trust::VerifiedMachine;
/// fn forge(agent: VerifiedAgent, machine: VerifiedMachine) -> Countersigned {
///     Countersigned { agent, machine }
/// }
/// ```
#[derive(Debug)]
pub struct Countersigned {
    agent: VerifiedAgent,
    machine: VerifiedMachine,
}

/// Two genuine factors that do not belong together: a token that left its machine. An alarm, not an accident.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// The token is bound to another machine key (`env.jkt`).
    #[error("the token is bound to another machine key")]
    MachineKey,
    /// The token names another machine (`env.sub`), although the key is the same.
    #[error("the token names another machine")]
    MachineName,
}

impl BindError {
    /// The denial code.
    #[must_use]
    pub const fn code(self) -> Code {
        match self {
            Self::MachineKey | Self::MachineName => Code::BindMachineKey,
        }
    }
}

impl Countersigned {
    /// Binds both factors.
    ///
    /// The agent's own key was compared with the token's when the agent was authenticated; this compares the
    /// machine's. By key and not by certificate, because certificates renew every few minutes.
    ///
    /// # Errors
    /// [`BindError`] if the token was issued for another machine.
    pub fn bind(agent: VerifiedAgent, machine: VerifiedMachine) -> Result<Self, BindError> {
        let env = &agent.claims().env;
        if !env.jkt.ct_eq(&machine.thumbprint()) {
            return Err(BindError::MachineKey);
        }
        if env.sub != *machine.spiffe_id() {
            return Err(BindError::MachineName);
        }
        Ok(Self { agent, machine })
    }

    /// The agent.
    #[must_use]
    pub const fn agent(&self) -> &VerifiedAgent {
        &self.agent
    }

    /// The machine.
    #[must_use]
    pub const fn machine(&self) -> &VerifiedMachine {
        &self.machine
    }
}
