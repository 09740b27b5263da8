//! The token endpoint as a pure function: everything verified goes in, claims or an error come out.
//!
//! Verifying the attestation, its proof and the DPoP proof, and consuming their single-use names, comes before;
//! signing and recording come after. There is one grant type, and no way to a token that binds fewer than two keys.

use countersign_proto::attestation_client::VerifiedClient;
use countersign_proto::dpop::VerifiedDpop;
use countersign_proto::id::{AgentId, SpiffeId, TaskId, TrustDomain};
use countersign_proto::json::{self, Limits, Value};
use countersign_proto::oauth::{Acr, Form, OauthError};
use countersign_proto::time::Timestamp;
use countersign_proto::token::{
    AccessTokenClaims, Actor, Confirmation, Environment, TaskDetails, TaskKind, ToolGrant,
};
use serde::Deserialize;

use crate::agent::Agent;
use crate::person::Person;
use crate::run::Run;
use crate::task::{TaskGrant, is_tool_subset};

/// How long a token may last, in seconds.
pub const MAX_LIFETIME_SECS: i64 = 300;
/// Bytes `authorization_details` may have.
const MAX_DETAILS_BYTES: usize = 32 * 1024;

/// The parameters of a token request, read strictly.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenRequest {
    /// The agent it claims to be from; the attestation must say so too.
    pub client: AgentId,
    /// The one resource it is for.
    pub resource: String,
    /// The task asked for; `None` leaves the choice to [`choose_task`].
    pub task: Option<RequestedTask>,
}

/// A task as a request names it: `type` and `task`, and optionally less than was granted.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestedTask {
    /// Always `urn:countersign:task`.
    #[serde(rename = "type")]
    pub kind: TaskKind,
    /// Which task.
    pub task: TaskId,
    /// Fewer resources.
    #[serde(default)]
    pub locations: Option<Vec<String>>,
    /// Fewer tools, or tighter constraints.
    #[serde(default)]
    pub tools: Option<Vec<ToolGrant>>,
    /// Fewer calls.
    #[serde(default)]
    pub max_calls: Option<u64>,
    /// An earlier end; seconds since the epoch.
    #[serde(default)]
    pub expires_at: Option<i64>,
}

impl TokenRequest {
    /// Reads the form of a token request. What we do not know, we refuse.
    ///
    /// # Errors
    /// The [`OauthError`] to answer with.
    pub fn parse(form: &Form) -> Result<Self, OauthError> {
        const KNOWN: [&str; 4] = ["grant_type", "client_id", "resource", "authorization_details"];
        match form.get("grant_type") {
            Some("client_credentials") => {}
            Some(_) => return Err(OauthError::unsupported_grant_type()),
            None => return Err(OauthError::invalid_request("grant_type is missing")),
        }
        if form.names().any(|name| !KNOWN.contains(&name)) {
            return Err(OauthError::invalid_request("unknown parameter"));
        }
        let client = form.get("client_id").ok_or(OauthError::invalid_request("client_id is missing"))?;
        let client =
            AgentId::from_client_id(client).map_err(|_| OauthError::invalid_client("unknown client"))?;
        let resource = form.get("resource").ok_or(OauthError::invalid_target("exactly one resource"))?;
        let task = form.get("authorization_details").map(parse_details).transpose()?;
        Ok(Self { client, resource: resource.to_owned(), task })
    }
}

/// RFC 9396 §5: unknown types and fields are refused, nothing is dropped in silence.
fn parse_details(text: &str) -> Result<RequestedTask, OauthError> {
    const LIMITS: Limits = Limits { max_bytes: MAX_DETAILS_BYTES, ..Limits::DEFAULT };
    let refused =
        || OauthError::invalid_authorization_details("exactly one known task, without unknown fields");
    let details = json::parse(text.as_bytes(), &LIMITS).map_err(|_| refused())?;
    let Value::List(details) = details else { return Err(refused()) };
    let [details] = <[Value; 1]>::try_from(details).map_err(|_| refused())?;
    details.into_typed().map_err(|_| refused())
}

/// The task a request without `authorization_details` is for: the only active one for that resource.
///
/// # Errors
/// `invalid_authorization_details` if there is none, or more than one.
pub fn choose_task<'a>(
    tasks: impl IntoIterator<Item = &'a TaskGrant>,
    client: &AgentId,
    resource: &str,
    now: Timestamp,
) -> Result<&'a TaskGrant, OauthError> {
    let mut candidates = tasks.into_iter().filter(|task| {
        task.agent == *client
            && task.is_active(now)
            && task.locations.iter().any(|location| location == resource)
    });
    match (candidates.next(), candidates.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => Err(OauthError::invalid_authorization_details("no active task for this resource")),
        (Some(_), Some(_)) => Err(OauthError::invalid_authorization_details("several tasks: name one")),
    }
}

/// Everything a token is issued from, each part verified or loaded by now.
#[derive(Clone, Copy, Debug)]
pub struct Presented<'a> {
    /// What is asked for.
    pub request: &'a TokenRequest,
    /// The machine factor: attestation and proof of possession.
    pub machine: &'a VerifiedClient,
    /// The agent factor: possession of A, shown at the token endpoint.
    pub agent_proof: &'a VerifiedDpop,
    /// The agent as registered.
    pub agent: &'a Agent,
    /// The task asked for or chosen.
    pub task: &'a TaskGrant,
    /// The person who granted the task.
    pub sponsor: &'a Person,
    /// The run, just opened or known.
    pub run: &'a Run,
}

