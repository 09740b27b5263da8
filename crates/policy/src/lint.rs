//! What is odd about policies without being wrong: findings for whoever writes them.
//!
//! Cedar's validator runs here too, because it decides which of its warnings refuse a bundle and which are only
//! told. Not here: anything that changes a decision.

use cedar_policy::{
    ActionConstraint, Effect, Entities, EntityUid, PolicySet, PrincipalConstraint, ResourceConstraint,
    Schema, ValidationMode, ValidationWarning, Validator,
};
use countersign_proto::snapshot::PolicyBundle;

use crate::bundle::{self, NamedPolicy, PolicyError, explain};

/// Something a policy's author should look at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The policy's `@id`.
    pub policy: String,
    /// Which rule.
    pub rule: Rule,
    /// What to do about it.
    pub message: String,
}

/// The rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// No scope at all: looked at for every call.
    Unscoped,
    /// A `permit` for every agent, tool and argument.
    PermitsEverything,
    /// A `forbid` about age or level that nobody can lift.
    CannotBeMet,
    /// A `forbid` that asks for something its condition does not look at.
    AsksInVain,
    /// Waits for tools that are not there or not reviewed yet.
    Dormant,
    /// A `permit` that can never apply.
    NeverApplies,
    /// Names an agent, group, tool or upstream that is not there.
    UnknownName,
}

impl Finding {
    pub(crate) fn new(policy: &str, rule: Rule, message: String) -> Self {
        Self { policy: policy.to_owned(), rule, message }
    }
}

impl Rule {
    /// The rule's stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unscoped => "unscoped",
            Self::PermitsEverything => "permits-everything",
            Self::CannotBeMet => "cannot-be-met",
            Self::AsksInVain => "asks-in-vain",
            Self::Dormant => "dormant",
            Self::NeverApplies => "never-applies",
            Self::UnknownName => "unknown-name",
        }
    }
}

/// What can be said about a bundle without knowing any tool. [`crate::Pdp::findings`] says more.
///
/// # Errors
/// [`PolicyError`] if the text cannot be read as named policies.
pub fn lint(bundle: &PolicyBundle) -> Result<Vec<Finding>, PolicyError> {
    let mut findings = lint_policies(&bundle::parse(bundle)?);
    findings.sort();
    Ok(findings)
}

pub(crate) fn lint_policies(policies: &[NamedPolicy]) -> Vec<Finding> {
    policies.iter().flat_map(lint_policy).collect()
}

fn lint_policy(named: &NamedPolicy) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |rule, message: &str| findings.push(Finding::new(named.name(), rule, message.to_owned()));
    let text = named.policy.to_cedar().unwrap_or_default();
    let mentions_age = text.contains("attested_age");
    let mentions_level = mentions_age || text.contains("machine");
    let mentions_person = text.contains("person");
    match named.policy.effect() {
        Effect::Permit => {
            if named.is_global() && !named.policy.has_non_scope_constraint() {
                find(
                    Rule::PermitsEverything,
                    "permits every call of every agent: name agents or tools in its scope",
                );
            } else if named.is_global() {
                find(
                    Rule::Unscoped,
                    "is looked at for every call: name a principal, action or resource in its scope",
                );
            }
        }
        Effect::Forbid => {
            if named.is_global() {
                find(
                    Rule::Unscoped,
                    "is looked at for every call: name a principal, action or resource in its scope",
                );
            }
            let fresh = named.requirements.is_some_and(|asked| asked.fresh_attestation.is_some());
            let level = named.requirements.is_some_and(|asked| asked.acr.is_some());
            let approval = named.requirements.is_some_and(|asked| asked.approval);
            if mentions_age && !fresh {
                find(
                    Rule::CannotBeMet,
                    "looks at attested_age but lacks @requires(\"fresh_attestation\"): it only denies",
                );
            }
            if fresh && !mentions_level {
                find(Rule::AsksInVain, "asks for a fresh attestation but does not look at context.machine");
            }
            if approval && !mentions_person {
                find(Rule::AsksInVain, "asks for an approval but does not look at context.person.level");
            }
            if level && !mentions_level && !mentions_person {
                find(
                    Rule::AsksInVain,
                    "asks for a level but looks at neither context.machine nor context.person",
                );
            }
        }
    }
    findings
}

/// Strict validation by Cedar.
///
/// # Errors
/// [`PolicyError::Invalid`] for any error, for text made to be misread, and for a `forbid` that can never apply:
/// its author believes something to be forbidden. A `permit` that can never apply is a finding.
pub(crate) fn validate(policies: &[NamedPolicy], schema: &Schema) -> Result<Vec<Finding>, PolicyError> {
    let invalid = |id: &cedar_policy::PolicyId, error: &dyn std::error::Error| PolicyError::Invalid {
        policy: id.to_string(),
        message: explain(error),
    };
    let set = PolicySet::from_policies(policies.iter().map(|named| named.policy.clone()))
        .map_err(|error| PolicyError::Syntax { message: explain(&error) })?;
    let result = Validator::new(schema.clone()).validate(&set, ValidationMode::Strict);
    // Reported in the order of names: Cedar's own order is not stable.
    if let Some(error) = result.validation_errors().min_by_key(|error| error.policy_id().to_string()) {
        return Err(invalid(error.policy_id(), error));
    }
    let mut findings = Vec::new();
    let mut warnings: Vec<&ValidationWarning> = result.validation_warnings().collect();
    warnings.sort_by_key(|warning| warning.policy_id().to_string());
    for warning in warnings {
        let id = warning.policy_id();
        match warning {
            ValidationWarning::ImpossiblePolicy(_) | ValidationWarning::InvalidActionApplication(_) => {
                match set.policy(id).map(cedar_policy::Policy::effect) {
                    Some(Effect::Permit) => {
                        let message = "permits nothing: no call of any tool can meet it".to_owned();
                        findings.push(Finding::new(id.as_ref(), Rule::NeverApplies, message));
                    }
                    Some(Effect::Forbid) | None => return Err(invalid(id, warning)),
                }
            }
            // Characters that look like others; and whatever Cedar learns to warn about next.
            _ => return Err(invalid(id, warning)),
        }
    }
    Ok(findings)
}

/// Names in scopes that nothing answers to. Cedar takes any name there, so a misspelt one would never match.
pub(crate) fn unknown_names(policies: &[NamedPolicy], entities: &Entities) -> Vec<Finding> {
    let mut findings = Vec::new();
    for named in policies {
        let principal = match named.policy.principal_constraint() {
            PrincipalConstraint::Any | PrincipalConstraint::Is(_) => None,
            PrincipalConstraint::Eq(uid)
            | PrincipalConstraint::In(uid)
            | PrincipalConstraint::IsIn(_, uid) => Some(uid),
        };
        let resource = match named.policy.resource_constraint() {
            ResourceConstraint::Any | ResourceConstraint::Is(_) => None,
            ResourceConstraint::Eq(uid) | ResourceConstraint::In(uid) | ResourceConstraint::IsIn(_, uid) => {
                Some(uid)
            }
        };
        let action: Vec<EntityUid> = match named.policy.action_constraint() {
            ActionConstraint::Any => Vec::new(),
            ActionConstraint::Eq(uid) => vec![uid],
            ActionConstraint::In(uids) => uids,
        };
        for uid in principal.into_iter().chain(resource).chain(action) {
            if entities.get(&uid).is_none() {
                findings.push(Finding::new(
                    named.name(),
                    Rule::UnknownName,
                    format!("nothing is called {uid}"),
                ));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests;
