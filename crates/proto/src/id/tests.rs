//! One spelling per identifier.

use super::*;

#[test]
fn a_spiffe_id_has_exactly_one_spelling() {
    fn check(text: &str, valid: bool) {
        assert_eq!(SpiffeId::parse(text).is_ok(), valid, "{text}");
    }
    check("spiffe://example.org/machine/m-17", true);
    check("spiffe://example.org", true);
    check("spiffe://Example.org/a", false);
    check("SPIFFE://example.org/a", false);
    check("spiffe://example.org:443/a", false);
    check("spiffe://user@example.org/a", false);
    check("spiffe://example.org/a?b", false);
    check("spiffe://example.org/a#b", false);
    check("spiffe://example.org/a%2eb", false);
    check("spiffe://example.org//a", false);
    check("spiffe://example.org/./a", false);
    check("spiffe://example.org/../a", false);
    check("spiffe://example.org/a/", false);
    check("spiffe://example.org/", false);
    check("spiffe://example.org/ä", false);
    check("spiffe:///a", false);
    check(&format!("spiffe://example.org/{}", "a".repeat(2048 - 21)), true);
    check(&format!("spiffe://example.org/{}", "a".repeat(2049 - 21)), false);
}

#[test]
fn names_that_only_look_alike_are_refused() {
    fn check(text: &str, valid: bool) {
        assert_eq!(AgentId::parse(text).is_ok(), valid, "{text:?}");
    }
    check("build-bot", true);
    check("Build-bot", false);
    check("build-bot ", false);
    check("build\u{2010}bot", false);
    check("build\0bot", false);
    check("-bot", false);
    check("", false);
    check(&"a".repeat(63), true);
    check(&"a".repeat(64), false);
}

#[test]
fn tool_names_keep_their_case_and_their_alphabet() {
    assert!(ToolName::parse("issues.create").is_ok());
    assert_ne!(ToolName::parse("Read").unwrap(), ToolName::parse("read").unwrap());
    for bad in ["", "a b", "a/b", "\u{430}", "a\u{200d}", &"a".repeat(129)] {
        assert!(ToolName::parse(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn identifiers_survive_json_and_refuse_bad_json() {
    let id = RunId::parse("run_9c").unwrap();
    let text = serde_json::to_string(&id).unwrap();
    assert_eq!(serde_json::from_str::<RunId>(&text).unwrap(), id);
    assert!(serde_json::from_str::<RunId>("\"task_9c\"").is_err());
}
