//! Orders over HTTP: load, let `trust::acme` decide, record, save. One order gives at most one certificate, because
//! only one request can move it from ready to processing.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use countersign_audit::Kind;
use countersign_proto::acme::{
    AcmeProblem, AttestationError, CONTENT_TYPE_CHAIN, FinalizeRequest, NewOrder, Problem, key_authorization,
    parse_attestation_payload, read_payload,
};
use countersign_proto::b64;
use countersign_proto::digest::Sha256Digest;
use countersign_proto::x509::parse_csr_der;
use countersign_store::{StoreError, Stored};
use countersign_trust::acme::{Account, Issuance, Order, OrderState};
use countersign_trust::device_attest::{self, AttestedKey, DeviceAttestError, Expectation};
use http::header::{CONTENT_TYPE, LINK, LOCATION};
use http::{HeaderValue, StatusCode};
use serde_json::json;

use super::answer::{AcmeError, record_refusal};
use super::{Id, OfAccount, conclude, foreign, is_name, of_account, url};
use crate::http::{header_value, json_response};
use crate::plane::{Plane, Trouble};
use crate::rows::{CertificateRow, MachineRow, OrderRow, Row};

/// An order still processing after this long was interrupted, in seconds: issuing takes milliseconds.
const INTERRUPTED_AFTER_SECS: i64 = 60;
/// How often saving a certificate is tried again after the machine changed in between.
const ATTEMPTS: usize = 5;

/// `POST /acme/new-order`
pub(super) async fn new_order(State(plane): State<Arc<Plane>>, request: Request) -> Response {
    let outcome = async {
        let OfAccount { account, request } = of_account(&plane, request).await?;
        let account = account.value.0;
        let payload: NewOrder = read_payload(request.payload())?;
        let identifier = payload.permanent_identifier()?;
        let now = plane.now();
        let open = plane.store.find::<OrderRow>("open", &account.id).await?;
        let open = open.iter().filter(|stored| now <= stored.value.order.expires_at).count();
        if open >= plane.settings.limits.open_orders_per_account {
            return Err(Problem::new(AcmeProblem::RateLimited, "too many open orders").into());
        }
        let order = Order::open(&account, plane.name("ord_"), identifier, now, plane.rng.as_ref())?;
        let row = OrderRow { order, evidence: None };
        plane.store.insert(&row).await?;
        Ok(order_response(&plane, StatusCode::CREATED, &row.order))
    };
    conclude(&plane, outcome.await)
}

/// `POST /acme/order/{id}` (POST-as-GET)
pub(super) async fn order(State(plane): State<Arc<Plane>>, Path(id): Id, request: Request) -> Response {
    let outcome = async {
        let (_, stored) = read_only(&plane, &id, request).await?;
        Ok(order_response(&plane, StatusCode::OK, &stored.value.order))
    };
    conclude(&plane, outcome.await)
}

/// `POST /acme/authz/{id}` (POST-as-GET)
pub(super) async fn authorization(
    State(plane): State<Arc<Plane>>,
    Path(id): Id,
    request: Request,
) -> Response {
    let outcome = async {
        let (_, stored) = read_only(&plane, &id, request).await?;
        let resource = stored.value.order.authorization_resource(&plane.settings.issuer);
        Ok(json_response(StatusCode::OK, &resource))
    };
    conclude(&plane, outcome.await)
}

/// `POST /acme/cert/{id}` (POST-as-GET)
pub(super) async fn certificate(State(plane): State<Arc<Plane>>, Path(id): Id, request: Request) -> Response {
    let outcome = async {
        let (_, stored) = read_only(&plane, &id, request).await?;
        let Some(pem) = stored.value.order.certificate_pem() else { return Err(unauthorized().into()) };
        Ok(([(CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE_CHAIN))], pem).into_response())
    };
    conclude(&plane, outcome.await)
}

