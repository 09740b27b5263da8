//! Bytes on the wire that are not quite HTTP, or more than one request.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::world::{Attempt, World};

fn head(attempt: &Attempt) -> String {
    let mut text = format!("{} {} HTTP/1.1\r\n", attempt.method, attempt.path);
    for (name, value) in &attempt.headers {
        text.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap()));
    }
    text
}

/// Sends bytes on a fresh connection and reads until the gateway closes it.
async fn exchange(world: &World, bytes: &[u8]) -> String {
    let mut tls = world.tls(Some(&world.ours)).await.unwrap();
    tls.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let _closed = tls.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_refused_body_is_never_taken_for_the_next_request() {
    let world = World::new().await;
    let hidden = world.call("read", "{}");
    let smuggled = format!("{}content-length: {}\r\n\r\n", head(&hidden), hidden.body.len())
        + std::str::from_utf8(&hidden.body).unwrap();
    for refused in [
        world.call("read", "{}").header("content-type", "text/plain"),
        world.call("read", "{}").header("host", "evil.test"),
        world.call("read", "{}").path("/nowhere"),
    ] {
        let before = world.log.size();
        let bytes = format!("{}content-length: {}\r\n\r\n{smuggled}", head(&refused), smuggled.len());
        let answer = exchange(&world, bytes.as_bytes()).await;
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
        assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
        assert!(answer.to_ascii_lowercase().contains("connection: close"), "{answer}");
        assert_eq!(world.records_from(before).await.len(), 1);
    }
    assert_eq!(world.calls(), 0);
}

#[tokio::test]
async fn what_is_not_quite_http_is_not_read() {
    let world = World::new().await;
    let call = world.call("read", "{}");
    let body = std::str::from_utf8(&call.body).unwrap().to_owned();
    let length = body.len();
    for framing in [
        format!("content-length: {length}\r\ncontent-length: {}\r\n", length + 1),
        format!("content-length: +{length}\r\n"),
        "transfer-encoding : chunked\r\n".to_owned(),
        "transfer-encoding: xchunked\r\n".to_owned(),
        format!("content-length: {length}\r\n x: folded\r\n"),
        format!("content-length: {length}\r\nbad header: x\r\n"),
    ] {
        let bytes = format!("{}{framing}\r\n{body}", head(&call));
        let answer = exchange(&world, bytes.as_bytes()).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{framing:?}: {answer}");
    }
    for line in
        ["POST /mcp/github HTTP/1.0", "POST https://gw.test:8443/mcp/github HTTP/1.1", "OPTIONS * HTTP/1.1"]
    {
        let lines = head(&call);
        let (_, rest) = lines.split_once("\r\n").unwrap();
        let answer =
            exchange(&world, format!("{line}\r\n{rest}content-length: {length}\r\n\r\n{body}").as_bytes())
                .await;
        assert!(answer.is_empty() || answer.contains(" 4"), "{line}: {answer}");
    }
    assert_eq!(world.calls(), 0);
}

#[tokio::test]
async fn a_head_that_never_ends_is_not_waited_for() {
    let limits = countersign_gateway::GatewayLimits {
        idle_timeout: std::time::Duration::from_millis(50),
        body_timeout: std::time::Duration::from_millis(50),
        ..crate::world::limits()
    };
    let world = World::with(true, limits).await;
    let answer = exchange(&world, b"POST /mcp/github HTTP/1.1\r\nhost: gw").await;
    assert!(!answer.contains("HTTP/1.1 200"), "{answer}");
    let call = world.call("read", "{}");
    let before = world.log.size();
    let answer = exchange(&world, format!("{}content-length: 99\r\n\r\n{{", head(&call)).as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert_eq!(world.records_from(before).await.len(), 1);
    assert_eq!(world.calls(), 0);
}

#[tokio::test]
async fn too_many_header_lines_are_too_many() {
    let world = World::new().await;
    let call = world.call("read", "{}");
    let mut bytes = head(&call);
    for number in 0..200 {
        bytes.push_str(&format!("x-{number}: y\r\n"));
    }
    let answer = exchange(&world, format!("{bytes}content-length: 0\r\n\r\n").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert_eq!(world.calls(), 0);
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_without_a_restart() {
    let world = World::new().await;
    let mut open = world.connect(Some(&world.ours)).await;
    world.renew_certificate();
    // The gateway takes it up in its own time; the old one does not verify any more.
    while world.tls(Some(&world.ours)).await.is_err() {
        tokio::task::yield_now().await;
    }
    world.check_allowed(world.call("read", "{}")).await;
    world.check_on(&mut open, world.call("read", "{}"), "200 -").await;
}

#[tokio::test]
async fn no_session_is_ever_resumed() {
    let world = World::new().await;
    let tls = world.tls(Some(&world.ours)).await.unwrap();
    assert_eq!(tls.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Full));
    assert_eq!(tls.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
}

/// One message, two lengths, two hosts, another protocol: whoever stands before or behind us might read it
/// differently, so it is not read at all (RFC 9112 §3.2, §5.2, §6.3, RFC 9110 §7.8, §9.3.6).
#[tokio::test]
async fn what_others_could_read_differently_sends_no_byte_upstream() {
    let world = World::new().await;
    let call = world.call("read", "{}");
    let body = std::str::from_utf8(&call.body).unwrap().to_owned();
    let length = body.len();
    let own = format!("content-length: {length}\r\n");
    let chunked = format!("{length:x}\r\n{body}\r\n0\r\n\r\n");
    let line = "POST /mcp/github HTTP/1.1";
    let table: &[(&str, &str, String, &str, &str)] = &[
        ("te and cl", line, format!("transfer-encoding: chunked\r\n{own}"), &chunked, "400"),
        ("cl and te", line, format!("{own}transfer-encoding: chunked\r\n"), &chunked, "400"),
        ("te alone", line, "transfer-encoding: chunked\r\n".to_owned(), &chunked, "400"),
        ("te twice", line, "transfer-encoding: gzip, chunked\r\n".to_owned(), &chunked, "400"),
        ("te with a space", line, format!("transfer-encoding : chunked\r\n{own}"), &body, "400"),
        ("two lengths", line, format!("{own}content-length: {}\r\n", length + 1), &body, "400"),
        ("a list of lengths", line, format!("content-length: {length}, {length}\r\n"), &body, "400"),
        ("obs-fold", line, format!("x: a\r\n b: c\r\n{own}"), &body, "400"),
        ("bare cr", line, format!("x: a\rb: c\r\n{own}"), &body, "400"),
        ("nul", line, format!("x: a\0b\r\n{own}"), &body, "400"),
        ("http/1.0", "POST /mcp/github HTTP/1.0", own.clone(), &body, "400"),
        (
            "http/1.0 with te",
            "POST /mcp/github HTTP/1.0",
            "transfer-encoding: chunked\r\n".to_owned(),
            &chunked,
            "400",
        ),
        ("absolute form", "POST https://gw.test:8443/mcp/github HTTP/1.1", own.clone(), &body, "403"),
        (
            "another host's absolute form",
            "POST https://evil.test/mcp/github HTTP/1.1",
            own.clone(),
            &body,
            "403",
        ),
        ("connect", "CONNECT gw.test:8443 HTTP/1.1", own.clone(), &body, "403"),
        ("options *", "OPTIONS * HTTP/1.1", own.clone(), &body, "404"),
        ("options", "OPTIONS /mcp/github HTTP/1.1", own.clone(), &body, "405"),
        ("upgrade", line, format!("connection: upgrade\r\nupgrade: websocket\r\n{own}"), &body, "400"),
        (
            "h2c",
            line,
            format!(
                "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n{own}"
            ),
            &body,
            "400",
        ),
        ("h2 preface", "PRI * HTTP/2.0", String::new(), "SM\r\n\r\n", "400"),
        ("expect", line, format!("expect: 100-continue\r\n{own}"), &body, "400"),
    ];
    let bytes_before = world.upstream.shared.bytes.load(std::sync::atomic::Ordering::SeqCst);
    let lines = head(&call);
    let (_, rest) = lines.split_once("\r\n").unwrap();
    for (name, line, framing, body, expected) in table {
        let bytes = format!("{line}\r\n{rest}{framing}\r\n{body}{line}\r\n{rest}{framing}\r\n{body}");
        let answer = exchange(&world, bytes.as_bytes()).await;
        let status = answer.split(' ').nth(1).unwrap_or("");
        assert!(status == *expected || answer.is_empty(), "{name}: {answer}");
        assert!(answer.matches("HTTP/1.").count() <= 1, "{name}: {answer}");
    }
    let bytes_after = world.upstream.shared.bytes.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!(bytes_after, bytes_before, "nothing reaches the upstream");
}
