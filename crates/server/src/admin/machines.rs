//! Machines: the right to enroll, and the states that end it.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, State};
use countersign_audit::Kind;
use countersign_proto::digest::Sha256Digest;
use countersign_proto::id::MachineId;
use countersign_proto::snapshot::MachineState;
use countersign_proto::time::Timestamp;
use countersign_trust::Machine;
use countersign_trust::quote::ReferenceValues;
use serde_json::json;

use super::{AdminError, Answer, Reply, Strict, api, carry_out, insistently, named, text};
use crate::listen::Peer;
use crate::plane::Plane;
use crate::rows::{EnrollmentTokenRow, MachineRow, Row};

/// Shortest and longest life of an enrollment token, in seconds.
const TOKEN_SECS: std::ops::RangeInclusive<i64> = 60..=7 * 86_400;

/// `GET /admin/v1/machines`
pub(super) async fn list_machines(State(plane): State<Arc<Plane>>) -> Answer<api::Machines> {
    let machines = plane.store.all::<MachineRow>().await?;
    Ok(Reply(api::Machines { machines: machines.into_iter().map(|stored| shown(stored.value.0)).collect() }))
}

/// `POST /admin/v1/machines/tokens`
pub(super) async fn create_token(
    State(plane): State<Arc<Plane>>,
    Extension(peer): Extension<Peer>,
    Strict(request): Strict<api::CreateEnrollmentToken>,
) -> Answer<api::EnrollmentToken> {
    let life = request.expires_in_secs.unwrap_or(plane.settings.lifetimes.enrollment_token_secs);
    if !TOKEN_SECS.contains(&life) {
        return Err(AdminError::Invalid("an enrollment token lives 60 seconds to 7 days"));
    }
    if let Some(pcrs) = &request.reference {
        ReferenceValues::new("administered", pcrs.clone()).map_err(|_| {
            AdminError::Invalid("the reference values name no pcr, or one that proves nothing")
        })?;
    }
    let known = plane.store.load::<MachineRow>(request.machine.as_str()).await?;
    if known.is_some_and(|known| known.value.0.state == MachineState::Revoked) {
        return Err(AdminError::State("the machine is revoked"));
    }
    let token = plane.secret_text();
    let row = EnrollmentTokenRow {
        token: Sha256Digest::of(token.as_bytes()),
        machine: request.machine.clone(),
        expires_at: plane.now().plus_secs(life),
        reference: request.reference,
    };
    let members = json!({"machine": row.machine, "token": row.token, "expires_at": row.expires_at});
    let tx = plane.store.transaction().insert(&row);
    carry_out(&plane, &peer, Kind::Admin, "machine.token", members, tx).await?;
    Ok(Reply(api::EnrollmentToken { machine: request.machine, token, expires_at: row.expires_at }))
}

/// `POST /admin/v1/machines/{id}/lock`
pub(super) async fn lock_machine(
    state: State<Arc<Plane>>,
    peer: Extension<Peer>,
    id: Path<String>,
    reason: Strict<api::Reason>,
) -> Answer<api::Machine> {
    change(state, peer, id, reason, Kind::Revoke, "machine.lock", |machine, now| Ok(machine.lock(now))).await
}

/// `POST /admin/v1/machines/{id}/unlock`
pub(super) async fn unlock_machine(
    state: State<Arc<Plane>>,
    peer: Extension<Peer>,
    id: Path<String>,
    reason: Strict<api::Reason>,
) -> Answer<api::Machine> {
    change(state, peer, id, reason, Kind::Admin, "machine.unlock", |machine, now| {
        machine.unlock(now).map_err(|_| AdminError::State("a revoked machine stays revoked"))
    })
    .await
}

/// `POST /admin/v1/machines/{id}/revoke`
pub(super) async fn revoke_machine(
    state: State<Arc<Plane>>,
    peer: Extension<Peer>,
    id: Path<String>,
    reason: Strict<api::Reason>,
) -> Answer<api::Machine> {
    change(state, peer, id, reason, Kind::Revoke, "machine.revoke", |machine, now| Ok(machine.revoke(now)))
        .await
}

async fn change(
    State(plane): State<Arc<Plane>>,
    Extension(peer): Extension<Peer>,
    Path(id): Path<String>,
    Strict(request): Strict<api::Reason>,
    kind: Kind,
    act: &'static str,
    transition: fn(Machine, Timestamp) -> Result<Machine, AdminError>,
) -> Answer<api::Machine> {
    let reason = text(&request.reason)?;
    let id = named(MachineId::parse(&id))?;
    let next = insistently(|| async {
        let stored = plane.store.load::<MachineRow>(id.as_str()).await?.ok_or(AdminError::NotFound)?;
        let next = transition(stored.value.0.clone(), plane.now())?;
        let members = json!({"machine": next.id, "generation": next.generation, "reason": reason});
        let tx = plane.store.transaction().update(&stored, &Row(next.clone()));
        carry_out(&plane, &peer, kind, act, members, tx).await?;
        Ok(next)
    });
    Ok(Reply(shown(next.await?)))
}

fn shown(machine: Machine) -> api::Machine {
    let state = match machine.state {
        MachineState::Active => "active",
        MachineState::Locked => "locked",
        MachineState::Revoked => "revoked",
    };
    // Hardware key attested at enrollment: 2; a quote that matched the reference values: 3 (DESIGN §4).
    let level = match (&machine.key, machine.attested_at) {
        (None, _) => 0,
        (Some(_), None) => 2,
        (Some(_), Some(_)) => 3,
    };
    api::Machine {
        id: machine.id,
        spiffe_id: machine.spiffe,
        state: state.into(),
        key: machine.key.map(|key| key.jkt),
        endorsement: machine.ek_digest,
        generation: machine.generation,
        level,
    }
}
