//! One decision, top to bottom: the tool's standing, the task, the budget, the approval, then policy.
//!
//! Whatever comes out has a record that names everything the answer came from.

use countersign_identity::GrantedApproval;
use countersign_identity::task::{self, TaskDenial};
use countersign_proto::call::Call;
use countersign_proto::digest::Sha256Digest;
use countersign_proto::id::{DecisionId, ToolName, UpstreamId};
use countersign_proto::oauth::Acr;
use countersign_proto::time::Timestamp;

use super::{Outcome, Pdp};
use crate::code::Code;
use crate::countersigned::Countersigned;
use crate::decision::{Decision, Occasion, Ruling, conclude};
use crate::facts::{Facts, proof_kind};
use crate::requirement::{SIGNED, raised};
use crate::situation::Situation;

/// How far ahead of us the attester's clock may be, in seconds.
const MAX_ATTESTATION_SKEW_SECS: i64 = 60;
/// What is left of a level once its quote is no longer current: the hardware key (DESIGN §4).
const WITHOUT_QUOTE: u8 = 2;
/// The highest person level a token can carry; the next is a signature over one call.
const HIGHEST_IN_TOKEN: u8 = 2;

/// What the gate knows about a call besides who makes it.
#[derive(Debug)]
pub struct CallState<'a> {
    /// Now.
    pub now: Timestamp,
    /// Calls already made under the task.
    pub calls_used: u64,
    /// The approval the call was presented with, verified and consumed.
    pub approval: Option<&'a GrantedApproval>,
    /// The tool as its server shows it now. The snapshot's own word is asked as well.
    pub tool: ToolStanding,
    /// A fresh id for this decision.
    pub decision_id: DecisionId,
    /// Fresh random bytes for its record.
    pub nonce: [u8; 16],
}

/// How a tool stands with its server right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolStanding {
    /// As it was reviewed.
    Pinned,
    /// Seen, not reviewed.
    Proposed,
    /// Not as it was reviewed.
    Changed,
    /// Not there.
    Unknown,
}

/// Why a call does not even reach policy, with more for the record.
struct Stopped {
    code: Code,
    detail: Option<String>,
}

impl From<Code> for Stopped {
    fn from(code: Code) -> Self {
        Self { code, detail: None }
    }
}

impl Pdp {
    /// Decides one call. The answer stays hidden until its record is durable: [`Decision::reveal`].
    pub fn decide(&self, who: &Countersigned, call: &Call, state: &CallState<'_>) -> Decision {
        let occasion =
            Occasion { decision_id: state.decision_id.clone(), now: state.now, nonce: state.nonce };
        // Canonical form and hash of all arguments: once, for the record, the approval and the permit.
        let digest = call.digest();
        let facts = Facts::default()
            .agent(who.agent())
            .machine(who.machine())
            .digested_call(call, &digest)
            .policy(self.revision, &self.digest);
        let facts = match state.approval {
            Some(approval) => facts.approval(approval.id()),
            None => facts,
        };

        let situation = match self.situation(who, call, &digest, state) {
            Ok(situation) => situation,
            Err(Stopped { code, detail }) => {
                return conclude(occasion, facts.explained(detail), Ruling::Deny(code));
            }
        };
        let judgement = self.judge(&situation, call);
        let facts = facts
            .situation(&situation)
            .determining(&judgement.determining)
            .errors(&judgement.errors)
            .explained(judgement.argument.map(|error| error.to_string()));
        let ruling = match judgement.outcome {
            Outcome::Permit => Ruling::Permit { call: digest, policy: self.digest },
            Outcome::Deny(code) => Ruling::Deny(code),
            Outcome::Challenge(needs) => match Ruling::challenge(needs) {
                Some(challenge) => challenge,
                None => Ruling::Deny(Code::PolicyDenied),
            },
        };
        conclude(occasion, facts, ruling)
    }

    /// Whether the tool belongs in what this agent is shown: its task names it, it is reviewed, and a `permit`
    /// could apply. Being shown a tool promises nothing.
    #[must_use]
    pub fn may_list(&self, who: &Countersigned, upstream: &UpstreamId, tool: &ToolName) -> bool {
        let task = who.agent().task();
        self.reaches(who, upstream)
            && task.tools.iter().any(|grant| grant.name == *tool)
            && self.could_permit(who.agent().agent(), upstream, tool)
    }

