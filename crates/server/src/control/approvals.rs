//! Approvals: asked once per call, answered by a person elsewhere, spent once.
//!
//! What an answer may become is decided in `identity::approval`; here is the store around it, and the waiting.

use std::time::Duration;

use countersign_audit::Kind;
use countersign_identity::approval::{Answer, Approval, ApprovalError, Question};
use countersign_proto::digest::Sha256Digest;
use countersign_proto::id::{AgentId, ApprovalId, RunId, TaskId};
use countersign_proto::jose::Thumbprint;
use countersign_proto::time::Timestamp;
use countersign_store::{Aggregate, ConsumeKind, StoreError, Stored, Tx};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{ApprovalHandle, ApprovalOutcome, ApprovalRequest, ControlError, ServerControl};
use crate::admin::api;
use crate::plane::{Plane, Trouble};
use crate::rows::{Row, TaskRow};

/// Longest words of an agent kept with its request.
const AGENT_SAYS_CHARS: usize = 500;
/// How often a change is tried again after somebody else changed the same approval.
const ATTEMPTS: usize = 5;
/// How many days of approvals the lists go back.
const LISTED_DAYS: i64 = 2;

/// An approval as a row.
pub(crate) type ApprovalRow = Row<Approval>;

impl Aggregate for ApprovalRow {
    const KIND: &'static str = "approval";
    fn id(&self) -> String {
        self.0.question.id.as_str().into()
    }
    fn indexes(&self) -> Vec<(String, String)> {
        let mut indexes = vec![("asked_on".into(), day(self.0.question.asked_at))];
        if is_open(&self.0) {
            indexes.push(("open_of".into(), self.0.question.agent.as_str().into()));
            indexes.push(("state".into(), "open".into()));
        }
        if matches!(self.0.answer, Answer::Refused { .. }) {
            indexes.push((
                "refused".into(),
                refusal_name(&self.0.question.task, &self.0.question.call.digest()),
            ));
        }
        indexes
    }
    /// One open request per run and call: asking again finds the first.
    fn unique(&self) -> Vec<(String, String)> {
        if is_open(&self.0) {
            vec![("open_call".into(), call_name(&self.0.question.run, &self.0.question.call.digest()))]
        } else {
            Vec::new()
        }
    }
}

/// What a person signed, whole, and the signature: with both, anybody can check the yes again. The log has the same
/// with the digest of the call in place of the call, because arguments are not for everybody who may read the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SignedRow {
    pub(crate) id: ApprovalId,
    pub(crate) object: serde_json::Value,
    pub(crate) assertion: serde_json::Value,
}

impl Aggregate for SignedRow {
    const KIND: &'static str = "signed_approval";
    fn id(&self) -> String {
        self.id.as_str().into()
    }
}

impl SignedRow {
    /// The object with the call's digest in its place.
    pub(crate) fn without_arguments(&self, call: &Sha256Digest) -> serde_json::Value {
        let mut object = self.object.clone();
        object["call"] = json!(call);
        object
    }
}

impl ApprovalRow {
    /// As the administrator sees it.
    pub(crate) fn shown(&self, now: Timestamp) -> api::Approval {
        let Approval { question, answer } = self.0.clone().expire(now);
        let state = match answer {
            Answer::Asked => "asked",
            Answer::Granted { .. } => "granted",
            Answer::Refused { .. } => "refused",
            Answer::Used { .. } => "used",
            Answer::Expired => "expired",
        };
        api::Approval {
            call_digest: question.call.digest(),
            id: question.id,
            state: state.into(),
            agent: question.agent,
            run: question.run,
            machine: question.machine,
            task: question.task,
            upstream: question.call.upstream,
            tool: question.call.tool,
            asked_at: question.asked_at,
            expires_at: question.expires_at,
        }
    }
}

fn is_open(approval: &Approval) -> bool {
    match approval.answer {
        Answer::Asked | Answer::Granted { .. } => true,
        Answer::Refused { .. } | Answer::Used { .. } | Answer::Expired => false,
    }
}

fn call_name(run: &RunId, call: &Sha256Digest) -> String {
    format!("{run}/{}", call.hex())
}

/// A no is for the call and its task, whichever run asks.
fn refusal_name(task: &TaskId, call: &Sha256Digest) -> String {
    format!("{task}/{}", call.hex())
}

fn day(at: Timestamp) -> String {
    at.unix_secs().div_euclid(86_400).to_string()
}

/// Requests of today and the days before: open ones first (oldest first), then closed ones, newest first.
pub(crate) async fn all_approvals(plane: &Plane, now: Timestamp) -> Result<Vec<ApprovalRow>, Trouble> {
    let mut approvals = Vec::new();
    for back in 0..LISTED_DAYS {
        let found = plane.store.find::<ApprovalRow>("asked_on", &day(now.plus_secs(-86_400 * back))).await?;
        approvals.extend(found.into_iter().map(|stored| Row(stored.value.0.expire(now))));
    }
    approvals.sort_by_key(|Row(approval)| {
        let asked_at = approval.question.asked_at.unix_millis();
        let waiting = matches!(approval.answer, Answer::Asked);
        (!waiting, if waiting { asked_at } else { -asked_at })
    });
    Ok(approvals)
}

