//! The two factors of a request: which agent, on which machine, and that they belong together.
//!
//! Every error of the crates that check is mapped to its code here, by name.

use std::sync::Arc;

use countersign_identity::{
    AgentProof, AuthenticationError, TokenError, TokenExpectation, VerifiedAgent, VerifiedToken,
    authenticate, verify_token,
};
use countersign_policy::{Code, Countersigned};
use countersign_proto::channel;
use countersign_proto::digest::Sha256Digest;
use countersign_proto::dpop::{self, DpopExpectation};
use countersign_proto::snapshot::UpstreamEntry;
use countersign_trust::{AppraisalError, VerifiedMachine, appraise_peer};

use super::Trail;
use crate::front::Presented;
use crate::refusal::Stop;
use crate::replay::NotAdmitted;
use crate::standing::{Bearer, Standing};

/// The longest a token of ours lasts.
const MAX_TOKEN_LIFETIME_SECS: i64 = 300;
/// Two genuine things that do not belong together.
const THEFT: &str = "theft";
const REPLAY: &str = "replay";

impl Trail<'_> {
    /// Token and proof: the agent holds the key that its token is bound to, and may still act.
    pub(super) fn authenticate_agent(
        &mut self,
        standing: &Standing,
        entry: &UpstreamEntry,
        method: &str,
        presented: &Presented,
    ) -> Result<VerifiedAgent, Stop> {
        let text = dpop_token(presented)?;
        let token = self.token(standing, entry, text)?;
        let proof = self.proof(entry, method, text, presented)?;
        let shown = proof.clone();
        let agent_entry = standing.body.agents.get(&token.claims().client_id);
        let agent =
            authenticate(token, proof, agent_entry, &standing.revoked, self.now).map_err(|error| {
                let stop = Stop::because(authentication_code(error), error);
                if matches!(error, AuthenticationError::Key) { stop.alarming(THEFT) } else { stop }
            })?;
        self.known.agent = Some(agent.clone());
        // Only what is otherwise good is remembered: strangers can neither fill the memory nor take a connection.
        match shown {
            AgentProof::Dpop(proof) => self
                .gate
                .proofs
                .admit(proof.thumbprint(), proof.jti(), proof.issued_at(), self.now)
                .map_err(not_admitted)?,
            AgentProof::Channel(proof) => {
                let _bound = self.connection.channel.get_or_init(|| proof);
            }
        }
        Ok(agent)
    }

    fn token(
        &self,
        standing: &Standing,
        entry: &UpstreamEntry,
        text: &str,
    ) -> Result<Arc<VerifiedToken>, Stop> {
        let digest = Sha256Digest::of(text.as_bytes());
        let version = standing.body.version;
        if let Some((_, token)) =
            self.gate.tokens.get(&digest).filter(|(verified_by, _)| *verified_by == version)
        {
            // Expiry, generation and revocation are asked again by `authenticate`.
            return if token.claims().aud == entry.resource {
                Ok(token)
            } else {
                Err(Stop::because(Code::TokenAudience, "token for another resource"))
            };
        }
        let expected = TokenExpectation {
            issuer: &self.gate.issuer,
            audience: &entry.resource,
            keys: &standing.token_keys,
            now: self.now,
            max_lifetime_secs: MAX_TOKEN_LIFETIME_SECS,
        };
        let token =
            verify_token(text, &expected).map_err(|error| Stop::because(token_code(&error), &error))?;
        let token = Arc::new(token);
        self.gate.tokens.insert(digest, (version, token.clone()));
        Ok(token)
    }

    /// The proof made for this request, or the one made for this connection.
    fn proof(
        &self,
        entry: &UpstreamEntry,
        method: &str,
        token: &str,
        presented: &Presented,
    ) -> Result<AgentProof, Stop> {
        match (&presented.dpop, &presented.channel) {
            (Some(_), Some(_)) => Err(Stop::because(Code::PopInvalid, "two kinds of proof at once")),
            (Some(proof), None) => {
                let expected = DpopExpectation {
                    method,
                    url: &entry.resource,
                    now: self.now,
                    max_age_secs: self.gate.limits.proof_max_age_secs,
                    max_skew_secs: self.gate.limits.clock_skew_secs,
                    access_token: Some(token),
                    nonce: None,
                };
                let proof =
                    dpop::verify(proof, &expected).map_err(|error| Stop::because(Code::PopInvalid, error))?;
                Ok(AgentProof::Dpop(proof))
            }
            (None, Some(proof)) => {
                let exporter = self
                    .connection
                    .exporter
                    .as_ref()
                    .ok_or_else(|| Stop::because(Code::PopInvalid, "this connection has no exporter"))?;
                let verified = channel::verify(proof, exporter, self.gate.origin.as_str(), self.now)
                    .map_err(|error| Stop::because(Code::PopInvalid, error))?;
                // INVARIANT: one agent key per connection, for as long as it lives.
                if let Some(bound) = self.connection.channel.get()
                    && !bound.thumbprint().ct_eq(verified.thumbprint())
                {
                    return Err(Stop::because(Code::PopInvalid, "the connection is another agent key's"));
                }
                Ok(AgentProof::Channel(verified))
            }
            (None, None) => match self.connection.channel.get() {
                Some(bound) => Ok(AgentProof::Channel(bound.clone())),
                None => Err(Stop::because(Code::PopMissing, "neither a proof nor a bound connection")),
            },
        }
    }

    /// The certificate of this connection: an enrolled machine, not revoked, not locked, valid now.
    pub(super) fn appraise_machine(&mut self, standing: &Standing) -> Result<VerifiedMachine, Stop> {
        let peer = self
            .connection
            .peer
            .as_ref()
            .map_err(|detail| Stop::because(Code::PopNoMachine, detail).alarming(THEFT))?;
        let entry = standing.machine_of(peer);
        let machine = appraise_peer(peer, entry, self.now)
            .map_err(|error| Stop::because(appraisal_code(error), error))?;
        self.known.machine = Some(machine.clone());
        Ok(machine)
    }

    /// Both real is not enough: the token must name exactly this machine key.
    pub(super) fn bind(&self, agent: VerifiedAgent, machine: VerifiedMachine) -> Result<Countersigned, Stop> {
        Countersigned::bind(agent, machine)
            .map_err(|error| Stop::because(error.code(), error).alarming(THEFT))
    }
}

