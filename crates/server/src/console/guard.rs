//! What every request passes and every answer carries: host, origin, cookie, and the security headers.
//!
//! A `POST` is believed only with our own `Origin` and the CSRF token of its cookie. Who the person is comes from
//! the session alone, never from the request.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;

use super::Console;
use super::port::{ConsolePerson, PortError};
use super::session::Cookie;

const HEADERS: [(HeaderName, &str); 8] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
         form-action 'self'; frame-ancestors 'none'; base-uri 'none'; require-trusted-types-for 'script'; \
         trusted-types 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    // Not `no-referrer`: browsers then send `Origin: null` with forms. An invitation's address stays with us.
    (header::REFERRER_POLICY, "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-embedder-policy"), "require-corp"),
    (
        HeaderName::from_static("permissions-policy"),
        "publickey-credentials-get=(self), publickey-credentials-create=(self), camera=(), geolocation=(), \
         microphone=(), payment=(), usb=()",
    ),
];

/// The header in which the script sends the CSRF token.
pub const CSRF_HEADER: &str = "countersign-csrf";

/// Who asks, as far as the cookie tells. Put there by [`guard`]; handlers read nothing else about the asker.
#[derive(Clone)]
pub struct Visitor {
    /// Their cookie; a fresh one if they had none.
    pub cookie: Cookie,
    /// The person, if they logged in.
    pub person: Option<ConsolePerson>,
    /// The CSRF token of their cookie, for forms.
    pub csrf: String,
}

/// Wraps every route.
pub async fn guard(State(console): State<Arc<Console>>, mut request: Request<Body>, next: Next) -> Response {
    let known = single(request.headers(), &header::COOKIE).and_then(Cookie::find);
    let cookie = known.clone().unwrap_or_else(|| Cookie::fresh(&*console.config.rng));
    let person = person(&console, &cookie).await;
    let visitor = Visitor { csrf: console.sealer.csrf(&cookie), cookie, person };
    let mut response = match check(&console, known.as_ref(), &request) {
        Ok(()) => {
            request.extensions_mut().insert(visitor.clone());
            next.run(request).await
        }
        Err((status, reason)) => plain(status, reason),
    };
    finish(&console, &visitor, known.is_none(), &mut response);
    response
}

/// Who is behind a cookie, if they are still somebody: a person who was disabled is out at once.
async fn person(console: &Console, cookie: &Cookie) -> Option<ConsolePerson> {
    let person = console.sessions.person(cookie, console.now())?;
    match console.port.still_there(&person.id).await {
        Ok(()) => Some(person),
        Err(PortError::NotFound | PortError::Closed | PortError::Forbidden(_)) => {
            console.sessions.end(cookie);
            None
        }
        // Could not be asked: the page will say so itself, because it cannot ask either.
        Err(PortError::Unavailable(_) | PortError::Conflict) => Some(person),
    }
}

/// What must hold before a handler runs.
fn check(
    console: &Console,
    known: Option<&Cookie>,
    request: &Request<Body>,
) -> Result<(), (StatusCode, &'static str)> {
    let headers = request.headers();
    let origin = console.config.origin.as_str();
    let our_host = origin.split_once("://").map_or("", |(_, host)| host);
    // A page of another name that resolves to us (DNS rebinding) is told nothing.
    if single(headers, &header::HOST) != Some(our_host) {
        return Err((StatusCode::MISDIRECTED_REQUEST, "this is another site's name"));
    }
    match *request.method() {
        Method::GET | Method::HEAD => Ok(()),
        Method::POST => {
            let from_us = single(headers, &header::ORIGIN) == Some(origin)
                && headers.get("sec-fetch-site").is_none_or(|site| site == "same-origin");
            if !from_us {
                return Err((StatusCode::FORBIDDEN, "this form was not sent from this site"));
            }
            if known.is_none() {
                return Err((StatusCode::FORBIDDEN, "no cookie came with the form; reload the page"));
            }
            Ok(())
        }
        _ => Err((StatusCode::METHOD_NOT_ALLOWED, "only GET and POST")),
    }
}

/// The CSRF token in the script's header. Forms carry theirs in a field, see [`super::pages`].
pub fn csrf_header(headers: &HeaderMap) -> &str {
    single(headers, &HeaderName::from_static(CSRF_HEADER)).unwrap_or("")
}

fn finish(console: &Console, visitor: &Visitor, new_cookie: bool, response: &mut Response) {
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if console.config.origin.starts_with("https://") {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=63072000"));
    }
    if new_cookie
        && !headers.contains_key(header::SET_COOKIE)
        && let Ok(value) = HeaderValue::from_str(&visitor.cookie.to_header())
    {
        headers.insert(header::SET_COOKIE, value);
    }
}

/// The one value of a header; `None` if it is absent, repeated or not text.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() { None } else { value.to_str().ok() }
}

fn plain(status: StatusCode, reason: &'static str) -> Response {
    let mut response = Response::new(Body::from(reason));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
