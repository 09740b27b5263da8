//! The token endpoint and the attester: what comes out when everything is right, and what does not otherwise.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use countersign_identity::{TokenExpectation, verify_token};
use countersign_proto::attestation_client::prove_pop;
use countersign_proto::dpop;
use countersign_proto::id::AgentId;
use countersign_proto::jose::{JwsSigner, KeySet, SoftwareEd25519, SoftwareP256};
use countersign_proto::oauth::Form;
use countersign_proto::time::Clock;
use serde_json::{Value, json};
use support::tpm::{SoftTpm, enroll_machine};
use support::world::{AGENT, TokenCall, World, create_task};
use support::{ISSUER, RESOURCE};

fn key() -> SoftwareEd25519 {
    SoftwareEd25519::generate().unwrap()
}

async fn published_keys(world: &World) -> KeySet {
    let answer = world.harness.https(None, "GET", "/oauth/jwks", &[], "").await;
    KeySet::parse_jwks(&answer.body).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn both_factors_and_a_task_make_a_token_bound_to_both_keys() {
    let mut world = World::new().await;
    let agent_key = key();
    let call = world.request(&agent_key).await;
    let answer = world.send(&call).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let answer = answer.json();
    assert_eq!(answer["token_type"], "DPoP");

    let keys = published_keys(&world).await;
    let expectation = TokenExpectation {
        issuer: ISSUER,
        audience: RESOURCE,
        keys: &keys,
        now: world.harness.clock.now(),
        max_lifetime_secs: 300,
    };
    let token = verify_token(answer["access_token"].as_str().unwrap(), &expectation).unwrap();
    let claims = token.claims();
    assert_eq!(claims.cnf.jkt, agent_key.public_jwk().thumbprint());
    assert_eq!(claims.env.jkt, world.machine.key.public_jwk().thumbprint());
    assert_eq!((claims.env.lvl, claims.acr.to_string().as_str()), (3, "urn:countersign:acr:e3u1"));
    assert_eq!((claims.sub.as_str(), claims.txn.as_str()), ("alice", world.task.as_str()));

    let issued = world.harness.records_of("issue").await;
    let record = issued.iter().find(|record| record["what"] == "access_token").unwrap();
    assert_eq!(record["jti"], claims.jti);
    // The evidence the token refers to is in the log.
    let attested = issued.iter().find(|record| record["what"] == "client_attestation").unwrap();
    assert_eq!(attested["env"]["ev"], json!(claims.env.ev));
    assert!(attested["evidence"]["quote"].is_string());
    let alarms = world.harness.records_of("alarm").await;
    assert_eq!(alarms.len(), 0, "{alarms:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_agent_key_stays_in_its_run_and_another_opens_another() {
    let mut world = World::new().await;
    let agent_key = key();
    let mut runs = Vec::new();
    for key in [&agent_key, &agent_key, &key()] {
        let call = world.request(key).await;
        assert_eq!(world.send(&call).await.status, 200);
        let issued = world.harness.records_of("issue").await;
        runs.push(issued.last().unwrap()["run"].as_str().unwrap().to_owned());
    }
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], runs[2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_request_is_refused_with_one_record_and_no_token() {
    let mut world = World::new().await;
    let agent_key = key();
    let with_form = |parameters: &[(&str, &str)]| {
        let mut all = vec![("grant_type", "client_credentials"), ("client_id", "agent:build-bot")];
        all.extend_from_slice(parameters);
        Form::encode(&all)
    };
    let details = |text: &str| with_form(&[("resource", RESOURCE), ("authorization_details", text)]);
    let now = world.harness.clock.now();
    let token_url = format!("{ISSUER}/oauth/token");
    let client = AgentId::parse(AGENT).unwrap();
    let stranger = SoftwareP256::generate().unwrap();

    type Spoil = Box<dyn Fn(&mut TokenCall)>;
    let cases: Vec<(&str, u16, &str, Spoil)> = vec![
        ("GET", 400, "invalid_request", Box::new(|call| call.method = "GET".into())),
        ("query", 400, "invalid_request", Box::new(|call| call.path = "/oauth/token?client_id=x".into())),
        ("json", 400, "invalid_request", Box::new(|call| call.content_type = "application/json".into())),
        (
            "two ways to authenticate",
            400,
            "invalid_request",
            Box::new(|call| {
                call.more.push(("authorization", "Basic eDp5".into()));
            }),
        ),
        ("a secret besides", 400, "invalid_request", Box::new(|call| call.form.push_str("&client_secret=x"))),
        (
            "duplicate parameter",
            400,
            "invalid_request",
            Box::new(|call| {
                call.form.push_str("&client_id=agent%3Abuild-bot");
            }),
        ),
        ("two resources", 400, "invalid_target", Box::new(|call| call.form.push_str("&resource=x"))),
        ("no resource", 400, "invalid_target", {
            let form = with_form(&[]);
            Box::new(move |call| call.form = form.clone())
        }),
        ("unknown resource", 400, "invalid_target", {
            let form = with_form(&[("resource", "https://gw.test/mcp/FILES")]);
            Box::new(move |call| call.form = form.clone())
        }),
        (
            "another grant",
            400,
            "unsupported_grant_type",
            Box::new(|call| {
                call.form = call.form.replace("client_credentials", "refresh_token");
            }),
        ),
        ("no attestation", 401, "invalid_client", Box::new(|call| call.attestation.clear())),
        ("no proof of the machine", 401, "invalid_client", Box::new(|call| call.pop.clear())),
        ("no dpop", 400, "invalid_dpop_proof", Box::new(|call| call.dpop.clear())),
        (
            "two dpop proofs",
            400,
            "invalid_request",
            Box::new(|call| {
                let again = call.dpop.clone();
                call.more.push(("dpop", again));
            }),
        ),
        (
            "another client",
            401,
            "invalid_client",
            Box::new(|call| {
                call.form = call.form.replace("build-bot", "other-bot");
            }),
        ),
        (
            "proof by another key",
            401,
            "invalid_client_attestation",
            Box::new(move |call| {
                call.pop = prove_pop(&stranger, &client, ISSUER, "AAAA", "p1", now).unwrap();
            }),
        ),
        ("dpop for another method", 400, "invalid_dpop_proof", {
            let proof = dpop::prove(&agent_key, "GET", &token_url, None, None, "d1", now).unwrap();
            Box::new(move |call| call.dpop = proof.clone())
        }),
        ("dpop for another url", 400, "invalid_dpop_proof", {
            let proof =
                dpop::prove(&agent_key, "POST", "https://localhost/oauth", None, None, "d1", now).unwrap();
            Box::new(move |call| call.dpop = proof.clone())
        }),
        ("old dpop", 400, "invalid_dpop_proof", {
            let proof =
                dpop::prove(&agent_key, "POST", &token_url, None, None, "d1", now.plus_secs(-70)).unwrap();
            Box::new(move |call| call.dpop = proof.clone())
        }),
        ("unknown details type", 400, "invalid_authorization_details", {
            let form = details(r#"[{"type":"other","task":"task_x"}]"#);
            Box::new(move |call| call.form = form.clone())
        }),
        ("unknown details field", 400, "invalid_authorization_details", {
            let form = details(r#"[{"type":"urn:countersign:task","task":"task_x","more":1}]"#);
            Box::new(move |call| call.form = form.clone())
        }),
        ("unknown task", 400, "invalid_authorization_details", {
            let form = details(r#"[{"type":"urn:countersign:task","task":"task_unknown"}]"#);
            Box::new(move |call| call.form = form.clone())
        }),
    ];
    for (name, status, error, spoil) in cases {
        let mut call = world.request(&agent_key).await;
        spoil(&mut call);
        let issued = world.harness.records_of("issue").await.len();
        let denied = world.harness.records_of("denial").await.len();
        let answer = world.send(&call).await;
        assert_eq!(
            (answer.status, answer.json()["error"].as_str()),
            (status, Some(error)),
            "{name}: {answer:?}"
        );
        assert_eq!(world.harness.records_of("issue").await.len(), issued, "{name}");
        assert_eq!(world.harness.records_of("denial").await.len(), denied + 1, "{name}");
        assert!(answer.json()["access_token"].is_null(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_single_use_works_once() {
    let mut world = World::new().await;
    let agent_key = key();
    let first = world.request(&agent_key).await;
    assert_eq!(world.send(&first).await.status, 200);
    // Everything again: the challenge was spent first.
    let again = world.send(&first).await;
    assert_eq!((again.status, again.json()["error"].as_str()), (400, Some("use_attestation_challenge")));
    assert!(again.header("oauth-client-attestation-challenge").is_some());

    // A fresh machine proof, the agent's proof again.
    let mut second = world.request(&agent_key).await;
    second.dpop.clone_from(&first.dpop);
    let replayed = world.send(&second).await;
    assert_eq!((replayed.status, replayed.json()["error"].as_str()), (400, Some("invalid_dpop_proof")));
    assert_eq!(world.harness.refusals("pop.replayed").await, 1);

    // Twenty at once with the same proofs: one token.
    let call = world.request(&agent_key).await;
    let answers = futures_util::future::join_all((0..20).map(|_| world.send(&call))).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_proof_counts_once_whatever_else_is_fresh() {
    let mut world = World::new().await;
    let agent_key = key();
    let client = AgentId::parse(AGENT).unwrap();
    let mut answers = Vec::new();
    for name in ["p1", "p1", "p2"] {
        let mut call = world.request(&agent_key).await;
        let (challenge, now) = (world.challenge().await, world.harness.clock.now());
        call.pop = prove_pop(&world.machine.key, &client, ISSUER, &challenge, name, now).unwrap();
        let answer = world.send(&call).await;
        answers.push((answer.status, answer.json()["error"].as_str().unwrap_or("-").to_owned()));
    }
    let issued = (200, "-".to_owned());
    assert_eq!(answers, [issued.clone(), (401, "invalid_client_attestation".to_owned()), issued]);
    assert_eq!(world.harness.refusals("oas.assertion_replay").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attestation_of_a_machines_earlier_key_is_worth_nothing() {
    let mut world = World::new().await;
    let agent_key = key();
    // Proven before the machine got another key, presented after.
    let earlier = world.request(&agent_key).await;
    let earlier_identity = world.machine.identity.clone();
    world.machine.certify_another_key(&world.harness).await;
    // On a connection of the earlier key, so that nothing but the machine's row speaks against it.
    let identity = std::mem::replace(&mut world.machine.identity, earlier_identity);
    let answer = world.send(&earlier).await;
    assert_eq!((answer.status, answer.json()["error"].as_str()), (401, Some("invalid_client_attestation")));
    world.machine.identity = identity;
    let call = world.request(&agent_key).await;
    assert_eq!(world.send(&call).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_must_be_ours_and_fresh() {
    let mut world = World::new().await;
    let agent_key = key();
    let mut call = world.request(&agent_key).await;
    let client = AgentId::parse(AGENT).unwrap();
    let now = world.harness.clock.now();
    // A quote nonce is not a challenge, though it is ours.
    let nonce = world.nonce().await;
    call.pop = prove_pop(&world.machine.key, &client, ISSUER, &nonce, "p1", now).unwrap();
    assert_eq!(world.send(&call).await.json()["error"], "use_attestation_challenge");
    let challenge = world.challenge().await;
    world.harness.clock.advance_secs(61);
    let mut call = world.request(&agent_key).await;
    let now = world.harness.clock.now();
    call.pop = prove_pop(&world.machine.key, &client, ISSUER, &challenge, "p2", now).unwrap();
    assert_eq!(world.send(&call).await.json()["error"], "use_attestation_challenge");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_attestation_asks_for_a_fresh_one() {
    let mut world = World::new().await;
    let agent_key = key();
    let stale = world.request(&agent_key).await.attestation;
    world.harness.clock.advance_secs(301);
    let mut call = world.request(&agent_key).await;
    call.attestation = stale;
    let answer = world.send(&call).await;
    assert_eq!((answer.status, answer.json()["error"].as_str()), (400, Some("use_fresh_attestation")));
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_locked_revoked_and_ended_means_no_token() {
    async fn check(name: &str, path: impl Fn(&World) -> String, error: &str) {
        let mut world = World::new().await;
        let agent_key = key();
        let call = world.request(&agent_key).await;
        assert_eq!(world.send(&call).await.status, 200, "{name}");
        // Everything was proven before the administrator acted.
        let call = world.request(&agent_key).await;
        let path = path(&world);
        let _: Value = world.harness.admin("POST", &path, json!({"reason": "test"})).await.unwrap();
        let answer = world.send(&call).await;
        assert_eq!(answer.json()["error"], error, "{name}: {answer:?}");
    }
    check("agent killed", |_| format!("/admin/v1/agents/{AGENT}/kill"), "invalid_grant").await;
    check("sponsor disabled", |_| "/admin/v1/persons/alice/disable".into(), "invalid_grant").await;
    check("agent retired", |_| format!("/admin/v1/agents/{AGENT}/retire"), "invalid_grant").await;
    check("machine locked", |_| "/admin/v1/machines/m-1/lock".into(), "invalid_client_attestation").await;
    check("machine revoked", |_| "/admin/v1/machines/m-1/revoke".into(), "invalid_client_attestation").await;
    check(
        "task revoked",
        |world| format!("/admin/v1/tasks/{}/revoke", world.task),
        "invalid_authorization_details",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_run_ends_and_a_killed_agents_run_stays_dead_after_it_resumes() {
    let mut world = World::new().await;
    let agent_key = key();
    let call = world.request(&agent_key).await;
    assert_eq!(world.send(&call).await.status, 200);
    let kill = format!("/admin/v1/agents/{AGENT}/kill");
    let _: Value = world.harness.admin("POST", &kill, json!({})).await.unwrap();
    let _: Value =
        world.harness.admin("POST", &format!("/admin/v1/agents/{AGENT}/resume"), json!({})).await.unwrap();
    let call = world.request(&agent_key).await;
    assert_eq!(world.send(&call).await.json()["error"], "invalid_grant");

    let fresh = key();
    let call = world.request(&fresh).await;
    assert_eq!(world.send(&call).await.status, 200);
    let run = world.harness.records_of("issue").await.last().unwrap()["run"].as_str().unwrap().to_owned();
    let _: Value =
        world.harness.admin("POST", &format!("/admin/v1/runs/{run}/revoke"), json!({})).await.unwrap();
    assert!(world.harness.snapshot().revoked_runs.iter().any(|revoked| revoked.as_str() == run));
    let call = world.request(&fresh).await;
    assert_eq!(world.send(&call).await.json()["error"], "invalid_grant");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tasks_for_one_resource_must_be_named() {
    let mut world = World::new().await;
    let second = create_task(&world.harness, AGENT, 600).await;
    let agent_key = key();
    let call = world.request(&agent_key).await;
    assert_eq!(world.send(&call).await.json()["error"], "invalid_authorization_details");
    let mut call = world.request(&agent_key).await;
    let details = format!(r#"[{{"type":"urn:countersign:task","task":"{second}"}}]"#);
    call.form.push('&');
    call.form.push_str(&Form::encode(&[("authorization_details", details.as_str())]));
    assert_eq!(world.send(&call).await.status, 200);
    assert_eq!(world.harness.records_of("issue").await.last().unwrap()["task"], second);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_key_on_a_second_machine_is_refused_and_alarmed() {
    let second = SoftTpm::new();
    let digest = second.endorsement_digest();
    let mut world = World::with(|config| config.ek_allow_list.push(digest)).await;
    let agent_key = key();
    let call = world.request(&agent_key).await;
    assert_eq!(world.send(&call).await.status, 200);
    world.machine = enroll_machine(&world.harness, second, "m-2").await;
    let call = world.request(&agent_key).await;
    let answer = world.send(&call).await;
    assert_eq!((answer.status, answer.json()["error"].as_str()), (400, Some("invalid_grant")));
    let alarms = world.harness.records_of("alarm").await;
    assert_eq!(alarms.len(), 1);
    assert_eq!(alarms[0]["code"], "theft.agent_key");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attestation_relayed_over_another_machines_connection_is_refused() {
    let second = SoftTpm::new();
    let digest = second.endorsement_digest();
    let mut world = World::with(|config| config.ek_allow_list.push(digest)).await;
    let other = enroll_machine(&world.harness, second, "m-2").await;
    let agent_key = key();
    let call = world.request(&agent_key).await;
    let own = std::mem::replace(&mut world.machine.identity, other.identity);
    let answer = world.send(&call).await;
    assert_eq!((answer.status, answer.json()["error"].as_str()), (401, Some("invalid_client")));
    world.machine.identity = own;
    assert_eq!(world.send(&call).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quote_counts_once_for_its_nonce_its_machine_and_its_reference_values() {
    let mut world = World::new().await;
    // No certificate, no nonce.
    let answer = world.harness.post_json(None, "/attest/v1/nonce", &json!({})).await;
    assert_eq!((answer.status, answer.json()["error"].as_str()), (401, Some("machine_certificate_required")));

    let nonce = world.nonce().await;
    let request = world.quote_request(AGENT, &nonce);
    assert_eq!(world.post_quote(&request).await.status, 200);
    assert_eq!(world.post_quote(&request).await.json()["error"], "use_fresh_nonce");

    // A nonce of the wrong purpose.
    let challenge = world.challenge().await;
    let request = world.quote_request(AGENT, &challenge);
    assert_eq!(world.post_quote(&request).await.json()["error"], "use_fresh_nonce");

    // The quote of another nonce.
    let (other, nonce) = (world.nonce().await, world.nonce().await);
    let mut request = world.quote_request(AGENT, &other);
    request["nonce"] = nonce.into();
    assert_eq!(world.post_quote(&request).await.json()["error"], "quote_unacceptable");

    // An unknown agent.
    let nonce = world.nonce().await;
    let request = world.quote_request("nobody", &nonce);
    assert_eq!(world.post_quote(&request).await.json()["error"], "invalid_request");

    // Another state than the one enrolled with.
    world.machine.tpm.pcrs.insert(4, [0xee; 32]);
    let nonce = world.nonce().await;
    let request = world.quote_request(AGENT, &nonce);
    assert_eq!(world.post_quote(&request).await.json()["error"], "quote_unacceptable");

    // Boot counters that go back.
    world.machine.tpm.pcrs.insert(4, [4; 32]);
    world.machine.tpm.clock.reset_count = 0;
    let nonce = world.nonce().await;
    let request = world.quote_request(AGENT, &nonce);
    assert_eq!(world.post_quote(&request).await.json()["error"], "quote_unacceptable");
    assert_eq!(world.harness.records_of("alarm").await[0]["code"], "att.rollback");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebooted_machine_attests_again_and_metadata_says_what_there_is() {
    let mut world = World::new().await;
    world.machine.tpm.clock.reset_count += 1;
    world.machine.tpm.clock.safe = false;
    let agent_key = key();
    let call = world.request(&agent_key).await;
    assert_eq!(world.send(&call).await.status, 200);

    let metadata =
        world.harness.https(None, "GET", "/.well-known/oauth-authorization-server", &[], "").await.json();
    assert_eq!(metadata["issuer"], ISSUER);
    assert_eq!(metadata["token_endpoint"], format!("{ISSUER}/oauth/token"));
    assert_eq!(metadata["challenge_endpoint"], format!("{ISSUER}/oauth/challenge"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_holds_against_quotes_that_come_in_the_same_moment() {
    let mut world = World::new().await;
    let mut requests = Vec::new();
    for _ in 0..10 {
        let nonce = world.nonce().await;
        requests.push(world.quote_request(AGENT, &nonce));
    }
    let quotes = futures_util::future::join_all(requests.iter().map(|request| world.post_quote(request)));
    let lock = world.harness.admin::<Value>("POST", "/admin/v1/machines/m-1/lock", json!({}));
    let (answers, locked) = futures_util::future::join(quotes, lock).await;
    assert_eq!(locked.unwrap()["state"], "locked");
    assert!(answers.iter().all(|answer| matches!(answer.status, 200 | 400 | 403)), "{answers:?}");
    let refused =
        world.harness.post_json(Some(&world.machine.identity), "/attest/v1/nonce", &json!({})).await;
    assert_eq!((refused.status, refused.json()["error"].as_str()), (403, Some("machine_revoked")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_attested_before_a_lock_is_worth_nothing_after_it() {
    let mut world = World::new().await;
    let agent_key = key();
    let before = world.request(&agent_key).await;
    let nonce = world.nonce().await;
    let early_quote = world.quote_request(AGENT, &nonce);
    world.harness.clock.advance_secs(1);
    for path in ["/admin/v1/machines/m-1/lock", "/admin/v1/machines/m-1/unlock"] {
        let _: Value = world.harness.admin("POST", path, json!({})).await.unwrap();
        world.harness.clock.advance_secs(1);
    }
    let answer = world.send(&before).await;
    assert_eq!((answer.status, answer.json()["error"].as_str()), (400, Some("use_fresh_attestation")));
    assert_eq!(world.post_quote(&early_quote).await.json()["error"], "use_fresh_nonce");
    let entry = world.harness.snapshot().machines.into_values().next().unwrap();
    assert!(entry.outdates(entry.changed_at.unix_secs() - 1), "gateways can tell, too: {entry:?}");

    let after = world.request(&agent_key).await;
    assert_eq!(world.send(&after).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_cannot_fill_the_log() {
    let harness = support::Harness::start().await;
    let denials = async |harness: &support::Harness| harness.records_of("denial").await.len();
    let refusals = (0..30).map(|_| async {
        for _ in 0..10 {
            let answer = harness.https(None, "GET", "/oauth/token", &[], "").await;
            assert_eq!(answer.status, 400, "refused, recorded or not");
        }
    });
    futures_util::future::join_all(refusals).await;
    assert_eq!(denials(&harness).await, 100);
    let harness = harness.restart().await;
    let last = harness.records_of("denial").await.pop().unwrap();
    assert_eq!((&last["code"], &last["count"]), (&json!("refusals.summed"), &json!(200)));
}
