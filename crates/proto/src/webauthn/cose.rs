//! COSE public keys (RFC 9052 §7, RFC 9053 §7): ES256 on P-256 and `EdDSA` on Ed25519, nothing else.

use super::WebauthnError;
use crate::cbor::Item;
use crate::jose::PublicJwk;

const KEY_TYPE: i64 = 1;
const ALGORITHM: i64 = 3;
const CURVE: i64 = -1;
const X: i64 = -2;
const Y: i64 = -3;

/// The key, if it has exactly the members of its kind and is a valid point.
pub fn public_key(key: &Item) -> Result<PublicJwk, WebauthnError> {
    let number = |label| key.get_int(label).and_then(Item::as_i64);
    let members = key.as_map().map_or(0, <[_]>::len);
    match (number(KEY_TYPE), number(ALGORITHM), number(CURVE), members) {
        // EC2, ES256, P-256
        (Some(2), Some(-7), Some(1), 5) => {
            let mut point = [4_u8; 65];
            point[1..33].copy_from_slice(&coordinate(key, X)?);
            point[33..].copy_from_slice(&coordinate(key, Y)?);
            PublicJwk::from_p256_uncompressed(&point).map_err(|_| WebauthnError::PublicKey)
        }
        // OKP, EdDSA, Ed25519
        (Some(1), Some(-8), Some(6), 4) => {
            PublicJwk::from_ed25519(&coordinate(key, X)?).map_err(|_| WebauthnError::PublicKey)
        }
        _ => Err(WebauthnError::PublicKey),
    }
}

/// The inverse, for the software authenticator; `None` for RSA.
pub fn from_public_key(key: &PublicJwk) -> Option<Item> {
    let label = |label: i64| u64::try_from(label).map_or(Item::Neg(label), Item::Uint);
    let entry = |name: i64, value: Item| (label(name), value);
    match key {
        PublicJwk::P256 { x, y } => Some(Item::Map(vec![
            entry(KEY_TYPE, label(2)),
            entry(ALGORITHM, label(-7)),
            entry(CURVE, label(1)),
            entry(X, Item::Bytes(x.to_vec())),
            entry(Y, Item::Bytes(y.to_vec())),
        ])),
        PublicJwk::Ed25519 { x } => Some(Item::Map(vec![
            entry(KEY_TYPE, label(1)),
            entry(ALGORITHM, label(-8)),
            entry(CURVE, label(6)),
            entry(X, Item::Bytes(x.to_vec())),
        ])),
        PublicJwk::Rsa { .. } => None,
    }
}

fn coordinate(key: &Item, label: i64) -> Result<[u8; 32], WebauthnError> {
    key.get_int(label)
        .and_then(Item::as_bytes)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(WebauthnError::PublicKey)
}
