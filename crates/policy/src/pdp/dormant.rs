//! Policies about tools that are not there yet.
//!
//! An upstream that has not shown its tools has no actions, and what a tool declares counts only once it was
//! reviewed; Cedar refuses a policy that speaks of either. Policies are written before tools are reviewed, so those
//! that can apply to nothing but such tools are set aside and reported. That is safe in both directions: a call of
//! such a tool is refused before any policy is asked. An unknown tool of an upstream that *has* shown its tools
//! stays an error: it is a misspelt name.

use std::collections::HashMap;

use cedar_policy::{ActionConstraint, EntityUid};
use countersign_proto::id::{ToolName, UpstreamId};

use super::{Tool, Upstream};
use crate::bundle::NamedPolicy;
use crate::lint::{Finding, Rule};

/// Splits off the policies that cannot apply to any tool there is.
pub(super) fn set_aside(
    policies: Vec<NamedPolicy>,
    upstreams: &HashMap<UpstreamId, Upstream>,
) -> (Vec<NamedPolicy>, Vec<Finding>) {
    let nothing_reviewed =
        !upstreams.values().flat_map(|upstream| upstream.tools.values()).any(Tool::is_reviewed);
    let mut findings = Vec::new();
    let awake = policies
        .into_iter()
        .filter(|named| {
            let dormant = nothing_reviewed || waits(&named.policy.action_constraint(), upstreams);
            if dormant {
                let message = "applies only to tools that are not there or not reviewed yet".to_owned();
                findings.push(Finding::new(named.name(), Rule::Dormant, message));
            }
            !dormant
        })
        .collect();
    (awake, findings)
}

fn waits(constraint: &ActionConstraint, upstreams: &HashMap<UpstreamId, Upstream>) -> bool {
    let awaited = |uid: &EntityUid| {
        let named = uid.id().unescaped().split_once('/').and_then(|(upstream, tool)| {
            Some((UpstreamId::parse(upstream).ok()?, ToolName::parse(tool).ok()?))
        });
        named.and_then(|(upstream, tool)| Some((upstreams.get(&upstream)?, tool))).is_some_and(
            |(upstream, tool)| {
                upstream.tools.is_empty() || upstream.tools.get(&tool).is_some_and(|tool| !tool.is_reviewed())
            },
        )
    };
    match constraint {
        ActionConstraint::Any => false,
        ActionConstraint::Eq(uid) => awaited(uid),
        ActionConstraint::In(uids) => !uids.is_empty() && uids.iter().all(awaited),
    }
}
