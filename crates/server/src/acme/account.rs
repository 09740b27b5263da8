//! Accounts: opened with an external account key that the attestation CA gave to one enrolled machine (RFC 8555 §7.3).

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::response::Response;
use countersign_audit::Kind;
use countersign_proto::acme::{
    AccountResource, AcmeProblem, MacKey, NewAccount, Problem, VerifiedAcmeRequest, read_payload,
};
use countersign_store::{ConsumeKind, StoreError, Stored};
use countersign_trust::acme::{Account, AccountState};
use http::StatusCode;
use http::header::LOCATION;
use serde::Deserialize;
use serde_json::json;

use super::answer::{AcmeError, record_refusal, record_strangers_refusal};
use super::{Id, conclude, embedded, foreign, of_account, url};
use crate::http::{header_value, json_response};
use crate::plane::{Plane, Trouble};
use crate::rows::{AccountRow, EabRow, Row};

/// `POST /acme/new-account`
pub(super) async fn new_account(State(plane): State<Arc<Plane>>, request: Request) -> Response {
    let outcome = async {
        let request = embedded(&plane, request).await?;
        open(&plane, &request).await
    };
    conclude(&plane, outcome.await)
}

/// `POST /acme/account/{id}`: look at it, or end it. Nothing else about an account can change.
pub(super) async fn account(State(plane): State<Arc<Plane>>, Path(id): Id, request: Request) -> Response {
    #[derive(Deserialize)]
    struct Update {
        status: Option<String>,
    }
    let outcome = async {
        let ours = of_account(&plane, request).await?;
        if ours.account.value.0.id != id {
            return Err(foreign(&plane, &ours.account.value.0, "account").await);
        }
        if ours.request.is_post_as_get() {
            return Ok(resource(&plane, StatusCode::OK, &ours.account.value.0));
        }
        let update: Update = read_payload(ours.request.payload())?;
        match update.status.as_deref() {
            None => Ok(resource(&plane, StatusCode::OK, &ours.account.value.0)),
            Some("deactivated") => deactivate(&plane, &ours.account).await,
            Some(_) => Err(Problem::new(AcmeProblem::Malformed, "an account can only be deactivated").into()),
        }
    };
    conclude(&plane, outcome.await)
}

async fn open(plane: &Plane, request: &VerifiedAcmeRequest) -> Result<Response, AcmeError> {
    let now = plane.now();
    let payload: NewAccount = read_payload(request.payload())?;
    let known = plane.store.find_one::<AccountRow>("key", &request.key().thumbprint().to_string()).await?;
    if let Some(known) = known {
        // RFC 8555 §7.3.1: the account there is, whatever else was asked for.
        known.value.0.may_act()?;
        return Ok(resource(plane, StatusCode::OK, &known.value.0));
    }
    if payload.only_return_existing {
        return Err(Problem::new(AcmeProblem::AccountDoesNotExist, "the account does not exist").into());
    }
    let binding = payload.binding()?;
    let kid = binding.kid().to_owned();
    let Some(stored) = plane.store.load::<EabRow>(&kid).await? else {
        record_strangers_refusal(plane, "acme.eab_unknown", json!({})).await?;
        return Err(Problem::new(
            AcmeProblem::Unauthorized,
            "the external account binding is not acceptable",
        )
        .into());
    };
    let key = MacKey::new(plane.eab_key(&kid)).ok_or(Trouble::Form("external account key"))?;
    let facts = json!({"machine": stored.value.0.machine, "eab": kid});
    if let Err(problem) = binding.verify(&key, request.key(), &url(plane, "/new-account")) {
        record_strangers_refusal(plane, "acme.eab_mac", facts).await?;
        return Err(problem.into());
    }
    let account_id = plane.name("acct_");
    let (bound, account) = match stored.value.0.clone().bind(account_id, request.key().clone(), now) {
        Ok(bound) => bound,
        Err(problem) => {
            record_refusal(plane, "acme.eab_reuse", facts).await?;
            return Err(problem.into());
        }
    };
    // The key is consumed besides its state changing: a store restored from an older backup does not revive it.
    let committed = plane
        .store
        .transaction()
        .consume(ConsumeKind::EabKey, &kid, bound.expires_at)
        .update(&stored, &Row(bound))
        .insert(&Row(account.clone()))
        .commit()
        .await;
    match committed {
        Ok(()) => {}
        Err(StoreError::Consumed { .. } | StoreError::Conflict { .. } | StoreError::Exists { .. }) => {
            record_refusal(plane, "acme.eab_reuse", facts).await?;
            return Err(unauthorized().into());
        }
        Err(error) => return Err(error.into()),
    }
    let members = json!({
        "what": "acme_account", "account": account.id, "machine": account.machine, "eab": account.eab_kid,
        "key": request.key().thumbprint(),
    });
    plane.record(Kind::Enroll, members).await?;
    Ok(resource(plane, StatusCode::CREATED, &account))
}

async fn deactivate(plane: &Plane, stored: &Stored<AccountRow>) -> Result<Response, AcmeError> {
    let next = stored.value.0.clone().deactivate();
    plane
        .record(Kind::Revoke, json!({"what": "acme_account", "account": next.id, "machine": next.machine}))
        .await?;
    plane.store.update(stored, &Row(next.clone())).await?;
    Ok(resource(plane, StatusCode::OK, &next))
}

fn resource(plane: &Plane, status: StatusCode, account: &Account) -> Response {
    let state = match account.state {
        AccountState::Valid => "valid",
        AccountState::Deactivated => "deactivated",
        AccountState::Revoked => "revoked",
    };
    let mut response = json_response(status, &AccountResource { status: state.into(), orders: None });
    let location = url(plane, &format!("/account/{}", account.id));
    response.headers_mut().insert(LOCATION, header_value(&location));
    response
}

fn unauthorized() -> Problem {
    Problem::new(AcmeProblem::Unauthorized, "this account may not do that")
}
