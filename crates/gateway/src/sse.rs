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
    let mut total = 0_usize;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| NoAnswer::BrokeOff)?.into_data() else { continue };
        total = total.saturating_add(data.len());
        if total > limit {
            return Err(NoAnswer::TooLarge);
        }
        pending.extend_from_slice(&data);
        if is_event_stream {
            while let Some((event, used)) = next_event(&pending) {
                let found = event.as_deref().and_then(|text| answer_in(text, id, limit));
                pending.drain(..used);
                if let Some(answer) = found {
                    return Ok(answer);
                }
            }
        }
    }
    if is_event_stream {
        return Err(NoAnswer::NotAnAnswer);
    }
    answer_in(&pending, id, limit).ok_or(NoAnswer::NotAnAnswer)
}

/// The data of the first complete event and the bytes it took, `None` data for an event without any.
fn next_event(bytes: &[u8]) -> Option<(Option<Vec<u8>>, usize)> {
    let mut data: Option<Vec<u8>> = None;
    let mut start = 0;
    loop {
        let length = bytes[start..].iter().position(|byte| matches!(byte, b'\n' | b'\r'))?;
        let line = &bytes[start..start + length];
        let mut next = start + length + 1;
        if bytes[start + length] == b'\r' {
            match bytes.get(next) {
                Some(b'\n') => next += 1,
                Some(_) => {}
                // The line feed of this pair may still be on its way.
                None => return None,
            }
        }
        start = next;
        if line.is_empty() {
            return Some((data, start));
        }
        if let Some(value) = line.strip_prefix(b"data:") {
            let value = value.strip_prefix(b" ").unwrap_or(value);
            match &mut data {
                Some(data) => {
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
                None => data = Some(value.to_vec()),
            }
        }
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
