//! What becomes of a kill when the store fails in the middle of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use countersign_proto::id::AgentId;
use countersign_proto::snapshot::AgentState;
use serde_json::{Value, json};
use support::Harness;
use support::faulty::Fault;

const LONG: Duration = Duration::from_secs(20);

async fn with_agent(change: impl FnOnce(&mut countersign_server::ServerConfig)) -> Harness {
    let harness = Harness::start_with(change).await;
    for (path, body) in [
        ("/admin/v1/persons", json!({"id": "alice", "display_name": "Alice"})),
        ("/admin/v1/agents", json!({"id": "bot", "sponsor": "alice"})),
    ] {
        let _: Value = harness.admin("POST", path, body).await.unwrap();
    }
    harness
}

fn is_killed(harness: &Harness) -> bool {
    harness.snapshot().agents[&AgentId::parse("bot").unwrap()].state == AgentState::Suspended
}

async fn kill(harness: &Harness) -> Result<Value, (u16, String)> {
    harness.admin("POST", "/admin/v1/agents/bot/kill", json!({"reason": "leaked"})).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_is_published_although_the_answer_of_the_store_was_lost() {
    let harness = with_agent(|_| {}).await;
    harness.faults.set(Fault::LoseAnswer);
    assert_eq!(kill(&harness).await, Err((503, "unavailable".into())));
    assert!(is_killed(&harness));
    let records = harness.records_of("revoke").await;
    let results: Vec<_> = records.iter().map(|record| record["result"].as_str()).collect();
    assert_eq!(results, [None, Some("unknown")], "the log says that nobody knows");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_is_published_although_nobody_waits_for_its_answer() {
    let harness = with_agent(|config| config.limits.request_millis = 200).await;
    harness.faults.set(Fault::AnswerLate);
    let socket = harness.socket();
    let cut = tokio::task::spawn_blocking(move || {
        let body = json!({"reason": "leaked"});
        countersign_server::admin::client::call::<_, Value>(
            &socket,
            "POST",
            "/admin/v1/agents/bot/kill",
            &body,
        )
    });
    assert!(cut.await.unwrap().is_err(), "the time limit of requests");
    let mut snapshots = harness.server.control.snapshots();
    harness.faults.set(Fault::None);
    let published = async {
        while !is_killed(&harness) {
            snapshots.changed().await.unwrap();
        }
    };
    tokio::time::timeout(LONG, published).await.expect("the kill is published");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_lease_is_given_while_the_store_takes_no_write() {
    let harness = with_agent(|config| {
        config.limits.renew_lease_millis = 20;
        config.limits.store_patience_millis = 100;
    })
    .await;
    let mut snapshots = harness.server.control.snapshots();
    let mut next = async |within| tokio::time::timeout(within, snapshots.changed()).await.is_ok();
    assert!(next(LONG).await, "leases are renewed");
    harness.faults.set(Fault::Hang);
    // One may be on its way already; a second one is not.
    let quiet = Duration::from_millis(500);
    assert!(
        !(next(quiet).await && next(quiet).await && next(quiet).await),
        "no lease while nobody can be killed"
    );
    harness.faults.set(Fault::None);
    assert!(next(LONG).await, "and again when the store is back");
}
