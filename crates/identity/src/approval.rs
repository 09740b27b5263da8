//! Approvals: one person's answer to one exact call, and the grant a gateway checks.
//!
//! The state changes by value and only forward; no, once said, stays. The passkey's signature over the approval
//! object was verified before `grant` is called; storing the new state and consuming it once are the store's.

use countersign_proto::approval::{
    APPROVAL_GRANT_TYP, ApprovalDomain, ApprovalGrant, ApprovalObject, ApprovalScope,
};
use countersign_proto::call::Call;
use countersign_proto::digest::Sha256Digest;
use countersign_proto::id::{AgentId, ApprovalId, DecisionId, MachineId, PersonId, PolicyId, RunId, TaskId};
use countersign_proto::jose::{
    Expected, JwsError, KeySet, KeySource, MAX_TOKEN_BYTES, Thumbprint, verify_compact,
};
use countersign_proto::json::{self, Limits};
use countersign_proto::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::person::{Person, Role};

/// How long a question may stay open and its answer usable, in seconds.
pub const MAX_OPEN_SECS: i64 = 900;
/// How long a grant to a gateway lasts, in seconds.
pub const GRANT_LIFETIME_SECS: i64 = 60;

/// What is asked: everything about the call and who wants to make it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The approval.
    pub id: ApprovalId,
    /// The decision that asked for it.
    pub decision: DecisionId,
    /// The exact call.
    pub call: Call,
    /// The agent that wants to call.
    pub agent: AgentId,
    /// Its run.
    pub run: RunId,
    /// The machine it runs on.
    pub machine: MachineId,
    /// The thumbprint of that machine's key M.
    pub machine_jkt: Thumbprint,
    /// Its task.
    pub task: TaskId,
    /// The task's purpose, in the sponsor's words.
    pub purpose: String,
    /// The person on whose behalf the agent acts: may not answer.
    pub requester: PersonId,
    /// The policy that asked, where known by name.
    pub asked_by: Option<PolicyId>,
    /// The digest of the policies in force.
    pub policy: Sha256Digest,
    /// The agent's own words: quarantined, never rendered as ours.
    pub agent_says: Option<String>,
    /// When it was asked.
    pub asked_at: Timestamp,
    /// Until when it can be answered and used.
    pub expires_at: Timestamp,
}

/// An approval, wherever it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approval {
    /// What was asked.
    pub question: Question,
    /// What was answered.
    pub answer: Answer,
}

/// Where an approval stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state", deny_unknown_fields)]
pub enum Answer {
    /// Nobody has answered.
    Asked,
    /// A person said yes.
    Granted {
        /// Who.
        by: PersonId,
        /// When.
        at: Timestamp,
    },
    /// A person said no. Final.
    Refused {
        /// Who.
        by: PersonId,
        /// When.
        at: Timestamp,
    },
    /// The yes was spent on its one call. Final.
    Used {
        /// Who had said yes.
        by: PersonId,
        /// When it was spent.
        at: Timestamp,
    },
    /// Nobody answered, or nobody used the answer, in time. Final.
    Expired,
}

/// Why an approval does not change as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApprovalError {
    /// The person asked on their own behalf (`approval.self`).
    #[error("nobody approves their own request")]
    OwnRequest,
    /// The person is no approver, or disabled.
    #[error("not an approver")]
    NotApprover,
    /// What was signed is not what was asked.
    #[error("another object was signed")]
    Object,
    /// It was answered before.
    #[error("already answered")]
    Answered,
    /// Nobody has answered yet.
    #[error("not answered yet")]
    Pending,
    /// The answer was no.
    #[error("refused")]
    Refused,
    /// It was spent before (`approval.spent`).
    #[error("already used")]
    Spent,
    /// Too late (`approval.expired`).
    #[error("expired")]
    Expired,
    /// For another call, run or machine (`approval.digest`).
    #[error("approved for another call, run or machine")]
    Mismatch,
    /// Open longer than any question may be.
    #[error("a question stays open for at most 900 seconds")]
    OpenTooLong,
}

impl ApprovalError {
    /// The stable reason code of the record.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::OwnRequest => "approval.self",
            Self::NotApprover => "approval.approver",
            Self::Object | Self::Mismatch => "approval.digest",
            Self::Answered => "approval.answered",
            Self::Pending => "approval.pending",
            Self::Refused => "approval.refused",
            Self::Spent => "approval.spent",
            Self::Expired | Self::OpenTooLong => "approval.expired",
        }
    }
}

impl Question {
    /// The object for `approver` to sign, having seen the view with that hash.
    #[must_use]
    pub fn object(&self, approver: &PersonId, view_hash: Sha256Digest, nonce: String) -> ApprovalObject {
        ApprovalObject {
            domain: ApprovalDomain::V1,
            id: self.id.clone(),
            call: self.call.clone(),
            view_hash,
            scope: ApprovalScope::Once,
            policy: self.policy,
            agent: self.agent.clone(),
            run: self.run.clone(),
            machine: self.machine.clone(),
            task: self.task.clone(),
            requester: self.requester.clone(),
            approver: approver.clone(),
            expires_at: self.expires_at.unix_secs(),
            nonce,
        }
    }
}

