//! One run of an agent: its key A, the fresh statements about the machine, and the access tokens that bind both.
//!
//! A lives in memory only and dies with the session. Everything expires within minutes and is renewed before that; when a
//! renewal fails there is nothing older to fall back to. The agent's process sees none of this.

mod certificate;
mod token;

use std::collections::HashMap;
use std::sync::Arc;

use countersign_proto::id::{AgentId, TaskId, UpstreamId};
use countersign_proto::jose::{JwsSigner, SoftwareEd25519};
use countersign_proto::time::{Clock, Entropy, Timestamp, random_id};
use countersign_proto::{b64, channel, dpop};
use serde::Deserialize;
use tokio::sync::{Mutex, OnceCell};

use crate::control_plane::{ControlPlane, ControlPlaneError};
use crate::enroll::{machine_key, quote_members};
use crate::http::{Client, Connection, MachineCertificate, Origin};
use crate::state::StateDir;
use crate::tpm::{MachineKey, Tpm};
use certificate::Life;

/// A token or statement is renewed when it has less than this left, in seconds.
const RENEWAL_MARGIN_SECS: i64 = 30;
/// How long a renewal in the background that failed is not tried again, in seconds.
const RETRY_SECS: i64 = 10;
/// How often a nonce that was used up in between is asked for again.
const MAX_NONCE_RETRIES: u32 = 2;

/// What a run needs.
#[derive(Debug)]
pub struct SessionConfig {
    /// The gateway's public origin, `https://host[:port]`.
    pub gateway: String,
    /// Whose run this is.
    pub agent: AgentId,
    /// For which task; `None` if the agent has exactly one for each tool server.
    pub task: Option<TaskId>,
    /// The roots of the TLS certificates of control plane and gateway, in PEM.
    pub ca_pem: Vec<u8>,
    /// This machine's identity.
    pub state: StateDir,
    /// This machine's TPM.
    pub tpm: Tpm,
}

/// An access token for one tool server, bound to A and, through its claims, to M.
pub struct Token {
    text: String,
    /// When a call causes the next one to be asked for, beside it.
    renew_at: Timestamp,
    expires_at: Timestamp,
    /// The statement about the machine that it was given for.
    statement: u64,
}

impl Token {
    /// The token, for an `Authorization` header.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Token(statement {})", self.statement)
    }
}

/// The control plane's statement that this machine is what it should be, with M in it.
struct Statement {
    /// Counts the statements of this session.
    serial: u64,
    jwt: String,
    expires_at: Timestamp,
}

#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    token_endpoint: String,
    challenge_endpoint: String,
}

/// The current token of one tool server.
#[derive(Default)]
struct TokenSlot {
    current: parking_lot::Mutex<Option<Arc<Token>>>,
    /// Whoever holds it is the one who renews the token. In it: when the background may try again.
    renewal: Arc<Mutex<Option<Timestamp>>>,
}

/// A running agent's standing with control plane and gateway.
pub struct Session {
    gateway: Origin,
    agent: AgentId,
    task: Option<TaskId>,
    state: StateDir,
    server: ControlPlane,
    client: Client,
    certificate: Arc<MachineCertificate>,
    certificate_life: parking_lot::Mutex<Life>,
    /// Whoever holds it is the one who renews the certificate.
    certificate_renewal: Mutex<()>,
    machine: MachineKey,
    run: SoftwareEd25519,
    metadata: OnceCell<Metadata>,
    statement: Mutex<Option<Arc<Statement>>>,
    tokens: parking_lot::Mutex<HashMap<UpstreamId, Arc<TokenSlot>>>,
    server_nonce: parking_lot::Mutex<Option<String>>,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Entropy>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session({} on {:?})", self.agent, self.machine)
    }
}

impl Session {
    /// Loads the machine's identity and makes the run's key. Talks to nobody but the TPM.
    ///
    /// # Errors
    /// [`ControlPlaneError`] if this machine is not enrolled, its key is another TPM's, or its certificate another key's.
    pub async fn open(
        config: SessionConfig,
        clock: Arc<dyn Clock>,
        rng: Arc<dyn Entropy>,
    ) -> Result<Arc<Self>, ControlPlaneError> {
        let identity = config.state.machine()?;
        let machine = machine_key(&config.tpm, &identity).await?;
        let certificate = Arc::new(MachineCertificate::default());
        let client = Client::new(&config.ca_pem, Arc::clone(&certificate))?;
        let server = ControlPlane::new(&identity.server, client.clone())?;
        let run = SoftwareEd25519::generate().map_err(|error| ControlPlaneError::Key(error.to_string()))?;
        let session = Self {
            gateway: Origin::of(&config.gateway)?,
            agent: config.agent,
            task: config.task,
            state: config.state,
            server,
            client,
            certificate,
            certificate_life: parking_lot::Mutex::new(Life::NONE),
            certificate_renewal: Mutex::new(()),
            machine,
            run,
            metadata: OnceCell::new(),
            statement: Mutex::new(None),
            tokens: parking_lot::Mutex::default(),
            server_nonce: parking_lot::Mutex::default(),
            clock,
            rng,
        };
        session.use_kept_certificate()?;
        Ok(Arc::new(session))
    }

