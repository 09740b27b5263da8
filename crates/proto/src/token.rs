//! What an access token of ours says (RFC 9068 profile): types only; who may be issued one is `identity::grant`,
//! and whether one is genuine is `identity::verify_token`.
//!
//! Every object here is ours, so an unknown member anywhere is an error.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Sha256Digest;
use crate::id::{AgentId, ApprovalId, PersonId, RunId, SpiffeId, TaskId, ToolName};
use crate::jose::Thumbprint;
use crate::json::Value;
use crate::oauth::Acr;

/// The `typ` of an access token (RFC 9068 §2.1).
pub const ACCESS_TOKEN_TYP: &str = "at+jwt";
/// The `authorization_details` type of a task.
pub const TASK_TYPE: &str = "urn:countersign:task";

/// The claims of an access token. Times are seconds since the epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessTokenClaims {
    /// The authorization server.
    pub iss: String,
    /// The one resource this token is for (RFC 8707): a string, never a list.
    pub aud: String,
    /// The agent, on the wire as `agent:<id>`.
    #[serde(with = "client_id")]
    pub client_id: AgentId,
    /// The person on whose behalf, on the wire as `user:<id>`.
    #[serde(with = "subject")]
    pub sub: PersonId,
    /// The agent run.
    pub sid: RunId,
    /// The task.
    pub txn: TaskId,
    /// This token's own name.
    pub jti: String,
    /// Issued at.
    pub iat: i64,
    /// Not valid before.
    pub nbf: i64,
    /// Not valid from here on.
    pub exp: i64,
    /// Who acts (RFC 8693 §4.1). Only the outermost decides.
    pub act: Actor,
    /// The agent's key A (RFC 7800 §3.1: one key only).
    pub cnf: Confirmation,
    /// The machine, as attested.
    #[serde(rename = "urn:countersign:env")]
    pub env: Environment,
    /// The assurance reached.
    pub acr: Acr,
    /// When the person last authenticated (RFC 9470 §4); 0 if never for this task.
    pub auth_time: i64,
    /// The agent's generation: a kill bumps it and thereby ends this token.
    #[serde(rename = "urn:countersign:gen")]
    pub generation: u64,
    /// What the agent may do: exactly one task (RFC 9396).
    pub authorization_details: [TaskDetails; 1],
}

impl AccessTokenClaims {
    /// The task this token is for.
    #[must_use]
    pub const fn task(&self) -> &TaskDetails {
        let [task] = &self.authorization_details;
        task
    }
}

/// `act` (RFC 8693 §4.1): the current actor and, inside, whoever delegated to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Actor {
    /// The actor's SPIFFE ID.
    pub sub: SpiffeId,
    /// The actor before it; audit only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub act: Option<Box<Actor>>,
}

/// `cnf` (RFC 7800, RFC 9449 §6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confirmation {
    /// The thumbprint of the agent's key A.
    pub jkt: Thumbprint,
}

/// The claim `urn:countersign:env`: which machine, how well known, since when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Environment {
    /// The machine's SPIFFE ID.
    pub sub: SpiffeId,
    /// The thumbprint of the machine's key M. Of the key, because certificates renew every few minutes.
    pub jkt: Thumbprint,
    /// The environment level, 0 to 4.
    pub lvl: u8,
    /// The weakest level along the delegation chain.
    pub min_lvl: u8,
    /// When the machine was last attested.
    pub att_time: i64,
    /// Until when that attestation counts.
    pub att_exp: i64,
    /// The reference values it matched.
    #[serde(rename = "ref")]
    pub reference: String,
    /// The digest of the evidence record.
    pub ev: Sha256Digest,
}

/// The `authorization_details` entry of type [`TASK_TYPE`]: one purpose, one boundary, one expiry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskDetails {
    /// Always [`TASK_TYPE`].
    #[serde(rename = "type")]
    pub kind: TaskKind,
    /// The task.
    pub task: TaskId,
    /// What for, in the sponsor's words.
    pub purpose: String,
    /// The resources it may reach (token audiences).
    pub locations: Vec<String>,
    /// The tools it may call, and how.
    pub tools: Vec<ToolGrant>,
    /// How many calls in all.
    pub max_calls: u64,
    /// The task's end, if it has one before the token's; seconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
    /// The approval the task was granted under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalId>,
}

/// The one type of [`TaskDetails`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskKind {
    /// `urn:countersign:task`.
    #[default]
    #[serde(rename = "urn:countersign:task")]
    Task,
}

/// One tool a task may call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolGrant {
    /// The tool.
    pub name: ToolName,
    /// Constraints by argument name. A constrained argument must be present; others are free.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub args: BTreeMap<String, Constraint>,
}

/// What an argument must be. On the wire an object with exactly one member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Constraint {
    /// Equal to this value.
    Eq(Value),
    /// Equal to one of these values.
    OneOf(Vec<Value>),
    /// A text that starts with this one.
    Prefix(String),
    /// An integer no greater than this.
    Max(i64),
}

mod client_id {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    use crate::id::AgentId;

    pub(super) fn serialize<S: Serializer>(agent: &AgentId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&agent.client_id())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<AgentId, D::Error> {
        AgentId::from_client_id(&std::borrow::Cow::<str>::deserialize(deserializer)?)
            .map_err(D::Error::custom)
    }
}

mod subject {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    use crate::id::PersonId;

    pub(super) fn serialize<S: Serializer>(person: &PersonId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&person.subject())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PersonId, D::Error> {
        PersonId::from_subject(&std::borrow::Cow::<str>::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests;
