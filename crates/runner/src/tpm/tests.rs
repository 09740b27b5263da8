//! Everything here runs against a real TPM implementation in a process of its own.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use countersign_proto::tpm::{TpmsAttest, TpmtPublic, TpmtSignature, verify_signature};

use super::*;
use crate::swtpm::SimulatedTpm;

struct Machine {
    simulated: SimulatedTpm,
    tpm: Tpm,
    _dir: tempfile::TempDir,
}

fn machine() -> Machine {
    let dir = tempfile::tempdir().unwrap();
    let simulated = SimulatedTpm::manufacture(dir.path()).unwrap();
    let tpm = Tpm::open(TpmLocation::Socket(simulated.socket())).unwrap();
    Machine { simulated, tpm, _dir: dir }
}

fn signed_by(public: &[u8], attested: &[u8], signature: &[u8]) -> bool {
    let public = TpmtPublic::parse(public).unwrap();
    verify_signature(&public, attested, &TpmtSignature::parse(signature).unwrap()).is_ok()
}

#[test]
fn the_endorsement_key_made_from_the_template_is_the_one_in_the_certificate() {
    let machine = machine();
    let certificates = machine.tpm.endorsement_certificates().unwrap();
    let public = TpmtPublic::parse(&machine.tpm.endorsement_public().unwrap()).unwrap();
    let structures::Unique::Rsa(modulus) = public.unique else { panic!("not RSA") };
    assert_eq!(certificates.len(), 1);
    assert!(certificates[0].windows(modulus.len()).any(|window| window == modulus));
    assert_eq!(machine.simulated.ek_roots().unwrap().len(), 2);
}

#[test]
fn the_attestation_key_states_its_own_making_and_stays_the_same_key() {
    let machine = machine();
    let proof = machine.tpm.prove_attestation_key(b"fresh").unwrap();
    assert!(signed_by(&proof.public, &proof.creation.attest, &proof.creation.signature));
    let attest = TpmsAttest::parse(&proof.creation.attest).unwrap();
    assert_eq!(attest.extra_data, b"fresh");
    let again = machine.tpm.prove_attestation_key(b"again").unwrap();
    assert_eq!(again.public, proof.public);
}

#[test]
fn a_machine_key_is_certified_signs_and_occupies_no_slot_too_many() {
    let machine = machine();
    let attestation_key = machine.tpm.prove_attestation_key(&[]).unwrap().public;
    let key = machine.tpm.machine_key(machine.tpm.create_machine_key().unwrap()).unwrap();
    for round in 0..8_u8 {
        let certified = machine.tpm.certify(&key, &[round; 32]).unwrap();
        assert!(signed_by(&attestation_key, &certified.attest, &certified.signature));
        let attest = TpmsAttest::parse(&certified.attest).unwrap();
        let structures::Attested::Certify { name, .. } = attest.attested else { panic!("not a certify") };
        assert_eq!(name, structures::name(key.public()).unwrap());

        let fixed = key.sign_fixed(b"message").unwrap();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.point()).verify(b"message", &fixed).unwrap();
        let der = key.sign_der(b"message").unwrap();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.point()).verify(b"message", &der).unwrap();
        machine.tpm.quote(&[round; 32]).unwrap();
    }
    assert_eq!(machine.tpm.loaded_objects().unwrap(), 2);
    machine.tpm.create_machine_key().unwrap();
    key.sign_fixed(b"message").unwrap();
}

#[test]
fn a_quote_covers_the_pcrs_and_an_extension_shows() {
    let machine = machine();
    let attestation_key = machine.tpm.prove_attestation_key(&[]).unwrap().public;
    let before = machine.tpm.quote(b"nonce-1").unwrap();
    machine.tpm.extend(4, &[0x42; 32]).unwrap();
    let after = machine.tpm.quote(b"nonce-2").unwrap();
    for quote in [&before, &after] {
        assert!(signed_by(&attestation_key, &quote.attest, &quote.signature));
        let attest = TpmsAttest::parse(&quote.attest).unwrap();
        let structures::Attested::Quote { pcr_digest, .. } = attest.attested else { panic!("not a quote") };
        let values = quote.pcr_values.values().flatten().copied().collect::<Vec<_>>();
        assert_eq!(pcr_digest, countersign_proto::digest::Sha256Digest::of(&values).as_bytes());
    }
    let changed = QUOTED_PCRS.iter().filter(|pcr| before.pcr_values[pcr] != after.pcr_values[pcr]);
    assert_eq!(changed.collect::<Vec<_>>(), [&4]);
}

#[test]
fn the_attestation_key_refuses_to_sign_what_the_tpm_did_not_make() {
    let machine = machine();
    machine.tpm.prove_attestation_key(&[]).unwrap();
    let mut turn = machine.tpm.turn().unwrap();
    let handle = turn.attestation_key().unwrap();
    let refused = turn.commands.sign(handle, &[7; 32]).unwrap_err();
    assert!(matches!(refused, TpmError::Refused { command: "TPM2_Sign", code: 0x3E0 }), "{refused}");
}

