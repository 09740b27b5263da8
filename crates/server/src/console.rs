//! Pages for people: live decisions, the approval inbox, passkey registration and login.
//!
//! Server-rendered under a strict content security policy; the only script runs WebAuthn ceremonies and repeats the
//! live page. Reading works without it. Nothing is decided here: rules and storage are behind [`port::ConsolePort`].
//! Not the API of machines: no endpoint here takes a token.

mod ceremony;
mod guard;
mod moment;
mod pages;
pub mod port;
mod session;
pub mod view;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use axum::routing::{get, post};
use countersign_proto::time::{Clock, Entropy, Timestamp};

use port::ConsolePort;
use session::{Sealer, Sessions};

/// Largest request body: an attestation object with a certificate chain fits, nothing else is larger.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// Where the console is reached and what it takes from outside.
#[derive(Clone)]
pub struct ConsoleConfig {
    /// WebAuthn relying party id: the host name people see.
    pub rp_id: String,
    /// The origin people see: scheme, host and any non-default port, no slash at the end.
    pub origin: String,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Where cookies and challenges come from.
    pub rng: Arc<dyn Entropy>,
}

impl ConsoleConfig {
    /// A console at `http://localhost:<port>`, which browsers treat as secure.
    #[must_use]
    pub fn new(port: u16, clock: Arc<dyn Clock>, rng: Arc<dyn Entropy>) -> Self {
        Self { rp_id: "localhost".to_owned(), origin: format!("http://localhost:{port}"), clock, rng }
    }
}

/// What every handler has at hand.
struct Console {
    port: Arc<dyn ConsolePort>,
    config: ConsoleConfig,
    sealer: Sealer,
    sessions: Sessions,
}

impl Console {
    fn now(&self) -> Timestamp {
        self.config.clock.now()
    }
}

/// The console as a service. Every answer carries the security headers, every `POST` passes the guard.
pub fn router(port: Arc<dyn ConsolePort>, config: ConsoleConfig) -> Router {
    let sealer = Sealer::new(&*config.rng);
    let console = Arc::new(Console { port, config, sealer, sessions: Sessions::default() });
    Router::new()
        .route("/", get(pages::decisions))
        .route("/approvals", get(pages::approvals))
        .route("/approvals/{id}", get(pages::approval))
        .route("/approvals/{id}/begin", post(ceremony::begin_approval))
        .route("/approvals/{id}/approve", post(ceremony::finish_approval))
        .route("/approvals/{id}/refuse", post(pages::refuse))
        .route("/invite/{token}", get(pages::invite))
        .route("/invite/{token}/begin", post(ceremony::begin_registration))
        .route("/invite/{token}/register", post(ceremony::finish_registration))
        .route("/login", get(pages::login))
        .route("/login/begin", post(ceremony::begin_login))
        .route("/login/finish", post(ceremony::finish_login))
        .route("/logout", post(pages::logout))
        .route("/assets/console.css", get(pages::stylesheet))
        .route("/assets/console.js", get(pages::script))
        .fallback(pages::not_found)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn_with_state(Arc::clone(&console), guard::guard))
        .with_state(console)
}
