//! The console's view of the control plane, on the store: who may answer what, invitations, passkeys, the live view.
//!
//! The console verified signatures; here it is decided whether they count, in one transaction with what they spend.

use std::sync::Arc;

use countersign_audit::Kind;
use countersign_identity::approval::{Answer, Approval, ApprovalError};
use countersign_identity::person::{PasskeyError, Person};
use countersign_proto::approval::ApprovalObject;
use countersign_proto::b64;
use countersign_proto::digest::Sha256Digest;
use countersign_proto::id::{ApprovalId, PersonId};
use countersign_proto::time::Timestamp;
use countersign_proto::webauthn::{Credential, VerifiedAssertion};
use countersign_store::{ConsumeKind, StoreError, Stored, Tx};
use serde_json::json;

use crate::console::port::{
    ApprovalState, ApprovalView, ConsolePerson, ConsolePort, DecisionRow, Invitation, PortError, PortFuture,
    SignedApproval, Verdict,
};
use crate::console::view::CallView;
use crate::control::{ApprovalRow, SignedRow, all_approvals, members};
use crate::listen::Peer;
use crate::plane::{Plane, Trouble};
use crate::rows::{InviteRow, PersonRow, Row, passkey_name};

/// How long a spent WebAuthn challenge is remembered, in seconds: longer than any ceremony may take.
const CHALLENGE_MEMORY_SECS: i64 = 3600;
/// How far back the live view looks for decisions.
const LOOK_BACK: u64 = 2000;

/// People and what they may do.
pub(crate) struct People {
    plane: Arc<Plane>,
}

impl People {
    pub(crate) const fn new(plane: Arc<Plane>) -> Self {
        Self { plane }
    }

    /// Somebody who may look: known and not disabled.
    async fn person(&self, id: &PersonId) -> Result<Stored<PersonRow>, PortError> {
        let person = self.plane.store.load::<PersonRow>(id.as_str()).await?;
        person.filter(|person| person.value.0.is_active()).ok_or(PortError::NotFound)
    }

    async fn stored_approval(&self, id: &ApprovalId) -> Result<Stored<ApprovalRow>, PortError> {
        self.plane.store.load::<ApprovalRow>(id.as_str()).await?.ok_or(PortError::NotFound)
    }

    /// Record first; a change that then fails leaves a second record saying so.
    async fn carry_out(&self, kind: Kind, members: serde_json::Value, tx: Tx) -> Result<(), PortError> {
        self.plane.record(kind, members.clone()).await?;
        if let Err(error) = tx.commit().await {
            let mut members = members;
            if let Some(object) = members.as_object_mut() {
                object.insert("result".into(), "failed".into());
            }
            self.plane.record(kind, members).await?;
            return Err(error.into());
        }
        Ok(())
    }

    async fn live_invite(&self, token: &str, now: Timestamp) -> Result<Stored<InviteRow>, PortError> {
        let digest = Sha256Digest::of(token.as_bytes());
        let invite = self.plane.store.load::<InviteRow>(&digest.hex()).await?.ok_or(PortError::NotFound)?;
        if now < invite.value.expires_at { Ok(invite) } else { Err(PortError::Closed) }
    }

    async fn grant(
        &self,
        id: &ApprovalId,
        person: &PersonId,
        signed: SignedApproval,
        now: Timestamp,
    ) -> Result<(), PortError> {
        let stored = self.stored_approval(id).await?;
        let person = self.person(person).await?;
        let object = &signed.object;
        // What was signed must say what was shown: rendered again here from the stored call.
        if !object.view_hash.ct_eq(&CallView::of(&stored.value.0.question.call).hash()) {
            return Err(PortError::Conflict);
        }
        let challenge = object.challenge().map_err(|_| Trouble::Form("approval object"))?;
        let granted = stored.value.0.clone().grant(&person.value.0, object, now).map_err(refused)?;
        let counted = with_counter(&person.value.0, &signed.assertion)?;
        let evidence = SignedRow {
            id: id.clone(),
            object: serde_json::to_value(object).map_err(|_| Trouble::Form("approval object"))?,
            assertion: serde_json::to_value(&signed.response).map_err(|_| Trouble::Form("assertion"))?,
        };
        let mut record = members("approval.grant", &granted);
        if let Some(record) = record.as_object_mut() {
            record.insert("object".into(), evidence.without_arguments(&object.call.digest()));
            record.insert("challenge".into(), b64::url_encode(&challenge).into());
            record.insert("assertion".into(), evidence.assertion.clone());
        }
        let tx = self
            .plane
            .store
            .transaction()
            .consume(
                ConsumeKind::WebauthnChallenge,
                &b64::url_encode(&challenge),
                now.plus_secs(CHALLENGE_MEMORY_SECS),
            )
            .update(&stored, &Row(granted))
            .insert(&evidence)
            .update(&person, &Row(counted));
        self.carry_out(Kind::Approval, record, tx).await?;
        self.plane.approvals_changed.notify_waiters();
        Ok(())
    }

