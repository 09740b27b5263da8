//! Revocation by the owner (RFC 8555 §7.6). The key behind the certificate is what gateways know, so that key ends.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use countersign_audit::Kind;
use countersign_proto::acme::{AcmeProblem, Problem, RevokeRequest, read_payload};
use countersign_proto::b64;
use countersign_proto::x509::parse_der;
use countersign_store::Stored;
use http::StatusCode;
use serde_json::json;

use super::answer::AcmeError;
use super::{OfAccount, conclude, foreign, of_account};
use crate::plane::Plane;
use crate::rows::{CertificateRow, MachineRow, Row};

/// `POST /acme/revoke-cert`
pub(super) async fn revoke_certificate(State(plane): State<Arc<Plane>>, request: Request) -> Response {
    let outcome = async {
        let OfAccount { account, request } = of_account(&plane, request).await?;
        let payload: RevokeRequest = read_payload(request.payload())?;
        // RFC 5280 §5.3.1: 7 is not used, 8 and up are not a subscriber's.
        if payload.reason.is_some_and(|reason| reason == 7 || reason > 5) {
            return Err(Problem::new(AcmeProblem::BadRevocationReason, "the reason is not allowed").into());
        }
        let stored = certificate(&plane, &payload).await?;
        if stored.value.account != account.value.0.id {
            return Err(foreign(&plane, &account.value.0, "certificate").await);
        }
        if stored.value.revoked_at.is_some() {
            return Err(
                Problem::new(AcmeProblem::AlreadyRevoked, "the certificate is revoked already").into()
            );
        }
        revoke(&plane, &stored, payload.reason).await?;
        Ok(StatusCode::OK.into_response())
    };
    conclude(&plane, outcome.await)
}

/// Exactly the certificate we issued under that serial, or one body for everything else.
async fn certificate(plane: &Plane, payload: &RevokeRequest) -> Result<Stored<CertificateRow>, AcmeError> {
    let der = b64::url_decode(&payload.certificate)
        .map_err(|_| Problem::new(AcmeProblem::Malformed, "the certificate is not base64url"))?;
    let facts =
        parse_der(&der).map_err(|_| Problem::new(AcmeProblem::Malformed, "the certificate is malformed"))?;
    Ok(plane.store.load::<CertificateRow>(&facts.serial).await?.ok_or_else(unauthorized)?)
}

async fn revoke(
    plane: &Arc<Plane>,
    stored: &Stored<CertificateRow>,
    reason: Option<u8>,
) -> Result<(), AcmeError> {
    let revoked = CertificateRow { revoked_at: Some(plane.now()), ..stored.value.clone() };
    let members = json!({
        "what": "machine_certificate", "serial": revoked.serial, "machine": revoked.machine, "reason": reason,
    });
    plane.record(Kind::Revoke, members).await?;
    let mut tx = plane.store.transaction().update(stored, &revoked);
    if let Some(machine) = plane.store.load::<MachineRow>(revoked.machine.as_str()).await? {
        let current = machine.value.0.key.as_ref().is_some_and(|key| key.jkt.ct_eq(&revoked.key));
        if current {
            let next = machine.value.0.clone().without_key(plane.now());
            tx = tx.update(&machine, &Row(next));
        }
    }
    Ok(plane.commit_and_publish(tx).await?)
}

fn unauthorized() -> Problem {
    Problem::new(AcmeProblem::Unauthorized, "this account may not do that")
}
