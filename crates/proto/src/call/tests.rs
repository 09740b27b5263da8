//! What `call` lets through and what it refuses.

use super::*;
use crate::json::{Limits, parse_object};

fn digest(arguments: &str) -> Sha256Digest {
    Call {
        upstream: UpstreamId::parse("github").unwrap(),
        tool: ToolName::parse("issues.create").unwrap(),
        arguments: parse_object(arguments.as_bytes(), &Limits::DEFAULT).unwrap(),
    }
    .digest()
}

#[test]
fn spelling_does_not_change_the_digest_and_meaning_does() {
    let original = digest(r#"{"repo":"acme/web","n":1000}"#);
    for same in [
        r#"{"n":1000,"repo":"acme/web"}"#,
        r#"{ "n" : 1e3, "repo":"acme\/web"}"#,
        r#"{"n":1000.0,"repo":"\u0061cme/web"}"#,
    ] {
        assert_eq!(digest(same), original, "{same}");
    }
    for other in [
        r#"{"n":1001,"repo":"acme/web"}"#,
        r#"{"n":1000,"repo":"acme/web","x":null}"#,
        r#"{"n":"1000","repo":"acme/web"}"#,
        r#"{"n":1000,"repo":"acme/web "}"#,
        r#"{}"#,
    ] {
        assert_ne!(digest(other), original, "{other}");
    }
}

#[test]
fn the_canonical_bytes_are_those_of_the_value() {
    let call = Call {
        upstream: UpstreamId::parse("github").unwrap(),
        tool: ToolName::parse("issues.create").unwrap(),
        arguments: parse_object(br#"{"b":[1,2.5],"a":"\u20ac"}"#, &Limits::DEFAULT).unwrap(),
    };
    assert_eq!(call.to_jcs(), call.to_value().to_jcs());
    let expected = r#"{"arguments":{"a":"€","b":[1,2.5]},"tool":"issues.create","upstream":"github"}"#;
    assert_eq!(String::from_utf8(call.to_jcs()).unwrap(), expected);
}
