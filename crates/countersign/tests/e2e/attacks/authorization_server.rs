//! OAS, JOS and POP at the token endpoint: no token comes out that is not bound to both keys.

use countersign_proto::jose::SoftwareEd25519;
use countersign_testkit::insider::{Answer, Insider, now, prove};
use countersign_testkit::story::AGENT;

use super::Scene;
use crate::block_on;

/// Everything that a token request carries; a case changes one thing.
struct Request {
    form: Vec<(String, String)>,
    attestation: Option<String>,
    pop: Option<String>,
    proof: Option<String>,
}

async fn honest(scene: &Scene) -> Request {
    let insider = &scene.insider;
    let server = &scene.stage.world.ready().server;
    Request {
        form: insider.token_form(&scene.task),
        attestation: Some(insider.attest().await.expect("an attestation")),
        pop: Some(
            insider.prove_machine(&insider.challenge().await.expect("a challenge")).expect("a proof by M"),
        ),
        proof: Some(insider.proof_for("POST", &format!("{server}/oauth/token"), None).expect("a proof by A")),
    }
}

async fn send(insider: &Insider, request: &Request) -> Answer {
    let headers: Vec<(&str, &str)> = [
        ("oauth-client-attestation", &request.attestation),
        ("oauth-client-attestation-pop", &request.pop),
        ("dpop", &request.proof),
    ]
    .into_iter()
    .filter_map(|(name, value)| value.as_deref().map(|value| (name, value)))
    .collect();
    insider.token_request(&request.form, &headers).await.expect("an answer")
}

#[test]
fn no_token_without_both_proofs() {
    let scene = Scene::new();
    block_on(async {
        let control = send(&scene.insider, &honest(&scene).await).await;
        assert_eq!(control.status, 200, "the control: {}", control.json());
        assert_eq!(control.json()["token_type"], "DPoP");
        assert_eq!(control.header("cache-control"), "no-store");
    });
    let other = scene.stage.world.enroll("other").expect("another machine");
    let check = |name: &str, change: &dyn Fn(&mut Request), errors: &[&str]| {
        block_on(async {
            let mut request = honest(&scene).await;
            change(&mut request);
            let from = scene.stage.world.log_size().expect("a size");
            let answer = send(&scene.insider, &request).await;
            let body = answer.json();
            let error = body["error"].as_str().unwrap_or_default().to_owned();
            assert!(
                (400..=401).contains(&answer.status) && errors.contains(&error.as_str()),
                "{name}: {} {body}",
                answer.status
            );
            assert!(body["access_token"].is_null(), "{name}: {body}");
            let records = scene.stage.world.records(from).expect("records");
            let issued = records.iter().filter(|entry| entry["record"]["kind"] == "issue").count();
            let refused = records.iter().filter(|entry| entry["record"]["kind"] == "denial").count();
            assert_eq!((issued, refused), (0, 1), "{name}: {records:?}");
        });
    };
    let set = |form: &mut Vec<(String, String)>, name: &str, value: &str| {
        form.retain(|(key, _)| key != name);
        form.push((name.to_owned(), value.to_owned()));
    };
    // OAS-28: every way to leave a proof out.
    check(
        "no attestation",
        &|request| request.attestation = None,
        &["invalid_client", "invalid_request", "invalid_client_attestation"],
    );
    check(
        "no proof by M",
        &|request| request.pop = None,
        &["invalid_client", "invalid_request", "invalid_client_attestation"],
    );
    check("no proof by A", &|request| request.proof = None, &["invalid_dpop_proof", "invalid_request"]);
    // POP-05, POP-08, POP-11
    let server = scene.stage.world.ready().server.clone();
    let thief = SoftwareEd25519::generate().expect("a key");
    let prove_at = |method: &str, url: &str, age: i64| {
        prove(&thief, method, url, None, now().plus_secs(-age)).expect("a proof")
    };
    check(
        "a proof for another URL",
        &|request| request.proof = Some(prove_at("POST", &format!("{server}/oauth/other"), 0)),
        &["invalid_dpop_proof"],
    );
    check(
        "a proof for another method",
        &|request| request.proof = Some(prove_at("GET", &format!("{server}/oauth/token"), 0)),
        &["invalid_dpop_proof"],
    );
    check(
        "an old proof",
        &|request| request.proof = Some(prove_at("POST", &format!("{server}/oauth/token"), 120)),
        &["invalid_dpop_proof"],
    );
    check(
        "a proof from the future",
        &|request| request.proof = Some(prove_at("POST", &format!("{server}/oauth/token"), -120)),
        &["invalid_dpop_proof"],
    );
    // OAS-25, OAS-26, OAS-31
    check(
        "another resource",
        &|request| set(&mut request.form, "resource", "https://elsewhere.example/mcp/work"),
        &["invalid_target"],
    );
    check(
        "no resource",
        &|request| request.form.retain(|(key, _)| key != "resource"),
        &["invalid_target", "invalid_request"],
    );
    check(
        "two grant types",
        &|request| request.form.push(("grant_type".to_owned(), "client_credentials".to_owned())),
        &["invalid_request"],
    );
    check(
        "another grant",
        &|request| set(&mut request.form, "grant_type", "password"),
        &["unsupported_grant_type"],
    );
    check(
        "an unknown kind of authorization",
        &|request| set(&mut request.form, "authorization_details", r#"[{"type":"urn:example:everything"}]"#),
        &["invalid_authorization_details"],
    );
    check(
        "an unknown field",
        &|request| {
            let details =
                format!(r#"[{{"type":"urn:countersign:task","task":"{}","admin":true}}]"#, scene.task);
            set(&mut request.form, "authorization_details", &details);
        },
        &["invalid_authorization_details"],
    );
    check(
        "another agent",
        &|request| set(&mut request.form, "client_id", "agent:someone"),
        &["invalid_client", "invalid_request", "invalid_client_attestation"],
    );
    // POP-03/OAS: M of another machine signs for this machine's attestation.
    let accomplice =
        block_on(Insider::open(scene.stage.world.ready(), &other, AGENT)).expect("another machine");
    check(
        "a proof by another machine's M",
        &|request| {
            let challenge = tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(scene.insider.challenge()).expect("a challenge")
            });
            request.pop = Some(accomplice.prove_machine(&challenge).expect("a proof"));
        },
        &["invalid_client_attestation", "invalid_client"],
    );
}

#[test]
fn what_was_used_once_is_used_up() {
    let scene = Scene::new();
    block_on(async {
        let request = honest(&scene).await;
        let first = send(&scene.insider, &request).await;
        assert_eq!(first.status, 200, "{}", first.json());
        // OAS-02: the very same request again.
        let again = send(&scene.insider, &request).await;
        assert!((400..=401).contains(&again.status), "{}", again.json());
        // Twenty at once with one challenge: one token at most.
        let request = honest(&scene).await;
        let attempts = (0..20).map(|_| send(&scene.insider, &request));
        let answers = futures_util::future::join_all(attempts).await;
        assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 1);
    });
}
