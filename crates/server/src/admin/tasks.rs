//! Tasks and approvals as the administrator sees them.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, State};
use countersign_audit::Kind;
use countersign_identity::task::TaskGrant;
use countersign_proto::digest::Sha256Digest;
use countersign_proto::id::{ApprovalId, TaskId};
use countersign_proto::time::Timestamp;
use serde_json::json;

use super::{AdminError, Answer, Reply, Strict, api, carry_out, named, text};
use crate::control::{ApprovalRow, SignedRow};
use crate::listen::Peer;
use crate::plane::Plane;
use crate::rows::{AgentRow, Row, TaskRow};

/// `GET /admin/v1/tasks`
pub(super) async fn list_tasks(State(plane): State<Arc<Plane>>) -> Answer<api::Tasks> {
    let now = plane.now();
    let tasks = plane.store.all::<TaskRow>().await?;
    Ok(Reply(api::Tasks { tasks: tasks.into_iter().map(|stored| shown(stored.value.0, now)).collect() }))
}

/// `POST /admin/v1/tasks`: granted by the agent's sponsor as the administrator says.
pub(super) async fn create_task(
    State(plane): State<Arc<Plane>>,
    Extension(peer): Extension<Peer>,
    Strict(request): Strict<api::CreateTask>,
) -> Answer<api::Task> {
    let now = plane.now();
    let agent = plane.store.load::<AgentRow>(request.agent.as_str()).await?;
    let Some(agent) = agent.filter(|agent| agent.value.0.is_active()) else {
        return Err(AdminError::Invalid("the agent is not an active agent"));
    };
    let Some(upstream) = plane.upstream(&request.upstream) else {
        return Err(AdminError::Invalid("the upstream is not configured"));
    };
    let purpose = text(&request.purpose)?.to_owned();
    let grant = TaskGrant {
        id: TaskId::parse(&plane.name("task_")).map_err(|_| AdminError::State("no task id"))?,
        agent: request.agent,
        sponsor: agent.value.0.sponsor.clone(),
        purpose,
        locations: vec![upstream.resource.clone()],
        tools: request.tools,
        max_calls: request.max_calls,
        approval: None,
        granted_at: now,
        expires_at: now.plus_secs(request.expires_in_secs),
        revoked_at: None,
    };
    let grant = grant.check().map_err(|error| {
        use countersign_identity::task::TaskError;
        AdminError::Invalid(match error {
            TaskError::Purpose => "a task needs a purpose of at most 1000 bytes",
            TaskError::Locations => "a task reaches 1 to 16 resources",
            TaskError::Tools => "a task calls 1 to 256 tools",
            TaskError::Calls => "a task makes 1 to 1000000000 calls",
            TaskError::Expiry => "a task ends within 90 days",
        })
    })?;
    // Constraints may be larger than a record, and hold values: the grant itself stays in the store, unchanged for ever
    // but for its end.
    let canonical =
        countersign_proto::json::from_serde(&grant).map_err(|_| AdminError::Invalid("the grant"))?;
    let members = json!({
        "task": grant.id, "agent": grant.agent, "sponsor": grant.sponsor, "purpose": grant.purpose,
        "locations": grant.locations, "tools": grant.tools.len(), "max_calls": grant.max_calls,
        "expires_at": grant.expires_at, "grant": Sha256Digest::of(&canonical.to_jcs()),
    });
    let tx = plane.store.transaction().expect(&agent).insert(&Row(grant.clone()));
    carry_out(&plane, &peer, Kind::Admin, "task.create", members, tx).await?;
    Ok(Reply(shown(grant, now)))
}

/// `POST /admin/v1/tasks/{id}/revoke`
pub(super) async fn revoke_task(
    State(plane): State<Arc<Plane>>,
    Extension(peer): Extension<Peer>,
    Path(id): Path<String>,
    Strict(request): Strict<api::Reason>,
) -> Answer<api::Task> {
    let reason = text(&request.reason)?;
    let id = named(TaskId::parse(&id))?;
    let stored = plane.store.load::<TaskRow>(id.as_str()).await?.ok_or(AdminError::NotFound)?;
    let now = plane.now();
    let next = stored.value.0.clone().revoke(now);
    let members = json!({"task": next.id, "agent": next.agent, "reason": reason});
    let tx = plane.store.transaction().update(&stored, &Row(next.clone()));
    carry_out(&plane, &peer, Kind::Revoke, "task.revoke", members, tx).await?;
    Ok(Reply(shown(next, now)))
}

/// `GET /admin/v1/approvals`
pub(super) async fn list_approvals(State(plane): State<Arc<Plane>>) -> Answer<api::Approvals> {
    let now = plane.now();
    let approvals = crate::control::all_approvals(&plane, now).await?;
    Ok(Reply(api::Approvals { approvals: approvals.iter().map(|row| row.shown(now)).collect() }))
}

/// `GET /admin/v1/approvals/{id}`
pub(super) async fn show_approval(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
) -> Answer<api::SignedApproval> {
    let id = named(ApprovalId::parse(&id))?;
    let stored = plane.store.load::<ApprovalRow>(id.as_str()).await?.ok_or(AdminError::NotFound)?;
    let signed = plane.store.load::<SignedRow>(id.as_str()).await?.map(|signed| signed.value);
    let (object, assertion) = signed.map(|signed| (signed.object, signed.assertion)).unzip();
    Ok(Reply(api::SignedApproval { approval: stored.value.shown(plane.now()), object, assertion }))
}

fn shown(grant: TaskGrant, now: Timestamp) -> api::Task {
    let state = if grant.revoked_at.is_some() {
        "revoked"
    } else if grant.is_active(now) {
        "active"
    } else {
        "expired"
    };
    api::Task {
        id: grant.id,
        agent: grant.agent,
        sponsor: grant.sponsor,
        purpose: grant.purpose,
        location: grant.locations.into_iter().next().unwrap_or_default(),
        tools: grant.tools,
        max_calls: grant.max_calls,
        expires_at: grant.expires_at,
        state: state.into(),
    }
}
