//! What `arguments` lets through and what it refuses.

use countersign_proto::json::{self, Limits};

use super::*;

const SCHEMA: &str = r#"{
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "count": {"type": "integer"},
        "amount": {"type": "number"},
        "force": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "level": {"enum": ["low", "high"]},
        "either": {"type": ["string", "null"]},
        "rows": {"type": "array", "items": {"type": "object"}},
        "free": {"type": "object"},
        "paging": {"type": "object", "properties": {"size": {"type": "integer", "default": 10}, "from": {"type": "string"}},
                   "required": ["size", "from"], "additionalProperties": false}
    },
    "required": ["name"]
}"#;

fn object(text: &str) -> Object {
    json::parse_object(text.as_bytes(), &Limits::DEFAULT).unwrap()
}

fn map(schema: &str, arguments: &str) -> String {
    let record = Record::of_input_schema(&json::parse(schema.as_bytes(), &Limits::DEFAULT).unwrap());
    match record.map(&object(arguments)) {
        Ok(expression) => {
            let context = cedar_policy::Context::from_pairs([("args".to_owned(), expression)]).unwrap();
            context.to_json_value().unwrap()["args"].to_string()
        }
        Err(error) => error.to_string(),
    }
}

#[track_caller]
fn check(arguments: &str, expected: &str) {
    assert_eq!(map(SCHEMA, arguments), expected, "{arguments}");
}

