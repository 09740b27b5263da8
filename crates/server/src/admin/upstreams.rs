//! Upstreams and their tools: what was seen, what a person accepted. A changed tool is refused until reviewed.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, State};
use countersign_audit::Kind;
use countersign_proto::id::{ToolName, UpstreamId};
use serde_json::json;

use super::{AdminError, Answer, Reply, Strict, api, carry_out, named};
use crate::listen::Peer;
use crate::plane::Plane;
use crate::rows::ToolRow;

/// `GET /admin/v1/upstreams`
pub(super) async fn list_upstreams(State(plane): State<Arc<Plane>>) -> Answer<api::Upstreams> {
    let mut upstreams = Vec::new();
    for upstream in &plane.settings.upstreams {
        let tools = plane.store.find::<ToolRow>("upstream", upstream.id.as_str()).await?;
        upstreams.push(api::Upstream {
            id: upstream.id.clone(),
            resource: upstream.resource.clone(),
            tools: tools.into_iter().map(|stored| shown(stored.value)).collect(),
        });
    }
    Ok(Reply(api::Upstreams { upstreams }))
}

/// `POST /admin/v1/upstreams/{id}/tools/{tool}/approve`
pub(super) async fn approve_tool(
    State(plane): State<Arc<Plane>>,
    Extension(peer): Extension<Peer>,
    Path((upstream, tool)): Path<(String, String)>,
    Strict(request): Strict<api::ApproveTool>,
) -> Answer<api::Tool> {
    let upstream = named(UpstreamId::parse(&upstream))?;
    let tool = named(ToolName::parse(&tool))?;
    let stored =
        plane.store.load::<ToolRow>(&ToolRow::key(&upstream, &tool)).await?.ok_or(AdminError::NotFound)?;
    // What was reviewed is what gets pinned: a definition that changed during the review is not it.
    if !stored.value.seen.digest.ct_eq(&request.digest) {
        return Err(AdminError::Conflict);
    }
    let mut next = stored.value.clone();
    next.pinned = Some(next.seen.clone());
    // The policy set must still compile against the new schema, or every gateway would refuse the snapshot.
    let mut draft = crate::snapshot::draft(&plane).await?;
    crate::snapshot::place_tool(&mut draft, &next);
    crate::snapshot::compiles(draft).await?.map_err(AdminError::Policy)?;
    let members = json!({"upstream": upstream, "tool": tool, "definition": request.digest});
    let tx = plane.store.transaction().update(&stored, &next);
    carry_out(&plane, &peer, Kind::Admin, "tool.approve", members, tx).await?;
    Ok(Reply(shown(next)))
}

fn shown(row: ToolRow) -> api::Tool {
    let state = match &row.pinned {
        None => "proposed",
        Some(pinned) if pinned.digest == row.seen.digest => "pinned",
        Some(_) => "changed",
    };
    api::Tool {
        name: row.name,
        state: state.into(),
        digest: row.seen.digest,
        pinned: row.pinned.map(|pinned| pinned.digest),
        definition: row.seen.definition,
    }
}
