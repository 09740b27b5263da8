//! What `acme` lets through and what it refuses.

use proptest::prelude::*;

use super::*;
use crate::b64;
use crate::jose::{JwsSigner, SoftwareEd25519, SoftwareP256};
use crate::json::{self, Limits};

const URL: &str = "https://ca.example/acme/new-account";

fn verdict(body: &[u8]) -> String {
    match SignedRequest::parse(body).and_then(|request| request.verify_embedded(URL)) {
        Ok(request) => String::from_utf8(request.payload().to_vec()).unwrap(),
        Err(problem) => problem.kind.urn().rsplit(':').next().unwrap().to_owned(),
    }
}

/// A request with any header, signed properly.
fn with_header(signer: &dyn JwsSigner, header: &str) -> Vec<u8> {
    let protected = b64::url_encode(header.as_bytes());
    let payload = b64::url_encode(b"{}");
    let signature = signer.sign(format!("{protected}.{payload}").as_bytes()).unwrap();
    format!(
        r#"{{"protected":"{protected}","payload":"{payload}","signature":"{}"}}"#,
        b64::url_encode(&signature)
    )
    .into_bytes()
}

fn jwk(signer: &dyn JwsSigner) -> String {
    String::from_utf8(signer.public_jwk().to_value().to_jcs()).unwrap()
}

#[test]
fn a_request_is_the_payload_its_key_signed() {
    let (p256, ed25519) = (SoftwareP256::generate().unwrap(), SoftwareEd25519::generate().unwrap());
    assert_eq!(verdict(&sign_request(&p256, None, "bm9uY2U", URL, b"{\"a\":1}").unwrap()), "{\"a\":1}");
    assert_eq!(verdict(&sign_request(&ed25519, None, "bm9uY2U", URL, b"").unwrap()), "");
    let mut changed = sign_request(&p256, None, "bm9uY2U", URL, b"{}").unwrap();
    let at = changed.windows(2).position(|pair| pair == b"e3").unwrap();
    changed[at + 1] = b'2';
    assert_eq!(verdict(&changed), "malformed");
}

