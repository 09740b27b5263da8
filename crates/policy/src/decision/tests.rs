//! What `decision` lets through and what it refuses.

use countersign_audit::{Origin, Sequencer};
use countersign_proto::id::{ToolName, UpstreamId};
use countersign_proto::json::{self, Limits};

use super::*;

const NOW: Timestamp = Timestamp::from_unix_secs(1_800_000_000);

fn id(text: &str) -> DecisionId {
    DecisionId::parse(text).unwrap()
}

fn call(arguments: &str) -> Call {
    Call {
        upstream: UpstreamId::parse("up").unwrap(),
        tool: ToolName::parse("pay").unwrap(),
        arguments: json::parse_object(arguments.as_bytes(), &Limits::DEFAULT).unwrap(),
    }
}

fn occasion(name: &str) -> Occasion {
    Occasion { decision_id: id(name), now: NOW, nonce: [7; 16] }
}

fn permit(name: &str, call: &Call) -> Decision {
    let policy = Sha256Digest::of(b"policy");
    conclude(occasion(name), Facts::default().call(call), Ruling::Permit { call: call.digest(), policy })
}

fn log() -> Sequencer {
    Sequencer::new(Origin::parse("log.example").unwrap())
}

fn receipt(log: &mut Sequencer, decision: &Decision) -> Receipt {
    log.stage(vec![decision.record().clone()]).durable().pop().unwrap()
}

fn recorded(decision: &Decision) -> String {
    String::from_utf8(decision.record().bytes().to_vec()).unwrap()
}

#[test]
fn a_decision_is_revealed_by_the_receipt_of_its_own_record() {
    let (mut log, call) = (log(), call(r#"{"amount":5}"#));
    let decision = permit("dec_1", &call);
    let receipt = receipt(&mut log, &decision);
    let Verdict::Permit(permit) = decision.reveal(receipt).unwrap() else { panic!("permitted") };
    assert_eq!(permit.decision_id(), &id("dec_1"));
    assert!(permit.covers(&call));
    assert!(!permit.covers(&self::call(r#"{"amount":6}"#)));
}

#[test]
fn the_receipt_of_another_record_reveals_nothing() {
    let (mut log, call) = (log(), call("{}"));
    let denied = refuse(Code::PolicyDenied, id("dec_1"), NOW, [7; 16], Facts::default());
    let receipt = receipt(&mut log, &denied);
    assert_eq!(permit("dec_1", &call).reveal(receipt).unwrap_err(), WrongReceipt);
    // Not even the same decision with another nonce.
    let receipt = self::receipt(&mut log, &denied);
    let again = refuse(Code::PolicyDenied, id("dec_1"), NOW, [8; 16], Facts::default());
    assert!(again.reveal(receipt).is_err());
}

#[test]
fn every_refusal_has_its_code_its_reason_and_a_record() {
    let mut log = log();
    for &code in Code::ALL {
        let decision = refuse(code, id("dec_1"), NOW, [7; 16], Facts::default().call(&call("{}")));
        assert_eq!(decision.record().kind(), Kind::Denial);
        assert!(recorded(&decision).contains(&format!("\"code\":\"{code}\"")), "{code}");
        let receipt = receipt(&mut log, &decision);
        let Verdict::Deny(denial) = decision.reveal(receipt).unwrap() else { panic!("{code} is a refusal") };
        assert_eq!((denial.code, denial.reason), (code, code.reason()));
        assert_eq!(Code::parse(code.as_str()), Some(code));
    }
    assert_eq!(log.size(), u64::try_from(Code::ALL.len()).unwrap());
}

#[test]
fn a_record_names_everything_and_holds_no_value() {
    let call = call(r#"{"amount":"4242-secret"}"#);
    let facts = Facts::default().call(&call).detail(&"x".repeat(500)).alarm("theft");
    let text = recorded(&refuse(Code::BindMachineKey, id("dec_9"), NOW, [7; 16], facts));
    assert!(!text.contains("4242-secret"), "{text}");
    for member in [
        r#""kind":"denial""#,
        r#""dec":"dec_9""#,
        r#""verdict":"deny""#,
        r#""code":"bind.machine_key""#,
        r#""alarm":"theft""#,
        r#""upstream":"up""#,
        r#""tool":"pay""#,
        &format!(r#""call":"{}""#, call.digest().b64()),
        &format!(r#""detail":"{}""#, "x".repeat(200)),
    ] {
        assert!(text.contains(member), "{member} in {text}");
    }
}

#[test]
fn a_challenge_says_what_to_do_first_and_what_then() {
    let asked = vec![
        Needs::FreshAttestation { max_age_secs: 30, acr: countersign_proto::oauth::Acr::new(3, 1).unwrap() },
        Needs::Approval,
    ];
    let decision = conclude(occasion("dec_1"), Facts::default(), Ruling::challenge(asked.clone()).unwrap());
    assert_eq!(decision.record().kind(), Kind::Challenge);
    assert!(recorded(&decision).contains(r#""needs":["fresh_attestation:30","approval"]"#));
    let receipt = receipt(&mut log(), &decision);
    let Verdict::Challenge(challenge) = decision.reveal(receipt).unwrap() else { panic!("a challenge") };
    assert_eq!((challenge.needs, challenge.then), (asked[0].clone(), asked[1..].to_vec()));
    assert!(Ruling::challenge(Vec::new()).is_none());
}

#[test]
fn what_cannot_be_recorded_in_full_is_not_permitted() {
    let call = call("{}");
    let long = vec!["n".repeat(2_000); 64];
    let facts = Facts::default().call(&call).determining(&long);
    let ruling = Ruling::Permit { call: call.digest(), policy: call.digest() };
    let decision = conclude(occasion("dec_1"), facts, ruling);
    let receipt = receipt(&mut log(), &decision);
    let Verdict::Deny(denial) = decision.reveal(receipt).unwrap() else { panic!("denied") };
    assert_eq!(denial.code, Code::AuditUnavailable);

    let never = Timestamp::from_unix_millis(i64::MAX);
    let decision = refuse(Code::PolicyDenied, id("dec_1"), never, [7; 16], Facts::default());
    assert!(recorded(&decision).contains(r#""code":"policy.denied""#));
}
