//! The active policy set: compiled before it is activated, numbered so that it never goes back.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, State};
use countersign_audit::Kind;
use countersign_proto::digest::Sha256Digest;
use countersign_proto::snapshot::PolicyBundle;
use serde_json::json;

use super::{AdminError, Answer, Reply, Strict, api, carry_out, named};
use crate::listen::Peer;
use crate::plane::Plane;
use crate::rows::{PolicyRow, PolicyTextRow};
use crate::snapshot::{active_policies, policies_of};

/// Largest request: the largest policy set, where every byte may need an escape.
const POLICY_BODY_BYTES: usize = 2 * countersign_policy::MAX_BUNDLE_BYTES + 4096;

/// `GET /admin/v1/policies`
pub(super) async fn active_policy(State(plane): State<Arc<Plane>>) -> Answer<api::Policy> {
    Ok(Reply(shown(active_policies(&plane).await?)))
}

/// `GET /admin/v1/policies/{revision}`: also sets that are no longer active.
pub(super) async fn policy_revision(
    State(plane): State<Arc<Plane>>,
    Path(revision): Path<String>,
) -> Answer<api::Policy> {
    let revision = named(revision.parse())?;
    let policies = policies_of(&plane, revision).await?.ok_or(AdminError::NotFound)?;
    Ok(Reply(shown(policies)))
}

/// `POST /admin/v1/policies`: on any error the old set stays.
pub(super) async fn activate_policy(
    State(plane): State<Arc<Plane>>,
    Extension(peer): Extension<Peer>,
    Strict(request): Strict<api::ActivatePolicy, POLICY_BODY_BYTES>,
) -> Answer<api::Policy> {
    let active = plane.store.load::<PolicyRow>(PolicyRow::ID).await?;
    let revision = active.as_ref().map_or(0, |stored| stored.value.revision);
    if request.expected_revision.is_some_and(|expected| expected != revision) {
        return Err(AdminError::Conflict);
    }
    let text = PolicyTextRow {
        revision: revision.checked_add(1).ok_or(AdminError::State("no more revisions"))?,
        digest: Sha256Digest::of(request.cedar.as_bytes()),
        cedar: request.cedar,
    };
    let mut draft = crate::snapshot::draft(&plane).await?;
    draft.policies = PolicyBundle { revision: text.revision, cedar: text.cedar.clone(), digest: text.digest };
    crate::snapshot::compiles(draft).await?.map_err(AdminError::Policy)?;
    let next = PolicyRow { revision: text.revision, digest: text.digest };
    let tx = plane.store.transaction().insert(&text);
    let tx = match &active {
        Some(stored) => tx.update(stored, &next),
        None => tx.insert(&next),
    };
    // The text may be larger than a record; it is kept under its revision.
    let members = json!({"revision": next.revision, "policy": next.digest, "bytes": text.cedar.len()});
    carry_out(&plane, &peer, Kind::Admin, "policy.activate", members, tx).await?;
    Ok(Reply(shown(text)))
}

fn shown(row: PolicyTextRow) -> api::Policy {
    api::Policy { revision: row.revision, digest: row.digest, cedar: row.cedar }
}
