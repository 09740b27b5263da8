//! Enrollment: how a machine becomes known. First its TPM proves itself to the attestation CA, then the machine key M is
//! attested for a certificate (ACME `device-attest-01`).
//!
//! What is reached is kept after each step, so that a broken-off enrollment goes on where it stopped. Nothing here decides
//! whether the machine is acceptable: the control plane does.

mod acme;
mod attest;

use std::sync::Arc;

use countersign_proto::b64;
use countersign_proto::jose::{SignError, SoftwareP256};
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use zeroize::Zeroizing;

use crate::http::{Client, HttpError, MachineCertificate, Origin, Reply};
use crate::state::{AccountBinding, AccountSecret, EnrolledMachine, StateDir, StateError};
use crate::tpm::{MachineKey, Tpm, TpmError};

/// What enrolling needs.
#[derive(Debug)]
pub struct EnrollConfig {
    /// The control plane's public URL, `https://host[:port]`.
    pub server: String,
    /// The roots of the control plane's TLS certificate, in PEM.
    pub ca_pem: Vec<u8>,
    /// Where the machine's identity will live.
    pub state: StateDir,
    /// The machine's TPM.
    pub tpm: Tpm,
    /// The one-time permission of an administrator.
    pub token: EnrollmentToken,
}

/// The one-time permission to enroll one machine. Its `Debug` shows nothing, and it is wiped when dropped.
#[derive(Clone)]
pub struct EnrollmentToken(Zeroizing<String>);

impl EnrollmentToken {
    /// Takes the text over, without white space around it.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(Zeroizing::new(text.trim().to_owned()))
    }

    fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for EnrollmentToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EnrollmentToken")
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrollment {
    /// The machine's name at the control plane.
    pub machine_id: String,
    /// The certificate chain in PEM, leaf first.
    pub certificate_pem: Vec<u8>,
}

/// Why the machine is not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// There is an identity already.
    #[error("this machine is already enrolled as {0}; remove its state folder first if it should become another machine")]
    AlreadyEnrolled(String),
    /// The TPM.
    #[error(transparent)]
    Tpm(#[from] TpmError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The connection.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// A software key.
    #[error("cannot use the ACME account key: {0}")]
    AccountKey(String),
    /// The control plane said no.
    #[error("the control plane refused {step}: {code}{}: {}", describe(description), advice(code))]
    Refused {
        /// What was asked for.
        step: &'static str,
        /// Its error code.
        code: String,
        /// Its sentence.
        description: String,
    },
    /// The control plane said something else than its protocol allows.
    #[error("the control plane answered {step} with {what}; is {server} a countersign server of this version?")]
    Protocol {
        /// What was asked for.
        step: &'static str,
        /// What is wrong with the answer.
        what: String,
        /// Who answered.
        server: String,
    },
}

impl From<SignError> for EnrollError {
    fn from(error: SignError) -> Self {
        Self::AccountKey(error.to_string())
    }
}

fn describe(description: &str) -> String {
    if description.is_empty() { String::new() } else { format!(" ({description})") }
}

/// What a person can do about the refusals they meet.
fn advice(code: &str) -> &'static str {
    match code {
        "invalid_enrollment_token" => "the token is unknown, used or expired; ask an administrator for a new one",
        "endorsement_untrusted" => {
            "nobody vouches for this TPM; an administrator can add its manufacturer's roots or allow-list its endorsement key"
        }
        "ak_unacceptable" => "this TPM made an attestation key that may not attest; report its model",
        "activation_failed" => "the TPM could not prove that the attestation key is its own; try again",
        "quote_unacceptable" => "the state of this machine's firmware or boot loader is not the expected one",
        "machine_exists" => "this TPM is enrolled already; an administrator must revoke that machine first",
        "machine_revoked" => "an administrator revoked this machine",
        "audit_unavailable" => "the audit log cannot be written, so nothing is granted; try again later",
        "urn:ietf:params:acme:error:badAttestationStatement" => "the attestation of the machine key was not accepted",
        _ => "see the control plane's log",
    }
}

/// Enrolls this machine, or finishes an enrollment that was broken off.
///
/// # Errors
/// [`EnrollError`].
pub async fn enroll(config: &EnrollConfig) -> Result<Enrollment, EnrollError> {
    let certificate = Arc::new(MachineCertificate::default());
    let server = ControlPlane::new(&config.server, Client::new(&config.ca_pem, certificate)?)?;
    let machine = match config.state.load_machine()? {
        Some(machine) if config.state.certificate().is_ok() => {
            return Err(EnrollError::AlreadyEnrolled(machine.machine_id));
        }
        Some(machine) => machine,
        None => {
            let machine = prove(config, &server).await?;
            config.state.save_machine(&machine)?;
            machine
        }
    };
    let key = machine_key(&config.tpm, &machine).await?;
    let certificate_pem = obtain_certificate(&server, &config.state, machine.clone(), &key).await?;
    Ok(Enrollment { machine_id: machine.machine_id, certificate_pem })
}

/// A new certificate for the same M, over a fresh statement of the TPM about it. Keeps and returns the chain in PEM.
///
/// # Errors
/// [`EnrollError`].
pub async fn renew_certificate(
    client: &Client,
    state: &StateDir,
    key: &MachineKey,
) -> Result<Vec<u8>, EnrollError> {
    let machine = state.machine()?;
    let server = ControlPlane::new(&machine.server, client.clone())?;
    obtain_certificate(&server, state, machine, key).await
}

