//! ACME accounts and orders as values that change by value (RFC 8555 §7.1.6), for `device-attest-01` only.
//!
//! One order is one identifier, one authorization, one challenge and at most one certificate. Nothing is re-used
//! across orders: another key needs another attestation. Nonces, persistence and HTTP are elsewhere.

mod order;
mod render;

use countersign_proto::acme::{AcmeProblem, PermanentIdentifier, Problem};
use countersign_proto::id::MachineId;
use countersign_proto::jose::PublicJwk;
use countersign_proto::time::Timestamp;
use serde::{Deserialize, Serialize};

pub use order::{Issuance, ORDER_LIFETIME_SECS, Order, OrderState, Refused};
pub use render::{certificate_chain_pem, rfc3339};

/// How long an external account key can be bound, in seconds.
pub const EAB_LIFETIME_SECS: i64 = 3600;

/// The right to open one account for one machine (RFC 8555 §7.3.4). The MAC key itself is kept by the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EabKey {
    /// Names it.
    pub kid: String,
    /// The machine it was given to.
    pub machine: MachineId,
    /// What the account may order.
    pub permanent_identifier: PermanentIdentifier,
    /// When it ends if nobody uses it.
    pub expires_at: Timestamp,
    /// Whether it was used.
    pub state: EabState,
}

/// Whether an external account key was used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case", deny_unknown_fields)]
pub enum EabState {
    /// Not yet.
    Open {},
    /// By this account.
    Bound {
        /// The account's id.
        account: String,
    },
}

/// An account: one key that may order for one machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// Names it.
    pub id: String,
    /// Its key.
    pub key: PublicJwk,
    /// The external account key it was opened with.
    pub eab_kid: String,
    /// The machine it orders for.
    pub machine: MachineId,
    /// The one identifier it may order.
    pub permanent_identifier: PermanentIdentifier,
    /// Whether it may act.
    pub state: AccountState,
    /// When it was opened.
    pub created_at: Timestamp,
}

/// Whether an account may act (RFC 8555 §7.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccountState {
    /// It may.
    Valid,
    /// Ended by its owner; final.
    Deactivated,
    /// Ended by us; final.
    Revoked,
}

impl EabKey {
    /// A key for one account of `machine`.
    #[must_use]
    pub fn open(
        kid: String,
        machine: MachineId,
        permanent_identifier: PermanentIdentifier,
        now: Timestamp,
    ) -> Self {
        Self {
            kid,
            machine,
            permanent_identifier,
            expires_at: now.plus_secs(EAB_LIFETIME_SECS),
            state: EabState::Open {},
        }
    }

    /// Opens the one account. The caller has verified the binding with this key's MAC key, and saves both together.
    ///
    /// # Errors
    /// `unauthorized` if it was used before or has expired.
    pub fn bind(
        self,
        account_id: String,
        key: PublicJwk,
        now: Timestamp,
    ) -> Result<(Self, Account), Problem> {
        match self.state {
            EabState::Open {} if now <= self.expires_at => {
                let account = Account {
                    id: account_id.clone(),
                    key,
                    eab_kid: self.kid.clone(),
                    machine: self.machine.clone(),
                    permanent_identifier: self.permanent_identifier.clone(),
                    state: AccountState::Valid,
                    created_at: now,
                };
                Ok((Self { state: EabState::Bound { account: account_id }, ..self }, account))
            }
            EabState::Open {} | EabState::Bound { .. } => Err(unauthorized()),
        }
    }
}

impl Account {
    /// Whether the account may do anything.
    ///
    /// # Errors
    /// `unauthorized` once it was deactivated or revoked; there is no way back.
    pub fn may_act(&self) -> Result<(), Problem> {
        match self.state {
            AccountState::Valid => Ok(()),
            AccountState::Deactivated | AccountState::Revoked => Err(unauthorized()),
        }
    }

    /// Ends the account at its owner's wish.
    #[must_use]
    pub fn deactivate(self) -> Self {
        match self.state {
            AccountState::Valid => Self { state: AccountState::Deactivated, ..self },
            AccountState::Deactivated | AccountState::Revoked => self,
        }
    }

    /// Ends the account at ours.
    #[must_use]
    pub fn revoke(self) -> Self {
        Self { state: AccountState::Revoked, ..self }
    }
}

/// One body for "not yours", "not there" and "not any more" (RFC 8555 §10).
fn unauthorized() -> Problem {
    Problem::new(AcmeProblem::Unauthorized, "this account may not do that")
}

#[cfg(test)]
mod tests;
