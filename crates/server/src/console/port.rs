//! What the console needs from the rest of the control plane, as one trait.
//!
//! The console renders pages and runs WebAuthn ceremonies; it holds no rules. Whether this person may approve
//! that request, whether an invitation is still good and what a grant changes is decided behind this trait.
//! Every answer is a value; [`PortError`] says why there is none, and the console then changes nothing.

use std::future::Future;
use std::pin::Pin;

use countersign_proto::approval::ApprovalObject;
use countersign_proto::call::Call;
use countersign_proto::digest::Sha256Digest;
use countersign_proto::id::{AgentId, ApprovalId, MachineId, PersonId, PolicyId, RunId, TaskId};
use countersign_proto::time::Timestamp;
use countersign_proto::webauthn::{AssertionResponse, Credential, VerifiedAssertion};

/// A boxed future, so that the trait stays object-safe.
pub type PortFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, PortError>> + Send + 'a>>;

/// Why the control plane gave no answer. The texts are shown to people: short, fixed, without detail.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// No such thing, or none that this person may see (the two are not told apart).
    #[error("there is nothing here")]
    NotFound,
    /// It was there and is over: used, refused, expired.
    #[error("this is no longer open")]
    Closed,
    /// The person may not do this (separation of duty, missing role). The reason is shown.
    #[error("not allowed: {0}")]
    Forbidden(&'static str),
    /// Somebody else changed it at the same moment; nothing was changed here.
    #[error("somebody else changed this at the same moment")]
    Conflict,
    /// The store or the log cannot be reached. The detail goes to the log, not to the page.
    #[error("the control plane cannot answer right now")]
    Unavailable(String),
}

/// A person as the console shows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsolePerson {
    /// Who.
    pub id: PersonId,
    /// How they want to be called. Untrusted text: escaped and length-limited when shown.
    pub display_name: String,
}

/// An unspent invitation to register a passkey.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invitation {
    /// Whom it invites.
    pub person: ConsolePerson,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// Where an approval stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApprovalState {
    /// Waiting for a person.
    Asked,
    /// Approved and not used yet.
    Granted {
        /// Who approved.
        by: PersonId,
        /// When.
        at: Timestamp,
    },
    /// Refused. Final.
    Refused {
        /// Who refused.
        by: PersonId,
        /// When.
        at: Timestamp,
    },
    /// Approved and spent on exactly one call. Final.
    Used {
        /// When it was spent.
        at: Timestamp,
    },
    /// Nobody answered in time. Final.
    Expired,
}

/// One request for approval, whole. The lists use the same value.
#[derive(Clone, Debug)]
pub struct ApprovalView {
    /// Which request.
    pub id: ApprovalId,
    /// The exact call; what is shown is rendered from here and from nowhere else.
    pub call: Call,
    /// The agent that wants to make the call.
    pub agent: AgentId,
    /// Its run.
    pub run: RunId,
    /// The machine it runs on.
    pub machine: MachineId,
    /// The task under which it asks.
    pub task: TaskId,
    /// The purpose in the task grant, written by the sponsor when granting (not by the agent).
    pub purpose: String,
    /// On whose behalf: the person who may not approve this themselves.
    pub requester: PersonId,
    /// The policy that asked for approval, where known by name.
    pub asked_by: Option<PolicyId>,
    /// Digest of the policy set in force.
    pub policy: Sha256Digest,
    /// The agent's own words, if any. Quarantined: shown apart, labelled, never interpreted.
    pub agent_says: Option<String>,
    /// When it was asked.
    pub asked_at: Timestamp,
    /// Until when it can be answered and used.
    pub expires_at: Timestamp,
    /// Where it stands.
    pub state: ApprovalState,
    /// Whether the person looking may answer it; if not, why not (shown).
    pub answerable: Result<(), &'static str>,
}

/// A person's yes, with everything that proves it.
///
/// The console has verified `assertion` against `object.challenge()`, the session's person and one of that
/// person's passkeys. The receiver checks in one transaction that the approval is still open and the object is the
/// one it handed out, consumes the challenge, stores the new counter, and records `response` so that
/// anybody can verify the yes again.
#[derive(Clone, Debug)]
pub struct SignedApproval {
    /// What was signed.
    pub object: ApprovalObject,
    /// The verified facts (credential id, counter, flags).
    pub assertion: VerifiedAssertion,
    /// The raw response, for the record.
    pub response: AssertionResponse,
}

/// How a decision ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Forwarded upstream.
    Allowed,
    /// Refused.
    Denied,
    /// Answered with a challenge (fresh attestation, approval, stronger person).
    Challenged,
}

