//! What a gateway needs from its control plane: state to decide by, and answers of people.
//!
//! The wiring implements it over a channel or over the network. Nothing a control plane says is taken on
//! its word alone: snapshots and grants are signed, and both are verified here.

use countersign_proto::call::Call;
use countersign_proto::digest::Sha256Digest;
use countersign_proto::id::{
    AgentId, ApprovalId, DecisionId, MachineId, PersonId, RunId, TaskId, ToolName, UpstreamId,
};
use countersign_proto::jose::Thumbprint;
use countersign_proto::json::Value;
use countersign_proto::snapshot::SignedSnapshot;
use countersign_proto::time::Timestamp;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

/// The control plane as one gateway sees it.
pub trait ControlPlane: Send + Sync + 'static {
    /// The stream of signed snapshots; a renewed lease is a new value with the same body.
    fn snapshots(&self) -> watch::Receiver<Option<SignedSnapshot>>;

    /// Tells what tools an upstream offers, so that a person can review what is new or changed.
    fn propose_tools(
        &self,
        upstream: UpstreamId,
        tools: Vec<ToolManifest>,
    ) -> BoxFuture<'static, Result<(), ControlError>>;

    /// Asks a person about one exact call.
    fn ask_approval(
        &self,
        request: ApprovalRequest,
    ) -> BoxFuture<'static, Result<ApprovalHandle, ControlError>>;

    /// Asks what became of an approval and, if it was granted for exactly this call, run and machine, takes
    /// it: the answer [`ApprovalOutcome::Granted`] is given once. May wait up to 25 s for the person.
    fn redeem_approval(
        &self,
        id: ApprovalId,
        call_digest: Sha256Digest,
        run: RunId,
        machine_jkt: Thumbprint,
    ) -> BoxFuture<'static, Result<ApprovalOutcome, ControlError>>;
}

/// A tool as its upstream defines it.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolManifest {
    /// Its name.
    pub name: ToolName,
    /// SHA-256 over the canonical JSON of `definition`: what gets pinned.
    pub digest: Sha256Digest,
    /// The whole definition, as listed.
    pub definition: Value,
}

/// What a person is asked.
#[derive(Clone, Debug)]
pub struct ApprovalRequest {
    /// The decision that asked for it.
    pub decision_id: DecisionId,
    /// The exact call.
    pub call: Call,
    /// The agent that wants to make it.
    pub agent: AgentId,
    /// Its run.
    pub run: RunId,
    /// The machine it runs on.
    pub machine: MachineId,
    /// That machine's key.
    pub machine_jkt: Thumbprint,
    /// The task it belongs to.
    pub task: TaskId,
    /// Why the task exists, in its sponsor's words.
    pub purpose: String,
    /// On whose behalf; never the one who approves.
    pub requester: PersonId,
    /// The policy set that asked.
    pub policy: Sha256Digest,
}

/// An approval that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApprovalHandle {
    /// Its name.
    pub id: ApprovalId,
    /// Where the person answers.
    pub url: String,
    /// When the question lapses.
    pub expires_at: Timestamp,
}

/// What became of an approval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApprovalOutcome {
    /// No answer yet.
    Pending(ApprovalHandle),
    /// Yes, once: a signed grant (`countersign-approval+jwt`).
    Granted(String),
    /// No.
    Refused,
    /// The question lapsed.
    Expired,
    /// The yes was used before.
    Spent,
    /// It is about another call, run or machine, or does not exist.
    Mismatch,
}

/// The control plane could not be asked. Never a yes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the control plane did not answer: {0}")]
pub struct ControlError(pub String);
