//! The console as a browser meets it: what it shows, what it refuses, and that a page never changes anything.
//!
//! Against a control plane in memory and an authenticator in software; Chromium does the same in `e2e/browser`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

#[path = "console/fake.rs"]
mod fake;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use countersign_proto::b64;
use countersign_proto::id::ApprovalId;
use countersign_proto::time::{Clock, Entropy, Timestamp};
use countersign_proto::webauthn::software::{SoftwareAuthenticator, client_data};
use countersign_server::console::port::{ApprovalState, DecisionRow, Verdict};
use countersign_server::console::view::CallView;
use countersign_server::console::{ConsoleConfig, router};
use http_body_util::BodyExt as _;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};

use fake::{Fake, asked, person};

const ORIGIN: &str = "http://localhost:4433";
const START: i64 = 1_800_000_000;

struct TestClock(AtomicI64);

impl TestClock {
    fn advance(&self, secs: i64) {
        self.0.fetch_add(secs, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_secs(self.0.load(Ordering::SeqCst))
    }
}

/// Different bytes each time, the same in each run.
struct Counting(AtomicU64);

impl Entropy for Counting {
    fn fill(&self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            let next = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst);
            chunk.copy_from_slice(&next.to_be_bytes()[..chunk.len()]);
        }
    }
}

struct World {
    fake: Arc<Fake>,
    clock: Arc<TestClock>,
    console: TowerToHyperService<axum::Router>,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("JSON expected: {}", self.body))
    }

    fn location(&self) -> &str {
        self.headers.get(header::LOCATION).map_or("", |value| value.to_str().unwrap())
    }

    /// The challenge of an offer.
    fn challenge(&self) -> [u8; 32] {
        assert_eq!(self.status, StatusCode::OK, "{}", self.body);
        b64::url_decode(self.json()["challenge"].as_str().unwrap()).unwrap().try_into().unwrap()
    }
}

impl World {
    fn new() -> Self {
        let fake = Arc::new(Fake::default());
        let clock = Arc::new(TestClock(AtomicI64::new(START)));
        let rng = Arc::new(Counting(AtomicU64::new(1)));
        let config = ConsoleConfig::new(4433, clock.clone(), rng);
        let console = TowerToHyperService::new(router(fake.clone(), config));
        let now = clock.now();
        {
            let mut state = fake.state();
            for (id, name) in [("ada", "Ada Lovelace"), ("grace", "Grace Hopper"), ("eve", "Eve")] {
                state.people.insert(person(id), name.to_owned());
                state.invites.insert(format!("invite-{id}"), (person(id), now.plus_secs(86_400)));
            }
            let call = r#"{"amount":12,"to":"GB33"}"#;
            state.approvals = vec![
                asked("apr_one", "pay/transfer", call, "grace", now, now.plus_secs(3600)),
                asked("apr_two", "pay/transfer", r#"{"amount":99}"#, "grace", now, now.plus_secs(3600)),
                asked("apr_own", "pay/transfer", call, "ada", now, now.plus_secs(3600)),
                asked("apr_brief", "pay/transfer", call, "grace", now, now.plus_secs(60)),
            ];
        }
        Self { fake, clock, console }
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.console.call(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body: String::from_utf8(body.to_vec()).unwrap(),
        }
    }

    fn state_of(&self, id: &str) -> ApprovalState {
        let id = ApprovalId::parse(id).unwrap();
        self.fake.state().approvals.iter().find(|asked| asked.id == id).unwrap().state.clone()
    }
}

/// A browser: a cookie jar with one cookie, and the CSRF token of the last page.
struct Browser<'w> {
    world: &'w World,
    cookie: Option<String>,
    csrf: String,
}

fn request(method: Method, path: &str) -> axum::http::request::Builder {
    Request::builder().method(method).uri(path).header(header::HOST, "localhost:4433")
}

impl<'w> Browser<'w> {
    fn new(world: &'w World) -> Self {
        Self { world, cookie: None, csrf: String::new() }
    }

