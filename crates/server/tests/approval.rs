//! Approvals end to end inside the control plane: asked by a gateway, answered with a passkey, spent once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use countersign_identity::approval::GrantExpectation;
use countersign_identity::verify_grant;
use countersign_proto::approval::ApprovalObject;
use countersign_proto::b64;
use countersign_proto::call::Call;
use countersign_proto::digest::Sha256Digest;
use countersign_proto::id::{
    AgentId, ApprovalId, DecisionId, MachineId, PersonId, RunId, TaskId, ToolName, UpstreamId,
};
use countersign_proto::jose::{JwsSigner, KeySet, Thumbprint};
use countersign_proto::json;
use countersign_proto::time::Clock;
use countersign_proto::webauthn::{AssertionResponse, signed_challenge};
use countersign_server::{ApprovalOutcome, ApprovalRequest, ControlError};
use serde_json::{Value, json};
use support::ISSUER;
use support::world::{AGENT, World};

fn call(path: &str) -> Call {
    let arguments = json::from_serde(&json!({"path": path})).unwrap();
    let json::Value::Object(arguments) = arguments else { panic!("an object") };
    Call {
        upstream: UpstreamId::parse("files").unwrap(),
        tool: ToolName::parse("read_file").unwrap(),
        arguments,
    }
}

fn request(world: &World, path: &str) -> ApprovalRequest {
    ApprovalRequest {
        decision_id: DecisionId::parse("dec_1").unwrap(),
        call: call(path),
        agent: AgentId::parse(AGENT).unwrap(),
        run: RunId::parse("run_1").unwrap(),
        machine: MachineId::parse("m-1").unwrap(),
        machine_jkt: world.machine.key.public_jwk().thumbprint(),
        task: TaskId::parse(&world.task).unwrap(),
        requester: PersonId::parse("alice").unwrap(),
        policy: Sha256Digest::of(b"policy"),
        asked_by: None,
        agent_says: Some("please".into()),
    }
}

async fn redeem(world: &World, id: &ApprovalId, request: &ApprovalRequest) -> ApprovalOutcome {
    let digest = request.call.digest();
    world
        .harness
        .server
        .control
        .redeem_approval(id, &digest, &request.run, &request.machine_jkt)
        .await
        .unwrap()
}