impl Bearer {
    pub(super) fn of(agent: &VerifiedAgent, machine: &VerifiedMachine) -> Self {
        let claims = agent.claims();
        Self {
            agent: agent.agent().clone(),
            generation: claims.generation,
            run: agent.run().clone(),
            task: claims.txn.clone(),
            machine: machine.id().clone(),
            machine_jkt: machine.thumbprint(),
            attested_at: claims.env.att_time,
            expires_at: countersign_proto::time::Timestamp::from_unix_secs(claims.exp),
        }
    }
}

/// The token of `Authorization: DPoP <token>` (RFC 9449 §7.1). As a bearer token it would prove nothing.
fn dpop_token(presented: &Presented) -> Result<&str, Stop> {
    let Some(authorization) = presented.authorization.as_deref() else {
        return Err(Stop::because(Code::TokenMissing, "no authorization header"));
    };
    let (scheme, token) = authorization.split_once(' ').unwrap_or((authorization, ""));
    if scheme.eq_ignore_ascii_case("bearer") {
        return Err(Stop::because(Code::PopMissing, "the token came as a bearer token"));
    }
    if !scheme.eq_ignore_ascii_case("dpop") || token.is_empty() {
        return Err(Stop::because(Code::TokenMissing, "the authorization header is not a DPoP token"));
    }
    Ok(token)
}

fn token_code(error: &TokenError) -> Code {
    match error {
        TokenError::Expired => Code::TokenExpired,
        TokenError::Audience => Code::TokenAudience,
        TokenError::Jws(_)
        | TokenError::Claims(_)
        | TokenError::Issuer
        | TokenError::NotYetValid
        | TokenError::Lifetime
        | TokenError::Contradiction(_) => Code::TokenInvalid,
    }
}

const fn authentication_code(error: AuthenticationError) -> Code {
    match error {
        AuthenticationError::Key => Code::BindAgentKey,
        AuthenticationError::ProofToken => Code::PopInvalid,
        AuthenticationError::Expired => Code::TokenExpired,
        AuthenticationError::UnknownAgent => Code::AgentUnknown,
        AuthenticationError::Suspended => Code::AgentSuspended,
        AuthenticationError::Retired | AuthenticationError::Killed => Code::AgentKilled,
        AuthenticationError::RunRevoked => Code::RunRevoked,
        AuthenticationError::TaskRevoked => Code::TaskRevoked,
        AuthenticationError::TaskExpired => Code::TaskExpired,
    }
}

const fn appraisal_code(error: AppraisalError) -> Code {
    match error {
        AppraisalError::CertificateExpired => Code::MachineCertExpired,
        AppraisalError::Unknown => Code::MachineUnknown,
        AppraisalError::KeyNotAttested => Code::PopKeyNotAttested,
        AppraisalError::Locked => Code::MachineLocked,
        AppraisalError::Revoked => Code::MachineRevoked,
    }
}

fn not_admitted(why: NotAdmitted) -> Stop {
    match why {
        NotAdmitted::Replayed => {
            Stop::because(Code::PopReplayed, "this proof was used before").alarming(REPLAY)
        }
        NotAdmitted::Forgotten => {
            Stop::because(Code::PopInvalid, "the proof is older than what this gateway remembers")
        }
        NotAdmitted::MemoryFull => Stop::because(Code::PopInvalid, "too many proofs to remember"),
    }
}
