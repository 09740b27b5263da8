//! The agent factor: a verified token, shown by whoever holds its key, for an agent that may still act.

use std::collections::HashSet;
use std::sync::Arc;

use countersign_proto::channel::VerifiedChannel;
use countersign_proto::digest::Sha256Digest;
use countersign_proto::dpop::VerifiedDpop;
use countersign_proto::id::{AgentId, RunId, TaskId};
use countersign_proto::jose::Thumbprint;
use countersign_proto::snapshot::{AgentEntry, AgentState, SnapshotBody};
use countersign_proto::time::Timestamp;
use countersign_proto::token::{AccessTokenClaims, TaskDetails};

use crate::token::VerifiedToken;

/// How an agent showed that it holds its key.
#[derive(Clone, Debug)]
pub enum AgentProof {
    /// A DPoP proof made for this very call.
    Dpop(VerifiedDpop),
    /// A proof made once for the connection that carries the call.
    Channel(VerifiedChannel),
}

impl AgentProof {
    /// `dpop` or `channel`, as records say it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Dpop(_) => "dpop",
            Self::Channel(_) => "channel",
        }
    }

    /// The key that was shown.
    #[must_use]
    pub const fn thumbprint(&self) -> &Thumbprint {
        match self {
            Self::Dpop(proof) => proof.thumbprint(),
            Self::Channel(proof) => proof.thumbprint(),
        }
    }
}

/// Runs and tasks ended before their time.
#[derive(Clone, Debug, Default)]
pub struct Revoked {
    /// Runs.
    pub runs: HashSet<RunId>,
    /// Tasks.
    pub tasks: HashSet<TaskId>,
}

impl From<&SnapshotBody> for Revoked {
    fn from(body: &SnapshotBody) -> Self {
        Self {
            runs: body.revoked_runs.iter().cloned().collect(),
            tasks: body.revoked_tasks.iter().cloned().collect(),
        }
    }
}

/// An agent that was authenticated for this call: the first of the two factors. Made by [`authenticate`] alone.
///
/// ```compile_fail,E0451
/// use countersign_identity::{VerifiedAgent, VerifiedToken};
/// fn forge(token: std::sync::Arc<VerifiedToken>) -> VerifiedAgent {
///     VerifiedAgent { token, proof_kind: "dpop" }
/// }
/// ```
#[derive(Clone, Debug)]
pub struct VerifiedAgent {
    token: Arc<VerifiedToken>,
    proof_kind: &'static str,
}

impl VerifiedAgent {
    /// The agent.
    #[must_use]
    pub fn agent(&self) -> &AgentId {
        &self.claims().client_id
    }

    /// Its run.
    #[must_use]
    pub fn run(&self) -> &RunId {
        &self.claims().sid
    }

    /// The task it acts under.
    #[must_use]
    pub fn task(&self) -> &TaskDetails {
        self.claims().task()
    }

    /// Everything the token says.
    #[must_use]
    pub fn claims(&self) -> &AccessTokenClaims {
        self.token.claims()
    }

    /// `dpop` or `channel`.
    #[must_use]
    pub const fn proof_kind(&self) -> &'static str {
        self.proof_kind
    }

    /// The token's name in records.
    #[must_use]
    pub fn token_digest(&self) -> &Sha256Digest {
        self.token.digest()
    }
}

/// Why the agent is not authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthenticationError {
    /// The proof is by another key than the token's (RFC 9449 §7.1).
    #[error("proof by another key than the token's")]
    Key,
    /// The DPoP proof was verified with another token, or with none (RFC 9449 §4.3, check 12).
    #[error("proof for another token")]
    ProofToken,
    /// The token ended since it was verified.
    #[error("token has expired")]
    Expired,
    /// No such agent.
    #[error("unknown agent")]
    UnknownAgent,
    /// The agent may not act now.
    #[error("agent is suspended")]
    Suspended,
    /// The agent may never act again.
    #[error("agent is retired")]
    Retired,
    /// The agent was killed since the token was issued, or the token is from a generation that never was.
    #[error("token of another generation")]
    Killed,
    /// The run was ended.
    #[error("run was revoked")]
    RunRevoked,
    /// The task was ended.
    #[error("task was revoked")]
    TaskRevoked,
    /// The task is over.
    #[error("task has expired")]
    TaskExpired,
}

/// Authenticates an agent: the proof's key is the token's, the token still lasts, and agent, run and task may act.
///
/// # Errors
/// [`AuthenticationError`], the first thing that stands against it.
pub fn authenticate(
    token: Arc<VerifiedToken>,
    proof: AgentProof,
    entry: Option<&AgentEntry>,
    revoked: &Revoked,
    now: Timestamp,
) -> Result<VerifiedAgent, AuthenticationError> {
    let claims = token.claims();
    if !proof.thumbprint().ct_eq(&claims.cnf.jkt) {
        return Err(AuthenticationError::Key);
    }
    if let AgentProof::Dpop(dpop) = &proof
        && dpop.access_token() != Some(token.digest())
    {
        return Err(AuthenticationError::ProofToken);
    }
    if now >= token.expires_at() {
        return Err(AuthenticationError::Expired);
    }
    let entry = entry.ok_or(AuthenticationError::UnknownAgent)?;
    // The token's own fault before the agent's state: a dead token stays dead when the agent is resumed, and says so.
    if claims.generation != entry.generation {
        return Err(AuthenticationError::Killed);
    }
    match entry.state {
        AgentState::Active => {}
        AgentState::Suspended => return Err(AuthenticationError::Suspended),
        AgentState::Retired => return Err(AuthenticationError::Retired),
    }
    if revoked.runs.contains(&claims.sid) {
        return Err(AuthenticationError::RunRevoked);
    }
    if revoked.tasks.contains(&claims.txn) {
        return Err(AuthenticationError::TaskRevoked);
    }
    if claims.task().expires_at.is_some_and(|end| now.unix_secs() >= end) {
        return Err(AuthenticationError::TaskExpired);
    }
    Ok(VerifiedAgent { token, proof_kind: proof.kind() })
}

#[cfg(test)]
mod tests;
