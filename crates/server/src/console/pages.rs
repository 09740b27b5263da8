//! The pages: read, then render. `GET` changes nothing; the two plain forms (refuse, log out) work without a script.

use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use countersign_proto::id::ApprovalId;
use countersign_proto::oauth::Form;
use countersign_proto::time::Timestamp;

use super::Console;
use super::guard::Visitor;
use super::moment;
use super::port::{ApprovalState, ApprovalView, ConsolePerson, DecisionRow, PortError, Verdict};
use super::session::Cookie;
use super::view::{CallView, Segment, visible};

/// Rows on the live page.
const DECISIONS_SHOWN: usize = 100;
/// Requests in the inbox.
const APPROVALS_SHOWN: usize = 100;
/// Longest display name shown, in characters.
const NAME_CHARS: usize = 60;
/// Most characters shown of what an agent says.
const AGENT_WORDS_CHARS: usize = 2000;

const STYLESHEET: &str = include_str!("../../assets/console.css");
const SCRIPT: &str = include_str!("../../assets/console.js");

type Shared = State<Arc<Console>>;

/// What the frame around every page shows.
struct Frame {
    title: String,
    /// Which entry of the navigation this is.
    active: &'static str,
    viewer: Option<String>,
    csrf: String,
}

impl Frame {
    fn new(visitor: &Visitor, title: &str, active: &'static str) -> Self {
        Self {
            title: title.to_owned(),
            active,
            viewer: visitor.person.as_ref().map(name),
            csrf: visitor.csrf.clone(),
        }
    }
}

/// An instant as a page shows it.
struct Moment {
    utc: String,
    /// The time of day alone if it is today, else the whole.
    short: String,
    machine: String,
    relative: String,
}

impl Moment {
    fn new(at: Timestamp, now: Timestamp) -> Self {
        Self {
            utc: moment::utc(at),
            short: moment::short(at, now),
            machine: moment::machine(at),
            relative: moment::from_now(at, now),
        }
    }
}

/// A word, a sign and a class: never a colour alone.
struct Badge {
    word: &'static str,
    sign: &'static str,
    class: &'static str,
}

const fn badge(word: &'static str, sign: &'static str, class: &'static str) -> Badge {
    Badge { word, sign, class }
}

struct Decision {
    at: Moment,
    agent: Vec<Segment>,
    machine: Vec<Segment>,
    tool: Vec<Segment>,
    badge: Badge,
    reason: Vec<Segment>,
    index: u64,
}

#[derive(Template)]
#[template(path = "decisions.html")]
struct DecisionsPage {
    frame: Frame,
    live: bool,
    now: Moment,
    rows: Vec<Decision>,
    allowed: usize,
    challenged: usize,
    denied: usize,
}

/// `GET /`
pub async fn decisions(State(console): Shared, Extension(visitor): Extension<Visitor>, uri: Uri) -> Response {
    if visitor.person.is_none() {
        return to_login("/");
    }
    let rows = match console.port.recent_decisions(DECISIONS_SHOWN).await {
        Ok(rows) => rows,
        Err(error) => return failure(&visitor, &error),
    };
    let now = console.now();
    let count = |verdict| rows.iter().filter(|row| row.verdict == verdict).count();
    render(
        StatusCode::OK,
        &DecisionsPage {
            frame: Frame::new(&visitor, "Live decisions", "decisions"),
            live: query(&uri).get("live") != Some("off"),
            now: Moment::new(now, now),
            allowed: count(Verdict::Allowed),
            challenged: count(Verdict::Challenged),
            denied: count(Verdict::Denied),
            rows: rows.into_iter().take(DECISIONS_SHOWN).map(|row| decision(row, now)).collect(),
        },
    )
}

fn decision(row: DecisionRow, now: Timestamp) -> Decision {
    let badge = match row.verdict {
        Verdict::Allowed => badge("allowed", "\u{2713}", "good"),
        Verdict::Denied => badge("denied", "\u{2715}", "bad"),
        Verdict::Challenged => badge("challenged", "?", "wait"),
    };
    Decision {
        at: Moment::new(row.at, now),
        agent: visible(&row.agent),
        machine: visible(&row.machine),
        tool: visible(&row.tool),
        badge,
        reason: visible(&row.reason),
        index: row.index,
    }
}

