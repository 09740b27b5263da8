//! What `activation` lets through and what it refuses.

use countersign_proto::tpm::{ak_p256, ek_ecc_p256, ek_rsa2048};

use super::*;
use crate::simulated::{Rng, SimulatedTpm, Statement, endorsed_key, now, token_digest, verified_ak};

fn verdict(tpm: &SimulatedTpm, creation_data: &[u8], statement: &Statement) -> Result<VerifiedAk, AkError> {
    let evidence = AkEvidence {
        public: &tpm.ak.public.to_bytes().unwrap(),
        creation_data,
        creation_attest: &statement.attest,
        creation_signature: &statement.signature,
    };
    check_ak(&evidence, &token_digest())
}

fn verdict_on(template: TpmtPublic) -> Result<(), AkError> {
    let tpm = SimulatedTpm::with_ak(template);
    let creation_data = tpm.creation_data().to_bytes().unwrap();
    let statement = tpm.certify_creation(&token_digest(), &creation_data);
    verdict(&tpm, &creation_data, &statement).map(|ak| assert_eq!(ak.name(), tpm.ak.public.name()))
}

#[test]
fn an_attestation_key_may_sign_only_what_its_tpm_made() {
    let check = |bits: u32, expected: Result<(), AkError>| {
        let attributes = Attributes::from_bits(bits).unwrap();
        assert_eq!(verdict_on(TpmtPublic { attributes, ..ak_p256() }), expected, "{attributes:?}");
    };
    let good = ak_p256().attributes.bits();
    check(good, Ok(()));
    check(good & !Attributes::RESTRICTED, Err(AkError::NotRestricted));
    check(good & !Attributes::SIGN, Err(AkError::NotRestricted));
    check(good | Attributes::DECRYPT, Err(AkError::NotRestricted));
    check(good | Attributes::X509_SIGN, Err(AkError::NotRestricted));
    check(good & !Attributes::FIXED_TPM, Err(AkError::NotResident));
    check(good & !Attributes::FIXED_PARENT, Err(AkError::NotResident));
    check(good & !Attributes::SENSITIVE_DATA_ORIGIN, Err(AkError::NotResident));
}

#[test]
fn an_attestation_key_has_a_fixed_scheme_that_fits_it() {
    let with = |scheme: Scheme| TpmtPublic {
        params: Params::Ecc { symmetric: Symmetric::Null, scheme, curve: curve::P256 },
        ..ak_p256()
    };
    assert_eq!(verdict_on(with(Scheme::Null)), Err(AkError::WeakKey));
    let sha384 = Scheme::Signing { scheme: countersign_proto::tpm::alg::ECDSA, hash: HashAlg::Sha384 };
    assert_eq!(verdict_on(with(sha384)), Err(AkError::WeakKey));
}

#[test]
fn a_creation_statement_counts_for_one_key_one_request_and_its_own_data() {
    let tpm = SimulatedTpm::default();
    let data = tpm.creation_data().to_bytes().unwrap();
    let good = tpm.certify_creation(&token_digest(), &data);
    assert!(verdict(&tpm, &data, &good).is_ok());

    let other_token = tpm.certify_creation(&Sha256Digest::of(b"another token"), &data);
    assert_eq!(verdict(&tpm, &data, &other_token).unwrap_err(), AkError::Stale);
    let other_data = tpm.certify_creation(&token_digest(), b"other data");
    assert_eq!(verdict(&tpm, &data, &other_data).unwrap_err(), AkError::CreationMismatch);
    let certify = tpm.certify(&tpm.ak.public, token_digest().as_bytes());
    assert_eq!(verdict(&tpm, &data, &certify).unwrap_err(), AkError::CreationMismatch);
    let stranger = SimulatedTpm::default();
    let by_stranger = stranger.certify_creation(&token_digest(), &data);
    assert_eq!(verdict(&tpm, &data, &by_stranger).unwrap_err(), AkError::Structure(TpmError::BadSignature));

    let mut elsewhere = tpm.creation_data();
    elsewhere.parent_name = countersign_proto::tpm::RH_OWNER.to_be_bytes().to_vec();
    let elsewhere = elsewhere.to_bytes().unwrap();
    let statement = tpm.certify_creation(&token_digest(), &elsewhere);
    assert_eq!(verdict(&tpm, &elsewhere, &statement).unwrap_err(), AkError::WrongHierarchy);

    let mut signer = tpm.attest(
        token_digest().as_bytes(),
        Attested::Creation {
            object_name: tpm.ak.public.name(),
            creation_hash: Sha256Digest::of(&data).as_bytes().to_vec(),
        },
    );
    signer.qualified_signer = tpm.ak.public.name();
    assert_eq!(verdict(&tpm, &data, &tpm.sign(&signer)).unwrap_err(), AkError::CreationMismatch);
}