    async fn refuse(&self, id: &ApprovalId, person: &PersonId, now: Timestamp) -> Result<(), PortError> {
        let stored = self.stored_approval(id).await?;
        let person = self.person(person).await?;
        let denied = stored.value.0.clone().expire(now).refuse(&person.value.0, now).map_err(refused)?;
        let tx = self.plane.store.transaction().expect(&person).update(&stored, &Row(denied.clone()));
        self.carry_out(Kind::Approval, members("approval.refuse", &denied), tx).await?;
        self.plane.approvals_changed.notify_waiters();
        Ok(())
    }

    async fn register(
        &self,
        token: &str,
        person: &PersonId,
        credential: Credential,
        now: Timestamp,
    ) -> Result<(), PortError> {
        let invite = self.live_invite(token, now).await?;
        if invite.value.person != *person {
            return Err(PortError::NotFound);
        }
        let stored = self.person(person).await?;
        let record = json!({
            "act": "passkey.register", "person": person, "passkey": passkey_name(&credential.id),
            "invite": invite.value.token,
        });
        let next = stored.value.0.clone().add_passkey(credential).map_err(|error| match error {
            PasskeyError::TooMany => PortError::Forbidden("too many passkeys"),
            PasskeyError::Known => PortError::Conflict,
            PasskeyError::Disabled => PortError::NotFound,
        })?;
        let tx = self
            .plane
            .store
            .transaction()
            .consume(ConsumeKind::Invite, &invite.value.token.hex(), invite.value.expires_at)
            .delete(&invite)
            .update(&stored, &Row(next));
        self.carry_out(Kind::Admin, record, tx).await
    }

    async fn login(
        &self,
        person: &PersonId,
        assertion: &VerifiedAssertion,
        challenge: &[u8; 32],
        now: Timestamp,
    ) -> Result<(), PortError> {
        let stored = self.person(person).await?;
        let next = with_counter(&stored.value.0, assertion)?;
        let challenge = b64::url_encode(challenge);
        let tx = self
            .plane
            .store
            .transaction()
            .consume(ConsumeKind::WebauthnChallenge, &challenge, now.plus_secs(CHALLENGE_MEMORY_SECS))
            .update(&stored, &Row(next));
        match self.carry_out(Kind::Access, json!({"act": "login", "person": person}), tx).await {
            // The challenge was answered before: somebody replays, and learns no more than that.
            Err(PortError::Closed) => Err(PortError::Conflict),
            outcome => outcome,
        }
    }
}

