//! What `token` lets through and what it refuses.

use super::*;
use crate::json::{self, Limits};

const TOKEN: &str = r#"{"iss":"https://as.example","aud":"https://gw.example/mcp/github","client_id":"agent:build-bot",
 "sub":"user:alice","sid":"run_1","txn":"task_1","jti":"t1","iat":1,"nbf":1,"exp":301,
 "act":{"sub":"spiffe://td/agent/build-bot/run/run_1"},
 "cnf":{"jkt":"kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"},
 "urn:countersign:env":{"sub":"spiffe://td/machine/m-17","jkt":"NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs",
   "lvl":3,"min_lvl":3,"att_time":1,"att_exp":601,"ref":"pcr-policy@v12","ev":"0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"},
 "acr":"urn:countersign:acr:e3u2","auth_time":0,"urn:countersign:gen":4,
 "authorization_details":[{"type":"urn:countersign:task","task":"task_1","purpose":"triage","locations":["https://gw.example/mcp/github"],
   "tools":[{"name":"issues.create","args":{"repo":{"eq":"acme/web"},"n":{"max":5},"p":{"prefix":"a"},"s":{"one_of":["x",1,null]}}}],
   "max_calls":20,"approval":"apr_1"}]}"#;

fn parse(text: &str) -> Result<AccessTokenClaims, json::JsonError> {
    json::typed(text.as_bytes(), &Limits::DEFAULT)
}

#[test]
fn a_token_reads_and_writes_the_same() {
    let claims = parse(TOKEN).unwrap();
    assert_eq!(claims.client_id.as_str(), "build-bot");
    assert_eq!(claims.sub.as_str(), "alice");
    assert_eq!(claims.task().tools[0].args["n"], Constraint::Max(5));
    let written = json::from_serde(&claims).unwrap();
    assert_eq!(written, json::parse(TOKEN.as_bytes(), &Limits::DEFAULT).unwrap());
}

#[test]
fn whatever_is_not_our_profile_is_refused() {
    parse(TOKEN).unwrap();
    let check = |from: &str, to: &str| {
        assert!(TOKEN.contains(from), "{from}");
        assert!(parse(&TOKEN.replacen(from, to, 1)).is_err(), "{from} -> {to}");
    };
    for time in ["iat", "nbf", "exp"] {
        let now = if time == "exp" { "301" } else { "1" };
        for bad in ["\"1\"", "true", "null", "[1]", "1.5", "1e400", "9223372036854775808", "9007199254740992"]
        {
            check(&format!("\"{time}\":{now}"), &format!("\"{time}\":{bad}"));
        }
        check(&format!("\"{time}\":{now},"), "");
    }
    check(r#""aud":"https://gw.example/mcp/github""#, r#""aud":["https://gw.example/mcp/github"]"#);
    check(r#""aud":"https://gw.example/mcp/github""#, r#""aud":["https://gw.example/mcp/github","evil"]"#);
    check("\"agent:build-bot\"", "\"build-bot\"");
    check("\"user:alice\"", "\"alice\"");
    check("\"cnf\":{", "\"cnf\":{\"x5t#S256\":\"x\",");
    check("\"act\":{", "\"act\":{\"may\":1,");
    check("\"min_lvl\"", "\"admin\":1,\"min_lvl\"");
    check("\"jti\":\"t1\"", "\"jti\":\"t1\",\"scope\":\"all\"");
    check("\"jti\":\"t1\"", "\"jti\":\"t1\",\"jti\":\"t2\"");
    check("\"type\":\"urn:countersign:task\"", "\"type\":\"urn:countersign:other\"");
    check("\"max_calls\":20", "\"max_calls\":-1");
    check("\"max_calls\":20", "\"max_calls\":20,\"unlimited\":true");
    check("\"authorization_details\":[", "\"authorization_details\":[{},");
    check("{\"eq\":\"acme/web\"}", "{\"eq\":\"acme/web\",\"prefix\":\"\"}");
    check("{\"eq\":\"acme/web\"}", "{\"regex\":\".*\"}");
    check("{\"eq\":\"acme/web\"}", "{}");
    check("{\"max\":5}", "{\"max\":5.5}");
    check("e3u2", "e9u9");
}
