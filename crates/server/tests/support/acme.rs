//! A small ACME client with a software account key. It does exactly what it is told, also wrong things.

use countersign_proto::acme::{MacKey, sign_binding, sign_request};
use countersign_proto::jose::{JwsSigner, SoftwareP256};
use serde_json::{Value, json};

use super::{Answer, Harness, ISSUER};

pub const JOSE: &str = "application/jose+json";

pub struct AcmeClient {
    pub key: SoftwareP256,
    /// The account URL, once there is an account.
    pub account: Option<String>,
}

impl AcmeClient {
    pub fn new() -> Self {
        Self { key: SoftwareP256::generate().unwrap(), account: None }
    }

    pub async fn nonce(&self, harness: &Harness) -> String {
        let answer = harness.https(None, "HEAD", "/acme/new-nonce", &[], "").await;
        assert_eq!(answer.status, 200);
        answer.header("replay-nonce").unwrap().to_owned()
    }

    /// Signs and posts; `path` is where it goes and what is signed.
    pub async fn post(&self, harness: &Harness, path: &str, payload: &Value) -> Answer {
        let nonce = self.nonce(harness).await;
        self.post_with(harness, path, path, &nonce, &serde_json::to_vec(payload).unwrap()).await
    }

    /// POST-as-GET.
    pub async fn get(&self, harness: &Harness, path: &str) -> Answer {
        let nonce = self.nonce(harness).await;
        self.post_with(harness, path, path, &nonce, b"").await
    }

    pub async fn post_with(
        &self,
        harness: &Harness,
        path: &str,
        signed_path: &str,
        nonce: &str,
        payload: &[u8],
    ) -> Answer {
        let url = format!("{ISSUER}{signed_path}");
        let body = sign_request(&self.key, self.account.as_deref(), nonce, &url, payload).unwrap();
        post_raw(harness, path, JOSE, body).await
    }

    pub fn binding(&self, kid: &str, key: &[u8]) -> Value {
        let key = MacKey::new(key.to_vec()).unwrap();
        let binding = sign_binding(kid, &key, &self.key.public_jwk(), &format!("{ISSUER}/acme/new-account"));
        serde_json::from_slice(&binding.to_jcs()).unwrap()
    }

    /// newAccount with the binding; remembers the account.
    pub async fn register(&mut self, harness: &Harness, kid: &str, key: &[u8]) -> Answer {
        let payload = json!({"externalAccountBinding": self.binding(kid, key)});
        let answer = self.post(harness, "/acme/new-account", &payload).await;
        if answer.status == 201 || answer.status == 200 {
            self.account = Some(answer.header("location").unwrap().to_owned());
        }
        answer
    }
}

pub async fn post_raw(harness: &Harness, path: &str, content_type: &str, body: Vec<u8>) -> Answer {
    harness.https(None, "POST", path, &[("content-type", content_type)], body).await
}

/// The path of one of our URLs.
pub fn path_of(url: &str) -> String {
    url.strip_prefix(ISSUER).unwrap_or_else(|| panic!("foreign url {url}")).to_owned()
}

/// The short name of a problem.
pub fn problem(answer: &Answer) -> String {
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
    let document = answer.json();
    assert_eq!(document["status"], answer.status, "{document}");
    document["type"].as_str().unwrap().strip_prefix("urn:ietf:params:acme:error:").unwrap().to_owned()
}
