//! The token request: client attestation, M's proof of possession, A's proof, one resource, one task.
//!
//! The server's small corrections (another nonce, another challenge, a newer quote) are followed, each a bounded number of
//! times; everything else is an answer.

use countersign_proto::attestation_client::prove_pop;
use countersign_proto::dpop;
use countersign_proto::id::UpstreamId;
use countersign_proto::oauth::Form;
use countersign_proto::time::random_id;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::Full;
use serde::Deserialize;

use super::{Session, Statement, Token};
use crate::control_plane::ControlPlaneError;
use crate::http::Reply;

/// How many corrections of the server are followed in one request for a token.
const MAX_CORRECTIONS: u32 = 4;
/// How many of them may ask for a new quote.
const MAX_REATTESTATIONS: u32 = 2;
/// What was asked for, in messages.
const STEP: &str = "an access token";

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    token_type: String,
    expires_in: i64,
}

impl Session {
    /// A new token for `upstream`, given for a statement newer than `newer_than`.
    pub(super) async fn obtain_token(
        &self,
        upstream: &UpstreamId,
        newer_than: u64,
    ) -> Result<Token, ControlPlaneError> {
        self.ensure_certificate().await?;
        let mut statement = self.fresh_statement(newer_than).await?;
        let mut challenge = None;
        let mut reattestations = 0;
        for _ in 0..=MAX_CORRECTIONS {
            let current = match challenge.take() {
                Some(challenge) => challenge,
                None => self.attestation_challenge().await?,
            };
            let reply = self.request_token(upstream, &statement, current).await?;
            self.remember_nonce(&reply.headers);
            challenge = text(&reply.headers, "oauth-client-attestation-challenge");
            if reply.status == StatusCode::OK {
                return self.granted(&reply, &statement);
            }
            match self.server.refusal(STEP, &reply) {
                ControlPlaneError::Refused { code, .. } if code == "use_dpop_nonce" => {}
                ControlPlaneError::Refused { code, .. } if code == "use_attestation_challenge" => {}
                ControlPlaneError::Refused { code, .. }
                    if code == "use_fresh_attestation" && reattestations < MAX_REATTESTATIONS =>
                {
                    reattestations += 1;
                    statement = self.fresh_statement(statement.serial).await?;
                }
                error => return Err(error),
            }
        }
        Err(self.server.protocol(STEP, "one correction after the other"))
    }

    async fn attestation_challenge(&self) -> Result<String, ControlPlaneError> {
        #[derive(Deserialize)]
        struct Challenge {
            attestation_challenge: String,
        }
        let url = &self.metadata().await?.challenge_endpoint;
        let path = self.server.path_of(STEP, url)?;
        let reply = self.server.send(STEP, Method::POST, path, "", Vec::new()).await?;
        if reply.status != StatusCode::OK {
            return Err(self.server.refusal(STEP, &reply));
        }
        Ok(self.server.read::<Challenge>(STEP, &reply)?.attestation_challenge)
    }

    async fn request_token(
        &self,
        upstream: &UpstreamId,
        statement: &Statement,
        challenge: String,
    ) -> Result<Reply, ControlPlaneError> {
        let metadata = self.metadata().await?;
        let possession = self.prove_machine(challenge).await?;
        let nonce = self.server_nonce.lock().clone();
        let jti = random_id(&*self.rng, "");
        let url = &metadata.token_endpoint;
        let proof = dpop::prove(&self.run, "POST", url, None, nonce.as_deref(), &jti, self.clock.now())?;
        let request = Request::post(self.server.path_of(STEP, url)?)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header("oauth-client-attestation", &statement.jwt)
            .header("oauth-client-attestation-pop", possession)
            .header("dpop", proof)
            .body(Full::from(self.form(upstream)))
            .map_err(|_| self.server.protocol(STEP, "a statement that no header can carry"))?;
        self.server.send_request(request).await
    }

    fn form(&self, upstream: &UpstreamId) -> String {
        let (client, resource) = (self.agent.client_id(), self.resource(upstream));
        let details = self
            .task
            .as_ref()
            .map(|task| format!("[{{\"type\":\"urn:countersign:task\",\"task\":\"{task}\"}}]"));
        let mut parameters =
            vec![("grant_type", "client_credentials"), ("client_id", &client), ("resource", &resource)];
        if let Some(details) = &details {
            parameters.push(("authorization_details", details));
        }
        Form::encode(&parameters)
    }

    /// M's proof of possession: one TPM signature, off the asynchronous threads.
    async fn prove_machine(&self, challenge: String) -> Result<String, ControlPlaneError> {
        let (machine, agent) = (self.machine.clone(), self.agent.clone());
        let (issuer, jti, now) =
            (self.server.origin().to_string(), random_id(&*self.rng, ""), self.clock.now());
        tokio::task::spawn_blocking(move || prove_pop(&machine, &agent, &issuer, &challenge, &jti, now))
            .await
            .map_err(|_| ControlPlaneError::Key("the work was abandoned".to_owned()))?
            .map_err(ControlPlaneError::from)
    }

    fn granted(&self, reply: &Reply, statement: &Statement) -> Result<Token, ControlPlaneError> {
        let granted: Granted = self.server.read(STEP, reply)?;
        if !granted.token_type.eq_ignore_ascii_case("DPoP") {
            // RFC 9449 §5: a token of another type would not be bound to A.
            return Err(self.server.protocol(STEP, "a token that is not bound to a key"));
        }
        let now = self.clock.now();
        Ok(Token {
            text: granted.access_token,
            renew_at: now.plus_secs(granted.expires_in / 3 * 2),
            expires_at: now.plus_secs(granted.expires_in),
            statement: statement.serial,
        })
    }

    fn remember_nonce(&self, headers: &HeaderMap) {
        if let Some(nonce) = text(headers, "dpop-nonce") {
            *self.server_nonce.lock() = Some(nonce);
        }
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}
