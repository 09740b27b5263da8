//! The active policy set: compiled before it is activated, numbered so that it never goes back.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use countersign_audit::Kind;
use countersign_proto::digest::Sha256Digest;
use countersign_proto::snapshot::PolicyBundle;
use serde_json::json;

use super::{AdminError, Answer, Reply, Strict, api, carry_out};
use crate::listen::Peer;
use crate::plane::Plane;
use crate::rows::PolicyRow;

/// `GET /admin/v1/policies`
pub(super) async fn active_policy(State(plane): State<Arc<Plane>>) -> Answer<api::Policy> {
    let active = plane.store.load::<PolicyRow>(PolicyRow::ID).await?;
    let active = active.map_or_else(crate::snapshot::no_policy, |stored| stored.value);
    Ok(Reply(shown(active)))
}

/// `POST /admin/v1/policies`: on any error the old set stays.
pub(super) async fn activate_policy(
    State(plane): State<Arc<Plane>>,
    Extension(peer): Extension<Peer>,
    Strict(request): Strict<api::ActivatePolicy>,
) -> Answer<api::Policy> {
    let active = plane.store.load::<PolicyRow>(PolicyRow::ID).await?;
    let revision = active.as_ref().map_or(0, |stored| stored.value.revision);
    if request.expected_revision.is_some_and(|expected| expected != revision) {
        return Err(AdminError::Conflict);
    }
    let next = PolicyRow {
        revision: revision.checked_add(1).ok_or(AdminError::State("no more revisions"))?,
        digest: Sha256Digest::of(request.cedar.as_bytes()),
        cedar: request.cedar,
    };
    let mut draft = crate::snapshot::draft(&plane).await?;
    draft.policies = PolicyBundle { revision: next.revision, cedar: next.cedar.clone(), digest: next.digest };
    crate::snapshot::compiles(draft).await?.map_err(AdminError::Policy)?;
    let tx = plane.store.transaction();
    let tx = match &active {
        Some(stored) => tx.update(stored, &next),
        None => tx.insert(&next),
    };
    let members = json!({"revision": next.revision, "policy": next.digest, "cedar": next.cedar});
    carry_out(&plane, &peer, Kind::Admin, "policy.activate", members, tx).await?;
    Ok(Reply(shown(next)))
}

fn shown(row: PolicyRow) -> api::Policy {
    api::Policy { revision: row.revision, digest: row.digest, cedar: row.cedar }
}
