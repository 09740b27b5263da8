//! What `oauth` lets through and what it refuses.

use proptest::prelude::*;

use super::*;

fn form(body: &str) -> Result<Form, FormError> {
    Form::parse(body.as_bytes())
}

#[test]
fn a_parameter_comes_once_or_the_form_is_refused() {
    let check = |body: &str, expected: FormError| assert_eq!(form(body).map(drop), Err(expected), "{body}");
    check("a=1&a=2", FormError::Duplicate("a".into()));
    check("a=1&a=", FormError::Duplicate("a".into()));
    check("a=&a=", FormError::Duplicate("a".into()));
    check("client_id=x&client%5Fid=y", FormError::Duplicate("client_id".into()));
    check("a=1&&b=2", FormError::Malformed);
    check("a=1&", FormError::Malformed);
    check("&a=1", FormError::Malformed);
    check("a", FormError::Malformed);
    check("=1", FormError::Malformed);
    check("a=%4", FormError::Malformed);
    check("a=%zz", FormError::Malformed);
    check("a=%ff", FormError::Malformed);
    check("a=%00", FormError::Malformed);
    check("a=b c", FormError::Malformed);
    check("a=b\n", FormError::Malformed);
    check("a=ü", FormError::Malformed);
    check(&"x=1&".repeat(70), FormError::Duplicate("x".into()));
    let many: Vec<String> = (0..65).map(|at| format!("p{at}=1")).collect();
    check(&many.join("&"), FormError::TooLarge);
    check(&format!("a={}", "x".repeat(64 * 1024)), FormError::TooLarge);
    assert_eq!(form("resource=a&resource=b").unwrap_err().to_oauth().error, "invalid_target");
    assert_eq!(form("a=a&a=b").unwrap_err().to_oauth().error, "invalid_request");
}

#[test]
fn forms_are_decoded_as_written_and_empty_values_are_left_out() {
    let form = form("grant_type=client_credentials&x=a%2Bb+c%26d%3D%C3%BC&empty=").unwrap();
    assert_eq!(form.get("grant_type"), Some("client_credentials"));
    assert_eq!(form.get("x"), Some("a+b c&d=ü"));
    assert_eq!(form.get("empty"), None);
    assert_eq!(form.names().collect::<Vec<_>>(), ["grant_type", "x"]);
    assert_eq!(Form::parse(b"").unwrap().names().count(), 0);
    assert!(!format!("{form:?}").contains("client_credentials"), "values may be credentials");
}

#[test]
fn assurance_has_one_spelling_and_both_halves_must_hold() {
    let acr = |text: &str| Acr::parse(&format!("urn:countersign:acr:{text}"));
    for env in 0..=4 {
        for person in 0..=3 {
            let level = Acr::new(env, person).unwrap();
            assert_eq!(Acr::parse(&level.to_string()), Ok(level));
            assert_eq!(Acr::parse_short(&level.short()), Ok(level));
        }
    }
    for bad in ["e5u0", "e0u4", "e3", "u2", "e3u2 ", "E3U2", "e03u2", "e3u2u2", "u2e3", "", "e-1u0", "e٣u2"]
    {
        assert_eq!(acr(bad), Err(AcrError), "{bad}");
    }
    assert_eq!(Acr::parse("e3u2"), Err(AcrError));
    let required = acr("e3u2").unwrap();
    for (reached, enough) in
        [("e3u2", true), ("e4u3", true), ("e4u1", false), ("e2u3", false), ("e0u0", false)]
    {
        assert_eq!(acr(reached).unwrap().meets(required), enough, "{reached}");
    }
}

#[test]
fn challenges_are_read_as_they_were_meant() {
    let challenge = Challenge::new("DPoP")
        .with("error", "insufficient_user_authentication")
        .with("error_description", "say \"please\" \\ and, thanks\r\nX-Evil: 1")
        .with("max_age", "60");
    let header = challenge.to_header();
    assert!(!header.contains(['\r', '\n']));
    let read = parse_www_authenticate(&header).unwrap();
    assert_eq!(read, challenge);
    assert_eq!(read.scheme(), "DPoP");
    assert_eq!(read.get("Error"), Some("insufficient_user_authentication"));
    assert_eq!(read.get("error_description"), Some("say \"please\" \\ and, thanksX-Evil: 1"));
    let token = parse_www_authenticate("DPoP error=use_dpop_nonce ,  algs=\"ES256 EdDSA\"").unwrap();
    assert_eq!((token.get("error"), token.get("algs")), (Some("use_dpop_nonce"), Some("ES256 EdDSA")));
    assert_eq!(parse_www_authenticate("Bearer").unwrap().get("error"), None);
    for bad in [
        "",
        " DPoP",
        "DPoP error",
        "DPoP error=",
        "DPoP error=\"x",
        "DPoP error=\"x\\",
        "DPoP error=\"x\" algs=\"y\"",
        "DPoP error=x,",
        "DPoP error=x,,algs=y",
        "DPoP error=x, ERROR=y",
        "DPoP error=x, Bearer realm=y",
        "DPoP error=\"\u{7f}\"",
        "DPoP err or=x",
        "D(PoP error=x",
    ] {
        assert_eq!(parse_www_authenticate(bad), Err(AuthenticateError), "{bad:?}");
    }
}

#[test]
fn errors_have_the_status_of_their_rfc() {
    let check = |error: OauthError, status: u16| assert_eq!(error.status(), status, "{error}");
    check(OauthError::invalid_client("x"), 401);
    check(OauthError::new("invalid_client_attestation", "x"), 401);
    check(OauthError::invalid_grant("x"), 400);
    check(OauthError::use_fresh_attestation("x"), 400);
    check(OauthError::invalid_dpop_proof("x"), 400);
    let body = String::from_utf8(OauthError::invalid_target("exactly one resource").to_json()).unwrap();
    assert_eq!(body, r#"{"error":"invalid_target","error_description":"exactly one resource"}"#);
}

proptest! {
    #[test]
    fn what_is_encoded_reads_back_the_same(value in "[^\u{0}]{1,40}") {
        let form = Form::parse(Form::encode(&[("name", &value), ("other", "1")]).as_bytes()).unwrap();
        prop_assert_eq!(form.get("name"), Some(value.as_str()));
        prop_assert_eq!(form.get("other"), Some("1"));
    }

    #[test]
    fn any_header_text_is_read_or_refused_without_panic(header in "\\PC{0,60}") {
        if let Ok(challenge) = parse_www_authenticate(&header) {
            prop_assert_eq!(parse_www_authenticate(&challenge.to_header()), Ok(challenge));
        }
    }
}