async fn impatient() -> World {
    World::with(|config| config.limits.long_poll_millis = 50).await
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_again_finds_the_first_request_and_other_calls_are_other_requests() {
    let world = impatient().await;
    let control = &world.harness.server.control;
    let first = control.ask_approval(request(&world, "/srv/a")).await.unwrap();
    let asked =
        futures_util::future::join_all((0..20).map(|_| control.ask_approval(request(&world, "/srv/a"))))
            .await;
    assert!(asked.into_iter().all(|handle| handle.unwrap() == first));
    let other = control.ask_approval(request(&world, "/srv/b")).await.unwrap();
    assert_ne!(first.id, other.id);
    assert_eq!(redeem(&world, &first.id, &request(&world, "/srv/a")).await, ApprovalOutcome::Pending);
    let listed: Value = world.harness.admin("GET", "/admin/v1/approvals", json!({})).await.unwrap();
    assert_eq!(listed["approvals"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_cannot_flood_the_inbox() {
    let world = World::with(|config| config.limits.pending_approvals_per_agent = 3).await;
    let control = &world.harness.server.control;
    for path in ["/a", "/b", "/c"] {
        control.ask_approval(request(&world, path)).await.unwrap();
    }
    assert!(matches!(control.ask_approval(request(&world, "/d")).await, Err(ControlError::TooManyPending)));
    // Asking for one that waits already is not another one.
    control.ask_approval(request(&world, "/a")).await.unwrap();
    world.harness.clock.advance_secs(301);
    control.ask_approval(request(&world, "/d")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_does_not_fit_its_task_is_not_asked() {
    let world = impatient().await;
    let control = &world.harness.server.control;
    type Spoil = fn(&mut ApprovalRequest);
    let cases: [(&str, Spoil); 3] = [
        ("another requester", |request| request.requester = PersonId::parse("bob").unwrap()),
        ("another agent", |request| request.agent = AgentId::parse("other").unwrap()),
        ("unknown task", |request| request.task = TaskId::parse("task_x").unwrap()),
    ];
    for (name, spoil) in cases {
        let mut spoiled = request(&world, "/a");
        spoil(&mut spoiled);
        assert!(matches!(control.ask_approval(spoiled).await, Err(ControlError::Refused(_))), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unanswered_requests_expire_and_a_kill_cancels_them() {
    let world = impatient().await;
    let control = &world.harness.server.control;
    let one = control.ask_approval(request(&world, "/a")).await.unwrap();
    world.harness.clock.advance_secs(301);
    assert_eq!(redeem(&world, &one.id, &request(&world, "/a")).await, ApprovalOutcome::Expired);
    let two = control.ask_approval(request(&world, "/b")).await.unwrap();
    let kill = format!("/admin/v1/agents/{AGENT}/kill");
    let _: Value = world.harness.admin("POST", &kill, json!({})).await.unwrap();
    assert_eq!(redeem(&world, &two.id, &request(&world, "/b")).await, ApprovalOutcome::Expired);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_yes_is_for_one_call_one_run_one_machine_and_one_time() {
    let world = impatient().await;
    let control = &world.harness.server.control;
    let asked = request(&world, "/srv/a");
    let handle = control.ask_approval(asked.clone()).await.unwrap();
    support::people::approve(&world.harness, "bob", &handle.id).await.unwrap();

    // Somebody else's call, run or machine: nothing is told, nothing is spent.
    let mut other = asked.clone();
    other.call = call("/srv/b");
    assert_eq!(redeem(&world, &handle.id, &other).await, ApprovalOutcome::Mismatch);
    let mut other = asked.clone();
    other.run = RunId::parse("run_2").unwrap();
    assert_eq!(redeem(&world, &handle.id, &other).await, ApprovalOutcome::Mismatch);
    let mut other = asked.clone();
    other.machine_jkt = Thumbprint::from_bytes([1; 32]);
    assert_eq!(redeem(&world, &handle.id, &other).await, ApprovalOutcome::Mismatch);

    let outcomes = futures_util::future::join_all((0..20).map(|_| redeem(&world, &handle.id, &asked))).await;
    let grants: Vec<_> = outcomes
        .iter()
        .filter_map(|outcome| match outcome {
            ApprovalOutcome::Granted(grant) => Some(grant),
            _ => None,
        })
        .collect();
    assert_eq!(grants.len(), 1, "{outcomes:?}");
    let keys = KeySet::parse_value(&world.harness.snapshot().approval_keys).unwrap();
    let digest = asked.call.digest();
    let expectation = GrantExpectation {
        issuer: ISSUER,
        keys: &keys,
        now: world.harness.clock.now(),
        call_digest: &digest,
        agent: &asked.agent,
        run: &asked.run,
        machine_jkt: &asked.machine_jkt,
    };
    let granted = verify_grant(grants[0], &expectation).unwrap();
    assert_eq!(granted.approver().as_str(), "bob");
    assert_eq!(redeem(&world, &handle.id, &asked).await, ApprovalOutcome::Spent);

    let acts: Vec<_> =
        world.harness.records_of("approval").await.iter().map(|record| record["act"].clone()).collect();
    assert_eq!(acts, ["approval.ask", "approval.grant", "approval.use"]);
    let grant = &world.harness.records_of("approval").await[1];
    assert!(grant["assertion"]["signature"].is_string(), "the signed yes is in the log: {grant}");
    assert_eq!(grant["object"]["call"], json!(digest), "but of the call only its digest: {grant}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_gateway_learns_of_the_answer_at_once() {
    let world = World::new().await;
    let control = world.harness.server.control.clone();
    let asked = request(&world, "/srv/a");
    let handle = control.ask_approval(asked.clone()).await.unwrap();
    let (id, digest) = (handle.id.clone(), asked.call.digest());
    let waiting = tokio::spawn(async move {
        control.redeem_approval(&id, &digest, &asked.run, &asked.machine_jkt).await.unwrap()
    });
    support::people::approve(&world.harness, "bob", &handle.id).await.unwrap();
    assert!(matches!(waiting.await.unwrap(), ApprovalOutcome::Granted(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_approves_their_own_request() {
    let world = impatient().await;
    let asked = request(&world, "/srv/a");
    let handle = world.harness.server.control.ask_approval(asked.clone()).await.unwrap();
    let refused = support::people::approve(&world.harness, "alice", &handle.id).await;
    assert_eq!(refused, Err(403));
    assert_eq!(redeem(&world, &handle.id, &asked).await, ApprovalOutcome::Pending);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_has_no_arguments_of_an_approved_call_and_its_signature_can_still_be_checked() {
    let world = impatient().await;
    // Far more than a record can hold.
    let canary = "canary-in-the-arguments ".repeat(8000);
    let asked = request(&world, &canary);
    let handle = world.harness.server.control.ask_approval(asked.clone()).await.unwrap();
    support::people::approve(&world.harness, "bob", &handle.id).await.unwrap();
    assert!(matches!(redeem(&world, &handle.id, &asked).await, ApprovalOutcome::Granted(_)));
    let records = world.harness.records().await;
    assert!(records.iter().all(|record| !record.to_string().contains("canary-in-the-arguments")));

    let path = format!("/admin/v1/approvals/{}", handle.id);
    let signed: Value = world.harness.admin("GET", &path, json!({})).await.unwrap();
    let object: ApprovalObject = serde_json::from_value(signed["object"].clone()).unwrap();
    assert_eq!(object.call, asked.call);
    let challenge = b64::url_encode(&object.challenge().unwrap());
    let grant = records.iter().find(|record| record["act"] == "approval.grant").unwrap();
    assert_eq!(grant["challenge"], challenge);
    assert_eq!(signed["assertion"], grant["assertion"]);
    let response: AssertionResponse = serde_json::from_value(signed["assertion"].clone()).unwrap();
    let said = signed_challenge(&response.client_data).unwrap();
    assert_eq!(b64::url_encode(&said), challenge, "this object, and no other, is what the passkey signed");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_no_nobody_is_asked_the_same_again_for_a_while() {
    let world = impatient().await;
    let control = &world.harness.server.control;
    let asked = request(&world, "/srv/a");
    let refused = control.ask_approval(asked.clone()).await.unwrap();
    support::people::refuse(&world.harness, "bob", &refused.id).await;

    let again = control.ask_approval(asked.clone()).await.unwrap();
    assert_eq!(again, refused, "the answer is there already");
    assert_eq!(redeem(&world, &again.id, &asked).await, ApprovalOutcome::Refused);
    let mut in_another_run = asked.clone();
    in_another_run.run = RunId::parse("run_2").unwrap();
    assert!(matches!(control.ask_approval(in_another_run).await, Err(ControlError::Refused(_))));
    let other = control.ask_approval(request(&world, "/srv/b")).await.unwrap();
    assert_ne!(other.id, refused.id, "another call is another question");

    world.harness.clock.advance_secs(301);
    let later = control.ask_approval(asked).await.unwrap();
    assert_ne!(later.id, refused.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_fails_leaves_a_record() {
    let harness = support::Harness::start().await;
    assert_eq!(support::people::fail_to_log_in(&harness).await, 403);
    assert_eq!(harness.refusals("login.refused").await, 1);
}