/// `POST /acme/challenge/{id}`: look at it, or answer it once.
pub(super) async fn challenge(State(plane): State<Arc<Plane>>, Path(id): Id, request: Request) -> Response {
    let outcome = async {
        let OfAccount { account, request } = of_account(&plane, request).await?;
        let account = account.value.0;
        let stored = own_order(&plane, &id, &account).await?;
        if request.is_post_as_get() {
            return Ok(challenge_response(&plane, &stored.value.order));
        }
        let answered = answer_challenge(&plane, &account, stored, request.payload()).await?;
        Ok(challenge_response(&plane, &answered))
    };
    conclude(&plane, outcome.await)
}

/// `POST /acme/order/{id}/finalize`
pub(super) async fn finalize(State(plane): State<Arc<Plane>>, Path(id): Id, request: Request) -> Response {
    let outcome = async {
        let OfAccount { account, request } = of_account(&plane, request).await?;
        let stored = own_order(&plane, &id, &account.value.0).await?;
        let payload: FinalizeRequest = read_payload(request.payload())?;
        let order = issue(&plane, stored, &payload).await?;
        Ok(order_response(&plane, StatusCode::OK, &order))
    };
    conclude(&plane, outcome.await)
}

async fn read_only(
    plane: &Plane,
    id: &str,
    request: Request,
) -> Result<(Account, Stored<OrderRow>), AcmeError> {
    let OfAccount { account, request } = of_account(plane, request).await?;
    let account = account.value.0;
    let stored = own_order(plane, id, &account).await?;
    if !request.is_post_as_get() {
        return Err(Problem::new(AcmeProblem::Malformed, "this resource is only read").into());
    }
    Ok((account, stored))
}

/// The order, if it is this account's. Another's and none at all look the same.
async fn own_order(plane: &Plane, id: &str, account: &Account) -> Result<Stored<OrderRow>, AcmeError> {
    if !is_name(id) {
        return Err(unauthorized().into());
    }
    let stored = plane.store.load::<OrderRow>(id).await?.ok_or_else(unauthorized)?;
    if stored.value.order.belongs_to(account).is_err() {
        return Err(foreign(plane, account, "order").await);
    }
    let now = plane.now();
    let interrupted = match &stored.value.order.state {
        OrderState::Processing { at, .. } => now.secs_since(*at) > INTERRUPTED_AFTER_SECS,
        OrderState::Pending {}
        | OrderState::Ready { .. }
        | OrderState::Valid { .. }
        | OrderState::Invalid { .. } => false,
    };
    if !interrupted {
        return Ok(stored);
    }
    let abandoned = OrderRow { order: stored.value.order.clone().abandon(now), ..stored.value.clone() };
    plane.store.update(&stored, &abandoned).await?;
    plane.store.load::<OrderRow>(id).await?.ok_or_else(|| unauthorized().into())
}

async fn answer_challenge(
    plane: &Plane,
    account: &Account,
    stored: Stored<OrderRow>,
    payload: &[u8],
) -> Result<Order, AcmeError> {
    let now = plane.now();
    let order = stored.value.order.clone();
    let machine =
        plane.store.load::<MachineRow>(order.machine.as_str()).await?.ok_or_else(unauthorized)?.value.0;
    machine.may_act().map_err(|_| unauthorized())?;
    let evidence = Sha256Digest::of(payload);
    let outcome = match parse_attestation_payload(payload) {
        Ok(statement) => {
            let authorization = key_authorization(&order.token, &account.key);
            let expected = Expectation {
                key_authorization: &authorization,
                ak_roots: &plane.ak_roots,
                machine: &machine,
                now,
            };
            device_attest::verify(&statement, &expected)
        }
        // Well-formed, but of a kind that proves nothing to us: that is an answer, and a bad one.
        Err(AttestationError::UnsupportedFormat | AttestationError::UnsupportedVersion) => {
            Err(DeviceAttestError::Algorithm)
        }
        Err(AttestationError::Payload | AttestationError::Cbor(_) | AttestationError::Malformed) => {
            return Err(Problem::new(AcmeProblem::Malformed, "the challenge response is malformed").into());
        }
    };
    record_attestation(plane, &order, &outcome, &evidence, payload).await?;
    let evidence = outcome.is_ok().then_some(evidence);
    match order.answered(outcome, now) {
        Ok(order) => {
            let next = OrderRow { order, evidence };
            save(plane, &stored, &next).await?;
            Ok(next.order)
        }
        Err(refused) => refuse(plane, &stored, *refused).await,
    }
}