impl ConsolePort for People {
    fn list_approvals<'a>(
        &'a self,
        viewer: &'a PersonId,
        limit: usize,
        now: Timestamp,
    ) -> PortFuture<'a, Vec<ApprovalView>> {
        Box::pin(async move {
            let viewer = self.person(viewer).await?.value.0;
            let approvals = all_approvals(&self.plane, now).await?;
            Ok(approvals.into_iter().take(limit).map(|row| view(row.0, &viewer)).collect())
        })
    }

    fn approval<'a>(
        &'a self,
        id: &'a ApprovalId,
        viewer: &'a PersonId,
        now: Timestamp,
    ) -> PortFuture<'a, ApprovalView> {
        Box::pin(async move {
            let viewer = self.person(viewer).await?.value.0;
            let stored = self.stored_approval(id).await?;
            Ok(view(stored.value.0.expire(now), &viewer))
        })
    }

    fn begin_approval<'a>(
        &'a self,
        id: &'a ApprovalId,
        person: &'a PersonId,
        now: Timestamp,
    ) -> PortFuture<'a, ApprovalObject> {
        Box::pin(async move {
            let person = self.person(person).await?.value.0;
            let approval = self.stored_approval(id).await?.value.0.expire(now);
            approval.may_answer(&person).map_err(refused)?;
            if !matches!(approval.answer, Answer::Asked) {
                return Err(PortError::Closed);
            }
            let mut nonce = [0_u8; 16];
            self.plane.rng.fill(&mut nonce);
            let view_hash = CallView::of(&approval.question.call).hash();
            Ok(approval.question.object(&person.id, view_hash, b64::url_encode(&nonce)))
        })
    }

    fn grant_approval<'a>(
        &'a self,
        id: &'a ApprovalId,
        person: &'a PersonId,
        signed: SignedApproval,
        now: Timestamp,
    ) -> PortFuture<'a, ()> {
        Box::pin(self.grant(id, person, signed, now))
    }

    fn refuse_approval<'a>(
        &'a self,
        id: &'a ApprovalId,
        person: &'a PersonId,
        now: Timestamp,
    ) -> PortFuture<'a, ()> {
        Box::pin(self.refuse(id, person, now))
    }

    fn person_by_invite<'a>(&'a self, token: &'a str, now: Timestamp) -> PortFuture<'a, Invitation> {
        Box::pin(async move {
            let invite = self.live_invite(token, now).await?.value;
            let person = self.person(&invite.person).await?.value.0;
            Ok(Invitation { person: shown(&person), expires_at: invite.expires_at })
        })
    }

    fn register_passkey<'a>(
        &'a self,
        token: &'a str,
        person: &'a PersonId,
        credential: Credential,
        now: Timestamp,
    ) -> PortFuture<'a, ()> {
        Box::pin(self.register(token, person, credential, now))
    }

    fn passkeys<'a>(&'a self, person: &'a PersonId) -> PortFuture<'a, Vec<Credential>> {
        Box::pin(async move { Ok(self.person(person).await?.value.0.passkeys) })
    }

    fn passkey_owner<'a>(&'a self, credential_id: &'a [u8]) -> PortFuture<'a, (ConsolePerson, Credential)> {
        Box::pin(async move {
            let owner =
                self.plane.store.find_one::<PersonRow>("passkey", &passkey_name(credential_id)).await?;
            let owner = owner.map(|stored| stored.value.0).filter(Person::is_active);
            let owner = owner.ok_or(PortError::NotFound)?;
            let passkey = owner.passkeys.iter().find(|passkey| passkey.id == credential_id).cloned();
            Ok((shown(&owner), passkey.ok_or(PortError::NotFound)?))
        })
    }

    fn note_login<'a>(
        &'a self,
        person: &'a PersonId,
        assertion: &'a VerifiedAssertion,
        challenge: &'a [u8; 32],
        now: Timestamp,
    ) -> PortFuture<'a, ()> {
        Box::pin(self.login(person, assertion, challenge, now))
    }

    fn note_failed_login<'a>(&'a self, credential_id: &'a [u8], why: &'static str) -> PortFuture<'a, ()> {
        Box::pin(async move {
            let members = json!({
                "what": "login", "code": "login.refused", "passkey": passkey_name(credential_id), "detail": why,
            });
            Ok(self.plane.record_refusal(&Peer::Loopback, members).await?)
        })
    }

    fn note_cloned_passkey<'a>(
        &'a self,
        person: &'a PersonId,
        credential_id: &'a [u8],
        _now: Timestamp,
    ) -> PortFuture<'a, ()> {
        Box::pin(async move {
            let facts = json!({"person": person, "passkey": passkey_name(credential_id)});
            self.plane.alarm("apr.clone", facts).await;
            Ok(())
        })
    }

    fn recent_decisions(&self, limit: usize) -> PortFuture<'_, Vec<DecisionRow>> {
        Box::pin(async move {
            let log = self.plane.log.clone();
            let reading = tokio::task::spawn_blocking(move || {
                let from = log.published().saturating_sub(LOOK_BACK);
                let mut rows: Vec<DecisionRow> = log
                    .entries_from(from)
                    .map_while(Result::ok)
                    .filter_map(|(at, entry)| decision(at, &entry))
                    .collect();
                rows.reverse();
                rows.truncate(limit);
                rows
            });
            reading.await.map_err(|error| PortError::Unavailable(error.to_string()))
        })
    }
}

fn shown(person: &Person) -> ConsolePerson {
    ConsolePerson { id: person.id.clone(), display_name: person.display_name.clone() }
}