/// M, loaded into the TPM that made it.
///
/// # Errors
/// [`TpmError::ForeignKey`] if that is another TPM.
pub async fn machine_key(tpm: &Tpm, machine: &EnrolledMachine) -> Result<MachineKey, TpmError> {
    let blob = machine.machine_key.clone();
    tpm.run(move |tpm| tpm.machine_key(blob)).await
}

/// The TPM against the attestation CA: who are you, and is this attestation key yours?
async fn prove(config: &EnrollConfig, server: &ControlPlane) -> Result<EnrolledMachine, EnrollError> {
    let known = attest::prove_machine(server, &config.tpm, &config.token).await?;
    let machine_key = config.tpm.run(|tpm| tpm.create_machine_key()).await?;
    let account_key = SoftwareP256::generate()
        .and_then(|key| key.to_pkcs8())
        .map_err(|error| EnrollError::AccountKey(error.to_string()))?;
    Ok(EnrolledMachine {
        version: 1,
        server: server.origin.as_str().to_owned(),
        machine_id: known.machine_id,
        permanent_identifier: known.permanent_identifier,
        machine_key,
        ak_certificates: known.ak_certificates,
        account_key: AccountSecret::new(b64::url_encode(&account_key)),
        account_url: None,
        pending_binding: Some(AccountBinding { kid: known.eab.kid, key: AccountSecret::new(known.eab.key) }),
    })
}

async fn obtain_certificate(
    server: &ControlPlane,
    state: &StateDir,
    mut machine: EnrolledMachine,
    key: &MachineKey,
) -> Result<Vec<u8>, EnrollError> {
    let mut acme = acme::AcmeClient::open(server, &machine).await?;
    if machine.account_url.is_none() {
        machine.account_url = Some(acme.create_account(machine.pending_binding.as_ref()).await?);
        machine.pending_binding = None;
        state.save_machine(&machine)?;
    }
    let chain = acme.order_certificate(&machine, key).await?;
    // Refuses a certificate for another key before it replaces ours.
    MachineCertificate::default().replace(&chain, key)?;
    state.save_certificate(&chain)?;
    Ok(chain)
}

/// The control plane: one origin, JSON in and out.
#[derive(Debug)]
struct ControlPlane {
    origin: Origin,
    client: Client,
}

impl ControlPlane {
    fn new(server: &str, client: Client) -> Result<Self, HttpError> {
        Ok(Self { origin: Origin::of(server)?, client })
    }

    /// The path of a URL that the server named, which must be its own.
    fn path_of<'u>(&self, step: &'static str, url: &'u str) -> Result<&'u str, EnrollError> {
        url.strip_prefix(self.origin.as_str())
            .filter(|path| path.starts_with('/'))
            .ok_or_else(|| self.protocol(step, "a URL of another origin"))
    }

    fn protocol(&self, step: &'static str, what: impl Into<String>) -> EnrollError {
        EnrollError::Protocol { step, what: what.into(), server: self.origin.to_string() }
    }

    async fn send(
        &self,
        step: &'static str,
        method: Method,
        path: &str,
        content_type: &'static str,
        body: Vec<u8>,
    ) -> Result<Reply, EnrollError> {
        let mut request = Request::builder().method(method).uri(path);
        if !content_type.is_empty() {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        let request = request
            .body(Full::from(body))
            .map_err(|_| self.protocol(step, "a URL that cannot be requested"))?;
        Ok(self.client.request(&self.origin, request).await?)
    }

    /// Posts JSON to our own endpoints and reads JSON; refusals are `{"error", "error_description"}`.
    async fn post<T: serde::de::DeserializeOwned>(
        &self,
        step: &'static str,
        path: &str,
        body: &serde_json::Value,
    ) -> Result<T, EnrollError> {
        let reply =
            self.send(step, Method::POST, path, "application/json", body.to_string().into_bytes()).await?;
        if reply.status == StatusCode::OK {
            return self.read(step, &reply);
        }
        Err(self.refusal(step, &reply))
    }

    fn read<T: serde::de::DeserializeOwned>(&self, step: &'static str, reply: &Reply) -> Result<T, EnrollError> {
        countersign_proto::json::typed(&reply.body, &countersign_proto::json::Limits::DEFAULT)
            .map_err(|error| self.protocol(step, error.to_string()))
    }

    /// An OAuth-style error or an RFC 7807 problem.
    fn refusal(&self, step: &'static str, reply: &Reply) -> EnrollError {
        #[derive(serde::Deserialize)]
        struct Refusal {
            #[serde(alias = "type")]
            error: String,
            #[serde(alias = "detail", default)]
            error_description: String,
        }
        match self.read::<Refusal>(step, reply) {
            Ok(refusal) => EnrollError::Refused {
                step,
                code: printable(&refusal.error),
                description: printable(&refusal.error_description),
            },
            Err(_) => self.protocol(step, format!("status {}", reply.status)),
        }
    }
}

/// What came over the network, made fit for a terminal.
fn printable(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(300).collect()
}
