//! The admin API as types: what the command line sends and gets. Unknown members are refused on the way in.
//!
//! Everything travels as JSON over the Unix socket. Secrets appear once, in the answer that makes them
//! (enrollment token, invite link), and are never listed.

use std::collections::BTreeMap;

use countersign_proto::digest::Sha256Digest;
use countersign_proto::id::{
    AgentId, ApprovalId, MachineId, PersonId, RunId, SpiffeId, TaskId, ToolName, TrustDomain, UpstreamId,
};
use countersign_proto::jose::Thumbprint;
use countersign_proto::time::Timestamp;
use countersign_proto::token::ToolGrant;
use serde::{Deserialize, Serialize};

/// Every refusal: a stable code and one sentence; `details` only where the caller's own text is at fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// Stable code: `not_found`, `exists`, `conflict`, `invalid_request`, `invalid_policy`, `state`, `unavailable`.
    pub error: String,
    /// One sentence.
    pub message: String,
    /// Lines about the caller's own input, such as policy errors.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
}

/// `GET /admin/v1/status`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Our public origin.
    pub issuer: String,
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// Whether issuing and deciding can go on.
    pub ready: bool,
    /// Whether the audit log acknowledges records.
    pub log_healthy: bool,
    /// Records in our log.
    pub log_size: u64,
    /// Name of our log.
    pub log_origin: String,
    /// Version of the newest snapshot; absent before the first.
    pub snapshot_version: Option<u64>,
    /// Revision of the active policy set.
    pub policy_revision: u64,
    /// The machine CA certificate, DER in base64url.
    pub machine_root: String,
    /// The snapshot key's public JWK.
    pub snapshot_key: serde_json::Value,
    /// Where people go.
    pub console_url: String,
}

/// A reason, recorded with the act.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    /// Why, in the administrator's words (at most 500 characters).
    #[serde(default)]
    pub reason: String,
}

/// `POST /admin/v1/persons`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddPerson {
    /// Never reused.
    pub id: PersonId,
    /// How they want to be called (at most 100 characters, no control characters).
    pub display_name: String,
    /// Whether this person may approve calls; on by default.
    #[serde(default = "yes")]
    pub approver: bool,
}

const fn yes() -> bool {
    true
}

/// An invitation to register a passkey. Whoever opens the link first is that person: deliver it safely.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Invite {
    /// Whom it invites.
    pub person: PersonId,
    /// The link, once.
    pub url: String,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// One person; `GET /admin/v1/persons` answers `{persons: […]}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Person {
    /// Who.
    pub id: PersonId,
    /// How they want to be called.
    pub display_name: String,
    /// Whether they may approve calls.
    pub approver: bool,
    /// How many passkeys they registered.
    pub passkeys: usize,
}

/// `GET /admin/v1/persons`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Persons {
    /// All of them.
    pub persons: Vec<Person>,
}

/// `POST /admin/v1/agents`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddAgent {
    /// Never reused, also not after retirement.
    pub id: AgentId,
    /// The person who answers for it.
    pub sponsor: PersonId,
    /// Policy groups.
    #[serde(default)]
    pub groups: Vec<String>,
}

/// One agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Agent {
    /// Which.
    pub id: AgentId,
    /// Who answers for it.
    pub sponsor: PersonId,
    /// `active`, `suspended` or `retired`.
    pub state: String,
    /// Bumped by every kill; older tokens are dead.
    pub generation: u64,
    /// Policy groups.
    pub groups: Vec<String>,
}

/// `GET /admin/v1/agents`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Agents {
    /// All of them.
    pub agents: Vec<Agent>,
}

/// `POST /admin/v1/machines/tokens`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateEnrollmentToken {
    /// The machine that will enroll with it.
    pub machine: MachineId,
    /// Life in seconds (60 to 7 days); the configured default if absent.
    #[serde(default)]
    pub expires_in_secs: Option<i64>,
    /// PCR reference values (index to 32 bytes, base64url); if absent, the first verified quote becomes the reference.
    #[serde(default)]
    pub reference: Option<BTreeMap<u8, Sha256Digest>>,
}

/// The answer, once: the token is not stored in the clear.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EnrollmentToken {
    /// For which machine.
    pub machine: MachineId,
    /// The token. Single use.
    pub token: String,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// One machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// Which.
    pub id: MachineId,
    /// Its SPIFFE ID.
    pub spiffe_id: SpiffeId,
    /// `active`, `locked` or `revoked`.
    pub state: String,
    /// Thumbprint of its machine key, once certified.
    pub key: Option<Thumbprint>,
    /// Digest of its endorsement key.
    pub endorsement: Sha256Digest,
    /// Bumped by lock and revoke.
    pub generation: u64,
    /// Assurance level (DESIGN §4) reached so far.
    pub level: u8,
}

