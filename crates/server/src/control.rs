//! What a gateway asks of the control plane, as plain methods: snapshots, tool proposals, approvals.
//!
//! The gateway's own trait is implemented over this in the wiring crate, so that neither links the other.

mod approvals;
mod manifests;

use std::sync::Arc;

use countersign_audit::Kind;
use countersign_proto::call::Call;
use countersign_proto::digest::Sha256Digest;
use countersign_proto::id::{
    AgentId, ApprovalId, DecisionId, MachineId, PersonId, PolicyId, RunId, TaskId, ToolName, UpstreamId,
};
use countersign_proto::jose::Thumbprint;
use countersign_proto::json;
use countersign_proto::snapshot::SignedSnapshot;
use countersign_proto::time::Timestamp;
use countersign_store::{StoreError, Tx};
use serde_json::json;
use tokio::sync::watch;

use crate::plane::{Plane, Trouble};
use crate::rows::{ToolCountRow, ToolDefinition, ToolRow};
pub(crate) use approvals::{
    ApprovalRow, SignedRow, all_approvals, cancel_approvals, expire_approvals, members,
};

pub(crate) use manifests::Manifests;

/// Most tools taken from one upstream at once.
const MAX_TOOLS: usize = 1000;
/// Most tools ever taken from one upstream, those that are gone included.
const MAX_TOOLS_EVER: usize = 2000;
/// Largest definition of one tool, serialized.
const MAX_DEFINITION_BYTES: usize = 64 * 1024;

/// The control plane as gateways of the same process see it. Cheap to clone.
#[derive(Clone)]
pub struct ServerControl {
    pub(crate) plane: Arc<Plane>,
}

/// A tool as its upstream describes it.
#[derive(Clone, Debug)]
pub struct ProposedTool {
    /// Its name.
    pub name: ToolName,
    /// Digest of the canonical definition.
    pub digest: Sha256Digest,
    /// Its `inputSchema`.
    pub input_schema: json::Value,
    /// The whole definition.
    pub definition: json::Value,
}

/// A held call that needs a person's yes.
#[derive(Clone, Debug)]
pub struct ApprovalRequest {
    /// The decision that asked for it.
    pub decision_id: DecisionId,
    /// The exact call.
    pub call: Call,
    /// Who wants to make it.
    pub agent: AgentId,
    /// In which run.
    pub run: RunId,
    /// On which machine.
    pub machine: MachineId,
    /// With which machine key.
    pub machine_jkt: Thumbprint,
    /// Under which task.
    pub task: TaskId,
    /// On whose behalf; this person cannot approve.
    pub requester: PersonId,
    /// Digest of the policy set in force.
    pub policy: Sha256Digest,
    /// The policy that asked, where known by name.
    pub asked_by: Option<PolicyId>,
    /// The agent's own words, quarantined.
    pub agent_says: Option<String>,
}

/// Where the approval can be given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApprovalHandle {
    /// Which.
    pub id: ApprovalId,
    /// For the person, not for the agent: opening it gives no right.
    pub url: String,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// What came of an approval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApprovalOutcome {
    /// Nobody answered yet.
    Pending,
    /// Approved, and spent on this call by this answer: the grant, a compact JWS.
    Granted(String),
    /// Refused.
    Refused,
    /// Nobody answered in time.
    Expired,
    /// Spent before.
    Spent,
    /// Unknown, or for another call, run or machine. Which of these is not told.
    Mismatch,
}

