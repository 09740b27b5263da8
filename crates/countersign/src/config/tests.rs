//! What is written, what is meant, and what is refused.

use super::*;

const MINIMAL: &str = r#"
trust_domain = "example.org"
data_dir = "/var/lib/countersign"
[server]
listen = "127.0.0.1:7443"
ek_roots = "/etc/countersign/ek-roots"
[gateway]
listen = "127.0.0.1:7444"
"#;

fn check(extra: &str, expected: Result<(), &str>) {
    match (Config::parse(&format!("{MINIMAL}{extra}")), expected) {
        (Ok(_), Ok(())) => {}
        (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{error}"),
        (got, wanted) => panic!("{extra}: {got:?}, wanted {wanted:?}"),
    }
}

#[test]
fn leaving_something_out_gives_the_safe_choice() {
    let config =
        Config::parse(&format!("{MINIMAL}[[upstream]]\nid = \"a\"\nurl = \"https://a.example/mcp\"\n"))
            .unwrap();
    assert!(config.console_listen.ip().is_loopback());
    assert_eq!(config.upstreams[0].tool_review, ToolReview::Manual);
}

#[test]
fn unknown_keys_are_errors() {
    check("trusted_proxy = true\n", Err("trusted_proxy"));
    check(
        "[[upstream]]\nid = \"a\"\nurl = \"https://a/mcp\"\ninsecure_everything = true\n",
        Err("insecure_everything"),
    );
}

#[test]
fn weaker_choices_have_to_be_spelled_out() {
    check("[[upstream]]\nid = \"a\"\nurl = \"http://127.0.0.1:9/mcp\"\n", Ok(()));
    check("[[upstream]]\nid = \"a\"\nurl = \"http://[::1]:9/mcp\"\n", Ok(()));
    check("[[upstream]]\nid = \"a\"\nurl = \"http://tools.example/mcp\"\n", Err("insecure_plain_http"));
    check(
        "[[upstream]]\nid = \"a\"\nurl = \"http://127.0.0.1.evil.example/mcp\"\n",
        Err("insecure_plain_http"),
    );
    check("[[upstream]]\nid = \"a\"\nurl = \"http://localhost:9/mcp\"\n", Err("insecure_plain_http"));
    check(
        "[[upstream]]\nid = \"a\"\nurl = \"http://tools.example/mcp\"\ninsecure_plain_http = true\n",
        Ok(()),
    );
    check("[[upstream]]\nid = \"a\"\nurl = \"ftp://tools.example/mcp\"\n", Err("https://"));
    check("[console]\nlisten = \"0.0.0.0:7480\"\n", Err("loopback"));
    check("[status]\nlisten = \"0.0.0.0:7481\"\n", Err("loopback"));
    check("[status]\nlisten = \"127.0.0.1:7481\"\n", Ok(()));
}

#[test]
fn ids_are_unique() {
    let one = "[[upstream]]\nid = \"a\"\nurl = \"https://a.example/mcp\"\n";
    check(&format!("{one}{one}"), Err("twice"));
}
