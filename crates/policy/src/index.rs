//! The scope index: which policies can matter for one principal, one action and one resource.
//!
//! Cedar's authorizer tries every policy of a set, one after the other. This picks, by scope alone, the few whose
//! scope matches; the others would be skipped by Cedar without evaluating their conditions, so neither the
//! decision nor the determining policies nor the errors change (kept by a property test over random sets).
//! Conditions are looked at for one thing only: whether they can see the arguments at all.

use std::collections::HashMap;

use cedar_policy::{
    ActionConstraint, Effect, EntityUid, Policy, PolicySet, PrincipalConstraint, ResourceConstraint,
};
use serde_json::Value as Json;

/// An entity with everything it is in.
#[derive(Clone, Debug)]
pub(crate) struct Lineage {
    pub(crate) uid: EntityUid,
    /// Every ancestor, without the entity itself.
    pub(crate) ancestors: Vec<EntityUid>,
}

impl Lineage {
    fn is_in(&self, uid: &EntityUid) -> bool {
        self.uid == *uid || self.ancestors.contains(uid)
    }
}

/// The policies whose scope matches, as a set of their own.
#[derive(Debug)]
pub(crate) struct Candidates {
    pub(crate) set: PolicySet,
    pub(crate) any_permit: bool,
    /// Whether what they say can depend on `context.args`.
    pub(crate) see_arguments: bool,
}

#[derive(Debug)]
struct Indexed {
    policy: Policy,
    sees_arguments: bool,
}

/// Where a policy's principal scope is looked up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    /// `principal` or `principal is T`: looked at for everybody.
    Anyone,
    /// `principal == e`.
    Exactly(EntityUid),
    /// `principal in e` or `principal is T in e`.
    Within(EntityUid),
}

/// Policies in buckets by principal scope.
#[derive(Debug)]
pub(crate) struct Index {
    buckets: Vec<Vec<Indexed>>,
    by_scope: HashMap<Key, BucketId>,
}

/// Which bucket, for as long as one index lives.
pub(crate) type BucketId = usize;

impl Index {
    /// Sorts policies into buckets.
    pub(crate) fn new(policies: Vec<Policy>) -> Self {
        let mut index = Self { buckets: Vec::new(), by_scope: HashMap::new() };
        for policy in policies {
            let key = match policy.principal_constraint() {
                PrincipalConstraint::Any | PrincipalConstraint::Is(_) => Key::Anyone,
                PrincipalConstraint::Eq(uid) => Key::Exactly(uid),
                PrincipalConstraint::In(uid) | PrincipalConstraint::IsIn(_, uid) => Key::Within(uid),
            };
            let id = *index.by_scope.entry(key).or_insert_with(|| {
                index.buckets.push(Vec::new());
                index.buckets.len() - 1
            });
            // What cannot be looked at is taken to see everything.
            let sees_arguments = policy.to_json().map_or(true, |policy| sees_arguments(&policy));
            index.buckets[id].push(Indexed { policy, sees_arguments });
        }
        index
    }

    /// The buckets that hold policies for this principal, in order.
    ///
    /// INVARIANT: principals of one type with equal answers have equal candidates for every action and resource.
    pub(crate) fn buckets_of(&self, principal: &Lineage) -> Vec<BucketId> {
        let within = principal.ancestors.iter().chain([&principal.uid]).map(|uid| Key::Within(uid.clone()));
        let mut found: Vec<BucketId> = within
            .chain([Key::Anyone, Key::Exactly(principal.uid.clone())])
            .filter_map(|key| self.by_scope.get(&key).copied())
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The policies whose whole scope matches. Nothing if two have one id; compiling has refused that before.
    pub(crate) fn candidates(
        &self,
        principal: &Lineage,
        action: &Lineage,
        resource: &Lineage,
    ) -> Option<Candidates> {
        let (mut any_permit, mut see_arguments) = (false, false);
        let in_reach = self.buckets_of(principal).into_iter().filter_map(|id| self.buckets.get(id)).flatten();
        let matching = in_reach.filter(|Indexed { policy, sees_arguments }| {
            let matches = principal_matches(&policy.principal_constraint(), principal)
                && action_matches(&policy.action_constraint(), action)
                && resource_matches(&policy.resource_constraint(), resource);
            any_permit |= matches && policy.effect() == Effect::Permit;
            see_arguments |= matches && *sees_arguments;
            matches
        });
        let set = PolicySet::from_policies(matching.map(|indexed| indexed.policy.clone())).ok()?;
        Some(Candidates { set, any_permit, see_arguments })
    }
}

/// Whether a policy in Cedar's JSON form could notice that `context.args` is empty: it uses `context` in any way
/// but `context.<another member>` or `context has <another member>`.
fn sees_arguments(node: &Json) -> bool {
    match node {
        Json::Object(members) => {
            let is_context = |node: &Json| node.get("Var").and_then(Json::as_str) == Some("context");
            let elsewhere = |operator: &str, operand: &Json| {
                let member = operand.get("attr").and_then(Json::as_str);
                matches!(operator, "." | "has")
                    && operand.get("left").is_some_and(is_context)
                    && member.is_some_and(|member| member != "args")
            };
            is_context(node)
                || members
                    .iter()
                    .any(|(operator, operand)| !elsewhere(operator, operand) && sees_arguments(operand))
        }
        Json::Array(items) => items.iter().any(sees_arguments),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => false,
    }
}

fn principal_matches(constraint: &PrincipalConstraint, principal: &Lineage) -> bool {
    match constraint {
        PrincipalConstraint::Any => true,
        PrincipalConstraint::Eq(uid) => principal.uid == *uid,
        PrincipalConstraint::In(uid) => principal.is_in(uid),
        PrincipalConstraint::Is(type_name) => principal.uid.type_name() == type_name,
        PrincipalConstraint::IsIn(type_name, uid) => {
            principal.uid.type_name() == type_name && principal.is_in(uid)
        }
    }
}

fn action_matches(constraint: &ActionConstraint, action: &Lineage) -> bool {
    match constraint {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(uid) => action.uid == *uid,
        ActionConstraint::In(uids) => uids.iter().any(|uid| action.is_in(uid)),
    }
}

fn resource_matches(constraint: &ResourceConstraint, resource: &Lineage) -> bool {
    match constraint {
        ResourceConstraint::Any => true,
        ResourceConstraint::Eq(uid) => resource.uid == *uid,
        ResourceConstraint::In(uid) => resource.is_in(uid),
        ResourceConstraint::Is(type_name) => resource.uid.type_name() == type_name,
        ResourceConstraint::IsIn(type_name, uid) => {
            resource.uid.type_name() == type_name && resource.is_in(uid)
        }
    }
}

#[cfg(test)]
mod tests;