/// Why the control plane did not do it.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The agent has too many requests waiting.
    #[error("too many pending approvals")]
    TooManyPending,
    /// The request itself cannot be taken.
    #[error("refused: {0}")]
    Refused(&'static str),
    /// We could not find out or could not write down.
    #[error("control plane unavailable")]
    Unavailable(#[from] Trouble),
}

impl From<StoreError> for ControlError {
    fn from(error: StoreError) -> Self {
        Self::Unavailable(error.into())
    }
}

impl ServerControl {
    /// Every snapshot from now on; the current one at once.
    #[must_use]
    pub fn snapshots(&self) -> watch::Receiver<Option<SignedSnapshot>> {
        self.plane.snapshots.subscribe()
    }

    /// Takes note of what an upstream offers. Known and unchanged tools cost nothing; a change of a pinned tool is
    /// published at once (gateways refuse it) and waits for an administrator.
    ///
    /// # Errors
    /// For an unknown upstream, too many definitions at once, and when nothing could be stored. Definitions that are
    /// too large, or more than an upstream may ever show, are left out, with one alarm an hour.
    pub async fn propose_tools(
        &self,
        upstream: &UpstreamId,
        tools: Vec<ProposedTool>,
    ) -> Result<(), ControlError> {
        let plane = &self.plane;
        let Some(config) = plane.upstream(upstream) else {
            return Err(ControlError::Refused("unknown upstream"));
        };
        if tools.len() > MAX_TOOLS {
            return Err(ControlError::Refused("too many tools"));
        }
        let (mut changed, mut refused) = (false, None);
        for tool in tools {
            match self.propose_tool(upstream, config.first_sight, tool).await {
                Ok(now) => changed |= now,
                // One that cannot be taken does not hide those after it. Gateways refuse what we do not know.
                Err(ControlError::Refused(why)) => refused = Some(why),
                Err(error) => return Err(error),
            }
        }
        if changed {
            plane.publish_changes().await;
        }
        if let Some(why) = refused
            && plane.manifests.is_first_complaint(upstream, plane.now())
        {
            plane.alarm("tool.flood", json!({"upstream": upstream, "detail": why})).await;
        }
        Ok(())
    }

    async fn propose_tool(
        &self,
        upstream: &UpstreamId,
        first_sight: bool,
        tool: ProposedTool,
    ) -> Result<bool, ControlError> {
        let plane = &self.plane;
        let definition = tool.definition.to_jcs();
        if definition.len() > MAX_DEFINITION_BYTES {
            return Err(ControlError::Refused("tool definition too large"));
        }
        let form = |bytes: &[u8]| serde_json::from_slice(bytes).map_err(|_| Trouble::Form("tool definition"));
        let seen = ToolDefinition {
            digest: tool.digest,
            input_schema: form(&tool.input_schema.to_jcs())?,
            definition: form(&definition)?,
        };
        let stored = plane.store.load::<ToolRow>(&ToolRow::key(upstream, &tool.name)).await?;
        let (act, next, tx) = match stored {
            Some(stored) if stored.value.seen == seen => return Ok(false),
            Some(stored) => {
                self.may_write(upstream)?;
                let next = ToolRow { seen, ..stored.value.clone() };
                let tx = plane.store.transaction().update(&stored, &next);
                ("tool.changed", next, tx)
            }
            None => {
                let count = self.counted(upstream).await?;
                self.may_write(upstream)?;
                let mut next =
                    ToolRow { upstream: upstream.clone(), name: tool.name, pinned: Some(seen.clone()), seen };
                let pin = first_sight && self.fits_policies(&next).await?;
                let act = if pin { "tool.pinned_at_first_sight" } else { "tool.proposed" };
                if !pin {
                    next.pinned = None;
                }
                let tx = count.insert(&next);
                (act, next, tx)
            }
        };
        let members =
            json!({"act": act, "upstream": next.upstream, "tool": next.name, "definition": next.seen.digest});
        plane.record(Kind::Admin, members).await?;
        match plane.commit_to_publish(tx).await {
            Ok(()) => Ok(true),
            // Another gateway proposed the same at the same moment.
            Err(StoreError::Exists { .. } | StoreError::Conflict { .. }) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    fn may_write(&self, upstream: &UpstreamId) -> Result<(), ControlError> {
        if self.plane.manifests.admits(upstream, self.plane.now()) {
            Ok(())
        } else {
            Err(ControlError::Refused("the upstream changes its tools too often"))
        }
    }

    /// A transaction that counts one more tool of the upstream.
    async fn counted(&self, upstream: &UpstreamId) -> Result<Tx, ControlError> {
        let store = &self.plane.store;
        let counted = store.load::<ToolCountRow>(upstream.as_str()).await?;
        let tools = counted.as_ref().map_or(0, |counted| counted.value.tools) + 1;
        if tools > MAX_TOOLS_EVER {
            return Err(ControlError::Refused("the upstream has shown too many tools"));
        }
        let next = ToolCountRow { upstream: upstream.clone(), tools };
        let tx = store.transaction();
        Ok(match &counted {
            Some(counted) => tx.update(counted, &next),
            None => tx.insert(&next),
        })
    }

    /// Whether the active policies still compile once this tool is pinned; if not, a person has to look.
    async fn fits_policies(&self, tool: &ToolRow) -> Result<bool, Trouble> {
        let mut draft = crate::snapshot::draft(&self.plane).await?;
        crate::snapshot::place_tool(&mut draft, tool);
        Ok(crate::snapshot::compiles(draft).await?.is_ok())
    }
}
