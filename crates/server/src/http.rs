//! What every API here shares: bounded bodies, strict JSON in, JSON out. Errors have the shape of their own API.

use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use countersign_proto::json;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a body was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyError {
    /// Another content type than the one this endpoint takes.
    ContentType,
    /// Larger than the endpoint takes.
    TooLarge,
    /// Not strict I-JSON of the expected shape.
    Malformed,
}

/// Reads at most `limit` bytes.
pub(crate) async fn read(body: Body, limit: usize) -> Result<Bytes, BodyError> {
    axum::body::to_bytes(body, limit).await.map_err(|_| BodyError::TooLarge)
}

/// Whether the one `Content-Type` is `expected`, parameters aside.
pub(crate) fn content_type_is(headers: &HeaderMap, expected: &str) -> bool {
    let Some(value) = only(headers, &CONTENT_TYPE) else { return false };
    let media_type = value.split(';').next().unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case(expected)
}

/// The header's value if it is there exactly once and is visible ASCII.
pub(crate) fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    value.to_str().ok()
}

/// A strict JSON body: right type, bounded, no duplicate or unknown members.
pub(crate) async fn read_json<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: Body,
    limit: usize,
) -> Result<T, BodyError> {
    if !content_type_is(headers, "application/json") {
        return Err(BodyError::ContentType);
    }
    let bytes = read(body, limit).await?;
    // The bytes are bounded by what this endpoint takes, and only the other bounds are the format's.
    let limits = json::Limits { max_bytes: limit, ..json::Limits::DEFAULT };
    json::typed(&bytes, &limits).map_err(|_| BodyError::Malformed)
}

/// A JSON answer. Nothing we say may be cached unless the caller of this function overrides it.
pub(crate) fn json_response<T: Serialize>(status: StatusCode, value: &T) -> Response {
    json_response_as(status, "application/json", value)
}

/// A JSON answer under another media type.
pub(crate) fn json_response_as<T: Serialize>(
    status: StatusCode,
    media_type: &'static str,
    value: &T,
) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => {
            let headers = [
                (CONTENT_TYPE, HeaderValue::from_static(media_type)),
                (CACHE_CONTROL, HeaderValue::from_static("no-store")),
            ];
            (status, headers, body).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "answer is not json");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// A header value from text we made; text that cannot be one becomes empty.
pub(crate) fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}