#[test]
fn only_the_tpm_with_both_keys_learns_the_secret() {
    let tpm = SimulatedTpm::default();
    let secret = ActivationSecret::generate(&Rng);
    let blob = make_credential(&endorsed_key(&tpm), &verified_ak(&tpm), &secret, &Rng).unwrap();
    assert_eq!(tpm.activate(&blob).unwrap(), secret.0.as_slice());
    // The same EK with another AK: the name does not fit.
    assert_eq!(SimulatedTpm::default().activate(&blob), None);
    let mut changed = blob;
    *changed.id_object.last_mut().unwrap() ^= 1;
    assert_eq!(tpm.activate(&changed), None);
}

#[test]
fn an_activation_ends_with_its_first_answer_or_its_time() {
    let tpm = SimulatedTpm::default();
    let start = || begin(endorsed_key(&tpm), verified_ak(&tpm), now(), &Rng).unwrap();
    let (pending, blob) = start();
    assert!(pending.confirm(&tpm.activate(&blob).unwrap(), now().plus_secs(60)).is_ok());
    let (pending, blob) = start();
    let late = pending.confirm(&tpm.activate(&blob).unwrap(), now().plus_secs(61));
    assert_eq!(late.unwrap_err(), ActivationError::Expired);
    let ((pending, _), (_, other_blob)) = (start(), start());
    let answer = tpm.activate(&other_blob).unwrap();
    assert_eq!(pending.confirm(&answer, now()).unwrap_err(), ActivationError::WrongSecret);
    let (pending, _) = start();
    assert_eq!(pending.confirm(&[], now()).unwrap_err(), ActivationError::WrongSecret);
}

#[test]
fn an_elliptic_endorsement_key_learns_the_secret_too() {
    // Part 1 §C.6.4 from the TPM's side: shared point, KDFe, and then as for RSA.
    let key = agreement::PrivateKey::generate(&agreement::ECDH_P256).unwrap();
    let point = key.compute_public_key().unwrap();
    let (x, y) = point.as_ref()[1..].split_at(32);
    let public =
        TpmtPublic { unique: Unique::Ecc(EccPoint { x: x.to_vec(), y: y.to_vec() }), ..ek_ecc_p256() };
    let (seed, encrypted) = ecdh_seed(&public, curve::P256).unwrap();

    let mut reader = countersign_proto::tpm::Reader::new(&encrypted);
    let (their_x, their_y) = (reader.sized().unwrap(), reader.sized().unwrap());
    let peer = [&[4], their_x, their_y].concat();
    let peer = agreement::UnparsedPublicKey::new(&agreement::ECDH_P256, peer);
    let again = agreement::agree(&key, peer, (), |z| {
        Ok(HashAlg::Sha256.digest(&[&[0, 0, 0, 1], z, b"IDENTITY\0", their_x, x]))
    });
    assert_eq!(again.unwrap(), seed.as_slice());
}

#[test]
fn an_endorsement_key_that_is_no_key_is_an_error() {
    assert_eq!(rsa_seed(&ek_rsa2048(), &Rng).unwrap_err(), CredentialError);
    assert_eq!(ecdh_seed(&ek_ecc_p256(), curve::P256).unwrap_err(), CredentialError);
}

#[test]
fn kdfa_spans_more_than_one_block_and_starts_like_a_short_one() {
    let long = kdfa(HashAlg::Sha256, b"key", "LABEL", b"u", b"v", 512);
    assert_eq!(long.len(), 64);
    assert_ne!(long[..32], long[32..]);
    assert_eq!(kdfa(HashAlg::Sha256, b"key", "LABEL", b"u", b"v", 128).len(), 16);
}
