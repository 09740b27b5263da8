//! What a person is shown of a call: every argument as a row, nothing hidden, nothing interpreted.
//!
//! Made from the canonical call alone, so that the same call always looks the same; the hash of it is part of what
//! the passkey signs. Characters that a screen would swallow or reorder are spelled out.

use countersign_proto::call::Call;
use countersign_proto::digest::Sha256Digest;
use countersign_proto::json::{Object, Value};

/// Separates this rendering from any later one in what is signed.
const DOMAIN: &str = "countersign/view/v1";

/// A call as a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallView {
    /// The tool server.
    pub upstream: String,
    /// The tool.
    pub tool: String,
    /// One row per scalar or empty container, in canonical order.
    pub rows: Vec<CallRow>,
    /// The whole call in canonical JSON, for those who want the bytes.
    pub raw: Vec<Segment>,
}

/// One argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallRow {
    /// Where it is: `issue.labels[0]`; unusual member names are quoted.
    pub path: Vec<Segment>,
    /// `text`, `number`, `true or false`, `empty` …
    pub kind: &'static str,
    /// The value, spelled out.
    pub value: Vec<Segment>,
    /// What a careful reader should know about the value.
    pub note: Option<&'static str>,
    /// The value in canonical JSON: what the hash covers.
    json: String,
}

/// A piece of text that is either shown as it is or stands for a character that cannot be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// What to show.
    pub text: String,
    /// Whether `text` is our spelling (`U+202E`) of a character.
    pub spelled: bool,
}

impl CallView {
    /// The view of a call.
    #[must_use]
    pub fn of(call: &Call) -> Self {
        let mut rows = Vec::new();
        if call.arguments.is_empty() {
            rows.push(row("", &Value::Object(Object::new())));
        } else {
            object_rows("", &call.arguments, &mut rows);
        }
        Self {
            upstream: call.upstream.as_str().to_owned(),
            tool: call.tool.as_str().to_owned(),
            rows,
            raw: visible(&String::from_utf8_lossy(&call.to_jcs())),
        }
    }

    /// SHA-256 over the canonical JSON of the domain, the tool and every row as `[path, kind, value in JSON]`.
    #[must_use]
    pub fn hash(&self) -> Sha256Digest {
        let text = |text: &str| Value::Text(text.to_owned());
        let rows = self.rows.iter().map(|row| {
            let path: String = row.path.iter().map(|segment| segment.text.as_str()).collect();
            Value::List(vec![Value::Text(path), text(row.kind), text(&row.json)])
        });
        let whole = Value::List(vec![
            text(DOMAIN),
            text(&self.upstream),
            text(&self.tool),
            Value::List(rows.collect()),
        ]);
        Sha256Digest::of(&whole.to_jcs())
    }
}

fn object_rows(path: &str, object: &Object, rows: &mut Vec<CallRow>) {
    let mut members: Vec<(&str, &Value)> = object.iter().collect();
    // The order of canonical JSON (RFC 8785 §3.2.3), so that the order an agent wrote is not seen either.
    members.sort_by(|(left, _), (right, _)| left.encode_utf16().cmp(right.encode_utf16()));
    for (name, value) in members {
        let plain = !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
        let step = match (plain, path.is_empty()) {
            (true, true) => name.to_owned(),
            (true, false) => format!("{path}.{name}"),
            (false, _) => {
                let quoted = Value::Text(name.to_owned()).to_jcs();
                format!("{path}[{}]", String::from_utf8_lossy(&quoted))
            }
        };
        value_rows(&step, value, rows);
    }
}

fn value_rows(path: &str, value: &Value, rows: &mut Vec<CallRow>) {
    match value {
        Value::Object(object) if !object.is_empty() => object_rows(path, object, rows),
        Value::List(list) if !list.is_empty() => {
            for (index, element) in list.iter().enumerate() {
                value_rows(&format!("{path}[{index}]"), element, rows);
            }
        }
        Value::Object(_)
        | Value::List(_)
        | Value::Null
        | Value::Bool(_)
        | Value::Int(_)
        | Value::Float(_)
        | Value::Text(_) => rows.push(row(path, value)),
    }
}

fn row(path: &str, value: &Value) -> CallRow {
    let json = String::from_utf8_lossy(&value.to_jcs()).into_owned();
    let (kind, shown, note) = match value {
        Value::Text(text) if text.is_empty() => ("text", String::new(), Some("empty text")),
        Value::Text(text) => ("text", text.clone(), note(text)),
        Value::Int(_) | Value::Float(_) => ("number", json.clone(), None),
        Value::Bool(_) => ("true or false", json.clone(), None),
        Value::Null => ("null", json.clone(), None),
        Value::List(_) => ("list", String::new(), Some("empty list")),
        Value::Object(_) => {
            ("object", String::new(), Some(if path.is_empty() { "no arguments" } else { "empty object" }))
        }
    };
    CallRow { path: visible(path), kind, value: visible(&shown), note, json }
}

fn note(text: &str) -> Option<&'static str> {
    if text.chars().any(|character| !matches!(character, '\n' | '\t') && unseen(character)) {
        Some("contains invisible or reordering characters, spelled out here")
    } else if !text.is_ascii() {
        Some("contains characters outside ASCII; some look like others")
    } else if text.starts_with(' ') || text.ends_with(' ') {
        Some("begins or ends with a space")
    } else {
        None
    }
}

/// Splits text so that nothing in it can hide or move its neighbours.
#[must_use]
pub fn visible(text: &str) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::new();
    for character in text.chars() {
        match character {
            '\n' => {
                segments.push(Segment { text: "\u{21b5}".to_owned(), spelled: true });
                plain(&mut segments, '\n');
            }
            '\t' => segments.push(Segment { text: "\u{21e5}".to_owned(), spelled: true }),
            _ if unseen(character) => {
                segments.push(Segment { text: format!("U+{:04X}", u32::from(character)), spelled: true });
            }
            _ => plain(&mut segments, character),
        }
    }
    segments
}

fn plain(segments: &mut Vec<Segment>, character: char) {
    match segments.last_mut() {
        Some(last) if !last.spelled => last.text.push(character),
        _ => segments.push(Segment { text: character.to_string(), spelled: false }),
    }
}

/// Controls, format and bidirectional characters, blanks other than the space, selectors, private use.
fn unseen(character: char) -> bool {
    matches!(u32::from(character),
        0x00..=0x1f | 0x7f..=0xa0 | 0xad | 0x34f | 0x600..=0x605 | 0x61c | 0x6dd | 0x70f | 0x890..=0x891 | 0x8e2
        | 0x115f..=0x1160 | 0x1680 | 0x17b4..=0x17b5 | 0x180b..=0x180f | 0x2000..=0x200f | 0x2028..=0x202f
        | 0x205f..=0x206f | 0x2800 | 0x3000 | 0x3164 | 0xe000..=0xf8ff | 0xfe00..=0xfe0f | 0xfeff | 0xffa0
        | 0xfff0..=0xfffb | 0xfffe..=0xffff | 0x110bd | 0x110cd | 0x13430..=0x1345f | 0x1bca0..=0x1bca3
        | 0x1d159 | 0x1d173..=0x1d17a | 0xe0000..=0x10_ffff)
}

#[cfg(test)]
mod tests;
