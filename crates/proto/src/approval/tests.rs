//! What `approval` lets through and what it refuses.

use super::*;
use crate::id::{ToolName, UpstreamId};
use crate::json::{Limits, Value, parse_object};

fn object(arguments: &str) -> ApprovalObject {
    ApprovalObject {
        domain: ApprovalDomain::V1,
        id: ApprovalId::parse("apr_1").unwrap(),
        call: Call {
            upstream: UpstreamId::parse("bank").unwrap(),
            tool: ToolName::parse("transfer").unwrap(),
            arguments: parse_object(arguments.as_bytes(), &Limits::DEFAULT).unwrap(),
        },
        view_hash: Sha256Digest::of(b"view"),
        scope: ApprovalScope::Once,
        policy: Sha256Digest::of(b"policy"),
        agent: AgentId::parse("bot").unwrap(),
        run: RunId::parse("run_1").unwrap(),
        machine: MachineId::parse("m-1").unwrap(),
        task: TaskId::parse("task_1").unwrap(),
        requester: PersonId::parse("alice").unwrap(),
        approver: PersonId::parse("bob").unwrap(),
        expires_at: 1_790_000_000,
        nonce: "AAECAwQFBgcICQoLDA0ODw".into(),
    }
}

#[test]
fn what_is_signed_is_this_text() {
    let text = String::from_utf8(object(r#"{"to":"x","amount":1e2}"#).to_jcs().unwrap()).unwrap();
    let expected = concat!(
        r#"{"agent":"bot","approver":"bob","call":{"arguments":{"amount":100,"to":"x"},"tool":"transfer","upstream":"bank"},"#,
        r#""domain":"countersign/approval/v1","expires_at":1790000000,"id":"apr_1","machine":"m-1","#,
        r#""nonce":"AAECAwQFBgcICQoLDA0ODw","policy":"POLICY","requester":"alice","#,
        r#""run":"run_1","scope":"once","task":"task_1","view_hash":"VIEW"}"#
    )
    .replace("VIEW", &Sha256Digest::of(b"view").b64())
    .replace("POLICY", &Sha256Digest::of(b"policy").b64());
    assert_eq!(text, expected);
}

#[test]
fn every_member_counts_and_spelling_does_not() {
    let original = object(r#"{"to":"x","amount":100}"#);
    let challenge = original.challenge().unwrap();
    assert_eq!(object(r#"{"amount":100.0,"to":"\u0078"}"#).challenge().unwrap(), challenge);
    let Value::Object(members) = original.to_value().unwrap() else { panic!("an object") };
    let names: Vec<String> = members.iter().map(|(name, _)| name.to_owned()).collect();
    assert_eq!(names.len(), 14);
    for name in names.iter().filter(|name| !matches!(name.as_str(), "domain" | "scope" | "call")) {
        let mut changed = members.clone();
        let replacement = match changed.remove(name).unwrap() {
            Value::Int(int) => Value::Int(int + 1),
            Value::Text(text) if text.len() == 43 => Value::from(Sha256Digest::of(b"other").b64()),
            Value::Text(text) => Value::Text(text + "x"),
            other => panic!("{other:?}"),
        };
        changed.insert(name.clone(), replacement).unwrap();
        let changed: ApprovalObject = Value::Object(changed).into_typed().unwrap();
        assert_ne!(changed.challenge().unwrap(), challenge, "{name}");
    }
    for arguments in
        [r#"{"to":"x","amount":101}"#, r#"{"to":"x","amount":100,"memo":""}"#, r#"{"to":"x","amount":"100"}"#]
    {
        assert_ne!(object(arguments).challenge().unwrap(), challenge, "{arguments}");
    }
}

#[test]
fn other_domains_scopes_and_members_do_not_parse() {
    let text = String::from_utf8(object("{}").to_jcs().unwrap()).unwrap();
    let parse = |text: &str| json::typed::<ApprovalObject>(text.as_bytes(), &Limits::DEFAULT);
    assert_eq!(parse(&text).unwrap(), object("{}"));
    for bad in [
        text.replace("approval/v1", "approval/v2"),
        text.replace("\"once\"", "\"always\""),
        text.replacen('{', "{\"more\":1,", 1),
        text.replace("\"upstream\"", "\"x\":1,\"upstream\""),
    ] {
        assert!(parse(&bad).is_err(), "{bad}");
    }
}
