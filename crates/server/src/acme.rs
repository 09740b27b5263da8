//! ACME over HTTP (RFC 8555) with `device-attest-01`: nonces, signatures, routes. What an order may become is decided
//! in `trust::acme`; what a certificate says in `trust::issue`.

mod account;
mod answer;
mod order;
mod revoke;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use countersign_proto::acme::{
    AcmeProblem, CONTENT_TYPE_JOSE, Directory, DirectoryMeta, MAX_REQUEST_BYTES, Problem, SignedRequest,
    VerifiedAcmeRequest,
};
use countersign_store::{ConsumeKind, StoreError, Stored};
use countersign_trust::acme::Account;
use http::header::{CACHE_CONTROL, HeaderName, LINK};
use http::{HeaderValue, StatusCode};
use serde_json::json;

use crate::http::{content_type_is, header_value, json_response, read};
use crate::nonce::Purpose;
use crate::plane::{Plane, Trouble};
use crate::rows::AccountRow;
use answer::AcmeError;

const REPLAY_NONCE: HeaderName = HeaderName::from_static("replay-nonce");

/// The routes under `/acme`.
pub(crate) fn router(plane: Arc<Plane>) -> Router {
    Router::new()
        .route("/acme/directory", get(directory))
        .route("/acme/new-nonce", get(new_nonce))
        .route("/acme/new-account", post(account::new_account))
        .route("/acme/account/{id}", post(account::account))
        .route("/acme/new-order", post(order::new_order))
        .route("/acme/order/{id}", post(order::order))
        .route("/acme/authz/{id}", post(order::authorization))
        .route("/acme/challenge/{id}", post(order::challenge))
        .route("/acme/order/{id}/finalize", post(order::finalize))
        .route("/acme/cert/{id}", post(order::certificate))
        .route("/acme/revoke-cert", post(revoke::revoke_certificate))
        .with_state(plane)
}

/// Our URL of an ACME resource.
fn url(plane: &Plane, path: &str) -> String {
    plane.url(&format!("/acme{path}"))
}

async fn directory(State(plane): State<Arc<Plane>>) -> Response {
    let directory = Directory {
        new_nonce: url(&plane, "/new-nonce"),
        new_account: url(&plane, "/new-account"),
        new_order: url(&plane, "/new-order"),
        revoke_cert: url(&plane, "/revoke-cert"),
        meta: DirectoryMeta { external_account_required: true },
    };
    json_response(StatusCode::OK, &directory)
}

/// `HEAD` 200 and `GET` 204 (RFC 8555 §7.2). Costs a MAC, stores nothing.
async fn new_nonce(State(plane): State<Arc<Plane>>, request: Request) -> Response {
    let status = if request.method() == http::Method::HEAD { StatusCode::OK } else { StatusCode::NO_CONTENT };
    with_nonce(&plane, status.into_response())
}

fn with_nonce(plane: &Plane, mut response: Response) -> Response {
    let nonce = plane.nonces.mint(Purpose::Acme, "", plane.now(), plane.rng.as_ref());
    let headers = response.headers_mut();
    headers.insert(REPLAY_NONCE, header_value(&nonce));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(LINK, header_value(&format!("<{}>;rel=\"index\"", url(plane, "/directory"))));
    response
}

/// A request of a known account.
struct OfAccount {
    account: Stored<AccountRow>,
    request: VerifiedAcmeRequest,
}

/// Answers with a fresh nonce, whatever came out.
fn conclude(plane: &Plane, outcome: Result<Response, AcmeError>) -> Response {
    with_nonce(plane, outcome.unwrap_or_else(IntoResponse::into_response))
}

/// Content type, size, form; then that the nonce is one of ours and alive. Consumes nothing yet.
async fn receive(plane: &Plane, request: Request) -> Result<(SignedRequest, String), AcmeError> {
    let (parts, body) = request.into_parts();
    if !content_type_is(&parts.headers, CONTENT_TYPE_JOSE) {
        return Err(AcmeError::ContentType);
    }
    let bytes = read(body, MAX_REQUEST_BYTES).await.map_err(|_| AcmeError::TooLarge)?;
    let signed = SignedRequest::parse(&bytes)?;
    // RFC 8555 §6.4: the URL is the one requested, compared with what was signed.
    let url = plane.url(parts.uri.path());
    Ok((signed, url))
}

