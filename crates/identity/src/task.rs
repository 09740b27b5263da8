//! Tasks: one purpose, one boundary, one expiry, and exactly the tools and arguments they need.

use countersign_proto::call::Call;
use countersign_proto::id::{AgentId, ApprovalId, PersonId, TaskId};
use countersign_proto::json::Value;
use countersign_proto::time::Timestamp;
use countersign_proto::token::{Constraint, TaskDetails, TaskKind, ToolGrant};
use serde::{Deserialize, Serialize};

/// Bytes a purpose may have.
pub const MAX_PURPOSE_BYTES: usize = 1000;
/// Resources one task may reach.
pub const MAX_LOCATIONS: usize = 16;
/// Tools one task may call.
pub const MAX_TOOLS: usize = 256;
/// How long a task may last, in seconds (90 days).
pub const MAX_TASK_SECS: i64 = 90 * 24 * 3600;
/// Calls one task may make.
pub const MAX_CALLS: u64 = 1_000_000_000;

/// A task as a sponsor granted it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskGrant {
    /// Which.
    pub id: TaskId,
    /// The agent it was granted to.
    pub agent: AgentId,
    /// The person who granted it and on whose behalf the agent acts.
    pub sponsor: PersonId,
    /// What for, in the sponsor's words.
    pub purpose: String,
    /// The resources it may reach (token audiences).
    pub locations: Vec<String>,
    /// The tools it may call, and how.
    pub tools: Vec<ToolGrant>,
    /// How many calls in all.
    pub max_calls: u64,
    /// The approval of this task by a second person, if there was one: that makes person level 2.
    pub approval: Option<ApprovalId>,
    /// When it was granted.
    pub granted_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// When it was revoked, if it was.
    pub revoked_at: Option<Timestamp>,
}

/// Why a task cannot be granted like this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TaskError {
    /// No purpose, or a treatise.
    #[error("a task needs a purpose of at most 1000 bytes")]
    Purpose,
    /// No resource, or too many.
    #[error("a task reaches 1 to 16 resources")]
    Locations,
    /// No tool, or too many.
    #[error("a task calls 1 to 256 tools")]
    Tools,
    /// No call, or no bound.
    #[error("a task makes 1 to 1000000000 calls")]
    Calls,
    /// Over before it began, or without a foreseeable end.
    #[error("a task ends within 90 days")]
    Expiry,
}

/// Why a task does not cover a call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TaskDenial {
    /// The tool is not among the task's.
    #[error("the task does not cover this tool")]
    Tool,
    /// The tool is, but not with these arguments.
    #[error("the task does not cover this value of {argument:?}")]
    Argument {
        /// The first argument that is missing or not as it must be.
        argument: String,
    },
}

impl TaskGrant {
    /// Checks a grant before it is stored: whatever is granted has a purpose, a boundary and an end.
    ///
    /// # Errors
    /// [`TaskError`], the first rule it breaks.
    pub fn check(self) -> Result<Self, TaskError> {
        let lifetime_secs = self.expires_at.secs_since(self.granted_at);
        if self.purpose.trim().is_empty() || self.purpose.len() > MAX_PURPOSE_BYTES {
            Err(TaskError::Purpose)
        } else if !(1..=MAX_LOCATIONS).contains(&self.locations.len()) {
            Err(TaskError::Locations)
        } else if !(1..=MAX_TOOLS).contains(&self.tools.len()) {
            Err(TaskError::Tools)
        } else if !(1..=MAX_CALLS).contains(&self.max_calls) {
            Err(TaskError::Calls)
        } else if !(1..=MAX_TASK_SECS).contains(&lifetime_secs) {
            Err(TaskError::Expiry)
        } else {
            Ok(self)
        }
    }

    /// Whether anything may still be done under it.
    #[must_use]
    pub fn is_active(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && now < self.expires_at
    }

    /// Revokes the task; revoking twice keeps the first time.
    #[must_use]
    pub fn revoke(self, now: Timestamp) -> Self {
        Self { revoked_at: self.revoked_at.or(Some(now)), ..self }
    }

    /// The person level a token for it has: 1 by the sponsor's grant, 2 if a person approved this task.
    #[must_use]
    pub const fn person_level(&self) -> u8 {
        if self.approval.is_some() { 2 } else { 1 }
    }

    /// The task as a token carries it.
    #[must_use]
    pub fn details(&self) -> TaskDetails {
        TaskDetails {
            kind: TaskKind::Task,
            task: self.id.clone(),
            purpose: self.purpose.clone(),
            locations: self.locations.clone(),
            tools: self.tools.clone(),
            max_calls: self.max_calls,
            expires_at: Some(self.expires_at.unix_secs()),
            approval: self.approval.clone(),
        }
    }
}

/// Whether a task covers a call. Where a tool is granted several times, one grant must cover the whole call.
///
/// # Errors
/// [`TaskDenial`] naming what is not covered.
pub fn covers(task: &TaskDetails, call: &Call) -> Result<(), TaskDenial> {
    let mut denial = TaskDenial::Tool;
    for grant in task.tools.iter().filter(|grant| grant.name == call.tool) {
        match first_uncovered(grant, call) {
            None => return Ok(()),
            Some(argument) => denial = TaskDenial::Argument { argument: argument.to_owned() },
        }
    }
    Err(denial)
}

/// A constrained argument must be there: what a tool does without it is not for us to guess.
fn first_uncovered<'a>(grant: &'a ToolGrant, call: &Call) -> Option<&'a str> {
    grant
        .args
        .iter()
        .find(|(name, constraint)| !call.arguments.get(name).is_some_and(|value| admits(constraint, value)))
        .map(|(name, _)| name.as_str())
}

/// Whether a constraint admits a value.
#[must_use]
pub fn admits(constraint: &Constraint, value: &Value) -> bool {
    match constraint {
        Constraint::Eq(expected) => value == expected,
        Constraint::OneOf(expected) => expected.contains(value),
        Constraint::Prefix(prefix) => value.as_str().is_some_and(|text| has_prefix(text, prefix)),
        Constraint::Max(max) => value.as_i64().is_some_and(|int| int <= *max),
    }
}

/// A prefix is a boundary, not a puzzle: texts that climb back over it are not under it.
fn has_prefix(text: &str, prefix: &str) -> bool {
    text.starts_with(prefix) && !text.split(['/', '\\']).any(|segment| segment == "..")
}

/// Whether every call that `narrow` covers is covered by `wide` too.
#[must_use]
pub fn is_tool_subset(narrow: &ToolGrant, wide: &ToolGrant) -> bool {
    narrow.name == wide.name
        && wide
            .args
            .iter()
            .all(|(name, outer)| narrow.args.get(name).is_some_and(|inner| implies(inner, outer)))
}

/// Whether every value that `inner` admits is admitted by `outer`; where that cannot be told, it is not.
#[must_use]
pub fn implies(inner: &Constraint, outer: &Constraint) -> bool {
    match inner {
        Constraint::Eq(value) => admits(outer, value),
        Constraint::OneOf(values) => values.iter().all(|value| admits(outer, value)),
        Constraint::Prefix(narrow) => match outer {
            Constraint::Prefix(wide) => has_prefix(narrow, wide),
            Constraint::Eq(_) | Constraint::OneOf(_) | Constraint::Max(_) => false,
        },
        Constraint::Max(narrow) => match outer {
            Constraint::Max(wide) => narrow <= wide,
            Constraint::Eq(_) | Constraint::OneOf(_) | Constraint::Prefix(_) => false,
        },
    }
}

#[cfg(test)]
mod tests;
