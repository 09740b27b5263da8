//! The few DER values that we write ourselves, because our certificates need names that no library offers.
//!
//! Writing only. Lengths up to 65535 bytes; everything here is far shorter.

use countersign_proto::tpm::{Params, TpmtPublic, Unique, curve, p256_uncompressed};
use countersign_proto::x509::p256_spki_der;

/// `INTEGER`.
pub const INTEGER: u8 = 0x02;
/// `BIT STRING`.
pub const BIT_STRING: u8 = 0x03;
/// `UTF8String`.
pub const UTF8_STRING: u8 = 0x0c;
/// `SEQUENCE`.
pub const SEQUENCE: u8 = 0x30;
/// `SET`.
pub const SET: u8 = 0x31;
/// `OBJECT IDENTIFIER`.
pub const OID: u8 = 0x06;

/// A tag, the length and the concatenated `parts`.
pub fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = vec![tag];
    // Two length bytes suffice for what we write; a longer value would give bytes that no parser accepts.
    let [high, low] = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    match length {
        0..=0x7f => out.push(low),
        0x80..=0xff => out.extend([0x81, low]),
        _ => out.extend([0x82, high, low]),
    }
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

/// The `SubjectPublicKeyInfo` of a TPM key; `None` for a template or a malformed key.
pub fn spki(public: &TpmtPublic) -> Option<Vec<u8>> {
    match (&public.params, &public.unique) {
        (Params::Ecc { curve: curve::P256, .. }, Unique::Ecc(_)) => {
            p256_uncompressed(public).map(|point| p256_spki_der(&point))
        }
        (Params::Ecc { curve: curve::P384, .. }, Unique::Ecc(point)) => {
            // id-ecPublicKey, secp384r1
            const ALGORITHM: [u8; 18] = [
                0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81,
                0x04, 0x00, 0x22,
            ];
            let (x, y) = (padded::<48>(&point.x)?, padded::<48>(&point.y)?);
            Some(tlv(SEQUENCE, &[&ALGORITHM, &tlv(BIT_STRING, &[&[0, 4], &x, &y])]))
        }
        (Params::Rsa { key_bits, exponent, .. }, Unique::Rsa(modulus)) => {
            if modulus.len() != usize::from(key_bits / 8)
                || modulus.first().is_none_or(|first| first & 0x80 == 0)
            {
                return None;
            }
            let exponent = if *exponent == 0 { 65_537_u32 } else { *exponent };
            Some(rsa_spki(modulus, &exponent.to_be_bytes()))
        }
        (Params::Ecc { .. } | Params::Rsa { .. }, _) => None,
    }
}

/// The `SubjectPublicKeyInfo` of an RSA key for any use.
pub fn rsa_spki(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    // rsaEncryption, NULL
    const ALGORITHM: [u8; 15] =
        [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
    let key = tlv(SEQUENCE, &[&unsigned(modulus), &unsigned(exponent)]);
    tlv(SEQUENCE, &[&ALGORITHM, &tlv(BIT_STRING, &[&[0], &key])])
}

/// An `INTEGER` that is not negative.
fn unsigned(number: &[u8]) -> Vec<u8> {
    let digits = &number[number.iter().take_while(|byte| **byte == 0).count()..];
    let sign: &[u8] = if digits.first().is_none_or(|first| first & 0x80 != 0) { &[0] } else { &[] };
    tlv(INTEGER, &[sign, digits])
}

fn padded<const N: usize>(number: &[u8]) -> Option<[u8; N]> {
    let mut out = [0; N];
    out[N.checked_sub(number.len())?..].copy_from_slice(number);
    Some(out)
}
