//! The token endpoint: verify both factors, decide, spend what is single-use, record, and only then sign and answer.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use countersign_audit::Kind;
use countersign_identity::grant::{Presented, Terms, TokenRequest, choose_task, issue};
use countersign_identity::run::Run;
use countersign_proto::attestation_client::{
    self, AttestationExpectation, MAX_POP_AGE_SECS, MAX_SKEW_SECS, VerifiedClient,
};
use countersign_proto::dpop::{self, DpopExpectation, VerifiedDpop};
use countersign_proto::id::RunId;
use countersign_proto::jose::sign_compact;
use countersign_proto::json;
use countersign_proto::oauth::{Form, OauthError};
use countersign_proto::time::Timestamp;
use countersign_proto::token::{ACCESS_TOKEN_TYP, AccessTokenClaims};
use countersign_store::{ConsumeKind, StoreError, Stored};
use countersign_trust::PeerCertificate;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::json;

use super::{ATTESTATION_HEADER, ATTESTATION_POP_HEADER, CHALLENGE_HEADER, DPOP_HEADER};
use crate::http::{content_type_is, header_value, json_response, only, read};
use crate::listen::Peer;
use crate::nonce::Purpose;
use crate::plane::{Plane, Trouble};
use crate::rows::{AgentRow, MachineRow, PersonRow, Row, RunRow, TaskRow};

/// Largest token request.
const BODY_BYTES: usize = 64 * 1024;
/// The weakest environment anything is issued to: an attested hardware key.
const MIN_ENV_LEVEL: u8 = 2;
/// How often a request is tried again after somebody else changed what it was decided from.
const ATTEMPTS: usize = 3;

/// Why there is no token.
enum Refusal {
    /// The answer is decided: an OAuth error, and what is known of the request for the record.
    Oauth(OauthError, serde_json::Value),
    /// We could not find out or could not write down.
    Unavailable(Trouble),
}

impl From<OauthError> for Refusal {
    fn from(error: OauthError) -> Self {
        Self::Oauth(error, json!({}))
    }
}

impl From<Trouble> for Refusal {
    fn from(trouble: Trouble) -> Self {
        Self::Unavailable(trouble)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Unavailable(error.into())
    }
}

/// `/oauth/token`
pub(super) async fn token(
    State(plane): State<Arc<Plane>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Response {
    let refusal = match grant(&plane, &peer, request).await {
        Ok(response) => return response,
        Err(refusal) => refusal,
    };
    let trouble = match refusal {
        Refusal::Oauth(error, facts) => match record_refusal(&plane, &peer, &error, facts).await {
            Ok(()) => return error_response(&plane, &error),
            Err(trouble) => trouble,
        },
        Refusal::Unavailable(trouble) => trouble,
    };
    tracing::error!(error = &trouble as &dyn std::error::Error, "token request failed");
    let body =
        json!({"error": "temporarily_unavailable", "error_description": "nothing can be issued right now"});
    json_response(StatusCode::SERVICE_UNAVAILABLE, &body)
}

/// One refusal, one record.
async fn record_refusal(
    plane: &Plane,
    peer: &Peer,
    error: &OauthError,
    facts: serde_json::Value,
) -> Result<(), Trouble> {
    let mut members = facts;
    if let Some(object) = members.as_object_mut() {
        object.insert("what".into(), "access_token".into());
        object.entry("code").or_insert_with(|| format!("oas.{}", error.error).into());
        object.entry("detail").or_insert_with(|| error.description.into());
    }
    metrics::counter!("cs_token_refusals_total", "error" => error.error).increment(1);
    plane.record_refusal(peer, members).await
}

/// RFC 6749 §5.2.
fn error_response(plane: &Plane, error: &OauthError) -> Response {
    let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST);
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    let mut response = (status, headers, error.to_json()).into_response();
    if error.error == "use_attestation_challenge" {
        let challenge = super::fresh_challenge(plane);
        response.headers_mut().insert(CHALLENGE_HEADER, header_value(&challenge));
    }
    response
}

