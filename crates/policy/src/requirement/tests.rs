//! What `requirement` lets through and what it refuses.

use super::*;

#[track_caller]
fn check(requires: &str, max_age: Option<&str>, expected: &str) {
    let shown = match Requirements::parse(requires, max_age) {
        Ok(all) => format!("{:?}", all.needs(Acr::new(2, 1).unwrap())),
        Err(message) => message,
    };
    assert!(shown.contains(expected), "{requires} {max_age:?}: {shown}");
}

#[test]
fn annotations_say_what_to_ask_for() {
    check(
        "fresh_attestation",
        None,
        "[FreshAttestation { max_age_secs: 300, acr: Acr { env: 3, person: 1 } }]",
    );
    check("fresh_attestation", Some("30"), "max_age_secs: 30,");
    check("approval", None, "[Approval]");
    check("acr:e4u2", None, "[Acr(Acr { env: 4, person: 2 })]");
    check("acr:e1u0", None, "[Acr(Acr { env: 1, person: 0 })]");
    check("acr:e3u3", None, "[Acr(Acr { env: 3, person: 0 }), Approval]");
    check("acr:e0u3", None, "[Approval]");
    check("approval, fresh_attestation", None, "person: 1 } }, Approval]");
}

#[test]
fn an_annotation_that_cannot_be_followed_is_refused() {
    for requires in
        ["", "aproval", "approval,approval", "approval,", "acr:", "acr:e5u0", "acr:e3", "acr:e1u1,acr:e2u2"]
    {
        check(requires, None, "@requires: ");
    }
    for max_age in ["0", "", "-1", "1.5", "86401", "99999999999"] {
        check("fresh_attestation", Some(max_age), "@max_age: write whole seconds");
    }
    check("approval", Some("30"), "has no effect");
}

#[test]
fn two_requirements_together_are_the_stricter_of_each() {
    let one = Requirements::parse("fresh_attestation,acr:e3u0", Some("60")).unwrap();
    let other = Requirements::parse("fresh_attestation,acr:e2u2,approval", Some("30")).unwrap();
    let both =
        Requirements { fresh_attestation: Some(30), acr: Some(Acr::new(3, 2).unwrap()), approval: true };
    assert_eq!(one.and(other), both);
    assert_eq!(other.and(one), both);
    assert_eq!(one.and(Requirements::default()), one);
}