    /// The gateway.
    #[must_use]
    pub fn gateway(&self) -> &Origin {
        &self.gateway
    }

    /// The agent.
    #[must_use]
    pub fn agent(&self) -> &AgentId {
        &self.agent
    }

    /// The client whose connections show the machine certificate.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The public URL of a tool server behind the gateway: what tokens for it are for.
    #[must_use]
    pub fn resource(&self, upstream: &UpstreamId) -> String {
        format!("{}/mcp/{upstream}", self.gateway)
    }

    /// A token for `upstream` with some life left in it. Many callers at once cause one request, and the call that finds
    /// two thirds of its life over causes the next one in the background: as long as calls are made, none waits for it.
    ///
    /// # Errors
    /// [`ControlPlaneError`].
    pub async fn token(self: &Arc<Self>, upstream: &UpstreamId) -> Result<Arc<Token>, ControlPlaneError> {
        let slot = self.slot(upstream);
        if let Some(token) = self.current(&slot) {
            if token.renew_at <= self.clock.now() {
                self.prefetch(upstream, &slot, &token);
            }
            return Ok(token);
        }
        let _turn = slot.renewal.lock().await;
        match self.current(&slot) {
            Some(token) => Ok(token),
            None => self.renew_token(upstream, &slot, 0).await,
        }
    }

    /// A token in place of `refused`. With `reattest`, one given for a newer statement about the machine, made from a
    /// quote over a nonce that did not exist when the old one was made.
    ///
    /// # Errors
    /// [`ControlPlaneError`].
    pub async fn replace(
        &self,
        upstream: &UpstreamId,
        refused: &Token,
        reattest: bool,
    ) -> Result<Arc<Token>, ControlPlaneError> {
        let slot = self.slot(upstream);
        let after = if reattest { refused.statement } else { 0 };
        let _turn = slot.renewal.lock().await;
        match self.current(&slot) {
            // Somebody else replaced it while we waited.
            Some(token) if token.text != refused.text && token.statement > after => Ok(token),
            _ => self.renew_token(upstream, &slot, after).await,
        }
    }

    /// The current token, if it has enough life left.
    fn current(&self, slot: &TokenSlot) -> Option<Arc<Token>> {
        slot.current.lock().clone().filter(|token| self.is_fresh(token.expires_at))
    }

    /// To be called by who holds the slot's renewal.
    async fn renew_token(
        &self,
        upstream: &UpstreamId,
        slot: &TokenSlot,
        after: u64,
    ) -> Result<Arc<Token>, ControlPlaneError> {
        let token = Arc::new(self.obtain_token(upstream, after).await?);
        *slot.current.lock() = Some(Arc::clone(&token));
        Ok(token)
    }

    /// Renews `token` beside the calls that use it, unless somebody is at it. The new one is given for a newer statement:
    /// it can live no longer than that.
    fn prefetch(self: &Arc<Self>, upstream: &UpstreamId, slot: &Arc<TokenSlot>, token: &Token) {
        let Ok(mut turn) = Arc::clone(&slot.renewal).try_lock_owned() else { return };
        let replaced = self.current(slot).is_some_and(|current| current.text != token.text);
        if replaced || turn.is_some_and(|retry_at| self.clock.now() < retry_at) {
            return;
        }
        let (session, upstream, slot, after) =
            (Arc::clone(self), upstream.clone(), Arc::clone(slot), token.statement);
        tokio::spawn(async move {
            *turn = match session.renew_token(&upstream, &slot, after).await {
                Ok(_) => None,
                Err(error) => {
                    tracing::warn!(%error, %upstream, "the access token was not renewed yet");
                    Some(session.clock.now().plus_secs(RETRY_SECS))
                }
            };
        });
    }

    /// Has the TPM quote again and the control plane judge the machine anew; later tokens are given for that.
    ///
    /// # Errors
    /// [`ControlPlaneError`].
    pub async fn reattest(&self) -> Result<(), ControlPlaneError> {
        self.ensure_certificate().await?;
        let newest = self.statement.lock().await.as_ref().map_or(0, |statement| statement.serial);
        self.fresh_statement(newest).await.map(drop)
    }

