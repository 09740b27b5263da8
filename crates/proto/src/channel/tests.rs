//! What `channel` lets through and what it refuses.

use super::*;
use crate::jose::SoftwareEd25519;

const AUDIENCE: &str = "https://gw.example";
const NOW: Timestamp = Timestamp::from_unix_secs(1_790_000_000);

#[test]
fn a_channel_proof_works_on_its_own_connection_only() {
    let key = SoftwareEd25519::generate().unwrap();
    let proof = prove(&key, &[7; 32], AUDIENCE, NOW).unwrap();
    let check = |exporter: &[u8; 32], audience: &str, now: Timestamp, expected: Result<(), ChannelError>| {
        assert_eq!(verify(&proof, exporter, audience, now).map(drop), expected);
    };
    check(&[7; 32], AUDIENCE, NOW, Ok(()));
    check(&[7; 32], AUDIENCE, NOW.plus_secs(60), Ok(()));
    check(&[7; 32], AUDIENCE, NOW.plus_secs(61), Err(ChannelError::Time));
    check(&[7; 32], AUDIENCE, NOW.plus_secs(-5), Ok(()));
    check(&[7; 32], AUDIENCE, NOW.plus_secs(-6), Err(ChannelError::Time));
    check(&[8; 32], AUDIENCE, NOW, Err(ChannelError::Exporter));
    check(&[7; 32], "https://other.example", NOW, Err(ChannelError::Audience));
    assert_eq!(*verify(&proof, &[7; 32], AUDIENCE, NOW).unwrap().thumbprint(), key.public_jwk().thumbprint());
}

#[test]
fn only_a_whole_channel_proof_counts() {
    let key = SoftwareEd25519::generate().unwrap();
    let exporter = b64::url_encode(&[7; 32]);
    let check = |typ: &str, claims: &str| {
        let proof =
            sign_compact(&key, typ, &[("jwk", key.public_jwk().to_value())], claims.as_bytes()).unwrap();
        verify(&proof, &[7; 32], AUDIENCE, NOW).map(drop)
    };
    let good = format!(r#"{{"exporter":"{exporter}","aud":"{AUDIENCE}","iat":1790000000}}"#);
    assert_eq!(check(CHANNEL_TYP, &good), Ok(()));
    assert_eq!(check("dpop+jwt", &good), Err(ChannelError::Jws(JwsError::Typ)));
    for (member, claims) in [
        ("exporter", good.replace(&exporter, &format!("{exporter}="))),
        ("exporter", good.replace("\"exporter\"", "\"x\"")),
        ("aud", good.replace(&format!("\"{AUDIENCE}\""), &format!("[\"{AUDIENCE}\"]"))),
        ("iat", good.replace("1790000000", "\"1790000000\"")),
    ] {
        assert_eq!(check(CHANNEL_TYP, &claims), Err(ChannelError::Claim(member)), "{claims}");
    }
    let short = good.replace(&exporter, &b64::url_encode(&[7; 31]));
    assert_eq!(check(CHANNEL_TYP, &short), Err(ChannelError::Exporter));
    assert_eq!(check(CHANNEL_TYP, &good.replace(&exporter, "")), Err(ChannelError::Exporter));
}

#[test]
fn a_genuine_rsa_proof_is_still_no_agents() {
    let key = crate::jose::rsa_fixture::SoftwareRsa::generate();
    let proof = prove(&key, &[7; 32], AUDIENCE, NOW).unwrap();
    assert_eq!(verify(&proof, &[7; 32], AUDIENCE, NOW).unwrap_err(), ChannelError::KeyType);
}
