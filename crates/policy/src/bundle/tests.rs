//! What `bundle` lets through and what it refuses.

use super::*;

fn bundle(cedar: &str) -> PolicyBundle {
    PolicyBundle { revision: 1, cedar: cedar.to_owned(), digest: Sha256Digest::of(cedar.as_bytes()) }
}

#[track_caller]
fn check(cedar: &str, expected: &str) {
    let shown = match parse(&bundle(cedar)) {
        Ok(policies) => policies.iter().map(NamedPolicy::name).collect::<Vec<_>>().join(" "),
        Err(error) => error.to_string(),
    };
    assert!(shown.starts_with(expected), "{cedar}\n{shown}");
}

#[test]
fn every_policy_has_a_name_of_its_own() {
    check("", "");
    check(
        "@id(\"b\") permit(principal, action, resource); @id(\"a\") forbid(principal, action, resource);",
        "a b",
    );
    check("permit(principal, action, resource);", "the policy number 1 has no valid @id: write @id(");
    check(
        "@id(\"a\") permit(principal, action, resource); permit(principal, action, resource);",
        "the policy number 2 has no valid @id",
    );
    check("@id permit(principal, action, resource);", "the policy with @id(\"\") has no valid @id");
    check(
        "@id(\"A b\") permit(principal, action, resource);",
        "the policy with @id(\"A b\") has no valid @id",
    );
    check(
        "@id(\"a\") permit(principal, action, resource); @id(\"a\") forbid(principal, action, resource);",
        "policy a: a second policy has this @id: rename one",
    );
}

#[test]
fn an_annotation_is_understood_or_refused() {
    let forbid = |annotations: &str| format!("@id(\"a\") {annotations} forbid(principal, action, resource);");
    check(&forbid("@description(\"why\") @requires(\"fresh_attestation\") @max_age(\"30\")"), "a");
    check(&forbid("@require(\"approval\")"), "policy a: @require is not known; known are @id, @description");
    check(&forbid("@requires(\"aproval\")"), "policy a: @requires: \"aproval\" is unknown");
    check(&forbid("@max_age(\"30\")"), "policy a: @max_age without @requires");
    check(
        "@id(\"a\") @requires(\"approval\") permit(principal, action, resource);",
        "policy a: @requires belongs on a forbid",
    );
}

#[test]
fn what_is_not_a_bundle_of_policies_is_refused() {
    check("permit(principal, action", "not valid Cedar: ");
    check("@id(\"a\") permit(principal == ?principal, action, resource);", "policy a is a template");
    let mut wrong = bundle("");
    wrong.digest = Sha256Digest::of(b"another");
    assert_eq!(parse(&wrong).unwrap_err(), PolicyError::Digest);
    let long = format!("//{}", "x".repeat(MAX_BUNDLE_BYTES));
    assert_eq!(parse(&bundle(&long)).unwrap_err(), PolicyError::TooLarge);
}

/// On the stack of a worker thread, not of the main thread.
#[test]
fn text_made_to_exhaust_the_parser_is_refused() {
    let when =
        |condition: &str| format!("@id(\"a\") permit(principal, action, resource) when {{ {condition} }};");
    for (open, middle, close) in
        [("(", "true", ")"), ("[", "", "]"), ("if true then ", "true", " else false")]
    {
        let nested = |count: usize| when(&format!("{}{middle}{}", open.repeat(count), close.repeat(count)));
        check(&nested(15), "a");
        check(&nested(20_000), "line 1: ");
    }
    check(&when(&format!("context.a{}", ".a".repeat(20_000))), "line 1: ");
    check(&when(&"!".repeat(40)), "not valid Cedar: ");
}
