//! A hand-driven runner: the same protocol step by step, with every secret in the open, so that a test can take a
//! step wrongly or hand its secrets to a thief.
//!
//! Not the product's runner, and no part of it: it speaks the wire formats, so it also checks that they are enough.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use countersign_proto::b64;
use countersign_proto::id::AgentId;
use countersign_proto::jose::{JwsSigner, SoftwareEd25519};
use countersign_proto::time::{Clock, Entropy, Timestamp, random_id};
use countersign_proto::{attestation_client, channel, dpop};
use countersign_runner::enroll::machine_key;
use countersign_runner::http::{Client, MachineCertificate, Origin, Reply};
use countersign_runner::state::StateDir;
use countersign_runner::tpm::{MachineKey, Tpm, TpmLocation};
use http::{Method, Request, header};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::ambient::{RealClock, RealEntropy};
use crate::world::{Machine, Ready};

/// The wall clock and the system's randomness, for tests that talk to the real binary.
static CLOCK: RealClock = RealClock;
static RNG: RealEntropy = RealEntropy;

/// Somebody who can connect: with a machine's certificate and TPM, or with nothing.
#[derive(Clone, Debug)]
pub struct Caller {
    client: Client,
    gateway: Origin,
    server: Origin,
}

impl Caller {
    /// A caller with no machine certificate.
    ///
    /// # Errors
    /// If the roots cannot be read.
    pub fn anonymous(ready: &Ready) -> io::Result<Self> {
        Self::with(ready, Arc::new(MachineCertificate::default()))
    }

    fn with(ready: &Ready, certificate: Arc<MachineCertificate>) -> io::Result<Self> {
        let roots = std::fs::read(&ready.ca)?;
        Ok(Self {
            client: Client::new(&roots, certificate).map_err(io::Error::other)?,
            gateway: Origin::of(&ready.gateway).map_err(io::Error::other)?,
            server: Origin::of(&ready.server).map_err(io::Error::other)?,
        })
    }

    /// One request to the gateway.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn to_gateway(&self, request: Request<Full<Bytes>>) -> io::Result<Answer> {
        self.client.request(&self.gateway, request).await.map(Answer::from).map_err(io::Error::other)
    }

    /// One request to the control plane.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn to_server(&self, request: Request<Full<Bytes>>) -> io::Result<Answer> {
        self.client.request(&self.server, request).await.map(Answer::from).map_err(io::Error::other)
    }

    /// A tool call with exactly these headers.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn call(&self, url: &str, headers: &[(&str, &str)], body: &Value) -> io::Result<Answer> {
        self.post(url, headers, body.to_string().into_bytes()).await
    }

    /// A POST to the gateway with exactly these headers and bytes.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn post(&self, url: &str, headers: &[(&str, &str)], body: Vec<u8>) -> io::Result<Answer> {
        let path = url.strip_prefix(self.gateway.as_str()).unwrap_or(url);
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, text/event-stream");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.to_gateway(request.body(Full::from(body)).map_err(io::Error::other)?).await
    }

    /// The proof that binds key A to a new connection of this caller, and the call made on that connection.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn call_on_channel(
        &self,
        url: &str,
        token: &str,
        key: &SoftwareEd25519,
        stolen_proof: Option<&str>,
        session: Option<&str>,
        body: &Value,
    ) -> io::Result<(Answer, String)> {
        self.client.start_over();
        let connection = self.client.connection(&self.gateway).await.map_err(io::Error::other)?;
        let own = channel::prove(key, connection.exporter(), self.gateway.as_str(), CLOCK.now())
            .map_err(io::Error::other)?;
        let proof = stolen_proof.unwrap_or(&own);
        let path = url.strip_prefix(self.gateway.as_str()).unwrap_or(url);
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, text/event-stream")
            .header(header::AUTHORIZATION, format!("DPoP {token}"))
            .header("countersign-channel", proof);
        if let Some(session) = session {
            request = request.header("mcp-session-id", session).header("mcp-protocol-version", PROTOCOL);
        }
        let request = request.body(Full::from(body.to_string())).map_err(io::Error::other)?;
        let response = self
            .client
            .send(connection, request)
            .await
            .map_err(|error| io::Error::other(format!("{error:?}")))?;
        let (head, body) = response.into_parts();
        let body = http_body_util::BodyExt::collect(body)
            .await
            .map_err(|error| io::Error::other(error.to_string()))?;
        let answer =
            Answer { status: head.status.as_u16(), headers: head.headers, body: body.to_bytes().to_vec() };
        Ok((answer, proof.to_owned()))
    }
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Headers.
    pub headers: http::HeaderMap,
    /// Body.
    pub body: Vec<u8>,
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Self {
        Self { status: reply.status.as_u16(), headers: reply.headers, body: reply.body.to_vec() }
    }
}

