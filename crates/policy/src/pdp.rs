//! The policy decision point: one compiled snapshot of policies, agents and tools, and what it says to a call.
//!
//! Compiled once per snapshot and never changed: a new snapshot is a new `Pdp`, so no decision mixes two. A
//! request builds its context and nothing else; entities are made at compile time and policy sets on first use.
//! Not here: how a decision is recorded and revealed (`decision`).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use cedar_policy::{
    Authorizer, Decision as CedarDecision, Entities, Entity, EntityUid, Request, RestrictedExpression, Schema,
};
use countersign_proto::call::Call;
use countersign_proto::digest::Sha256Digest;
use countersign_proto::id::{AgentId, ToolName, UpstreamId};
use countersign_proto::snapshot::{AgentEntry, PolicyBundle, ToolState, UpstreamEntry};
use quick_cache::sync::Cache;

use crate::arguments::{ArgumentError, Record};
use crate::bundle::{self, PolicyError};
use crate::code::Code;
use crate::index::{BucketId, Candidates, Index, Lineage};
use crate::lint::Finding;
use crate::requirement::{Needs, Requirements};
use crate::schema::{self, Types};
use crate::situation::Situation;

mod decide;
mod dormant;

pub use decide::{CallState, ToolStanding};

/// Candidate sets kept at once. One is a few policies for one class of agents and one tool.
const MAX_CANDIDATE_SETS: usize = 16_384;

/// A compiled snapshot part: asks Cedar, answers with a [`crate::Decision`].
pub struct Pdp {
    revision: u64,
    digest: Sha256Digest,
    agents: HashMap<AgentId, Agent>,
    upstreams: HashMap<UpstreamId, Upstream>,
    /// What a `forbid` asks for, by policy name.
    requirements: HashMap<String, Requirements>,
    findings: Vec<Finding>,
    entities: Entities,
    index: Index,
    candidates: Cache<(ClassId, ToolId), Arc<Candidates>>,
    authorizer: Authorizer,
}

/// Agents that the same policies can apply to.
type ClassId = usize;
type ToolId = usize;

struct Agent {
    lineage: Lineage,
    class: ClassId,
}

struct Upstream {
    resource: String,
    tools: HashMap<ToolName, Tool>,
}

struct Tool {
    id: ToolId,
    state: ToolState,
    arguments: Record,
    action: Lineage,
    resource: Lineage,
}

impl Tool {
    /// Whether its declaration is one that somebody reviewed. A changed tool's entry still holds that one.
    const fn is_reviewed(&self) -> bool {
        match self.state {
            ToolState::Pinned | ToolState::Changed => true,
            ToolState::Proposed => false,
        }
    }
}

/// What policy says in a situation that may be made up. It permits nothing by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The answer.
    pub outcome: Outcome,
    /// The policies that made it, by name, sorted. Empty where no policy permits.
    pub determining: Vec<String>,
    /// The policies that could not be evaluated, by name, sorted. Any at all denies.
    pub errors: Vec<String>,
    /// The argument that does not fit, where that is the reason.
    pub argument: Option<ArgumentError>,
}

/// Yes, no, or not yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Permitted.
    Permit,
    /// Denied, and nothing the caller can do about the situation changes that.
    Deny(Code),
    /// Denied now; permitted once all of these are met. Never empty.
    Challenge(Vec<Needs>),
}

impl Judgement {
    fn deny(code: Code) -> Self {
        Self { outcome: Outcome::Deny(code), determining: Vec::new(), errors: Vec::new(), argument: None }
    }
}

impl Pdp {
    /// Compiles policies against the agents and tools there are.
    ///
    /// # Errors
    /// [`PolicyError`] naming the policy and what to do about it. The caller keeps what it had before.
    pub fn compile(
        bundle: &PolicyBundle,
        agents: &BTreeMap<AgentId, AgentEntry>,
        upstreams: &BTreeMap<UpstreamId, UpstreamEntry>,
    ) -> Result<Self, PolicyError> {
        let types = Types::new()?;
        let policies = bundle::parse(bundle)?;
        let upstreams_compiled = compile_upstreams(upstreams, &types);
        let tools = || {
            upstreams_compiled.iter().flat_map(|(id, upstream)| {
                upstream.tools.iter().map(move |(name, tool)| {
                    (schema::tool_id(id, name), tool.is_reviewed().then_some(&tool.arguments))
                })
            })
        };
        let schema = schema::compile(schema::schema_json(tools()))?;

        let mut findings = crate::lint::lint_policies(&policies);
        let (policies, dormant) = dormant::set_aside(policies, &upstreams_compiled);
        findings.extend(dormant);
        findings.extend(crate::lint::validate(&policies, &schema)?);

        let lineages: Vec<(AgentId, &AgentEntry, Lineage)> =
            agents.iter().map(|(id, entry)| (id.clone(), entry, agent_lineage(&types, id, entry))).collect();
        let entities = entities(&types, &lineages, &upstreams_compiled, &schema)?;
        findings.extend(crate::lint::unknown_names(&policies, &entities));
        findings.sort();

        let requirements = policies
            .iter()
            .filter_map(|named| Some((named.name().to_owned(), named.requirements?)))
            .collect();
        let index = Index::new(policies.into_iter().map(|named| named.policy).collect());
        let agents = classify(lineages, &index);
        Ok(Self {
            revision: bundle.revision,
            digest: bundle.digest,
            agents,
            upstreams: upstreams_compiled,
            requirements,
            findings,
            entities,
            index,
            candidates: Cache::new(MAX_CANDIDATE_SETS),
            authorizer: Authorizer::new(),
        })
    }

