//! Every request that is put to Cedar fits the schema its policies were validated against: random tools, arguments
//! and situations, checked by Cedar as the hot path does not. Not here: what policy says to them.

use countersign_proto::id::{MachineId, PersonId};
use countersign_proto::json::{Value, from_serde};
use countersign_proto::oauth::Acr;
use countersign_proto::snapshot::{AgentState, ToolEntry};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;
use crate::situation::AgentProofKind;

/// Among them names that Cedar's JSON form gives a meaning.
const NAMES: [&str; 8] = ["a", "b", "args", "type", "__entity", "__extn", "x y", "é\n"];

/// What a tool declares, and a value that fits it.
fn declared() -> impl Strategy<Value = (Json, Json)> {
    let text = || "\\PC{0,8}";
    let leaf = prop_oneof![
        text().prop_map(|text| (json!({"type": "string"}), json!(text))),
        (-9_007_199_254_740_991_i64..=9_007_199_254_740_991)
            .prop_map(|int| (json!({"type": "integer"}), json!(int))),
        any::<i32>().prop_map(|int| (json!({"type": "number"}), json!(f64::from(int) / 16.0))),
        any::<i32>().prop_map(|int| (json!({"type": ["number"]}), json!(int))),
        any::<bool>().prop_map(|flag| (json!({"type": "boolean"}), json!(flag))),
        prop::collection::vec(text(), 0..4)
            .prop_map(|texts| (json!({"type": "array", "items": {"type": "string"}}), json!(texts))),
        Just((json!({"type": "array"}), json!([1, "x", null]))),
        Just((json!({"enum": ["low", "high"]}), json!("low"))),
        Just((json!({"type": ["string", "null"]}), json!(null))),
        Just((json!({"type": "null"}), json!(null))),
        Just((json!({"type": "object"}), json!({"x": {"y": 1}}))),
        Just((json!(true), json!([]))),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| object(inner.boxed()))
}

fn object(member: BoxedStrategy<(Json, Json)>) -> impl Strategy<Value = (Json, Json)> {
    let member = (member, any::<bool>(), any::<bool>());
    let members = prop::collection::btree_map(prop::sample::select(&NAMES[..]), member, 0..5);
    (members, any::<bool>()).prop_map(|(members, closed)| {
        let (mut properties, mut required, mut value) = (json!({}), Vec::new(), json!({}));
        for (name, ((schema, member), is_required, is_there)) in members {
            properties[name] = schema;
            if is_required {
                required.push(name);
            }
            if is_required || is_there {
                value[name] = member;
            }
        }
        if !closed {
            value["undeclared"] = json!([{}]);
        }
        let open = !closed;
        let schema = json!({
            "type": "object", "properties": properties, "required": required, "additionalProperties": open,
        });
        (schema, value)
    })
}

fn situation() -> impl Strategy<Value = Situation> {
    let levels = (0_u8..=4, 0_u8..=3);
    ("\\PC{0,8}", any::<i64>(), any::<u64>(), levels, any::<bool>()).prop_map(
        |(text, attested_age_secs, calls_used, (env, person), channel)| Situation {
            agent: AgentId::parse("bob").unwrap(),
            machine: MachineId::parse("m-1").unwrap(),
            level: Acr::new(env, person).unwrap(),
            attested_age_secs,
            agent_proof: if channel { AgentProofKind::Channel } else { AgentProofKind::Dpop },
            task: text.clone(),
            purpose: text,
            calls_used,
        },
    )
}

proptest! {
    #[test]
    fn every_request_fits_the_schema((schema, arguments) in object(declared().boxed()), situation in situation()) {
        let (upstream, name) = (UpstreamId::parse("tools").unwrap(), ToolName::parse("tool").unwrap());
        let input_schema = from_serde(&schema).unwrap();
        let Value::Object(arguments) = from_serde(&arguments).unwrap() else { panic!("an object") };
        let entry = ToolEntry { digest: Sha256Digest::of(b"tool"), state: ToolState::Pinned, input_schema };
        let tools = [(name.clone(), entry)].into();
        let upstreams = [(upstream.clone(), UpstreamEntry { resource: "https://gw.example".into(), tools })].into();
        let bob = AgentEntry {
            state: AgentState::Active,
            generation: 1,
            groups: vec!["builders".into()],
            sponsor: PersonId::parse("ada").unwrap(),
        };
        let bundle = PolicyBundle { revision: 1, cedar: String::new(), digest: Sha256Digest::of(b"") };
        let agents = [(situation.agent.clone(), bob)].into();
        let pdp = Pdp::compile(&bundle, &agents, &upstreams).unwrap();

        let (agent, tool) = (&pdp.agents[&situation.agent], &pdp.upstreams[&upstream].tools[&name]);
        let args = tool.arguments.map(&arguments).unwrap();
        let declared = [(schema::tool_id(&upstream, &name), Some(&tool.arguments))].into_iter();
        let schema = schema::compile(schema::schema_json(declared)).unwrap();
        let put = |context| {
            let (principal, action) = (agent.lineage.uid.clone(), tool.action.uid.clone());
            let request = Request::new(principal, action, tool.resource.uid.clone(), context, Some(&schema));
            request.map(drop).map_err(|error| error.to_string())
        };
        prop_assert_eq!(put(situation.context(args).unwrap()), Ok(()));
        // The check is one: what was not mapped does not fit.
        let stranger = cedar_policy::Context::empty();
        prop_assert!(put(stranger).is_err());
    }
}
