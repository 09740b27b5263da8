//! A call's arguments as Cedar sees them: mapped strictly by the type the tool declared.
//!
//! Read from the tool's reviewed `inputSchema` once, at compile time. This is not a JSON Schema validator: it
//! reads `type`, `properties`, `required`, `default`, `items.type`, `enum` and `additionalProperties`, because
//! those decide which Cedar type an argument has. What it cannot give a type stays invisible to policy; it is
//! still covered by the call digest, by the task's constraints and by the record.

use std::collections::BTreeMap;

use cedar_policy::RestrictedExpression;
use countersign_proto::json::{Object, Value};
use serde_json::{Value as Json, json};

/// More properties than this in one object, and the object is not shown to policy.
const MAX_PROPERTIES: usize = 256;
/// Objects nested deeper than this are not shown to policy.
const MAX_DEPTH: usize = 8;

/// An argument that does not have the type its tool declared. Names where, never what.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("argument {path} {problem}")]
pub struct ArgumentError {
    path: String,
    problem: &'static str,
}

impl ArgumentError {
    fn new(path: &Path<'_>, problem: &'static str) -> Self {
        Self { path: path.to_string(), problem }
    }
}

/// The declared type of one argument.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Shape {
    /// `string` → `String`.
    Text,
    /// `integer` → `Long`.
    Long,
    /// `number` → `decimal`, exactly or not at all.
    Decimal,
    /// `boolean` → `Bool`.
    Flag,
    /// `array` of `string` → `Set<String>`.
    Texts,
    /// `object` with properties → a record.
    Record(Record),
    /// Not visible to policy. The JSON type is still checked where one was declared.
    Unseen(Option<JsonType>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum JsonType {
    Array,
    Object,
    Null,
}

/// The declared members of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    fields: BTreeMap<String, Field>,
    /// `additionalProperties: false`: what is not declared is refused.
    closed: bool,
    required_count: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Field {
    shape: Shape,
    required: bool,
}

/// Where in the arguments we are, for a message that names the place and not the value.
enum Path<'a> {
    Root,
    Member(&'a Path<'a>, &'a str),
}

impl std::fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Root => f.write_str("$"),
            // `Debug` of a string escapes control characters: a hostile name cannot forge a log line.
            Self::Member(parent, name) => {
                write!(f, "{parent}[{:?}]", name.chars().take(64).collect::<String>())
            }
        }
    }
}

impl Record {
    /// What a tool declares about its arguments. A schema that is not an object schema declares nothing.
    pub(crate) fn of_input_schema(schema: &Value) -> Self {
        schema.as_object().map(|schema| Self::of(schema, 0)).unwrap_or_default()
    }

    fn of(schema: &Object, depth: usize) -> Self {
        let closed = schema.get("additionalProperties") == Some(&Value::Bool(false))
            && schema.get("patternProperties").is_none();
        let required: Vec<&str> = schema
            .get("required")
            .and_then(Value::as_list)
            .map(|names| names.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
            return Self { fields: BTreeMap::new(), closed, required_count: 0 };
        };
        if properties.len() > MAX_PROPERTIES {
            return Self::default();
        }
        let fields: BTreeMap<String, Field> = properties
            .iter()
            .map(|(name, property)| {
                // Tools list members with a `default` as required although callers may leave them out.
                let has_default =
                    property.as_object().is_some_and(|property| property.get("default").is_some());
                let required = required.contains(&name) && !has_default;
                (name.to_owned(), Field { shape: Shape::of(property, depth + 1), required })
            })
            .collect();
        let required_count = fields.values().filter(|field| field.required).count();
        Self { fields, closed, required_count }
    }

    /// The Cedar type, in Cedar's JSON schema form.
    pub(crate) fn cedar_type(&self) -> Json {
        let attributes: serde_json::Map<String, Json> = self
            .fields
            .iter()
            .filter_map(|(name, field)| {
                let mut cedar = field.shape.cedar_type()?;
                cedar["required"] = Json::Bool(field.required);
                Some((name.clone(), cedar))
            })
            .collect();
        json!({ "type": "Record", "attributes": attributes })
    }

    /// The arguments as a Cedar record of exactly the declared type.
    ///
    /// # Errors
    /// [`ArgumentError`] for a declared argument of another type, a required one that is missing, a number that
    /// Cedar cannot hold exactly, or an undeclared argument where the tool allows none.
    pub(crate) fn map(&self, arguments: &Object) -> Result<RestrictedExpression, ArgumentError> {
        self.map_at(arguments, &Path::Root)
    }

    fn map_at(&self, object: &Object, path: &Path<'_>) -> Result<RestrictedExpression, ArgumentError> {
        let mut members = Vec::with_capacity(self.fields.len().min(object.len()));
        let mut required_seen = 0;
        for (name, value) in object.iter() {
            let here = Path::Member(path, name);
            let Some(field) = self.fields.get(name) else {
                if self.closed {
                    return Err(ArgumentError::new(&here, "is not declared by the tool"));
                }
                continue;
            };
            required_seen += usize::from(field.required);
            if let Some(expression) = field.shape.map_at(value, &here)? {
                members.push((name.to_owned(), expression));
            }
        }
        // Names in an object are unique, so counting is enough; only the refusal needs the name.
        if required_seen < self.required_count {
            let missing =
                self.fields.iter().find(|(name, field)| field.required && object.get(name).is_none());
            let name = missing.map_or("", |(name, _)| name);
            return Err(ArgumentError::new(&Path::Member(path, name), "is required"));
        }
        RestrictedExpression::new_record(members)
            .map_err(|_| ArgumentError::new(path, "has a repeated member"))
    }
}

