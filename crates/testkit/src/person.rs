//! A person at the console with a software passkey: registers from an invitation, logs in, answers approvals.
//!
//! It does what the page's script does, request by request, so that a test can do it in another order, at the same
//! moment as somebody else, or wrongly. Not a browser: that the pages work in one is shown with [`crate::browser`].

use std::io;

use bytes::Bytes;
use countersign_proto::b64;
use countersign_proto::webauthn::software::SoftwareAuthenticator;
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use crate::insider::Answer;
use crate::world::Ready;

/// The relying party of a console on loopback.
const RP_ID: &str = "localhost";

/// One person, their browser's cookie, their passkey.
pub struct Person {
    origin: String,
    cookie: String,
    csrf: String,
    passkey: SoftwareAuthenticator,
}

impl Person {
    /// Somebody nobody knows yet, at the console of a world.
    ///
    /// # Errors
    /// If no passkey can be made.
    pub fn new(ready: &Ready) -> io::Result<Self> {
        Ok(Self {
            origin: ready.console.clone(),
            cookie: String::new(),
            csrf: String::new(),
            passkey: SoftwareAuthenticator::p256().map_err(io::Error::other)?,
        })
    }

    /// Opens an invitation, registers the passkey, and logs in.
    ///
    /// # Errors
    /// If the console refuses any step.
    pub async fn join(&mut self, invite_url: &str) -> io::Result<()> {
        let path = invite_url.strip_prefix(&self.origin).unwrap_or(invite_url).to_owned();
        self.open(&path).await?;
        let offer = accepted(self.post(&format!("{path}/begin"), &json!({})).await?)?;
        let response =
            self.passkey.register(RP_ID, &self.origin, &challenge(&offer)?).map_err(io::Error::other)?;
        accepted(self.post(&format!("{path}/register"), &to_value(&response)?).await?)?;
        self.log_in().await
    }

    /// Logs in with the passkey.
    ///
    /// # Errors
    /// If the console refuses any step.
    pub async fn log_in(&mut self) -> io::Result<()> {
        self.open("/login").await?;
        let offer = accepted(self.post("/login/begin", &json!({})).await?)?;
        let response = self.assert(&offer)?;
        accepted(self.post("/login/finish", &response).await?)?;
        Ok(())
    }

    /// Opens the page of an approval and begins to approve what is on it. The offer is to be given to
    /// [`Person::sign`].
    ///
    /// # Errors
    /// If the page does not open; a refusal to begin is an answer.
    pub async fn begin(&mut self, approval: &str) -> io::Result<Answer> {
        let page = self.open(&format!("/approvals/{approval}")).await?;
        // Where the page offers no answer, a stubborn person asks all the same, with a view of their own.
        let view = attribute(&page, "data-view=\"").unwrap_or_else(|| b64::url_encode(&[0; 32]));
        self.post(&format!("/approvals/{approval}/begin"), &json!({ "view": view })).await
    }

    /// Signs what [`Person::begin`] was offered, and sends it.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn sign(&mut self, approval: &str, offer: &Value) -> io::Result<Answer> {
        let response = self.assert(offer)?;
        self.post(&format!("/approvals/{approval}/approve"), &response).await
    }

    /// Approves, step by step, and gives the first answer that is a refusal, or the last.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn approve(&mut self, approval: &str) -> io::Result<Answer> {
        let offer = self.begin(approval).await?;
        if offer.status != 200 {
            return Ok(offer);
        }
        self.sign(approval, &offer.json()).await
    }

    /// Says no.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn refuse(&mut self, approval: &str) -> io::Result<Answer> {
        self.open(&format!("/approvals/{approval}")).await?;
        self.say_no(approval).await
    }

    /// Says no on a page that is open already.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn say_no(&mut self, approval: &str) -> io::Result<Answer> {
        let form = format!("csrf={}", self.csrf);
        let kind = "application/x-www-form-urlencoded";
        self.send(Method::POST, &format!("/approvals/{approval}/refuse"), kind, form.into_bytes()).await
    }

    fn assert(&mut self, offer: &Value) -> io::Result<Value> {
        let response =
            self.passkey.assert(RP_ID, &self.origin, &challenge(offer)?).map_err(io::Error::other)?;
        to_value(&response)
    }

    /// Opens a page, as a browser does before its script acts.
    ///
    /// # Errors
    /// If it is not there.
    pub async fn open(&mut self, path: &str) -> io::Result<String> {
        let answer = self.send(Method::GET, path, "", Vec::new()).await?;
        let page = String::from_utf8_lossy(&answer.body).into_owned();
        if answer.status != 200 {
            return Err(io::Error::other(format!("{path}: {} {page}", answer.status)));
        }
        if let Some(csrf) = attribute(&page, "name=\"csrf\" content=\"") {
            self.csrf = csrf;
        }
        Ok(page)
    }

    /// A POST as the page's script makes it.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn post(&mut self, path: &str, body: &Value) -> io::Result<Answer> {
        self.send(Method::POST, path, "application/json", body.to_string().into_bytes()).await
    }

    async fn send(&mut self, method: Method, path: &str, kind: &str, body: Vec<u8>) -> io::Result<Answer> {
        let host = self.origin.strip_prefix("http://").unwrap_or(&self.origin);
        let mut request = Request::builder().method(method.clone()).uri(path).header(header::HOST, host);
        if !self.cookie.is_empty() {
            request = request.header(header::COOKIE, &self.cookie);
        }
        if method == Method::POST {
            request = request
                .header(header::ORIGIN, &self.origin)
                .header(header::CONTENT_TYPE, kind)
                .header("countersign-csrf", &self.csrf);
        }
        let answer = plain(host, request.body(Full::from(body)).map_err(io::Error::other)?).await?;
        let cookie = answer.header("set-cookie");
        if let Some(value) = cookie.split(';').next().filter(|value| !value.is_empty()) {
            value.clone_into(&mut self.cookie);
        }
        Ok(answer)
    }
}

/// One request in the clear to `host:port`, on a connection of its own.
///
/// # Errors
/// If there is no answer.
pub async fn plain(authority: &str, request: Request<Full<Bytes>>) -> io::Result<Answer> {
    let stream = tokio::net::TcpStream::connect(authority).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes().to_vec();
    drop(sender);
    connection.await.map_err(io::Error::other)?.map_err(io::Error::other)?;
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
}

fn accepted(answer: Answer) -> io::Result<Value> {
    if answer.status == 200 {
        return Ok(answer.json());
    }
    Err(io::Error::other(format!(
        "the console says {}: {}",
        answer.status,
        String::from_utf8_lossy(&answer.body)
    )))
}

fn attribute(page: &str, before: &str) -> Option<String> {
    let (_, rest) = page.split_once(before)?;
    rest.split_once('"').map(|(value, _)| value.to_owned())
}

fn challenge(offer: &Value) -> io::Result<[u8; 32]> {
    let text =
        offer["challenge"].as_str().ok_or_else(|| io::Error::other(format!("no challenge in {offer}")))?;
    let bytes = b64::url_decode(text).map_err(io::Error::other)?;
    bytes.try_into().map_err(|_| io::Error::other("the challenge is not 32 bytes"))
}

fn to_value(response: &impl serde::Serialize) -> io::Result<Value> {
    serde_json::to_value(response).map_err(io::Error::other)
}