/// One line of the live view, taken from the audit log.
#[derive(Clone, Debug)]
pub struct DecisionRow {
    /// When.
    pub at: Timestamp,
    /// Agent as recorded (may be unknown to us, hence text).
    pub agent: String,
    /// Machine as recorded.
    pub machine: String,
    /// `<upstream>/<tool>` as recorded.
    pub tool: String,
    /// How it ended.
    pub verdict: Verdict,
    /// The stable reason code, such as `bind.machine_key`; empty for a plain allow.
    pub reason: String,
    /// Index of the record in its log.
    pub index: u64,
}

/// The console's view of the control plane.
///
/// INVARIANT: only the methods whose name is a verb of change (`grant_`, `refuse_`, `register_`, `note_`) change
/// anything, and the console calls those from POST handlers only.
pub trait ConsolePort: Send + Sync {
    /// Whether this person may still look at anything: asked with each request of a session, so that disabling
    /// somebody ends their sessions. [`PortError::NotFound`] for nobody one knows, or knows no longer.
    fn still_there<'a>(&'a self, person: &'a PersonId) -> PortFuture<'a, ()> {
        Box::pin(async move { self.passkeys(person).await.map(drop) })
    }

    /// The requests this person may see: open ones first (oldest first), then recently closed; at most `limit`.
    fn list_approvals<'a>(
        &'a self,
        viewer: &'a PersonId,
        limit: usize,
        now: Timestamp,
    ) -> PortFuture<'a, Vec<ApprovalView>>;

    /// One request.
    fn approval<'a>(
        &'a self,
        id: &'a ApprovalId,
        viewer: &'a PersonId,
        now: Timestamp,
    ) -> PortFuture<'a, ApprovalView>;

    /// The object this person would sign: the stored request with `approver` filled in and
    /// `view_hash` = [`super::view::CallView::hash`]. Changes nothing.
    fn begin_approval<'a>(
        &'a self,
        id: &'a ApprovalId,
        person: &'a PersonId,
        now: Timestamp,
    ) -> PortFuture<'a, ApprovalObject>;

    /// The yes. Atomic: still open, allowed, challenge not consumed before, counter stored, recorded.
    fn grant_approval<'a>(
        &'a self,
        id: &'a ApprovalId,
        person: &'a PersonId,
        signed: SignedApproval,
        now: Timestamp,
    ) -> PortFuture<'a, ()>;

    /// The no. Wins over a yes that has not been used.
    fn refuse_approval<'a>(
        &'a self,
        id: &'a ApprovalId,
        person: &'a PersonId,
        now: Timestamp,
    ) -> PortFuture<'a, ()>;

    /// Whom an unspent invitation invites. Opening it spends nothing.
    fn person_by_invite<'a>(&'a self, token: &'a str, now: Timestamp) -> PortFuture<'a, Invitation>;

    /// Spends the invitation and stores the passkey, in one transaction. [`PortError::Closed`] if it was spent or
    /// has expired, [`PortError::Conflict`] if the credential id is registered already.
    fn register_passkey<'a>(
        &'a self,
        token: &'a str,
        person: &'a PersonId,
        credential: Credential,
        now: Timestamp,
    ) -> PortFuture<'a, ()>;

    /// The person's passkeys (to say which authenticators may answer, and which must not register twice).
    fn passkeys<'a>(&'a self, person: &'a PersonId) -> PortFuture<'a, Vec<Credential>>;

    /// Who owns a credential id, with the stored credential. [`PortError::NotFound`] for none.
    fn passkey_owner<'a>(&'a self, credential_id: &'a [u8]) -> PortFuture<'a, (ConsolePerson, Credential)>;

    /// A login succeeded: store the new signature counter and record the access. `challenge` is consumed durably.
    fn note_login<'a>(
        &'a self,
        person: &'a PersonId,
        assertion: &'a VerifiedAssertion,
        challenge: &'a [u8; 32],
        now: Timestamp,
    ) -> PortFuture<'a, ()>;

    /// Somebody failed to log in with this credential id; `why` is ours. Recorded, or there is no answer.
    fn note_failed_login<'a>(&'a self, credential_id: &'a [u8], why: &'static str) -> PortFuture<'a, ()>;

    /// An authenticator's counter went backwards: raise the alarm `apr.clone`. The ceremony is refused anyway.
    fn note_cloned_passkey<'a>(
        &'a self,
        person: &'a PersonId,
        credential_id: &'a [u8],
        now: Timestamp,
    ) -> PortFuture<'a, ()>;

    /// The newest decisions of the audit log, newest first, at most `limit`.
    fn recent_decisions(&self, limit: usize) -> PortFuture<'_, Vec<DecisionRow>>;
}