/// Adds the end of everything `agent` has open to `tx`: a killed agent's approvals are worth nothing.
pub(crate) async fn cancel_approvals(plane: &Plane, agent: &AgentId, mut tx: Tx) -> Result<Tx, Trouble> {
    for stored in plane.store.find::<ApprovalRow>("open_of", agent.as_str()).await? {
        let cancelled = Approval { answer: Answer::Expired, ..stored.value.0.clone() };
        tx = tx.update(&stored, &Row(cancelled));
    }
    Ok(tx)
}

/// Closes requests nobody answered in time, so that they stop counting as open.
pub(crate) async fn expire_approvals(plane: &Plane) -> Result<(), Trouble> {
    let now = plane.now();
    for stored in plane.store.find::<ApprovalRow>("state", "open").await? {
        let expired = stored.value.0.clone().expire(now);
        if expired == stored.value.0 {
            continue;
        }
        match plane.store.update(&stored, &Row(expired)).await {
            // Answered at the last moment.
            Ok(()) | Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

impl ServerControl {
    /// Asks a person. Asking again for the same call in the same run answers the request there is.
    ///
    /// # Errors
    /// [`ControlError::TooManyPending`], [`ControlError::Refused`] for a task that does not fit, or trouble.
    pub async fn ask_approval(&self, request: ApprovalRequest) -> Result<ApprovalHandle, ControlError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.try_ask(&request).await {
                Err(ControlError::Unavailable(Trouble::Store(
                    StoreError::Exists { .. } | StoreError::Conflict { .. },
                ))) if attempt < ATTEMPTS => {}
                outcome => return outcome,
            }
        }
    }

    /// A person's no holds for as long as a question would have stayed open: nobody is asked until they give in. The
    /// run that asked finds its refused request; another run of the task is told.
    async fn refused_lately(
        &self,
        request: &ApprovalRequest,
        now: Timestamp,
    ) -> Result<Option<Question>, ControlError> {
        let plane = &self.plane;
        let name = refusal_name(&request.task, &request.call.digest());
        let holds = plane.settings.lifetimes.approval_secs;
        let mut elsewhere = false;
        for stored in plane.store.find::<ApprovalRow>("refused", &name).await? {
            let Approval { question, answer } = stored.value.0;
            let Answer::Refused { at, .. } = answer else { continue };
            if now >= at.plus_secs(holds) {
                continue;
            }
            if question.run == request.run && question.machine_jkt.ct_eq(&request.machine_jkt) {
                return Ok(Some(question));
            }
            elsewhere = true;
        }
        if elsewhere {
            Err(ControlError::Refused("a person refused this call a moment ago"))
        } else {
            Ok(None)
        }
    }

    async fn try_ask(&self, request: &ApprovalRequest) -> Result<ApprovalHandle, ControlError> {
        let plane = &self.plane;
        let now = plane.now();
        let name = call_name(&request.run, &request.call.digest());
        let mut tx = plane.store.transaction();
        if let Some(open) = plane.store.find_one::<ApprovalRow>("open_call", &name).await? {
            let current = open.value.0.clone().expire(now);
            if is_open(&current) {
                return Ok(handle(plane, &current.question));
            }
            tx = tx.update(&open, &Row(current));
        }
        if let Some(refused) = self.refused_lately(request, now).await? {
            return Ok(handle(plane, &refused));
        }
        let open = plane.store.find::<ApprovalRow>("open_of", request.agent.as_str()).await?;
        let pending = open.iter().filter(|stored| now < stored.value.0.question.expires_at).count();
        if pending >= plane.settings.limits.pending_approvals_per_agent {
            metrics::counter!("cs_approvals_capped_total").increment(1);
            return Err(ControlError::TooManyPending);
        }
        let task = plane.store.load::<TaskRow>(request.task.as_str()).await?;
        let Some(task) = task.filter(|task| {
            task.value.0.agent == request.agent
                && task.value.0.sponsor == request.requester
                && task.value.0.is_active(now)
        }) else {
            return Err(ControlError::Refused("no such active task of this agent"));
        };
        let question = Question {
            id: ApprovalId::parse(&plane.name("apr_")).map_err(|_| Trouble::Form("approval id"))?,
            decision: request.decision_id.clone(),
            call: request.call.clone(),
            agent: request.agent.clone(),
            run: request.run.clone(),
            machine: request.machine.clone(),
            machine_jkt: request.machine_jkt,
            task: request.task.clone(),
            purpose: task.value.0.purpose.clone(),
            requester: request.requester.clone(),
            asked_by: request.asked_by.clone(),
            policy: request.policy,
            agent_says: request.agent_says.as_ref().map(|text| text.chars().take(AGENT_SAYS_CHARS).collect()),
            asked_at: now,
            expires_at: now.plus_secs(plane.settings.lifetimes.approval_secs).min(task.value.0.expires_at),
        };
        let approval = Approval::ask(question)
            .map_err(|_| ControlError::Refused("the request would be open too long"))?;
        plane.record(Kind::Approval, members("approval.ask", &approval)).await?;
        tx.expect(&task).insert(&Row(approval.clone())).commit().await?;
        plane.approvals_changed.notify_waiters();
        metrics::counter!("cs_approvals_asked_total").increment(1);
        Ok(handle(plane, &approval.question))
    }

    /// Where a person answers an approval, while anybody can.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn approval_handle(&self, id: &ApprovalId) -> Result<Option<ApprovalHandle>, ControlError> {
        let stored = self.plane.store.load::<ApprovalRow>(id.as_str()).await?;
        Ok(stored.map(|stored| handle(&self.plane, &stored.value.0.question)))
    }

    /// Waits for the answer (as long as the configuration says) and spends a yes on exactly this call.
    ///
    /// # Errors
    /// When the store or the log cannot answer; the yes may be spent then, but no grant is out.
    pub async fn redeem_approval(
        &self,
        id: &ApprovalId,
        call_digest: &Sha256Digest,
        run: &RunId,
        machine_jkt: &Thumbprint,
    ) -> Result<ApprovalOutcome, ControlError> {
        let patience = Duration::from_millis(self.plane.settings.limits.long_poll_millis);
        let waiting = async {
            loop {
                // Registered before looking, so that an answer between looking and waiting is not missed.
                let mut changed = std::pin::pin!(self.plane.approvals_changed.notified());
                changed.as_mut().enable();
                match self.try_redeem(id, call_digest, run, machine_jkt).await? {
                    ApprovalOutcome::Pending => changed.await,
                    outcome => return Ok(outcome),
                }
            }
        };
        tokio::time::timeout(patience, waiting).await.unwrap_or(Ok(ApprovalOutcome::Pending))
    }

    async fn try_redeem(
        &self,
        id: &ApprovalId,
        call_digest: &Sha256Digest,
        run: &RunId,
        machine_jkt: &Thumbprint,
    ) -> Result<ApprovalOutcome, ControlError> {
        let plane = &self.plane;
        let now = plane.now();
        let Some(stored) = plane.store.load::<ApprovalRow>(id.as_str()).await? else {
            return Ok(ApprovalOutcome::Mismatch);
        };
        let used = match stored.value.0.clone().consume(call_digest, run, machine_jkt, now) {
            Ok(used) => used,
            Err(error) => return Ok(outcome_of(error)),
        };
        let committed = self.spend(&stored, &used).await;
        match committed {
            Ok(()) => {}
            Err(StoreError::Consumed { .. }) => return Ok(ApprovalOutcome::Spent),
            // Answered or spent at the same moment: look again.
            Err(StoreError::Conflict { .. }) => return Ok(ApprovalOutcome::Pending),
            Err(error) => return Err(error.into()),
        }
        plane.approvals_changed.notify_waiters();
        // INVARIANT: spent and recorded before there is a grant.
        plane.record(Kind::Approval, members("approval.use", &used)).await?;
        let jti = plane.name("grt_");
        let grant =
            used.to_grant(&plane.settings.issuer, &jti, now).ok_or(Trouble::Form("approval grant"))?;
        let key = &plane.keys.approval;
        let grant = grant.sign(key.signer(), key.kid()).map_err(|_| Trouble::Form("approval grant"))?;
        Ok(ApprovalOutcome::Granted(grant))
    }

    async fn spend(&self, stored: &Stored<ApprovalRow>, used: &Approval) -> Result<(), StoreError> {
        let question = &used.question;
        self.plane
            .store
            .transaction()
            .consume(ConsumeKind::Approval, question.id.as_str(), question.expires_at)
            .update(stored, &Row(used.clone()))
            .commit()
            .await
    }
}

