//! A control plane with a sponsor, an agent, a task and an enrolled machine: everything a token needs.

use countersign_proto::attestation_client::prove_pop;
use countersign_proto::b64;
use countersign_proto::dpop;
use countersign_proto::id::AgentId;
use countersign_proto::jose::SoftwareEd25519;
use countersign_proto::oauth::Form;
use countersign_proto::time::{Clock, random_id};
use countersign_server::ServerConfig;
use serde_json::{Value, json};

use super::tpm::{EnrolledMachine, SoftTpm, enroll_machine};
use super::{Answer, Harness, ISSUER, RESOURCE, SystemRandom};

pub struct World {
    pub harness: Harness,
    pub machine: EnrolledMachine,
    pub task: String,
}

pub const AGENT: &str = "build-bot";

impl World {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut ServerConfig)) -> Self {
        let tpm = SoftTpm::new();
        let digest = tpm.endorsement_digest();
        let harness = Harness::start_with(|config| {
            config.ek_allow_list = vec![digest];
            change(config);
        })
        .await;
        let machine = enroll_machine(&harness, tpm, "m-1").await;
        for person in ["alice", "bob"] {
            let person = json!({"id": person, "display_name": person});
            let _: Value = harness.admin("POST", "/admin/v1/persons", person).await.unwrap();
        }
        let agent = json!({"id": AGENT, "sponsor": "alice", "groups": ["ci"]});
        let _: Value = harness.admin("POST", "/admin/v1/agents", agent).await.unwrap();
        let task = create_task(&harness, AGENT, 3600).await;
        Self { harness, machine, task }
    }

    pub async fn nonce(&self) -> String {
        let answer =
            self.harness.post_json(Some(&self.machine.identity), "/attest/v1/nonce", &json!({})).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["nonce"].as_str().unwrap().to_owned()
    }

    pub fn quote_request(&mut self, agent: &str, nonce: &str) -> Value {
        let (quote, signature) = self.machine.tpm.quote(&b64::url_decode(nonce).unwrap());
        json!({
            "client_id": format!("agent:{agent}"),
            "nonce": nonce,
            "quote": b64::url_encode(&quote),
            "signature": b64::url_encode(&signature),
            "pcr_values": self.machine.tpm.pcr_values(),
        })
    }

    pub async fn post_quote(&self, request: &Value) -> Answer {
        self.harness.post_json(Some(&self.machine.identity), "/attest/v1/client-attestation", request).await
    }

    pub async fn attestation(&mut self) -> String {
        let nonce = self.nonce().await;
        let request = self.quote_request(AGENT, &nonce);
        let answer = self.post_quote(&request).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["client_attestation"].as_str().unwrap().to_owned()
    }

    pub async fn challenge(&self) -> String {
        let answer = self.harness.https(None, "POST", "/oauth/challenge", &[], "").await;
        answer.json()["attestation_challenge"].as_str().unwrap().to_owned()
    }

    /// A request with everything right, to be spoiled.
    pub async fn request(&mut self, key: &SoftwareEd25519) -> TokenCall {
        let attestation = self.attestation().await;
        let challenge = self.challenge().await;
        let now = self.harness.clock.now();
        let client = AgentId::parse(AGENT).unwrap();
        let name = |prefix: &str| random_id(&SystemRandom, prefix);
        TokenCall {
            method: "POST".into(),
            path: "/oauth/token".into(),
            content_type: "application/x-www-form-urlencoded".into(),
            pop: prove_pop(&self.machine.key, &client, ISSUER, &challenge, &name("p"), now).unwrap(),
            dpop: dpop::prove(key, "POST", &format!("{ISSUER}/oauth/token"), None, None, &name("d"), now)
                .unwrap(),
            attestation,
            form: Form::encode(&[
                ("grant_type", "client_credentials"),
                ("client_id", &format!("agent:{AGENT}")),
                ("resource", RESOURCE),
            ]),
            more: Vec::new(),
        }
    }

    pub async fn send(&self, call: &TokenCall) -> Answer {
        let mut headers = vec![("content-type", call.content_type.as_str())];
        for (name, value) in [
            ("oauth-client-attestation", &call.attestation),
            ("oauth-client-attestation-pop", &call.pop),
            ("dpop", &call.dpop),
        ] {
            if !value.is_empty() {
                headers.push((name, value.as_str()));
            }
        }
        headers.extend(call.more.iter().map(|(name, value)| (*name, value.as_str())));
        self.harness
            .https(Some(&self.machine.identity), &call.method, &call.path, &headers, call.form.clone())
            .await
    }
}

/// A token request, part by part.
#[derive(Clone)]
pub struct TokenCall {
    pub method: String,
    pub path: String,
    pub content_type: String,
    pub attestation: String,
    pub pop: String,
    pub dpop: String,
    pub form: String,
    pub more: Vec<(&'static str, String)>,
}

pub async fn create_task(harness: &Harness, agent: &str, expires_in_secs: i64) -> String {
    let task = json!({
        "agent": agent, "purpose": "read the files", "upstream": "files",
        "tools": [{"name": "read_file", "args": {"path": {"prefix": "/srv/"}}}],
        "max_calls": 10, "expires_in_secs": expires_in_secs,
    });
    let task: Value = harness.admin("POST", "/admin/v1/tasks", task).await.unwrap();
    task["id"].as_str().unwrap().to_owned()
}