fn view(approval: Approval, viewer: &Person) -> ApprovalView {
    let answerable = match approval.may_answer(viewer) {
        Err(error) => Err(reason(error)),
        Ok(()) if matches!(approval.answer, Answer::Asked) => Ok(()),
        Ok(()) => Err("it is answered already"),
    };
    let question = approval.question;
    ApprovalView {
        id: question.id,
        call: question.call,
        agent: question.agent,
        run: question.run,
        machine: question.machine,
        task: question.task,
        purpose: question.purpose,
        requester: question.requester,
        asked_by: question.asked_by,
        policy: question.policy,
        agent_says: question.agent_says,
        asked_at: question.asked_at,
        expires_at: question.expires_at,
        state: match approval.answer {
            Answer::Asked => ApprovalState::Asked,
            Answer::Granted { by, at } => ApprovalState::Granted { by, at },
            Answer::Refused { by, at } => ApprovalState::Refused { by, at },
            Answer::Used { at, .. } => ApprovalState::Used { at },
            Answer::Expired => ApprovalState::Expired,
        },
        answerable,
    }
}

const fn reason(error: ApprovalError) -> &'static str {
    match error {
        ApprovalError::OwnRequest => "nobody approves their own request",
        ApprovalError::NotApprover => "you are not an approver",
        ApprovalError::Object | ApprovalError::Mismatch => "something else was asked",
        ApprovalError::Answered | ApprovalError::Pending | ApprovalError::Refused | ApprovalError::Spent => {
            "it is answered already"
        }
        ApprovalError::Expired | ApprovalError::OpenTooLong => "it has expired",
    }
}

fn refused(error: ApprovalError) -> PortError {
    match error {
        ApprovalError::OwnRequest | ApprovalError::NotApprover => PortError::Forbidden(reason(error)),
        ApprovalError::Answered
        | ApprovalError::Pending
        | ApprovalError::Refused
        | ApprovalError::Spent
        | ApprovalError::Expired
        | ApprovalError::OpenTooLong => PortError::Closed,
        ApprovalError::Object | ApprovalError::Mismatch => PortError::Conflict,
    }
}

/// The person with the authenticator's new counter. An assertion by a passkey that is gone counts for nothing.
fn with_counter(person: &Person, assertion: &VerifiedAssertion) -> Result<Person, PortError> {
    let mut person = person.clone();
    let passkey = person.passkeys.iter_mut().find(|passkey| passkey.id == assertion.credential_id());
    let passkey = passkey.ok_or(PortError::NotFound)?;
    passkey.sign_count = assertion.sign_count();
    Ok(person)
}

impl From<StoreError> for PortError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Consumed { .. } => Self::Closed,
            StoreError::Exists { .. } | StoreError::Conflict { .. } => Self::Conflict,
            StoreError::NotFound => Self::NotFound,
            error @ (StoreError::TooLarge(_)
            | StoreError::Unavailable(_)
            | StoreError::Corrupt(_)
            | StoreError::InUse(_)
            | StoreError::Newer { .. }
            | StoreError::WrongKey) => Self::Unavailable(error.to_string()),
        }
    }
}

impl From<Trouble> for PortError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Store(error) => error.into(),
            trouble @ (Trouble::Log(_) | Trouble::Form(_)) => Self::Unavailable(trouble.to_string()),
        }
    }
}

/// A decision's record as a line of the live view; other records are none.
fn decision(index: u64, entry: &[u8]) -> Option<DecisionRow> {
    let record: serde_json::Value = serde_json::from_slice(entry).ok()?;
    let verdict = match record["kind"].as_str()? {
        "intent" => Verdict::Allowed,
        "denial" => Verdict::Denied,
        "challenge" => Verdict::Challenged,
        _ => return None,
    };
    let text = |name: &str| record[name].as_str().unwrap_or_default().to_owned();
    let machine = record["machine"]["id"].as_str().map_or_else(|| text("machine"), str::to_owned);
    let tool = match (record["upstream"].as_str(), record["tool"].as_str()) {
        (Some(upstream), Some(tool)) => format!("{upstream}/{tool}"),
        (None, Some(tool)) => tool.to_owned(),
        (_, None) => text("what"),
    };
    Some(DecisionRow {
        at: Timestamp::from_unix_millis(record["ts"].as_i64()?),
        agent: text("agent"),
        machine,
        tool,
        verdict,
        reason: text("code"),
        index,
    })
}