/// The walk of a token request, top to bottom.
async fn grant(plane: &Plane, peer: &Peer, request: Request) -> Result<Response, Refusal> {
    let (headers, form) = receive(request).await?;
    let request = TokenRequest::parse(&form)?;
    let proofs = verify_proofs(plane, &headers)
        .map_err(|error| refused(error, json!({"agent": request.client.as_str()})))?;
    let facts = json!({
        "agent": request.client.as_str(), "aud": request.resource,
        "machine": proofs.machine.attestation().machine().id.as_str(),
        "agent_key": proofs.agent.thumbprint(), "machine_key": proofs.machine.attestation().thumbprint(),
    });
    check_connection(peer, &proofs).map_err(|error| refused(error, facts.clone()))?;
    let mut attempt = 0;
    let claims = loop {
        attempt += 1;
        match decide(plane, &request, &proofs).await {
            // Decided from something that changed meanwhile: nothing happened, decide again.
            Err(Refusal::Unavailable(Trouble::Store(
                StoreError::Conflict { .. } | StoreError::Exists { .. },
            ))) if attempt < ATTEMPTS => {}
            Ok(claims) => break claims,
            Err(Refusal::Oauth(error, more)) => return Err(refused(error, merged(facts, more))),
            Err(unavailable @ Refusal::Unavailable(_)) => return Err(unavailable),
        }
    };
    // INVARIANT: the record is durable before the token exists.
    plane.record(Kind::Issue, issue_members(&claims)).await?;
    let payload = json::from_serde(&claims).map_err(|_| Trouble::Form("token"))?.to_jcs();
    let key = &plane.keys.token;
    let token =
        sign_compact(key.signer(), ACCESS_TOKEN_TYP, &[("kid", json::Value::from(key.kid()))], &payload)
            .map_err(|_| Trouble::Form("token"))?;
    metrics::counter!("cs_tokens_issued_total").increment(1);
    let answer = json!({
        "access_token": token, "token_type": "DPoP", "expires_in": claims.exp - claims.iat,
    });
    Ok(json_response(StatusCode::OK, &answer))
}

/// RFC 6749 §3.2: POST, a form, every parameter once, nothing in the URL, one way to authenticate.
async fn receive(request: Request) -> Result<(HeaderMap, Form), Refusal> {
    let (parts, body) = request.into_parts();
    if parts.method != Method::POST {
        return Err(OauthError::invalid_request("the token endpoint takes POST only").into());
    }
    if parts.uri.query().is_some() {
        return Err(OauthError::invalid_request("parameters belong into the body").into());
    }
    if !content_type_is(&parts.headers, "application/x-www-form-urlencoded") {
        return Err(OauthError::invalid_request("the body must be a form").into());
    }
    if parts.headers.contains_key(AUTHORIZATION) {
        return Err(OauthError::invalid_request("one way of client authentication only").into());
    }
    let body =
        read(body, BODY_BYTES).await.map_err(|_| OauthError::invalid_request("the body is too large"))?;
    let form = Form::parse(&body).map_err(|error| error.to_oauth())?;
    Ok((parts.headers, form))
}

/// Both factors, verified; their single-use names not spent yet.
struct Proofs {
    machine: VerifiedClient,
    agent: VerifiedDpop,
    challenge_ends_at: Timestamp,
}

fn verify_proofs(plane: &Plane, headers: &HeaderMap) -> Result<Proofs, OauthError> {
    let now = plane.now();
    let attestation = one(headers, &ATTESTATION_HEADER)?
        .ok_or(OauthError::invalid_client("a client attestation is required"))?;
    let pop = one(headers, &ATTESTATION_POP_HEADER)?
        .ok_or(OauthError::invalid_client("a proof of possession of the attested key is required"))?;
    let proof =
        one(headers, &DPOP_HEADER)?.ok_or(OauthError::invalid_dpop_proof("a dpop proof is required"))?;

    let keys = super::token_keys(plane).ok_or(OauthError::new("server_error", "no token keys"))?;
    let expectation = AttestationExpectation {
        attester: &plane.settings.issuer,
        keys: &keys,
        now,
        max_age_secs: plane.settings.lifetimes.client_attestation_secs,
    };
    let machine = attestation_client::verify_attestation(attestation, &expectation)
        .and_then(|attestation| attestation_client::verify_pop(pop, attestation, &plane.settings.issuer, now))
        .map_err(|error| OauthError::new(error.code(), "the client attestation is not acceptable"))?;
    let challenge_ends_at = plane
        .nonces
        .recognize(
            Purpose::AttestationChallenge,
            "",
            machine.challenge(),
            plane.settings.lifetimes.challenge_secs,
            now,
        )
        .ok_or(USE_CHALLENGE)?;

    let url = plane.url("/oauth/token");
    let expectation = DpopExpectation {
        method: "POST",
        url: &url,
        now,
        max_age_secs: dpop::MAX_AGE_SECS,
        max_skew_secs: dpop::MAX_SKEW_SECS,
        access_token: None,
        nonce: None,
    };
    let agent = dpop::verify(proof, &expectation)
        .map_err(|error| OauthError::new(error.code(), "the dpop proof is not acceptable"))?;
    Ok(Proofs { machine, agent, challenge_ends_at })
}

