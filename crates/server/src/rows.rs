//! What the control plane keeps: which value is which row, under which name, found by what.
//!
//! Values that belong to `trust` and `identity` are wrapped in [`Row`]; the others are the control plane's own
//! bookkeeping. Rules are where the values come from, not here.

use std::collections::BTreeMap;

use countersign_identity::agent::Agent;
use countersign_identity::person::Person;
use countersign_identity::run::Run;
use countersign_identity::task::TaskGrant;
use countersign_proto::digest::Sha256Digest;
use countersign_proto::id::{MachineId, PersonId, ToolName, UpstreamId};
use countersign_proto::jose::Thumbprint;
use countersign_proto::time::Timestamp;
use countersign_store::Aggregate;
use countersign_trust::Machine;
use countersign_trust::acme::{Account, EabKey, Order, OrderState};
use serde::{Deserialize, Serialize};

/// A value of another crate as a row.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Row<T>(pub(crate) T);

/// An unspent enrollment token. The token itself is not stored, only its digest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct EnrollmentTokenRow {
    pub(crate) token: Sha256Digest,
    pub(crate) machine: MachineId,
    pub(crate) expires_at: Timestamp,
    pub(crate) reference: Option<BTreeMap<u8, Sha256Digest>>,
}

impl Aggregate for EnrollmentTokenRow {
    const KIND: &'static str = "enrollment_token";
    fn id(&self) -> String {
        self.token.hex()
    }
}

/// An unspent invitation. The token itself is not stored, only its digest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct InviteRow {
    pub(crate) token: Sha256Digest,
    pub(crate) person: PersonId,
    pub(crate) expires_at: Timestamp,
}

impl Aggregate for InviteRow {
    const KIND: &'static str = "invite";
    fn id(&self) -> String {
        self.token.hex()
    }
}

/// The right to open one ACME account. Its MAC key is derived, not stored.
pub(crate) type EabRow = Row<EabKey>;

impl Aggregate for EabRow {
    const KIND: &'static str = "eab";
    fn id(&self) -> String {
        self.0.kid.clone()
    }
}

/// An ACME account.
pub(crate) type AccountRow = Row<Account>;

impl Aggregate for AccountRow {
    const KIND: &'static str = "account";
    fn id(&self) -> String {
        self.0.id.clone()
    }
    /// One key, one account (RFC 8555 §7.3.1).
    fn unique(&self) -> Vec<(String, String)> {
        vec![("key".into(), self.0.key.thumbprint().to_string())]
    }
}

/// An order, and the digest of the evidence that was accepted for it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct OrderRow {
    pub(crate) order: Order,
    pub(crate) evidence: Option<Sha256Digest>,
}

impl Aggregate for OrderRow {
    const KIND: &'static str = "order";
    fn id(&self) -> String {
        self.order.id.clone()
    }
    fn indexes(&self) -> Vec<(String, String)> {
        match &self.order.state {
            OrderState::Pending {} | OrderState::Ready { .. } => {
                vec![("open".into(), self.order.account.clone())]
            }
            OrderState::Processing { .. } | OrderState::Valid { .. } | OrderState::Invalid { .. } => {
                Vec::new()
            }
        }
    }
}

/// A certificate we issued to a machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CertificateRow {
    /// Lower-case hexadecimal.
    pub(crate) serial: String,
    pub(crate) account: String,
    pub(crate) machine: MachineId,
    /// Thumbprint of the certified key.
    pub(crate) key: Thumbprint,
    pub(crate) not_after: Timestamp,
    pub(crate) revoked_at: Option<Timestamp>,
}

impl Aggregate for CertificateRow {
    const KIND: &'static str = "certificate";
    fn id(&self) -> String {
        self.serial.clone()
    }
    fn indexes(&self) -> Vec<(String, String)> {
        vec![("machine".into(), self.machine.as_str().into())]
    }
}

/// A registered agent.
pub(crate) type AgentRow = Row<Agent>;

impl Aggregate for AgentRow {
    const KIND: &'static str = "agent";
    fn id(&self) -> String {
        self.0.id.as_str().into()
    }
}

/// A person.
pub(crate) type PersonRow = Row<Person>;

impl Aggregate for PersonRow {
    const KIND: &'static str = "person";
    fn id(&self) -> String {
        self.0.id.as_str().into()
    }
    /// A passkey belongs to one person: enforced by the store.
    fn unique(&self) -> Vec<(String, String)> {
        self.0.passkeys.iter().map(|passkey| ("passkey".into(), passkey_name(&passkey.id))).collect()
    }
}

/// The name a passkey is found under. Credential ids may be longer than the store's keys.
pub(crate) fn passkey_name(credential_id: &[u8]) -> String {
    Sha256Digest::of(credential_id).hex()
}

/// An enrolled machine.
pub(crate) type MachineRow = Row<Machine>;

