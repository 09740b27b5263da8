//! What `dpop` lets through and what it refuses.

use super::*;
use crate::jose::{Algorithm, SoftwareEd25519, SoftwareP256};

const URL: &str = "https://gw.example/mcp/github";
const TOKEN: &str = "header.payload.signature";
const NOW: Timestamp = Timestamp::from_unix_secs(1_790_000_000);

fn expectation() -> DpopExpectation<'static> {
    DpopExpectation {
        method: "POST",
        url: URL,
        now: NOW,
        max_age_secs: MAX_AGE_SECS,
        max_skew_secs: MAX_SKEW_SECS,
        access_token: Some(TOKEN),
        nonce: None,
    }
}

/// A proof with these claims as text, signed for real.
fn signed(claims: &str) -> String {
    let key = SoftwareEd25519::generate().unwrap();
    sign_compact(&key, DPOP_TYP, &[("jwk", key.public_jwk().to_value())], claims.as_bytes()).unwrap()
}

/// The claims of a good proof with one member's text replaced.
fn claims(member: &str, text: &str) -> String {
    let ath = format!("\"{}\"", Sha256Digest::of(TOKEN.as_bytes()));
    let url = format!("\"{URL}\"");
    let now = NOW.unix_secs().to_string();
    let mut members = vec![
        ("jti", "\"j1\""),
        ("htm", "\"POST\""),
        ("htu", url.as_str()),
        ("iat", now.as_str()),
        ("ath", ath.as_str()),
    ];
    members.retain(|(name, _)| *name != member);
    if !text.is_empty() {
        members.push((member, text));
    }
    let members: Vec<String> = members.iter().map(|(name, text)| format!("\"{name}\":{text}")).collect();
    format!("{{{}}}", members.join(","))
}

#[test]
fn a_proof_proves_its_key_for_one_request_and_token() {
    for signer in [
        &SoftwareEd25519::generate().unwrap() as &dyn JwsSigner,
        &SoftwareP256::generate().unwrap() as &dyn JwsSigner,
    ] {
        let proof = prove(signer, "POST", URL, Some(TOKEN), None, "j1", NOW).unwrap();
        let verified = verify(&proof, &expectation()).unwrap();
        assert_eq!(*verified.thumbprint(), signer.public_jwk().thumbprint());
        assert_eq!((verified.jti(), verified.issued_at()), ("j1", NOW));
        assert_eq!(verified.access_token(), Some(&Sha256Digest::of(TOKEN.as_bytes())));
    }
    verify(&signed(&claims("none", "")), &expectation()).unwrap();
}

#[test]
fn a_proof_for_anything_else_is_refused() {
    let check = |member: &str, text: &str, expected: DpopError| {
        let proof = signed(&claims(member, text));
        assert_eq!(verify(&proof, &expectation()).unwrap_err(), expected, "{member}: {text}");
    };
    for text in ["\"GET\"", "\"post\"", "\"POST \""] {
        check("htm", text, DpopError::Method);
    }
    for url in [
        "https://gw.example/mcp/github/",
        "https://gw.example/mcp/GitHub",
        "https://gw.example/mcp%2Fgithub",
        "https://gw.example:443/mcp/github",
        "https://gw.example:8443/mcp/github",
        "https://gw.example./mcp/github",
        "https://GW.example/mcp/github",
        "https://gw.example/mcp/github?x=1",
        "https://gw.example/mcp/github#",
        "https://gw.example//mcp/github",
        "https://gw.example/mcp/../mcp/github",
        "http://gw.example/mcp/github",
        "https://u@gw.example/mcp/github",
        "https://evil.example/mcp/github",
        "",
    ] {
        check("htu", &format!("\"{url}\""), DpopError::Url);
    }
    for (member, text) in [
        ("jti", ""),
        ("jti", "\"\""),
        ("jti", "7"),
        ("htm", ""),
        ("htm", "[\"POST\"]"),
        ("htu", ""),
        ("htu", "[\"https://gw.example/mcp/github\"]"),
        ("htu", "null"),
        ("iat", ""),
        ("iat", "\"1790000000\""),
        ("iat", "1790000000.5"),
        ("iat", "true"),
        ("iat", "null"),
        ("ath", ""),
        ("ath", "7"),
        ("ath", "\"abc\""),
    ] {
        let name = ["jti", "htm", "htu", "iat", "ath"].into_iter().find(|name| *name == member).unwrap();
        check(member, text, DpopError::Claim(name));
    }
    check("jti", &format!("\"{}\"", "j".repeat(129)), DpopError::Claim("jti"));
    for iat in ["1e400", "9007199254740992", "9223372036854775808"] {
        check("iat", iat, DpopError::Jws(JwsError::Malformed));
    }
    check("ath", &format!("\"{}\"", Sha256Digest::of(b"another token")), DpopError::Token);
    // Same digest, other spelling.
    check("ath", &format!("\"{}=\"", Sha256Digest::of(TOKEN.as_bytes())), DpopError::Claim("ath"));
    check("htm", "\"POST\",\"htm\":\"POST\"", DpopError::Jws(JwsError::Malformed));
}