    fn keep(&mut self, answer: &Answer) {
        if let Some(given) = answer.headers.get(header::SET_COOKIE) {
            let pair = given.to_str().unwrap().split(';').next().unwrap();
            self.cookie = (!pair.ends_with('=')).then(|| pair.to_owned());
        }
        if let Some((_, rest)) = answer.body.split_once(r#"<meta name="csrf" content=""#) {
            rest.split_once('"').unwrap().0.clone_into(&mut self.csrf);
        }
    }

    async fn get(&mut self, path: &str) -> Answer {
        let mut builder = request(Method::GET, path);
        if let Some(cookie) = &self.cookie {
            builder = builder.header(header::COOKIE, cookie);
        }
        let answer = self.world.send(builder.body(Body::empty()).unwrap()).await;
        self.keep(&answer);
        answer
    }

    fn post_builder(&self, path: &str) -> axum::http::request::Builder {
        let builder = request(Method::POST, path).header(header::ORIGIN, ORIGIN);
        match &self.cookie {
            Some(cookie) => builder.header(header::COOKIE, cookie),
            None => builder,
        }
    }

    async fn post(&mut self, path: &str, body: &Value) -> Answer {
        let builder = self
            .post_builder(path)
            .header(header::CONTENT_TYPE, "application/json")
            .header("countersign-csrf", &self.csrf);
        let answer = self.world.send(builder.body(Body::from(body.to_string())).unwrap()).await;
        self.keep(&answer);
        answer
    }

    async fn submit(&mut self, path: &str) -> Answer {
        let builder = self.post_builder(path);
        let answer = self.world.send(builder.body(Body::from(format!("csrf={}", self.csrf))).unwrap()).await;
        self.keep(&answer);
        answer
    }

    async fn register(&mut self, who: &str) -> SoftwareAuthenticator {
        let authenticator = SoftwareAuthenticator::p256().unwrap();
        self.get(&format!("/invite/invite-{who}")).await;
        let challenge = self.post(&format!("/invite/invite-{who}/begin"), &json!({})).await.challenge();
        let response = authenticator.register("localhost", ORIGIN, &challenge).unwrap();
        let done = self
            .post(&format!("/invite/invite-{who}/register"), &serde_json::to_value(response).unwrap())
            .await;
        assert_eq!(done.status, StatusCode::OK, "{}", done.body);
        authenticator
    }

    async fn login(&mut self, authenticator: &mut SoftwareAuthenticator) -> Answer {
        self.get("/login").await;
        let challenge = self.post("/login/begin", &json!({})).await.challenge();
        let response = authenticator.assert("localhost", ORIGIN, &challenge).unwrap();
        self.post("/login/finish", &serde_json::to_value(response).unwrap()).await
    }

    /// Registers, logs in and looks at a request.
    async fn person(world: &'w World, who: &str) -> (Self, SoftwareAuthenticator) {
        let mut browser = Self::new(world);
        let mut authenticator = browser.register(who).await;
        let done = browser.login(&mut authenticator).await;
        assert_eq!(done.status, StatusCode::OK, "{}", done.body);
        assert_eq!(browser.get("/approvals").await.status, StatusCode::OK);
        (browser, authenticator)
    }

    async fn begin(&mut self, id: &str) -> Answer {
        let view = {
            let state = self.world.fake.state();
            let asked = state.approvals.iter().find(|asked| asked.id.as_str() == id);
            asked.map_or_else(|| b64::url_encode(&[0; 32]), |asked| CallView::of(&asked.call).hash().b64())
        };
        self.post(&format!("/approvals/{id}/begin"), &json!({ "view": view })).await
    }

    async fn answer(&mut self, id: &str, response: impl serde::Serialize) -> Answer {
        self.post(&format!("/approvals/{id}/approve"), &serde_json::to_value(response).unwrap()).await
    }
}

