//! An ACME client (RFC 8555) for one purpose: a certificate for the machine key by `device-attest-01`.
//!
//! One identifier, one authorization, one challenge. URLs are followed only within the control plane's origin.

use std::time::Duration;

use countersign_proto::acme::{
    MacKey, TpmStatement, attestation_digest, key_authorization, sign_binding, sign_request,
};
use countersign_proto::b64;
use countersign_proto::jose::{JwsSigner as _, SoftwareP256};
use http::{HeaderMap, Method, header};
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::control_plane::{ControlPlane, ControlPlaneError, printable};
use crate::http::Reply;
use crate::state::{AccountBinding, EnrolledMachine};
use crate::tpm::{Attested, MachineKey};

/// How often an order or authorization that is still being processed is looked at again.
const MAX_POLLS: u32 = 10;
/// The pause between two looks if the server names none, and the longest one we accept from it.
const DEFAULT_PAUSE: Duration = Duration::from_millis(200);
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// How often a request is repeated because its nonce was used up or too old (RFC 8555 §6.5).
const MAX_NONCE_RETRIES: u32 = 3;
/// COSE algorithm identifier of ES256 (RFC 9053 §2.1).
const COSE_ES256: i64 = -7;
const BAD_NONCE: &str = "urn:ietf:params:acme:error:badNonce";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Directory {
    new_nonce: String,
    new_account: String,
    new_order: String,
}

#[derive(Deserialize)]
struct Order {
    status: String,
    #[serde(default)]
    authorizations: Vec<String>,
    finalize: String,
    certificate: Option<String>,
    error: Option<Problem>,
}

#[derive(Deserialize)]
struct Authorization {
    status: String,
    challenges: Vec<Challenge>,
}

#[derive(Deserialize)]
struct Challenge {
    #[serde(rename = "type")]
    kind: String,
    url: String,
    #[serde(default)]
    token: String,
    error: Option<Problem>,
}

#[derive(Deserialize)]
struct Problem {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    detail: String,
}

/// A conversation with the ACME server as one account.
pub struct AcmeClient<'s> {
    server: &'s ControlPlane,
    directory: Directory,
    key: SoftwareP256,
    account_url: Option<String>,
    nonce: Option<String>,
}

impl<'s> AcmeClient<'s> {
    /// Reads the directory; the account is the one of the state directory.
    pub async fn open(
        server: &'s ControlPlane,
        machine: &EnrolledMachine,
    ) -> Result<Self, ControlPlaneError> {
        let step = "the ACME directory";
        let directory = server.fetch(step, "/acme/directory").await?;
        let pkcs8 = b64::url_decode(machine.account_key.expose())
            .map(Zeroizing::new)
            .map_err(|error| ControlPlaneError::Key(error.to_string()))?;
        let key =
            SoftwareP256::from_pkcs8(&pkcs8).map_err(|error| ControlPlaneError::Key(error.to_string()))?;
        Ok(Self { server, directory, key, account_url: machine.account_url.clone(), nonce: None })
    }

    /// `newAccount` with external account binding (RFC 8555 §7.3.4). Answers the account's URL.
    pub async fn create_account(
        &mut self,
        binding: Option<&AccountBinding>,
    ) -> Result<String, ControlPlaneError> {
        let step = "the ACME account";
        let url = self.directory.new_account.clone();
        let mut payload = json!({ "termsOfServiceAgreed": true });
        if let Some(binding) = binding {
            payload["externalAccountBinding"] = self.external_binding(binding, &url)?;
        }
        let reply = self.post(step, &url, Some(&payload)).await?;
        let account = location(&reply.headers).ok_or_else(|| self.server.protocol(step, "no Location"))?;
        self.server.path_of(step, &account)?;
        self.account_url = Some(account.clone());
        Ok(account)
    }

    /// The account's public key, authenticated with the key that the attestation CA gave this machine.
    fn external_binding(&self, binding: &AccountBinding, url: &str) -> Result<Value, ControlPlaneError> {
        let secret = b64::url_decode(binding.key.expose()).ok().and_then(MacKey::new);
        let secret =
            secret.ok_or_else(|| ControlPlaneError::Key("the account binding is no key".to_owned()))?;
        let signed = sign_binding(&binding.kid, &secret, &self.key.public_jwk(), url);
        serde_json::from_slice(&signed.to_jcs()).map_err(|error| ControlPlaneError::Key(error.to_string()))
    }

    /// An order for this machine, from the first request to the certificate chain in PEM.
    pub async fn order_certificate(
        &mut self,
        machine: &EnrolledMachine,
        key: &MachineKey,
    ) -> Result<Vec<u8>, ControlPlaneError> {
        let identifier = json!({ "type": "permanent-identifier", "value": machine.permanent_identifier });
        let new_order = self.directory.new_order.clone();
        let reply = self.post("the order", &new_order, Some(&json!({ "identifiers": [identifier] }))).await?;
        let order_url =
            location(&reply.headers).ok_or_else(|| self.server.protocol("the order", "no Location"))?;
        let order: Order = self.server.read("the order", &reply)?;
        for authorization in &order.authorizations {
            self.satisfy(authorization, machine, key).await?;
        }
        // Who the machine is, the order says; the request carries the key and nothing else.
        let mut request = rcgen::CertificateParams::default();
        request.distinguished_name = rcgen::DistinguishedName::new();
        let request = request.serialize_request(key).map_err(|_| {
            ControlPlaneError::Tpm(crate::tpm::TpmError::Malformed {
                command: "TPM2_Sign",
                what: "no certificate request",
            })
        });
        let csr = json!({ "csr": b64::url_encode(request?.der()) });
        self.post("the certificate request", &order.finalize, Some(&csr)).await?;
        let certificate = self.await_certificate(&order_url).await?;
        Ok(self.post("the certificate", &certificate, None).await?.body.to_vec())
    }

