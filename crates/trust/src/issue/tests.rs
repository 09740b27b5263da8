//! What `issue` lets through and what it refuses.

use countersign_proto::time::Timestamp;
use countersign_proto::x509::{CertFacts, EKU_AK, EKU_CLIENT_AUTH, EKU_SERVER_AUTH, KeyUsageBits, parse_der};

use super::*;
use crate::chain::{ChainError, Roots};
use crate::peer::PeerCertificate;
use crate::simulated::{Rng, SimulatedTpm, authority_key, enrolled, finalized, issuer, now, software_key};

const HOUR: i64 = 3600;
/// DER content of `clientAuth`.
const CLIENT_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];

fn facts(certificate: &IssuedCertificate) -> CertFacts {
    parse_der(&certificate.der).unwrap()
}

const SIGNS_ONLY: KeyUsageBits =
    KeyUsageBits { critical: true, digital_signature: true, key_cert_sign: false, crl_sign: false };

#[test]
fn a_root_signs_certificates_and_nothing_else_and_names_its_domain_without_a_path() {
    let domain = TrustDomain::parse("td.example").unwrap();
    let root = Issuer::self_signed_root("Machines", Some(&domain), &authority_key(), now(), 10 * HOUR, &Rng)
        .unwrap();
    let facts = parse_der(root.certificate_der()).unwrap();
    assert!(
        facts.is_ca && facts.key_usage.unwrap().key_cert_sign && !facts.key_usage.unwrap().digital_signature
    );
    assert_eq!(facts.names.uris, ["spiffe://td.example"]);
    assert!(PeerCertificate::from_der(root.certificate_der()).is_err());
}

#[test]
fn a_machine_certificate_is_an_svid_with_one_uri_and_is_accepted_by_its_root_only() {
    let tpm = SimulatedTpm::default();
    let machine = enrolled(&tpm, "m-1");
    let (ca, other) = (issuer(), issuer());
    let (_, issuance) = finalized(&tpm, &machine);
    let certificate = ca.issue_machine_certificate(issuance, &machine, now(), HOUR, &Rng).unwrap();
    let facts = facts(&certificate);
    assert_eq!(facts.names.uris, ["spiffe://td.example/machine/m-1"]);
    assert_eq!(facts.names.permanent_identifiers, ["m-1"]);
    assert_eq!((facts.names.dns.len(), facts.names.others, facts.version), (0, 0, 3));
    assert_eq!(facts.ekus, [EKU_CLIENT_AUTH, EKU_SERVER_AUTH]);
    assert_eq!(facts.key_usage, Some(SIGNS_ONLY));
    assert!(!facts.is_ca && facts.subject_empty && facts.has_san_critical);
    assert_eq!(facts.not_after, now().plus_secs(HOUR));
    assert_eq!(facts.serial, certificate.serial);
    assert_eq!(facts.serial.len(), 32);
    assert!(PeerCertificate::from_der(&certificate.der).is_ok());

    let verdict = |root: &Issuer, at: Timestamp| {
        let roots = Roots::from_der([root.certificate_der()]).unwrap();
        roots.verify(std::slice::from_ref(&certificate.der), CLIENT_AUTH, at)
    };
    assert_eq!(verdict(&ca, now()), Ok(()));
    assert_eq!(verdict(&other, now()), Err(ChainError::Untrusted));
    assert_eq!(verdict(&ca, now().plus_secs(HOUR)), Ok(()));
    assert_eq!(verdict(&ca, now().plus_secs(HOUR + 1)), Err(ChainError::Time));
    assert_eq!(verdict(&ca, now().plus_secs(-BACKDATE_SECS - 1)), Err(ChainError::Time));
}

#[test]
fn an_issuance_is_worth_nothing_for_another_or_a_stopped_machine() {
    let tpm = SimulatedTpm::default();
    let machine = enrolled(&tpm, "m-1");
    let other = enrolled(&SimulatedTpm::default(), "m-1");
    let renamed = enrolled(&tpm, "m-2");
    for wrong in [other, renamed, machine.clone().lock(now()), machine.clone().revoke(now())] {
        let (_, issuance) = finalized(&tpm, &machine);
        let outcome = issuer().issue_machine_certificate(issuance, &wrong, now(), HOUR, &Rng);
        assert_eq!(outcome, Err(IssueError::OtherMachine));
    }
}

