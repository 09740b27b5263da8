//! The attestation CA: an endorsed TPM shows that an attestation key lives in it, and gets a certificate for that key
//! and the right to open one ACME account.
//!
//! The enrollment token is spent by the second step, together with the enrollment: a machine that breaks off half-way
//! starts over with the same token.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use countersign_audit::Kind;
use countersign_proto::acme::PermanentIdentifier;
use countersign_proto::b64;
use countersign_proto::digest::Sha256Digest;
use countersign_proto::id::MachineId;
use countersign_store::{ConsumeKind, StoreError, Stored};
use countersign_trust::acme::EabKey;
use countersign_trust::activation::{self, ActivatedAk, AkEvidence, PendingActivation, check_ak};
use countersign_trust::endorsement::{EndorsedKey, appraise_endorsement};
use countersign_trust::machine::{AttestationKey, Enrollment, Machine, MachineError};
use countersign_trust::quote::{QuoteEvidence, ReferenceValues, read_baseline};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{AttestError, Octets, PcrValues, Refused, body_of, conclude};
use crate::listen::Peer;
use crate::plane::{Plane, Trouble};
use crate::rows::{EnrollmentTokenRow, MachineRow, Row};

/// PCRs of the baseline quote unless the administrator gave reference values: firmware and boot loader.
const BASELINE_PCRS: [u8; 8] = [0, 1, 2, 3, 4, 5, 6, 7];
/// What reference values from the first quote are called in tokens.
const FIRST_QUOTE: &str = "first-quote";
/// What reference values from the administrator are called in tokens.
const ADMINISTERED: &str = "administered";
/// Most endorsement certificates in one request.
const MAX_CERTIFICATES: usize = 5;

