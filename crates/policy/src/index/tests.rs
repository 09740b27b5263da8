//! The index against the whole set: same decision, same determining policies, same errors.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::str::FromStr as _;

use cedar_policy::{Authorizer, Context, Entities, Entity, Request, RestrictedExpression};
use proptest::prelude::*;

use super::*;

const AGENTS: [&str; 4] = ["a0", "a1", "a2", "a3"];
const GROUPS: [&str; 3] = ["g0", "g1", "g2"];
const TOOLS: [(&str, &str); 4] = [("u0", "t0"), ("u0", "t1"), ("u1", "t0"), ("u1", "t1")];

fn uid(type_name: &str, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(type_name.parse().unwrap(), cedar_policy::EntityId::new(id))
}

fn tool(at: usize) -> Lineage {
    let (upstream, name) = TOOLS[at];
    Lineage { uid: uid("Tool", &format!("{upstream}/{name}")), ancestors: vec![uid("Upstream", upstream)] }
}

fn action(at: usize) -> Lineage {
    let (upstream, name) = TOOLS[at];
    Lineage { uid: uid("Action", &format!("{upstream}/{name}")), ancestors: vec![uid("Action", "call")] }
}

fn scope_of(
    variable: &'static str,
    type_name: &'static str,
    one: Vec<String>,
    group: Vec<String>,
) -> BoxedStrategy<String> {
    let anything: Vec<String> = one.iter().chain(&group).cloned().collect();
    let within = prop::sample::select(anything);
    prop_oneof![
        2 => Just(variable.to_owned()),
        3 => prop::sample::select(one).prop_map(move |uid| format!("{variable} == {uid}")),
        3 => within.clone().prop_map(move |uid| format!("{variable} in {uid}")),
        1 => Just(format!("{variable} is {type_name}")),
        1 => Just(format!("{variable} is Upstream")),
        2 => within.prop_map(move |uid| format!("{variable} is {type_name} in {uid}")),
    ]
    .boxed()
}

fn principal_scope() -> BoxedStrategy<String> {
    let agents = AGENTS.iter().chain(["nobody"].iter()).map(|id| format!("Agent::\"{id}\"")).collect();
    let groups = GROUPS.iter().map(|id| format!("AgentGroup::\"{id}\"")).collect();
    scope_of("principal", "Agent", agents, groups)
}

fn resource_scope() -> BoxedStrategy<String> {
    let tools = TOOLS.iter().map(|(upstream, name)| format!("Tool::\"{upstream}/{name}\"")).collect();
    let upstreams = ["u0", "u1", "u2"].iter().map(|id| format!("Upstream::\"{id}\"")).collect();
    scope_of("resource", "Tool", tools, upstreams)
}

fn action_scope() -> BoxedStrategy<String> {
    let mut names: Vec<String> = TOOLS.iter().map(|(u, t)| format!("Action::\"{u}/{t}\"")).collect();
    names.push("Action::\"call\"".into());
    let one = prop::sample::select(names.clone());
    prop_oneof![
        2 => Just("action".to_owned()),
        2 => one.clone().prop_map(|uid| format!("action == {uid}")),
        2 => one.prop_map(|uid| format!("action in {uid}")),
        2 => prop::sample::subsequence(names, 0..=3).prop_map(|uids| format!("action in [{}]", uids.join(", "))),
    ]
    .boxed()
}

fn condition() -> BoxedStrategy<String> {
    prop::sample::select(vec![
        "",
        "when { true }",
        "when { false }",
        "when { context.n > 3 }",
        "unless { context.n > 3 }",
        "when { context.missing == 1 }",
        "unless { context.missing == 1 }",
        "when { context.n + 9223372036854775807 > 0 }",
        "when { principal.sponsor == \"p1\" }",
        "when { resource in Upstream::\"u1\" }",
        "when { context has missing && context.missing }",
    ])
    .prop_map(str::to_owned)
    .boxed()
}

fn policy() -> BoxedStrategy<String> {
    (any::<bool>(), principal_scope(), action_scope(), resource_scope(), condition())
        .prop_map(|(permit, principal, action, resource, condition)| {
            let effect = if permit { "permit" } else { "forbid" };
            format!("{effect}({principal}, {action}, {resource}) {condition};")
        })
        .boxed()
}