    /// The bundle's revision and digest: what every record cites.
    #[must_use]
    pub fn policy(&self) -> (u64, Sha256Digest) {
        (self.revision, self.digest)
    }

    /// What compiling noticed and did not refuse.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// What policy says to `call` in `situation`: standing of the tool, then arguments, then Cedar.
    ///
    /// For explanations and policy tests as well as for real calls; a [`crate::Permit`] comes only from
    /// [`Pdp::decide`].
    #[must_use]
    pub fn judge(&self, situation: &Situation, call: &Call) -> Judgement {
        let tool = match self.standing_tool(&call.upstream, &call.tool) {
            Ok(tool) => tool,
            Err(code) => return Judgement::deny(code),
        };
        let Some(agent) = self.agents.get(&situation.agent) else {
            return Judgement::deny(Code::AgentUnknown);
        };
        let args = match tool.arguments.map(&call.arguments) {
            Ok(args) => args,
            Err(error) => {
                return Judgement { argument: Some(error), ..Judgement::deny(Code::ToolArguments) };
            }
        };
        let Some(candidates) = self.candidates(agent, tool) else {
            return Judgement::deny(Code::PolicyError);
        };
        // Checked in any case; handed to Cedar only where a policy looks.
        let args =
            if candidates.see_arguments { Some(args) } else { RestrictedExpression::new_record([]).ok() };
        let Some(args) = args else { return Judgement::deny(Code::PolicyError) };
        let Some(answer) = self.ask(agent, tool, &candidates, situation, args.clone()) else {
            return Judgement::deny(Code::PolicyError);
        };
        let outcome = match &answer {
            // A policy that errors denies, also when it was a `forbid` that Cedar would skip.
            Answer { errors, .. } if !errors.is_empty() => Outcome::Deny(Code::PolicyError),
            Answer { decision: CedarDecision::Allow, .. } => Outcome::Permit,
            Answer { decision: CedarDecision::Deny, determining, .. } => self
                .what_would_help(determining)
                .filter(|met| {
                    let then = self.ask(agent, tool, &candidates, &situation.assuming(met), args);
                    then.is_some_and(|then| then.decision == CedarDecision::Allow && then.errors.is_empty())
                })
                .map(|met| met.needs(situation.level))
                .filter(|needs| !needs.is_empty())
                .map_or(Outcome::Deny(Code::PolicyDenied), Outcome::Challenge),
        };
        Judgement { outcome, determining: answer.determining, errors: answer.errors, argument: None }
    }

    /// Whether `tool` belongs in what this agent is shown: reviewed, and at least one `permit` could apply.
    #[must_use]
    pub fn could_permit(&self, agent: &AgentId, upstream: &UpstreamId, tool: &ToolName) -> bool {
        let (Ok(tool), Some(agent)) = (self.standing_tool(upstream, tool), self.agents.get(agent)) else {
            return false;
        };
        self.candidates(agent, tool).is_some_and(|candidates| candidates.any_permit)
    }

    fn standing_tool(&self, upstream: &UpstreamId, tool: &ToolName) -> Result<&Tool, Code> {
        let tool = self.upstreams.get(upstream).and_then(|upstream| upstream.tools.get(tool));
        let tool = tool.ok_or(Code::ToolUnknown)?;
        match tool.state {
            ToolState::Pinned => Ok(tool),
            ToolState::Proposed => Err(Code::ToolUnknown),
            ToolState::Changed => Err(Code::ToolChanged),
        }
    }

    /// The requirements of all deciding forbids together; nothing if one of them cannot be lifted, or if there is
    /// none: where no policy permits, nothing the caller does helps.
    fn what_would_help(&self, determining: &[String]) -> Option<Requirements> {
        let mut all = determining.iter().map(|name| self.requirements.get(name).copied());
        let first = all.next()??;
        all.try_fold(first, |sum, one| Some(sum.and(one?)))
    }

    fn candidates(&self, agent: &Agent, tool: &Tool) -> Option<Arc<Candidates>> {
        self.candidates
            .get_or_insert_with(&(agent.class, tool.id), || {
                self.index.candidates(&agent.lineage, &tool.action, &tool.resource).map(Arc::new).ok_or(())
            })
            .ok()
    }

