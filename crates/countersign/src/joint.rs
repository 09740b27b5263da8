//! The joint between control plane and gateway in one process: the gateway's [`ControlPlane`] over the server's
//! control. Both sides have their own types, because neither may link the other; this only carries values across.

use std::sync::Arc;

use countersign_gateway::{
    ApprovalHandle, ApprovalOutcome, ApprovalRequest, ControlError, ControlPlane, ToolManifest,
};
use countersign_proto::digest::Sha256Digest;
use countersign_proto::id::{ApprovalId, RunId, UpstreamId};
use countersign_proto::jose::Thumbprint;
use countersign_proto::json::{Object, Value};
use countersign_proto::snapshot::SignedSnapshot;
use countersign_server::control::{self, ServerControl};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

/// The control plane of this process, as its gateway sees it.
#[derive(Clone)]
pub struct Joint(Arc<ServerControl>);

impl Joint {
    /// Joins a gateway of this process to `control`.
    pub const fn new(control: Arc<ServerControl>) -> Self {
        Self(control)
    }

    async fn redeem(
        self,
        id: ApprovalId,
        call_digest: Sha256Digest,
        run: RunId,
        machine_jkt: Thumbprint,
    ) -> Result<ApprovalOutcome, ControlError> {
        let outcome =
            self.0.redeem_approval(&id, &call_digest, &run, &machine_jkt).await.map_err(unavailable)?;
        Ok(match outcome {
            control::ApprovalOutcome::Pending => {
                // It was there a moment ago; gone means that nobody can answer it any more.
                match self.0.approval_handle(&id).await.map_err(unavailable)? {
                    Some(open) => ApprovalOutcome::Pending(handle(open)),
                    None => ApprovalOutcome::Expired,
                }
            }
            control::ApprovalOutcome::Granted(grant) => ApprovalOutcome::Granted(grant),
            control::ApprovalOutcome::Refused => ApprovalOutcome::Refused,
            control::ApprovalOutcome::Expired => ApprovalOutcome::Expired,
            control::ApprovalOutcome::Spent => ApprovalOutcome::Spent,
            control::ApprovalOutcome::Mismatch => ApprovalOutcome::Mismatch,
        })
    }
}

impl ControlPlane for Joint {
    fn snapshots(&self) -> watch::Receiver<Option<SignedSnapshot>> {
        self.0.snapshots()
    }

    fn propose_tools(
        &self,
        upstream: UpstreamId,
        tools: Vec<ToolManifest>,
    ) -> BoxFuture<'static, Result<(), ControlError>> {
        let control = Arc::clone(&self.0);
        async move {
            let tools = tools.into_iter().map(proposed).collect();
            control.propose_tools(&upstream, tools).await.map_err(unavailable)
        }
        .boxed()
    }

    fn ask_approval(
        &self,
        request: ApprovalRequest,
    ) -> BoxFuture<'static, Result<ApprovalHandle, ControlError>> {
        let control = Arc::clone(&self.0);
        async move { control.ask_approval(asked(request)).await.map(handle).map_err(unavailable) }.boxed()
    }

    fn redeem_approval(
        &self,
        id: ApprovalId,
        call_digest: Sha256Digest,
        run: RunId,
        machine_jkt: Thumbprint,
    ) -> BoxFuture<'static, Result<ApprovalOutcome, ControlError>> {
        self.clone().redeem(id, call_digest, run, machine_jkt).boxed()
    }
}

fn proposed(tool: ToolManifest) -> control::ProposedTool {
    let input_schema = tool.definition.as_object().and_then(|object| object.get("inputSchema")).cloned();
    control::ProposedTool {
        name: tool.name,
        digest: tool.digest,
        input_schema: input_schema.unwrap_or_else(|| Value::Object(Object::default())),
        definition: tool.definition,
    }
}

fn asked(request: ApprovalRequest) -> control::ApprovalRequest {
    control::ApprovalRequest {
        decision_id: request.decision_id,
        call: request.call,
        agent: request.agent,
        run: request.run,
        machine: request.machine,
        machine_jkt: request.machine_jkt,
        task: request.task,
        requester: request.requester,
        policy: request.policy,
        asked_by: None,
        agent_says: None,
    }
}

fn handle(handle: control::ApprovalHandle) -> ApprovalHandle {
    ApprovalHandle { id: handle.id, url: handle.url, expires_at: handle.expires_at }
}

fn unavailable(error: control::ControlError) -> ControlError {
    ControlError(error.to_string())
}