impl Shape {
    fn of(property: &Value, depth: usize) -> Self {
        let Some(schema) = property.as_object() else { return Self::Unseen(None) };
        match declared_type(schema) {
            Some("string") => Self::Text,
            Some("integer") => Self::Long,
            Some("number") => Self::Decimal,
            Some("boolean") => Self::Flag,
            Some("null") => Self::Unseen(Some(JsonType::Null)),
            Some("array") => {
                let items = schema.get("items").and_then(Value::as_object);
                match items.and_then(declared_type) {
                    Some("string") => Self::Texts,
                    Some(_) | None => Self::Unseen(Some(JsonType::Array)),
                }
            }
            Some("object") => {
                let record = Record::of(schema, depth);
                let shown = depth <= MAX_DEPTH && !record.fields.is_empty();
                if shown { Self::Record(record) } else { Self::Unseen(Some(JsonType::Object)) }
            }
            Some(_) | None => Self::Unseen(None),
        }
    }

    fn cedar_type(&self) -> Option<Json> {
        match self {
            Self::Text => Some(json!({ "type": "String" })),
            Self::Long => Some(json!({ "type": "Long" })),
            Self::Decimal => Some(json!({ "type": "Extension", "name": "decimal" })),
            Self::Flag => Some(json!({ "type": "Boolean" })),
            Self::Texts => Some(json!({ "type": "Set", "element": { "type": "String" } })),
            Self::Record(record) => Some(record.cedar_type()),
            Self::Unseen(_) => None,
        }
    }

    fn map_at(&self, value: &Value, path: &Path<'_>) -> Result<Option<RestrictedExpression>, ArgumentError> {
        let expression = match (self, value) {
            (Self::Text, Value::Text(text)) => RestrictedExpression::new_string(text.clone()),
            (Self::Text, _) => return Err(ArgumentError::new(path, "is not a string")),
            (Self::Long, Value::Int(number)) => RestrictedExpression::new_long(*number),
            (Self::Long, _) => return Err(ArgumentError::new(path, "is not an integer")),
            (Self::Decimal, Value::Int(_) | Value::Float(_)) => match exact_decimal(value) {
                Some(text) => RestrictedExpression::new_decimal(text),
                None => return Err(ArgumentError::new(path, "is not a number of at most 4 fraction digits")),
            },
            (Self::Decimal, _) => return Err(ArgumentError::new(path, "is not a number")),
            (Self::Flag, Value::Bool(flag)) => RestrictedExpression::new_bool(*flag),
            (Self::Flag, _) => return Err(ArgumentError::new(path, "is not a boolean")),
            (Self::Texts, Value::List(items)) => {
                let texts: Option<Vec<_>> = items.iter().map(Value::as_str).collect();
                let texts = texts.ok_or_else(|| ArgumentError::new(path, "is not a list of strings"))?;
                RestrictedExpression::new_set(
                    texts.into_iter().map(|text| RestrictedExpression::new_string(text.to_owned())),
                )
            }
            (Self::Texts, _) => return Err(ArgumentError::new(path, "is not a list")),
            (Self::Record(record), Value::Object(object)) => record.map_at(object, path)?,
            (Self::Record(_), _) => return Err(ArgumentError::new(path, "is not an object")),
            (Self::Unseen(Some(JsonType::Array)), Value::List(_))
            | (Self::Unseen(Some(JsonType::Object)), Value::Object(_))
            | (Self::Unseen(Some(JsonType::Null)), Value::Null)
            | (Self::Unseen(None), _) => return Ok(None),
            (Self::Unseen(Some(_)), _) => {
                return Err(ArgumentError::new(path, "has another type than declared"));
            }
        };
        Ok(Some(expression))
    }
}

/// The one JSON type a schema allows, if it says so. A union has no Cedar type.
fn declared_type(schema: &Object) -> Option<&str> {
    match schema.get("type") {
        Some(Value::Text(name)) => Some(name),
        Some(Value::List(names)) if names.len() == 1 => names[0].as_str(),
        Some(_) => None,
        // An enumeration of strings is a string even where the tool left `type` out.
        None => schema
            .get("enum")
            .and_then(Value::as_list)
            .filter(|allowed| !allowed.is_empty() && allowed.iter().all(|one| one.as_str().is_some()))
            .map(|_| "string"),
    }
}

/// The number as Cedar's `decimal`, or nothing if that would round.
///
/// Decided on the canonical spelling (RFC 8785 §3.2.2.3), which is also what is digested and sent upstream:
/// no exponent, at most four fraction digits, within ±922337203685477.5807.
fn exact_decimal(value: &Value) -> Option<String> {
    let text = String::from_utf8(value.to_jcs()).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole.strip_prefix('-').unwrap_or(whole)) || !digits(fraction) || fraction.len() > 4 {
        return None;
    }
    // Cedar keeps a decimal as an i64 count of ten-thousandths.
    let scaled: i64 = format!("{whole}{fraction:0<4}").parse().ok()?;
    (scaled != i64::MIN).then(|| format!("{whole}.{fraction}"))
}

#[cfg(test)]
mod tests;
