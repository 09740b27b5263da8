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
