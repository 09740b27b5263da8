//! A person at the console with a software passkey: registers from an invitation, logs in, approves.

use countersign_proto::b64;
use countersign_proto::digest::Sha256Digest;
use countersign_proto::id::ApprovalId;
use countersign_proto::webauthn::software::SoftwareAuthenticator;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use super::{Answer, Harness};

const RP_ID: &str = "localhost";

struct Browser {
    origin: String,
    addr: std::net::SocketAddr,
    cookie: String,
    csrf: String,
}

impl Browser {
    fn at(harness: &Harness) -> Self {
        let addr = harness.server.console_addr;
        let origin = format!("http://localhost:{}", addr.port());
        Self { origin, addr, cookie: String::new(), csrf: String::new() }
    }

    async fn send(&mut self, method: &str, path: &str, body: &Value) -> Answer {
        let body = if method == "POST" { serde_json::to_vec(body).unwrap() } else { Vec::new() };
        self.send_as(method, path, "application/json", body).await
    }

    async fn send_form(&mut self, path: &str, form: String) -> Answer {
        self.send_as("POST", path, "application/x-www-form-urlencoded", form.into_bytes()).await
    }

    async fn send_as(&mut self, method: &str, path: &str, media_type: &str, bytes: Vec<u8>) -> Answer {
        let stream = tokio::net::TcpStream::connect(self.addr).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let host = self.origin.strip_prefix("http://").unwrap();
        let mut request = hyper::Request::builder().method(method).uri(path).header("host", host);
        if !self.cookie.is_empty() {
            request = request.header("cookie", &self.cookie);
        }
        if method == "POST" {
            request = request
                .header("origin", &self.origin)
                .header("content-type", media_type)
                .header("countersign-csrf", &self.csrf);
        }
        let response =
            sender.send_request(request.body(Full::new(Bytes::from(bytes))).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        drop(sender);
        drop(connection.await);
        let answer = Answer { status: parts.status.as_u16(), headers: parts.headers, body };
        if let Some(cookie) = answer.header("set-cookie") {
            self.cookie = cookie.split(';').next().unwrap().to_owned();
        }
        answer
    }

    /// Opens a page, as a browser does before its script acts; answers the page.
    async fn open(&mut self, path: &str) -> String {
        let answer = self.send("GET", path, &Value::Null).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        let page = String::from_utf8(answer.body.to_vec()).unwrap();
        if let Some(csrf) = attribute(&page, "name=\"csrf\" content=\"") {
            self.csrf = csrf;
        }
        page
    }

    async fn post(&mut self, path: &str, body: Value) -> Result<Value, u16> {
        let answer = self.send("POST", path, &body).await;
        if answer.status == 200 { Ok(answer.json()) } else { Err(answer.status) }
    }
}

fn attribute(page: &str, before: &str) -> Option<String> {
    let (_, rest) = page.split_once(before)?;
    rest.split_once('"').map(|(value, _)| value.to_owned())
}

fn challenge(offer: &Value) -> [u8; 32] {
    b64::url_decode(offer["challenge"].as_str().unwrap()).unwrap().try_into().unwrap()
}

/// `person` says yes to `id`; `Err` is the status the console refused with.
pub async fn approve(harness: &Harness, person: &str, id: &ApprovalId) -> Result<(), u16> {
    let (mut browser, mut passkey) = log_in(harness, person).await?;
    let page = browser.open(&format!("/approvals/{id}")).await;
    let view = attribute(&page, "data-view=\"").unwrap_or_else(|| Sha256Digest::of(b"unseen").b64());
    let offer = browser.post(&format!("/approvals/{id}/begin"), json!({"view": view})).await?;
    let assertion = passkey.assert(RP_ID, &browser.origin, &challenge(&offer)).unwrap();
    browser
        .post(&format!("/approvals/{id}/approve"), serde_json::to_value(assertion).unwrap())
        .await
        .map(drop)
}

/// `person` says no to `id`.
pub async fn refuse(harness: &Harness, person: &str, id: &ApprovalId) {
    let (mut browser, _) = log_in(harness, person).await.unwrap();
    browser.open(&format!("/approvals/{id}")).await;
    let form = format!("csrf={}", browser.csrf);
    let answer = browser.send_form(&format!("/approvals/{id}/refuse"), form).await;
    assert_eq!(answer.status, 303, "{answer:?}");
}

/// Somebody tries to log in with a passkey that nobody registered.
pub async fn fail_to_log_in(harness: &Harness) -> u16 {
    let mut browser = Browser::at(harness);
    let mut passkey = SoftwareAuthenticator::p256().unwrap();
    passkey.register(RP_ID, &browser.origin, &[1; 32]).unwrap();
    browser.open("/login").await;
    let offer = browser.post("/login/begin", json!({})).await.unwrap();
    let assertion = passkey.assert(RP_ID, &browser.origin, &challenge(&offer)).unwrap();
    browser.post("/login/finish", serde_json::to_value(assertion).unwrap()).await.unwrap_err()
}

/// A browser in which `person` is logged in, and the passkey just registered for that.
async fn log_in(harness: &Harness, person: &str) -> Result<(Browser, SoftwareAuthenticator), u16> {
    let invite: Value =
        harness.admin("POST", &format!("/admin/v1/persons/{person}/invite"), json!({})).await.unwrap();
    let mut browser = Browser::at(harness);
    let mut passkey = SoftwareAuthenticator::p256().unwrap();
    let path = invite["url"].as_str().unwrap().strip_prefix(&browser.origin).unwrap().to_owned();

    browser.open(&path).await;
    let offer = browser.post(&format!("{path}/begin"), json!({})).await?;
    let registration = passkey.register(RP_ID, &browser.origin, &challenge(&offer)).unwrap();
    let registration = serde_json::to_value(registration).unwrap();
    browser.post(&format!("{path}/register"), registration.clone()).await?;
    // The invitation is spent.
    assert!(browser.post(&format!("{path}/register"), registration).await.is_err());

    browser.open("/login").await;
    let offer = browser.post("/login/begin", json!({})).await?;
    let assertion = passkey.assert(RP_ID, &browser.origin, &challenge(&offer)).unwrap();
    browser.post("/login/finish", serde_json::to_value(assertion).unwrap()).await?;
    Ok((browser, passkey))
}