#[test]
fn proofs_live_a_minute_and_may_come_five_seconds_early() {
    let check = |offset_secs: i64, expected: Result<(), DpopError>| {
        let proof = signed(&claims("iat", &(NOW.unix_secs() + offset_secs).to_string()));
        assert_eq!(verify(&proof, &expectation()).map(drop), expected, "{offset_secs}");
    };
    check(0, Ok(()));
    check(-60, Ok(()));
    check(-61, Err(DpopError::Time));
    check(5, Ok(()));
    check(6, Err(DpopError::Time));
    check(61, Err(DpopError::Time));
    check(-NOW.unix_secs(), Err(DpopError::Time));
    check(-2 * NOW.unix_secs(), Err(DpopError::Time));
}

#[test]
fn the_nonce_is_checked_exactly_where_one_is_required() {
    let required = DpopExpectation { nonce: Some("n1"), ..expectation() };
    let check = |text: &str, expected: Result<(), DpopError>| {
        assert_eq!(verify(&signed(&claims("nonce", text)), &required).map(drop), expected, "{text}");
    };
    check("\"n1\"", Ok(()));
    for text in ["", "\"n2\"", "\"n1 \"", "\"\"", "1", "null"] {
        check(text, Err(DpopError::Nonce));
    }
    assert_eq!(DpopError::Nonce.code(), "use_dpop_nonce");
    assert_eq!(DpopError::Url.code(), "invalid_dpop_proof");
    verify(&signed(&claims("nonce", "\"whatever\"")), &expectation()).unwrap();
}

#[test]
fn the_header_must_be_that_of_a_proof() {
    let key = SoftwareP256::generate().unwrap();
    let good = claims("none", "");
    let jwk = key.public_jwk().to_value();
    let check = |typ: &str, extra: &[(&str, Value)]| {
        let proof = sign_compact(&key, typ, extra, good.as_bytes()).unwrap();
        assert!(matches!(verify(&proof, &expectation()), Err(DpopError::Jws(_))), "{typ} {extra:?}");
    };
    verify(&sign_compact(&key, DPOP_TYP, &[("jwk", jwk.clone())], good.as_bytes()).unwrap(), &expectation())
        .unwrap();
    for typ in
        ["at+jwt", "JWT", "DPOP+JWT", "", "oauth-client-attestation-pop+jwt", "countersign-channel+jwt"]
    {
        check(typ, &[("jwk", jwk.clone())]);
    }
    check(DPOP_TYP, &[]);
    check(DPOP_TYP, &[("jwk", Value::Null)]);
    // Somebody else's key in the header: the signature is not that key's.
    check(DPOP_TYP, &[("jwk", SoftwareP256::generate().unwrap().public_jwk().to_value())]);
    check(DPOP_TYP, &[("jwk", SoftwareEd25519::generate().unwrap().public_jwk().to_value())]);
    let Value::Object(mut private) = jwk.clone() else { panic!("an object") };
    private.insert("d", b64::url_encode(&key.scalar().unwrap())).unwrap();
    check(DPOP_TYP, &[("jwk", Value::Object(private))]);
    check(DPOP_TYP, &[("jwk", jwk.clone()), ("crit", Value::List(vec![]))]);
    check(DPOP_TYP, &[("jwk", jwk), ("jku", Value::from("https://evil.example"))]);
}

/// Claims to be an RSA key and is none: the algorithm is refused before any of it matters.
struct Pretender(SoftwareP256);

impl JwsSigner for Pretender {
    fn algorithm(&self) -> Algorithm {
        Algorithm::Rs256
    }
    fn public_jwk(&self) -> PublicJwk {
        self.0.public_jwk()
    }
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        self.0.sign(message)
    }
}

#[test]
fn the_algorithm_is_the_keys() {
    let key = Pretender(SoftwareP256::generate().unwrap());
    let proof = prove(&key, "POST", URL, Some(TOKEN), None, "j", NOW).unwrap();
    assert_eq!(verify(&proof, &expectation()).unwrap_err(), DpopError::Jws(JwsError::Algorithm));
}

#[test]
fn a_genuine_rsa_proof_is_still_no_agents() {
    let key = crate::jose::rsa_fixture::SoftwareRsa::generate();
    let proof = prove(&key, "POST", URL, Some(TOKEN), None, "j", NOW).unwrap();
    assert_eq!(verify(&proof, &expectation()).unwrap_err(), DpopError::KeyType);
}

#[test]
fn the_rfc_9449_examples_verify() {
    // RFC 9449 §5 and §7.1, with the dates they were made for.
    let token_request = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUk\
        lDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsIm\
        NydiI6IlAtMjU2In19.eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbG\
        UuY29tL3Rva2VuIiwiaWF0IjoxNTYyMjYyNjE2fQ.2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg4PtFLbdLXiOSsX0x7NVY-FN\
        yJK70nfbV37xRZT3Lg";
    let expectation = DpopExpectation {
        method: "POST",
        url: "https://server.example.com/token",
        now: Timestamp::from_unix_secs(1_562_262_616),
        access_token: None,
        ..expectation()
    };
    let verified = verify(token_request, &expectation).unwrap();
    assert_eq!(verified.jti(), "-BwC3ESc6acc2lTc");
    assert_eq!(verified.thumbprint().to_string(), "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I");
    assert_eq!(verified.access_token(), None);
}