/// The evidence is recorded whole, so that anybody can appraise it again; a refusal says which check failed.
async fn record_attestation(
    plane: &Plane,
    order: &Order,
    outcome: &Result<AttestedKey, DeviceAttestError>,
    evidence: &Sha256Digest,
    payload: &[u8],
) -> Result<(), Trouble> {
    let facts =
        json!({"order": order.id, "account": order.account, "machine": order.machine, "ev": evidence});
    match outcome {
        Ok(key) => {
            let mut members = facts;
            if let Some(object) = members.as_object_mut() {
                object.insert("what".into(), "device_attestation".into());
                object.insert("machine_key".into(), json!(key.jwk().thumbprint()));
                object.insert("evidence".into(), serde_json::from_slice(payload).unwrap_or_default());
            }
            plane.record(Kind::Enroll, members).await
        }
        Err(error) => {
            let mut members = facts;
            if let Some(object) = members.as_object_mut() {
                object.insert("detail".into(), error.to_string().into());
            }
            record_refusal(plane, refusal_code(error), members).await
        }
    }
}

fn refusal_code(error: &DeviceAttestError) -> &'static str {
    match error {
        DeviceAttestError::Stale => "att.stale",
        DeviceAttestError::ClockRollback => "att.rollback",
        DeviceAttestError::Algorithm => "att.fmt_downgrade",
        DeviceAttestError::Structure(_)
        | DeviceAttestError::Certificate(_)
        | DeviceAttestError::Chain(_)
        | DeviceAttestError::AkCertificate(_)
        | DeviceAttestError::AkMismatch
        | DeviceAttestError::IdentifierMismatch
        | DeviceAttestError::NotCertify
        | DeviceAttestError::NameMismatch
        | DeviceAttestError::KeyAttributes => "att.statement",
    }
}

/// From ready to a certificate: whoever moves the order to processing issues, everybody else is too late.
async fn issue(
    plane: &Arc<Plane>,
    stored: Stored<OrderRow>,
    payload: &FinalizeRequest,
) -> Result<Order, AcmeError> {
    let now = plane.now();
    let bad_csr = || Problem::new(AcmeProblem::BadCsr, "the request for a certificate is not acceptable");
    let csr = b64::url_decode(&payload.csr).map_err(|_| bad_csr())?;
    let facts = parse_csr_der(&csr).map_err(|_| bad_csr())?;
    let (processing, issuance) = match stored.value.order.clone().finalize(&facts, now) {
        Ok(step) => step,
        Err(refused) => {
            if matches!(refused.order.state, OrderState::Invalid { .. })
                && refused.order != stored.value.order
            {
                let members = json!({"order": refused.order.id, "machine": refused.order.machine});
                record_refusal(plane, "att.key_mismatch", members).await?;
            }
            return refuse(plane, &stored, *refused).await;
        }
    };
    let claimed = OrderRow { order: processing, ..stored.value.clone() };
    match plane.store.update(&stored, &claimed).await {
        Ok(()) => {}
        Err(StoreError::Conflict { .. }) => {
            return Err(Problem::new(AcmeProblem::OrderNotReady, "the order is not ready").into());
        }
        Err(error) => return Err(error.into()),
    }
    let processing =
        Stored { version: stored.version.checked_add(1).ok_or(Trouble::Form("version"))?, value: claimed };
    match complete(plane, &processing, issuance).await {
        Ok(order) => Ok(order),
        Err(error) => {
            // Whatever went wrong, this order is over; a new one starts with fresh evidence.
            let abandoned =
                OrderRow { order: processing.value.order.clone().abandon(now), ..processing.value.clone() };
            if let Err(error) = plane.store.update(&processing, &abandoned).await {
                tracing::warn!(%error, "order not abandoned; it ends by itself");
            }
            Err(error)
        }
    }
}

