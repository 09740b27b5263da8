//! The keys that countersign makes in a TPM, as templates for `TPM2_CreatePrimary` and `TPM2_Create`.
//!
//! The endorsement key follows the TCG EK Credential Profile, because only then is it the key in the certificate.

use super::{Attributes, EccPoint, HashAlg, Params, Scheme, Symmetric, TpmtPublic, Unique, alg, curve};

/// `PolicyA` with SHA-256 (TCG EK Credential Profile, B.3.3): `TPM2_PolicySecret(TPM_RH_ENDORSEMENT)`.
const EK_POLICY_A_SHA256: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd,
    0x52, 0xd7, 0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
];

const ENDORSEMENT: u32 = Attributes::ADMIN_WITH_POLICY | Attributes::RESTRICTED | Attributes::DECRYPT;
const ES256: Scheme = Scheme::Signing { scheme: alg::ECDSA, hash: HashAlg::Sha256 };

/// RSA-2048 endorsement key, template L-1 (TCG EK Credential Profile, B.3.3).
#[must_use]
pub fn ek_rsa2048() -> TpmtPublic {
    TpmtPublic {
        name_alg: HashAlg::Sha256,
        attributes: Attributes::resident(ENDORSEMENT),
        auth_policy: EK_POLICY_A_SHA256.to_vec(),
        params: Params::Rsa {
            symmetric: Symmetric::AesCfb(128),
            scheme: Scheme::Null,
            key_bits: 2048,
            exponent: 0,
        },
        unique: Unique::Rsa(vec![0; 256]),
    }
}

/// P-256 endorsement key, template L-2 (TCG EK Credential Profile, B.3.4).
#[must_use]
pub fn ek_ecc_p256() -> TpmtPublic {
    p256(
        Attributes::resident(ENDORSEMENT),
        EK_POLICY_A_SHA256.to_vec(),
        Symmetric::AesCfb(128),
        Scheme::Null,
        32,
    )
}

/// Attestation key: a restricted P-256 signing key, primary in the endorsement hierarchy, so that it is the same
/// key as long as the hierarchy's seed is and its counters are not obfuscated.
#[must_use]
pub fn ak_p256() -> TpmtPublic {
    let bits = Attributes::USER_WITH_AUTH | Attributes::NO_DA | Attributes::RESTRICTED | Attributes::SIGN;
    p256(Attributes::resident(bits), Vec::new(), Symmetric::Null, ES256, 0)
}

/// Storage root key P-256 (TCG TPM v2.0 Provisioning Guidance, 7.5.1), parent of the machine key.
#[must_use]
pub fn srk_p256() -> TpmtPublic {
    let bits = Attributes::USER_WITH_AUTH | Attributes::NO_DA | Attributes::RESTRICTED | Attributes::DECRYPT;
    p256(Attributes::resident(bits), Vec::new(), Symmetric::AesCfb(128), Scheme::Null, 32)
}

/// Machine key M: signs what the runner gives it (TLS, tokens), and cannot leave the TPM.
#[must_use]
pub fn machine_key_p256() -> TpmtPublic {
    p256(
        Attributes::resident(Attributes::USER_WITH_AUTH | Attributes::SIGN),
        Vec::new(),
        Symmetric::Null,
        ES256,
        0,
    )
}

/// [`ek_rsa2048`] as `TPMT_PUBLIC` bytes.
#[must_use]
pub fn ek_rsa2048_template() -> Vec<u8> {
    encode(&ek_rsa2048())
}

/// [`ak_p256`] as `TPMT_PUBLIC` bytes.
#[must_use]
pub fn ak_p256_template() -> Vec<u8> {
    encode(&ak_p256())
}

/// [`srk_p256`] as `TPMT_PUBLIC` bytes.
#[must_use]
pub fn srk_p256_template() -> Vec<u8> {
    encode(&srk_p256())
}

/// [`machine_key_p256`] as `TPMT_PUBLIC` bytes.
#[must_use]
pub fn machine_key_p256_template() -> Vec<u8> {
    encode(&machine_key_p256())
}

#[expect(
    clippy::expect_used,
    reason = "the templates above are constants with matching type and key and fields far below the limit"
)]
fn encode(template: &TpmtPublic) -> Vec<u8> {
    template.to_bytes().expect("a template of this file encodes")
}

fn p256(
    attributes: Attributes,
    auth_policy: Vec<u8>,
    symmetric: Symmetric,
    scheme: Scheme,
    unique_len: usize,
) -> TpmtPublic {
    TpmtPublic {
        name_alg: HashAlg::Sha256,
        attributes,
        auth_policy,
        params: Params::Ecc { symmetric, scheme, curve: curve::P256 },
        unique: Unique::Ecc(EccPoint { x: vec![0; unique_len], y: vec![0; unique_len] }),
    }
}