#[tokio::test]
async fn every_answer_carries_the_security_headers() {
    let world = World::new();
    let mut browser = Browser::new(&world);
    for path in [
        "/",
        "/login",
        "/approvals",
        "/invite/invite-ada",
        "/nothing",
        "/assets/console.js",
        "/assets/console.css",
    ] {
        let answer = browser.get(path).await;
        let get = |name: &str| answer.headers.get(name).map_or("", |value| value.to_str().unwrap());
        assert_eq!(
            get("content-security-policy"),
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
             form-action 'self'; frame-ancestors 'none'; base-uri 'none'; require-trusted-types-for 'script'; \
             trusted-types 'none'",
            "{path}"
        );
        assert_eq!(get("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(get("x-frame-options"), "DENY", "{path}");
        assert_eq!(get("cross-origin-opener-policy"), "same-origin", "{path}");
        assert!(get("cache-control").contains(if path.starts_with("/assets") {
            "max-age"
        } else {
            "no-store"
        }));
        assert!(
            !answer.body.contains("<script>") && !answer.body.contains(" style="),
            "{path} has nothing inline"
        );
    }
}

#[tokio::test]
async fn a_stranger_is_shown_nothing_and_changes_nothing_by_looking() {
    let world = World::new();
    let mut browser = Browser::new(&world);
    for path in ["/", "/approvals", "/approvals/apr_one"] {
        let answer = browser.get(path).await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER, "{path}");
        assert!(answer.location().starts_with("/login?next=%2F"), "{path}: {}", answer.location());
    }
    let (mut ada, _) = Browser::person(&world, "ada").await;
    let changes = world.fake.state().changes;
    for path in ["/", "/approvals", "/approvals/apr_one", "/invite/invite-eve", "/login", "/logout"] {
        for _ in 0..3 {
            ada.get(path).await;
        }
    }
    for path in ["/approvals/apr_one/refuse", "/approvals/apr_one/approve", "/invite/invite-eve/register"] {
        assert_eq!(ada.get(path).await.status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
    }
    assert_eq!(world.fake.state().changes, changes, "looking changes nothing");
    assert_eq!(ada.get("/approvals").await.status, StatusCode::OK, "and logs nobody out");
}

#[tokio::test]
async fn a_form_counts_only_from_our_own_page() {
    let world = World::new();
    let (ada, _) = Browser::person(&world, "ada").await;
    let mut other = Browser::new(&world);
    other.get("/login").await;
    let cookie = ada.cookie.clone().unwrap();
    let check = async |claim: &str, headers: &[(&str, &str)], body: String, expected: StatusCode| {
        let mut builder = Request::builder().method(Method::POST).uri("/approvals/apr_one/refuse");
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        let answer = world.send(builder.body(Body::from(body)).unwrap()).await;
        assert_eq!(answer.status, expected, "{claim}: {}", answer.body);
    };
    let (host, origin, cookie) =
        (("host", "localhost:4433"), ("origin", ORIGIN), ("cookie", cookie.as_str()));
    let good = || format!("csrf={}", ada.csrf);
    let no = StatusCode::FORBIDDEN;
    check("no origin", &[host, cookie], good(), no).await;
    check("another origin", &[host, ("origin", "https://evil.example"), cookie], good(), no).await;
    check("a null origin", &[host, ("origin", "null"), cookie], good(), no).await;
    check("another port", &[host, ("origin", "http://localhost:1"), cookie], good(), no).await;
    check("two origins", &[host, origin, ("origin", "https://evil.example"), cookie], good(), no).await;
    check("a cross-site request", &[host, origin, cookie, ("sec-fetch-site", "cross-site")], good(), no)
        .await;
    check("no cookie", &[host, origin], good(), no).await;
    check("no token", &[host, origin, cookie], String::new(), no).await;
    check("a made-up token", &[host, origin, cookie], "csrf=x".to_owned(), no).await;
    check("another visitor's token", &[host, origin, cookie], format!("csrf={}", other.csrf), no).await;
    check("two tokens", &[host, origin, cookie], format!("{}&csrf=x", good()), no).await;
    let misdirected = StatusCode::MISDIRECTED_REQUEST;
    check("another name for us", &[("host", "evil.example:4433"), origin, cookie], good(), misdirected).await;
    check("no name at all", &[origin, cookie], good(), misdirected).await;
    assert_eq!(world.state_of("apr_one"), ApprovalState::Asked, "nothing of it counted");
    check(
        "our own",
        &[host, origin, cookie, ("sec-fetch-site", "same-origin")],
        good(),
        StatusCode::SEE_OTHER,
    )
    .await;
    assert!(matches!(world.state_of("apr_one"), ApprovalState::Refused { .. }));
}

#[tokio::test]
async fn a_login_gives_a_new_cookie_that_scripts_cannot_read() {
    let world = World::new();
    let mut browser = Browser::new(&world);
    let mut authenticator = browser.register("ada").await;
    let before = browser.cookie.clone();
    let done = browser.login(&mut authenticator).await;
    let given = done.headers[header::SET_COOKIE].to_str().unwrap();
    assert!(given.starts_with("__Host-countersign="), "{given}");
    for attribute in ["; Path=/", "; Secure", "; HttpOnly", "; SameSite=Strict"] {
        assert!(given.contains(attribute), "{given}");
    }
    assert_ne!(browser.cookie, before, "an old cookie, perhaps planted, is never a session");
    let mut old = Browser { world: &world, cookie: before, csrf: String::new() };
    assert_eq!(old.get("/approvals").await.status, StatusCode::SEE_OTHER);
    assert_eq!(browser.get("/approvals").await.status, StatusCode::OK);
    // A cookie that nobody gave out is nobody's.
    let mut made_up = Browser::new(&world);
    made_up.cookie = Some(format!("__Host-countersign={}", "a".repeat(26)));
    assert_eq!(made_up.get("/approvals").await.status, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn a_session_ends() {
    let check = async |claim: &str, steps: &[i64], ended: bool| {
        let world = World::new();
        let (mut ada, _) = Browser::person(&world, "ada").await;
        let mut last = StatusCode::OK;
        for step in steps {
            world.clock.advance(*step);
            last = ada.get("/approvals").await.status;
        }
        assert_eq!(last == StatusCode::SEE_OTHER, ended, "{claim}");
    };
    check("used within half an hour", &[1700, 1700, 1700], false).await;
    check("unused for half an hour", &[1800], true).await;
    check("after a working day", &[1700; 17], true).await;
    check("when the clock goes back", &[-3600], true).await;

    let world = World::new();
    let (mut ada, _) = Browser::person(&world, "ada").await;
    let cookie = ada.cookie.clone();
    let answer = ada.submit("/logout").await;
    assert_eq!((answer.status, answer.location()), (StatusCode::SEE_OTHER, "/login"));
    assert_eq!(ada.cookie, None, "the cookie is taken back");
    ada.cookie = cookie;
    assert_eq!(ada.get("/approvals").await.status, StatusCode::SEE_OTHER, "and worth nothing");
}

#[tokio::test]
async fn a_person_who_is_no_more_is_out_at_once() {
    let world = World::new();
    let (mut ada, mut authenticator) = Browser::person(&world, "ada").await;
    let challenge = ada.begin("apr_one").await.challenge();
    let name = world.fake.state().people.remove(&person("ada")).unwrap();
    let yes = authenticator.assert("localhost", ORIGIN, &challenge).unwrap();
    assert_eq!(ada.answer("apr_one", &yes).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(ada.get("/").await.status, StatusCode::SEE_OTHER);
    world.fake.state().people.insert(person("ada"), name);
    assert_eq!(ada.get("/").await.status, StatusCode::SEE_OTHER, "coming back does not revive a session");
    assert_eq!(world.state_of("apr_one"), ApprovalState::Asked);
}

#[tokio::test]
async fn an_invitation_makes_one_passkey() {
    let world = World::new();
    let mut ada = Browser::new(&world);
    ada.register("ada").await;
    assert_eq!(ada.get("/invite/invite-ada").await.status, StatusCode::NOT_FOUND, "it is spent");
    assert_eq!(ada.get("/invite/never-was").await.status, StatusCode::NOT_FOUND);
    assert_eq!(ada.get("/invite/%22%3E%3Cscript%3E").await.status, StatusCode::NOT_FOUND);

    // Two tabs: both begin, one finishes.
    let (mut first, mut second) = (Browser::new(&world), Browser::new(&world));
    let mut finish = Vec::new();
    for browser in [&mut first, &mut second] {
        browser.get("/invite/invite-grace").await;
        let challenge = browser.post("/invite/invite-grace/begin", &json!({})).await.challenge();
        let response =
            SoftwareAuthenticator::p256().unwrap().register("localhost", ORIGIN, &challenge).unwrap();
        finish.push(serde_json::to_value(response).unwrap());
    }
    let stolen = second.post("/invite/invite-grace/register", &finish[0]).await;
    assert_eq!(stolen.status, StatusCode::FORBIDDEN, "a challenge belongs to the visitor it was given to");
    assert_eq!(first.post("/invite/invite-grace/register", &finish[0]).await.status, StatusCode::OK);
    assert_eq!(second.post("/invite/invite-grace/register", &finish[1]).await.status, StatusCode::NOT_FOUND);

    // Five minutes for the ceremony, and the end of the invitation itself.
    let mut eve = Browser::new(&world);
    eve.get("/invite/invite-eve").await;
    let challenge = eve.post("/invite/invite-eve/begin", &json!({})).await.challenge();
    let response = SoftwareAuthenticator::p256().unwrap().register("localhost", ORIGIN, &challenge).unwrap();
    world.clock.advance(301);
    let late = eve.post("/invite/invite-eve/register", &serde_json::to_value(response).unwrap()).await;
    assert_eq!(late.status, StatusCode::FORBIDDEN, "{}", late.body);
    world.clock.advance(86_400);
    assert_eq!(eve.get("/invite/invite-eve").await.status, StatusCode::GONE);
    assert_eq!(world.fake.state().passkeys.len(), 2);
}

#[tokio::test]
async fn a_login_challenge_is_used_once_by_whom_it_was_given_to_and_soon() {
    let world = World::new();
    let mut ada = Browser::new(&world);
    let mut authenticator = ada.register("ada").await;
    let mut offer = async |browser: &mut Browser<'_>| {
        browser.get("/login").await;
        let challenge = browser.post("/login/begin", &json!({})).await.challenge();
        serde_json::to_value(authenticator.assert("localhost", ORIGIN, &challenge).unwrap()).unwrap()
    };
    let mut other = Browser::new(&world);
    other.get("/login").await;

    let response = offer(&mut ada).await;
    assert_eq!(other.post("/login/finish", &response).await.status, StatusCode::FORBIDDEN, "another visitor");
    let before = (ada.cookie.clone(), ada.csrf.clone());
    assert_eq!(ada.post("/login/finish", &response).await.status, StatusCode::OK);
    (ada.cookie, ada.csrf) = before;
    let again = ada.post("/login/finish", &response).await;
    assert_ne!(again.status, StatusCode::OK, "a second time");
    assert!(again.headers.get(header::SET_COOKIE).is_none(), "and no session comes of it");

    let response = offer(&mut ada).await;
    world.clock.advance(301);
    assert_eq!(ada.post("/login/finish", &response).await.status, StatusCode::FORBIDDEN, "too late");
    let response = offer(&mut ada).await;
    world.clock.advance(-3600);
    assert_eq!(ada.post("/login/finish", &response).await.status, StatusCode::FORBIDDEN, "from the future");
}

#[tokio::test]
async fn a_login_is_by_a_registered_passkey_at_this_page() {
    let world = World::new();
    let mut ada = Browser::new(&world);
    let mut genuine = ada.register("ada").await;
    let mut stranger = SoftwareAuthenticator::p256().unwrap();
    let check = async |ada: &mut Browser<'_>, claim: &str, make: &mut dyn FnMut(&[u8; 32]) -> Value| {
        ada.get("/login").await;
        let challenge = ada.post("/login/begin", &json!({})).await.challenge();
        let answer = ada.post("/login/finish", &make(&challenge)).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{claim}: {}", answer.body);
    };
    let value =
        |response| serde_json::to_value::<countersign_proto::webauthn::AssertionResponse>(response).unwrap();
    check(&mut ada, "an unregistered passkey", &mut |c| {
        value(stranger.assert("localhost", ORIGIN, c).unwrap())
    })
    .await;
    check(&mut ada, "a phishing page", &mut |c| {
        value(genuine.assert("localhost", "https://evil.example", c).unwrap())
    })
    .await;
    check(&mut ada, "another site", &mut |c| value(genuine.assert("evil.example", ORIGIN, c).unwrap())).await;
    check(&mut ada, "a challenge of one's own", &mut |_| {
        value(genuine.assert("localhost", ORIGIN, &[7; 32]).unwrap())
    })
    .await;
    check(&mut ada, "an approval's ceremony", &mut |c| {
        let data = genuine.header("localhost", 0x05, 100);
        value(genuine.sign(data, client_data("webauthn.create", ORIGIN, c)).unwrap())
    })
    .await;
    check(&mut ada, "without verification of the person", &mut |c| {
        let data = genuine.header("localhost", 0x01, 100);
        value(genuine.sign(data, client_data("webauthn.get", ORIGIN, c)).unwrap())
    })
    .await;
    genuine.sign_count = 50;
    assert_eq!(ada.login(&mut genuine).await.status, StatusCode::OK, "and with everything right");
    let mut copy = genuine;
    copy.sign_count = 50;
    let cloned = ada.login(&mut copy).await;
    assert_eq!(cloned.status, StatusCode::FORBIDDEN, "a copy that counts behind");
    assert_eq!(world.fake.state().alarms, ["apr.clone ada"]);
}

#[tokio::test]
async fn a_passkey_approves_exactly_what_is_shown() {
    let world = World::new();
    let (mut ada, mut authenticator) = Browser::person(&world, "ada").await;
    let page = ada.get("/approvals/apr_one").await.body;
    for shown in
        ["transfer", "amount", "12", "GB33", "build-bot", "laptop-17", "grace", "Approve with passkey"]
    {
        assert!(page.contains(shown), "{shown}");
    }
    let challenge = ada.begin("apr_one").await.challenge();
    let response = authenticator.assert("localhost", ORIGIN, &challenge).unwrap();
    let done = ada.answer("apr_one", &response).await;
    assert_eq!(done.status, StatusCode::OK, "{}", done.body);
    assert_eq!(
        world.state_of("apr_one"),
        ApprovalState::Granted { by: person("ada"), at: world.clock.now() }
    );
    assert_ne!(ada.answer("apr_one", &response).await.status, StatusCode::OK, "a yes counts once");
    assert!(ada.get("/approvals/apr_one").await.body.contains("Approved by ada"));
    assert_eq!(ada.begin("apr_one").await.status, StatusCode::GONE);
}

#[tokio::test]
async fn a_yes_to_something_else_is_no_yes() {
    let world = World::new();
    let (mut ada, mut authenticator) = Browser::person(&world, "ada").await;
    let (mut eve, mut eves) = Browser::person(&world, "eve").await;
    let no = StatusCode::FORBIDDEN;

    let challenge = ada.begin("apr_one").await.challenge();
    let yes = authenticator.assert("localhost", ORIGIN, &challenge).unwrap();
    assert_eq!(ada.answer("apr_two", &yes).await.status, no, "another request");
    assert_eq!(ada.answer("apr_one", &yes).await.status, no, "and the ceremony is over");

    let challenge = ada.begin("apr_one").await.challenge();
    let other = authenticator.assert("localhost", ORIGIN, &[9; 32]).unwrap();
    assert_eq!(ada.answer("apr_one", &other).await.status, no, "a signature over something else");
    let yes = authenticator.assert("localhost", ORIGIN, &challenge).unwrap();
    assert_eq!(ada.answer("apr_one", &yes).await.status, no, "ends the ceremony, too");

    let challenge = ada.begin("apr_one").await.challenge();
    let yes = authenticator.assert("localhost", ORIGIN, &challenge).unwrap();
    assert_eq!(eve.answer("apr_one", &yes).await.status, no, "in another person's session");
    let foreign = eves.assert("localhost", ORIGIN, &challenge).unwrap();
    assert_eq!(ada.answer("apr_one", &foreign).await.status, no, "by another person's passkey");

    let challenge = ada.begin("apr_one").await.challenge();
    let yes = authenticator.assert("localhost", ORIGIN, &challenge).unwrap();
    world.clock.advance(301);
    assert_eq!(ada.answer("apr_one", &yes).await.status, no, "too late");

    let view = json!({ "view": b64::url_encode(&[1; 32]) });
    let stale = ada.post("/approvals/apr_one/begin", &view).await;
    assert_eq!(stale.status, StatusCode::CONFLICT, "a page that shows something else");
    let own = ada.begin("apr_own").await;
    assert_eq!(own.status, no, "one's own request");
    assert!(ada.get("/approvals/apr_own").await.body.contains("You cannot answer this one"));
    assert_eq!(ada.begin("apr_brief").await.status, StatusCode::GONE, "an expired one");
    assert_eq!(ada.begin("apr_none").await.status, StatusCode::NOT_FOUND, "none at all");
    for id in ["apr_one", "apr_two", "apr_own", "apr_brief"] {
        assert_eq!(world.state_of(id), ApprovalState::Asked, "{id} still waits");
    }
}

#[tokio::test]
async fn no_wins_over_a_yes_under_way() {
    let world = World::new();
    let (mut ada, mut authenticator) = Browser::person(&world, "ada").await;
    let (mut eve, _) = Browser::person(&world, "eve").await;
    let challenge = ada.begin("apr_one").await.challenge();
    eve.get("/approvals/apr_one").await;
    assert_eq!(eve.submit("/approvals/apr_one/refuse").await.location(), "/approvals/apr_one");
    let yes = authenticator.assert("localhost", ORIGIN, &challenge).unwrap();
    assert_eq!(ada.answer("apr_one", &yes).await.status, StatusCode::GONE);
    assert!(matches!(world.state_of("apr_one"), ApprovalState::Refused { .. }));
}

#[tokio::test]
async fn a_cloned_passkey_approves_nothing_and_is_reported() {
    let world = World::new();
    let (mut ada, mut authenticator) = Browser::person(&world, "ada").await;
    let challenge = ada.begin("apr_one").await.challenge();
    authenticator.sign_count = 1;
    let behind = authenticator.assert("localhost", ORIGIN, &challenge).unwrap();
    assert_eq!(ada.answer("apr_one", &behind).await.status, StatusCode::FORBIDDEN);
    assert_eq!(world.fake.state().alarms, ["apr.clone ada"]);
    assert_eq!(world.state_of("apr_one"), ApprovalState::Asked);
}

#[tokio::test]
async fn the_script_speaks_strict_json_with_its_token() {
    let world = World::new();
    let mut ada = Browser::new(&world);
    ada.get("/login").await;
    let check = async |claim: &str, kind: &str, token: &str, body: &str, expected: StatusCode| {
        let builder =
            ada.post_builder("/login/begin").header("content-type", kind).header("countersign-csrf", token);
        let answer = world.send(builder.body(Body::from(body.to_owned())).unwrap()).await;
        assert_eq!(answer.status, expected, "{claim}: {}", answer.body);
    };
    let json = "application/json";
    check("as it should be", json, &ada.csrf, "{}", StatusCode::OK).await;
    check("no token", json, "", "{}", StatusCode::FORBIDDEN).await;
    check("as a form could send it", "text/plain", &ada.csrf, "{}", StatusCode::UNSUPPORTED_MEDIA_TYPE).await;
    check("an unknown member", json, &ada.csrf, r#"{"x":1}"#, StatusCode::BAD_REQUEST).await;
    check("no object", json, &ada.csrf, "", StatusCode::BAD_REQUEST).await;
    check("too much", json, &ada.csrf, &" ".repeat(70_000), StatusCode::PAYLOAD_TOO_LARGE).await;
}

#[tokio::test]
async fn what_others_write_is_text_and_nothing_else() {
    let world = World::new();
    {
        let mut state = world.fake.state();
        let evil = r#"<script>alert(1)</script><img src=x onerror="y">"#;
        let now = world.clock.now();
        let arguments = json!({ "<b>key</b>": evil, "note": "a\u{202e}b" }).to_string();
        let mut asked = asked("apr_evil", "pay/transfer", &arguments, "grace", now, now.plus_secs(60));
        asked.purpose = evil.to_owned();
        asked.agent_says = Some(format!("{evil}\u{200b}"));
        state.approvals.push(asked);
        state.people.insert(person("ada"), evil.to_owned());
        state.decisions.push(DecisionRow {
            at: now,
            agent: evil.to_owned(),
            machine: evil.to_owned(),
            tool: evil.to_owned(),
            verdict: Verdict::Denied,
            reason: evil.to_owned(),
            index: 7,
        });
    }
    let (mut ada, _) = Browser::person(&world, "ada").await;
    for path in ["/", "/approvals", "/approvals/apr_evil"] {
        let body = ada.get(path).await.body;
        for piece in ["<script>a", "<img", "<b>key", "\u{202e}", "\u{200b}"] {
            assert!(!body.contains(piece), "{path} holds {piece:?}");
        }
        assert!(body.contains("alert(1)"), "{path} shows it as text");
    }
    let body = ada.get("/approvals/apr_evil").await.body;
    assert!(body.contains("U+202E") && body.contains("U+200B"), "what cannot be seen is spelled out");
    assert!(body.contains("Written by the agent"), "the agent's words are labelled");
}

#[tokio::test]
async fn a_login_leads_to_our_own_pages_only() {
    let world = World::new();
    let mut browser = Browser::new(&world);
    let check = async |browser: &mut Browser<'_>, next: &str, expected: &str| {
        let body = browser.get(&format!("/login?next={next}")).await.body;
        assert!(body.contains(&format!(r#"data-next="{expected}""#)), "{next}: {body}");
    };
    check(&mut browser, "%2F", "/").await;
    check(&mut browser, "%2Fapprovals%2Fapr_one", "/approvals/apr_one").await;
    for foreign in [
        "https%3A%2F%2Fevil.example",
        "%2F%2Fevil.example",
        "%2F%5Cevil.example",
        "javascript%3Aalert(1)",
        "%2Flogout",
        "%2Fapprovals%2F..%2Flogout",
    ] {
        check(&mut browser, foreign, "/approvals").await;
    }
}

#[tokio::test]
async fn when_the_control_plane_is_down_nothing_is_granted_and_nothing_is_told() {
    let world = World::new();
    let (mut ada, mut authenticator) = Browser::person(&world, "ada").await;
    let challenge = ada.begin("apr_one").await.challenge();
    world.fake.state().down = true;
    let yes = authenticator.assert("localhost", ORIGIN, &challenge).unwrap();
    let answer = ada.answer("apr_one", &yes).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(!answer.body.contains("fire"), "the detail stays inside: {}", answer.body);
    let page = ada.get("/approvals").await;
    assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(!page.body.contains("fire"));
    world.fake.state().down = false;
    assert_eq!(world.state_of("apr_one"), ApprovalState::Asked);
}