#[test]
fn arguments_have_exactly_the_declared_type() {
    check(r#"{"name":"a"}"#, r#"{"name":"a"}"#);
    check(r#"{"name":1}"#, r#"argument $["name"] is not a string"#);
    check(r#"{"name":null}"#, r#"argument $["name"] is not a string"#);
    check(r#"{"name":"a","count":3}"#, r#"{"count":3,"name":"a"}"#);
    check(r#"{"name":"a","count":3.0}"#, r#"{"count":3,"name":"a"}"#);
    check(r#"{"name":"a","count":3.5}"#, r#"argument $["count"] is not an integer"#);
    check(r#"{"name":"a","count":"3"}"#, r#"argument $["count"] is not an integer"#);
    check(r#"{"name":"a","force":true}"#, r#"{"force":true,"name":"a"}"#);
    check(r#"{"name":"a","force":"true"}"#, r#"argument $["force"] is not a boolean"#);
    check(r#"{"name":"a","force":1}"#, r#"argument $["force"] is not a boolean"#);
    check(r#"{"name":"a","tags":["x"]}"#, r#"{"name":"a","tags":["x"]}"#);
    check(r#"{"name":"a","tags":[]}"#, r#"{"name":"a","tags":[]}"#);
    check(r#"{"name":"a","tags":["x",1]}"#, r#"argument $["tags"] is not a list of strings"#);
    check(r#"{"name":"a","tags":"x"}"#, r#"argument $["tags"] is not a list"#);
    check(r#"{"name":"a","level":"low"}"#, r#"{"level":"low","name":"a"}"#);
    check(r#"{"name":"a","level":2}"#, r#"argument $["level"] is not a string"#);
}

#[test]
fn a_required_argument_is_required_unless_it_has_a_default() {
    check("{}", r#"argument $["name"] is required"#);
    check(r#"{"name":"a","paging":{"from":"b"}}"#, r#"{"name":"a","paging":{"from":"b"}}"#);
    check(r#"{"name":"a","paging":{"size":1}}"#, r#"argument $["paging"]["from"] is required"#);
    check(
        r#"{"name":"a","paging":{"size":"1","from":"b"}}"#,
        r#"argument $["paging"]["size"] is not an integer"#,
    );
    check(r#"{"name":"a","paging":[]}"#, r#"argument $["paging"] is not an object"#);
}

#[test]
fn what_is_not_declared_is_invisible_or_refused_as_the_tool_says() {
    check(r#"{"name":"a","other":{"x":[1]}}"#, r#"{"name":"a"}"#);
    check(
        r#"{"name":"a","paging":{"from":"b","x":1}}"#,
        r#"argument $["paging"]["x"] is not declared by the tool"#,
    );
    assert_eq!(
        map(r#"{"type":"object","additionalProperties":false}"#, r#"{"x\n":1}"#),
        r#"argument $["x\n"] is not declared by the tool"#
    );
    assert_eq!(map(r#"{"additionalProperties":false,"patternProperties":{"^x":{}}}"#, r#"{"x":1}"#), "{}");
}

#[test]
fn what_has_no_cedar_type_is_invisible_but_keeps_its_json_type() {
    check(r#"{"name":"a","either":null}"#, r#"{"name":"a"}"#);
    check(r#"{"name":"a","rows":[{"x":1}]}"#, r#"{"name":"a"}"#);
    check(r#"{"name":"a","rows":{}}"#, r#"argument $["rows"] has another type than declared"#);
    check(r#"{"name":"a","free":{"x":1}}"#, r#"{"name":"a"}"#);
    check(r#"{"name":"a","free":"x"}"#, r#"argument $["free"] has another type than declared"#);
    for schema in ["true", "[]", "{}", r#"{"properties":7}"#, r#"{"type":"string"}"#] {
        assert_eq!(map(schema, r#"{"x":1}"#), "{}", "{schema}");
    }
}

#[test]
fn a_number_is_an_exact_decimal_or_refused() {
    let number = |text: &str| map(r#"{"properties":{"n":{"type":"number"}}}"#, &format!(r#"{{"n":{text}}}"#));
    let exactly = |text: &str, decimal: &str| {
        let expected = format!(r#"{{"n":{{"__extn":{{"fn":"decimal","arg":"{decimal}"}}}}}}"#);
        assert_eq!(number(text), expected, "{text}");
    };
    exactly("0", "0.0");
    exactly("-0", "0.0");
    exactly("5", "5.0");
    exactly("1e3", "1000.0");
    exactly("0.5", "0.5");
    exactly("-0.1250", "-0.125");
    exactly("99.9999", "99.9999");
    exactly("-0.0001", "-0.0001");
    exactly("922337203685477", "922337203685477.0");
    for text in ["0.00001", "1.23456", "1e-7", "922337203685478", "9007199254740991", "-922337203685478"] {
        assert_eq!(number(text), r#"argument $["n"] is not a number of at most 4 fraction digits"#, "{text}");
    }
    assert_eq!(number(r#""5""#), r#"argument $["n"] is not a number"#);
}

#[test]
fn a_name_is_only_a_name() {
    for name in [
        "",
        "__entity",
        "__extn",
        "type",
        "a b",
        "\\\"; permit(principal,action,resource);",
        "ключ",
        "\\u0007",
    ] {
        let schema = format!(r#"{{"properties":{{"{name}":{{"type":"string"}}}},"required":["{name}"]}}"#);
        let record = Record::of_input_schema(&json::parse(schema.as_bytes(), &Limits::DEFAULT).unwrap());
        let cedar = crate::schema::schema_json([("up/tool".to_owned(), Some(&record))].into_iter());
        crate::schema::compile(cedar).unwrap();
        record.map(&object(&format!(r#"{{"{name}":"x"}}"#))).unwrap();
        record.map(&object(r#"{"x":"x"}"#)).unwrap_err();
    }
}

#[test]
fn what_is_too_deep_or_too_wide_is_not_shown() {
    let wide: Vec<String> =
        (0..=MAX_PROPERTIES).map(|at| format!(r#""p{at}":{{"type":"string"}}"#)).collect();
    assert_eq!(map(&format!(r#"{{"properties":{{{}}}}}"#, wide.join(",")), r#"{"p1":"x"}"#), "{}");
    let (open, close) = (r#"{"type":"object","properties":{"x":"#, "}}");
    let deep = format!("{}{}{}", open.repeat(12), r#"{"type":"string"}"#, close.repeat(12));
    let arguments = format!("{}1{}", r#"{"x":"#.repeat(12), "}".repeat(12));
    assert_eq!(map(&deep, &arguments).matches('x').count(), MAX_DEPTH, "the rest is not shown");
}
