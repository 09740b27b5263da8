//! A person's answer inside the walk: asked for once, redeemed once, believed only when signed.

use countersign_identity::approval::{GrantError, GrantExpectation};
use countersign_identity::{GrantedApproval, verify_grant};
use countersign_policy::{Code, Countersigned};
use countersign_proto::call::Call;
use countersign_proto::id::ApprovalId;

use super::Trail;
use crate::control::{ApprovalHandle, ApprovalOutcome, ApprovalRequest};
use crate::refusal::Stop;
use crate::standing::{Bearer, Standing};

/// What the caller's approval came to.
pub(super) enum Answer {
    /// The caller brought none.
    NotAsked,
    /// The person has not answered yet.
    Pending(ApprovalHandle),
    /// Yes, to exactly this call.
    Granted(Box<GrantedApproval>),
}

impl Answer {
    pub(super) fn granted(&self) -> Option<&GrantedApproval> {
        match self {
            Self::Granted(granted) => Some(granted),
            Self::NotAsked | Self::Pending(_) => None,
        }
    }
}

impl Trail<'_> {
    /// Redeems an approval for this call, this run and this machine. May wait for the person.
    pub(super) async fn redeem(
        &self,
        standing: &Standing,
        id: &ApprovalId,
        call: &Call,
        bearer: &Bearer,
    ) -> Result<Answer, Stop> {
        let redeeming = self.gate.control.redeem_approval(
            id.clone(),
            call.digest(),
            bearer.run.clone(),
            bearer.machine_jkt,
        );
        let outcome = redeeming.await.map_err(|error| Stop::because(Code::ApprovalInvalid, error))?;
        let stop = |code| Err(Stop::because(code, format!("approval {id}")));
        match outcome {
            ApprovalOutcome::Pending(handle) => Ok(Answer::Pending(handle)),
            ApprovalOutcome::Granted(grant) => {
                let expected = GrantExpectation {
                    issuer: &self.gate.issuer,
                    keys: &standing.approval_keys,
                    now: self.gate.now(),
                    call_digest: &call.digest(),
                    agent: &bearer.agent,
                    run: &bearer.run,
                    machine_jkt: &bearer.machine_jkt,
                };
                let granted = verify_grant(&grant, &expected)
                    .map_err(|error| Stop::because(grant_code(&error), error))?;
                Ok(Answer::Granted(Box::new(granted)))
            }
            ApprovalOutcome::Refused => stop(Code::ApprovalRefused),
            ApprovalOutcome::Expired => stop(Code::ApprovalExpired),
            ApprovalOutcome::Spent => stop(Code::ApprovalSpent),
            ApprovalOutcome::Mismatch => stop(Code::ApprovalDigest),
        }
    }

    /// Asks a person about this call, unless the question is already open.
    pub(super) async fn ask(
        &self,
        standing: &Standing,
        who: &Countersigned,
        bearer: &Bearer,
        call: &Call,
        answer: Answer,
    ) -> Option<ApprovalHandle> {
        if let Answer::Pending(handle) = answer {
            return Some(handle);
        }
        let claims = who.agent().claims();
        let (_revision, policy) = standing.pdp.policy();
        let request = ApprovalRequest {
            decision_id: self.decision_id.clone(),
            call: call.clone(),
            agent: bearer.agent.clone(),
            run: bearer.run.clone(),
            machine: bearer.machine.clone(),
            machine_jkt: bearer.machine_jkt,
            task: bearer.task.clone(),
            purpose: claims.task().purpose.clone(),
            requester: claims.sub.clone(),
            policy,
        };
        match self.gate.control.ask_approval(request).await {
            Ok(handle) => Some(handle),
            Err(error) => {
                tracing::error!(%error, "an approval could not be asked for");
                None
            }
        }
    }
}

fn grant_code(error: &GrantError) -> Code {
    match error {
        GrantError::Jws(_) | GrantError::Claims(_) | GrantError::Issuer => Code::ApprovalInvalid,
        GrantError::Expired => Code::ApprovalExpired,
        GrantError::Mismatch => Code::ApprovalDigest,
    }
}