impl Approval {
    /// Asks.
    ///
    /// # Errors
    /// [`ApprovalError::OpenTooLong`] beyond [`MAX_OPEN_SECS`], [`ApprovalError::Expired`] if it is over already.
    pub fn ask(question: Question) -> Result<Self, ApprovalError> {
        let open_secs = question.expires_at.secs_since(question.asked_at);
        if open_secs > MAX_OPEN_SECS {
            Err(ApprovalError::OpenTooLong)
        } else if open_secs <= 0 {
            Err(ApprovalError::Expired)
        } else {
            Ok(Self { question, answer: Answer::Asked })
        }
    }

    /// Whether this person may answer: an approver, and not the one who asked.
    ///
    /// # Errors
    /// [`ApprovalError::OwnRequest`] or [`ApprovalError::NotApprover`].
    pub fn may_answer(&self, person: &Person) -> Result<(), ApprovalError> {
        if person.id == self.question.requester {
            Err(ApprovalError::OwnRequest)
        } else if !person.may(Role::Approver) {
            Err(ApprovalError::NotApprover)
        } else {
            Ok(())
        }
    }

    /// Says yes. `signed` is the object whose challenge the person's passkey signed.
    ///
    /// # Errors
    /// [`ApprovalError`]; the state is then unchanged in the store.
    pub fn grant(self, by: &Person, signed: &ApprovalObject, now: Timestamp) -> Result<Self, ApprovalError> {
        self.may_answer(by)?;
        match self.answer {
            Answer::Asked => {}
            Answer::Granted { .. } | Answer::Used { .. } => return Err(ApprovalError::Answered),
            Answer::Refused { .. } => return Err(ApprovalError::Refused),
            Answer::Expired => return Err(ApprovalError::Expired),
        }
        if now >= self.question.expires_at {
            return Err(ApprovalError::Expired);
        }
        // The view and the nonce are the console's; all the rest must be what was asked, by the one who answers.
        if *signed != self.question.object(&by.id, signed.view_hash, signed.nonce.clone()) {
            return Err(ApprovalError::Object);
        }
        Ok(Self { answer: Answer::Granted { by: by.id.clone(), at: now }, ..self })
    }

    /// Says no. A no wins over a yes that was not used yet.
    ///
    /// # Errors
    /// [`ApprovalError`] if the person may not answer, or it is over.
    pub fn refuse(self, by: &Person, now: Timestamp) -> Result<Self, ApprovalError> {
        self.may_answer(by)?;
        match self.answer {
            Answer::Asked | Answer::Granted { .. } => {
                Ok(Self { answer: Answer::Refused { by: by.id.clone(), at: now }, ..self })
            }
            Answer::Refused { .. } => Err(ApprovalError::Refused),
            Answer::Used { .. } => Err(ApprovalError::Spent),
            Answer::Expired => Err(ApprovalError::Expired),
        }
    }

    /// Lets time take its course.
    #[must_use]
    pub fn expire(self, now: Timestamp) -> Self {
        match self.answer {
            Answer::Asked | Answer::Granted { .. } if now >= self.question.expires_at => {
                Self { answer: Answer::Expired, ..self }
            }
            Answer::Asked
            | Answer::Granted { .. }
            | Answer::Refused { .. }
            | Answer::Used { .. }
            | Answer::Expired => self,
        }
    }

    /// Spends the yes on its one call.
    ///
    /// # Errors
    /// [`ApprovalError`] saying why there is nothing to spend.
    pub fn consume(
        self,
        call_digest: &Sha256Digest,
        run: &RunId,
        machine_jkt: &Thumbprint,
        now: Timestamp,
    ) -> Result<Self, ApprovalError> {
        // What it is for comes first: a stranger learns nothing about where it stands.
        let question = &self.question;
        if !question.call.digest().ct_eq(call_digest)
            || question.run != *run
            || !question.machine_jkt.ct_eq(machine_jkt)
        {
            return Err(ApprovalError::Mismatch);
        }
        match self.answer {
            Answer::Asked if now >= question.expires_at => Err(ApprovalError::Expired),
            Answer::Asked => Err(ApprovalError::Pending),
            Answer::Refused { .. } => Err(ApprovalError::Refused),
            Answer::Used { .. } => Err(ApprovalError::Spent),
            Answer::Expired => Err(ApprovalError::Expired),
            Answer::Granted { .. } if now >= question.expires_at => Err(ApprovalError::Expired),
            Answer::Granted { by, .. } => {
                Ok(Self { answer: Answer::Used { by, at: now }, question: self.question })
            }
        }
    }

