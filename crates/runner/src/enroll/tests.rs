//! What `enroll` lets through and what it refuses.

use countersign_proto::x509;
use serde_json::json;

use super::*;
use crate::fake::World;
use crate::fake::authority::TOKEN;

fn leaf(pem: &[u8]) -> x509::CertFacts {
    use rustls::pki_types::pem::PemObject as _;
    x509::parse_der(&rustls::pki_types::CertificateDer::from_pem_slice(pem).unwrap()).unwrap()
}

#[tokio::test]
async fn a_machine_enrolls_with_its_tpm_and_its_certificate_is_for_the_key_in_it() {
    let world = World::start().await;
    let config = world.enroll_config(TOKEN);
    let enrolled = enroll(&config).await.unwrap();
    assert_eq!(enrolled.machine_id, "m-1");
    let key = machine_key(&world.tpm, &config.state.machine().unwrap()).await.unwrap();
    let leaf = leaf(&enrolled.certificate_pem);
    assert_eq!(leaf.names.uris, ["spiffe://td/machine/m-1"]);
    assert_eq!(leaf.spki_der, x509::p256_spki_der(key.point()));
    assert_eq!(config.state.certificate().unwrap(), enrolled.certificate_pem);

    let again = enroll(&config).await.unwrap_err();
    assert!(matches!(again, EnrollError::AlreadyEnrolled(_)), "{again}");
}

#[tokio::test]
async fn a_wrong_token_leaves_nothing_behind_and_says_what_to_do() {
    let world = World::start().await;
    let config = world.enroll_config("guess");
    let refused = enroll(&config).await.unwrap_err().to_string();
    assert!(
        refused.contains("invalid_enrollment_token") && refused.contains("ask an administrator"),
        "{refused}"
    );
    assert!(config.state.load_machine().unwrap().is_none());
    assert!(!refused.contains("guess") && !format!("{config:?}").contains("guess"));
}

#[tokio::test]
async fn a_tpm_of_an_unknown_manufacturer_is_refused() {
    let world = World::start().await;
    let other = crate::swtpm::SimulatedTpm::manufacture(&world.dir.path().join("other")).unwrap();
    let mut config = world.enroll_config(TOKEN);
    config.tpm = Tpm::open(crate::tpm::TpmLocation::Socket(other.socket())).unwrap();
    let refused = enroll(&config).await.unwrap_err().to_string();
    assert!(refused.contains("endorsement_untrusted"), "{refused}");
}

#[tokio::test]
async fn an_enrollment_that_broke_off_goes_on_without_a_second_token() {
    let world = World::start().await;
    let config = world.enroll_config(TOKEN);
    let broken = ("/acme/new-order", 503, json!({"error": "audit_unavailable"}));
    world.shared.authority.lock().interruptions.push_back(broken);
    let refused = enroll(&config).await.unwrap_err().to_string();
    assert!(refused.contains("audit_unavailable"), "{refused}");
    let before = config.state.machine().unwrap();
    enroll(&world.enroll_config("the token is spent")).await.unwrap();
    assert_eq!(config.state.machine().unwrap().machine_key, before.machine_key, "the same M");
}

#[tokio::test]
async fn a_nonce_that_was_forgotten_is_asked_for_again() {
    let world = World::start().await;
    world.shared.authority.lock().forget_nonces = true;
    enroll(&world.enroll_config(TOKEN)).await.unwrap();
}

#[tokio::test]
async fn urls_of_another_origin_are_not_followed() {
    let world = World::start().await;
    let other = World::start().await;
    let elsewhere = other.enroll_config(TOKEN).server;
    world.shared.authority.lock().directory = Some(json!({
        "newNonce": format!("{elsewhere}/acme/new-nonce"), "newAccount": format!("{elsewhere}/acme/new-account"),
        "newOrder": format!("{elsewhere}/acme/new-order")}));
    let refused = enroll(&world.enroll_config(TOKEN)).await.unwrap_err().to_string();
    assert!(refused.contains("another origin"), "{refused}");
}

#[tokio::test]
async fn a_refused_attestation_is_reported_with_its_reason() {
    let world = World::start().await;
    let config = world.enroll_config(TOKEN);
    let broken = ("/acme/new-order", 503, json!({"error": "audit_unavailable"}));
    world.shared.authority.lock().interruptions.push_back(broken);
    enroll(&config).await.unwrap_err();
    // A second TPM takes the folder over: M does not load there, and nothing is sent.
    let other = crate::swtpm::SimulatedTpm::manufacture(&world.dir.path().join("other")).unwrap();
    let mut stolen = world.enroll_config("none");
    stolen.tpm = Tpm::open(crate::tpm::TpmLocation::Socket(other.socket())).unwrap();
    let refused = enroll(&stolen).await.unwrap_err().to_string();
    assert!(refused.contains("does not belong to this TPM"), "{refused}");

    // A PCR changes nothing about a certify, but another attestation key certificate does.
    let mut machine = config.state.machine().unwrap();
    machine.ak_certificates.reverse();
    config.state.save_machine(&machine).unwrap();
    let refused = enroll(&config).await.unwrap_err().to_string();
    assert!(refused.contains("badAttestationStatement"), "{refused}");
}

#[tokio::test]
async fn a_renewed_certificate_is_another_one_for_the_same_key() {
    let world = World::start().await;
    let config = world.enroll_config(TOKEN);
    let first = enroll(&config).await.unwrap().certificate_pem;
    let key = machine_key(&world.tpm, &config.state.machine().unwrap()).await.unwrap();
    let client = Client::new(&config.ca_pem, Arc::new(MachineCertificate::default())).unwrap();
    let second = renew_certificate(&client, &config.state, &key).await.unwrap();
    let (first, second) = (leaf(&first), leaf(&second));
    assert_ne!(first.serial, second.serial);
    assert_eq!(first.spki_der, second.spki_der);
}