impl Answer {
    /// The body as JSON, or null. An event stream gives the JSON of its last message.
    #[must_use]
    pub fn json(&self) -> Value {
        if let Ok(value) = serde_json::from_slice(&self.body) {
            return value;
        }
        let text = String::from_utf8_lossy(&self.body);
        let data = text.lines().filter_map(|line| line.strip_prefix("data:")).next_back();
        data.and_then(|data| serde_json::from_str(data.trim()).ok()).unwrap_or(Value::Null)
    }

    /// A header as text, or nothing.
    #[must_use]
    pub fn header(&self, name: &str) -> String {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    }
}

/// A run of an agent on an enrolled machine, driven by hand.
#[derive(Debug)]
pub struct Insider {
    /// Connects with the machine's certificate.
    pub caller: Caller,
    /// M, in the TPM.
    pub machine: MachineKey,
    /// A, in the open.
    pub key: SoftwareEd25519,
    agent: AgentId,
    ready: Ready,
    tpm: Tpm,
}

impl Insider {
    /// Opens an enrolled machine's state and makes a fresh run key.
    ///
    /// # Errors
    /// If the machine is not enrolled or its TPM does not answer.
    pub async fn open(ready: &Ready, machine: &Machine, agent: &str) -> io::Result<Self> {
        Self::open_state(ready, &machine.state, &machine.tpm.socket(), agent).await
    }

    /// As [`Insider::open`], for a state folder and a TPM socket that need not belong together.
    ///
    /// # Errors
    /// As [`Insider::open`].
    pub async fn open_state(ready: &Ready, state: &Path, tpm_socket: &Path, agent: &str) -> io::Result<Self> {
        let location = TpmLocation::parse(&format!("unix:{}", tpm_socket.display()));
        let tpm = Tpm::open(location).map_err(io::Error::other)?;
        let state = StateDir::open(state).map_err(io::Error::other)?;
        let enrolled = state.machine().map_err(io::Error::other)?;
        let machine = machine_key(&tpm, &enrolled).await.map_err(io::Error::other)?;
        let certificate = Arc::new(MachineCertificate::default());
        certificate
            .replace(&state.certificate().map_err(io::Error::other)?, &machine)
            .map_err(io::Error::other)?;
        Ok(Self {
            caller: Caller::with(ready, certificate)?,
            machine,
            key: SoftwareEd25519::generate().map_err(io::Error::other)?,
            agent: AgentId::parse(agent).map_err(io::Error::other)?,
            ready: ready.clone(),
            tpm,
        })
    }

    /// Another run of the same agent on the same machine: the same M, another A.
    ///
    /// # Errors
    /// If no key can be made.
    pub fn another_run(&self) -> io::Result<Self> {
        Ok(Self {
            caller: self.caller.clone(),
            machine: self.machine.clone(),
            key: SoftwareEd25519::generate().map_err(io::Error::other)?,
            agent: self.agent.clone(),
            ready: self.ready.clone(),
            tpm: self.tpm.clone(),
        })
    }

