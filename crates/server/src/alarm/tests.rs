//! Which single records raise the alarm.

use countersign_audit::Record;
use countersign_proto::json::from_serde;
use countersign_proto::time::Timestamp;

use super::*;

fn check(kind: Kind, members: &serde_json::Value, expected: Option<&str>) {
    let mut record = Record::new(kind, Timestamp::from_unix_secs(1), [0; 16]);
    for (name, value) in members.as_object().unwrap() {
        record = record.with(name, from_serde(value).unwrap());
    }
    let record = record.build().unwrap();
    assert_eq!(alarm(record.bytes()), expected, "{members}");
}

/// As `look` does.
fn alarm(entry: &[u8]) -> Option<&'static str> {
    if is_harmless(entry) { None } else { alarming(3, entry).map(Broken::code) }
}

#[test]
fn an_issuance_without_machine_evidence_raises_the_alarm() {
    let digest = "A".repeat(43);
    let env = |lvl: i64, ev: &str| json!({"env": {"sub": "spiffe://t/machine/m", "jkt": digest, "lvl": lvl, "ev": ev}});
    check(Kind::Issue, &env(2, &digest), None);
    check(Kind::Issue, &json!({"what": "access_token"}), Some("issue.no_second_factor"));
    check(Kind::Issue, &env(0, &digest), Some("issue.no_second_factor"));
    check(Kind::Admin, &json!({"act": "x"}), None);
}

#[test]
fn what_is_no_record_raises_the_alarm() {
    for entry in
        ["", "{}", r#"{"kind":"#, r#"{"kind":"isue"}"#, r#"{"kind": "admin"}"#, r#"{"kind":"issue"}"#]
    {
        assert_eq!(alarm(entry.as_bytes()), Some("record.malformed"), "{entry}");
    }
}

#[test]
fn only_issuances_are_read_and_each_of_them_is() {
    let disguises = [
        json!({}),
        json!({"detail": r#""kind":"admin""#, "what": "kind"}),
        json!({"env": {"kind": "admin"}, "list": ["kind", {"kind": "outcome"}], "z": "{\"kind\":\"admin\""}),
    ];
    for members in &disguises {
        for kind in Kind::ALL {
            let mut record = Record::new(kind, Timestamp::from_unix_secs(1), [0; 16]);
            for (name, value) in members.as_object().unwrap() {
                record = record.with(name, from_serde(value).unwrap());
            }
            let record = record.build().unwrap();
            assert_eq!(is_harmless(record.bytes()), kind != Kind::Issue, "{kind} {members}");
        }
        check(Kind::Issue, members, Some("issue.no_second_factor"));
    }
}

#[test]
fn an_issuance_inside_another_record_is_read_to_be_sure() {
    let nested = br#"{"kind":"admin","object":{"kind":"issue"}}"#;
    assert!(!is_harmless(nested));
}
