//! The policies as written: Cedar text into named policies with understood annotations.
//!
//! Not here: whether they make sense for the tools there are (`schema`), and what they decide.

use std::collections::BTreeMap;
use std::str::FromStr as _;

use cedar_policy::{ActionConstraint, Effect, Policy, PolicySet, PrincipalConstraint, ResourceConstraint};
use countersign_proto::digest::Sha256Digest;
use countersign_proto::id::PolicyId;
use countersign_proto::snapshot::PolicyBundle;

use crate::requirement::Requirements;

mod growth;

/// The longest policy text that is taken on, in bytes.
pub const MAX_BUNDLE_BYTES: usize = 8 << 20;
/// The most policies that are taken on.
pub const MAX_POLICIES: usize = 20_000;

/// The annotations a policy may carry. Others are refused: a misspelt one would silently do nothing.
const ANNOTATIONS: [&str; 4] = ["id", "description", "requires", "max_age"];

/// Why a policy bundle does not become active. The old one stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The text is not the text its digest names.
    #[error("the bundle's digest does not match its text: fetch or publish it again")]
    Digest,
    /// Longer than [`MAX_BUNDLE_BYTES`] or more than [`MAX_POLICIES`].
    #[error(
        "the bundle is over the limit of {MAX_POLICIES} policies in {MAX_BUNDLE_BYTES} bytes: split or shorten it"
    )]
    TooLarge,
    /// Deeper than every part of Cedar can take on every thread.
    #[error("line {line}: {problem}")]
    Overgrown {
        /// The line of the text, counted from 1.
        line: usize,
        /// What is too much, and what to do.
        problem: &'static str,
    },
    /// Not Cedar.
    #[error("not valid Cedar: {message}")]
    Syntax {
        /// Cedar's explanation, with the place.
        message: String,
    },
    /// A policy nobody could name in a record.
    #[error("{which} has no valid @id: write @id(\"a-name\") of a-z, 0-9 and - before it")]
    Unnamed {
        /// Its position or its unusable name.
        which: String,
    },
    /// Two policies of one name.
    #[error("policy {policy}: a second policy has this @id: rename one")]
    Duplicate {
        /// The name.
        policy: String,
    },
    /// A template: nothing here links templates.
    #[error("policy {policy} is a template (?principal, ?resource): write it out")]
    Template {
        /// Its name or position.
        policy: String,
    },
    /// An annotation that cannot be followed.
    #[error("policy {policy}: {message}")]
    Annotation {
        /// The policy.
        policy: String,
        /// What is wrong and what to write.
        message: String,
    },
    /// The policy does not fit the tools, agents and context there are.
    #[error("policy {policy}: {message}: correct it, `countersign policy schema` shows what there is")]
    Invalid {
        /// The policy.
        policy: String,
        /// Cedar's explanation.
        message: String,
    },
    /// The schema made from the reviewed tools cannot be held by Cedar.
    #[error("the tools' declarations do not form a schema: {message}")]
    Schema {
        /// Cedar's explanation.
        message: String,
    },
}

/// A policy with its name and what would lift it.
#[derive(Clone, Debug)]
pub(crate) struct NamedPolicy {
    pub(crate) policy: Policy,
    /// Only a `forbid` has them.
    pub(crate) requirements: Option<Requirements>,
}

impl NamedPolicy {
    pub(crate) fn name(&self) -> &str {
        self.policy.id().as_ref()
    }

    /// Neither principal nor action nor resource in scope: looked at for every call.
    pub(crate) fn is_global(&self) -> bool {
        self.policy.principal_constraint() == PrincipalConstraint::Any
            && self.policy.action_constraint() == ActionConstraint::Any
            && self.policy.resource_constraint() == ResourceConstraint::Any
    }
}

/// Parses a bundle into policies in the order of their names.
///
/// # Errors
/// [`PolicyError`], which names the policy.
pub(crate) fn parse(bundle: &PolicyBundle) -> Result<Vec<NamedPolicy>, PolicyError> {
    if bundle.cedar.len() > MAX_BUNDLE_BYTES {
        return Err(PolicyError::TooLarge);
    }
    if !Sha256Digest::of(bundle.cedar.as_bytes()).ct_eq(&bundle.digest) {
        return Err(PolicyError::Digest);
    }
    // INVARIANT: Cedar sees no text that the scan has not bounded.
    growth::check(&bundle.cedar)
        .map_err(|found| PolicyError::Overgrown { line: found.line, problem: found.problem })?;
    let set = PolicySet::from_str(&bundle.cedar)
        .map_err(|error| PolicyError::Syntax { message: explain(&error) })?;
    if let Some(template) = set.templates().next() {
        let policy = template.annotation("id").unwrap_or_else(|| template.id().as_ref());
        return Err(PolicyError::Template { policy: policy.to_owned() });
    }
    let mut named = BTreeMap::new();
    for policy in set.policies() {
        let policy = name(policy)?;
        if named.len() == MAX_POLICIES {
            return Err(PolicyError::TooLarge);
        }
        if let Some(first) = named.insert(policy.name().to_owned(), policy) {
            return Err(PolicyError::Duplicate { policy: first.name().to_owned() });
        }
    }
    Ok(named.into_values().collect())
}

fn name(policy: &Policy) -> Result<NamedPolicy, PolicyError> {
    let id = match policy.annotation("id") {
        None => return Err(PolicyError::Unnamed { which: format!("the policy {}", position(policy)) }),
        Some(text) => PolicyId::parse(text)
            .map_err(|_| PolicyError::Unnamed { which: format!("the policy with @id({text:?})") })?,
    };
    let refused = |message: String| PolicyError::Annotation { policy: id.to_string(), message };
    if let Some((key, _)) = policy.annotations().find(|(key, _)| !ANNOTATIONS.contains(key)) {
        return Err(refused(format!("@{key} is not known; known are @{}", ANNOTATIONS.join(", @"))));
    }
    let requirements = match (policy.annotation("requires"), policy.effect()) {
        (Some(_), Effect::Permit) => {
            return Err(refused("@requires belongs on a forbid: a permit asks for nothing".into()));
        }
        (Some(requires), Effect::Forbid) => {
            Some(Requirements::parse(requires, policy.annotation("max_age")).map_err(refused)?)
        }
        (None, _) if policy.annotation("max_age").is_some() => {
            return Err(refused(
                "@max_age without @requires(\"fresh_attestation\") has no effect: remove it".into(),
            ));
        }
        (None, _) => None,
    };
    Ok(NamedPolicy { policy: policy.new_id(cedar_policy::PolicyId::new(id.as_str())), requirements })
}

/// Cedar numbers unnamed policies from 0; people count from 1.
fn position(policy: &Policy) -> String {
    let id: &str = policy.id().as_ref();
    let number = id.strip_prefix("policy").and_then(|number| number.parse::<u64>().ok());
    number.map_or_else(|| format!("{id:?}"), |number| format!("number {}", number + 1))
}

/// An error with its causes in one line.
pub(crate) fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests;
