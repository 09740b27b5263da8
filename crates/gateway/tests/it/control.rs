//! A control plane that behaves: signs what it is given and hands out each approval once.

use std::collections::HashMap;
use std::sync::Arc;

use countersign_gateway::{
    ApprovalHandle, ApprovalOutcome, ApprovalRequest, ControlError, ControlPlane, ToolManifest,
};
use countersign_proto::digest::Sha256Digest;
use countersign_proto::id::{ApprovalId, RunId, UpstreamId};
use countersign_proto::jose::Thumbprint;
use countersign_proto::snapshot::SignedSnapshot;
use countersign_proto::time::Timestamp;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};

pub struct FakeControl {
    pub snapshots: watch::Sender<Option<SignedSnapshot>>,
    pub proposed: mpsc::UnboundedSender<(UpstreamId, Vec<ToolManifest>)>,
    pub asked: Mutex<Vec<ApprovalRequest>>,
    pub answers: Mutex<HashMap<ApprovalId, ApprovalOutcome>>,
    pub deaf: Mutex<bool>,
    /// Locked by a test for as long as redemptions are to wait.
    pub hesitation: Arc<tokio::sync::Mutex<()>>,
    /// Told of each redemption, before it waits.
    pub redeeming: Notify,
}

impl FakeControl {
    pub fn new(proposed: mpsc::UnboundedSender<(UpstreamId, Vec<ToolManifest>)>) -> Self {
        Self {
            snapshots: watch::Sender::new(None),
            proposed,
            asked: Mutex::new(Vec::new()),
            answers: Mutex::new(HashMap::new()),
            deaf: Mutex::new(false),
            hesitation: Arc::default(),
            redeeming: Notify::new(),
        }
    }

    pub fn handle(number: usize) -> ApprovalHandle {
        ApprovalHandle {
            id: ApprovalId::parse(&format!("apr_{number}")).unwrap(),
            url: format!("http://localhost:1/approvals/apr_{number}"),
            expires_at: Timestamp::from_unix_secs(4_000_000_000),
        }
    }
}

impl ControlPlane for FakeControl {
    fn snapshots(&self) -> watch::Receiver<Option<SignedSnapshot>> {
        self.snapshots.subscribe()
    }

    fn propose_tools(
        &self,
        upstream: UpstreamId,
        tools: Vec<ToolManifest>,
    ) -> BoxFuture<'static, Result<(), ControlError>> {
        let _nobody_listens = self.proposed.send((upstream, tools));
        Box::pin(async { Ok(()) })
    }

    fn ask_approval(
        &self,
        request: ApprovalRequest,
    ) -> BoxFuture<'static, Result<ApprovalHandle, ControlError>> {
        if *self.deaf.lock() {
            return Box::pin(async { Err(ControlError("nobody there".to_owned())) });
        }
        let mut asked = self.asked.lock();
        asked.push(request);
        let handle = Self::handle(asked.len());
        self.answers.lock().insert(handle.id.clone(), ApprovalOutcome::Pending(handle.clone()));
        Box::pin(async { Ok(handle) })
    }

    fn redeem_approval(
        &self,
        id: ApprovalId,
        _call_digest: Sha256Digest,
        _run: RunId,
        _machine_jkt: Thumbprint,
    ) -> BoxFuture<'static, Result<ApprovalOutcome, ControlError>> {
        let mut answers = self.answers.lock();
        let outcome = answers.get(&id).cloned().unwrap_or(ApprovalOutcome::Mismatch);
        if let ApprovalOutcome::Granted(_) = outcome {
            answers.insert(id, ApprovalOutcome::Spent);
        }
        self.redeeming.notify_one();
        let hesitation = self.hesitation.clone();
        Box::pin(async move {
            let _over = hesitation.lock().await;
            Ok(outcome)
        })
    }
}
