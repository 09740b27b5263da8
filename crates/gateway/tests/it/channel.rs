//! The proof that is made once per connection: good on that connection, worthless on any other.

use countersign_proto::channel;
use countersign_proto::jose::SoftwareEd25519;
use http::StatusCode;

use crate::world::{ORIGIN, World, text};

#[tokio::test]
async fn a_bound_connection_needs_no_proof_per_call() {
    let world = World::new().await;
    let mut wire = world.connect(Some(&world.ours)).await;
    let proof = channel::prove(&world.agent_key, &wire.exporter, ORIGIN, world.now()).unwrap();
    let bare = || world.call("read", "{}").without("dpop");
    let before = world.log.size();
    let first = wire.send(bare().header("countersign-channel", &proof)).await;
    assert_eq!(first.status, StatusCode::OK, "{}", first.text());
    for _ in 0..3 {
        assert_eq!(wire.send(bare()).await.status, StatusCode::OK);
    }
    world.kinds_from(before, 8).await;
    let records = world.records_from(before).await;
    let intents = records.iter().filter(|record| text(record, "kind") == "intent");
    assert!(intents.clone().all(|record| text(record, "agent_proof") == "channel"));
    assert_eq!(intents.count(), 4);
}

#[tokio::test]
async fn a_connections_proof_is_worthless_on_another() {
    let world = World::new().await;
    let wire = world.connect(Some(&world.ours)).await;
    let proof = channel::prove(&world.agent_key, &wire.exporter, ORIGIN, world.now()).unwrap();
    let attempt = || world.call("read", "{}").without("dpop").header("countersign-channel", &proof);
    let mut other = world.connect(Some(&world.ours)).await;
    world.check_on(&mut other, attempt(), "401 pop.invalid").await;
    world.check_on(&mut other, world.call("read", "{}").without("dpop"), "401 pop.missing").await;
}

#[tokio::test]
async fn a_connections_proof_is_current_and_for_this_gateway() {
    let world = World::new().await;
    let mut wire = world.connect(Some(&world.ours)).await;
    let exporter = wire.exporter;
    let prove = |audience: &str, age: i64| {
        channel::prove(&world.agent_key, &exporter, audience, world.now().plus_secs(-age)).unwrap()
    };
    let with = |proof: &str| world.call("read", "{}").without("dpop").header("countersign-channel", proof);
    world.check_on(&mut wire, with(&prove("https://other.test", 0)), "401 pop.invalid").await;
    world.check_on(&mut wire, with(&prove(ORIGIN, 61)), "401 pop.invalid").await;
}

#[tokio::test]
async fn a_connection_belongs_to_the_first_agent_key_that_bound_it() {
    let world = World::new().await;
    let mut wire = world.connect(Some(&world.ours)).await;
    let ours = channel::prove(&world.agent_key, &wire.exporter, ORIGIN, world.now()).unwrap();
    let other_key = SoftwareEd25519::generate().unwrap();
    let theirs = channel::prove(&other_key, &wire.exporter, ORIGIN, world.now()).unwrap();
    let with = |proof: &str| world.call("read", "{}").without("dpop").header("countersign-channel", proof);
    assert_eq!(wire.send(with(&ours)).await.status, StatusCode::OK);
    world.check_on(&mut wire, with(&theirs), "401 pop.invalid").await;
    assert_eq!(wire.send(world.call("read", "{}").without("dpop")).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_bound_connection_carries_only_tokens_of_its_key() {
    let world = World::new().await;
    let mut wire = world.connect(Some(&world.ours)).await;
    let other_key = SoftwareEd25519::generate().unwrap();
    let proof = channel::prove(&other_key, &wire.exporter, ORIGIN, world.now()).unwrap();
    let attempt = world.call("read", "{}").without("dpop").header("countersign-channel", &proof);
    world.check_on(&mut wire, attempt, "401 bind.agent_key").await;
}