/// What the server adds of its own.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// The server.
    pub issuer: &'a str,
    /// Where agents and machines live.
    pub trust_domain: &'a TrustDomain,
    /// The token's name, random.
    pub jti: &'a str,
    /// How long the token may last, in seconds; never more than [`MAX_LIFETIME_SECS`].
    pub lifetime_secs: i64,
    /// The environment level below which nothing is issued; never less than 1.
    pub min_env_level: u8,
}

/// Decides a token request.
///
/// # Errors
/// The [`OauthError`] to answer with; nothing was decided in the agent's favour then.
pub fn issue(
    presented: &Presented<'_>,
    terms: &Terms<'_>,
    now: Timestamp,
) -> Result<AccessTokenClaims, OauthError> {
    let Presented { request, machine, agent_proof, agent, task, sponsor, run } = *presented;
    check_client(presented)?;
    let attestation = machine.attestation();
    let claim = attestation.machine();
    if claim.sub != SpiffeId::machine(terms.trust_domain, &claim.id) {
        return Err(OauthError::new("invalid_client_attestation", "machine of another trust domain"));
    }
    if claim.lvl < terms.min_env_level.max(1) {
        return Err(OauthError::use_fresh_attestation("the machine's assurance is too low"));
    }
    if agent_proof.thumbprint().ct_eq(attestation.thumbprint()) {
        return Err(OauthError::invalid_dpop_proof("agent and machine must not share a key"));
    }
    run.admit(&agent.id, agent.generation, agent_proof.thumbprint(), &claim.id)?;

    if task.agent != agent.id || task.sponsor != sponsor.id {
        return Err(OauthError::invalid_authorization_details("no such task of this agent"));
    }
    if !task.is_active(now) {
        return Err(OauthError::invalid_grant("the task is over"));
    }
    let details = narrowed(task, request, now)?;
    if !details.locations.contains(&request.resource) {
        return Err(OauthError::invalid_target("the task does not reach this resource"));
    }

    let iat = now.unix_secs();
    let lifetime_secs = terms.lifetime_secs.clamp(1, MAX_LIFETIME_SECS);
    let task_end = details.expires_at.unwrap_or_else(|| task.expires_at.unix_secs());
    let exp = (iat + lifetime_secs).min(task_end).min(attestation.expires_at().unix_secs());
    if exp <= iat {
        return Err(OauthError::use_fresh_attestation("the attestation ends now"));
    }
    let acr = Acr::new(claim.lvl, task.person_level())
        .map_err(|_| OauthError::new("invalid_client_attestation", "unknown assurance level"))?;
    Ok(AccessTokenClaims {
        iss: terms.issuer.to_owned(),
        aud: request.resource.clone(),
        client_id: agent.id.clone(),
        sub: task.sponsor.clone(),
        sid: run.id.clone(),
        txn: task.id.clone(),
        jti: terms.jti.to_owned(),
        iat,
        nbf: iat,
        exp,
        act: Actor { sub: SpiffeId::run(terms.trust_domain, &agent.id, &run.id), act: None },
        cnf: Confirmation { jkt: *agent_proof.thumbprint() },
        env: Environment {
            sub: claim.sub.clone(),
            jkt: *attestation.thumbprint(),
            lvl: claim.lvl,
            min_lvl: claim.lvl,
            att_time: claim.att_time,
            att_exp: claim.att_exp,
            reference: claim.reference.clone(),
            ev: claim.ev,
        },
        acr,
        auth_time: task.granted_at.unix_secs(),
        generation: agent.generation,
        authorization_details: [details],
    })
}

/// Everyone named is the same one, and may act.
fn check_client(presented: &Presented<'_>) -> Result<(), OauthError> {
    let Presented { request, machine, agent_proof, agent, sponsor, .. } = presented;
    if *machine.attestation().client() != request.client || agent.id != request.client {
        return Err(OauthError::invalid_client("client_id and attestation differ"));
    }
    if agent_proof.access_token().is_some() {
        return Err(OauthError::invalid_dpop_proof("proof was made for a resource"));
    }
    if !agent.is_active() {
        return Err(OauthError::invalid_grant("the agent is not active"));
    }
    if !sponsor.is_active() {
        return Err(OauthError::invalid_grant("the sponsor is not active"));
    }
    Ok(())
}

/// The task as granted, or as much less as was asked for; never more.
fn narrowed(task: &TaskGrant, request: &TokenRequest, now: Timestamp) -> Result<TaskDetails, OauthError> {
    let mut details = task.details();
    let Some(requested) = &request.task else { return Ok(details) };
    let refused = |description| Err(OauthError::invalid_authorization_details(description));
    if requested.task != task.id {
        return refused("no such task of this agent");
    }
    if let Some(locations) = &requested.locations {
        if locations.is_empty() || !locations.iter().all(|location| task.locations.contains(location)) {
            return refused("more locations than granted");
        }
        details.locations.clone_from(locations);
    }
    if let Some(tools) = &requested.tools {
        let granted = |tool: &ToolGrant| task.tools.iter().any(|wide| is_tool_subset(tool, wide));
        if tools.is_empty() || !tools.iter().all(granted) {
            return refused("more tools than granted");
        }
        details.tools.clone_from(tools);
    }
    if let Some(max_calls) = requested.max_calls {
        if max_calls == 0 || max_calls > task.max_calls {
            return refused("more calls than granted");
        }
        details.max_calls = max_calls;
    }
    if let Some(expires_at) = requested.expires_at {
        if expires_at > task.expires_at.unix_secs() || expires_at <= now.unix_secs() {
            return refused("not within the task's time");
        }
        details.expires_at = Some(expires_at);
    }
    Ok(details)
}

#[cfg(test)]
mod tests;