    /// Everything before policy; what is left is the situation to judge in.
    fn situation(
        &self,
        who: &Countersigned,
        call: &Call,
        digest: &Sha256Digest,
        state: &CallState<'_>,
    ) -> Result<Situation, Stopped> {
        match state.tool {
            ToolStanding::Pinned => {}
            ToolStanding::Proposed | ToolStanding::Unknown => return Err(Code::ToolUnknown.into()),
            ToolStanding::Changed => return Err(Code::ToolChanged.into()),
        }
        self.standing_tool(&call.upstream, &call.tool)?;

        let agent = who.agent();
        let task = agent.task();
        // Both were checked when the agent was authenticated, but a call may have waited since.
        if state.now.unix_secs() >= agent.claims().exp {
            return Err(Code::TokenExpired.into());
        }
        if task.expires_at.is_some_and(|end| state.now.unix_secs() >= end) {
            return Err(Code::TaskExpired.into());
        }
        if !self.reaches(who, &call.upstream) {
            return Err(Stopped {
                code: Code::TaskTool,
                detail: Some("the task does not reach this upstream".into()),
            });
        }
        task::covers(task, call).map_err(|denial| Stopped {
            code: match denial {
                TaskDenial::Tool => Code::TaskTool,
                TaskDenial::Argument { .. } => Code::TaskArgs,
            },
            detail: Some(denial.to_string()),
        })?;
        if state.calls_used >= task.max_calls {
            return Err(Code::TaskBudget.into());
        }
        let approved = match state.approval {
            Some(approval) => {
                self.check_approval(approval, who, digest, state.now)?;
                true
            }
            None => false,
        };

        let (env_level, attested_age_secs) = environment(who, state.now);
        let claimed = agent.claims().acr.person().min(HIGHEST_IN_TOKEN);
        let level = Acr::new(env_level, claimed).map_err(|_| Code::TokenInvalid)?;
        Ok(Situation {
            agent: agent.agent().clone(),
            machine: who.machine().id().clone(),
            level: if approved { raised(level, SIGNED) } else { level },
            attested_age_secs,
            agent_proof: proof_kind(agent),
            task: task.task.to_string(),
            purpose: task.purpose.clone(),
            calls_used: state.calls_used,
        })
    }

    /// Whether the task's resources include this upstream. A task that names none reaches none.
    fn reaches(&self, who: &Countersigned, upstream: &UpstreamId) -> bool {
        self.upstreams
            .get(upstream)
            .is_some_and(|upstream| who.agent().task().locations.contains(&upstream.resource))
    }

    /// An approval counts for the exact call, run, machine and policies it was given for (APR-01).
    fn check_approval(
        &self,
        approval: &GrantedApproval,
        who: &Countersigned,
        call: &Sha256Digest,
        now: Timestamp,
    ) -> Result<(), Stopped> {
        let stopped = |code, detail: &str| Err(Stopped { code, detail: Some(detail.to_owned()) });
        if !approval.call_digest().ct_eq(call) {
            return stopped(Code::ApprovalDigest, "the approval is for other arguments or another tool");
        }
        if approval.run() != who.agent().run() || approval.agent() != who.agent().agent() {
            return stopped(Code::ApprovalInvalid, "the approval is for another run");
        }
        if !approval.machine_jkt().ct_eq(&who.machine().thumbprint()) {
            return stopped(Code::ApprovalInvalid, "the approval is for another machine");
        }
        if !approval.policy().ct_eq(&self.digest) {
            return stopped(Code::ApprovalInvalid, "the approval was given under other policies");
        }
        if now >= approval.expires_at() {
            return stopped(Code::ApprovalExpired, "the approval ended before the call");
        }
        Ok(())
    }
}

/// The machine's level and the age of its attestation, as they are now and not as they were at issuance.
fn environment(who: &Countersigned, now: Timestamp) -> (u8, i64) {
    let env = &who.agent().claims().env;
    let level = env.lvl.min(env.min_lvl);
    let now = now.unix_secs();
    if env.att_time > now.saturating_add(MAX_ATTESTATION_SKEW_SECS) {
        // From the future: no attestation we can put an age to.
        return (level.min(WITHOUT_QUOTE), i64::MAX);
    }
    let age = now.saturating_sub(env.att_time).max(0);
    // A token never outlives its attestation; if one did, its quote would no longer count.
    (if now < env.att_exp { level } else { level.min(WITHOUT_QUOTE) }, age)
}

#[cfg(test)]
mod tests;