/// MakeCredential by an independent implementation: the identity object and the encrypted secret for `name`.
fn make_credential(endorsement_public: &[u8], name: &[u8], secret: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let path = |file: &str| dir.path().join(file);
    let mut sized = u16::try_from(endorsement_public.len()).unwrap().to_be_bytes().to_vec();
    sized.extend_from_slice(endorsement_public);
    std::fs::write(path("ek.pub"), sized).unwrap();
    std::fs::write(path("secret"), secret).unwrap();
    let name = name.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let made = std::process::Command::new("tpm2_makecredential")
        .args(["-T", "none", "-n", &name, "-u"])
        .arg(path("ek.pub"))
        .arg("-s")
        .arg(path("secret"))
        .arg("-o")
        .arg(path("credential"))
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let file = std::fs::read(path("credential")).unwrap();
    // Magic and version, then two sized fields.
    let length = |at: usize| usize::from(u16::from_be_bytes([file[at], file[at + 1]]));
    let identity = file[10..10 + length(8)].to_vec();
    let second = 10 + identity.len();
    (identity, file[second + 2..second + 2 + length(second)].to_vec())
}

#[test]
fn a_credential_opens_only_for_the_key_it_names_on_the_tpm_it_was_made_for() {
    let (machine, other) = (machine(), machine());
    let endorsement = machine.tpm.endorsement_public().unwrap();
    let attestation_key = machine.tpm.prove_attestation_key(&[]).unwrap().public;
    let name = structures::name(&attestation_key).unwrap();
    let secret = b"sixteen or more bytes of secret.";

    let (identity, encrypted) = make_credential(&endorsement, &name, secret);
    assert_eq!(machine.tpm.activate_credential(&identity, &encrypted).unwrap(), secret);
    other.tpm.activate_credential(&identity, &encrypted).unwrap_err();

    let mut wrong = name;
    wrong[10] ^= 1;
    let (identity, encrypted) = make_credential(&endorsement, &wrong, secret);
    let refused = machine.tpm.activate_credential(&identity, &encrypted).unwrap_err();
    assert!(
        matches!(refused, TpmError::Refused { command: "TPM2_ActivateCredential", code: 0x1DF }),
        "{refused}"
    );
    assert_eq!(machine.tpm.loaded_objects().unwrap(), 1, "only the attestation key stays loaded");
}

#[test]
fn a_key_of_another_tpm_does_not_load_and_nothing_else_signs() {
    let (ours, theirs) = (machine(), machine());
    let blob = theirs.tpm.create_machine_key().unwrap();
    assert!(matches!(ours.tpm.machine_key(blob.clone()), Err(TpmError::ForeignKey)));
    assert!(theirs.tpm.machine_key(blob).is_ok());
}

#[test]
fn a_changed_blob_does_not_load() {
    let machine = machine();
    let blob = machine.tpm.create_machine_key().unwrap();
    for position in [2, blob.private().len() / 2, blob.private().len() - 1] {
        let mut private = blob.private().to_vec();
        private[position] ^= 1;
        let changed = MachineKeyBlob::new(blob.public().to_vec(), private);
        assert!(matches!(machine.tpm.machine_key(changed), Err(TpmError::ForeignKey)), "{position}");
    }
}

#[test]
fn a_busy_tpm_is_an_error_within_the_limit() {
    let machine = machine();
    // The simulator serves one client at a time; ours already holds it.
    let second = Tpm::open(TpmLocation::Socket(machine.simulated.socket()));
    assert!(matches!(second, Err(TpmError::Busy)));
}

#[test]
fn after_a_reboot_keys_load_again_and_without_power_there_is_no_signature() {
    let mut machine = machine();
    let key = machine.tpm.machine_key(machine.tpm.create_machine_key().unwrap()).unwrap();
    machine.simulated.reboot().unwrap();
    // The first command finds the conversation gone, the next begins a new one.
    let _ = key.sign_fixed(b"message");
    key.sign_fixed(b"message").unwrap();
    machine.simulated.power_off();
    let _ = key.sign_fixed(b"message");
    assert!(matches!(key.sign_fixed(b"message"), Err(TpmError::Unreachable { .. })));
}

#[test]
fn a_reboot_shows_in_the_counters_and_the_clock_goes_on() {
    let Machine { mut simulated, tpm, _dir } = machine();
    let clock = |tpm: &Tpm| TpmsAttest::parse(&tpm.quote(b"nonce").unwrap().attest).unwrap().clock_info;
    let before = clock(&tpm);
    drop(tpm);
    simulated.reboot().unwrap();
    let after = clock(&Tpm::open(TpmLocation::Socket(simulated.socket())).unwrap());
    assert_eq!(after.reset_count, before.reset_count + 1);
    assert!(after.clock >= before.clock);
}

#[test]
fn slots_left_full_by_another_client_are_emptied() {
    let machine = machine();
    {
        let mut turn = machine.tpm.turn().unwrap();
        for _ in 0..3 {
            turn.commands.create_primary(OWNER, &structures::srk_p256_template(), &[]).unwrap();
        }
    }
    let Machine { simulated, tpm, _dir } = machine;
    drop(tpm);
    let tpm = Tpm::open(TpmLocation::Socket(simulated.socket())).unwrap();
    assert_eq!(tpm.loaded_objects().unwrap(), 0);
}