    /// The grant for the gateway, once the yes was spent on its call; `None` in any other state.
    #[must_use]
    pub fn to_grant(&self, issuer: &str, jti: &str, now: Timestamp) -> Option<ApprovalGrant> {
        let Answer::Used { by, .. } = &self.answer else { return None };
        let question = &self.question;
        Some(ApprovalGrant {
            iss: issuer.to_owned(),
            apr: question.id.clone(),
            call_digest: question.call.digest(),
            run: question.run.clone(),
            machine_jkt: question.machine_jkt,
            agent: question.agent.clone(),
            policy: question.policy,
            approver: by.clone(),
            exp: now.plus_secs(GRANT_LIFETIME_SECS).min(question.expires_at).unix_secs(),
            jti: jti.to_owned(),
        })
    }
}

/// What a grant must be for.
#[derive(Clone, Copy, Debug)]
pub struct GrantExpectation<'a> {
    /// The server.
    pub issuer: &'a str,
    /// The server's approval keys.
    pub keys: &'a KeySet,
    /// The time.
    pub now: Timestamp,
    /// The digest of the call at hand.
    pub call_digest: &'a Sha256Digest,
    /// The agent at hand.
    pub agent: &'a AgentId,
    /// The run at hand.
    pub run: &'a RunId,
    /// The machine at hand.
    pub machine_jkt: &'a Thumbprint,
}

/// A person approved the call at hand. Made by [`verify_grant`] alone; one grant, one call, so not `Clone`.
///
/// ```compile_fail,E0451
/// use countersign_identity::GrantedApproval;
/// fn forge(grant: countersign_proto::approval::ApprovalGrant) -> GrantedApproval {
///     GrantedApproval { grant }
/// }
/// ```
#[derive(Debug)]
pub struct GrantedApproval {
    grant: ApprovalGrant,
}

/// Why a grant does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// Not a sound grant signed by our server.
    #[error("approval grant not verified")]
    Jws(#[from] JwsError),
    /// Genuine, but not of our form.
    #[error("unexpected claims: {0}")]
    Claims(String),
    /// Another server's.
    #[error("approval grant of another server")]
    Issuer,
    /// Over.
    #[error("approval grant has expired")]
    Expired,
    /// For another call, agent, run or machine.
    #[error("approval grant is for another call, agent, run or machine")]
    Mismatch,
}

/// Verifies a grant against the call at hand.
///
/// # Errors
/// [`GrantError`], the first thing that is not as expected.
pub fn verify_grant(grant: &str, expect: &GrantExpectation<'_>) -> Result<GrantedApproval, GrantError> {
    let expected = Expected {
        typ: &[APPROVAL_GRANT_TYP],
        keys: KeySource::Set(expect.keys),
        max_bytes: MAX_TOKEN_BYTES,
    };
    let verified = verify_compact(grant, &expected)?;
    let grant: ApprovalGrant = json::typed(&verified.payload, &Limits::DEFAULT)
        .map_err(|error| GrantError::Claims(error.to_string()))?;
    if grant.iss != expect.issuer {
        return Err(GrantError::Issuer);
    }
    if expect.now.unix_secs() >= grant.exp {
        return Err(GrantError::Expired);
    }
    let fits = grant.call_digest.ct_eq(expect.call_digest)
        && grant.machine_jkt.ct_eq(expect.machine_jkt)
        && grant.run == *expect.run
        && grant.agent == *expect.agent;
    if fits { Ok(GrantedApproval { grant }) } else { Err(GrantError::Mismatch) }
}

impl GrantedApproval {
    /// The approval.
    #[must_use]
    pub const fn id(&self) -> &ApprovalId {
        &self.grant.apr
    }

    /// The digest of the one call it is for.
    #[must_use]
    pub const fn call_digest(&self) -> &Sha256Digest {
        &self.grant.call_digest
    }

    /// The agent it is for.
    #[must_use]
    pub const fn agent(&self) -> &AgentId {
        &self.grant.agent
    }

    /// The run it is for.
    #[must_use]
    pub const fn run(&self) -> &RunId {
        &self.grant.run
    }

    /// The machine it is for.
    #[must_use]
    pub const fn machine_jkt(&self) -> &Thumbprint {
        &self.grant.machine_jkt
    }

    /// The digest of the policies that asked for it.
    #[must_use]
    pub const fn policy(&self) -> &Sha256Digest {
        &self.grant.policy
    }

    /// Who approved.
    #[must_use]
    pub const fn approver(&self) -> &PersonId {
        &self.grant.approver
    }

    /// The grant's own name; to be used once.
    #[must_use]
    pub fn jti(&self) -> &str {
        &self.grant.jti
    }

    /// When it ends.
    #[must_use]
    pub const fn expires_at(&self) -> Timestamp {
        Timestamp::from_unix_secs(self.grant.exp)
    }
}

#[cfg(test)]
mod tests;