#[test]
fn a_header_that_says_too_much_or_too_little_is_refused() {
    let key = SoftwareP256::generate().unwrap();
    let jwk = jwk(&key);
    let check =
        |header: &str, expected: &str| assert_eq!(verdict(&with_header(&key, header)), expected, "{header}");
    check(&format!(r#"{{"alg":"ES256","nonce":"bm9uY2U","url":"{URL}","jwk":{jwk}}}"#), "{}");
    check(
        &format!(r#"{{"alg":"ES256","nonce":"bm9uY2U","url":"{URL}","jwk":{jwk},"kid":"x"}}"#),
        "malformed",
    );
    check(&format!(r#"{{"alg":"ES256","nonce":"bm9uY2U","url":"{URL}"}}"#), "malformed");
    check(&format!(r#"{{"alg":"ES256","nonce":"bm9uY2U","url":"{URL}","kid":"x"}}"#), "malformed");
    check(&format!(r#"{{"alg":"ES256","url":"{URL}","jwk":{jwk}}}"#), "malformed");
    check(&format!(r#"{{"alg":"ES256","nonce":"not base64url","url":"{URL}","jwk":{jwk}}}"#), "badNonce");
    check(&format!(r#"{{"alg":"ES256","nonce":"bm9uY2U","jwk":{jwk}}}"#), "malformed");
    check(&format!(r#"{{"alg":"ES256","nonce":"bm9uY2U","url":"{URL}x","jwk":{jwk}}}"#), "unauthorized");
    check(
        &format!(r#"{{"alg":"none","nonce":"bm9uY2U","url":"{URL}","jwk":{jwk}}}"#),
        "badSignatureAlgorithm",
    );
    check(
        &format!(r#"{{"alg":"HS256","nonce":"bm9uY2U","url":"{URL}","jwk":{jwk}}}"#),
        "badSignatureAlgorithm",
    );
    check(
        &format!(r#"{{"alg":"RS256","nonce":"bm9uY2U","url":"{URL}","jwk":{jwk}}}"#),
        "badSignatureAlgorithm",
    );
    check(&format!(r#"{{"alg":"EdDSA","nonce":"bm9uY2U","url":"{URL}","jwk":{jwk}}}"#), "badPublicKey");
    check(
        &format!(r#"{{"alg":"ES256","nonce":"bm9uY2U","url":"{URL}","jwk":{{"kty":"oct","k":"AA"}}}}"#),
        "badPublicKey",
    );
    check(
        &format!(
            r#"{{"alg":"ES256","nonce":"bm9uY2U","url":"{URL}","jwk":{jwk},"crit":["b64"],"b64":false}}"#
        ),
        "malformed",
    );
    check(
        &format!(r#"{{"alg":"ES256","alg":"ES256","nonce":"bm9uY2U","url":"{URL}","jwk":{jwk}}}"#),
        "malformed",
    );
}

#[test]
fn only_the_flattened_form_is_read() {
    let key = SoftwareP256::generate().unwrap();
    let body = String::from_utf8(sign_request(&key, None, "bm9uY2U", URL, b"{}").unwrap()).unwrap();
    let inside = body.trim_start_matches('{').trim_end_matches('}');
    assert_eq!(verdict(format!("{{{inside}}}").as_bytes()), "{}");
    assert_eq!(verdict(format!(r#"{{{inside},"header":{{}}}}"#).as_bytes()), "malformed");
    assert_eq!(verdict(format!(r#"{{{inside},"signatures":[]}}"#).as_bytes()), "malformed");
    assert_eq!(verdict(format!(r#"{{"payload":"","signatures":[{{{inside}}}]}}"#).as_bytes()), "malformed");
    assert_eq!(verdict(b"[]"), "malformed");
    assert_eq!(verdict(&vec![b' '; MAX_REQUEST_BYTES + 1]), "malformed");
}

#[test]
fn an_account_request_counts_under_the_accounts_key_only() {
    let (account, other) = (SoftwareP256::generate().unwrap(), SoftwareP256::generate().unwrap());
    let body =
        sign_request(&account, Some("https://ca.example/acme/account/1"), "bm9uY2U", URL, b"").unwrap();
    let request = SignedRequest::parse(&body).unwrap();
    assert_eq!(request.account_url(), Some("https://ca.example/acme/account/1"));
    assert!(request.clone().verify_account(URL, &account.public_jwk()).unwrap().is_post_as_get());
    assert_eq!(
        request.clone().verify_account(URL, &other.public_jwk()).unwrap_err().kind,
        AcmeProblem::Malformed
    );
    assert_eq!(request.verify_embedded(URL).unwrap_err().kind, AcmeProblem::Malformed);
    let embedded = SignedRequest::parse(&sign_request(&account, None, "bm9uY2U", URL, b"").unwrap()).unwrap();
    assert_eq!(embedded.verify_account(URL, &account.public_jwk()).unwrap_err().kind, AcmeProblem::Malformed);
}

#[test]
fn a_refused_algorithm_comes_with_the_list_of_ours() {
    let document = Problem::new(AcmeProblem::BadSignatureAlgorithm, "no").document().to_jcs();
    let text = String::from_utf8(document).unwrap();
    assert!(text.contains(r#""algorithms":["ES256","EdDSA"]"#), "{text}");
}

#[test]
fn a_binding_is_for_one_key_at_one_place_under_one_secret() {
    let secret = MacKey::new(vec![7; 32]).unwrap();
    let (account, other) =
        (SoftwareP256::generate().unwrap().public_jwk(), SoftwareP256::generate().unwrap().public_jwk());
    let binding = sign_binding("kid-1", &secret, &account, URL);
    let check = |secret: &MacKey, key: &PublicJwk, url: &str| {
        ExternalBinding::parse(&binding).unwrap().verify(secret, key, url).map_err(|problem| problem.kind)
    };
    assert_eq!(check(&secret, &account, URL), Ok("kid-1".to_owned()));
    assert_eq!(check(&MacKey::new(vec![8; 32]).unwrap(), &account, URL), Err(AcmeProblem::Unauthorized));
    assert_eq!(check(&secret, &other, URL), Err(AcmeProblem::Malformed));
    assert_eq!(check(&secret, &account, "https://elsewhere.example"), Err(AcmeProblem::Malformed));
    assert!(MacKey::new(vec![7; 31]).is_none());
    assert_eq!(format!("{secret:?}"), "MacKey(..)");
    assert_eq!(NewAccount::default().binding().unwrap_err().kind, AcmeProblem::ExternalAccountRequired);
}

#[test]
fn a_permanent_identifier_has_one_spelling() {
    for good in ["m-1", "ABC", "urn:x:1"] {
        assert_eq!(PermanentIdentifier::parse(good).unwrap().as_str(), good);
    }
    for bad in ["", "a/b", "a/1.2.3", "a ", " a", "a\0", "\u{e9}", "e\u{301}", &"x".repeat(129)] {
        assert!(PermanentIdentifier::parse(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn an_order_names_one_permanent_identifier_and_nothing_else() {
    let check = |text: &str, expected: Result<&str, AcmeProblem>| {
        let outcome =
            read_payload::<NewOrder>(text.as_bytes()).and_then(|order| order.permanent_identifier());
        assert_eq!(
            outcome.as_ref().map(PermanentIdentifier::as_str).map_err(|problem| problem.kind),
            expected,
            "{text}"
        );
    };
    check(r#"{"identifiers":[{"type":"permanent-identifier","value":"m-1"}]}"#, Ok("m-1"));
    check(r#"{"identifiers":[]}"#, Err(AcmeProblem::Malformed));
    check(r#"{"identifiers":[{"type":"dns","value":"a.example"}]}"#, Err(AcmeProblem::UnsupportedIdentifier));
    check(
        r#"{"identifiers":[{"type":"permanent-identifier","value":"m-1"}],"notAfter":"2036-01-01T00:00:00Z"}"#,
        Err(AcmeProblem::Malformed),
    );
    check(
        r#"{"identifiers":[{"type":"permanent-identifier","value":"a"},{"type":"permanent-identifier","value":"b"}]}"#,
        Err(AcmeProblem::Malformed),
    );
    check(
        r#"{"identifiers":[{"type":"permanent-identifier","value":"a/1.2.3"}]}"#,
        Err(AcmeProblem::Malformed),
    );
}

fn statement() -> TpmStatement {
    TpmStatement { alg: -7, x5c: vec![vec![1], vec![2]], sig: vec![3], cert_info: vec![4], pub_area: vec![5] }
}

#[test]
fn only_a_tpm_statement_is_an_attestation() {
    use crate::cbor::Item;
    assert_eq!(parse_attestation_payload(&attestation_payload(&statement())), Ok(statement()));
    let check = |object: Item, expected: AttestationError| {
        assert_eq!(TpmStatement::parse(&object.to_bytes()), Err(expected));
    };
    let text = |text: &str| Item::Text(text.to_owned());
    check(
        Item::map([("fmt", text("none")), ("attStmt", Item::Map(vec![]))]),
        AttestationError::UnsupportedFormat,
    );
    check(
        Item::map([("fmt", text("packed")), ("attStmt", Item::Map(vec![]))]),
        AttestationError::UnsupportedFormat,
    );
    check(Item::map([("fmt", text("tpm"))]), AttestationError::Malformed);
    check(
        Item::map([("fmt", text("tpm")), ("attStmt", Item::Map(vec![]))]),
        AttestationError::UnsupportedVersion,
    );
    let mut empty_chain = statement();
    empty_chain.x5c.clear();
    assert_eq!(TpmStatement::parse(&empty_chain.to_bytes()), Err(AttestationError::Malformed));
    let mut long_chain = statement();
    long_chain.x5c = vec![vec![1]; 6];
    assert_eq!(TpmStatement::parse(&long_chain.to_bytes()), Err(AttestationError::Malformed));
    assert_eq!(parse_attestation_payload(br#"{"error":"no tpm"}"#), Err(AttestationError::Payload));
}

#[test]
fn the_key_authorization_binds_the_token_to_the_account() {
    let key = SoftwareP256::generate().unwrap().public_jwk();
    assert_eq!(key_authorization("tok", &key), format!("tok.{}", key.thumbprint()));
}

proptest! {
    #[test]
    fn no_bytes_make_a_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = (SignedRequest::parse(&bytes), parse_attestation_payload(&bytes), TpmStatement::parse(&bytes));
        if let Ok(value) = json::parse(&bytes, &Limits::DEFAULT) { let _ = ExternalBinding::parse(&value); }
    }

    #[test]
    fn a_changed_request_never_verifies(at in 0_usize..10_000, to in any::<u8>()) {
        let key = SoftwareP256::generate().unwrap();
        let mut body = sign_request(&key, None, "bm9uY2U", URL, b"{\"a\":1}").unwrap();
        let at = at % body.len();
        prop_assume!(body[at] != to);
        body[at] = to;
        let outcome = verdict(&body);
        prop_assert_ne!(outcome, "{\"a\":1}");
    }
}
