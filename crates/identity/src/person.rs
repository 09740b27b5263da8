//! People: sponsors, approvers, administrators. They log in with passkeys and with nothing else.

use std::collections::BTreeSet;

use countersign_proto::id::PersonId;
use countersign_proto::webauthn::Credential;
use serde::{Deserialize, Serialize};

/// Passkeys one person may have.
pub const MAX_PASSKEYS: usize = 16;

/// A person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Person {
    /// Who.
    pub id: PersonId,
    /// How they want to be called; shown, never compared.
    pub display_name: String,
    /// What they may do.
    pub roles: BTreeSet<Role>,
    /// How they prove it.
    pub passkeys: Vec<Credential>,
    /// Whether they may do anything at all.
    pub state: PersonState,
}

/// What a person may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Change the installation.
    Admin,
    /// Answer for agents and grant them tasks.
    Sponsor,
    /// Answer requests for approval.
    Approver,
    /// Read records and proofs.
    Auditor,
}

/// Whether a person may do anything at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PersonState {
    /// They may.
    Active,
    /// They left or are locked; nothing in their name counts.
    Disabled,
}

/// Why a passkey is not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasskeyError {
    /// [`MAX_PASSKEYS`] reached.
    #[error("too many passkeys")]
    TooMany,
    /// This passkey is there already.
    #[error("passkey is registered already")]
    Known,
    /// The person is disabled.
    #[error("person is disabled")]
    Disabled,
}

impl Person {
    /// A new person without passkeys.
    #[must_use]
    pub const fn new(id: PersonId, display_name: String, roles: BTreeSet<Role>) -> Self {
        Self { id, display_name, roles, passkeys: Vec::new(), state: PersonState::Active }
    }

    /// Whether this person is active and has that role.
    #[must_use]
    pub fn may(&self, role: Role) -> bool {
        self.is_active() && self.roles.contains(&role)
    }

    /// Whether anything in this person's name counts.
    #[must_use]
    pub const fn is_active(&self) -> bool {
        matches!(self.state, PersonState::Active)
    }

    /// Adds a passkey.
    ///
    /// # Errors
    /// [`PasskeyError`].
    pub fn add_passkey(mut self, passkey: Credential) -> Result<Self, PasskeyError> {
        if !self.is_active() {
            Err(PasskeyError::Disabled)
        } else if self.passkeys.iter().any(|known| known.id == passkey.id) {
            Err(PasskeyError::Known)
        } else if self.passkeys.len() >= MAX_PASSKEYS {
            Err(PasskeyError::TooMany)
        } else {
            self.passkeys.push(passkey);
            Ok(self)
        }
    }

    /// Disables the person.
    #[must_use]
    pub fn disable(self) -> Self {
        Self { state: PersonState::Disabled, ..self }
    }
}