struct Listed {
    id: String,
    tool: String,
    upstream: String,
    agent: String,
    machine: String,
    requester: String,
    purpose: Vec<Segment>,
    asked: Moment,
    expires: Moment,
    badge: Badge,
    open: bool,
}

#[derive(Template)]
#[template(path = "approvals.html")]
struct ApprovalsPage {
    frame: Frame,
    open: Vec<Listed>,
    closed: Vec<Listed>,
}

/// `GET /approvals`
pub async fn approvals(State(console): Shared, Extension(visitor): Extension<Visitor>) -> Response {
    let Some(person) = &visitor.person else { return to_login("/approvals") };
    let now = console.now();
    let found = match console.port.list_approvals(&person.id, APPROVALS_SHOWN, now).await {
        Ok(found) => found,
        Err(error) => return failure(&visitor, &error),
    };
    let (open, closed) = found
        .iter()
        .take(APPROVALS_SHOWN)
        .map(|approval| listed(approval, now))
        .partition(|listed| listed.open);
    let frame = Frame::new(&visitor, "Approvals", "approvals");
    render(StatusCode::OK, &ApprovalsPage { frame, open, closed })
}

fn listed(approval: &ApprovalView, now: Timestamp) -> Listed {
    let open = is_open(approval, now);
    Listed {
        id: approval.id.to_string(),
        tool: approval.call.tool.to_string(),
        upstream: approval.call.upstream.to_string(),
        agent: approval.agent.to_string(),
        machine: approval.machine.to_string(),
        requester: approval.requester.to_string(),
        purpose: visible(&approval.purpose),
        asked: Moment::new(approval.asked_at, now),
        expires: Moment::new(approval.expires_at, now),
        badge: state_badge(approval, now),
        open,
    }
}

fn is_open(approval: &ApprovalView, now: Timestamp) -> bool {
    approval.state == ApprovalState::Asked && now < approval.expires_at
}

fn state_badge(approval: &ApprovalView, now: Timestamp) -> Badge {
    match approval.state {
        ApprovalState::Asked if is_open(approval, now) => badge("waiting", "?", "wait"),
        ApprovalState::Asked | ApprovalState::Expired => badge("expired", "\u{2013}", "over"),
        ApprovalState::Granted { .. } => badge("approved", "\u{2713}", "good"),
        ApprovalState::Refused { .. } => badge("refused", "\u{2715}", "bad"),
        ApprovalState::Used { .. } => badge("used", "\u{2713}", "over"),
    }
}

#[derive(Template)]
#[template(path = "approval.html")]
struct ApprovalPage {
    frame: Frame,
    id: String,
    view: CallView,
    view_hash: String,
    agent: String,
    run: String,
    machine: String,
    task: String,
    purpose: Vec<Segment>,
    requester: String,
    asked_by: Option<String>,
    policy: String,
    agent_says: Option<Vec<Segment>>,
    asked: Moment,
    expires: Moment,
    badge: Badge,
    /// What happened, in a sentence, once it is closed.
    outcome: Option<String>,
    /// `Some` while open: whether this person may answer, or why not.
    answer: Option<Result<(), &'static str>>,
}

