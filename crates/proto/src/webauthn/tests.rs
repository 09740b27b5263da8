//! Registrations and assertions with one thing wrong at a time.

use super::software::{PRESENT_AND_VERIFIED, SoftwareAuthenticator, client_data};
use super::*;
use crate::b64;

const RP: &str = "localhost";
const ORIGIN: &str = "http://localhost:8443";
const CHALLENGE: [u8; 32] = [7; 32];
const OTHER: [u8; 32] = [8; 32];
const EXPECTED: Expectation<'static> = Expectation { rp_id: RP, origin: ORIGIN, challenge: &CHALLENGE };

type Outcome = Result<(), WebauthnError>;

fn registered(authenticator: &SoftwareAuthenticator) -> Credential {
    verify_registration(&authenticator.register(RP, ORIGIN, &CHALLENGE).unwrap(), &EXPECTED).unwrap()
}

#[test]
fn a_registered_passkey_can_answer() {
    for mut authenticator in
        [SoftwareAuthenticator::p256().unwrap(), SoftwareAuthenticator::ed25519().unwrap()]
    {
        let credential = registered(&authenticator);
        assert_eq!(credential.id, authenticator.id());
        assert_eq!(credential.public_key, authenticator.public_key().unwrap());
        let response = authenticator.assert(RP, ORIGIN, &CHALLENGE).unwrap();
        assert_eq!(signed_challenge(&response.client_data), Ok(CHALLENGE));
        let verified = verify_assertion(&response, &EXPECTED, &credential).unwrap();
        assert_eq!(verified.credential_id(), authenticator.id());
        assert_eq!(verified.challenge(), &CHALLENGE);
        assert_eq!(verified.sign_count(), 1);
    }
}