    /// The URL of the tool server at the gateway.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}/mcp/{}", self.ready.gateway, crate::world::UPSTREAM)
    }

    /// The machine's TPM.
    #[must_use]
    pub fn tpm(&self) -> &Tpm {
        &self.tpm
    }

    /// A fresh quote, exchanged for the control plane's statement about this machine.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn attest(&self) -> io::Result<String> {
        let nonce = self.server_json("/attest/v1/nonce", &json!({})).await?;
        let nonce = text(&nonce, "nonce")?;
        let quote =
            self.tpm.quote(&b64::url_decode(&nonce).map_err(io::Error::other)?).map_err(io::Error::other)?;
        let values: BTreeMap<String, String> =
            quote.pcr_values.iter().map(|(pcr, value)| (pcr.to_string(), b64::url_encode(value))).collect();
        let answer = self
            .server_json(
                "/attest/v1/client-attestation",
                &json!({
                    "client_id": self.agent.client_id(),
                    "nonce": nonce,
                    "quote": b64::url_encode(&quote.attest),
                    "signature": b64::url_encode(&quote.signature),
                    "pcr_values": values,
                }),
            )
            .await?;
        text(&answer, "client_attestation")
    }

    /// A fresh challenge for the proof by M.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn challenge(&self) -> io::Result<String> {
        text(&self.server_json("/oauth/challenge", &json!({})).await?, "attestation_challenge")
    }

    /// The proof by M that goes with a client attestation.
    ///
    /// # Errors
    /// If the TPM does not sign.
    pub fn prove_machine(&self, challenge: &str) -> io::Result<String> {
        attestation_client::prove_pop(
            &self.machine,
            &self.agent,
            &self.ready.server,
            challenge,
            &random_id(&RNG, "pop_"),
            CLOCK.now(),
        )
        .map_err(io::Error::other)
    }

    /// A token for `task`.
    ///
    /// # Errors
    /// If any step is refused; the message is the answer.
    pub async fn token(&self, task: &str) -> io::Result<String> {
        let attestation = self.attest().await?;
        let pop = self.prove_machine(&self.challenge().await?)?;
        let proof = self.proof_for("POST", &format!("{}/oauth/token", self.ready.server), None)?;
        let headers = [
            ("oauth-client-attestation", attestation.as_str()),
            ("oauth-client-attestation-pop", pop.as_str()),
            ("dpop", proof.as_str()),
        ];
        let answer = self.token_request(&self.token_form(task), &headers).await?;
        text(&answer.json(), "access_token").map_err(|_| {
            io::Error::other(format!("token: {} {}", answer.status, String::from_utf8_lossy(&answer.body)))
        })
    }

    /// The form of a token request for `task`.
    #[must_use]
    pub fn token_form(&self, task: &str) -> Vec<(String, String)> {
        let details = json!([{ "type": "urn:countersign:task", "task": task }]).to_string();
        [
            ("grant_type", "client_credentials"),
            ("client_id", &self.agent.client_id()),
            ("resource", &self.url()),
            ("authorization_details", &details),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    /// A token request with exactly this form and these headers.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn token_request(
        &self,
        form: &[(String, String)],
        headers: &[(&str, &str)],
    ) -> io::Result<Answer> {
        let body: Vec<String> =
            form.iter().map(|(name, value)| format!("{name}={}", percent_encode(value))).collect();
        let mut request = Request::builder()
            .method(Method::POST)
            .uri("/oauth/token")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.caller.to_server(request.body(Full::from(body.join("&"))).map_err(io::Error::other)?).await
    }

    /// A DPoP proof by A.
    ///
    /// # Errors
    /// If it cannot be signed.
    pub fn proof_for(&self, method: &str, url: &str, token: Option<&str>) -> io::Result<String> {
        self.proof_at(method, url, token, CLOCK.now())
    }

    /// A DPoP proof by A that says it was made `now`.
    ///
    /// # Errors
    /// If it cannot be signed.
    pub fn proof_at(
        &self,
        method: &str,
        url: &str,
        token: Option<&str>,
        now: Timestamp,
    ) -> io::Result<String> {
        prove(&self.key, method, url, token, now)
    }

    /// A call with token and fresh proof, over a connection of `caller`, who may be another machine.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn call_as(&self, caller: &Caller, token: &str, body: &Value) -> io::Result<Answer> {
        let proof = self.proof_for("POST", &self.url(), Some(token))?;
        let authorization = format!("DPoP {token}");
        caller.call(&self.url(), &[("authorization", &authorization), ("dpop", &proof)], body).await
    }

    /// An MCP session of this run: its headers, for calls that need one.
    ///
    /// # Errors
    /// If the session is refused.
    pub async fn initialize(&self, token: &str) -> io::Result<String> {
        let answer = self.call_as(&self.caller, token, &initialize()).await?;
        let session = answer.header("mcp-session-id");
        if session.is_empty() {
            return Err(io::Error::other(format!("initialize: {} {}", answer.status, answer.json())));
        }
        Ok(session)
    }

    async fn server_json(&self, path: &str, body: &Value) -> io::Result<Value> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::from(body.to_string()))
            .map_err(io::Error::other)?;
        let answer = self.caller.to_server(request).await?;
        if answer.status != 200 {
            return Err(io::Error::other(format!("{path}: {} {}", answer.status, answer.json())));
        }
        Ok(answer.json())
    }
}

/// The protocol version that hand-driven sessions speak.
pub const PROTOCOL: &str = "2025-11-25";

/// The first message of a session.
#[must_use]
pub fn initialize() -> Value {
    json!({
        "jsonrpc": "2.0", "id": 0, "method": "initialize",
        "params": {
            "protocolVersion": PROTOCOL, "capabilities": {}, "clientInfo": { "name": "insider", "version": "1" },
        },
    })
}

/// A tool call as JSON-RPC.
#[must_use]
pub fn tool_call(id: u64, tool: &str, arguments: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": { "name": tool, "arguments": arguments } })
}

/// A DPoP proof by any key.
///
/// # Errors
/// If it cannot be signed.
pub fn prove(
    key: &dyn JwsSigner,
    method: &str,
    url: &str,
    token: Option<&str>,
    now: Timestamp,
) -> io::Result<String> {
    dpop::prove(key, method, url, token, None, &random_id(&RNG, "jti_"), now).map_err(io::Error::other)
}

/// The wall clock that hand-driven runs use.
#[must_use]
pub fn now() -> Timestamp {
    CLOCK.now()
}

/// Unpredictable bytes.
pub fn random(out: &mut [u8]) {
    RNG.fill(out);
}

fn percent_encode(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

fn text(value: &Value, key: &str) -> io::Result<String> {
    value[key].as_str().map(str::to_owned).ok_or_else(|| io::Error::other(format!("no {key} in {value}")))
}
