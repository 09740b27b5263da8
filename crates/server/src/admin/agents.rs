//! Persons, agents and runs: who may act, and the kill switch.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, State};
use countersign_audit::Kind;
use countersign_identity::agent::{Agent, AgentError, Standing};
use countersign_identity::person::{Person, Role};
use countersign_proto::digest::Sha256Digest;
use countersign_proto::id::{AgentId, PersonId, RunId};
use countersign_proto::time::Timestamp;
use countersign_store::Stored;
use serde_json::json;

use super::{AdminError, Answer, Reply, Strict, acting, api, carry_out, insistently, named, text};
use crate::listen::Peer;
use crate::plane::Plane;
use crate::rows::{AgentRow, InviteRow, PersonRow, Row, RunRow};

/// Longest display name.
const NAME_CHARS: usize = 100;
/// Most groups of one agent, and their longest name.
const MAX_GROUPS: usize = 32;
const GROUP_BYTES: usize = 64;

/// `GET /admin/v1/persons`
pub(super) async fn list_persons(State(plane): State<Arc<Plane>>) -> Answer<api::Persons> {
    let persons = plane.store.all::<PersonRow>().await?;
    let persons = persons.into_iter().map(|stored| stored.value.0).map(|person| api::Person {
        approver: person.may(Role::Approver),
        passkeys: person.passkeys.len(),
        id: person.id,
        display_name: person.display_name,
    });
    Ok(Reply(api::Persons { persons: persons.collect() }))
}

/// `POST /admin/v1/persons`
pub(super) async fn add_person(
    State(plane): State<Arc<Plane>>,
    Extension(peer): Extension<Peer>,
    Strict(request): Strict<api::AddPerson>,
) -> Answer<api::Invite> {
    let name = text(&request.display_name)?;
    if name.trim().is_empty() || name.chars().count() > NAME_CHARS {
        return Err(AdminError::Invalid("the display name is empty or too long"));
    }
    let mut roles = BTreeSet::from([Role::Sponsor]);
    if request.approver {
        roles.insert(Role::Approver);
    }
    let person = Person::new(request.id, request.display_name, roles);
    let (invite, answer) = invitation(&plane, &person.id);
    let members = json!({"person": person.id, "approver": request.approver});
    let tx = plane.store.transaction().insert(&Row(person)).insert(&invite);
    carry_out(&plane, &peer, Kind::Admin, "person.add", members, tx).await?;
    Ok(Reply(answer))
}

/// `POST /admin/v1/persons/{id}/invite`: another passkey for somebody who is known already.
pub(super) async fn invite_person(
    State(plane): State<Arc<Plane>>,
    Extension(peer): Extension<Peer>,
    Path(id): Path<String>,
    Strict(request): Strict<api::Reason>,
) -> Answer<api::Invite> {
    let id = named(PersonId::parse(&id))?;
    let reason = text(&request.reason)?;
    let person = plane.store.load::<PersonRow>(id.as_str()).await?.ok_or(AdminError::NotFound)?;
    if !person.value.0.is_active() {
        return Err(AdminError::State("the person is disabled"));
    }
    let (invite, answer) = invitation(&plane, &id);
    let tx = plane.store.transaction().expect(&person).insert(&invite);
    carry_out(&plane, &peer, Kind::Admin, "person.invite", json!({"person": id, "reason": reason}), tx)
        .await?;
    Ok(Reply(answer))
}

/// `POST /admin/v1/persons/{id}/disable`: no login, no approval, and no token for the agents this person sponsors.
pub(super) async fn disable_person(
    State(plane): State<Arc<Plane>>,
    Extension(peer): Extension<Peer>,
    Path(id): Path<String>,
    Strict(request): Strict<api::Reason>,
) -> Answer<api::Done> {
    let id = named(PersonId::parse(&id))?;
    let reason = text(&request.reason)?;
    let stored = plane.store.load::<PersonRow>(id.as_str()).await?.ok_or(AdminError::NotFound)?;
    let next = stored.value.0.clone().disable();
    let tx = plane.store.transaction().update(&stored, &Row(next));
    carry_out(&plane, &peer, Kind::Revoke, "person.disable", json!({"person": id, "reason": reason}), tx)
        .await?;
    Ok(Reply(api::Done {}))
}

fn invitation(plane: &Plane, person: &PersonId) -> (InviteRow, api::Invite) {
    let token = plane.secret_text();
    let expires_at = plane.now().plus_secs(plane.settings.lifetimes.invite_secs);
    let row = InviteRow { token: Sha256Digest::of(token.as_bytes()), person: person.clone(), expires_at };
    let url = format!("{}/invite/{token}", plane.settings.console_url);
    (row, api::Invite { person: person.clone(), url, expires_at })
}

/// `GET /admin/v1/agents`
pub(super) async fn list_agents(State(plane): State<Arc<Plane>>) -> Answer<api::Agents> {
    let agents = plane.store.all::<AgentRow>().await?;
    Ok(Reply(api::Agents { agents: agents.into_iter().map(|stored| shown(stored.value.0)).collect() }))
}

/// `GET /admin/v1/agents/{id}`
pub(super) async fn show_agent(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
) -> Answer<api::Agent> {
    Ok(Reply(shown(stored_agent(&plane, &id).await?.value.0)))
}