    /// Answers the `device-attest-01` challenge of an authorization and waits for the verdict.
    async fn satisfy(
        &mut self,
        url: &str,
        machine: &EnrolledMachine,
        key: &MachineKey,
    ) -> Result<(), ControlPlaneError> {
        let step = "the attestation of the machine key";
        let reply = self.post(step, url, None).await?;
        let authorization: Authorization = self.server.read(step, &reply)?;
        if authorization.status == "valid" {
            return Ok(());
        }
        let challenge =
            authorization.challenges.iter().find(|challenge| challenge.kind == "device-attest-01");
        let challenge =
            challenge.ok_or_else(|| self.server.protocol(step, "no device-attest-01 challenge"))?;
        let statement = self.attestation(&challenge.token, machine, key).await?;
        self.post(step, &challenge.url, Some(&json!({ "attObj": b64::url_encode(&statement.to_bytes()) })))
            .await?;
        for _ in 0..MAX_POLLS {
            let reply = self.post(step, url, None).await?;
            let authorization: Authorization = self.server.read(step, &reply)?;
            match authorization.status.as_str() {
                "valid" => return Ok(()),
                "pending" | "processing" => pause(&reply.headers).await,
                _ => {
                    return Err(refused(
                        step,
                        authorization.challenges.into_iter().find_map(|one| one.error),
                    ));
                }
            }
        }
        Err(self.server.protocol(step, "no verdict in time"))
    }

    /// The attestation object (draft-ietf-acme-device-attest §5.1, WebAuthn §8.3): M, certified by the attestation key over
    /// this account's key authorization.
    async fn attestation(
        &self,
        token: &str,
        machine: &EnrolledMachine,
        key: &MachineKey,
    ) -> Result<TpmStatement, ControlPlaneError> {
        let digest = attestation_digest(&key_authorization(token, &self.key.public_jwk()));
        let certified: Attested = {
            let key = key.clone();
            key.tpm().clone().run(move |tpm| tpm.certify(&key, digest.as_bytes())).await?
        };
        let x5c = machine
            .ak_certificates
            .iter()
            .map(|text| b64::url_decode(text))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| ControlPlaneError::Key(error.to_string()))?;
        Ok(TpmStatement {
            alg: COSE_ES256,
            x5c,
            sig: certified.signature,
            cert_info: certified.attest,
            pub_area: key.public().to_vec(),
        })
    }

    async fn await_certificate(&mut self, order_url: &str) -> Result<String, ControlPlaneError> {
        let step = "the certificate";
        for _ in 0..MAX_POLLS {
            let reply = self.post(step, order_url, None).await?;
            let order: Order = self.server.read(step, &reply)?;
            match (order.status.as_str(), order.certificate) {
                ("valid", Some(certificate)) => return Ok(certificate),
                ("processing" | "ready" | "pending", _) => pause(&reply.headers).await,
                _ => return Err(refused(step, order.error)),
            }
        }
        Err(self.server.protocol(step, "no certificate in time"))
    }

    /// A signed request; `None` is POST-as-GET (RFC 8555 §6.3).
    async fn post(
        &mut self,
        step: &'static str,
        url: &str,
        payload: Option<&Value>,
    ) -> Result<Reply, ControlPlaneError> {
        let path = self.server.path_of(step, url)?.to_owned();
        let mut retries = 0;
        loop {
            let nonce = self.fresh_nonce(step).await?;
            let payload = payload.map_or_else(Vec::new, |value| value.to_string().into_bytes());
            let body = sign_request(&self.key, self.account_url.as_deref(), &nonce, url, &payload)?;
            let reply = self.server.send(step, Method::POST, &path, "application/jose+json", body).await?;
            self.nonce = replay_nonce(&reply.headers);
            if reply.status.is_success() {
                return Ok(reply);
            }
            match self.server.refusal(step, &reply) {
                ControlPlaneError::Refused { code, .. }
                    if code == BAD_NONCE && retries < MAX_NONCE_RETRIES =>
                {
                    retries += 1
                }
                error => return Err(error),
            }
        }
    }

    async fn fresh_nonce(&mut self, step: &'static str) -> Result<String, ControlPlaneError> {
        if let Some(nonce) = self.nonce.take() {
            return Ok(nonce);
        }
        let path = self.server.path_of(step, &self.directory.new_nonce)?;
        let reply = self.server.send(step, Method::HEAD, path, "", Vec::new()).await?;
        replay_nonce(&reply.headers).ok_or_else(|| self.server.protocol(step, "no Replay-Nonce"))
    }
}

fn refused(step: &'static str, problem: Option<Problem>) -> ControlPlaneError {
    let problem = problem.unwrap_or(Problem { kind: "invalid".to_owned(), detail: String::new() });
    ControlPlaneError::Refused {
        step,
        code: printable(&problem.kind),
        description: printable(&problem.detail),
    }
}

fn location(headers: &HeaderMap) -> Option<String> {
    headers.get(header::LOCATION)?.to_str().ok().map(str::to_owned)
}

fn replay_nonce(headers: &HeaderMap) -> Option<String> {
    headers.get("replay-nonce")?.to_str().ok().map(str::to_owned)
}

/// The pause that the protocol asks for between two looks (RFC 8555 §7.5.1).
async fn pause(headers: &HeaderMap) {
    let asked = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    tokio::time::sleep(asked.map_or(DEFAULT_PAUSE, Duration::from_secs).min(MAX_PAUSE)).await;
}