/// RFC 8555 §6.5: ours, alive, not spent before. Spent durably, before anything the request asks for happens.
async fn spend_nonce(plane: &Plane, nonce: &str) -> Result<(), AcmeError> {
    let bad_nonce = || AcmeError::Problem(Problem::new(AcmeProblem::BadNonce, "the nonce is not usable"));
    let lifetime = plane.settings.lifetimes.acme_nonce_secs;
    let ends_at =
        plane.nonces.recognize(Purpose::Acme, "", nonce, lifetime, plane.now()).ok_or_else(bad_nonce)?;
    match plane.store.consume(ConsumeKind::AcmeNonce, nonce, ends_at).await {
        Ok(()) => Ok(()),
        Err(StoreError::Consumed { .. }) => Err(bad_nonce()),
        Err(error) => Err(Trouble::from(error).into()),
    }
}

/// A request that brings its own key.
async fn embedded(plane: &Plane, request: Request) -> Result<VerifiedAcmeRequest, AcmeError> {
    let (signed, url) = receive(plane, request).await?;
    let verified = noting_url(plane, None, signed.verify_embedded(&url)).await?;
    spend_nonce(plane, verified.nonce()).await?;
    Ok(verified)
}

/// A request of an account that exists and may act.
async fn of_account(plane: &Plane, request: Request) -> Result<OfAccount, AcmeError> {
    let (signed, url) = receive(plane, request).await?;
    let account = match signed.account_url() {
        Some(account_url) => account_at(plane, account_url).await?,
        None => None,
    };
    let Some(account) = account else {
        return Err(match signed.account_url() {
            Some(_) => Problem::new(AcmeProblem::AccountDoesNotExist, "the account does not exist").into(),
            None => Problem::new(AcmeProblem::Malformed, "this request needs a kid").into(),
        });
    };
    let verified =
        noting_url(plane, Some(&account.value.0), signed.verify_account(&url, &account.value.0.key)).await?;
    spend_nonce(plane, verified.nonce()).await?;
    account.value.0.may_act()?;
    Ok(OfAccount { account, request: verified })
}

/// A correctly signed request sent to another URL than its own is somebody's attempt: it leaves a record.
async fn noting_url(
    plane: &Plane,
    account: Option<&Account>,
    verified: Result<VerifiedAcmeRequest, Problem>,
) -> Result<VerifiedAcmeRequest, AcmeError> {
    match verified {
        Ok(verified) => Ok(verified),
        Err(problem) => {
            if problem.kind == AcmeProblem::Unauthorized {
                let code = "acme.url_mismatch";
                match account {
                    Some(account) => answer::record_refusal(plane, code, facts_of(account)).await?,
                    None => answer::record_strangers_refusal(plane, code, json!({})).await?,
                }
            }
            Err(problem.into())
        }
    }
}

fn facts_of(account: &Account) -> serde_json::Value {
    json!({"account": account.id, "machine": account.machine})
}

/// An account reached for what is another's: refused as if there were nothing, and recorded.
async fn foreign(plane: &Plane, account: &Account, thing: &str) -> AcmeError {
    let mut facts = facts_of(account);
    facts["thing"] = thing.into();
    match answer::record_refusal(plane, "acme.foreign", facts).await {
        Ok(()) => Problem::new(AcmeProblem::Unauthorized, "this account may not do that").into(),
        Err(trouble) => trouble.into(),
    }
}

async fn account_at(plane: &Plane, account_url: &str) -> Result<Option<Stored<AccountRow>>, AcmeError> {
    let prefix = url(plane, "/account/");
    let Some(id) = account_url.strip_prefix(&prefix).filter(|id| is_name(id)) else { return Ok(None) };
    Ok(plane.store.load::<AccountRow>(id).await?)
}

/// Whether this can be a name of ours; anything else is not even looked up.
fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

/// A resource id from the path.
type Id = Path<String>;