/// An activation in flight.
pub(crate) struct Activation {
    token: Sha256Digest,
    machine: MachineId,
    pending: PendingActivation,
    nonce: [u8; 32],
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BeginRequest {
    enrollment_token: String,
    ek_certificates: Vec<Octets>,
    ek_public: Octets,
    ak_public: Octets,
    creation_data: Octets,
    creation_attest: Octets,
    creation_signature: Octets,
}

#[derive(Serialize)]
struct BeginAnswer {
    session: String,
    id_object: Octets,
    encrypted_secret: Octets,
    nonce: Octets,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ActivateRequest {
    secret: Octets,
    quote: Octets,
    signature: Octets,
    pcr_values: PcrValues,
}

#[derive(Serialize)]
struct ActivateAnswer {
    machine_id: MachineId,
    permanent_identifier: PermanentIdentifier,
    ak_certificates: Vec<Octets>,
    eab: EabAnswer,
}

#[derive(Serialize)]
struct EabAnswer {
    kid: String,
    key: Octets,
}

/// `POST /attest/v1/ak`
pub(super) async fn begin(
    State(plane): State<Arc<Plane>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Response {
    let outcome = async {
        let request: BeginRequest = body_of(request).await?;
        begin_activation(&plane, request).await
    };
    conclude(&plane, &peer, "ak_enrollment", outcome.await).await
}

/// `POST /attest/v1/ak/{session}`
pub(super) async fn activate(
    State(plane): State<Arc<Plane>>,
    Extension(peer): Extension<Peer>,
    Path(session): Path<String>,
    request: Request,
) -> Response {
    let outcome = async {
        let request: ActivateRequest = body_of(request).await?;
        finish_activation(&plane, &session, &request).await
    };
    conclude(&plane, &peer, "ak_activation", outcome.await).await
}

async fn begin_activation(plane: &Plane, request: BeginRequest) -> Result<BeginAnswer, Refused> {
    let now = plane.now();
    if request.ek_certificates.len() > MAX_CERTIFICATES {
        return Err(AttestError::InvalidRequest.into());
    }
    let token = live_token(plane, &Sha256Digest::of(request.enrollment_token.as_bytes())).await?.value;
    let facts = json!({"machine": token.machine});

    let certificates: Vec<Vec<u8>> = request.ek_certificates.into_iter().map(|der| der.0).collect();
    let ek = appraise_endorsement(
        &certificates,
        &request.ek_public.0,
        &plane.endorsement_roots,
        &plane.endorsement_listed,
        now,
    )
    .map_err(|error| AttestError::Endorsement.because(&error, facts.clone()))?;
    let evidence = AkEvidence {
        public: &request.ak_public.0,
        creation_data: &request.creation_data.0,
        creation_attest: &request.creation_attest.0,
        creation_signature: &request.creation_signature.0,
    };
    let ak =
        check_ak(&evidence, &token.token).map_err(|error| AttestError::Ak.because(&error, facts.clone()))?;
    refuse_other_machine(plane, &token.machine, &ek).await?;

    let (pending, credential) = activation::begin(ek, ak, now, plane.rng.as_ref())
        .map_err(|error| AttestError::Endorsement.because(&error, facts))?;
    let mut nonce = [0_u8; 32];
    plane.rng.fill(&mut nonce);
    let session = plane.name("act_");
    let expires_at = pending.expires_at();
    let activation = Activation { token: token.token, machine: token.machine, pending, nonce };
    if !plane.activations.open(session.clone(), activation, expires_at, now) {
        return Err(AttestError::Busy.into());
    }
    Ok(BeginAnswer {
        session,
        id_object: Octets(credential.id_object),
        encrypted_secret: Octets(credential.encrypted_secret),
        nonce: Octets(nonce.to_vec()),
    })
}

async fn finish_activation(
    plane: &Plane,
    session: &str,
    request: &ActivateRequest,
) -> Result<ActivateAnswer, Refused> {
    let now = plane.now();
    let Some(activation) = plane.activations.take(session, now) else {
        return Err(AttestError::Activation.into());
    };
    let ek_digest = activation.pending.ek().digest();
    let facts = json!({"machine": activation.machine, "ek": ek_digest});
    let activated = activation
        .pending
        .confirm(&request.secret.0, now)
        .map_err(|error| AttestError::Activation.because(&error, facts.clone()))?;
    let token = live_token(plane, &activation.token).await?;
    refuse_other_machine(plane, &activation.machine, activated.ek()).await?;
    let known = known_machine(plane, &activation.machine, &activated, &facts).await?;

    let pcr_values = request.pcr_values.parse().ok_or(AttestError::InvalidRequest)?;
    let evidence =
        QuoteEvidence { attest: &request.quote.0, signature: &request.signature.0, pcr_values: &pcr_values };
    let ak = AttestationKey::from(activated.ak());
    let given = match &token.value.reference {
        Some(pcrs) => Some(
            ReferenceValues::new(ADMINISTERED, pcrs.clone())
                .map_err(|error| AttestError::Quote.because(&error, facts.clone()))?,
        ),
        None => None,
    };
    let pcrs: Vec<u8> = match &given {
        Some(reference) => reference.pcrs().keys().copied().collect(),
        None => BASELINE_PCRS.to_vec(),
    };
    let (baseline, clock) = read_baseline(&evidence, &ak, &activation.nonce, &pcrs, FIRST_QUOTE)
        .map_err(|error| AttestError::Quote.because(&error, facts.clone()))?;
    let reference = match given {
        Some(reference) if reference.pcrs() == baseline.pcrs() => reference,
        Some(_) => return Err(AttestError::Quote.because(&"not the administrator's reference values", facts)),
        None => baseline,
    };

    let permanent_identifier = PermanentIdentifier::parse(activation.machine.as_str())
        .map_err(|_| Trouble::Form("permanent identifier"))?;
    let enrollment = Enrollment {
        id: activation.machine.clone(),
        trust_domain: plane.settings.trust_domain.clone(),
        permanent_identifier: permanent_identifier.clone(),
        reference,
        clock,
    };
    let enrolled = Machine::enroll(enrollment, &activated, now);
    let life = plane.settings.lifetimes.ak_certificate_secs;
    let certificate = plane
        .attestation_ca
        .issue_ak_certificate(&enrolled, now, life, plane.rng.as_ref())
        .map_err(|_| Trouble::Form("ak certificate"))?;
    let eab = EabKey::open(plane.name("eab_"), activation.machine.clone(), permanent_identifier.clone(), now);
    commit(plane, &token, known, enrolled, &eab, &facts).await?;
    // Only after the record is there anything to answer with; a machine in the store alone can do nothing.
    let members = json!({
        "machine": activation.machine,
        "ek": ek_digest,
        "ak": b64::url_encode(activated.ak().name()),
        "endorsement": activated.ek().endorsement(),
        "ak_certificate": certificate.serial,
        "ev": evidence.hash(),
        "evidence": {
            "nonce": Octets(activation.nonce.to_vec()), "quote": request.quote, "signature": request.signature,
            "pcr_values": request.pcr_values,
        },
    });
    plane.record(Kind::Enroll, members).await?;
    metrics::counter!("cs_machines_enrolled_total").increment(1);
    Ok(ActivateAnswer {
        machine_id: activation.machine,
        permanent_identifier,
        ak_certificates: vec![
            Octets(certificate.der),
            Octets(plane.attestation_ca.certificate_der().to_vec()),
        ],
        eab: EabAnswer { key: Octets(plane.eab_key(&eab.kid)), kid: eab.kid },
    })
}

/// The token, if it exists and has not ended.
async fn live_token(plane: &Plane, digest: &Sha256Digest) -> Result<Stored<EnrollmentTokenRow>, Refused> {
    let stored = plane.store.load::<EnrollmentTokenRow>(&digest.hex()).await?;
    Ok(stored.filter(|stored| plane.now() < stored.value.expires_at).ok_or(AttestError::EnrollmentToken)?)
}

/// One endorsement key, one machine.
async fn refuse_other_machine(plane: &Plane, machine: &MachineId, ek: &EndorsedKey) -> Result<(), Refused> {
    let by_ek = plane.store.find_one::<MachineRow>("ek", &ek.digest().hex()).await?;
    let by_name = plane.store.load::<MachineRow>(machine.as_str()).await?;
    for known in by_ek.into_iter().chain(by_name).map(|stored| stored.value.0) {
        if known.id != *machine || known.ek_digest != ek.digest() {
            let facts = json!({"machine": machine, "ek": ek.digest(), "enrolled_as": known.id});
            return Err(AttestError::MachineExists.knowing(facts));
        }
    }
    Ok(())
}

/// The machine if it is enrolled already, with these very keys; other keys under its name are a take-over.
async fn known_machine(
    plane: &Plane,
    machine: &MachineId,
    activated: &ActivatedAk,
    facts: &serde_json::Value,
) -> Result<Option<Stored<MachineRow>>, Refused> {
    let Some(known) = plane.store.load::<MachineRow>(machine.as_str()).await? else { return Ok(None) };
    match known.value.0.recognizes(activated) {
        Ok(()) => Ok(Some(known)),
        Err(error @ MachineError::IdentityImmutable) => {
            Err(AttestError::MachineExists.because(&error, facts.clone()))
        }
        Err(
            error @ (MachineError::Revoked
            | MachineError::Locked
            | MachineError::OtherMachine
            | MachineError::NoKey),
        ) => Err(AttestError::MachineState.because(&error, facts.clone())),
    }
}

/// Token spent, machine enrolled, account right granted: all or nothing.
async fn commit(
    plane: &Plane,
    token: &Stored<EnrollmentTokenRow>,
    known: Option<Stored<MachineRow>>,
    enrolled: Machine,
    eab: &EabKey,
    facts: &serde_json::Value,
) -> Result<(), Refused> {
    let spent = token.value.token.hex();
    let mut tx = plane
        .store
        .transaction()
        .consume(ConsumeKind::EnrollmentToken, &spent, token.value.expires_at)
        .delete(token)
        .insert(&Row(eab.clone()));
    tx = match &known {
        // The same keys again: what was certified stays, the baseline and clock are the new ones.
        Some(stored) => {
            let again = Machine {
                reference: enrolled.reference,
                clock: enrolled.clock,
                endorsement: enrolled.endorsement,
                ..stored.value.0.clone()
            };
            tx.update(stored, &Row(again))
        }
        None => tx.insert(&Row(enrolled)),
    };
    match tx.commit().await {
        Ok(()) => Ok(()),
        Err(StoreError::Consumed { .. } | StoreError::Conflict { .. } | StoreError::NotFound) => {
            Err(AttestError::EnrollmentToken.knowing(facts.clone()))
        }
        Err(StoreError::Exists { .. }) => Err(AttestError::MachineExists.knowing(facts.clone())),
        Err(error) => Err(error.into()),
    }
}
