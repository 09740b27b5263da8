//! The Cedar schema, made from the tools there are: what a policy may speak about.
//!
//! One action per tool, `Action::"<upstream>/<tool>"`, each in `Action::"call"`; its `context.args` has the types
//! the tool's reviewed `inputSchema` declares. Names come in as JSON values and never as Cedar text, so no name
//! can be more than a name. Not here: evaluation.

use cedar_policy::{EntityId, EntityTypeName, EntityUid, Schema};
use countersign_proto::id::{ToolName, UpstreamId};
use serde_json::{Map, Value as Json, json};

use crate::arguments::Record;
use crate::bundle::{PolicyError, explain};

/// The action every tool's action is in.
pub(crate) const CALL: &str = "call";

/// The Cedar entity types there are.
#[derive(Clone, Debug)]
pub(crate) struct Types {
    pub(crate) agent: EntityTypeName,
    pub(crate) agent_group: EntityTypeName,
    pub(crate) person: EntityTypeName,
    pub(crate) tool: EntityTypeName,
    pub(crate) upstream: EntityTypeName,
    pub(crate) action: EntityTypeName,
}

impl Types {
    /// The types, parsed.
    ///
    /// # Errors
    /// [`PolicyError::Schema`], which would mean that Cedar no longer takes these words as type names.
    pub(crate) fn new() -> Result<Self, PolicyError> {
        let parse = |name: &str| {
            name.parse()
                .map_err(|error: cedar_policy::ParseErrors| PolicyError::Schema { message: explain(&error) })
        };
        Ok(Self {
            agent: parse("Agent")?,
            agent_group: parse("AgentGroup")?,
            person: parse("Person")?,
            tool: parse("Tool")?,
            upstream: parse("Upstream")?,
            action: parse("Action")?,
        })
    }
}

/// An entity's name. Nothing in `id` is interpreted.
pub(crate) fn uid(type_name: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(type_name.clone(), EntityId::new(id))
}

/// `<upstream>/<tool>`: neither alphabet has a slash, so no two tools share a name.
pub(crate) fn tool_id(upstream: &UpstreamId, tool: &ToolName) -> String {
    format!("{upstream}/{tool}")
}

/// The schema as Cedar's JSON form, from tools by their `<upstream>/<tool>` name.
///
/// A tool without arguments here is one nobody has reviewed: its name exists, and nothing it declares counts.
/// Otherwise whoever runs a tool server could break every policy by declaring a tool.
pub(crate) fn schema_json<'a>(tools: impl Iterator<Item = (String, Option<&'a Record>)>) -> Json {
    let mut actions = Map::new();
    actions.insert(CALL.into(), json!({}));
    for (name, arguments) in tools {
        let declared = arguments.map_or_else(|| json!({ "memberOf": [{ "id": CALL }] }), action);
        actions.insert(name, declared);
    }
    json!({ "": {
        "entityTypes": {
            "Person": {},
            "Machine": {},
            "AgentGroup": {},
            "Agent": { "memberOfTypes": ["AgentGroup"], "shape": record(json!({
                "sponsor": { "type": "Entity", "name": "Person" },
            })) },
            "Upstream": {},
            "Tool": { "memberOfTypes": ["Upstream"], "shape": record(json!({ "name": { "type": "String" } })) },
        },
        "actions": actions,
    } })
}

fn action(arguments: &Record) -> Json {
    let text = || json!({ "type": "String" });
    let long = || json!({ "type": "Long" });
    json!({
        "memberOf": [{ "id": CALL }],
        "appliesTo": {
            "principalTypes": ["Agent"],
            "resourceTypes": ["Tool"],
            "context": record(json!({
                "machine": record(json!({ "id": text(), "level": long(), "attested_age": long() })),
                "proof": record(json!({ "agent": text(), "machine": text() })),
                "task": record(json!({ "id": text(), "purpose": text(), "calls_used": long() })),
                "person": record(json!({ "level": long() })),
                "args": arguments.cedar_type(),
            })),
        },
    })
}

fn record(attributes: Json) -> Json {
    json!({ "type": "Record", "attributes": attributes })
}

/// Makes the schema.
///
/// # Errors
/// [`PolicyError::Schema`] with Cedar's explanation.
pub(crate) fn compile(json: Json) -> Result<Schema, PolicyError> {
    Schema::from_json_value(json).map_err(|error| PolicyError::Schema { message: explain(&error) })
}
