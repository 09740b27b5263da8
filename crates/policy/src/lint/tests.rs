//! What `lint` lets through and what it refuses.

use countersign_proto::digest::Sha256Digest;

use super::*;

#[track_caller]
fn check(cedar: &str, expected: &[&str]) {
    let cedar = format!("@id(\"p\") {cedar}");
    let bundle =
        PolicyBundle { revision: 1, digest: Sha256Digest::of(cedar.as_bytes()), cedar: cedar.clone() };
    let found: Vec<&str> = lint(&bundle).unwrap().iter().map(|finding| finding.rule.as_str()).collect();
    assert_eq!(found, expected, "{cedar}");
}

#[test]
fn odd_policies_are_pointed_out() {
    check("permit(principal, action, resource);", &["permits-everything"]);
    check("permit(principal, action, resource) when { context.person.level > 0 };", &["unscoped"]);
    check("permit(principal in AgentGroup::\"g\", action, resource);", &[]);
    check("forbid(principal, action, resource) unless { context.machine.level > 2 };", &["unscoped"]);
    check(
        "forbid(principal, action, resource in Upstream::\"u\") when { context.machine.attested_age > 30 };",
        &["cannot-be-met"],
    );
    check(
        "@requires(\"fresh_attestation\") forbid(principal, action, resource in Upstream::\"u\") \
         when { context.machine.attested_age > 30 };",
        &[],
    );
    check(
        "@requires(\"fresh_attestation\") forbid(principal, action, resource in Upstream::\"u\");",
        &["asks-in-vain"],
    );
    check(
        "@requires(\"approval\") forbid(principal, action, resource in Upstream::\"u\");",
        &["asks-in-vain"],
    );
    check(
        "@requires(\"acr:e3u2\") forbid(principal, action, resource in Upstream::\"u\");",
        &["asks-in-vain"],
    );
}
