//! The joint between control plane and gateway in one process: the gateway's [`ControlPlane`] over the server's
//! control. Both sides have their own types, because neither may link the other; this only carries values across.

use std::sync::Arc;

use countersign_gateway::control::{ApprovalHandle, ApprovalOutcome, ApprovalRequest, ControlError, ControlPlane, ToolManifest};
use countersign_proto::digest::Sha256Digest;
use countersign_proto::id::{ApprovalId, RunId, UpstreamId};
use countersign_proto::jose::Thumbprint;
use countersign_proto::snapshot::SignedSnapshot;
use countersign_server::control::{self, ServerControl};
use futures_util::future::BoxFuture;
use tokio::sync::watch;

/// The control plane of this process, as its gateway sees it.
#[derive(Debug)]
pub struct Joint(Arc<ServerControl>);

impl Joint {
    /// Joins a gateway of this process to `control`.
    pub fn new(control: Arc<ServerControl>) -> Self {
        Self(control)
    }
}

fn unavailable(error: control::ControlError) -> ControlError {
    ControlError(error.to_string())
}
