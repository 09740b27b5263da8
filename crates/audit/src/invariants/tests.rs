//! Logs in which something that must be impossible has happened.

use countersign_proto::time::Timestamp;

use super::*;
use crate::record::RecordBuilder;

fn begin(kind: Kind) -> RecordBuilder {
    Record::new(kind, Timestamp::from_unix_secs(1), [0; 16])
}

fn of(kind: Kind, decision: &str) -> RecordBuilder {
    begin(kind).decision(&DecisionId::parse(decision).unwrap())
}

fn scan(records: impl IntoIterator<Item = RecordBuilder>) -> Report {
    let mut scan = Scan::new();
    for (index, record) in (0..).zip(records) {
        scan.see(index, record.build().unwrap().bytes());
    }
    scan.finish()
}

fn env(change: impl FnOnce(&mut Object)) -> Object {
    let mut env = Object::new();
    env.insert("sub", "spiffe://td/machine/m-1").unwrap();
    env.insert("lvl", 2).unwrap();
    env.insert("jkt", Sha256Digest::of(b"key").b64()).unwrap();
    env.insert("ev", Sha256Digest::of(b"evidence").b64()).unwrap();
    change(&mut env);
    env
}

#[test]
fn a_credential_without_machine_evidence_raises_the_alarm() {
    #[track_caller]
    fn check(change: impl FnOnce(&mut Object)) {
        let report = scan([begin(Kind::Start), begin(Kind::Issue).with("env", env(change))]);
        let expected = Finding { index: 1, broken: Broken::IssueWithoutSecondFactor };
        assert_eq!(report.findings, [expected]);
        assert!(!report.holds());
    }
    assert!(scan([begin(Kind::Issue).with("env", env(|_| ()))]).holds());
    for name in ["sub", "lvl", "jkt", "ev"] {
        check(|env| drop(env.remove(name)));
    }
    check(|env| {
        env.remove("lvl");
        env.insert("lvl", 0).unwrap();
    });
    check(|env| {
        env.remove("ev");
        env.insert("ev", "none").unwrap();
    });
    check(|env| {
        env.remove("sub");
        env.insert("sub", "").unwrap();
    });
    assert_eq!(scan([begin(Kind::Issue)]).findings[0].broken.code(), "issue.no_second_factor");
    assert_eq!(scan([begin(Kind::Issue).with("env", "e3")]).broken, 1);
}

#[test]
fn an_intent_without_outcome_is_unknown_and_an_outcome_without_intent_is_a_breach() {
    let report = scan([
        of(Kind::Intent, "dec_1"),
        of(Kind::Intent, "dec_2"),
        of(Kind::Outcome, "dec_1"),
        of(Kind::Denial, "dec_3"),
    ]);
    assert!(report.holds());
    assert_eq!(
        report.unknown_outcomes.into_iter().collect::<Vec<_>>(),
        [(DecisionId::parse("dec_2").unwrap(), 1)]
    );

    let report = scan([of(Kind::Outcome, "dec_1"), of(Kind::Intent, "dec_1")]);
    assert_eq!(report.findings, [Finding { index: 0, broken: Broken::OutcomeWithoutIntent }]);
    assert_eq!(scan([begin(Kind::Outcome)]).findings[0].broken, Broken::OutcomeWithoutIntent);
}

#[test]
fn one_permit_is_one_call() {
    let again = [of(Kind::Intent, "dec_1"), of(Kind::Intent, "dec_1")];
    assert_eq!(scan(again).findings, [Finding { index: 1, broken: Broken::IntentTwice }]);
    let later = [of(Kind::Intent, "dec_1"), of(Kind::Outcome, "dec_1"), of(Kind::Intent, "dec_1")];
    assert_eq!(scan(later).findings, [Finding { index: 2, broken: Broken::IntentTwice }]);
    let corrected = [of(Kind::Intent, "dec_1"), of(Kind::Outcome, "dec_1"), of(Kind::Outcome, "dec_1")];
    assert!(scan(corrected).holds());
}

#[test]
fn what_is_not_a_record_is_counted_and_the_list_is_bounded() {
    let mut scan = Scan::new();
    for index in 0..2 * MAX_FINDINGS as u64 {
        scan.see(index, b"{}");
    }
    let report = scan.finish();
    assert_eq!((report.findings.len(), report.broken, report.entries), (MAX_FINDINGS, 2000, 2000));
    assert_eq!(report.findings[0].broken, Broken::NotARecord);
}
