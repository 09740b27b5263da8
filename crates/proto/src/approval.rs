//! What a person signs to approve one call, and the grant that tells a gateway about it.
//!
//! Formats only. Who may approve is `identity::approval`; the passkey's signature is `webauthn`.

use serde::{Deserialize, Serialize};

use crate::call::Call;
use crate::digest::Sha256Digest;
use crate::id::{AgentId, ApprovalId, MachineId, PersonId, RunId, TaskId};
use crate::jose::{JwsSigner, SignError, Thumbprint, sign_compact};
use crate::json::{self, JsonError, Value};

/// The `typ` of an approval grant.
pub const APPROVAL_GRANT_TYP: &str = "countersign-approval+jwt";

/// The object a person approves. Its canonical JSON, hashed, is the challenge their passkey signs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovalObject {
    /// What this is, so that its hash can be nothing else's.
    pub domain: ApprovalDomain,
    /// The approval.
    pub id: ApprovalId,
    /// The exact call.
    pub call: Call,
    /// The digest of what the person was shown.
    pub view_hash: Sha256Digest,
    /// How far it reaches.
    pub scope: ApprovalScope,
    /// The digest of the policies that asked for it.
    pub policy: Sha256Digest,
    /// The agent that wants to call.
    pub agent: AgentId,
    /// Its run.
    pub run: RunId,
    /// The machine it runs on.
    pub machine: MachineId,
    /// Its task.
    pub task: TaskId,
    /// The person on whose behalf it acts.
    pub requester: PersonId,
    /// The person who approves.
    pub approver: PersonId,
    /// Not valid from here on; seconds since the epoch.
    pub expires_at: i64,
    /// Random, so that two approvals of one call differ: 16 bytes or more, base64url.
    pub nonce: String,
}

/// The one domain of [`ApprovalObject`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ApprovalDomain {
    /// `countersign/approval/v1`.
    #[default]
    #[serde(rename = "countersign/approval/v1")]
    V1,
}

/// How far an approval reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalScope {
    /// This call, once.
    #[default]
    Once,
}

impl ApprovalObject {
    /// The canonical JSON.
    ///
    /// # Errors
    /// [`JsonError`] if `expires_at` is beyond 2^53-1.
    pub fn to_jcs(&self) -> Result<Vec<u8>, JsonError> {
        self.to_value().map(|value| value.to_jcs())
    }

    /// The object as JSON.
    ///
    /// # Errors
    /// As [`ApprovalObject::to_jcs`].
    pub fn to_value(&self) -> Result<Value, JsonError> {
        json::from_serde(self)
    }

    /// The WebAuthn challenge: SHA-256 of the canonical JSON.
    ///
    /// # Errors
    /// As [`ApprovalObject::to_jcs`].
    pub fn challenge(&self) -> Result<[u8; 32], JsonError> {
        Ok(*Sha256Digest::of(&self.to_jcs()?).as_bytes())
    }
}

/// What the server tells a gateway once a person has approved: a short-lived JWS for one call, run and machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovalGrant {
    /// The server.
    pub iss: String,
    /// The approval.
    pub apr: ApprovalId,
    /// The digest of the exact call.
    pub call_digest: Sha256Digest,
    /// The run it is for.
    pub run: RunId,
    /// The thumbprint of the machine's key M.
    pub machine_jkt: Thumbprint,
    /// The agent it is for.
    pub agent: AgentId,
    /// The digest of the policies that asked for it.
    pub policy: Sha256Digest,
    /// Who approved.
    pub approver: PersonId,
    /// Not valid from here on; seconds since the epoch.
    pub exp: i64,
    /// The grant's own name.
    pub jti: String,
}

impl ApprovalGrant {
    /// The grant as a compact JWS. `kid` names the server's approval key.
    ///
    /// # Errors
    /// [`SignError`] from the key.
    pub fn sign(&self, signer: &dyn JwsSigner, kid: &str) -> Result<String, SignError> {
        sign_compact(
            signer,
            APPROVAL_GRANT_TYP,
            &[("kid", Value::from(kid))],
            &json::from_serde(self)?.to_jcs(),
        )
    }
}

#[cfg(test)]
mod tests;
