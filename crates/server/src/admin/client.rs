//! A small blocking client for the admin socket: one request per connection. No retries, no state.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::api::ApiError;

/// Largest answer taken.
const MAX_ANSWER_BYTES: u64 = 64 * 1024 * 1024;
/// Patience with a server that does not answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens at the socket, or the connection broke.
    #[error("admin socket")]
    Io(#[from] std::io::Error),
    /// The request could not be written as JSON.
    #[error("request is not json")]
    Request(#[source] serde_json::Error),
    /// What came back is not an answer of this API.
    #[error("unexpected answer from the server")]
    Answer,
    /// The server refused.
    #[error("{} ({status} {})", .error.message, .error.error)]
    Refused {
        /// HTTP status.
        status: u16,
        /// Code and sentence.
        error: ApiError,
    },
}

/// Sends one request and parses the answer. `body` is ignored for `GET`.
///
/// # Errors
/// When the server cannot be reached, refuses, or answers something else.
pub fn call<Body: Serialize, Answer: DeserializeOwned>(
    socket: &Path,
    method: &str,
    path: &str,
    body: &Body,
) -> Result<Answer, ClientError> {
    let (status, answer) = exchange(socket, method, path, body)?;
    if (200..300).contains(&status) {
        return serde_json::from_slice(&answer).map_err(|_| ClientError::Answer);
    }
    let error = serde_json::from_slice(&answer).map_err(|_| ClientError::Answer)?;
    Err(ClientError::Refused { status, error })
}

/// Sends a `GET` and returns the text as it is (`/metrics`, `/healthz`).
///
/// # Errors
/// When the server cannot be reached or answers something else than 200.
pub fn fetch_text(socket: &Path, path: &str) -> Result<String, ClientError> {
    let (status, answer) = exchange(socket, "GET", path, &())?;
    if status != 200 {
        return Err(ClientError::Answer);
    }
    String::from_utf8(answer).map_err(|_| ClientError::Answer)
}

fn exchange<Body: Serialize>(
    socket: &Path,
    method: &str,
    path: &str,
    body: &Body,
) -> Result<(u16, Vec<u8>), ClientError> {
    if !path.starts_with('/') || path.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return Err(ClientError::Answer);
    }
    let body =
        if method == "GET" { Vec::new() } else { serde_json::to_vec(body).map_err(ClientError::Request)? };
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    stream.set_write_timeout(Some(ANSWER_WITHIN))?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(&body)?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer)?;
    parse(&answer).ok_or(ClientError::Answer)
}

/// Status and body of a complete HTTP/1.1 answer with `Content-Length`; the server never chunks on this socket.
fn parse(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let (head, body) = (std::str::from_utf8(&answer[..end]).ok()?, &answer[end + 4..]);
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let length: usize = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())?;
    (body.len() == length).then(|| (status, body.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn an_answer_is_taken_only_when_it_is_complete() {
        let check = |text: &str, expected: Option<(u16, &str)>| {
            let got = parse(text.as_bytes());
            assert_eq!(got, expected.map(|(status, body)| (status, body.as_bytes().to_vec())), "{text:?}");
        };
        check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", Some((200, "{}")));
        check("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", Some((404, "")));
        check("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}", None);
        check("HTTP/1.1 200 OK\r\n\r\n{}", None);
        check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", None);
        check("", None);
    }
}
