//! The tool server: MCP revision 2025-11-25 over plain HTTP, answering everything at once with JSON.
//!
//! A process of its own, so that its work is not counted as anybody else's. It hands out a session to whoever
//! initializes and asks nobody for one, as simple servers do.

use std::convert::Infallible;
use std::io::{self, Read as _};
use std::net::Ipv4Addr;
use std::process::Command;

use bytes::Bytes;
use countersign_testkit::process::Talking;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// The hidden argument that makes this command the tool server.
pub(crate) const COMMAND: &str = "serve-tools";
const VERSION: &str = "2025-11-25";

/// The running tool server; ended with us.
#[derive(Debug)]
pub(crate) struct Upstream {
    process: Talking,
    pub(crate) port: u16,
}

impl Upstream {
    /// Starts it on a free port.
    pub(crate) fn start() -> io::Result<Self> {
        let mut process = Talking::start("tool server", Command::new(std::env::current_exe()?).arg(COMMAND))?;
        let said = process.next_json()?;
        let port = said["port"].as_u64().and_then(|port| u16::try_from(port).ok());
        Ok(Self {
            process,
            port: port.ok_or_else(|| io::Error::other("the tool server did not say its port"))?,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }
}

/// Serves until standard input is closed.
pub(crate) fn serve() -> io::Result<()> {
    // Ends with whoever started us, however that ends.
    std::thread::spawn(|| {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        println!("{}", json!({ "port": listener.local_addr()?.port() }));
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(async move {
                // A connection that breaks off is the caller's to notice.
                let _ =
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)).await;
            });
        }
    })
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    method: &'a str,
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    match head.method {
        Method::POST => {}
        Method::DELETE => return Ok(empty(StatusCode::OK)),
        _ => return Ok(empty(StatusCode::METHOD_NOT_ALLOWED)),
    }
    if head.headers.get("mcp-protocol-version").is_some_and(|version| version != VERSION) {
        return Ok(empty(StatusCode::BAD_REQUEST));
    }
    let Ok(body) = body.collect().await.map(http_body_util::Collected::to_bytes) else {
        return Ok(empty(StatusCode::BAD_REQUEST));
    };
    let Ok(message) = serde_json::from_slice::<Message<'_>>(&body) else {
        return Ok(empty(StatusCode::BAD_REQUEST));
    };
    let Some(id) = message.id else { return Ok(empty(StatusCode::ACCEPTED)) };
    Ok(match message.method {
        "tools/call" => result(
            id,
            r#"{"content":[{"type":"text","text":"ship the gateway, then the rest of the roadmap"}]}"#,
        ),
        "tools/list" => result(id, &json!({ "tools": tools() }).to_string()),
        "initialize" => {
            let capabilities = json!({
                "protocolVersion": VERSION, "capabilities": { "tools": {} },
                "serverInfo": { "name": "notes", "version": "1" },
            });
            let mut response = result(id, &capabilities.to_string());
            response.headers_mut().insert("mcp-session-id", HeaderValue::from_static("session-of-everyone"));
            response
        }
        _ => json_body(format!(
            r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32601,"message":"method not found"}}}}"#
        )),
    })
}

/// The tool that is called, and the two others that the policy speaks about.
fn tools() -> Value {
    let tool = |name: &str, description: &str, properties: Value, required: Value| {
        json!({
            "name": name, "description": description,
            "inputSchema": { "type": "object", "properties": properties, "required": required },
        })
    };
    let text = json!({ "type": "string" });
    json!([
        tool("notes.read", "Read a note.", json!({ "topic": text }), json!(["topic"])),
        tool(
            "deploy.start",
            "Start a deployment.",
            json!({ "environment": text, "version": text }),
            json!(["environment", "version"]),
        ),
        tool(
            "payments.refund",
            "Refund a payment.",
            json!({ "account": text, "cents": { "type": "integer" } }),
            json!(["account", "cents"]),
        ),
    ])
}

fn result(id: &RawValue, result: &str) -> Response<Full<Bytes>> {
    json_body(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#))
}

fn json_body(body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}