/// `POST /admin/v1/agents`: no agent without a person who answers for it.
pub(super) async fn add_agent(
    State(plane): State<Arc<Plane>>,
    Extension(peer): Extension<Peer>,
    Strict(request): Strict<api::AddAgent>,
) -> Answer<api::Agent> {
    let groups: BTreeSet<String> = request.groups.into_iter().collect();
    let plain = |group: &String| {
        (1..=GROUP_BYTES).contains(&group.len())
            && group.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    if groups.len() > MAX_GROUPS || !groups.iter().all(plain) {
        return Err(AdminError::Invalid("a group is named by letters, digits, '-', '_' and '.'"));
    }
    let sponsor = plane.store.load::<PersonRow>(request.sponsor.as_str()).await?;
    let Some(sponsor) = sponsor.filter(|sponsor| sponsor.value.0.may(Role::Sponsor)) else {
        return Err(AdminError::Invalid("the sponsor is not a person who may sponsor"));
    };
    let agent = Agent::register(request.id, request.sponsor, groups, plane.now()).activate()?;
    let members = json!({"agent": agent.id, "sponsor": agent.sponsor, "groups": agent.groups});
    let tx = plane.store.transaction().expect(&sponsor).insert(&Row(agent.clone()));
    carry_out(&plane, &peer, Kind::Admin, "agent.add", members, tx).await?;
    Ok(Reply(shown(agent)))
}

/// `POST /admin/v1/agents/{id}/suspend`
pub(super) async fn suspend_agent(
    state: State<Arc<Plane>>,
    peer: Extension<Peer>,
    id: Path<String>,
    reason: Strict<api::Reason>,
) -> Answer<api::Agent> {
    change_agent(state, peer, id, reason, Kind::Revoke, "agent.suspend", Agent::kill).await
}

/// `POST /admin/v1/agents/{id}/kill`: one transaction; the snapshot that says so is out before the answer.
pub(super) async fn kill_agent(
    state: State<Arc<Plane>>,
    peer: Extension<Peer>,
    id: Path<String>,
    reason: Strict<api::Reason>,
) -> Answer<api::Agent> {
    change_agent(state, peer, id, reason, Kind::Revoke, "agent.kill", Agent::kill).await
}

/// `POST /admin/v1/agents/{id}/retire`
pub(super) async fn retire_agent(
    state: State<Arc<Plane>>,
    peer: Extension<Peer>,
    id: Path<String>,
    reason: Strict<api::Reason>,
) -> Answer<api::Agent> {
    change_agent(state, peer, id, reason, Kind::Revoke, "agent.retire", Agent::retire).await
}

/// `POST /admin/v1/agents/{id}/resume`
pub(super) async fn resume_agent(
    state: State<Arc<Plane>>,
    peer: Extension<Peer>,
    id: Path<String>,
    reason: Strict<api::Reason>,
) -> Answer<api::Agent> {
    change_agent(state, peer, id, reason, Kind::Admin, "agent.resume", |agent, _, _| agent.activate()).await
}

/// A transition of an agent, by whom and when.
type AgentTransition = fn(Agent, PersonId, Timestamp) -> Result<Agent, AgentError>;

async fn change_agent(
    State(plane): State<Arc<Plane>>,
    Extension(peer): Extension<Peer>,
    Path(id): Path<String>,
    Strict(request): Strict<api::Reason>,
    kind: Kind,
    act: &'static str,
    transition: AgentTransition,
) -> Answer<api::Agent> {
    let reason = text(&request.reason)?;
    let next = insistently(|| async {
        let stored = stored_agent(&plane, &id).await?;
        let next = transition(stored.value.0.clone(), acting(&peer)?, plane.now())?;
        let members = json!({"agent": next.id, "generation": next.generation, "reason": reason});
        let mut tx = plane.store.transaction().update(&stored, &Row(next.clone()));
        if !next.is_active() {
            tx = crate::control::cancel_approvals(&plane, &next.id, tx).await?;
        }
        carry_out(&plane, &peer, kind, act, members, tx).await?;
        Ok(next)
    });
    let next = next.await?;
    plane.approvals_changed.notify_waiters();
    Ok(Reply(shown(next)))
}

impl From<AgentError> for AdminError {
    fn from(error: AgentError) -> Self {
        match error {
            AgentError::Standing => Self::State("the agent's state does not allow that"),
            AgentError::Generation => Self::State("the agent has no generation left"),
        }
    }
}

async fn stored_agent(plane: &Plane, id: &str) -> Result<Stored<AgentRow>, AdminError> {
    let id = named(AgentId::parse(id))?;
    plane.store.load::<AgentRow>(id.as_str()).await?.ok_or(AdminError::NotFound)
}

fn shown(agent: Agent) -> api::Agent {
    let state = match agent.standing {
        Standing::Discovered => "discovered",
        Standing::Pending => "pending",
        Standing::Active => "active",
        Standing::Suspended { .. } => "suspended",
        Standing::Retired { .. } => "retired",
    };
    api::Agent {
        id: agent.id,
        sponsor: agent.sponsor,
        state: state.into(),
        generation: agent.generation,
        groups: agent.groups.into_iter().collect(),
    }
}

/// `POST /admin/v1/runs/{id}/revoke`
pub(super) async fn revoke_run(
    State(plane): State<Arc<Plane>>,
    Extension(peer): Extension<Peer>,
    Path(id): Path<String>,
    Strict(request): Strict<api::Reason>,
) -> Answer<api::Done> {
    let reason = text(&request.reason)?;
    let id = named(RunId::parse(&id))?;
    let stored = plane.store.load::<RunRow>(id.as_str()).await?.ok_or(AdminError::NotFound)?;
    let next = stored.value.0.clone().end(plane.now());
    let members = json!({"run": next.id, "agent": next.agent, "reason": reason});
    let tx = plane.store.transaction().update(&stored, &Row(next));
    carry_out(&plane, &peer, Kind::Revoke, "run.revoke", members, tx).await?;
    Ok(Reply(api::Done {}))
}
