//! From a TPM to a certificate, and everything on the way that must not work.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use countersign_proto::b64;
use countersign_proto::jose::{JwsSigner, SoftwareP256};
use countersign_trust::PeerCertificate;
use serde_json::{Value, json};
use support::acme::{AcmeClient, JOSE, path_of, post_raw, problem};
use support::tpm::{
    Activated, SoftTpm, csr, csr_with, enroll_machine, enrollment_token, new_order, pem_to_der, ready_order,
};
use support::{Harness, ISSUER};

/// A control plane that admits `tpms`.
async fn plane_for(tpms: &[&SoftTpm]) -> Harness {
    let digests: Vec<_> = tpms.iter().map(|tpm| tpm.endorsement_digest()).collect();
    Harness::start_with(|config| config.ek_allow_list = digests).await
}

/// A machine with an account, no order yet.
async fn registered(harness: &Harness, tpm: &mut SoftTpm, machine: &str) -> (AcmeClient, Activated) {
    let token = enrollment_token(harness, machine).await;
    let activated = tpm.enroll(harness, &token).await.unwrap();
    let mut client = AcmeClient::new();
    let answer = client.register(harness, &activated.eab_kid, &activated.eab_key).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    (client, activated)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tpm_gets_a_certificate_for_its_attested_key() {
    let tpm = SoftTpm::new();
    let harness = plane_for(&[&tpm]).await;
    let machine = enroll_machine(&harness, tpm, "m-1").await;
    let peer = PeerCertificate::from_der(&machine.identity.chain[0]).unwrap();
    assert_eq!(peer.spiffe_id().as_str(), "spiffe://test.example/machine/m-1");
    assert_eq!(peer.thumbprint(), machine.key.public_jwk().thumbprint());

    let entry = &harness.snapshot().machines[peer.machine_id()];
    assert_eq!(entry.jkt, peer.thumbprint());

    let issued = harness.records_of("issue").await;
    assert_eq!(issued.len(), 1, "{issued:?}");
    assert_eq!(issued[0]["serial"], peer.serial());
    assert_eq!(issued[0]["env"]["jkt"], json!(peer.thumbprint()));
    // The evidence it refers to is in the log, before it.
    let attestation = harness.records_of("enroll").await;
    assert!(attestation.iter().any(|record| record["ev"] == issued[0]["env"]["ev"]), "{attestation:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enrollment_token_enrolls_one_machine_once() {
    let (mut first, mut second) = (SoftTpm::new(), SoftTpm::new());
    let harness = plane_for(&[&first, &second]).await;
    let token = enrollment_token(&harness, "m-1").await;
    first.enroll(&harness, &token).await.map(drop).unwrap();
    let again = second.enroll(&harness, &token).await.map(drop).unwrap_err();
    assert_eq!((again.status, again.json()["error"].as_str()), (401, Some("invalid_enrollment_token")));
    assert_eq!(harness.refusals("att.token").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_ten_callers_with_one_token_one_enrolls() {
    let mut tpm = SoftTpm::new();
    let harness = plane_for(&[&tpm]).await;
    let token = enrollment_token(&harness, "m-1").await;
    let mut requests = Vec::new();
    for _ in 0..10 {
        let begun = harness.post_json(None, "/attest/v1/ak", &tpm.begin_request(&token)).await;
        assert_eq!(begun.status, 200, "{begun:?}");
        let begun = begun.json();
        requests.push((
            format!("/attest/v1/ak/{}", begun["session"].as_str().unwrap()),
            tpm.activate_request(&begun),
        ));
    }
    let calls = requests.iter().map(|(path, request)| harness.post_json(None, path, request));
    let answers = futures_util::future::join_all(calls).await;
    let enrolled = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(enrolled, 1, "{:?}", answers.iter().map(|answer| answer.status).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_cannot_be_taken_over_and_a_tpm_cannot_be_two_machines() {
    let (mut owner, mut thief) = (SoftTpm::new(), SoftTpm::new());
    let harness = plane_for(&[&owner, &thief]).await;
    let token = enrollment_token(&harness, "m-1").await;
    owner.enroll(&harness, &token).await.map(drop).unwrap();

    let token = enrollment_token(&harness, "m-1").await;
    let answer = thief.enroll(&harness, &token).await.map(drop).unwrap_err();
    assert_eq!((answer.status, answer.json()["error"].as_str()), (409, Some("machine_exists")));

    let token = enrollment_token(&harness, "m-2").await;
    let answer = owner.enroll(&harness, &token).await.map(drop).unwrap_err();
    assert_eq!((answer.status, answer.json()["error"].as_str()), (409, Some("machine_exists")));
    assert_eq!(harness.refusals("att.identity_takeover").await, 2);

    // The same TPM under its own name is welcome again: its certificate may have been lost.
    let token = enrollment_token(&harness, "m-1").await;
    owner.enroll(&harness, &token).await.map(drop).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_that_does_not_hold_enrolls_nothing() {
    async fn check(
        code: &str,
        error: &str,
        first: impl FnOnce(&mut Value, &SoftTpm),
        second: impl FnOnce(&mut Value, &Harness),
    ) {
        let mut tpm = SoftTpm::new();
        let harness = plane_for(&[&tpm]).await;
        let token = enrollment_token(&harness, "m-1").await;
        let mut request = tpm.begin_request(&token);
        first(&mut request, &tpm);
        let mut answer = harness.post_json(None, "/attest/v1/ak", &request).await;
        if answer.status == 200 {
            let begun = answer.json();
            let mut request = tpm.activate_request(&begun);
            second(&mut request, &harness);
            let path = format!("/attest/v1/ak/{}", begun["session"].as_str().unwrap());
            answer = harness.post_json(None, &path, &request).await;
        }
        assert_eq!(answer.json()["error"], error, "{code}");
        assert_eq!(harness.refusals(code).await, 1, "{code}: {:?}", harness.records_of("denial").await);
        let machines: Value = harness.admin("GET", "/admin/v1/machines", json!({})).await.unwrap();
        assert_eq!(machines["machines"], json!([]), "{code}");
    }
    let keep = |_: &mut Value, _: &SoftTpm| {};
    let other = SoftTpm::new();
    check(
        "att.endorsement",
        "endorsement_untrusted",
        |request, _| {
            request["ek_public"] = b64::url_encode(&other.ek_public.to_bytes().unwrap()).into();
        },
        |_, _| {},
    )
    .await;
    check(
        "att.ak",
        "ak_unacceptable",
        |request, tpm| {
            // Created for another token.
            let (_, attest, signature) = tpm.creation(b"another token");
            request["creation_attest"] = b64::url_encode(&attest).into();
            request["creation_signature"] = b64::url_encode(&signature).into();
        },
        |_, _| {},
    )
    .await;
    check("att.malformed", "invalid_request", |request, _| request["extra"] = true.into(), |_, _| {}).await;
    check("att.activation", "activation_failed", keep, |request, _| {
        request["secret"] = b64::url_encode(&[0; 32]).into();
    })
    .await;
    check("att.activation", "activation_failed", keep, |_, harness| harness.clock.advance_secs(61)).await;
    check("att.quote", "quote_unacceptable", keep, |request, _| {
        request["pcr_values"]["0"] = b64::url_encode(&[9; 32]).into();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nonce_is_spent_once_and_a_fresh_one_comes_with_the_refusal() {
    let mut tpm = SoftTpm::new();
    let harness = plane_for(&[&tpm]).await;
    let (client, _) = registered(&harness, &mut tpm, "m-1").await;
    let path = path_of(client.account.as_ref().unwrap());
    let nonce = client.nonce(&harness).await;
    assert_eq!(client.post_with(&harness, &path, &path, &nonce, b"").await.status, 200);
    let replayed = client.post_with(&harness, &path, &path, &nonce, b"").await;
    assert_eq!((replayed.status, problem(&replayed)), (400, "badNonce".into()));
    let fresh = replayed.header("replay-nonce").unwrap();
    assert_eq!(client.post_with(&harness, &path, &path, fresh, b"").await.status, 200);

    let foreign = b64::url_encode(&[1; 32]);
    assert_eq!(problem(&client.post_with(&harness, &path, &path, &foreign, b"").await), "badNonce");
    let old = client.nonce(&harness).await;
    harness.clock.advance_secs(301);
    assert_eq!(problem(&client.post_with(&harness, &path, &path, &old, b"").await), "badNonce");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spent_nonce_stays_spent_across_a_restart() {
    let mut tpm = SoftTpm::new();
    let harness = plane_for(&[&tpm]).await;
    let (client, _) = registered(&harness, &mut tpm, "m-1").await;
    let path = path_of(client.account.as_ref().unwrap());
    let (spent, kept) = (client.nonce(&harness).await, client.nonce(&harness).await);
    assert_eq!(client.post_with(&harness, &path, &path, &spent, b"").await.status, 200);
    let harness = harness.restart().await;
    assert_eq!(problem(&client.post_with(&harness, &path, &path, &spent, b"").await), "badNonce");
    assert_eq!(client.post_with(&harness, &path, &path, &kept, b"").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_not_what_rfc_8555_says_are_refused() {
    let mut tpm = SoftTpm::new();
    let harness = plane_for(&[&tpm]).await;
    let (client, activated) = registered(&harness, &mut tpm, "m-1").await;
    let account_path = path_of(client.account.as_ref().unwrap());

    // ACM-03: signed for one URL, sent to another.
    let nonce = client.nonce(&harness).await;
    let answer = client.post_with(&harness, &account_path, "/acme/new-order", &nonce, b"").await;
    assert_eq!((answer.status, problem(&answer)), (403, "unauthorized".into()));
    assert_eq!(harness.refusals("acme.url_mismatch").await, 1);

    // ACM-08: another content type.
    let body = signed(&client, &harness, &account_path, |_| {}).await;
    let answer = post_raw(&harness, &account_path, "application/json", body).await;
    assert_eq!(answer.status, 415);

    // ACM-04: both jwk and kid.
    let jwk: Value = serde_json::from_slice(&client.key.public_jwk().to_value().to_jcs()).unwrap();
    let body = signed(&client, &harness, &account_path, |header| header["jwk"] = jwk.clone()).await;
    let answer = post_raw(&harness, &account_path, JOSE, body).await;
    assert_eq!((answer.status, problem(&answer)), (400, "malformed".into()));

    // ACM-06: algorithms that prove nothing.
    for algorithm in ["none", "HS256"] {
        let body = signed(&client, &harness, &account_path, |header| header["alg"] = algorithm.into()).await;
        let answer = post_raw(&harness, &account_path, JOSE, body).await;
        assert_eq!((answer.status, problem(&answer)), (400, "badSignatureAlgorithm".into()));
        assert_eq!(answer.json()["algorithms"], json!(["ES256", "EdDSA"]));
    }

    // ACM-07: an unprotected header.
    let body = signed(&client, &harness, &account_path, |_| {}).await;
    let mut outer: Value = serde_json::from_slice(&body).unwrap();
    outer["header"] = json!({});
    let answer = post_raw(&harness, &account_path, JOSE, serde_json::to_vec(&outer).unwrap()).await;
    assert_eq!(problem(&answer), "malformed");

    // ACM-28: too much.
    let identifier = json!({"type": "permanent-identifier", "value": activated.permanent_identifier});
    let many = json!({"identifiers": vec![identifier; 101]});
    assert_eq!(problem(&client.post(&harness, "/acme/new-order", &many).await), "malformed");
    // Just over the limit, so that it is all sent before the refusal closes the connection.
    let answer = post_raw(&harness, "/acme/new-order", JOSE, vec![b'{'; 260 * 1024]).await;
    assert_eq!(answer.status, 413);

    // Another identifier than the account's.
    for (kind, value, expected) in [
        ("permanent-identifier", "m-2", "rejectedIdentifier"),
        ("permanent-identifier", "M-1", "rejectedIdentifier"),
        ("permanent-identifier", "m-1/1.2.3", "malformed"),
        ("dns", "example.com", "unsupportedIdentifier"),
    ] {
        let payload = json!({"identifiers": [{"type": kind, "value": value}]});
        assert_eq!(
            problem(&client.post(&harness, "/acme/new-order", &payload).await),
            expected,
            "{kind} {value}"
        );
    }
}

/// A POST-as-GET body whose protected header was changed before signing.
async fn signed(client: &AcmeClient, harness: &Harness, path: &str, change: impl Fn(&mut Value)) -> Vec<u8> {
    let nonce = client.nonce(harness).await;
    let mut header =
        json!({"alg": "ES256", "nonce": nonce, "url": format!("{ISSUER}{path}"), "kid": client.account});
    change(&mut header);
    let protected = b64::url_encode(&serde_json::to_vec(&header).unwrap());
    let signature = client.key.sign(format!("{protected}.").as_bytes()).unwrap();
    serde_json::to_vec(
        &json!({"protected": protected, "payload": "", "signature": b64::url_encode(&signature)}),
    )
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_needs_a_binding_that_was_never_used() {
    let mut tpm = SoftTpm::new();
    let harness = plane_for(&[&tpm]).await;
    // ACM-10
    let answer = AcmeClient::new().post(&harness, "/acme/new-account", &json!({})).await;
    assert_eq!((answer.status, problem(&answer)), (403, "externalAccountRequired".into()));

    let (client, activated) = registered(&harness, &mut tpm, "m-1").await;
    // The same key again: the account there is.
    let answer = client.post_new_account(&harness).await;
    assert_eq!((answer.status, answer.header("location")), (200, client.account.as_deref()));

    // ACM-11: another key, the same binding key.
    let mut thief = AcmeClient::new();
    let answer = thief.register(&harness, &activated.eab_kid, &activated.eab_key).await;
    assert_eq!((answer.status, problem(&answer)), (403, "unauthorized".into()));
    assert_eq!(harness.refusals("acme.eab_reuse").await, 1);

    // Guessing: a wrong key and an unknown name look the same.
    for (kid, key) in [(activated.eab_kid.as_str(), [0_u8; 32]), ("eab_unknown", [0; 32])] {
        let answer = AcmeClient::new().register(&harness, kid, &key).await;
        assert_eq!((answer.status, problem(&answer)), (403, "unauthorized".into()), "{kid}");
    }
    let guesses = (harness.refusals("acme.eab_mac").await, harness.refusals("acme.eab_unknown").await);
    assert_eq!(guesses, (1, 1));
}

impl AcmeClient {
    async fn post_new_account(&self, harness: &Harness) -> support::Answer {
        let anonymous = AcmeClient {
            key: SoftwareP256::from_pkcs8(&self.key.to_pkcs8().unwrap()).unwrap(),
            account: None,
        };
        anonymous.post(harness, "/acme/new-account", &json!({})).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_sees_or_touches_anothers_order() {
    let (mut one, mut two) = (SoftTpm::new(), SoftTpm::new());
    let harness = plane_for(&[&one, &two]).await;
    let (owner, activated) = registered(&harness, &mut one, "m-1").await;
    let (stranger, _) = registered(&harness, &mut two, "m-2").await;
    let order = new_order(&harness, &owner, &activated.permanent_identifier).await;
    let paths = [&order.order, &order.authorization, &order.challenge].map(|url| path_of(url));
    for path in paths {
        let foreign = stranger.get(&harness, &path).await;
        let (parent, id) = path.rsplit_once('/').unwrap();
        let random = stranger.get(&harness, &format!("{parent}/ord_aaaaaaaaaaaaaaaaaaaaaaaaaa")).await;
        assert_eq!((foreign.status, problem(&foreign)), (403, "unauthorized".into()), "{id}");
        assert_eq!(foreign.body, random.body, "another's and none look the same");
        assert_eq!(owner.get(&harness, &path).await.status, 200);
    }
    assert_eq!(harness.refusals("acme.foreign").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deactivated_account_does_nothing_ever_again() {
    let mut tpm = SoftTpm::new();
    let harness = plane_for(&[&tpm]).await;
    let (client, activated) = registered(&harness, &mut tpm, "m-1").await;
    let order = new_order(&harness, &client, &activated.permanent_identifier).await;
    let path = path_of(client.account.as_ref().unwrap());
    let answer = client.post(&harness, &path, &json!({"status": "deactivated"})).await;
    assert_eq!(answer.json()["status"], "deactivated");
    let harness = harness.restart().await;
    for path in [path, path_of(&order.order), path_of(&order.challenge)] {
        let answer = client.get(&harness, &path).await;
        assert_eq!((answer.status, problem(&answer)), (403, "unauthorized".into()), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_fresh_evidence_for_this_account_and_machine_makes_an_order_ready() {
    async fn check(name: &str, evidence: impl FnOnce(&Presented<'_>) -> Vec<u8>) {
        let mut tpm = SoftTpm::new();
        let other = SoftTpm::new();
        let harness = plane_for(&[&tpm]).await;
        let (client, activated) = registered(&harness, &mut tpm, "m-1").await;
        let order = new_order(&harness, &client, &activated.permanent_identifier).await;
        let key = SoftwareP256::generate().unwrap();
        let payload = evidence(&Presented {
            tpm: &tpm,
            other: &other,
            key: &key,
            chain: &activated.ak_chain,
            token: &order.token,
            account: &client,
        });
        let path = path_of(&order.challenge);
        let nonce = client.nonce(&harness).await;
        let answer = client.post_with(&harness, &path, &path, &nonce, &payload).await;
        let challenge = answer.json();
        assert_eq!(challenge["status"], "invalid", "{name}: {challenge}");
        assert_eq!(
            challenge["error"]["type"], "urn:ietf:params:acme:error:badAttestationStatement",
            "{name}"
        );
        let answer = client.post(&harness, &path_of(&order.finalize), &json!({"csr": csr(&key)})).await;
        assert_eq!((answer.status, problem(&answer)), (403, "orderNotReady".into()), "{name}");
        assert_eq!(harness.records_of("issue").await.len(), 0, "{name}");
        assert_eq!(harness.records_of("denial").await.len(), 1, "{name}");
    }
    struct Presented<'a> {
        tpm: &'a SoftTpm,
        other: &'a SoftTpm,
        key: &'a SoftwareP256,
        chain: &'a [Vec<u8>],
        token: &'a str,
        account: &'a AcmeClient,
    }
    check("another token", |shown| {
        shown.tpm.challenge_payload(shown.chain, shown.key, "other", &shown.account.key.public_jwk())
    })
    .await;
    check("another account", |shown| {
        let stranger = SoftwareP256::generate().unwrap();
        shown.tpm.challenge_payload(shown.chain, shown.key, shown.token, &stranger.public_jwk())
    })
    .await;
    check("another machine's tpm with this machine's certificate", |shown| {
        shown.other.challenge_payload(shown.chain, shown.key, shown.token, &shown.account.key.public_jwk())
    })
    .await;
    check("another format", |_| {
        use countersign_proto::cbor::Item;
        let object = Item::map([
            ("fmt", Item::Text("none".into())),
            ("attStmt", Item::map(Vec::<(&str, Item)>::new())),
        ]);
        serde_json::to_vec(&json!({"attObj": b64::url_encode(&object.to_bytes())})).unwrap()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_for_the_attested_key_and_the_ordered_name_only() {
    async fn check(name: &str, request: impl FnOnce(&SoftwareP256) -> String, final_state: &str) {
        let mut tpm = SoftTpm::new();
        let harness = plane_for(&[&tpm]).await;
        let (client, activated) = registered(&harness, &mut tpm, "m-1").await;
        let key = SoftwareP256::generate().unwrap();
        let order = ready_order(&harness, &client, &tpm, &activated, &key).await;
        let answer = client.post(&harness, &path_of(&order.finalize), &json!({"csr": request(&key)})).await;
        assert_eq!((answer.status, problem(&answer)), (400, "badCSR".into()), "{name}");
        let state = client.get(&harness, &path_of(&order.order)).await.json();
        assert_eq!(state["status"], final_state, "{name}");
        assert_eq!(harness.records_of("issue").await.len(), 0, "{name}");
    }
    // ACM-17
    check("another key", |_| csr(&SoftwareP256::generate().unwrap()), "invalid").await;
    // ACM-15
    let dns = || vec![rcgen::SanType::DnsName("evil.example".try_into().unwrap())];
    check("a dns name", |key| csr_with(key, dns()), "ready").await;
    let uri = || vec![rcgen::SanType::URI("spiffe://test.example/machine/m-2".try_into().unwrap())];
    check("another spiffe id", |key| csr_with(key, uri()), "ready").await;
    check("no request", |_| "AAAA".into(), "ready").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_finalize_calls_at_once_make_one_certificate() {
    let mut tpm = SoftTpm::new();
    let harness = plane_for(&[&tpm]).await;
    let (client, activated) = registered(&harness, &mut tpm, "m-1").await;
    let key = SoftwareP256::generate().unwrap();
    let order = ready_order(&harness, &client, &tpm, &activated, &key).await;
    let path = path_of(&order.finalize);
    let payload = serde_json::to_vec(&json!({"csr": csr(&key)})).unwrap();
    let mut nonces = Vec::new();
    for _ in 0..50 {
        nonces.push(client.nonce(&harness).await);
    }
    let calls = nonces.iter().map(|nonce| client.post_with(&harness, &path, &path, nonce, &payload));
    let answers = futures_util::future::join_all(calls).await;
    let issued = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(issued, 1, "{:?}", answers.iter().map(|answer| answer.status).collect::<Vec<_>>());
    for late in answers.iter().filter(|answer| answer.status != 200) {
        assert_eq!(problem(late), "orderNotReady");
    }
    assert_eq!(harness.records_of("issue").await.len(), 1);
    assert_eq!(client.get(&harness, &path_of(&order.order)).await.json()["status"], "valid");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_owner_revokes_and_the_key_ends_with_the_certificate() {
    let (one, two) = (SoftTpm::new(), SoftTpm::new());
    let harness = plane_for(&[&one, &two]).await;
    let owner = enroll_machine(&harness, one, "m-1").await;
    let stranger = enroll_machine(&harness, two, "m-2").await;
    let payload = json!({"certificate": b64::url_encode(&owner.identity.chain[0])});
    let answer = stranger.account.post(&harness, "/acme/revoke-cert", &payload).await;
    assert_eq!((answer.status, problem(&answer)), (403, "unauthorized".into()));
    assert_eq!(harness.snapshot().machines.len(), 2);

    assert_eq!(owner.account.post(&harness, "/acme/revoke-cert", &payload).await.status, 200);
    assert_eq!(harness.snapshot().machines.keys().map(|id| id.as_str()).collect::<Vec<_>>(), ["m-2"]);
    let answer = owner.account.post(&harness, "/acme/revoke-cert", &payload).await;
    assert_eq!(problem(&answer), "alreadyRevoked");
    let refused = harness.post_json(Some(&owner.identity), "/attest/v1/nonce", &json!({})).await;
    assert_eq!(refused.json()["error"], "machine_certificate_required");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_for_the_same_key_and_the_chain_is_ours() {
    let tpm = SoftTpm::new();
    let harness = plane_for(&[&tpm]).await;
    let machine = enroll_machine(&harness, tpm, "m-1").await;
    let before = harness.snapshot().version;
    let activated = Activated {
        machine_id: machine.id.clone(),
        permanent_identifier: machine.permanent_identifier.clone(),
        ak_chain: machine.ak_chain.clone(),
        eab_kid: String::new(),
        eab_key: Vec::new(),
    };
    let order = ready_order(&harness, &machine.account, &machine.tpm, &activated, &machine.key).await;
    let answer =
        machine.account.post(&harness, &path_of(&order.finalize), &json!({"csr": csr(&machine.key)})).await;
    let certificate = answer.json()["certificate"].as_str().unwrap().to_owned();
    let answer = machine.account.get(&harness, &path_of(&certificate)).await;
    assert_eq!(answer.header("content-type"), Some("application/pem-certificate-chain"));
    let chain = pem_to_der(std::str::from_utf8(&answer.body).unwrap());
    assert_eq!(chain.last().unwrap(), harness.server.control.machine_root());
    assert_ne!(chain[0], machine.identity.chain[0]);
    // The same key: gateways have nothing new to learn.
    assert_eq!(harness.snapshot().version, before);
}
