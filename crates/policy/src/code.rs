//! Denial codes: the stable words that name why a call was refused.
//!
//! The same word stands in the reply, the log line and the record. Not here: what a refusal looks like on the
//! wire (the gateway's business) and any detail that would tell an outsider how policy is written.

use std::fmt;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $reason:literal;)+) => {
        /// Why a call was refused. Codes are never renamed or reused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = concat!("`", $code, "`: ", $reason, ".")] $variant,)+
        }

        impl Code {
            /// Every code there is, in the order of the walk.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The code as it travels and is recorded.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)+ }
            }

            /// One fixed sentence for whoever was refused: no detail, nothing taken from the request.
            #[must_use]
            pub const fn reason(self) -> &'static str {
                match self { $(Self::$variant => $reason,)+ }
            }

            /// Reads a code.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($code => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

codes! {
    TokenMissing = "token.missing", "an access token is required";
    TokenInvalid = "token.invalid", "the access token is not valid";
    TokenExpired = "token.expired", "the access token has expired";
    TokenAudience = "token.audience", "the access token is for another resource";
    PopMissing = "pop.missing", "a proof of possession is required";
    PopInvalid = "pop.invalid", "the proof of possession is not valid";
    PopReplayed = "pop.replayed", "the proof of possession was used before";
    PopNoMachine = "pop.no_machine", "a machine certificate is required";
    PopKeyNotAttested = "pop.key_not_attested", "the machine key is not attested";
    BindAgentKey = "bind.agent_key", "the token is bound to another agent key";
    BindMachineKey = "bind.machine_key", "the token is bound to another machine";
    MachineUnknown = "machine.unknown", "the machine is not enrolled";
    MachineRevoked = "machine.revoked", "the machine is revoked";
    MachineLocked = "machine.locked", "the machine is locked";
    MachineReattest = "machine.reattest", "the machine changed since it was attested";
    MachineCertExpired = "machine.cert_expired", "the machine certificate is not valid now";
    AgentUnknown = "agent.unknown", "the agent is not registered";
    AgentKilled = "agent.killed", "the agent was stopped";
    AgentSuspended = "agent.suspended", "the agent is suspended";
    RunRevoked = "run.revoked", "the run was stopped";
    TaskTool = "task.tool", "the task does not include this tool";
    TaskArgs = "task.args", "the task does not allow these arguments";
    TaskExpired = "task.expired", "the task has expired";
    TaskBudget = "task.budget", "the task has no calls left";
    TaskRevoked = "task.revoked", "the task was stopped";
    PolicyDenied = "policy.denied", "policy does not permit this call";
    PolicyError = "policy.error", "policy could not be evaluated";
    ToolUnknown = "tool.unknown", "the tool is not known or not yet reviewed";
    ToolChanged = "tool.changed", "the tool changed since it was reviewed";
    ToolArguments = "tool.arguments", "the arguments do not fit the tool's declared types";
    ApprovalDigest = "approval.digest", "the approval is for another call";
    ApprovalSpent = "approval.spent", "the approval was used before";
    ApprovalExpired = "approval.expired", "the approval has expired";
    ApprovalRefused = "approval.refused", "the approver said no";
    ApprovalInvalid = "approval.invalid", "the approval is not valid";
    SnapshotStale = "snapshot.stale", "the gateway has no current state";
    AuditUnavailable = "audit.unavailable", "the decision cannot be recorded";
    RpcMalformed = "rpc.malformed", "the request is malformed";
    RpcMethod = "rpc.method", "the method is not allowed";
    HttpHost = "http.host", "the host is not served here";
    HttpOrigin = "http.origin", "the origin is not allowed";
    HttpContentType = "http.content_type", "the content type is not supported";
    HttpEncoding = "http.encoding", "the content encoding is not supported";
    HttpTooLarge = "http.too_large", "the request is too large";
    HttpHeader = "http.header", "a header is missing, repeated or contradicts the body";
    UpstreamFailed = "upstream.failed", "the upstream could not be reached";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
