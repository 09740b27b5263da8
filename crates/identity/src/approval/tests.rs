//! What `approval` lets through and what it refuses.

use countersign_proto::id::{ToolName, UpstreamId};
use countersign_proto::jose::{JwsSigner as _, SoftwareEd25519, sign_compact};
use countersign_proto::json::{Value, parse_object};

use super::*;
use crate::fixture::{ISSUER, NOW, person};

const JKT: Thumbprint = Thumbprint::from_bytes([5; 32]);

fn call(arguments: &str) -> Call {
    Call {
        upstream: UpstreamId::parse("bank").unwrap(),
        tool: ToolName::parse("transfer").unwrap(),
        arguments: parse_object(arguments.as_bytes(), &Limits::DEFAULT).unwrap(),
    }
}

fn question() -> Question {
    Question {
        id: ApprovalId::parse("apr_1").unwrap(),
        decision: DecisionId::parse("dec_1").unwrap(),
        call: call(r#"{"to":"bob","amount":100}"#),
        agent: AgentId::parse("bot").unwrap(),
        run: RunId::parse("run_1").unwrap(),
        machine: MachineId::parse("m-1").unwrap(),
        machine_jkt: JKT,
        task: TaskId::parse("task_1").unwrap(),
        purpose: "pay invoices".into(),
        requester: PersonId::parse("alice").unwrap(),
        asked_by: None,
        policy: Sha256Digest::of(b"policy"),
        agent_says: Some("urgent!".into()),
        asked_at: NOW,
        expires_at: NOW.plus_secs(300),
    }
}

fn asked() -> Approval {
    Approval::ask(question()).unwrap()
}

fn bob() -> Person {
    person("bob", &[Role::Approver])
}

fn signed_by(person: &Person) -> ApprovalObject {
    question().object(&person.id, Sha256Digest::of(b"view"), "AAECAwQFBgcICQoLDA0ODw".into())
}

fn granted() -> Approval {
    asked().grant(&bob(), &signed_by(&bob()), NOW).unwrap()
}

fn consume(approval: Approval, at: Timestamp) -> Result<Approval, ApprovalError> {
    approval.consume(&question().call.digest(), &question().run, &JKT, at)
}

#[test]
fn nobody_approves_their_own_request_and_only_approvers_approve() {
    let check = |person: &Person, expected: ApprovalError| {
        assert_eq!(asked().grant(person, &signed_by(person), NOW).unwrap_err(), expected);
        assert_eq!(asked().refuse(person, NOW).unwrap_err(), expected);
    };
    check(&person("alice", &[Role::Approver, Role::Admin]), ApprovalError::OwnRequest);
    check(&person("carol", &[Role::Admin, Role::Sponsor, Role::Auditor]), ApprovalError::NotApprover);
    check(&bob().disable(), ApprovalError::NotApprover);
    assert_eq!(ApprovalError::OwnRequest.code(), "approval.self");
    assert_eq!(granted().answer, Answer::Granted { by: bob().id, at: NOW });
}

#[test]
fn what_is_signed_must_be_what_was_asked() {
    let check = |change: &dyn Fn(&mut ApprovalObject)| {
        let mut object = signed_by(&bob());
        change(&mut object);
        assert_eq!(asked().grant(&bob(), &object, NOW).unwrap_err(), ApprovalError::Object);
    };
    check(&|object| object.call = call(r#"{"to":"bob","amount":101}"#));
    check(&|object| object.call.arguments.insert("memo", "").unwrap());
    check(&|object| object.id = ApprovalId::parse("apr_2").unwrap());
    check(&|object| object.agent = AgentId::parse("other").unwrap());
    check(&|object| object.run = RunId::parse("run_2").unwrap());
    check(&|object| object.machine = MachineId::parse("m-2").unwrap());
    check(&|object| object.task = TaskId::parse("task_2").unwrap());
    check(&|object| object.policy = Sha256Digest::of(b"other"));
    check(&|object| object.requester = PersonId::parse("carol").unwrap());
    check(&|object| object.approver = PersonId::parse("carol").unwrap());
    check(&|object| object.expires_at += 1);
}

#[test]
fn a_yes_is_spent_once_on_its_own_call_run_and_machine() {
    let digest = question().call.digest();
    let other_call = call(r#"{"to":"bob","amount":101}"#).digest();
    let (run, other_run) = (question().run, RunId::parse("run_2").unwrap());
    let other_machine = Thumbprint::from_bytes([6; 32]);
    let check =
        |digest: &Sha256Digest, run: &RunId, machine: &Thumbprint, expected: Result<(), ApprovalError>| {
            assert_eq!(granted().consume(digest, run, machine, NOW).map(drop), expected);
        };
    check(&digest, &run, &JKT, Ok(()));
    check(&other_call, &run, &JKT, Err(ApprovalError::Mismatch));
    check(&digest, &other_run, &JKT, Err(ApprovalError::Mismatch));
    check(&digest, &run, &other_machine, Err(ApprovalError::Mismatch));
    let used = consume(granted(), NOW).unwrap();
    assert_eq!(consume(used.clone(), NOW).unwrap_err(), ApprovalError::Spent);
    assert_eq!(used.clone().grant(&bob(), &signed_by(&bob()), NOW).unwrap_err(), ApprovalError::Answered);
    assert_eq!(used.refuse(&bob(), NOW).unwrap_err(), ApprovalError::Spent);
    assert_eq!(consume(asked(), NOW).unwrap_err(), ApprovalError::Pending);
    // Same meaning, other spelling: the same call.
    let respelled = call(r#"{"amount":1e2,"to":"\u0062ob"}"#).digest();
    check(&respelled, &run, &JKT, Ok(()));
}

#[test]
fn no_stays_no_and_late_stays_late() {
    let late = NOW.plus_secs(300);
    let refused = granted().refuse(&bob(), NOW).unwrap();
    assert_eq!(consume(refused.clone(), NOW).unwrap_err(), ApprovalError::Refused);
    assert_eq!(refused.clone().grant(&bob(), &signed_by(&bob()), NOW).unwrap_err(), ApprovalError::Refused);
    assert_eq!(refused.clone().expire(late), refused);
    assert_eq!(asked().grant(&bob(), &signed_by(&bob()), late).unwrap_err(), ApprovalError::Expired);
    assert_eq!(consume(granted(), late).unwrap_err(), ApprovalError::Expired);
    assert_eq!(consume(asked(), late).unwrap_err(), ApprovalError::Expired);
    let expired = asked().expire(late);
    assert_eq!(expired.answer, Answer::Expired);
    assert_eq!(expired.clone().grant(&bob(), &signed_by(&bob()), NOW).unwrap_err(), ApprovalError::Expired);
    assert_eq!(expired.refuse(&bob(), NOW).unwrap_err(), ApprovalError::Expired);
    assert_eq!(asked().expire(NOW.plus_secs(299)), asked());
}

#[test]
fn whatever_the_order_of_events_the_final_state_never_flips() {
    type Event = fn(Approval) -> Result<Approval, ApprovalError>;
    let events: [Event; 4] = [
        |approval| approval.grant(&bob(), &signed_by(&bob()), NOW),
        |approval| approval.refuse(&bob(), NOW),
        |approval| consume(approval, NOW),
        |approval| Ok(approval.expire(NOW.plus_secs(300))),
    ];
    let mut spent = 0;
    // Every sequence of six events, 4^6 of them: at most one call goes out, and never after a no or the end.
    for sequence in 0..4096_usize {
        let (mut approval, mut calls, mut over) = (asked(), 0, false);
        for step in 0..6 {
            let event = (sequence >> (2 * step)) & 3;
            let before = approval.clone();
            if let Ok(after) = events[event](approval.clone()) {
                approval = after;
                calls += usize::from(event == 2);
                assert!(!(over && approval != before), "a final state changed: {before:?} -> {approval:?}");
            }
            over = matches!(approval.answer, Answer::Refused { .. } | Answer::Used { .. } | Answer::Expired);
        }
        assert!(calls <= 1);
        spent += calls;
    }
    assert!(spent > 0);
}

#[test]
fn questions_do_not_stay_open_for_ever() {
    let open =
        |secs: i64| Approval::ask(Question { expires_at: NOW.plus_secs(secs), ..question() }).map(drop);
    assert_eq!(open(900), Ok(()));
    assert_eq!(open(901), Err(ApprovalError::OpenTooLong));
    assert_eq!(open(0), Err(ApprovalError::Expired));
}

#[test]
fn approvals_survive_the_store() {
    for approval in [asked(), granted(), consume(granted(), NOW).unwrap(), asked().expire(NOW.plus_secs(300))]
    {
        let text = serde_json::to_string(&approval).unwrap();
        assert_eq!(serde_json::from_str::<Approval>(&text).unwrap(), approval);
    }
}

#[test]
fn a_grant_is_for_one_call_of_one_run_on_one_machine() {
    let key = SoftwareEd25519::generate().unwrap();
    let keys = KeySet::from_keys(vec![("a1".into(), key.public_jwk())]).unwrap();
    assert!(granted().to_grant(ISSUER, "g1", NOW).is_none(), "nothing goes out before the yes is spent");
    let grant = consume(granted(), NOW).unwrap().to_grant(ISSUER, "g1", NOW).unwrap();
    let text = grant.sign(&key, "a1").unwrap();
    let (question, digest) = (question(), question().call.digest());
    let expect = GrantExpectation {
        issuer: ISSUER,
        keys: &keys,
        now: NOW,
        call_digest: &digest,
        agent: &question.agent,
        run: &question.run,
        machine_jkt: &JKT,
    };
    let verified = verify_grant(&text, &expect).unwrap();
    assert_eq!((verified.id(), verified.call_digest()), (&question.id, &digest));
    assert_eq!((verified.approver(), verified.policy()), (&bob().id, &question.policy));
    assert_eq!(verified.expires_at(), NOW.plus_secs(60));

    let check = |expect: GrantExpectation<'_>, expected: GrantError| {
        assert_eq!(verify_grant(&text, &expect).unwrap_err(), expected);
    };
    check(GrantExpectation { now: NOW.plus_secs(60), ..expect }, GrantError::Expired);
    check(GrantExpectation { issuer: "https://other", ..expect }, GrantError::Issuer);
    check(GrantExpectation { call_digest: &Sha256Digest::of(b"other"), ..expect }, GrantError::Mismatch);
    check(GrantExpectation { agent: &AgentId::parse("other").unwrap(), ..expect }, GrantError::Mismatch);
    check(GrantExpectation { run: &RunId::parse("run_2").unwrap(), ..expect }, GrantError::Mismatch);
    check(GrantExpectation { machine_jkt: &Thumbprint::from_bytes([6; 32]), ..expect }, GrantError::Mismatch);
    let payload = json::from_serde(&grant).unwrap().to_jcs();
    let as_token = sign_compact(&key, "at+jwt", &[("kid", Value::from("a1"))], &payload).unwrap();
    assert_eq!(verify_grant(&as_token, &expect).unwrap_err(), GrantError::Jws(JwsError::Typ));
    let stranger = grant.sign(&SoftwareEd25519::generate().unwrap(), "a1").unwrap();
    assert_eq!(verify_grant(&stranger, &expect).unwrap_err(), GrantError::Jws(JwsError::Signature));
}
