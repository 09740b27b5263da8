//! What `jose` lets through and what it refuses.

use proptest::prelude::*;

use super::*;
use crate::b64;
use crate::json::{self, Limits, Value};

const TYP: &str = "test+jwt";

fn value(text: &str) -> Value {
    json::parse(text.as_bytes(), &Limits::DEFAULT).unwrap()
}

/// A token with this header text, signed for real over exactly these bytes.
fn token(signer: &dyn JwsSigner, header: &str, payload: &str) -> String {
    let signed = format!("{}.{}", b64::url_encode(header.as_bytes()), b64::url_encode(payload.as_bytes()));
    let signature = b64::url_encode(&signer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

fn expected(keys: KeySource<'_>) -> Expected<'_> {
    Expected { typ: &[TYP], keys, max_bytes: MAX_TOKEN_BYTES }
}

#[test]
fn what_we_sign_we_verify_with_both_algorithms_and_nobody_elses_key() {
    let signers: [Box<dyn JwsSigner>; 2] =
        [Box::new(SoftwareP256::generate().unwrap()), Box::new(SoftwareEd25519::generate().unwrap())];
    let stranger = SoftwareP256::generate().unwrap();
    for signer in &signers {
        let key = signer.public_jwk();
        let token = sign_compact(signer.as_ref(), TYP, &[("kid", Value::from("k"))], b"{\"a\":1}").unwrap();
        let verified = verify_compact(&token, &expected(KeySource::One(&key))).unwrap();
        assert_eq!(verified.payload, b"{\"a\":1}");
        assert_eq!((verified.header.typ.as_str(), verified.header.kid.as_deref()), (TYP, Some("k")));
        assert_eq!(verified.key, key);
        assert!(verify_compact(&token, &expected(KeySource::One(&stranger.public_jwk()))).is_err());
    }
}

#[test]
fn a_token_does_not_choose_its_own_rules() {
    let signer = SoftwareP256::generate().unwrap();
    let jwk = String::from_utf8(signer.public_jwk().to_value().to_jcs()).unwrap();
    let key = signer.public_jwk();
    let check = |header: &str, expected_error: JwsError| {
        let token = token(&signer, header, "{}");
        let error = verify_compact(&token, &expected(KeySource::One(&key))).unwrap_err();
        assert_eq!(error, expected_error, "{header}");
    };
    for alg in ["none", "None", "nOnE", "", "HS256", "RS256", "ES384", "EdDSA", "es256"] {
        check(&format!(r#"{{"alg":"{alg}","typ":"{TYP}"}}"#), JwsError::Algorithm);
    }
    check(r#"{"typ":"test+jwt"}"#, JwsError::Algorithm);
    check(r#"{"alg":7,"typ":"test+jwt"}"#, JwsError::HeaderMember("alg"));
    for member in ["crit", "b64", "zip", "enc", "jku", "x5u", "x5c", "x5t", "x5t#S256"] {
        for content in ["\"x\"", "[]", "[\"exp\"]", "false", "null"] {
            let header = format!(r#"{{"alg":"ES256","typ":"{TYP}","{member}":{content}}}"#);
            check(&header, JwsError::ForbiddenHeader(member));
        }
    }
    check(&format!(r#"{{"alg":"ES256","typ":"{TYP}","jwk":{jwk}}}"#), JwsError::ForbiddenHeader("jwk"));
    check(r#"{"alg":"ES256","alg":"ES256","typ":"test+jwt"}"#, JwsError::Malformed);
    check(r#"{"alg":"ES256","Alg":"none","typ":"test+jwt"}"#, JwsError::Malformed);
    check(r#"["alg","ES256"]"#, JwsError::Malformed);
    check(r#"{"alg":"ES256"}"#, JwsError::Typ);
    for typ in ["at+jwt", "JWT", "TEST+JWT", "application/test+jwt", "test+jwt ", ""] {
        check(&format!(r#"{{"alg":"ES256","typ":"{typ}"}}"#), JwsError::Typ);
    }
    check(r#"{"alg":"ES256","typ":["test+jwt"]}"#, JwsError::HeaderMember("typ"));
    check(r#"{"alg":"ES256","typ":"test+jwt","kid":7}"#, JwsError::HeaderMember("kid"));
    let long = "k".repeat(257);
    check(&format!(r#"{{"alg":"ES256","typ":"test+jwt","kid":"{long}"}}"#), JwsError::HeaderMember("kid"));
    let no_type = Expected { typ: &[], ..expected(KeySource::One(&key)) };
    let good = token(&signer, r#"{"alg":"ES256","typ":"test+jwt"}"#, "{}");
    assert_eq!(verify_compact(&good, &no_type).unwrap_err(), JwsError::Typ);
    verify_compact(&good, &expected(KeySource::One(&key))).unwrap();
}

#[test]
fn there_is_one_spelling_of_a_token() {
    let signer = SoftwareP256::generate().unwrap();
    let key = signer.public_jwk();
    let good = token(&signer, r#"{"alg":"ES256","typ":"test+jwt"}"#, "{\"sub\":\"a?b>c\"}");
    let check = |bad: &str| {
        assert!(verify_compact(bad, &expected(KeySource::One(&key))).is_err(), "{bad}");
    };
    verify_compact(&good, &expected(KeySource::One(&key))).unwrap();
    let [header, payload, signature] = <[&str; 3]>::try_from(good.split('.').collect::<Vec<_>>()).unwrap();
    check(&format!("{good}="));
    check(&format!("{good}=="));
    check(&format!("{header}=.{payload}.{signature}"));
    check(&format!("{good}."));
    check(&format!("{good}.x"));
    check(&format!(".{good}"));
    check(&format!("{header}.{payload}"));
    check(&format!("{header}..{payload}.{signature}"));
    check(&format!("{header}.{payload}."));
    check(&format!(" {good}"));
    check(&format!("{good}\n"));
    check(&format!("{header}.{payload} .{signature}"));
    check(&format!("{header}.{}.{signature}", payload.replace('_', "/").replace('-', "+") + "+"));
    check("");
    check("..");
    // 64 bytes end in a character that carries two bits; its other spellings differ in the four unused ones.
    for last in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".chars() {
        let respelled = format!("{}{last}", &good[..good.len() - 1]);
        if respelled != good {
            check(&respelled);
        }
    }
    let small = Expected { max_bytes: good.len() - 1, ..expected(KeySource::One(&key)) };
    assert_eq!(verify_compact(&good, &small).unwrap_err(), JwsError::TooLarge);
}

#[test]
fn a_signature_belongs_to_its_own_token() {
    let signer = SoftwareEd25519::generate().unwrap();
    let key = signer.public_jwk();
    let one = token(&signer, r#"{"alg":"EdDSA","typ":"test+jwt"}"#, "{\"n\":1}");
    let two = token(&signer, r#"{"alg":"EdDSA","typ":"test+jwt"}"#, "{\"n\":2}");
    let (signed, _) = one.rsplit_once('.').unwrap();
    let (_, signature) = two.rsplit_once('.').unwrap();
    let mixed = format!("{signed}.{signature}");
    assert_eq!(verify_compact(&mixed, &expected(KeySource::One(&key))).unwrap_err(), JwsError::Signature);
}

#[test]
fn keys_of_a_set_are_found_by_name_and_never_guessed() {
    let (one, two) = (SoftwareP256::generate().unwrap(), SoftwareEd25519::generate().unwrap());
    let set =
        KeySet::from_keys(vec![("one".into(), one.public_jwk()), ("two".into(), two.public_jwk())]).unwrap();
    let check = |header: &str, outcome: Result<(), JwsError>| {
        let token = token(&one, header, "{}");
        assert_eq!(verify_compact(&token, &expected(KeySource::Set(&set))).map(drop), outcome, "{header}");
    };
    check(r#"{"alg":"ES256","typ":"test+jwt","kid":"one"}"#, Ok(()));
    check(r#"{"alg":"ES256","typ":"test+jwt","kid":"two"}"#, Err(JwsError::Algorithm));
    check(r#"{"alg":"ES256","typ":"test+jwt"}"#, Err(JwsError::UnknownKey));
    for kid in ["", "ONE", "one ", "../one", "one'--", "three"] {
        check(&format!(r#"{{"alg":"ES256","typ":"test+jwt","kid":"{kid}"}}"#), Err(JwsError::UnknownKey));
    }
    let again = KeySet::parse_jwks(set.to_jwks_json().as_bytes()).unwrap();
    assert_eq!(again.iter().collect::<Vec<_>>(), set.iter().collect::<Vec<_>>());
}

#[test]
fn ambiguous_or_secret_key_sets_do_not_load() {
    let key = |extra: &str| {
        let jwk =
            String::from_utf8(SoftwareP256::generate().unwrap().public_jwk().to_value().to_jcs()).unwrap();
        jwk.replacen('{', &format!("{{{extra}"), 1)
    };
    let load = |keys: &[String]| KeySet::parse_jwks(format!("{{\"keys\":[{}]}}", keys.join(",")).as_bytes());
    assert!(load(&[key(r#""kid":"a","#), key(r#""kid":"b","#)]).is_ok());
    assert_eq!(
        load(&[key(r#""kid":"a","#), key(r#""kid":"a","#)]).unwrap_err(),
        KeySetError::DuplicateKid("a".into())
    );
    let with_d = load(&[key(r#""kid":"a","d":"AA","#)]).unwrap_err();
    assert_eq!(with_d, KeySetError::Key { kid: "a".into(), source: JwkError::Private });
    let mixed = load(&[key(r#""kid":"a","#), r#"{"kty":"oct","kid":"b","k":"AAAA"}"#.into()]).unwrap_err();
    assert_eq!(mixed, KeySetError::Key { kid: "b".into(), source: JwkError::Private });
    assert!(matches!(load(&[key("")]), Err(KeySetError::Malformed(_))));
    assert!(matches!(load(&[key(r#""kid":"","#)]), Err(KeySetError::Malformed(_))));
    assert!(matches!(KeySet::parse_jwks(br#"{"keys":{}}"#), Err(KeySetError::Malformed(_))));
    assert!(matches!(KeySet::parse_jwks(br#"{"keys":[],"keys":[]}"#), Err(KeySetError::Json(_))));
}

#[test]
fn a_jwk_is_a_sound_public_key_for_verifying_or_nothing() {
    const X: &str = "04N0xi21hshyvBp7I167sbE_bXqyqkAPfefdklMO7wY";
    const Y: &str = "UI8exy-C06a7DUnjIdENkxeFtHM4-l_41LqEw9nVgmw";
    let check = |jwk: &str, expected: Result<(), JwkError>| {
        assert_eq!(PublicJwk::parse(&value(jwk)).map(drop), expected, "{jwk}");
    };
    let ec = |extra: &str| format!(r#"{{"kty":"EC","crv":"P-256","x":"{X}","y":"{Y}"{extra}}}"#);
    check(&ec(""), Ok(()));
    check(&ec(r#","use":"sig","key_ops":["verify"],"alg":"ES256","kid":"x","custom":1"#), Ok(()));
    check(&ec(r#","use":"enc""#), Err(JwkError::Purpose));
    check(&ec(r#","key_ops":["sign"]"#), Err(JwkError::Purpose));
    check(&ec(r#","key_ops":[]"#), Err(JwkError::Purpose));
    check(&ec(r#","key_ops":["verify","verify"]"#), Err(JwkError::Malformed("key_ops")));
    check(&ec(r#","alg":"ES384""#), Err(JwkError::Unsupported));
    check(&ec(r#","alg":"RS256""#), Err(JwkError::Unsupported));
    check(&ec(r#","alg":"HS256""#), Err(JwkError::Unsupported));
    for member in ["d", "p", "q", "dp", "dq", "qi", "oth", "k"] {
        check(&ec(&format!(r#","{member}":"AA""#)), Err(JwkError::Private));
    }
    check(&ec("").replace("P-256", "P-384"), Err(JwkError::Unsupported));
    check(&ec("").replace("\"EC\"", "\"OKP\""), Err(JwkError::Unsupported));
    check(&ec("").replace("04N0", "14N0"), Err(JwkError::Value));
    check(&ec("").replace(X, &X[..40]), Err(JwkError::Value));
    check(&ec("").replace(X, &format!("{X}=")), Err(JwkError::Malformed("x")));
    check(&ec("").replace(Y, &format!("AA{Y}")), Err(JwkError::Malformed("y")));
    let zero = b64::url_encode(&[0; 32]);
    check(&format!(r#"{{"kty":"EC","crv":"P-256","x":"{zero}","y":"{zero}"}}"#), Err(JwkError::Value));
    check(&format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{zero}"}}"#), Err(JwkError::Value));
    check(r#"{"kty":"oct","k":"AAAA"}"#, Err(JwkError::Private));
    check(r#"{"kty":"RSA","n":"AQAB","e":"AQAB","alg":"RS256"}"#, Err(JwkError::Value));
    check(r#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#, Err(JwkError::Unsupported));
    check("[]", Err(JwkError::Malformed("not an object")));
    check("{}", Err(JwkError::Malformed("kty")));
}

#[test]
fn ed25519_points_under_which_anything_verifies_are_no_keys() {
    let mut points: Vec<[u8; 32]> = Vec::new();
    for base in [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        // Not canonical: p, p + 1 and 2^255 - 1.
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ] {
        let mut point = [0; 32];
        for (at, byte) in point.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&base[2 * at..2 * at + 2], 16).unwrap();
        }
        points.push(point);
        point[31] |= 0x80;
        points.push(point);
    }
    for point in &points {
        assert_eq!(PublicJwk::from_ed25519(point), Err(JwkError::Value), "{point:02x?}");
    }
}

#[test]
fn thumbprints_are_those_of_rfc_7638_and_rfc_8037() {
    let rsa = concat!(
        r#"{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_"#,
        "BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs",
        "8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0L",
        r#"s1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB","alg":"RS256","kid":"2011-04-29"}"#
    );
    let thumbprint = |jwk: &str| PublicJwk::parse(&value(jwk)).unwrap().thumbprint().to_string();
    assert_eq!(thumbprint(rsa), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    let ed25519 = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    assert_eq!(thumbprint(ed25519), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    // RFC 9449 §6.1: the key of its example proofs.
    let p256 = r#"{"kty":"EC","x":"l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs","y":"9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA","crv":"P-256"}"#;
    assert_eq!(thumbprint(p256), "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I");
}

#[test]
fn the_rfc_8037_example_verifies() {
    let key = value(r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#);
    let key = VerifyingKey::parse(&key).unwrap();
    let token = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.\
        hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    let verified = compact::verify(token, None, KeySource::Ready(&key), MAX_TOKEN_BYTES).unwrap();
    assert_eq!(verified.payload, b"Example of Ed25519 signing");
}

#[test]
fn keys_survive_their_encodings_and_secrets_are_not_shown() {
    let p256 = SoftwareP256::generate().unwrap();
    let again = SoftwareP256::from_pkcs8(&p256.to_pkcs8().unwrap()).unwrap();
    assert_eq!(again.public_jwk(), p256.public_jwk());
    let point = p256.public_jwk().to_p256_uncompressed().unwrap();
    assert_eq!(PublicJwk::from_p256_uncompressed(&point).unwrap(), p256.public_jwk());
    let ed25519 = SoftwareEd25519::generate().unwrap();
    let again = SoftwareEd25519::from_pkcs8(&ed25519.to_pkcs8().unwrap()).unwrap();
    assert_eq!(again.public_jwk(), ed25519.public_jwk());
    assert!(SoftwareP256::from_pkcs8(&ed25519.to_pkcs8().unwrap()).is_err());
    for key in [p256.public_jwk(), ed25519.public_jwk()] {
        let text = serde_json::to_string(&key).unwrap();
        assert_eq!(serde_json::from_str::<PublicJwk>(&text).unwrap(), key);
    }
    let scalar = p256.scalar().unwrap();
    let shown = format!("{p256:?}{ed25519:?}");
    assert!(
        !shown.contains(&b64::url_encode(&scalar))
            && !shown.contains(&b64::url_encode(&*ed25519.seed().unwrap()))
    );
}

#[test]
fn a_header_member_is_not_signed_twice() {
    let signer = SoftwareP256::generate().unwrap();
    for member in ["alg", "typ", "ALG"] {
        assert!(sign_compact(&signer, TYP, &[(member, Value::from("none"))], b"{}").is_err());
    }
}

proptest! {
    #[test]
    fn any_changed_byte_is_refused(at in 0_usize..200, byte in any::<u8>()) {
        let signer = SoftwareEd25519::generate().unwrap();
        let key = signer.public_jwk();
        let good = sign_compact(&signer, TYP, &[], b"{\"amount\":100,\"to\":\"alice\"}").unwrap();
        let at = at % good.len();
        let mut bytes = good.clone().into_bytes();
        bytes[at] = byte;
        if let Ok(changed) = String::from_utf8(bytes) && changed != good {
            prop_assert!(verify_compact(&changed, &expected(KeySource::One(&key))).is_err());
        }
    }

    #[test]
    fn arbitrary_text_never_panics(text in "[A-Za-z0-9_.=\\-]{0,120}") {
        let key = SoftwareEd25519::generate().unwrap().public_jwk();
        prop_assert!(verify_compact(&text, &expected(KeySource::One(&key))).is_err());
        prop_assert!(verify_compact(&text, &expected(KeySource::Embedded)).is_err());
    }
}
