//! The few upstream answers that the gateway must read itself, whether they come as JSON or as an event
//! stream.
//!
//! Everything else streams through unread. Events that are not the awaited answer are dropped here.

use bytes::Bytes;
use countersign_proto::json::{self, Limits, Object, Value};
use countersign_proto::mcp::Id;
use http_body_util::BodyExt as _;

/// Why no answer could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoAnswer {
    #[error("the upstream's answer is too large")]
    TooLarge,
    #[error("the upstream's answer broke off")]
    BrokeOff,
    #[error("the upstream's answer is not one JSON-RPC answer to this request")]
    NotAnAnswer,
}

/// An answer: a result, or the upstream's own error object.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    Result(Object),
    Error(Value),
}

/// Reads the answer to the request `id`, at most `limit` bytes of body.
pub(crate) async fn read_answer<B>(
    mut body: B,
    is_event_stream: bool,
    id: &Id,
    limit: usize,
) -> Result<Answer, NoAnswer>
where
    B: hyper::body::Body<Data = Bytes> + Unpin,
{
    let mut pending = Vec::new();
    let mut events = Events::default();
    let mut total = 0_usize;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| NoAnswer::BrokeOff)?.into_data() else { continue };
        total = total.saturating_add(data.len());
        if total > limit {
            return Err(NoAnswer::TooLarge);
        }
        if is_event_stream {
            for &byte in &data {
                if let Some(event) = events.push(byte)
                    && let Some(answer) = answer_in(&event, id, limit)
                {
                    return Ok(answer);
                }
            }
        } else {
            pending.extend_from_slice(&data);
        }
    }
    if is_event_stream {
        return Err(NoAnswer::NotAnAnswer);
    }
    answer_in(&pending, id, limit).ok_or(NoAnswer::NotAnAnswer)
}

/// An event stream, read byte by byte: every byte is looked at once, however it is cut into pieces.
#[derive(Default)]
struct Events {
    line: Vec<u8>,
    data: Option<Vec<u8>>,
    /// The line just ended with a carriage return, whose line feed may follow.
    after_return: bool,
}

impl Events {
    /// The data of the event that this byte completes, if it has any.
    fn push(&mut self, byte: u8) -> Option<Vec<u8>> {
        let after_return = std::mem::replace(&mut self.after_return, byte == b'\r');
        match byte {
            b'\n' if after_return => None,
            b'\n' | b'\r' => self.end_line(),
            _ => {
                self.line.push(byte);
                None
            }
        }
    }

    fn end_line(&mut self) -> Option<Vec<u8>> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return self.data.take();
        }
        if let Some(value) = line.strip_prefix(b"data:") {
            let value = value.strip_prefix(b" ").unwrap_or(value);
            match &mut self.data {
                Some(data) => {
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
                None => self.data = Some(value.to_vec()),
            }
        }
        None
    }
}

fn answer_in(text: &[u8], id: &Id, limit: usize) -> Option<Answer> {
    let limits = Limits { max_bytes: limit, max_members: 1 << 20, ..Limits::DEFAULT };
    let message = json::parse(text, &limits).ok()?;
    let message = message.as_object()?;
    if message.get("id") != Some(&id.to_value()) || message.get("method").is_some() {
        return None;
    }
    match (message.get("result"), message.get("error")) {
        (Some(Value::Object(result)), None) => Some(Answer::Result(result.clone())),
        (None, Some(error @ Value::Object(_))) => Some(Answer::Error(error.clone())),
        (None | Some(_), None | Some(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    async fn check(is_event_stream: bool, body: &str, expected: &str) {
        let body = Full::new(Bytes::from(body.to_owned()));
        let seen = match read_answer(body, is_event_stream, &Id::Number(1), 200).await {
            Ok(Answer::Result(result)) => format!("result {}", String::from_utf8(result.to_jcs()).unwrap()),
            Ok(Answer::Error(error)) => format!("error {}", String::from_utf8(error.to_jcs()).unwrap()),
            Err(error) => error.to_string(),
        };
        assert_eq!(seen, expected);
    }

    #[tokio::test]
    async fn the_answer_is_found_in_json_and_among_events() {
        let answer = r#"{"jsonrpc":"2.0","id":1,"result":{"a":1}}"#;
        check(false, answer, r#"result {"a":1}"#).await;
        check(
            true,
            &format!("id: x\ndata: \n\n: note\nevent: message\r\ndata: {answer}\r\n\r\n"),
            r#"result {"a":1}"#,
        )
        .await;
        check(true, "data: {\"jsonrpc\":\"2.0\",\ndata: \"id\":1,\"result\":{}}\n\n", "result {}").await;
        check(false, r#"{"jsonrpc":"2.0","id":1,"error":{"code":-1}}"#, r#"error {"code":-1}"#).await;
    }

    /// A body that comes in pieces of one byte.
    struct Trickle(std::vec::IntoIter<u8>);

    impl hyper::body::Body for Trickle {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            _context: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
            std::task::Poll::Ready(
                self.0.next().map(|byte| Ok(hyper::body::Frame::data(Bytes::copy_from_slice(&[byte])))),
            )
        }
    }

    #[tokio::test]
    async fn an_answer_byte_by_byte_is_read_once() {
        let answer = r#"{"jsonrpc":"2.0","id":1,"result":{"a":1}}"#;
        let body = format!(": {}\r\ndata: {answer}\r\n\r\n", "x".repeat(1 << 20)).into_bytes();
        let limit = 2 << 20;
        let started = tokio::time::Instant::now();
        let read = read_answer(Trickle(body.into_iter()), true, &Id::Number(1), limit).await;
        assert!(matches!(read, Ok(Answer::Result(_))), "{read:?}");
        assert!(started.elapsed() < std::time::Duration::from_secs(5), "{:?}", started.elapsed());
    }

    #[tokio::test]
    async fn anything_else_is_no_answer() {
        let none = "the upstream's answer is not one JSON-RPC answer to this request";
        check(false, r#"{"jsonrpc":"2.0","id":2,"result":{}}"#, none).await;
        check(false, r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#, none).await;
        check(false, r#"{"jsonrpc":"2.0","id":1,"result":{"a":1,"a":2}}"#, none).await;
        check(true, "data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}", none).await;
        check(false, &"x".repeat(201), "the upstream's answer is too large").await;
    }
}
