//! The attester: an enrolled machine's fresh quote becomes a client attestation for one agent, for five minutes.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use countersign_audit::Kind;
use countersign_proto::attestation_client::{Attestation, MachineClaim, prove_attestation};
use countersign_proto::b64;
use countersign_proto::id::AgentId;
use countersign_proto::time::Timestamp;
use countersign_proto::tpm::TpmsAttest;
use countersign_store::{ConsumeKind, StoreError, Stored};
use countersign_trust::quote::{QuoteError, QuoteEvidence, VerifiedQuote, verify_quote};
use countersign_trust::{
    AppraisalError, PeerCertificate, VerifiedMachine, appraise_attestation, appraise_peer,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{AttestError, Octets, PcrValues, Refused, body_of, conclude};
use crate::listen::Peer;
use crate::nonce::Purpose;
use crate::plane::{Plane, Trouble};
use crate::rows::{AgentRow, MachineRow, Row};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NonceRequest {}

#[derive(Serialize)]
struct NonceAnswer {
    nonce: String,
    expires_in: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AttestationRequest {
    client_id: String,
    nonce: String,
    quote: Octets,
    signature: Octets,
    pcr_values: PcrValues,
}

#[derive(Serialize)]
struct AttestationAnswer {
    client_attestation: String,
    att_exp: i64,
}

/// `POST /attest/v1/nonce`
pub(super) async fn nonce(
    State(plane): State<Arc<Plane>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Response {
    let outcome = async {
        let NonceRequest {} = body_of(request).await?;
        let (_, _, machine) = machine_at(&plane, &peer).await?;
        Ok(NonceAnswer {
            nonce: plane.nonces.mint(Purpose::Quote, machine.id().as_str(), plane.now(), plane.rng.as_ref()),
            expires_in: plane.settings.lifetimes.challenge_secs,
        })
    };
    conclude(&plane, &peer, "quote_nonce", outcome.await).await
}

/// `POST /attest/v1/client-attestation`
pub(super) async fn client_attestation(
    State(plane): State<Arc<Plane>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Response {
    let outcome = async {
        let request: AttestationRequest = body_of(request).await?;
        attest(&plane, &peer, &request).await
    };
    conclude(&plane, &peer, "client_attestation", outcome.await).await
}

async fn attest(
    plane: &Plane,
    peer: &Peer,
    request: &AttestationRequest,
) -> Result<AttestationAnswer, Refused> {
    let now = plane.now();
    let (certificate, stored, machine) = machine_at(plane, peer).await?;
    let facts =
        json!({"machine": machine.id(), "machine_key": machine.thumbprint(), "agent": request.client_id});
    let agent = known_agent(plane, &request.client_id).await?;
    let nonce_ends_at = plane
        .nonces
        .recognize(
            Purpose::Quote,
            machine.id().as_str(),
            &request.nonce,
            plane.settings.lifetimes.challenge_secs,
            now,
        )
        .filter(|ends_at| {
            // A quote for a nonce from before the machine was stopped may be as old as the nonce.
            let given_at = ends_at.plus_secs(-plane.settings.lifetimes.challenge_secs);
            !stored.value.0.outdates(given_at)
        })
        .ok_or_else(|| AttestError::Nonce.knowing(facts.clone()))?;
    let quote = appraise_quote(plane, &stored, request, &facts).await?;
    let claim = appraise_attestation(&stored.value.0, &quote, now)
        .map_err(|error| AttestError::MachineState.because(&error, facts.clone()))?;
    let next = stored
        .value
        .0
        .clone()
        .attested(&quote, now)
        .map_err(|error| AttestError::MachineState.because(&error, facts.clone()))?;

    let committed = plane
        .store
        .transaction()
        .consume(ConsumeKind::AttestationChallenge, &request.nonce, nonce_ends_at)
        .update(&stored, &Row(next))
        .commit()
        .await;
    match committed {
        Ok(()) => {}
        // Spent before, or another quote of this machine came in between: a fresh nonce settles both.
        Err(StoreError::Consumed { .. } | StoreError::Conflict { .. }) => {
            return Err(AttestError::Nonce.knowing(facts));
        }
        Err(error) => return Err(error.into()),
    }
    // INVARIANT: recorded, evidence included, before the attestation exists.
    plane.record(Kind::Issue, issue_members(&claim, &machine, &agent, request)).await?;
    let expires_at = now.plus_secs(plane.settings.lifetimes.client_attestation_secs);
    let key = &plane.keys.token;
    let attestation = Attestation {
        issuer: &plane.settings.issuer,
        client: &agent,
        machine_key: certificate.key(),
        machine: &claim,
        now,
        expires_at,
    };
    let client_attestation = prove_attestation(key.signer(), key.kid(), &attestation)
        .map_err(|_| Trouble::Form("client attestation"))?;
    metrics::counter!("cs_client_attestations_total").increment(1);
    let att_exp = Timestamp::from_unix_secs(claim.att_exp).min(expires_at).unix_secs();
    Ok(AttestationAnswer { client_attestation, att_exp })
}

/// Who is at the other end: the certificate's machine, as it stands now.
async fn machine_at(
    plane: &Plane,
    peer: &Peer,
) -> Result<(PeerCertificate, Stored<MachineRow>, VerifiedMachine), Refused> {
    let der = match peer {
        Peer::Certified(der) => der,
        Peer::Anonymous | Peer::Loopback | Peer::Local { .. } => {
            return Err(AttestError::MachineCertificate.into());
        }
    };
    let certificate = PeerCertificate::from_der(der)
        .map_err(|error| AttestError::MachineCertificate.because(&error, json!({})))?;
    let facts = json!({"machine": certificate.machine_id(), "machine_key": certificate.thumbprint()});
    let Some(stored) = plane.store.load::<MachineRow>(certificate.machine_id().as_str()).await? else {
        return Err(AttestError::MachineCertificate.knowing(facts));
    };
    let machine =
        appraise_peer(&certificate, stored.value.0.entry().as_ref(), plane.now()).map_err(|error| {
            let refusal = match error {
                AppraisalError::Locked | AppraisalError::Revoked => AttestError::MachineState,
                AppraisalError::CertificateExpired
                | AppraisalError::Unknown
                | AppraisalError::KeyNotAttested => AttestError::MachineCertificate,
            };
            refusal.because(&error, facts)
        })?;
    Ok((certificate, stored, machine))
}

/// Whether the agent may act is decided with the token; here it must only be one of ours.
async fn known_agent(plane: &Plane, client_id: &str) -> Result<AgentId, Refused> {
    let agent = AgentId::from_client_id(client_id).map_err(|_| AttestError::InvalidRequest)?;
    match plane.store.load::<AgentRow>(agent.as_str()).await? {
        Some(_) => Ok(agent),
        None => Err(AttestError::InvalidRequest.because(&"unknown agent", json!({"agent": agent}))),
    }
}

async fn appraise_quote(
    plane: &Plane,
    stored: &Stored<MachineRow>,
    request: &AttestationRequest,
    facts: &serde_json::Value,
) -> Result<VerifiedQuote, Refused> {
    let machine = &stored.value.0;
    let nonce = b64::url_decode(&request.nonce).map_err(|_| AttestError::Nonce)?;
    let pcr_values = request.pcr_values.parse().ok_or(AttestError::InvalidRequest)?;
    let evidence =
        QuoteEvidence { attest: &request.quote.0, signature: &request.signature.0, pcr_values: &pcr_values };
    match verify_quote(&evidence, &machine.ak, &nonce, &machine.reference, &machine.clock) {
        Ok(quote) => Ok(quote),
        Err(QuoteError::ClockRollback) if overtaken(machine, &request.quote.0) => {
            Err(AttestError::Nonce.because(&"overtaken by a later quote", facts.clone()))
        }
        Err(error) => {
            if error == QuoteError::ClockRollback {
                plane.alarm("att.rollback", json!({"machine": machine.id})).await;
            }
            Err(AttestError::Quote.because(&error, facts.clone()))
        }
    }
}

/// Two quotes under way at once may arrive in the other order; within one boot and a nonce's life that is no rollback.
fn overtaken(machine: &countersign_trust::Machine, quote: &[u8]) -> bool {
    const NONCE_MILLIS: u64 = 60_000;
    let Ok(quote) = TpmsAttest::parse(quote) else { return false };
    let (last, now) = (machine.clock.clock_info, quote.clock_info);
    last.reset_count == now.reset_count
        && last.restart_count == now.restart_count
        && machine.clock.firmware_version == quote.firmware_version
        && last.clock.saturating_sub(now.clock) <= NONCE_MILLIS
}

fn issue_members(
    claim: &MachineClaim,
    machine: &VerifiedMachine,
    agent: &AgentId,
    request: &AttestationRequest,
) -> serde_json::Value {
    json!({
        "what": "client_attestation",
        "agent": agent,
        "machine": machine.id(),
        "env": {
            "sub": claim.sub, "jkt": machine.thumbprint(), "lvl": claim.lvl, "ev": claim.ev, "ref": claim.reference,
        },
        "evidence": {
            "nonce": request.nonce, "quote": request.quote, "signature": request.signature,
            "pcr_values": request.pcr_values,
        },
    })
}
