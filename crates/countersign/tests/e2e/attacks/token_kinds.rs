//! JOS-12: each kind of token that we sign, in each place that takes a token. Only its own place takes it.
//!
//! The kinds that never leave the process (leases of snapshots, approval grants) have no place to be presented at;
//! that their `typ` keeps them apart is tested where they are verified (proto/snapshot, identity/approval).

use countersign_proto::channel;
use countersign_testkit::insider::{Answer, now, tool_call};
use serde_json::json;

use super::Scene;
use crate::block_on;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    AccessToken,
    ClientAttestation,
    AttestationProof,
    GatewayDpop,
    TokenDpop,
    ChannelProof,
    AcmeRequest,
}

const KINDS: [Kind; 7] = [
    Kind::AccessToken,
    Kind::ClientAttestation,
    Kind::AttestationProof,
    Kind::GatewayDpop,
    Kind::TokenDpop,
    Kind::ChannelProof,
    Kind::AcmeRequest,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Authorization,
    Dpop,
    Channel,
    Attestation,
    AttestationPop,
    TokenDpop,
}

const PLACES: [(Place, Kind); 6] = [
    (Place::Authorization, Kind::AccessToken),
    (Place::Dpop, Kind::GatewayDpop),
    (Place::Channel, Kind::ChannelProof),
    (Place::Attestation, Kind::ClientAttestation),
    (Place::AttestationPop, Kind::AttestationProof),
    (Place::TokenDpop, Kind::TokenDpop),
];

/// A fresh one of each kind, so that nothing but its kind can be held against it.
async fn fresh(scene: &Scene, kind: Kind) -> String {
    let insider = &scene.insider;
    let ready = scene.stage.world.ready();
    match kind {
        Kind::AccessToken => scene.token.clone(),
        Kind::ClientAttestation => insider.attest().await.expect("an attestation"),
        Kind::AttestationProof => {
            insider.prove_machine(&insider.challenge().await.expect("a challenge")).expect("a proof by M")
        }
        Kind::GatewayDpop => {
            insider.proof_for("POST", &insider.url(), Some(&scene.token)).expect("a proof by A")
        }
        Kind::TokenDpop => {
            insider.proof_for("POST", &format!("{}/oauth/token", ready.server), None).expect("a proof by A")
        }
        Kind::ChannelProof => {
            channel::prove(&insider.key, &[7; 32], &ready.gateway, now()).expect("a proof by A")
        }
        Kind::AcmeRequest => {
            let url = format!("{}/acme/new-account", ready.server);
            let signed = countersign_proto::acme::sign_request(&insider.key, None, "nonce", &url, b"{}")
                .expect("signed");
            let parts: serde_json::Value = serde_json::from_slice(&signed).expect("JSON");
            let part = |name: &str| parts[name].as_str().expect("a part").to_owned();
            [part("protected"), part("payload"), part("signature")].join(".")
        }
    }
}

/// A request in which everything is right but what lies in `place`.
async fn present(scene: &Scene, place: Place, kind: Kind) -> Answer {
    let token = fresh(scene, kind).await;
    let body = tool_call(1, "notes.read", &json!({ "topic": "roadmap" })).to_string();
    let replace = |header: &'static str, value: String| {
        move |headers: &mut Vec<(String, String)>| {
            for (name, old) in headers.iter_mut() {
                if name == header {
                    old.clone_from(&value);
                }
            }
        }
    };
    match place {
        Place::Authorization => {
            scene.post(body.as_bytes(), replace("authorization", format!("DPoP {token}"))).await
        }
        Place::Dpop => scene.post(body.as_bytes(), replace("dpop", token)).await,
        Place::Channel => {
            // Its own kind is bound to the connection; the others are sent as they are.
            let stolen = (kind != Kind::ChannelProof).then_some(token.as_str());
            let (insider, url) = (&scene.insider, scene.insider.url());
            let body = serde_json::from_str(&body).expect("JSON");
            let session = Some(scene.session.as_str());
            let sent = insider
                .caller
                .call_on_channel(&url, &scene.token, &insider.key, stolen, session, &body)
                .await;
            sent.expect("an answer").0
        }
        Place::Attestation | Place::AttestationPop | Place::TokenDpop => {
            let own = |at: Place, own: Kind| {
                let token = token.clone();
                async move { if at == place { token } else { fresh(scene, own).await } }
            };
            let attestation = own(Place::Attestation, Kind::ClientAttestation).await;
            let pop = own(Place::AttestationPop, Kind::AttestationProof).await;
            let dpop = own(Place::TokenDpop, Kind::TokenDpop).await;
            let headers = [
                ("oauth-client-attestation", attestation.as_str()),
                ("oauth-client-attestation-pop", pop.as_str()),
                ("dpop", dpop.as_str()),
            ];
            let form = scene.insider.token_form(&scene.task);
            scene.insider.token_request(&form, &headers).await.expect("an answer")
        }
    }
}

#[test]
fn each_kind_of_token_is_worth_something_in_its_own_place_only() {
    let scene = Scene::new();
    let world = &scene.stage.world;
    block_on(async {
        for (place, own) in PLACES {
            let control = present(&scene, place, own).await;
            assert_eq!(control.status, 200, "the control, {own:?} in {place:?}: {}", control.json());
        }
        let reached = world.upstream_stats().expect("counters")["calls"].clone();
        let from = world.log_size().expect("a size");
        let mut cells = 0;
        for (place, own) in PLACES {
            for kind in KINDS.into_iter().filter(|kind| *kind != own) {
                let answer = present(&scene, place, kind).await;
                let body = answer.json();
                assert!(
                    (400..=401).contains(&answer.status),
                    "{kind:?} in {place:?}: {} {body}",
                    answer.status
                );
                assert!(
                    body["access_token"].is_null() && body["result"].is_null(),
                    "{kind:?} in {place:?}: {body}"
                );
                cells += 1;
            }
        }
        assert_eq!(cells, PLACES.len() * (KINDS.len() - 1));
        assert_eq!(
            world.upstream_stats().expect("counters")["calls"],
            reached,
            "something reached the tool server"
        );
        let records = world.records(from).expect("records");
        let of_kind = |kind: &str| records.iter().filter(|entry| entry["record"]["kind"] == kind).count();
        let issued = records
            .iter()
            .filter(|entry| entry["record"]["what"] == "access_token" && entry["record"]["kind"] == "issue");
        assert_eq!((of_kind("intent"), issued.count()), (0, 0), "something was allowed");
        assert_eq!(of_kind("denial"), cells, "one record per refusal");
    });
}
