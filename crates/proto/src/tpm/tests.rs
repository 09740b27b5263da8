//! What `tpm` lets through and what it refuses.

use proptest::prelude::*;

use super::*;

#[test]
fn the_endorsement_policy_is_policy_secret_of_the_endorsement_hierarchy() {
    // Part 3 §23.2: policyDigest' = H(policyDigest ‖ TPM_CC_PolicySecret ‖ name), then H(that ‖ policyRef).
    let first = HashAlg::Sha256.digest(&[&[0; 32], &0x151_u32.to_be_bytes(), &RH_ENDORSEMENT.to_be_bytes()]);
    assert_eq!(ek_rsa2048().auth_policy, HashAlg::Sha256.digest(&[&first]));
}

#[test]
fn templates_have_the_profile_attributes_and_read_back() {
    for (template, bits) in [
        (ek_rsa2048(), 0x0003_00b2),
        (ek_ecc_p256(), 0x0003_00b2),
        (srk_p256(), 0x0003_0472),
        (ak_p256(), 0x0005_0472),
        (machine_key_p256(), 0x0004_0072),
    ] {
        assert_eq!(template.attributes.bits(), bits);
        assert_eq!(TpmtPublic::parse(&template.to_bytes().unwrap()).unwrap(), template);
    }
    assert_eq!(ek_rsa2048_template().len(), 314);
}

#[test]
fn a_public_area_with_anything_added_or_missing_does_not_parse() {
    let bytes = ak_p256_template();
    for cut in 0..bytes.len() {
        assert!(TpmtPublic::parse(&bytes[..cut]).is_err());
    }
    let mut longer = bytes;
    longer.push(0);
    assert_eq!(TpmtPublic::parse(&longer), Err(TpmError::TrailingBytes));
}

#[test]
fn weak_or_foreign_algorithms_are_refused_by_name() {
    let check = |offset: usize, value: u16, expected: TpmError| {
        let mut bytes = ak_p256_template();
        bytes[offset..offset + 2].copy_from_slice(&value.to_be_bytes());
        assert_eq!(TpmtPublic::parse(&bytes), Err(expected));
    };
    check(0, 0x0008, TpmError::UnsupportedAlgorithm(0x0008));
    check(2, alg::SHA1, TpmError::UnsupportedHash(alg::SHA1));
    check(4, 0x8005, TpmError::InvalidValue); // reserved attribute bit 31
    check(14, alg::SHA1, TpmError::UnsupportedHash(alg::SHA1));
    check(16, 0x0001, TpmError::UnsupportedCurve(0x0001)); // P-192
    check(16, 0x0010, TpmError::UnsupportedCurve(0x0010)); // BN P256
}

#[test]
fn a_pcr_selection_lists_its_registers_in_order() {
    let selection = PcrSelection::of(alg::SHA256, [7, 0, 16, 4]).unwrap();
    assert_eq!(selection.bitmap, [0x91, 0x00, 0x01]);
    assert_eq!(selection.pcrs().collect::<Vec<_>>(), [0, 4, 7, 16]);
    assert!(PcrSelection::of(alg::SHA256, [24]).is_err());
}

fn quote() -> TpmsAttest {
    TpmsAttest {
        qualified_signer: vec![1; 34],
        extra_data: vec![2; 32],
        clock_info: ClockInfo { clock: 5, reset_count: 6, restart_count: 7, safe: true },
        firmware_version: 8,
        attested: Attested::Quote {
            pcr_select: vec![PcrSelection::of(alg::SHA256, [0, 7]).unwrap()],
            pcr_digest: vec![3; 32],
        },
    }
}

#[test]
fn an_attest_blob_reads_back_and_needs_the_magic() {
    let bytes = quote().to_bytes().unwrap();
    assert_eq!(TpmsAttest::parse(&bytes).unwrap(), quote());
    let mut forged = bytes.clone();
    forged[0] = 0;
    assert_eq!(TpmsAttest::parse(&forged), Err(TpmError::NotGenerated));
    let mut other = bytes;
    other[5] = 0x14;
    assert_eq!(TpmsAttest::parse(&other), Err(TpmError::UnsupportedAttest(0x8014)));
}