    /// A proof by A for one request (RFC 9449).
    ///
    /// # Errors
    /// [`ControlPlaneError::Key`].
    pub fn prove_call(
        &self,
        method: &str,
        url: &str,
        token: &Token,
        nonce: Option<&str>,
    ) -> Result<String, ControlPlaneError> {
        let jti = random_id(&*self.rng, "");
        Ok(dpop::prove(&self.run, method, url, Some(&token.text), nonce, &jti, self.clock.now())?)
    }

    /// A proof by A for everything that comes over `connection`.
    ///
    /// # Errors
    /// [`ControlPlaneError::Key`].
    pub fn prove_connection(&self, connection: &Connection) -> Result<String, ControlPlaneError> {
        Ok(channel::prove(&self.run, connection.exporter(), self.gateway.as_str(), self.clock.now())?)
    }

    /// Opens a connection to the gateway and keeps it for the first call.
    ///
    /// # Errors
    /// [`ControlPlaneError::Http`] if the gateway cannot be reached.
    pub async fn reach_gateway(&self) -> Result<(), ControlPlaneError> {
        Ok(self.client.reach(&self.gateway).await?)
    }

    fn slot(&self, upstream: &UpstreamId) -> Arc<TokenSlot> {
        Arc::clone(self.tokens.lock().entry(upstream.clone()).or_default())
    }

    fn is_fresh(&self, expires_at: Timestamp) -> bool {
        self.clock.now().plus_secs(RENEWAL_MARGIN_SECS) < expires_at
    }

    /// The newest statement that is not older than asked for, from a new quote if need be.
    async fn fresh_statement(&self, newer_than: u64) -> Result<Arc<Statement>, ControlPlaneError> {
        let mut current = self.statement.lock().await;
        let serial = match &*current {
            Some(statement) if statement.serial > newer_than && self.is_fresh(statement.expires_at) => {
                return Ok(Arc::clone(statement));
            }
            Some(statement) => statement.serial + 1,
            None => 1,
        };
        let statement = Arc::new(self.attest(serial).await?);
        *current = Some(Arc::clone(&statement));
        Ok(statement)
    }

    /// Nonce, quote, statement.
    async fn attest(&self, serial: u64) -> Result<Statement, ControlPlaneError> {
        #[derive(Deserialize)]
        struct Nonce {
            nonce: String,
        }
        #[derive(Deserialize)]
        struct Attested {
            client_attestation: String,
            att_exp: i64,
        }
        let step = "the attestation of this machine";
        let mut retries = 0;
        loop {
            let Nonce { nonce } = self.server.post(step, "/attest/v1/nonce", &serde_json::json!({})).await?;
            let bytes =
                b64::url_decode(&nonce).map_err(|error| self.server.protocol(step, error.to_string()))?;
            let quote = self.machine.tpm().run(move |tpm| tpm.quote(&bytes)).await?;
            let mut body = quote_members(&quote);
            body.insert("client_id".to_owned(), self.agent.client_id().into());
            body.insert("nonce".to_owned(), nonce.into());
            match self.server.post::<Attested>(step, "/attest/v1/client-attestation", &body.into()).await {
                Ok(attested) => {
                    let expires_at = Timestamp::from_unix_secs(attested.att_exp);
                    return Ok(Statement { serial, jwt: attested.client_attestation, expires_at });
                }
                Err(ControlPlaneError::Refused { code, .. })
                    if code == "use_fresh_nonce" && retries < MAX_NONCE_RETRIES =>
                {
                    retries += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The server's endpoints (RFC 8414), read once: they must be the issuer's own.
    async fn metadata(&self) -> Result<&Metadata, ControlPlaneError> {
        self.metadata
            .get_or_try_init(|| async {
                let step = "the authorization server metadata";
                let path = "/.well-known/oauth-authorization-server";
                let metadata: Metadata = self.server.fetch(step, path).await?;
                if metadata.issuer != self.server.origin().as_str() {
                    return Err(self.server.protocol(step, "another issuer"));
                }
                self.server.path_of(step, &metadata.token_endpoint)?;
                self.server.path_of(step, &metadata.challenge_endpoint)?;
                Ok(metadata)
            })
            .await
    }

    /// The run's public key thumbprint: what the tokens of this run are bound to.
    #[must_use]
    pub fn run_thumbprint(&self) -> countersign_proto::jose::Thumbprint {
        self.run.public_jwk().thumbprint()
    }
}

#[cfg(test)]
mod tests;