/// `GET /approvals/{id}`
pub async fn approval(
    State(console): Shared,
    Extension(visitor): Extension<Visitor>,
    Path(id): Path<String>,
) -> Response {
    let Ok(id) = ApprovalId::parse(&id) else { return failure(&visitor, &PortError::NotFound) };
    let Some(person) = &visitor.person else { return to_login(&format!("/approvals/{id}")) };
    let now = console.now();
    let approval = match console.port.approval(&id, &person.id, now).await {
        Ok(approval) => approval,
        Err(error) => return failure(&visitor, &error),
    };
    let view = CallView::of(&approval.call);
    let title = format!("{} on {}", view.tool, view.upstream);
    render(
        StatusCode::OK,
        &ApprovalPage {
            frame: Frame::new(&visitor, &title, "approvals"),
            id: id.to_string(),
            view_hash: view.hash().b64(),
            view,
            agent: approval.agent.to_string(),
            run: approval.run.to_string(),
            machine: approval.machine.to_string(),
            task: approval.task.to_string(),
            purpose: visible(&approval.purpose),
            requester: approval.requester.to_string(),
            asked_by: approval.asked_by.as_ref().map(ToString::to_string),
            policy: approval.policy.b64(),
            agent_says: approval
                .agent_says
                .as_deref()
                .map(|words| visible(&words.chars().take(AGENT_WORDS_CHARS).collect::<String>())),
            asked: Moment::new(approval.asked_at, now),
            expires: Moment::new(approval.expires_at, now),
            badge: state_badge(&approval, now),
            outcome: outcome(&approval, now),
            answer: is_open(&approval, now).then_some(approval.answerable),
        },
    )
}

fn outcome(approval: &ApprovalView, now: Timestamp) -> Option<String> {
    match &approval.state {
        ApprovalState::Asked if is_open(approval, now) => None,
        ApprovalState::Asked | ApprovalState::Expired => {
            Some("Nobody answered in time. The call was not made.".to_owned())
        }
        ApprovalState::Granted { by, at } => {
            Some(format!("Approved by {by} at {}. Not used yet; good for this one call.", moment::utc(*at)))
        }
        ApprovalState::Refused { by, at } => {
            Some(format!("Refused by {by} at {}. The call was not made.", moment::utc(*at)))
        }
        ApprovalState::Used { at } => {
            Some(format!("Approved, and spent on this call at {}.", moment::utc(*at)))
        }
    }
}

/// `POST /approvals/{id}/refuse`
pub async fn refuse(
    State(console): Shared,
    Extension(visitor): Extension<Visitor>,
    Path(id): Path<String>,
    body: Bytes,
) -> Response {
    if let Err(response) = own_form(&console, &visitor, &body) {
        return response;
    }
    let Ok(id) = ApprovalId::parse(&id) else { return failure(&visitor, &PortError::NotFound) };
    let Some(person) = &visitor.person else { return to_login(&format!("/approvals/{id}")) };
    match console.port.refuse_approval(&id, &person.id, console.now()).await {
        Ok(()) => see_other(&format!("/approvals/{id}")),
        Err(error) => failure(&visitor, &error),
    }
}

#[derive(Template)]
#[template(path = "invite.html")]
struct InvitePage {
    frame: Frame,
    token: String,
    person: String,
    person_id: String,
    expires: Moment,
}

/// `GET /invite/{token}`
pub async fn invite(
    State(console): Shared,
    Extension(visitor): Extension<Visitor>,
    Path(token): Path<String>,
) -> Response {
    // The token goes into an address on the page; whatever is no token of ours goes nowhere.
    if token.is_empty()
        || token.len() > 128
        || !token.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
    {
        return failure(&visitor, &PortError::NotFound);
    }
    let now = console.now();
    match console.port.person_by_invite(&token, now).await {
        Ok(invitation) => render(
            StatusCode::OK,
            &InvitePage {
                frame: Frame::new(&visitor, "Register a passkey", ""),
                token,
                person: name(&invitation.person),
                person_id: invitation.person.id.to_string(),
                expires: Moment::new(invitation.expires_at, now),
            },
        ),
        Err(error) => failure(&visitor, &error),
    }
}

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage {
    frame: Frame,
    next: String,
    registered: bool,
}

/// `GET /login`
pub async fn login(Extension(visitor): Extension<Visitor>, uri: Uri) -> Response {
    let query = query(&uri);
    let next = query.get("next").filter(|next| is_page(next)).unwrap_or("/approvals").to_owned();
    let registered = query.get("registered") == Some("yes");
    render(StatusCode::OK, &LoginPage { frame: Frame::new(&visitor, "Log in", ""), next, registered })
}

