//! The control plane as the runner talks to it: one origin, bounded replies, JSON in and out, refusals with a way forward.
//!
//! It knows no endpoint; enrollment and the session do.

use countersign_proto::jose::SignError;
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;

use crate::http::{Client, HttpError, Origin, Reply};
use crate::state::StateError;
use crate::tpm::TpmError;

/// Why the control plane did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ControlPlaneError {
    /// The TPM.
    #[error(transparent)]
    Tpm(#[from] TpmError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The connection.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// A key that should sign.
    #[error("a key of this machine cannot be used: {0}")]
    Key(String),
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
    #[error(
        "the control plane answered {step} with {what}; is {server} a countersign server of this version?"
    )]
    Protocol {
        /// What was asked for.
        step: &'static str,
        /// What is wrong with the answer.
        what: String,
        /// Who answered.
        server: String,
    },
}

impl From<SignError> for ControlPlaneError {
    fn from(error: SignError) -> Self {
        Self::Key(error.to_string())
    }
}

impl ControlPlaneError {
    /// Whether the other side is simply not there, and may be later.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Http(error) => error.is_unreachable(),
            Self::Tpm(_) | Self::State(_) | Self::Key(_) | Self::Refused { .. } | Self::Protocol { .. } => {
                false
            }
        }
    }
}

fn describe(description: &str) -> String {
    if description.is_empty() { String::new() } else { format!(" ({description})") }
}

/// What a person can do about the refusals they meet.
fn advice(code: &str) -> &'static str {
    match code {
        "invalid_enrollment_token" => {
            "the token is unknown, used or expired; ask an administrator for a new one"
        }
        "endorsement_untrusted" => {
            "nobody vouches for this TPM; an administrator can add its manufacturer's roots or allow-list its endorsement key"
        }
        "ak_unacceptable" => "this TPM made an attestation key that may not attest; report its model",
        "activation_failed" => "the TPM could not prove that the attestation key is its own; try again",
        "quote_unacceptable" => "the state of this machine's firmware or boot loader is not the expected one",
        "machine_exists" => "this TPM is enrolled already; an administrator must revoke that machine first",
        "machine_revoked" => "an administrator revoked this machine",
        "audit_unavailable" => "the audit log cannot be written, so nothing is granted; try again later",
        "machine_certificate_required" => {
            "this machine's certificate was not accepted; enroll this machine again"
        }
        "invalid_client" | "unauthorized_client" => {
            "the agent is unknown, suspended or may not run on this machine; check it with `countersign agent list`"
        }
        "invalid_client_attestation" => {
            "the statement about this machine was not accepted; check the clocks of both sides"
        }
        "use_fresh_attestation" => {
            "the statement about this machine is too old even when new; check the clocks of both sides"
        }
        "invalid_authorization_details" => {
            "the agent has no (or more than one) active task for this; name one with --task, or ask for one"
        }
        "invalid_target" => "the control plane knows no such tool server",
        "urn:ietf:params:acme:error:badAttestationStatement" => {
            "the attestation of the machine key was not accepted"
        }
        _ => "see the control plane's log",
    }
}

/// The control plane: one origin, JSON in and out.
#[derive(Clone, Debug)]
pub(crate) struct ControlPlane {
    origin: Origin,
    client: Client,
}

impl ControlPlane {
    pub(crate) fn new(server: &str, client: Client) -> Result<Self, HttpError> {
        Ok(Self { origin: Origin::of(server)?, client })
    }

    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The path of a URL that the server named, which must be its own.
    pub(crate) fn path_of<'u>(&self, step: &'static str, url: &'u str) -> Result<&'u str, ControlPlaneError> {
        url.strip_prefix(self.origin.as_str())
            .filter(|path| path.starts_with('/'))
            .ok_or_else(|| self.protocol(step, "a URL of another origin"))
    }

    pub(crate) fn protocol(&self, step: &'static str, what: impl Into<String>) -> ControlPlaneError {
        ControlPlaneError::Protocol { step, what: what.into(), server: self.origin.to_string() }
    }

    pub(crate) async fn send(
        &self,
        step: &'static str,
        method: Method,
        path: &str,
        content_type: &'static str,
        body: Vec<u8>,
    ) -> Result<Reply, ControlPlaneError> {
        let mut request = Request::builder().method(method).uri(path);
        if !content_type.is_empty() {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        let request = request
            .body(Full::from(body))
            .map_err(|_| self.protocol(step, "a URL that cannot be requested"))?;
        Ok(self.client.request(&self.origin, request).await?)
    }

    /// Sends a request with headers of its own.
    pub(crate) async fn send_request(
        &self,
        request: Request<Full<bytes::Bytes>>,
    ) -> Result<Reply, ControlPlaneError> {
        Ok(self.client.request(&self.origin, request).await?)
    }

    /// Reads a JSON document.
    pub(crate) async fn fetch<T: serde::de::DeserializeOwned>(
        &self,
        step: &'static str,
        path: &str,
    ) -> Result<T, ControlPlaneError> {
        let reply = self.send(step, Method::GET, path, "", Vec::new()).await?;
        if reply.status == StatusCode::OK { self.read(step, &reply) } else { Err(self.refusal(step, &reply)) }
    }

    /// Posts JSON to our own endpoints and reads JSON; refusals are `{"error", "error_description"}`.
    pub(crate) async fn post<T: serde::de::DeserializeOwned>(
        &self,
        step: &'static str,
        path: &str,
        body: &serde_json::Value,
    ) -> Result<T, ControlPlaneError> {
        let reply =
            self.send(step, Method::POST, path, "application/json", body.to_string().into_bytes()).await?;
        if reply.status == StatusCode::OK {
            return self.read(step, &reply);
        }
        Err(self.refusal(step, &reply))
    }

    pub(crate) fn read<T: serde::de::DeserializeOwned>(
        &self,
        step: &'static str,
        reply: &Reply,
    ) -> Result<T, ControlPlaneError> {
        countersign_proto::json::typed(&reply.body, &countersign_proto::json::Limits::DEFAULT)
            .map_err(|error| self.protocol(step, error.to_string()))
    }

    /// An OAuth-style error or an RFC 7807 problem.
    pub(crate) fn refusal(&self, step: &'static str, reply: &Reply) -> ControlPlaneError {
        #[derive(serde::Deserialize)]
        struct Refusal {
            #[serde(alias = "type")]
            error: String,
            #[serde(alias = "detail", default)]
            error_description: String,
        }
        match self.read::<Refusal>(step, reply) {
            Ok(refusal) => ControlPlaneError::Refused {
                step,
                code: printable(&refusal.error),
                description: printable(&refusal.error_description),
            },
            Err(_) => self.protocol(step, format!("status {}", reply.status)),
        }
    }
}

/// What came over the network, made fit for a terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(300).collect()
}