#[test]
fn an_ak_certificate_says_what_webauthn_asks_for() {
    let machine = enrolled(&SimulatedTpm::default(), "m-1");
    let certificate = issuer().issue_ak_certificate(&machine, now(), HOUR, &Rng).unwrap();
    let facts = facts(&certificate);
    assert!(facts.subject_empty && facts.has_san_critical && !facts.is_ca && facts.version == 3);
    assert_eq!(facts.ekus, [EKU_AK]);
    assert_eq!(facts.names.tpm_identity(), Some(machine.tpm_identity()));
    assert_eq!(facts.names.permanent_identifiers, ["m-1"]);
    assert_eq!(facts.key_usage, Some(SIGNS_ONLY));
    assert!(PeerCertificate::from_der(&certificate.der).is_err());
}

#[test]
fn a_server_certificate_names_hosts_and_cannot_act_as_a_machine() {
    let ca = issuer();
    let issue = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        ca.issue_server_certificate(&software_key(), &names, now(), HOUR, &Rng)
    };
    let certificate = issue(&["gateway.example", "127.0.0.1", "::1"]).unwrap();
    let facts = facts(&certificate);
    assert_eq!(
        (facts.names.dns.as_slice(), facts.names.others),
        (["gateway.example".to_owned()].as_slice(), 2)
    );
    assert_eq!(facts.ekus, [EKU_SERVER_AUTH]);
    assert!(PeerCertificate::from_der(&certificate.der).is_err());
    for bad in [&[][..], &[""], &["Upper.example"], &["a b"], &["-a"], &["*.example"], &["a..b"], &["ex\0"]] {
        assert_eq!(issue(bad).unwrap_err(), IssueError::Names, "{bad:?}");
    }
}

#[test]
fn an_authority_is_read_back_only_with_its_own_key() {
    let key = authority_key();
    let root = Issuer::self_signed_root("Root", None, &key, now(), HOUR, &Rng).unwrap();
    let again = Issuer::from_der(root.certificate_der(), &key).unwrap();
    let server = |issuer: &Issuer| {
        let names = ["a.example".to_owned()];
        issuer.issue_server_certificate(&software_key(), &names, now(), HOUR, &Rng).unwrap()
    };
    let roots = Roots::from_der([root.certificate_der()]).unwrap();
    let server_auth: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];
    assert_eq!(roots.verify(&[server(&again).der], server_auth, now()), Ok(()));
    assert_eq!(
        Issuer::from_der(root.certificate_der(), &authority_key()).unwrap_err(),
        IssueError::Authority
    );
    assert_eq!(Issuer::from_der(&server(&root).der, &key).unwrap_err(), IssueError::Authority);
    assert_eq!(format!("{root:?}").find("key"), None);
}

#[test]
fn no_certificate_outlives_its_authority_and_serials_never_repeat() {
    let ca = Issuer::self_signed_root("Root", None, &authority_key(), now(), HOUR, &Rng).unwrap();
    let issue = |at: Timestamp, lifetime: i64| {
        ca.issue_server_certificate(&software_key(), &["a.example".to_owned()], at, lifetime, &Rng)
    };
    assert_eq!(issue(now(), 10 * HOUR).unwrap().not_after, now().plus_secs(HOUR));
    assert_eq!(issue(now().plus_secs(HOUR), HOUR).unwrap_err(), IssueError::Validity);
    assert_eq!(issue(now(), 0).unwrap_err(), IssueError::Validity);
    assert_eq!(issue(Timestamp::from_unix_secs(-5), HOUR).unwrap_err(), IssueError::Validity);
    assert_ne!(issue(now(), HOUR).unwrap().serial, issue(now(), HOUR).unwrap().serial);
}
