//! Is it well, is it ready, what does it measure: for the admin socket and the optional status listener.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use countersign_proto::b64;
use countersign_proto::digest::Sha256Digest;
use http::StatusCode;
use http::header::CONTENT_TYPE;

use super::{AdminError, Answer, Reply, api};
use crate::plane::Plane;
use crate::rows::PolicyRow;

/// `/healthz`, `/readyz`, `/metrics`.
pub(crate) fn status_router(plane: Arc<Plane>) -> Router {
    Router::new()
        // Alive means that this answer was written; anything more belongs to readiness.
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readiness))
        .route("/metrics", get(exposition))
        .with_state(plane)
}

async fn readiness(State(plane): State<Arc<Plane>>) -> Response {
    if is_ready(&plane).await {
        (StatusCode::OK, "ready\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response()
    }
}

/// Whether a token could be issued now: the log acknowledges, the store answers, a snapshot is out.
async fn is_ready(plane: &Plane) -> bool {
    plane.log.healthy()
        && plane.snapshots.borrow().is_some()
        && plane.store.load::<PolicyRow>(PolicyRow::ID).await.is_ok()
}

async fn exposition(State(plane): State<Arc<Plane>>) -> Response {
    match &plane.metrics {
        Some(handle) => ([(CONTENT_TYPE, "text/plain; version=0.0.4")], handle.render()).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// `GET /admin/v1/status`
pub(super) async fn status(State(plane): State<Arc<Plane>>) -> Answer<api::Status> {
    let policy_revision =
        plane.store.load::<PolicyRow>(PolicyRow::ID).await?.map_or(0, |stored| stored.value.revision);
    let snapshot_version = plane.publishing.lock().await.version();
    let snapshot_key = serde_json::from_slice(&plane.keys.snapshot.signer().public_jwk().to_value().to_jcs())
        .map_err(|_| AdminError::State("the snapshot key has no json form"))?;
    Ok(Reply(api::Status {
        issuer: plane.settings.issuer.clone(),
        trust_domain: plane.settings.trust_domain.clone(),
        ready: is_ready(&plane).await,
        log_healthy: plane.log.healthy(),
        log_size: plane.log.size(),
        log_origin: plane.log.origin().to_string(),
        snapshot_version,
        policy_revision,
        machine_root: b64::url_encode(plane.ca.certificate_der()),
        snapshot_key,
        console_url: plane.settings.console_url.clone(),
    }))
}

/// `GET /admin/v1/snapshot`
pub(super) async fn snapshot(State(plane): State<Arc<Plane>>) -> Answer<api::SnapshotFacts> {
    let version = plane.publishing.lock().await.version();
    let signed = plane.snapshots.borrow().clone();
    let (Some(version), Some(signed)) = (version, signed) else { return Err(AdminError::NotFound) };
    let body = serde_json::from_slice(&signed.body).map_err(|_| AdminError::NotFound)?;
    Ok(Reply(api::SnapshotFacts {
        version,
        body_sha256: Sha256Digest::of(&signed.body),
        body_bytes: signed.body.len(),
        body,
    }))
}

/// `?from=N&limit=M`
struct Range {
    from: u64,
    limit: Option<usize>,
}

/// Most records in one answer.
const MAX_RECORDS: usize = 1000;

/// `GET /admin/v1/records`
pub(super) async fn records(State(plane): State<Arc<Plane>>, uri: http::Uri) -> Answer<api::Records> {
    let range = range(uri.query().unwrap_or_default())?;
    let limit = range.limit.unwrap_or(100).min(MAX_RECORDS);
    let log = plane.log.clone();
    // What is durable but not yet published is published first. If it cannot be, what is published is the answer.
    if let Err(error) = log.flush().await {
        tracing::warn!(%error, "records may be missing from this answer");
    }
    let read = tokio::task::spawn_blocking(move || {
        let mut records = Vec::new();
        for entry in log.entries_from(range.from).take(limit) {
            let (index, bytes) = entry.ok()?;
            let record = serde_json::from_slice(&bytes).ok()?;
            records.push(api::IndexedRecord { index, record });
        }
        Some(api::Records { records, size: log.size() })
    });
    let unreadable = || AdminError::State("the log could not be read");
    read.await.ok().flatten().map(Reply).ok_or_else(unreadable)
}

/// Two optional numbers.
fn range(query: &str) -> Result<Range, AdminError> {
    let mut range = Range { from: 0, limit: None };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let invalid = || AdminError::Invalid("the query is from=N&limit=M");
        let (name, value) = pair.split_once('=').ok_or_else(invalid)?;
        match name {
            "from" => range.from = value.parse().map_err(|_| invalid())?,
            "limit" => range.limit = Some(value.parse().map_err(|_| invalid())?),
            _ => return Err(invalid()),
        }
    }
    Ok(range)
}
