//! What `peer` lets through and what it refuses.

use countersign_proto::x509::{AlternativeNames, EKU_SERVER_AUTH, KeyUsageBits, PublicKeyKind};
use proptest::prelude::*;

use super::*;
use crate::simulated::{Rng, SimulatedTpm, enrolled, finalized, issuer, now, software_key};

/// A real machine certificate and its entry.
fn genuine() -> (Vec<u8>, MachineEntry) {
    let tpm = SimulatedTpm::default();
    let machine = enrolled(&tpm, "m-1");
    let (order, issuance) = finalized(&tpm, &machine);
    let der = issuer().issue_machine_certificate(issuance, &machine, now(), 3600, &Rng).unwrap().der;
    let crate::acme::OrderState::Processing { key, .. } = &order.state else { panic!() };
    let entry = machine.certify(key, now()).unwrap().entry().unwrap();
    (der, entry)
}

#[test]
fn an_active_machine_with_its_attested_key_is_verified() {
    let (der, entry) = genuine();
    let peer = PeerCertificate::from_der(&der).unwrap();
    let machine = appraise_peer(&peer, Some(&entry), now()).unwrap();
    assert_eq!((machine.id().as_str(), machine.generation()), ("m-1", 0));
    assert_eq!(machine.spiffe_id().as_str(), "spiffe://td.example/machine/m-1");
    assert_eq!(machine.thumbprint(), entry.jkt);
}

#[test]
fn every_request_asks_again_whether_the_machine_may_act() {
    let (der, entry) = genuine();
    let peer = PeerCertificate::from_der(&der).unwrap();
    let check = |entry: Option<MachineEntry>, at: Timestamp, code: &str| {
        assert_eq!(appraise_peer(&peer, entry.as_ref(), at).unwrap_err().code(), code);
    };
    check(None, now(), "machine.unknown");
    check(Some(MachineEntry { state: MachineState::Locked, ..entry.clone() }), now(), "machine.locked");
    check(Some(MachineEntry { state: MachineState::Revoked, ..entry.clone() }), now(), "machine.revoked");
    check(
        Some(MachineEntry { jkt: software_key().thumbprint(), ..entry.clone() }),
        now(),
        "pop.key_not_attested",
    );
    let other = SpiffeId::parse("spiffe://other.example/machine/m-1").unwrap();
    check(Some(MachineEntry { spiffe: other, ..entry.clone() }), now(), "machine.unknown");
    check(Some(entry.clone()), now().plus_secs(3601), "machine.cert_expired");
    check(Some(entry.clone()), now().plus_secs(-61), "machine.cert_expired");
    assert!(appraise_peer(&peer, Some(&entry), now().plus_secs(3600)).is_ok());
    assert!(appraise_peer(&peer, Some(&entry), now().plus_secs(-60)).is_ok());
}

#[test]
fn a_certificate_that_is_not_exactly_a_machines_svid_is_refused() {
    let facts = x509::parse_der(&genuine().0).unwrap();
    assert!(PeerCertificate::from_facts(&facts).is_ok());
    let check = |change: &dyn Fn(&mut CertFacts), expected: PeerCertificateError| {
        let mut facts = facts.clone();
        change(&mut facts);
        assert_eq!(PeerCertificate::from_facts(&facts).unwrap_err(), expected);
    };
    let uri = |text: &str| vec![text.to_owned()];
    let usage = facts.key_usage.unwrap();
    check(&|facts| facts.names = AlternativeNames::default(), PeerCertificateError::NotOneUri);
    check(&|facts| facts.names.uris.push(facts.names.uris[0].clone()), PeerCertificateError::NotOneUri);
    check(&|facts| facts.names.uris.push("https://a.example".to_owned()), PeerCertificateError::NotOneUri);
    for bad in [
        "spiffe://td.example",
        "spiffe://td.example/",
        "spiffe://td.example/machine/",
        "spiffe://td.example/machine/m-1/x",
        "spiffe://td.example/agent/m-1/run/run_1",
        "spiffe://TD.example/machine/m-1",
        "spiffe://td.example:443/machine/m-1",
        "spiffe://user@td.example/machine/m-1",
        "spiffe://td.example/machine/m%2d1",
        "spiffe://td.example//machine/m-1",
        "spiffe://td.example/./machine/m-1",
        "spiffe://td.example/machine/../machine/m-1",
        "spiffe://td.example/machine/m-1/",
        "spiffe://td.example/machine/m-1?x",
        "spiffe://td.example/machine/m-1#x",
        "spiffe://td.example/machine/m\u{e9}",
        "SPIFFE://td.example/machine/m-1",
        "https://td.example/machine/m-1",
    ] {
        check(&|facts| facts.names.uris = uri(bad), PeerCertificateError::NotAMachine);
    }
    check(&|facts| facts.is_ca = true, PeerCertificateError::MaySignCertificates);
    check(
        &|facts| facts.key_usage = Some(KeyUsageBits { key_cert_sign: true, ..usage }),
        PeerCertificateError::MaySignCertificates,
    );
    check(
        &|facts| facts.key_usage = Some(KeyUsageBits { crl_sign: true, ..usage }),
        PeerCertificateError::MaySignCertificates,
    );
    check(&|facts| facts.key_usage = None, PeerCertificateError::KeyUsage);
    check(
        &|facts| facts.key_usage = Some(KeyUsageBits { critical: false, ..usage }),
        PeerCertificateError::KeyUsage,
    );
    check(
        &|facts| facts.key_usage = Some(KeyUsageBits { digital_signature: false, ..usage }),
        PeerCertificateError::KeyUsage,
    );
    check(&|facts| facts.ekus.clear(), PeerCertificateError::ExtendedKeyUsage);
    check(&|facts| facts.ekus = vec![EKU_SERVER_AUTH.to_owned()], PeerCertificateError::ExtendedKeyUsage);
    check(&|facts| facts.has_san_critical = false, PeerCertificateError::Subject);
    check(&|facts| facts.public = PublicKeyKind::Other, PeerCertificateError::Key);
    check(&|facts| facts.public = PublicKeyKind::P256([4; 65]), PeerCertificateError::Key);
    check(&|facts| facts.version = 1, PeerCertificateError::Version);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = PeerCertificate::from_der(&bytes);
    }
}
