//! Which single records raise the alarm.

use countersign_audit::{Kind, Record};
use countersign_proto::json::from_serde;
use countersign_proto::time::Timestamp;

use super::*;

fn check(kind: Kind, members: &serde_json::Value, expected: Option<&str>) {
    let mut record = Record::new(kind, Timestamp::from_unix_secs(1), [0; 16]);
    for (name, value) in members.as_object().unwrap() {
        record = record.with(name, from_serde(value).unwrap());
    }
    let record = record.build().unwrap();
    assert_eq!(alarming(3, record.bytes()).map(Broken::code), expected, "{members}");
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
    assert_eq!(alarming(0, b"{}").map(Broken::code), Some("record.malformed"));
}