const fn outcome_of(error: ApprovalError) -> ApprovalOutcome {
    match error {
        ApprovalError::Pending => ApprovalOutcome::Pending,
        ApprovalError::Refused => ApprovalOutcome::Refused,
        ApprovalError::Spent | ApprovalError::Answered => ApprovalOutcome::Spent,
        ApprovalError::Expired | ApprovalError::OpenTooLong => ApprovalOutcome::Expired,
        ApprovalError::Mismatch
        | ApprovalError::Object
        | ApprovalError::OwnRequest
        | ApprovalError::NotApprover => ApprovalOutcome::Mismatch,
    }
}

fn handle(plane: &Plane, question: &Question) -> ApprovalHandle {
    ApprovalHandle {
        id: question.id.clone(),
        url: format!("{}/approvals/{}", plane.settings.console_url, question.id),
        expires_at: question.expires_at,
    }
}

/// What every record of an approval says.
pub(crate) fn members(act: &'static str, approval: &Approval) -> serde_json::Value {
    let question = &approval.question;
    json!({
        "act": act,
        "approval": question.id,
        "decision": question.decision,
        "agent": question.agent,
        "run": question.run,
        "machine": question.machine,
        "machine_key": question.machine_jkt,
        "task": question.task,
        "requester": question.requester,
        "upstream": question.call.upstream,
        "tool": question.call.tool,
        "call": question.call.digest(),
        "policy": question.policy,
        "expires_at": question.expires_at,
        "answer": approval.answer,
    })
}