    /// One evaluation by Cedar; nothing if the request could not even be put.
    fn ask(
        &self,
        agent: &Agent,
        tool: &Tool,
        candidates: &Candidates,
        situation: &Situation,
        args: RestrictedExpression,
    ) -> Option<Answer> {
        let context = situation.context(args)?;
        // Validated policies are sound only for requests that fit the schema. Every one does, because its names and
        // types are those the schema was made of; a property test holds it to that, so not every call pays for it.
        // Arguments that no candidate can see are left out.
        let request = Request::new(
            agent.lineage.uid.clone(),
            tool.action.uid.clone(),
            tool.resource.uid.clone(),
            context,
            None,
        )
        .ok()?;
        let response = self.authorizer.is_authorized(&request, &candidates.set, &self.entities);
        let mut determining: Vec<String> = response.diagnostics().reason().map(ToString::to_string).collect();
        determining.sort_unstable();
        let mut errors: Vec<String> = response.diagnostics().errors().map(errored_policy).collect();
        errors.sort_unstable();
        Some(Answer { decision: response.decision(), determining, errors })
    }
}

struct Answer {
    decision: CedarDecision,
    determining: Vec<String>,
    errors: Vec<String>,
}

fn errored_policy(error: &cedar_policy::AuthorizationError) -> String {
    match error {
        cedar_policy::AuthorizationError::PolicyEvaluationError(inner) => inner.policy_id().to_string(),
    }
}

fn compile_upstreams(
    upstreams: &BTreeMap<UpstreamId, UpstreamEntry>,
    types: &Types,
) -> HashMap<UpstreamId, Upstream> {
    let call = schema::uid(&types.action, schema::CALL);
    let mut next_id = 0;
    let mut tool = |upstream: &UpstreamId,
                    name: &ToolName,
                    entry: &countersign_proto::snapshot::ToolEntry| {
        let full_name = schema::tool_id(upstream, name);
        next_id += 1;
        Tool {
            id: next_id,
            state: entry.state,
            arguments: Record::of_input_schema(&entry.input_schema),
            action: Lineage { uid: schema::uid(&types.action, &full_name), ancestors: vec![call.clone()] },
            resource: Lineage {
                uid: schema::uid(&types.tool, &full_name),
                ancestors: vec![schema::uid(&types.upstream, upstream.as_str())],
            },
        }
    };
    upstreams
        .iter()
        .map(|(id, entry)| {
            let tools =
                entry.tools.iter().map(|(name, entry)| (name.clone(), tool(id, name, entry))).collect();
            (id.clone(), Upstream { resource: entry.resource.clone(), tools })
        })
        .collect()
}

fn agent_lineage(types: &Types, id: &AgentId, entry: &AgentEntry) -> Lineage {
    let groups: HashSet<&str> = entry.groups.iter().map(String::as_str).collect();
    Lineage {
        uid: schema::uid(&types.agent, id.as_str()),
        ancestors: groups.into_iter().map(|group| schema::uid(&types.agent_group, group)).collect(),
    }
}

/// All entities there are, with their ancestors computed: shared by every request of this snapshot.
fn entities(
    types: &Types,
    agents: &[(AgentId, &AgentEntry, Lineage)],
    upstreams: &HashMap<UpstreamId, Upstream>,
    schema: &Schema,
) -> Result<Entities, PolicyError> {
    let failed = |error: &dyn std::error::Error| PolicyError::Schema { message: bundle::explain(error) };
    let mut all = Vec::new();
    let mut plain: HashSet<EntityUid> = HashSet::new();
    for (_, entry, lineage) in agents {
        let sponsor = schema::uid(&types.person, entry.sponsor.as_str());
        let attributes =
            HashMap::from([("sponsor".to_owned(), RestrictedExpression::new_entity_uid(sponsor.clone()))]);
        plain.insert(sponsor);
        plain.extend(lineage.ancestors.iter().cloned());
        let parents = lineage.ancestors.iter().cloned().collect();
        all.push(Entity::new(lineage.uid.clone(), attributes, parents).map_err(|error| failed(&error))?);
    }
    for (id, upstream) in upstreams {
        plain.insert(schema::uid(&types.upstream, id.as_str()));
        for (name, tool) in &upstream.tools {
            let attributes = HashMap::from([(
                "name".to_owned(),
                RestrictedExpression::new_string(name.as_str().to_owned()),
            )]);
            let parents = tool.resource.ancestors.iter().cloned().collect();
            all.push(
                Entity::new(tool.resource.uid.clone(), attributes, parents)
                    .map_err(|error| failed(&error))?,
            );
        }
    }
    all.extend(plain.into_iter().map(|uid| Entity::new_no_attrs(uid, HashSet::new())));
    Entities::from_entities(all, Some(schema)).map_err(|error| failed(&error))
}

fn classify(lineages: Vec<(AgentId, &AgentEntry, Lineage)>, index: &Index) -> HashMap<AgentId, Agent> {
    let mut classes: HashMap<Vec<BucketId>, ClassId> = HashMap::new();
    lineages
        .into_iter()
        .map(|(id, _, lineage)| {
            let next = classes.len();
            let class = *classes.entry(index.buckets_of(&lineage)).or_insert(next);
            (id, Agent { lineage, class })
        })
        .collect()
}

#[cfg(test)]
mod fits;
#[cfg(test)]
mod tests;