const USE_CHALLENGE: OauthError =
    OauthError::new("use_attestation_challenge", "the challenge is unknown, used or too old");

/// A connection that shows a machine certificate shows the attested machine's (attestation relayed from elsewhere is
/// refused here; without a certificate, the proof of possession alone speaks for the machine).
fn check_connection(peer: &Peer, proofs: &Proofs) -> Result<(), OauthError> {
    let Peer::Certified(der) = peer else { return Ok(()) };
    let refused = OauthError::invalid_client("the connection is another machine's");
    let certificate = PeerCertificate::from_der(der).map_err(|_| refused.clone())?;
    if certificate.thumbprint().ct_eq(proofs.machine.attestation().thumbprint()) {
        Ok(())
    } else {
        Err(refused)
    }
}

/// The header's value; several of it are an error, not a choice.
fn one<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, OauthError> {
    if !headers.contains_key(name) {
        return Ok(None);
    }
    only(headers, name).map(Some).ok_or(OauthError::invalid_request("a header is repeated or malformed"))
}

/// Loads, decides purely, and commits in one transaction what the decision spends and opens.
async fn decide(
    plane: &Plane,
    request: &TokenRequest,
    proofs: &Proofs,
) -> Result<AccessTokenClaims, Refusal> {
    let now = plane.now();
    if !plane.settings.upstreams.iter().any(|upstream| upstream.resource == request.resource) {
        return Err(OauthError::invalid_target("unknown resource").into());
    }
    let agent = plane
        .store
        .load::<AgentRow>(request.client.as_str())
        .await?
        .ok_or(OauthError::invalid_client("unknown client"))?;
    let machine = standing_machine(plane, proofs).await?;
    let task = task_of(plane, request, now).await?;
    let sponsor = plane
        .store
        .load::<PersonRow>(task.value.0.sponsor.as_str())
        .await?
        .ok_or(OauthError::invalid_grant("the sponsor is not active"))?;
    let known_run = plane.store.find_one::<RunRow>("key", &proofs.agent.thumbprint().to_string()).await?;
    let run = match &known_run {
        Some(stored) => stored.value.0.clone(),
        None => open_run(plane, proofs, &agent.value.0, now)?,
    };

    let jti = plane.name("tok_");
    let terms = Terms {
        issuer: &plane.settings.issuer,
        trust_domain: &plane.settings.trust_domain,
        jti: &jti,
        lifetime_secs: plane.settings.lifetimes.access_token_secs,
        min_env_level: MIN_ENV_LEVEL,
    };
    let presented = Presented {
        request,
        machine: &proofs.machine,
        agent_proof: &proofs.agent,
        agent: &agent.value.0,
        task: &task.value.0,
        sponsor: &sponsor.value.0,
        run: &run,
    };
    let claims = match issue(&presented, &terms, now) {
        Ok(claims) => claims,
        Err(error) => {
            if run.machine != proofs.machine.attestation().machine().id {
                // A key A on a second machine is a stolen one.
                plane.alarm("theft.agent_key", json!({"agent": run.agent, "run": run.id})).await;
            }
            return Err(error.into());
        }
    };

    let pop_name = format!("{}.{}", proofs.machine.attestation().thumbprint(), proofs.machine.jti());
    let dpop_name = format!("{}.{}", proofs.agent.thumbprint(), proofs.agent.jti());
    let mut tx = plane
        .store
        .transaction()
        .expect(&agent)
        .expect(&machine)
        .expect(&task)
        .expect(&sponsor)
        .consume(ConsumeKind::AttestationChallenge, proofs.machine.challenge(), proofs.challenge_ends_at)
        .consume(
            ConsumeKind::PopJti,
            &pop_name,
            proofs.machine.issued_at().plus_secs(MAX_POP_AGE_SECS + 2 * MAX_SKEW_SECS),
        )
        .consume(
            ConsumeKind::DpopJti,
            &dpop_name,
            proofs.agent.issued_at().plus_secs(dpop::MAX_AGE_SECS + 2 * dpop::MAX_SKEW_SECS),
        );
    tx = match &known_run {
        Some(stored) => tx.expect(stored),
        None => tx.insert(&Row(run)),
    };
    match tx.commit().await {
        Ok(()) => Ok(claims),
        Err(StoreError::Consumed { kind }) => Err(replayed(kind)),
        Err(error) => Err(error.into()),
    }
}