#[test]
fn a_certify_blob_for_p256_has_the_length_seen_on_a_real_tpm() {
    let certify = TpmsAttest {
        attested: Attested::Certify { name: vec![0; 34], qualified_name: vec![0; 34] },
        ..quote()
    };
    // 173 bytes were seen with a 32-byte qualifying hash... magic 4 + type 2 + 36 + 34 + 17 + 8 + 36 + 36.
    assert_eq!(certify.to_bytes().unwrap().len(), 173);
}

fn signed_by_p256(hash: HashAlg) -> (TpmtPublic, TpmtSignature) {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let point = key.public_key().as_ref();
    let public = TpmtPublic {
        unique: Unique::Ecc(EccPoint { x: point[1..33].to_vec(), y: point[33..].to_vec() }),
        ..ak_p256()
    };
    let raw = key.sign(&aws_lc_rs::rand::SystemRandom::new(), b"message").unwrap();
    (public, TpmtSignature::Ecdsa { hash, r: raw.as_ref()[..32].to_vec(), s: raw.as_ref()[32..].to_vec() })
}

#[test]
fn a_signature_verifies_only_under_the_scheme_of_its_key() {
    let (public, signature) = signed_by_p256(HashAlg::Sha256);
    assert_eq!(verify_signature(&public, b"message", &signature), Ok(()));
    assert_eq!(verify_signature(&public, b"massage", &signature), Err(TpmError::BadSignature));
    let (public, signature) = signed_by_p256(HashAlg::Sha384);
    assert_eq!(verify_signature(&public, b"message", &signature), Err(TpmError::BadSignature));
    let unfixed = TpmtPublic {
        params: Params::Ecc { symmetric: Symmetric::Null, scheme: Scheme::Null, curve: curve::P256 },
        ..public
    };
    assert_eq!(verify_signature(&unfixed, b"message", &signature), Err(TpmError::BadSignature));
}

#[test]
fn a_signature_with_sha1_does_not_parse() {
    let mut out = Writer::new();
    out.u16(alg::RSASSA).u16(alg::SHA1).sized(&[0; 256]);
    assert_eq!(TpmtSignature::parse(&out.finish().unwrap()), Err(TpmError::UnsupportedHash(alg::SHA1)));
}

#[test]
fn a_writer_refuses_what_does_not_fit_its_length() {
    let mut out = Writer::new();
    out.sized(&[0; MAX_SIZED + 1]);
    assert_eq!(out.finish(), Err(TpmError::TooLong));
}

proptest! {
    #[test]
    fn no_bytes_make_a_parser_panic_and_accepted_bytes_encode_to_themselves(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(value) = TpmtPublic::parse(&bytes) { prop_assert_eq!(value.to_bytes().unwrap(), bytes.clone()); }
        if let Ok(value) = TpmsAttest::parse(&bytes) { prop_assert_eq!(value.to_bytes().unwrap(), bytes.clone()); }
        if let Ok(value) = TpmtSignature::parse(&bytes) { prop_assert_eq!(value.to_bytes().unwrap(), bytes.clone()); }
        if let Ok(value) = TpmsCreationData::parse(&bytes) { prop_assert_eq!(value.to_bytes().unwrap(), bytes.clone()); }
    }

    #[test]
    fn one_changed_byte_of_a_valid_structure_never_panics_and_never_has_two_encodings(at in 0_usize..1000, to in any::<u8>()) {
        for mut bytes in [ek_rsa2048_template(), ak_p256_template(), quote().to_bytes().unwrap()] {
            let at = at % bytes.len();
            bytes[at] = to;
            if let Ok(value) = TpmtPublic::parse(&bytes) { prop_assert_eq!(value.to_bytes().unwrap(), bytes.clone()); }
            if let Ok(value) = TpmsAttest::parse(&bytes) { prop_assert_eq!(value.to_bytes().unwrap(), bytes.clone()); }
        }
    }
}
