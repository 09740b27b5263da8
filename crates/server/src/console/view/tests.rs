//! What is shown of a call, and that its hash follows it.

use countersign_proto::id::{ToolName, UpstreamId};
use countersign_proto::json::{self, Limits};

use super::*;

fn call(arguments: &str) -> Call {
    Call {
        upstream: UpstreamId::parse("github").unwrap(),
        tool: ToolName::parse("issues.create").unwrap(),
        arguments: json::parse_object(arguments.as_bytes(), &Limits::DEFAULT).unwrap(),
    }
}

fn shown(segments: &[Segment]) -> String {
    segments
        .iter()
        .map(|segment| if segment.spelled { format!("<{}>", segment.text) } else { segment.text.clone() })
        .collect()
}

fn check(arguments: &str, expected: &[(&str, &str, &str)]) {
    let view = CallView::of(&call(arguments));
    let rows: Vec<(String, &str, String)> =
        view.rows.iter().map(|row| (shown(&row.path), row.kind, shown(&row.value))).collect();
    let rows: Vec<(&str, &str, &str)> =
        rows.iter().map(|(path, kind, value)| (path.as_str(), *kind, value.as_str())).collect();
    assert_eq!(rows, expected, "{arguments}");
}

#[test]
fn every_argument_is_a_row() {
    check(r#"{"repo":"acme/web"}"#, &[("repo", "text", "acme/web")]);
    check(
        r#"{"z":1,"a":{"b":[true,null],"c":1.5}}"#,
        &[
            ("a.b[0]", "true or false", "true"),
            ("a.b[1]", "null", "null"),
            ("a.c", "number", "1.5"),
            ("z", "number", "1"),
        ],
    );
    check(r#"{"l":[],"o":{},"t":""}"#, &[("l", "list", ""), ("o", "object", ""), ("t", "text", "")]);
    check("{}", &[("", "object", "")]);
}

#[test]
fn a_member_name_cannot_pose_as_a_path() {
    check(r#"{"a.b":1}"#, &[(r#"["a.b"]"#, "number", "1")]);
    check(r#"{"a":{"b.c[0]":1}}"#, &[(r#"a["b.c[0]"]"#, "number", "1")]);
    check(r#"{"":1}"#, &[(r#"[""]"#, "number", "1")]);
    check("{\"\u{202e}x\":1}", &[("[\"<U+202E>x\"]", "number", "1")]);
}

#[test]
fn nothing_hides_in_a_value() {
    let text = |value: &str, expected: &str| {
        check(&format!(r#"{{"t":"{value}"}}"#), &[("t", "text", expected)]);
    };
    text("a\\nb", "a<\u{21b5}>\nb");
    text("a\\tb", "a<\u{21e5}>b");
    text("invoice\u{202e}fdp.exe", "invoice<U+202E>fdp.exe");
    text("zero\u{200b}width", "zero<U+200B>width");
    text("no\u{a0}break", "no<U+00A0>break");
    text("tag\u{e0041}", "tag<U+E0041>");
    text("\\u0000\\u001b[2J", "<U+0000><U+001B>[2J");
    text("Füße", "Füße");
}

#[test]
fn a_careful_reader_is_told() {
    let check = |value: &str, expected: Option<&str>| {
        assert_eq!(CallView::of(&call(&format!(r#"{{"t":"{value}"}}"#))).rows[0].note, expected, "{value}");
    };
    check("plain", None);
    check("two\\nlines", None);
    check("\u{430}pple", Some("contains characters outside ASCII; some look like others"));
    check("a\u{200d}b", Some("contains invisible or reordering characters, spelled out here"));
    check("trailing ", Some("begins or ends with a space"));
}

#[test]
fn the_hash_follows_what_is_shown() {
    let hash = |arguments: &str| CallView::of(&call(arguments)).hash();
    assert_eq!(hash(r#"{"a":1,"b":2}"#), hash(r#"{"b":2.0,"a":1e0}"#), "the same call looks the same");
    let different = [
        r#"{"a":1}"#,
        r#"{"a":"1"}"#,
        r#"{"a":[1]}"#,
        r#"{"a":[]}"#,
        r#"{"a":{}}"#,
        r#"{"a":""}"#,
        r#"{"a":null}"#,
        r#"{"b":1}"#,
        r#"{"a":"U+202E"}"#,
        "{\"a\":\"\u{202e}\"}",
        r#"{"a":{"b":1}}"#,
        r#"{"a.b":1}"#,
        "{}",
    ];
    for (index, left) in different.iter().enumerate() {
        for right in &different[index + 1..] {
            assert_ne!(hash(left), hash(right), "{left} {right}");
        }
    }
    let other_tool = Call { tool: ToolName::parse("issues.delete").unwrap(), ..call("{}") };
    assert_ne!(CallView::of(&other_tool).hash(), hash("{}"));
}