/// What was used before decides the answer.
fn replayed(kind: ConsumeKind) -> Refusal {
    match kind {
        ConsumeKind::AttestationChallenge => refused(USE_CHALLENGE, json!({"code": "oas.challenge_replay"})),
        ConsumeKind::DpopJti => refused(
            OauthError::invalid_dpop_proof("the dpop proof was used before"),
            json!({"code": "pop.replayed"}),
        ),
        ConsumeKind::PopJti
        | ConsumeKind::AcmeNonce
        | ConsumeKind::AssertionJti
        | ConsumeKind::EnrollmentToken
        | ConsumeKind::WebauthnChallenge
        | ConsumeKind::Approval
        | ConsumeKind::EabKey
        | ConsumeKind::Invite
        | ConsumeKind::AuthorizationCode
        | ConsumeKind::ActivationSession => refused(
            OauthError::new("invalid_client_attestation", "the proof of possession was used before"),
            json!({"code": "oas.assertion_replay"}),
        ),
    }
}

/// The attested machine as it stands now: an attestation made before a lock or for an earlier key is worth nothing.
async fn standing_machine(plane: &Plane, proofs: &Proofs) -> Result<Stored<MachineRow>, Refusal> {
    let attestation = proofs.machine.attestation();
    let refuse = |description| OauthError::new("invalid_client_attestation", description);
    let machine = plane
        .store
        .load::<MachineRow>(attestation.machine().id.as_str())
        .await?
        .ok_or(refuse("the machine is not enrolled"))?;
    let current = machine.value.0.key.as_ref().is_some_and(|key| key.jkt.ct_eq(attestation.thumbprint()));
    if !current {
        return Err(refuse("the attestation is for another key of the machine").into());
    }
    if machine.value.0.may_act().is_err() {
        return Err(refuse("the machine may not act").into());
    }
    if machine.value.0.outdates(Timestamp::from_unix_secs(attestation.machine().att_time)) {
        return Err(OauthError::use_fresh_attestation("the machine was stopped or changed since").into());
    }
    Ok(machine)
}

async fn task_of(plane: &Plane, request: &TokenRequest, now: Timestamp) -> Result<Stored<TaskRow>, Refusal> {
    if let Some(named) = &request.task {
        let task = plane.store.load::<TaskRow>(named.task.as_str()).await?;
        return Ok(task.ok_or(OauthError::invalid_authorization_details("no such task of this agent"))?);
    }
    let tasks = plane.store.find::<TaskRow>("agent", request.client.as_str()).await?;
    let grants = tasks.iter().map(|stored| &stored.value.0);
    let chosen = choose_task(grants, &request.client, &request.resource, now)?.id.clone();
    tasks
        .into_iter()
        .find(|stored| stored.value.0.id == chosen)
        .ok_or_else(|| OauthError::invalid_authorization_details("no active task for this resource").into())
}

/// The first token for a new key A opens a run.
fn open_run(
    plane: &Plane,
    proofs: &Proofs,
    agent: &countersign_identity::agent::Agent,
    now: Timestamp,
) -> Result<Run, Trouble> {
    let attestation = proofs.machine.attestation();
    Ok(Run {
        id: RunId::parse(&plane.name("run_")).map_err(|_| Trouble::Form("run id"))?,
        agent: agent.id.clone(),
        agent_jkt: *proofs.agent.thumbprint(),
        machine: attestation.machine().id.clone(),
        machine_jkt: *attestation.thumbprint(),
        generation: agent.generation,
        started_at: now,
        ended_at: None,
    })
}

fn issue_members(claims: &AccessTokenClaims) -> serde_json::Value {
    json!({
        "what": "access_token",
        "jti": claims.jti,
        "agent": claims.client_id,
        "sponsor": claims.sub,
        "run": claims.sid,
        "task": claims.txn,
        "aud": claims.aud,
        "exp": claims.exp,
        "acr": claims.acr,
        "gen": claims.generation,
        "agent_key": claims.cnf.jkt,
        "env": claims.env,
    })
}

fn refused(error: OauthError, facts: serde_json::Value) -> Refusal {
    Refusal::Oauth(error, facts)
}

fn merged(mut facts: serde_json::Value, more: serde_json::Value) -> serde_json::Value {
    if let (Some(facts), serde_json::Value::Object(more)) = (facts.as_object_mut(), more) {
        facts.extend(more);
    }
    facts
}
