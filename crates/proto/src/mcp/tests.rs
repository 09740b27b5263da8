//! What the door lets in, and what reaches the other side of it.

use super::*;

const MODERN: &[(&str, &str)] =
    &[("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/call"), ("mcp-name", "read_file")];
const LEGACY: &[(&str, &str)] = &[("mcp-protocol-version", "2025-06-18")];
const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;

fn headers(lines: &[(&str, &str)]) -> Result<RoutingHeaders, RpcError> {
    RoutingHeaders::collect(lines.iter().map(|(name, value)| (*name, value.as_bytes())))
}

fn outcome(lines: &[(&str, &str)], body: &[u8]) -> String {
    let parsed = headers(lines).and_then(|headers| parse_request(body, &headers, &Limits::DEFAULT));
    match parsed.and_then(|request| match request.method() {
        Method::ToolsCall => request.tool_call().map(|_| request),
        _ => Ok(request),
    }) {
        Ok(request) => String::from_utf8(request.to_upstream_bytes()).unwrap(),
        Err(error) => error.code().to_string(),
    }
}

fn check(lines: &[(&str, &str)], body: &str, expected: &str) {
    assert_eq!(outcome(lines, body.as_bytes()), expected, "{body}");
}

fn modern_call(rest: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{{META},{rest}}}}}"#)
}

fn legacy_call(rest: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{{rest}}}}}"#)
}