async fn complete(
    plane: &Arc<Plane>,
    processing: &Stored<OrderRow>,
    issuance: Issuance,
) -> Result<Order, AcmeError> {
    let now = plane.now();
    let row = &processing.value;
    let OrderState::Processing { key, .. } = &row.order.state else {
        return Err(Trouble::Form("order").into());
    };
    let evidence = row.evidence.ok_or(Trouble::Form("evidence reference"))?;
    let load = || async {
        let stored =
            plane.store.load::<MachineRow>(row.order.machine.as_str()).await?.ok_or_else(unauthorized)?;
        let next = stored.value.0.clone().certify(key, now).map_err(|_| unauthorized())?;
        Ok::<_, AcmeError>((stored, next))
    };
    let (mut machine, mut certified) = load().await?;
    let life = plane.settings.lifetimes.machine_certificate_secs;
    let certificate = plane
        .ca
        .issue_machine_certificate(issuance, &certified, now, life, plane.rng.as_ref())
        .map_err(|_| Trouble::Form("certificate"))?;
    // INVARIANT: the issuance is durable in the log, with its evidence, before anybody can have the certificate.
    let members = json!({
        "what": "machine_certificate",
        "serial": certificate.serial,
        "machine": row.order.machine,
        "order": row.order.id,
        "not_after": certificate.not_after,
        "certificate": Sha256Digest::of(&certificate.der),
        "env": {"sub": certified.spiffe, "jkt": key.jwk().thumbprint(), "lvl": 2, "ev": evidence},
    });
    plane.record(Kind::Issue, members).await?;
    let chain = [certificate.der.clone(), plane.ca.certificate_der().to_vec()];
    let order = row
        .order
        .clone()
        .complete(certificate.serial.clone(), &chain, now)
        .map_err(|refused| AcmeError::from(refused.problem))?;
    let issued = CertificateRow {
        serial: certificate.serial,
        account: row.order.account.clone(),
        machine: row.order.machine.clone(),
        key: key.jwk().thumbprint(),
        not_after: certificate.not_after,
        revoked_at: None,
    };
    let next = OrderRow { order, ..row.clone() };
    let mut attempt = 0;
    loop {
        attempt += 1;
        let changes_entry = machine.value.0.entry() != certified.entry();
        let tx = plane
            .store
            .transaction()
            .update(processing, &next)
            .update(&machine, &Row(certified))
            .insert(&issued);
        let committed = if changes_entry { plane.commit_and_publish(tx).await } else { tx.commit().await };
        match committed {
            Ok(()) => {
                metrics::counter!("cs_certificates_issued_total").increment(1);
                return Ok(next.order);
            }
            // The machine was attested in between; the order is ours alone.
            Err(StoreError::Conflict { .. }) if attempt < ATTEMPTS => (machine, certified) = load().await?,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Saves what a refused step made of the order, then answers its problem.
async fn refuse(
    plane: &Plane,
    stored: &Stored<OrderRow>,
    refused: countersign_trust::acme::Refused,
) -> Result<Order, AcmeError> {
    if refused.order != stored.value.order {
        let next = OrderRow { order: refused.order, ..stored.value.clone() };
        save(plane, stored, &next).await?;
    }
    Err(refused.problem.into())
}

async fn save(plane: &Plane, stored: &Stored<OrderRow>, next: &OrderRow) -> Result<(), AcmeError> {
    match plane.store.update(stored, next).await {
        Ok(()) => Ok(()),
        Err(StoreError::Conflict { .. }) => {
            Err(Problem::new(AcmeProblem::Malformed, "the order changed at the same moment").into())
        }
        Err(error) => Err(error.into()),
    }
}

fn order_response(plane: &Plane, status: StatusCode, order: &Order) -> Response {
    let mut response = json_response(status, &order.resource(&plane.settings.issuer));
    let location = url(plane, &format!("/order/{}", order.id));
    response.headers_mut().insert(LOCATION, header_value(&location));
    response
}

fn challenge_response(plane: &Plane, order: &Order) -> Response {
    let mut response = json_response(StatusCode::OK, &order.challenge_resource(&plane.settings.issuer));
    let up = format!("<{}>;rel=\"up\"", url(plane, &format!("/authz/{}", order.id)));
    response.headers_mut().insert(LINK, header_value(&up));
    response
}

fn unauthorized() -> Problem {
    Problem::new(AcmeProblem::Unauthorized, "this account may not do that")
}
