//! The published JWS and JWK vectors: no invalid one accepted, every valid one accepted or explained.

use serde_json::Value as Json;

use super::compact::verify;
use super::{JwkError, KeySet, KeySetError, KeySource, MAX_TOKEN_BYTES, VerifyingKey};

fn groups(file: &str) -> Vec<Json> {
    let path = format!("{}/../../testdata/wycheproof/{file}", env!("CARGO_MANIFEST_DIR"));
    let mut file: Json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let Json::Array(groups) = file["testGroups"].take() else { panic!("groups") };
    groups
}

/// The key of a group: public where there is one, else the (symmetric) private one.
fn key(group: &Json) -> Vec<u8> {
    let key = if group["public"].is_object() { &group["public"] } else { &group["private"] };
    serde_json::to_vec(key).unwrap()
}

/// Runs every vector; answers the ids of valid ones that were refused, and how many were valid and accepted.
fn run(
    file: &str,
    total: usize,
    accepts: impl Fn(&Json, &str) -> Result<(), String>,
) -> (Vec<(u64, String)>, usize) {
    let (mut refused, mut accepted, mut seen) = (Vec::new(), 0, 0);
    for group in groups(file) {
        for test in group["tests"].as_array().unwrap() {
            seen += 1;
            let id = test["tcId"].as_u64().unwrap();
            let outcome = accepts(&group, test["jws"].as_str().unwrap());
            match (test["result"].as_str().unwrap(), outcome) {
                ("valid", Ok(())) => accepted += 1,
                ("valid", Err(why)) => refused.push((id, why)),
                ("invalid", Err(_)) => {}
                (result, Ok(())) => panic!("{file} {id} is {result} and was accepted: {test}"),
                (result, Err(_)) => panic!("{file} {id}: unknown result {result}"),
            }
        }
    }
    assert_eq!(seen, total);
    (refused, accepted)
}

#[test]
fn no_invalid_signature_is_accepted_and_every_refused_valid_one_is_explained() {
    let (refused, accepted) = run("json_web_signature_test.json", 401, |group, token| {
        let key =
            crate::json::parse(&key(group), &crate::json::Limits::DEFAULT).map_err(|e| e.to_string())?;
        let key = VerifyingKey::parse(&key).map_err(|error| error.to_string())?;
        verify(token, None, KeySource::Ready(&key), MAX_TOKEN_BYTES)
            .map(drop)
            .map_err(|error| error.to_string())
    });
    for (id, why) in &refused {
        let reason = match (id, why.as_str()) {
            (_, "jwk holds private material") => "HS256: symmetric keys are no keys here",
            (_, "unsupported key type or algorithm") => {
                "ES512 on P-521 (the vectors' JWKs even spell it ES521)"
            }
            // RFC 7520 Figure 20 is signed with PS384; the vectors' JWK says PS256, and the key decides.
            (346 | 350, "algorithm is not the key's") => "the key says PS256, the token PS384",
            _ => panic!("vector {id} refused: {why}"),
        };
        assert!(!reason.is_empty());
    }
    assert_eq!((refused.len(), accepted), (14, 32));
}

#[test]
fn no_invalid_key_is_accepted_and_only_symmetric_sets_are_refused() {
    let (refused, accepted) = run("json_web_key_test.json", 26, |group, token| {
        let bytes = key(group);
        let set = match KeySet::parse_jwks(&bytes) {
            Err(KeySetError::Malformed("no list of keys")) => {
                KeySet::parse_jwks(&[b"{\"keys\":[", &bytes[..], b"]}"].concat())
            }
            set => set,
        }
        .map_err(|error| match error {
            KeySetError::Key { source, .. } => source.to_string(),
            other => other.to_string(),
        })?;
        verify(token, None, KeySource::Set(&set), MAX_TOKEN_BYTES)
            .map(drop)
            .map_err(|error| error.to_string())
    });
    let symmetric = JwkError::Private.to_string();
    assert!(refused.iter().all(|(_, why)| *why == symmetric), "{refused:?}");
    assert_eq!((refused.len(), accepted), (4, 1));
}