#[test]
fn what_goes_upstream_is_canonical_and_says_what_was_parsed() {
    check(
        LEGACY,
        " {\"method\":\"tools/call\", \"params\":{\"name\":\"read\\u005ffile\",\"arguments\":{\"b\":1.0,\"a\":\"\\u0041\"}},\"jsonrpc\":\"2.0\",\"id\":\"x\"}\n",
        r#"{"id":"x","jsonrpc":"2.0","method":"tools/call","params":{"arguments":{"a":"A","b":1},"name":"read_file"}}"#,
    );
    check(&[], r#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#, r#"{"id":7,"jsonrpc":"2.0","method":"ping"}"#);
    check(
        LEGACY,
        r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
    );
    check(
        MODERN,
        &modern_call(r#""name":"read_file","arguments":{}"#),
        &format!(
            r#"{{"id":1,"jsonrpc":"2.0","method":"tools/call","params":{{"_meta":{},"arguments":{{}},"name":"read_file"}}}}"#,
            r#"{"io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/protocolVersion":"2026-07-28"}"#
        ),
    );
}

#[test]
fn what_stands_beside_the_call_is_ours_and_not_the_agents() {
    // APR-01: an approved call has one digest; two `_meta` under it must not reach the upstream as two calls.
    let plain =
        r#"{"id":1,"jsonrpc":"2.0","method":"tools/call","params":{"arguments":{},"name":"read_file"}}"#;
    for meta in
        [r#"{}"#, r#"{"vendor/dry-run":false}"#, r#"{"tenant":"other"}"#, r#"{"progressToken":{"a":1}}"#]
    {
        check(LEGACY, &legacy_call(&format!(r#""_meta":{meta},"name":"read_file","arguments":{{}}"#)), plain);
    }
    check(
        LEGACY,
        &legacy_call(r#""_meta":{"progressToken":7,"tenant":"other"},"name":"read_file","arguments":{}"#),
        r#"{"id":1,"jsonrpc":"2.0","method":"tools/call","params":{"_meta":{"progressToken":7},"arguments":{},"name":"read_file"}}"#,
    );
    let boasting = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"sampling":{}},"io.modelcontextprotocol/clientInfo":{"name":"x","version":"1"},"tenant":"other"}"#;
    check(
        MODERN,
        &format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{{boasting},"name":"read_file","arguments":{{}}}}}}"#
        ),
        r#"{"id":1,"jsonrpc":"2.0","method":"tools/call","params":{"_meta":{"io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/protocolVersion":"2026-07-28"},"arguments":{},"name":"read_file"}}"#,
    );
}

#[test]
fn bytes_that_two_readers_could_read_differently_are_refused() {
    check(LEGACY, r#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}"#, "-32700");
    check(LEGACY, &legacy_call(r#""name":"ok","name":"bad""#), "-32700");
    check(LEGACY, &legacy_call(r#""name":"ok","\u006eame":"bad""#), "-32700");
    check(LEGACY, &legacy_call(r#""name":"ok","Name":"bad""#), "-32700");
    check(LEGACY, &legacy_call(r#""name":"ok","ARGUMENTS":{}"#), "-32602");
    check(LEGACY, &legacy_call(r#""name":"ok","arguments":{"x":[{"path":1,"PATH":2}]}"#), "-32700");
    check(LEGACY, &legacy_call(r#""name":"ok","arguments":{"params":1,"paramſ":2}"#), "-32700");
    check(LEGACY, r#"{"jsonrpc":"2.0","id":1,"method":"ping"} {}"#, "-32700");
    check(LEGACY, "\u{feff}{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}", "-32700");
    check(LEGACY, &legacy_call(r#""name":"ok","arguments":{"n":NaN}"#), "-32700");
    check(LEGACY, &legacy_call(r#""name":"ok","arguments":{"n":1e400}"#), "-32700");
    check(LEGACY, &legacy_call(r#""name":"ok","arguments":{"n":18446744073709551617}"#), "-32700");
    check(LEGACY, &legacy_call(r#""name":"ok","arguments":{"s":"\ud800"}"#), "-32700");
    check(
        LEGACY,
        &legacy_call(&format!(r#""name":"ok","arguments":{{"d":{}}}"#, "[".repeat(10_000))),
        "-32700",
    );
    assert_eq!(outcome(LEGACY, b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\xff\"}"), "-32700");
    assert_eq!(outcome(LEGACY, b""), "-32700");
}

#[test]
fn only_one_request_or_notification_is_a_message() {
    check(LEGACY, r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, "-32600");
    check(LEGACY, r#""ping""#, "-32600");
    check(LEGACY, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, "-32600");
    check(LEGACY, r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"m"}}"#, "-32600");
    check(LEGACY, r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#, "-32600");
    check(LEGACY, r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, "-32600");
    check(LEGACY, r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#, "-32600");
    check(LEGACY, r#"{"jsonrpc":"2.0","id":1,"method":"ping","extra":1}"#, "-32600");
    check(LEGACY, r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}"#, "-32600");
    check(LEGACY, r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"rm"}}"#, "-32600");
    check(LEGACY, r#"{"jsonrpc":"2.0","id":1,"method":"notifications/initialized"}"#, "-32600");
}

#[test]
fn a_method_without_a_rule_does_not_exist() {
    for method in
        ["resources/read", "prompts/get", "logging/setLevel", "tasks/get", "Tools/call", "tools/call "]
    {
        check(LEGACY, &format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}"}}"#), "-32601");
    }
    check(LEGACY, r#"{"jsonrpc":"2.0","id":1,"method":"server/discover"}"#, "-32601");
    let initialize = [("mcp-protocol-version", "2026-07-28"), ("mcp-method", "initialize")];
    check(
        &initialize,
        &format!(r#"{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{{{META}}}}}"#),
        "-32601",
    );
}

#[test]
fn a_tool_name_is_spelled_in_one_alphabet() {
    let long = "a".repeat(129);
    for name in ["", "a\\u0000b", "a\u{200d}b", "re\u{430}d", "read ", &long, "e\u{301}"] {
        check(LEGACY, &legacy_call(&format!(r#""name":"{name}""#)), "-32602");
    }
    check(LEGACY, &legacy_call(r#""arguments":{}"#), "-32602");
    check(LEGACY, &legacy_call(r#""name":"ok","arguments":[]"#), "-32602");
    check(LEGACY, &legacy_call(r#""name":"ok","inputResponses":{}"#), "-32602");
}

#[test]
fn modern_headers_say_what_the_body_says() {
    let call = modern_call(r#""name":"read_file""#);
    let with = |name: &str, value: &str| -> String {
        let lines = [("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/call"), (name, value)];
        outcome(&lines, call.as_bytes())
    };
    assert!(with("mcp-name", "read_file").starts_with('{'));
    assert!(with("mcp-name", "=?base64?cmVhZF9maWxl?=").starts_with('{'));
    assert_eq!(with("mcp-name", "safe"), "-32020");
    assert_eq!(with("mcp-name", "READ_FILE"), "-32020");
    assert_eq!(with("mcp-name", "=?base64?c2FmZQ==?="), "-32020");
    assert_eq!(with("mcp-name", "=?BASE64?cmVhZF9maWxl?="), "-32020");
    assert_eq!(with("mcp-name", "=?base64?cmVhZF9maWxm?="), "-32020");
    assert_eq!(with("mcp-name", "=?base64?cmVhZF9maWxl=?="), "-32020");
    assert_eq!(with("other", "read_file"), "-32020");
    assert_eq!(with("mcp-method", "tools/call"), "-32020");
    let repeated = [MODERN, &[("mcp-name", "read_file")]].concat();
    check(&repeated, &call, "-32020");
    let listing = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{{{META}}}}}"#);
    check(MODERN, &listing, "-32020");
}

#[test]
fn no_older_revision_can_be_borrowed() {
    let call = modern_call(r#""name":"read_file""#);
    check(LEGACY, &call, "-32020");
    check(&[], &call, "-32020");
    check(MODERN, &legacy_call(r#""name":"read_file""#), "-32602");
    check(MODERN, &call.replace("2026-07-28", "2025-11-25"), "-32020");
    check(&[("mcp-protocol-version", "2024-11-05")], &legacy_call(r#""name":"ok""#), "-32022");
    check(&[("mcp-protocol-version", "2027-01-01")], &legacy_call(r#""name":"ok""#), "-32022");
    // Routing headers mean nothing before 2026-07-28: the body alone counts.
    let lied_to = [("mcp-protocol-version", "2025-06-18"), ("mcp-name", "safe")];
    assert!(outcome(&lied_to, legacy_call(r#""name":"danger""#).as_bytes()).contains("danger"));
}

#[test]
fn mirrored_arguments_agree_or_the_call_is_refused() {
    let schema = json::parse(
        br#"{"type":"object","properties":{"region":{"type":"string","x-mcp-header":"Region"},
             "page":{"type":"object","properties":{"size":{"type":"integer","x-mcp-header":"Size"}}}}}"#,
        &Limits::DEFAULT,
    )
    .unwrap();
    let verdict = |lines: &[(&str, &str)], arguments: &str| {
        let headers = headers(&[MODERN, lines].concat())?;
        let body = modern_call(&format!(r#""name":"read_file","arguments":{arguments}"#));
        let request = parse_request(body.as_bytes(), &headers, &Limits::DEFAULT)?;
        check_param_headers(&request, &request.tool_call()?.arguments, &schema, &headers)?;
        Ok::<_, RpcError>(request.mirrored_headers(Some(&schema)).len())
    };
    let mismatch = Err(-32020);
    let code = |result: Result<usize, RpcError>| result.map_err(|error| error.code());
    assert_eq!(code(verdict(&[("mcp-param-region", "eu")], r#"{"region":"eu"}"#)), Ok(4));
    assert_eq!(code(verdict(&[("mcp-param-size", "5")], r#"{"page":{"size":5}}"#)), Ok(4));
    assert_eq!(code(verdict(&[], "{}")), Ok(3));
    assert_eq!(code(verdict(&[("mcp-param-region", "us")], r#"{"region":"eu"}"#)), mismatch);
    assert_eq!(code(verdict(&[], r#"{"region":"eu"}"#)), mismatch);
    assert_eq!(code(verdict(&[("mcp-param-region", "eu")], "{}")), mismatch);
    assert_eq!(code(verdict(&[("mcp-param-other", "eu")], "{}")), mismatch);
    let twice = [("mcp-param-region", "eu"), ("mcp-param-region", "eu")];
    assert_eq!(code(verdict(&twice, r#"{"region":"eu"}"#)), mismatch);
    assert_eq!(code(verdict(&[("mcp-param-region", "=?base64?!?=")], r#"{"region":"eu"}"#)), mismatch);
}

#[test]
fn a_header_value_survives_the_trip() {
    for text in ["plain", " edge ", "grüße", "=?base64?eA==?=", "", "a\nb"] {
        let encoded = encode_header_value(text);
        assert!(encoded.bytes().all(|byte| (0x20..=0x7e).contains(&byte)));
        assert_eq!(decode_header_value(&encoded).as_deref(), Some(text));
    }
}

#[test]
fn an_error_answers_the_request_it_is_about_and_echoes_nothing_else() {
    let headers = headers(LEGACY).unwrap();
    let body = br#"{"jsonrpc":"2.0","id":"q","method":"<script>"}"#;
    let error = parse_request(body, &headers, &Limits::DEFAULT).unwrap_err();
    assert_eq!(
        String::from_utf8(error.to_body(&ProtocolVersion::ALL)).unwrap(),
        r#"{"error":{"code":-32601,"message":"method not found"},"id":"q","jsonrpc":"2.0"}"#
    );
    assert_eq!((error.http_status(Era::Modern), error.http_status(Era::Legacy)), (404, 200));
}