impl Aggregate for MachineRow {
    const KIND: &'static str = "machine";
    fn id(&self) -> String {
        self.0.id.as_str().into()
    }
    /// One endorsement key, one machine: enforced by the store.
    fn unique(&self) -> Vec<(String, String)> {
        vec![
            ("ek".into(), self.0.ek_digest.hex()),
            ("permanent_identifier".into(), self.0.permanent_identifier.as_str().into()),
        ]
    }
}

/// A task grant.
pub(crate) type TaskRow = Row<TaskGrant>;

impl Aggregate for TaskRow {
    const KIND: &'static str = "task";
    fn id(&self) -> String {
        self.0.id.as_str().into()
    }
    fn indexes(&self) -> Vec<(String, String)> {
        let mut indexes = vec![("agent".into(), self.0.agent.as_str().into())];
        if let Some(at) = self.0.revoked_at {
            indexes.push(("revoked_in".into(), crate::snapshot::hour(at)));
        }
        indexes
    }
}

/// One run of an agent: found by its key A, so that every token for A belongs to the same run.
pub(crate) type RunRow = Row<Run>;

impl Aggregate for RunRow {
    const KIND: &'static str = "run";
    fn id(&self) -> String {
        self.0.id.as_str().into()
    }
    fn indexes(&self) -> Vec<(String, String)> {
        let mut indexes = Vec::new();
        if let Some(at) = self.0.ended_at {
            indexes.push(("revoked_in".into(), crate::snapshot::hour(at)));
        }
        indexes
    }
    fn unique(&self) -> Vec<(String, String)> {
        vec![("key".into(), self.0.agent_jkt.to_string())]
    }
}

/// Which policy set is active.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PolicyRow {
    pub(crate) revision: u64,
    pub(crate) digest: Sha256Digest,
}

/// A policy set that was active once, or is. Kept: the log names sets by revision and digest, not by their text.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PolicyTextRow {
    pub(crate) revision: u64,
    pub(crate) cedar: String,
    pub(crate) digest: Sha256Digest,
}

impl PolicyTextRow {
    /// The name of a revision, so that names sort as revisions do.
    pub(crate) fn key(revision: u64) -> String {
        format!("{revision:020}")
    }

    /// Before the first activation: no policy, which permits nothing.
    pub(crate) fn none() -> Self {
        Self { revision: 0, cedar: String::new(), digest: Sha256Digest::of(b"") }
    }
}

impl Aggregate for PolicyTextRow {
    const KIND: &'static str = "policy_text";
    fn id(&self) -> String {
        Self::key(self.revision)
    }
}

impl PolicyRow {
    pub(crate) const ID: &'static str = "active";
}

impl Aggregate for PolicyRow {
    const KIND: &'static str = "policy";
    fn id(&self) -> String {
        Self::ID.into()
    }
}

/// The version of the newest snapshot body and its digest; versions never repeat, also not after a restart.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotVersionRow {
    pub(crate) version: u64,
}

impl SnapshotVersionRow {
    pub(crate) const ID: &'static str = "newest";
}

impl Aggregate for SnapshotVersionRow {
    const KIND: &'static str = "snapshot_version";
    fn id(&self) -> String {
        Self::ID.into()
    }
}

/// The last sign that the store takes writes.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct PulseRow {
    pub(crate) at: Timestamp,
}

impl PulseRow {
    pub(crate) const ID: &'static str = "last";
}

impl Aggregate for PulseRow {
    const KIND: &'static str = "pulse";
    fn id(&self) -> String {
        Self::ID.into()
    }
}

/// One definition of a tool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ToolDefinition {
    pub(crate) digest: Sha256Digest,
    pub(crate) input_schema: serde_json::Value,
    pub(crate) definition: serde_json::Value,
}

/// How many tools an upstream has ever shown: rows are never removed, so they are bounded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ToolCountRow {
    pub(crate) upstream: UpstreamId,
    pub(crate) tools: usize,
}

impl Aggregate for ToolCountRow {
    const KIND: &'static str = "tool_count";
    fn id(&self) -> String {
        self.upstream.as_str().into()
    }
}

/// A tool as its upstream described it, and the definition a person accepted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ToolRow {
    pub(crate) upstream: UpstreamId,
    pub(crate) name: ToolName,
    pub(crate) pinned: Option<ToolDefinition>,
    /// Differs from `pinned` while a change waits for review.
    pub(crate) seen: ToolDefinition,
}

impl ToolRow {
    pub(crate) fn key(upstream: &UpstreamId, name: &ToolName) -> String {
        format!("{upstream}/{name}")
    }
}

impl Aggregate for ToolRow {
    const KIND: &'static str = "tool";
    fn id(&self) -> String {
        Self::key(&self.upstream, &self.name)
    }
    fn indexes(&self) -> Vec<(String, String)> {
        vec![("upstream".into(), self.upstream.as_str().into())]
    }
}