/// `POST /logout`
pub async fn logout(State(console): Shared, Extension(visitor): Extension<Visitor>, body: Bytes) -> Response {
    if let Err(response) = own_form(&console, &visitor, &body) {
        return response;
    }
    console.sessions.end(&visitor.cookie);
    let mut response = see_other("/login");
    if let Ok(value) = HeaderValue::from_str(&Cookie::removal()) {
        response.headers_mut().insert(header::SET_COOKIE, value);
    }
    response
}

#[derive(Template)]
#[template(path = "failure.html")]
struct FailurePage {
    frame: Frame,
    heading: &'static str,
    text: String,
}

/// Any other address.
pub async fn not_found(Extension(visitor): Extension<Visitor>) -> Response {
    failure(&visitor, &PortError::NotFound)
}

fn failure(visitor: &Visitor, error: &PortError) -> Response {
    let heading = match error {
        PortError::NotFound => "Nothing here",
        PortError::Closed => "No longer open",
        PortError::Forbidden(_) => "Not allowed",
        PortError::Conflict => "Changed meanwhile",
        PortError::Unavailable(detail) => {
            tracing::error!(detail, "console: control plane unavailable");
            "Not available"
        }
    };
    fail(visitor, status_of(error), heading, &error.to_string())
}

fn fail(visitor: &Visitor, status: StatusCode, heading: &'static str, text: &str) -> Response {
    let frame = Frame::new(visitor, heading, "");
    render(status, &FailurePage { frame, heading, text: text.to_owned() })
}

/// The status that says what a [`PortError`] says.
pub fn status_of(error: &PortError) -> StatusCode {
    match error {
        PortError::NotFound => StatusCode::NOT_FOUND,
        PortError::Closed => StatusCode::GONE,
        PortError::Forbidden(_) => StatusCode::FORBIDDEN,
        PortError::Conflict => StatusCode::CONFLICT,
        PortError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// `GET /assets/console.css`
pub async fn stylesheet() -> Response {
    asset(STYLESHEET, "text/css; charset=utf-8")
}

/// `GET /assets/console.js`
pub async fn script() -> Response {
    asset(SCRIPT, "text/javascript; charset=utf-8")
}

fn asset(body: &'static str, kind: &'static str) -> Response {
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    // Short: the files change with the binary and have no version in their name.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("private, max-age=60"));
    response
}

/// A form of ours carries the CSRF token of its cookie.
#[expect(clippy::result_large_err, reason = "the error is the response that is sent at once")]
fn own_form(console: &Console, visitor: &Visitor, body: &[u8]) -> Result<(), Response> {
    let form = Form::parse(body).unwrap_or_default();
    if console.sealer.csrf_holds(&visitor.cookie, form.get("csrf").unwrap_or("")) {
        return Ok(());
    }
    let text = "this form is out of date; go back, reload the page and try again";
    Err(fail(visitor, StatusCode::FORBIDDEN, "Out of date", text))
}

/// Pages a login may lead to: our own, by name, so that no login leads elsewhere.
fn is_page(path: &str) -> bool {
    match path.strip_prefix("/approvals/") {
        Some(id) => ApprovalId::parse(id).is_ok(),
        None => path == "/" || path == "/approvals",
    }
}

fn to_login(next: &str) -> Response {
    see_other(&format!("/login?{}", Form::encode(&[("next", next)])))
}

fn see_other(to: &str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SEE_OTHER;
    if let Ok(value) = HeaderValue::from_str(to) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    response
}

fn query(uri: &Uri) -> Form {
    Form::parse(uri.query().unwrap_or("").as_bytes()).unwrap_or_default()
}

fn name(person: &ConsolePerson) -> String {
    let shown: String = visible(&person.display_name)
        .into_iter()
        .filter(|segment| !segment.spelled)
        .flat_map(|segment| segment.text.chars().collect::<Vec<_>>())
        .take(NAME_CHARS)
        .collect();
    if shown.trim().is_empty() { person.id.to_string() } else { shown }
}

fn render(status: StatusCode, page: &impl Template) -> Response {
    let (status, body) = match page.render() {
        Ok(body) => (status, body),
        Err(error) => {
            tracing::error!(%error, "console: page cannot be rendered");
            (StatusCode::INTERNAL_SERVER_ERROR, "this page cannot be shown".to_owned())
        }
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    response
}