/// `GET /admin/v1/machines`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machines {
    /// All of them.
    pub machines: Vec<Machine>,
}

/// `POST /admin/v1/tasks`: one purpose, one boundary, one expiry (DESIGN §4).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateTask {
    /// Who may work on it.
    pub agent: AgentId,
    /// Written by the sponsor; shown to approvers.
    pub purpose: String,
    /// The one upstream it may touch.
    pub upstream: UpstreamId,
    /// Tools and argument constraints.
    pub tools: Vec<ToolGrant>,
    /// Calls in all.
    pub max_calls: u64,
    /// Life in seconds, from now.
    pub expires_in_secs: i64,
}

/// One task.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Task {
    /// Which.
    pub id: TaskId,
    /// Who works on it.
    pub agent: AgentId,
    /// On whose behalf: the agent's sponsor when it was granted.
    pub sponsor: PersonId,
    /// What for.
    pub purpose: String,
    /// Where (resource URL).
    pub location: String,
    /// Tools and constraints.
    pub tools: Vec<ToolGrant>,
    /// Calls in all.
    pub max_calls: u64,
    /// When it ends.
    pub expires_at: Timestamp,
    /// `active`, `expired` or `revoked`.
    pub state: String,
}

/// `GET /admin/v1/tasks`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tasks {
    /// All of them.
    pub tasks: Vec<Task>,
}

/// `POST /admin/v1/policies`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActivatePolicy {
    /// The whole Cedar policy set.
    pub cedar: String,
    /// Refuse with `conflict` unless this revision is the active one (no lost update).
    #[serde(default)]
    pub expected_revision: Option<u64>,
}

/// The active policy set: `GET /admin/v1/policies`, and the answer to activation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Policy {
    /// Only ever grows.
    pub revision: u64,
    /// SHA-256 of the text.
    pub digest: Sha256Digest,
    /// The text.
    pub cedar: String,
}

/// One tool of an upstream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tool {
    /// Its name.
    pub name: ToolName,
    /// `pinned`, `proposed` or `changed`.
    pub state: String,
    /// Digest of the definition seen last: the one an approval would pin.
    pub digest: Sha256Digest,
    /// Digest of the definition in force, if one is pinned.
    pub pinned: Option<Sha256Digest>,
    /// The definition as the upstream gave it. Untrusted text.
    pub definition: serde_json::Value,
}

/// One upstream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Upstream {
    /// Which.
    pub id: UpstreamId,
    /// Its resource URL.
    pub resource: String,
    /// Its tools.
    pub tools: Vec<Tool>,
}

/// `GET /admin/v1/upstreams`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Upstreams {
    /// All configured.
    pub upstreams: Vec<Upstream>,
}

/// `POST /admin/v1/upstreams/{id}/tools/{name}/approve`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApproveTool {
    /// Digest of the definition that was reviewed; anything else is a `conflict`.
    pub digest: Sha256Digest,
}

/// One approval request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Approval {
    /// Which.
    pub id: ApprovalId,
    /// `asked`, `granted`, `refused`, `used` or `expired`.
    pub state: String,
    /// Who asks.
    pub agent: AgentId,
    /// In which run.
    pub run: RunId,
    /// On which machine.
    pub machine: MachineId,
    /// Under which task.
    pub task: TaskId,
    /// Where the call goes.
    pub upstream: UpstreamId,
    /// The tool.
    pub tool: ToolName,
    /// Digest of the exact call.
    pub call_digest: Sha256Digest,
    /// When it was asked.
    pub asked_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// `GET /admin/v1/approvals`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Approvals {
    /// Open ones first.
    pub approvals: Vec<Approval>,
}

/// `GET /admin/v1/approvals/{id}`: with what was signed, to be checked by anybody. The challenge in `assertion` is the
/// SHA-256 of `object` as canonical JSON (RFC 8785); the log has both digests.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SignedApproval {
    /// The request.
    pub approval: Approval,
    /// The object the approver's passkey signed, arguments included; none before a yes.
    pub object: Option<serde_json::Value>,
    /// The passkey's answer, as the browser sent it.
    pub assertion: Option<serde_json::Value>,
}

/// `GET /admin/v1/snapshot`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SnapshotFacts {
    /// Only ever grows.
    pub version: u64,
    /// SHA-256 of the body.
    pub body_sha256: Sha256Digest,
    /// Size of the body in bytes.
    pub body_bytes: usize,
    /// The body itself.
    pub body: serde_json::Value,
}

/// `GET /admin/v1/records?from=N&limit=M`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Records {
    /// From `from` on, in order, at most `limit`.
    pub records: Vec<IndexedRecord>,
    /// How many the log holds.
    pub size: u64,
}

/// One record and its place in the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IndexedRecord {
    /// Its index.
    pub index: u64,
    /// As it was written.
    pub record: serde_json::Value,
}

/// The empty answer of a change that has nothing to say.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Done {}
