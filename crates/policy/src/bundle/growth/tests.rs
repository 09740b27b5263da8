//! What `growth` lets through and what it refuses.

use super::*;

fn problem(condition: &str) -> Option<&'static str> {
    check(&format!("@id(\"a\") permit(principal, action, resource) when {{ {condition} }};"))
        .err()
        .map(|overgrown| overgrown.problem)
}

#[test]
fn what_people_write_fits() {
    for text in [
        include_str!("../../../testdata/matrix.cedar"),
        include_str!("../../../../../examples/policies/demo.cedar"),
        include_str!("../../../../../examples/policies/arguments.cedar"),
    ] {
        assert_eq!(check(text), Ok(()));
    }
    let clauses = vec!["(context.machine.level > 2 || context.person.level > 1)"; 40].join(" && ");
    assert_eq!(problem(&clauses), None);
    let names = vec!["\"a.b-c&&d\""; 5_000].join(", ");
    assert_eq!(problem(&format!("[{names}].contains(context.args.name)")), None);
    let many = "permit(principal, action, resource) when { context.machine.level > 2 };\n".repeat(1_000);
    assert_eq!(check(&many), Ok(()));
}

#[test]
fn every_way_to_grow_deep_is_bounded() {
    const NESTED: Option<&str> = Some("brackets are nested deeper than 16");
    let nested =
        |open: &str, close: &str, count: usize| format!("{}1{}", open.repeat(count), close.repeat(count));
    for (open, close) in [("(", ")"), ("[", "]"), ("{a:", "}"), ("[true].contains(", ")"), ("(\n// )\n", ")")]
    {
        assert_eq!(problem(&nested(open, close, 15)), None, "{open}");
        assert_eq!(problem(&nested(open, close, 16)), NESTED, "{open}");
        assert_eq!(problem(&nested(open, close, 200_000)), NESTED, "{open}");
    }
    let chained = |more: &str| problem(&format!("context.a{}", more.repeat(64))).is_some();
    for more in [
        ".a",
        " + 1",
        " - 1",
        " * 1",
        " || b",
        " && b",
        " == b",
        " < b",
        " has a",
        " in b",
        " like \"\"",
        " is B",
    ] {
        assert!(chained(more), "{more}");
    }
    assert!(problem(&"if true then ".repeat(65)).is_some());
    assert!(check(&format!("permit(principal, action, resource){};", " when { true }".repeat(65))).is_err());
    // Brackets do not hide what surrounds them.
    assert!(problem(&format!("{}1{}", "(1 + 1 + 1 + 1 + 1 + ".repeat(13), ")".repeat(13))).is_some());
}

#[test]
fn nothing_hides_from_the_scan() {
    let deep = "(".repeat(17);
    for text in [
        format!("// a comment ends here\r{deep}"),
        format!("// a \" in a comment\n{deep}"),
        format!("\"a // in a string\"{deep}"),
        format!("\"a \\\" in a string\"{deep}"),
        format!("\"\\\\\"{deep}"),
        format!(")))) {deep}"),
        format!("\"\\\n{deep}\""),
        format!("\"\\\r{deep}\""),
        format!("\"{deep}"),
        "\"\\".to_owned(),
    ] {
        assert!(check(&text).is_err(), "{text}");
    }
    assert_eq!(check(&format!("// {deep}\n\"{deep}\"")), Ok(()));
    assert_eq!(check(&format!("\n\n{deep}")).unwrap_err().line, 3);
}