#[test]
fn a_response_survives_the_wire_and_the_record() {
    let mut authenticator = SoftwareAuthenticator::p256().unwrap();
    let response = authenticator.assert(RP, ORIGIN, &CHALLENGE).unwrap();
    let text = serde_json::to_string(&response).unwrap();
    assert_eq!(serde_json::from_str::<AssertionResponse>(&text).unwrap(), response);
    let credential = registered(&authenticator);
    let text = serde_json::to_string(&credential).unwrap();
    assert_eq!(serde_json::from_str::<Credential>(&text).unwrap(), credential);
    assert!(serde_json::from_str::<AssertionResponse>(r#"{"id":"AA=="}"#).is_err());
}

/// Changes one thing in a genuine registration.
fn check_registration(change: impl FnOnce(&mut RegistrationResponse), expected: Outcome) {
    let authenticator = SoftwareAuthenticator::p256().unwrap();
    let mut response = authenticator.register(RP, ORIGIN, &CHALLENGE).unwrap();
    change(&mut response);
    assert_eq!(verify_registration(&response, &EXPECTED).map(drop), expected);
}

/// Replaces the authenticator data inside the attestation object.
fn edit_data(edit: impl FnOnce(&mut Vec<u8>)) -> impl FnOnce(&mut RegistrationResponse) {
    |response| {
        let attestation = Item::parse(&response.attestation_object).unwrap();
        let mut data = attestation.get("authData").and_then(Item::as_bytes).unwrap().to_vec();
        edit(&mut data);
        response.attestation_object = Item::map([
            ("fmt", Item::Text("none".to_owned())),
            ("attStmt", Item::Map(Vec::new())),
            ("authData", Item::Bytes(data)),
        ])
        .to_bytes();
    }
}

#[test]
fn a_registration_is_read_strictly() {
    use WebauthnError as E;
    check_registration(|_| {}, Ok(()));
    check_registration(
        |r| r.client_data = client_data("webauthn.get", ORIGIN, &CHALLENGE),
        Err(E::WrongCeremony),
    );
    check_registration(
        |r| r.client_data = client_data("webauthn.create", ORIGIN, &OTHER),
        Err(E::WrongChallenge),
    );
    check_registration(
        |r| r.client_data = client_data("webauthn.create", "http://localhost", &CHALLENGE),
        Err(E::WrongOrigin),
    );
    check_registration(|r| r.id.push(0), Err(E::WrongCredential));
    check_registration(|r| r.attestation_object.push(0), Err(E::AttestationObject));
    check_registration(|r| r.attestation_object = vec![0xa0], Err(E::AttestationObject));
    check_registration(edit_data(|data| data[0] ^= 1), Err(E::WrongRelyingParty));
    check_registration(edit_data(|data| data[32] &= !0x01), Err(E::NotPresent));
    check_registration(edit_data(|data| data[32] &= !0x04), Err(E::NotVerified));
    check_registration(edit_data(|data| data[32] |= 0x10), Err(E::BackupFlags));
    check_registration(edit_data(|data| data[32] |= 0x18), Ok(()));
    check_registration(edit_data(|data| data[32] &= !0x40), Err(E::AuthenticatorData));
    check_registration(edit_data(|data| data[32] |= 0x80), Err(E::AuthenticatorData));
    check_registration(
        edit_data(|data| {
            data[32] |= 0x80;
            data.push(0xa0);
        }),
        Ok(()),
    );
    check_registration(edit_data(|data| data.push(0)), Err(E::AuthenticatorData));
    check_registration(edit_data(|data| data.truncate(60)), Err(E::AuthenticatorData));
    check_registration(edit_data(|data| data[53..55].copy_from_slice(&[4, 0])), Err(E::AuthenticatorData));
    check_registration(edit_data(|data| data[53..55].copy_from_slice(&[0, 0])), Err(E::AuthenticatorData));
    // The last byte of the y coordinate: no longer a point of the curve.
    check_registration(edit_data(|data| *data.last_mut().unwrap() ^= 1), Err(E::PublicKey));
}

#[test]
fn any_attestation_format_counts_as_none() {
    let statement = |response: &mut RegistrationResponse| {
        let attestation = Item::parse(&response.attestation_object).unwrap();
        let data = attestation.get("authData").unwrap().clone();
        let statement = Item::map([("sig", Item::Bytes(vec![1; 64])), ("alg", Item::Neg(-7))]);
        response.attestation_object =
            Item::map([("fmt", Item::Text("packed".to_owned())), ("attStmt", statement), ("authData", data)])
                .to_bytes();
    };
    check_registration(statement, Ok(()));
}

#[test]
fn only_es256_and_eddsa_keys_are_registered() {
    let key = |entries: &[(Item, Item)]| cose::public_key(&Item::Map(entries.to_vec()));
    let (x, y) = match SoftwareAuthenticator::p256().unwrap().public_key().unwrap() {
        PublicJwk::P256 { x, y } => (Item::Bytes(x.to_vec()), Item::Bytes(y.to_vec())),
        PublicJwk::Ed25519 { .. } | PublicJwk::Rsa { .. } => panic!("a P-256 key"),
    };
    let entries = |kty: u64, alg: i64, crv: u64| {
        vec![
            (Item::Uint(1), Item::Uint(kty)),
            (Item::Uint(3), Item::Neg(alg)),
            (Item::Neg(-1), Item::Uint(crv)),
            (Item::Neg(-2), x.clone()),
            (Item::Neg(-3), y.clone()),
        ]
    };
    assert!(key(&entries(2, -7, 1)).is_ok());
    assert!(key(&entries(2, -35, 1)).is_err(), "ES384");
    assert!(key(&entries(2, -257, 1)).is_err(), "RS256");
    assert!(key(&entries(2, -7, 2)).is_err(), "P-384");
    assert!(key(&entries(3, -7, 1)).is_err(), "RSA");
    assert!(key(&entries(1, -8, 6)).is_err(), "an Ed25519 key with a y");
    assert!(key(&entries(2, -7, 1)[..4]).is_err(), "no y");
    let mut private = entries(2, -7, 1);
    private.push((Item::Neg(-4), x.clone()));
    assert!(key(&private).is_err(), "a private member");
    assert!(cose::public_key(&Item::Null).is_err());
}

/// Signs what `data` and `client` make of a genuine assertion, so that the signature is never the reason.
fn check_assertion(client: impl FnOnce() -> Vec<u8>, data: impl FnOnce(&mut Vec<u8>), expected: Outcome) {
    let authenticator = SoftwareAuthenticator::p256().unwrap();
    let credential = registered(&authenticator);
    let mut authenticator_data = authenticator.header(RP, PRESENT_AND_VERIFIED, 5);
    data(&mut authenticator_data);
    let response = authenticator.sign(authenticator_data, client()).unwrap();
    assert_eq!(verify_assertion(&response, &EXPECTED, &credential).map(drop), expected);
}

fn genuine() -> Vec<u8> {
    client_data("webauthn.get", ORIGIN, &CHALLENGE)
}

#[test]
fn an_assertion_must_be_for_this_challenge_page_and_site() {
    use WebauthnError as E;
    let check = |client: Vec<u8>, expected: Outcome| check_assertion(|| client, |_| {}, expected);
    let challenge = b64::url_encode(&CHALLENGE);
    let with = |members: &str| format!(r#"{{"challenge":"{challenge}",{members}}}"#).into_bytes();
    check(genuine(), Ok(()));
    check(with(r#""type":"webauthn.get","origin":"http://localhost:8443""#), Ok(()));
    check(with(r#""type":"webauthn.get","origin":"http://localhost:8443","other_keys":"x""#), Ok(()));
    check(client_data("webauthn.create", ORIGIN, &CHALLENGE), Err(E::WrongCeremony));
    check(client_data("Webauthn.get", ORIGIN, &CHALLENGE), Err(E::WrongCeremony));
    check(client_data("webauthn.get", ORIGIN, &OTHER), Err(E::WrongChallenge));
    for origin in
        ["https://localhost:8443", "http://localhost", "http://localhost:8443/", "http://localhost:8443.evil"]
    {
        check(client_data("webauthn.get", origin, &CHALLENGE), Err(E::WrongOrigin));
    }
    let embedded = r#""type":"webauthn.get","origin":"http://localhost:8443","crossOrigin":true"#;
    check(with(embedded), Err(E::CrossOrigin));
    let top = r#""type":"webauthn.get","origin":"http://localhost:8443","topOrigin":"https://evil.example""#;
    check(with(top), Err(E::CrossOrigin));
    let odd = r#""type":"webauthn.get","origin":"http://localhost:8443","crossOrigin":"false""#;
    check(with(odd), Err(E::ClientData));
}

#[test]
fn client_data_is_read_strictly() {
    let check = |client: &[u8]| {
        check_assertion(|| client.to_vec(), |_| {}, Err(WebauthnError::ClientData));
        assert!(signed_challenge(client).is_err());
    };
    let challenge = b64::url_encode(&CHALLENGE);
    check(b"");
    check(b"[]");
    check(br#"{"type":"webauthn.get","origin":"http://localhost:8443"}"#);
    let twice = format!(
        r#"{{"type":"webauthn.get","challenge":"{challenge}","challenge":"AAAA","origin":"http://localhost:8443"}}"#
    );
    check(twice.as_bytes());
    let short = br#"{"type":"webauthn.get","challenge":"AAAA","origin":"http://localhost:8443"}"#;
    check(short);
    let padded =
        format!(r#"{{"type":"webauthn.get","challenge":"{challenge}=","origin":"http://localhost:8443"}}"#);
    check(padded.as_bytes());
    let mut marked = b"\xef\xbb\xbf".to_vec();
    marked.extend(genuine());
    check(&marked);
    let mut trailing = genuine();
    trailing.push(b'x');
    check(&trailing);
    let mut long = genuine();
    long.extend(std::iter::repeat_n(b' ', MAX_CLIENT_DATA_BYTES));
    check(&long);
}

#[test]
fn an_assertion_needs_a_verified_person_and_nothing_else_in_it() {
    use WebauthnError as E;
    let check = |edit: fn(&mut Vec<u8>), expected: Outcome| check_assertion(genuine, edit, expected);
    check(|data| data[31] ^= 0x80, Err(E::WrongRelyingParty));
    check(|data| data[32] = 0x04, Err(E::NotPresent));
    check(|data| data[32] = 0x01, Err(E::NotVerified));
    check(|data| data[32] |= 0x10, Err(E::BackupFlags));
    // Registered as bound to its device, now eligible for backup.
    check(|data| data[32] |= 0x08, Err(E::BackupFlags));
    check(|data| data.truncate(36), Err(E::AuthenticatorData));
    check(|data| data.push(0), Err(E::AuthenticatorData));
    check(|data| data[32] |= 0x40, Err(E::AuthenticatorData));
    check(
        |data| {
            data[32] |= 0x80;
            data.extend([0xa1, 0x61, b'x', 0xf5]);
        },
        Ok(()),
    );
    check(
        |data| {
            data[32] |= 0x80;
            data.push(0xf6);
        },
        Err(E::AuthenticatorData),
    );
}

#[test]
fn the_challenge_that_counts_is_the_signed_one() {
    // The body of a request may carry a copy of the challenge; there is no place here to put it.
    let mut authenticator = SoftwareAuthenticator::p256().unwrap();
    let credential = registered(&authenticator);
    let response = authenticator.assert(RP, ORIGIN, &OTHER).unwrap();
    assert_eq!(signed_challenge(&response.client_data), Ok(OTHER));
    assert_eq!(verify_assertion(&response, &EXPECTED, &credential), Err(WebauthnError::WrongChallenge));
    // Replacing the signed value afterwards breaks the signature.
    let forged = AssertionResponse { client_data: genuine(), ..response };
    assert_eq!(verify_assertion(&forged, &EXPECTED, &credential), Err(WebauthnError::Signature));
}

#[test]
fn a_signature_is_by_the_registered_key_over_exactly_this() {
    let mut authenticator = SoftwareAuthenticator::p256().unwrap();
    let credential = registered(&authenticator);
    let genuine = authenticator.assert(RP, ORIGIN, &CHALLENGE).unwrap();
    let check = |change: &dyn Fn(&mut AssertionResponse), expected: WebauthnError| {
        let mut response = genuine.clone();
        change(&mut response);
        assert_eq!(verify_assertion(&response, &EXPECTED, &credential), Err(expected));
    };
    check(&|r| r.signature[10] ^= 1, WebauthnError::Signature);
    check(&|r| r.signature.clear(), WebauthnError::Signature);
    check(&|r| r.signature.push(0), WebauthnError::Signature);
    check(&|r| r.signature = vec![0; 64], WebauthnError::Signature);
    check(&|r| r.signature = vec![0x30; 4096], WebauthnError::Signature);
    check(&|r| r.authenticator_data[36] ^= 1, WebauthnError::Signature);
    check(&|r| r.client_data.push(b' '), WebauthnError::Signature);
    check(&|r| r.id[0] ^= 1, WebauthnError::WrongCredential);
    let stranger = SoftwareAuthenticator::p256().unwrap();
    let stolen = Credential { id: genuine.id.clone(), ..registered(&stranger) };
    assert_eq!(verify_assertion(&genuine, &EXPECTED, &stolen), Err(WebauthnError::Signature));
}

#[test]
fn a_counter_that_does_not_grow_is_a_clone() {
    let check = |stored: u32, shown: u32, expected: Outcome| {
        let authenticator = SoftwareAuthenticator::p256().unwrap();
        let credential = Credential { sign_count: stored, ..registered(&authenticator) };
        let data = authenticator.header(RP, PRESENT_AND_VERIFIED, shown);
        let response = authenticator.sign(data, genuine()).unwrap();
        let verified = verify_assertion(&response, &EXPECTED, &credential);
        assert_eq!(verified.clone().map(drop), expected, "{stored} then {shown}");
        if let Ok(verified) = verified {
            assert_eq!(verified.credential().sign_count, shown, "the new counter is the one to store");
        }
    };
    check(0, 0, Ok(()));
    check(0, 1, Ok(()));
    check(5, 6, Ok(()));
    check(5, u32::MAX, Ok(()));
    check(5, 5, Err(WebauthnError::Cloned));
    check(5, 4, Err(WebauthnError::Cloned));
    check(5, 0, Err(WebauthnError::Cloned));
    check(u32::MAX, 0, Err(WebauthnError::Cloned));
}