/// Which groups each agent is in, and whether it has the attribute that a condition reads.
type World = Vec<(Vec<&'static str>, bool)>;

fn world() -> BoxedStrategy<World> {
    let one = (prop::sample::subsequence(GROUPS.to_vec(), 0..=3), any::<bool>());
    prop::collection::vec(one, AGENTS.len()).boxed()
}

fn agent(world: &World, at: usize) -> Lineage {
    let groups = world[at].0.iter().map(|id| uid("AgentGroup", id)).collect();
    Lineage { uid: uid("Agent", AGENTS[at]), ancestors: groups }
}

fn entities(world: &World) -> Entities {
    let plain = |lineage: Lineage, attributes: HashMap<String, RestrictedExpression>| {
        Entity::new(lineage.uid, attributes, lineage.ancestors.into_iter().collect()).unwrap()
    };
    let agents = (0..AGENTS.len()).map(|at| {
        let sponsor = RestrictedExpression::new_string(format!("p{at}"));
        let attributes =
            if world[at].1 { HashMap::from([("sponsor".to_owned(), sponsor)]) } else { HashMap::new() };
        plain(agent(world, at), attributes)
    });
    let tools =
        (0..TOOLS.len()).flat_map(|at| [plain(tool(at), HashMap::new()), plain(action(at), HashMap::new())]);
    let rest = GROUPS.iter().map(|id| Entity::new_no_attrs(uid("AgentGroup", id), HashSet::new()));
    Entities::from_entities(agents.chain(tools).chain(rest), None).unwrap()
}

fn outcome(set: &PolicySet, request: &Request, entities: &Entities) -> String {
    let response = Authorizer::new().is_authorized(request, set, entities);
    let reasons: BTreeSet<String> = response.diagnostics().reason().map(ToString::to_string).collect();
    let errors: BTreeSet<String> = response.diagnostics().errors().map(ToString::to_string).collect();
    format!("{:?} {reasons:?} {errors:?}", response.decision())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_candidates_decide_like_the_whole_set(
        texts in prop::collection::vec(policy(), 0..24),
        world in world(),
        n in 0_i64..8,
    ) {
        let whole = PolicySet::from_str(&texts.join("\n")).unwrap();
        let index = Index::new(whole.policies().cloned().collect());
        let entities = entities(&world);
        for agent_at in 0..AGENTS.len() {
            let agent = agent(&world, agent_at);
            for tool_at in 0..TOOLS.len() {
                let (action, resource) = (action(tool_at), tool(tool_at));
                let context = Context::from_pairs([("n".to_owned(), RestrictedExpression::new_long(n))]).unwrap();
                let request =
                    Request::new(agent.uid.clone(), action.uid.clone(), resource.uid.clone(), context, None).unwrap();
                let candidates = index.candidates(&agent, &action, &resource).unwrap();
                prop_assert_eq!(
                    outcome(&candidates.set, &request, &entities),
                    outcome(&whole, &request, &entities),
                    "{} {}\n{}", agent.uid, action.uid, texts.join("\n")
                );
                let permits = candidates.set.policies().any(|policy| policy.effect() == Effect::Permit);
                prop_assert_eq!(candidates.any_permit, permits);
            }
        }
    }

    #[test]
    fn agents_of_one_class_have_the_same_candidates(texts in prop::collection::vec(policy(), 0..24), world in world()) {
        let whole = PolicySet::from_str(&texts.join("\n")).unwrap();
        let index = Index::new(whole.policies().cloned().collect());
        let names = |agent: &Lineage, at: usize| -> BTreeSet<String> {
            let candidates = index.candidates(agent, &action(at), &tool(at)).unwrap();
            candidates.set.policies().map(|policy| policy.id().to_string()).collect()
        };
        for one in 0..AGENTS.len() {
            for other in 0..one {
                let (one, other) = (agent(&world, one), agent(&world, other));
                if index.buckets_of(&one) == index.buckets_of(&other) {
                    for at in 0..TOOLS.len() {
                        prop_assert_eq!(names(&one, at), names(&other, at));
                    }
                }
            }
        }
    }
}

#[test]
fn an_index_over_many_groups_looks_at_one_bucket() {
    let text: String = (0..500)
        .map(|at| {
            format!("permit(principal in AgentGroup::\"g{at}\", action, resource in Upstream::\"u0\");\n")
        })
        .collect();
    let index = Index::new(PolicySet::from_str(&text).unwrap().policies().cloned().collect());
    let agent = Lineage { uid: uid("Agent", "a"), ancestors: vec![uid("AgentGroup", "g7")] };
    assert_eq!(index.buckets_of(&agent).len(), 1);
    assert_eq!(index.candidates(&agent, &action(0), &tool(0)).unwrap().set.num_of_policies(), 1);
    assert_eq!(index.candidates(&agent, &action(2), &tool(2)).unwrap().set.num_of_policies(), 0);
}

#[test]
fn a_policy_is_a_candidate_exactly_where_its_scope_matches() {
    let agent = Lineage { uid: uid("Agent", "a0"), ancestors: vec![uid("AgentGroup", "g0")] };
    let check = |scope: &str, expected: bool| {
        let set = PolicySet::from_str(&format!("permit({scope});")).unwrap();
        let index = Index::new(set.policies().cloned().collect());
        let candidates = index.candidates(&agent, &action(0), &tool(0)).unwrap();
        assert_eq!((candidates.any_permit, candidates.set.is_empty()), (expected, !expected), "{scope}");
    };
    check("principal, action, resource", true);
    for (scope, expected) in [
        ("== Agent::\"a0\"", true),
        ("== Agent::\"a1\"", false),
        ("in Agent::\"a0\"", true),
        ("in AgentGroup::\"g0\"", true),
        ("in AgentGroup::\"g1\"", false),
        ("is Agent", true),
        ("is Tool", false),
        ("is Agent in AgentGroup::\"g0\"", true),
        ("is Agent in AgentGroup::\"g1\"", false),
        ("is Tool in AgentGroup::\"g0\"", false),
    ] {
        check(&format!("principal {scope}, action, resource"), expected);
    }
    for (scope, expected) in [
        ("== Tool::\"u0/t0\"", true),
        ("== Tool::\"u0/t1\"", false),
        ("in Upstream::\"u0\"", true),
        ("in Upstream::\"u1\"", false),
        ("is Tool", true),
        ("is Agent", false),
        ("is Tool in Upstream::\"u0\"", true),
        ("is Agent in Upstream::\"u0\"", false),
    ] {
        check(&format!("principal, action, resource {scope}"), expected);
    }
    for (scope, expected) in [
        ("== Action::\"u0/t0\"", true),
        ("== Action::\"u1/t0\"", false),
        ("in Action::\"call\"", true),
        ("in [Action::\"u1/t0\", Action::\"u0/t0\"]", true),
        ("in [Action::\"u1/t0\"]", false),
        ("in []", false),
    ] {
        check(&format!("principal, action {scope}, resource"), expected);
    }
}

#[test]
fn a_policy_sees_the_arguments_unless_it_only_looks_elsewhere() {
    let check = |condition: &str, expected: bool| {
        let cedar = format!("forbid(principal, action, resource) when {{ {condition} }};");
        let policy = Policy::parse(None, &cedar).unwrap();
        assert_eq!(sees_arguments(&policy.to_json().unwrap()), expected, "{condition}");
    };
    for blind in [
        "true",
        "context.machine.level > 2",
        "context[\"task\"].purpose like \"args*\"",
        "context has task && context.person.level == 1",
        "principal has args && resource.name == \"context.args\"",
        "{\"args\": 1}.args == 1 && context.proof.agent == \"dpop\"",
    ] {
        check(blind, false);
    }
    for seeing in [
        "context.args.amount > 5",
        "context[\"args\"].amount > 5",
        "context[\"\\u{61}rgs\"].amount > 5",
        "context has args",
        "context has args.amount",
        "(if true then context else context).args.amount > 5",
        "[context].contains(context)",
        "{\"left\": context}.left.args.x == 1",
        "{\".\": context, \"has\": context.args}[\"has\"].x == 1",
        "context == {\"machine\": 1}",
        "!(context.machine.level > 2 || context.args.force)",
    ] {
        check(seeing, true);
    }
    // `unless` is a condition too.
    let unless =
        Policy::parse(None, "permit(principal, action, resource) unless { context.args.x };").unwrap();
    assert!(sees_arguments(&unless.to_json().unwrap()));
}
