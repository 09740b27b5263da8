//! What `device_attest` lets through and what it refuses.

use countersign_proto::acme::key_authorization;
use countersign_proto::tpm::{Params, TpmtPublic, ak_p256, curve, machine_key_p256};
use countersign_proto::x509::{AlternativeNames, KeyUsageBits};
use proptest::prelude::*;

use super::*;
use crate::issue::Issuer;
use crate::simulated::{
    Rng, SimulatedTpm, Statement, TpmKey, enrolled, issuer, machine_key, now, software_key,
};

struct Scene {
    tpm: SimulatedTpm,
    machine: Machine,
    ca: Issuer,
    key: TpmKey,
    key_authorization: String,
}

impl Scene {
    fn new() -> Self {
        let tpm = SimulatedTpm::default();
        Self {
            machine: enrolled(&tpm, "m-1"),
            ca: issuer(),
            key: machine_key(),
            key_authorization: key_authorization("token", &software_key()),
            tpm,
        }
    }

    fn extra_data(&self) -> Vec<u8> {
        attestation_digest(&self.key_authorization).as_bytes().to_vec()
    }

    fn certified(&self) -> Statement {
        self.tpm.certify(&self.key.public, &self.extra_data())
    }

    fn statement(&self, of: Statement) -> TpmStatement {
        TpmStatement {
            alg: -7,
            x5c: vec![self.ca.issue_ak_certificate(&self.machine, now(), 3600, &Rng).unwrap().der],
            sig: of.signature,
            cert_info: of.attest,
            pub_area: self.key.public.to_bytes().unwrap(),
        }
    }

    fn verdict(&self, statement: &TpmStatement) -> Result<AttestedKey, DeviceAttestError> {
        let ak_roots = Roots::from_der([self.ca.certificate_der()]).unwrap();
        let expected = Expectation {
            key_authorization: &self.key_authorization,
            ak_roots: &ak_roots,
            machine: &self.machine,
            now: now(),
        };
        verify(statement, &expected)
    }

    fn refuses(&self, statement: &TpmStatement, expected: DeviceAttestError) {
        assert_eq!(self.verdict(statement).unwrap_err(), expected);
    }
}

#[test]
fn a_key_certified_by_the_machines_ak_for_this_challenge_is_attested() {
    let scene = Scene::new();
    let key = scene.verdict(&scene.statement(scene.certified())).unwrap();
    assert_eq!(Some(key.jwk()), p256_point(&scene.key.public).as_ref());
    assert_eq!(key.ak_name(), scene.machine.ak.name());
}

#[test]
fn a_statement_of_another_kind_or_without_the_magic_attests_nothing() {
    let scene = Scene::new();
    let quote = scene.tpm.quote(&scene.extra_data());
    scene.refuses(&scene.statement(quote), DeviceAttestError::NotCertify);
    let mut forged = scene.certified().attest;
    forged[0] ^= 1;
    let forged = Statement { signature: scene.tpm.ak.sign(&forged), attest: forged };
    scene.refuses(&scene.statement(forged), DeviceAttestError::Structure(TpmError::NotGenerated));
}

#[test]
fn a_statement_signed_below_another_parent_attests_nothing() {
    let scene = Scene::new();
    let certified = TpmsAttest::parse(&scene.certified().attest).unwrap();
    let elsewhere = TpmsAttest { qualified_signer: vec![0; 34], ..certified };
    scene.refuses(&scene.statement(scene.tpm.sign(&elsewhere)), DeviceAttestError::AkMismatch);
}

#[test]
fn a_statement_answers_one_challenge_of_one_account() {
    let scene = Scene::new();
    let check = |text: &str| {
        let statement = scene.tpm.certify(&scene.key.public, attestation_digest(text).as_bytes());
        scene.refuses(&scene.statement(statement), DeviceAttestError::Stale);
    };
    check("token");
    check(&key_authorization("token", &software_key()));
    check(&key_authorization("old-token", &software_key()));
    let raw = scene.tpm.certify(&scene.key.public, &scene.key_authorization.as_bytes()[..32]);
    scene.refuses(&scene.statement(raw), DeviceAttestError::Stale);
}

#[test]
fn the_algorithm_is_the_one_that_was_used_and_sha1_is_none() {
    let scene = Scene::new();
    for alg in [-35, -257, -37, -65_535, -8, 0, 7] {
        let statement = TpmStatement { alg, ..scene.statement(scene.certified()) };
        scene.refuses(&statement, DeviceAttestError::Algorithm);
    }
    let mut out = countersign_proto::tpm::Writer::new();
    out.u16(alg::RSASSA).u16(alg::SHA1).sized(&[1; 256]);
    let rs1 = TpmStatement { alg: -65_535, sig: out.finish().unwrap(), ..scene.statement(scene.certified()) };
    scene.refuses(&rs1, DeviceAttestError::Structure(TpmError::UnsupportedHash(alg::SHA1)));
}

#[test]
fn a_key_that_may_leave_the_tpm_or_do_more_than_sign_is_refused() {
    let good = machine_key_p256().attributes.bits();
    let check = |template: TpmtPublic, expected: bool| {
        let mut scene = Scene::new();
        scene.key = TpmKey::new(template);
        let outcome = scene.verdict(&scene.statement(scene.certified()));
        assert_eq!(outcome.map(|_| ()).ok().is_some(), expected);
        if let Err(error) = scene.verdict(&scene.statement(scene.certified())) {
            assert_eq!(error, DeviceAttestError::KeyAttributes);
        }
    };
    let with =
        |bits: u32| TpmtPublic { attributes: Attributes::from_bits(bits).unwrap(), ..machine_key_p256() };
    check(with(good), true);
    check(with(good & !Attributes::FIXED_TPM), false);
    check(with(good & !Attributes::FIXED_PARENT), false);
    check(with(good & !Attributes::SENSITIVE_DATA_ORIGIN), false);
    check(with(good & !Attributes::SIGN), false);
    check(with(good | Attributes::RESTRICTED), false);
    check(with(good | Attributes::DECRYPT), false);
    check(ak_p256(), false);
    let sha384 = Scheme::Signing { scheme: alg::ECDSA, hash: HashAlg::Sha384 };
    let params = Params::Ecc { symmetric: Symmetric::Null, scheme: sha384, curve: curve::P256 };
    check(TpmtPublic { params, ..machine_key_p256() }, false);
}

#[test]
fn a_statement_about_one_key_does_not_attest_another() {
    let scene = Scene::new();
    let other = machine_key().public.to_bytes().unwrap();
    let statement = TpmStatement { pub_area: other, ..scene.statement(scene.certified()) };
    scene.refuses(&statement, DeviceAttestError::NameMismatch);
}

#[test]
fn the_evidence_must_name_the_ordered_device() {
    let scene = Scene::new();
    let mut renamed = scene.machine.clone();
    renamed.permanent_identifier = countersign_proto::acme::PermanentIdentifier::parse("M-1").unwrap();
    let certificate = scene.ca.issue_ak_certificate(&renamed, now(), 3600, &Rng).unwrap().der;
    let statement = TpmStatement { x5c: vec![certificate], ..scene.statement(scene.certified()) };
    scene.refuses(&statement, DeviceAttestError::IdentifierMismatch);
}

#[test]
fn another_machine_or_another_authority_cannot_attest() {
    let scene = Scene::new();
    let other = SimulatedTpm::default();
    let other_machine = enrolled(&other, "m-1");
    let by_other = other.certify(&scene.key.public, &scene.extra_data());
    let others_certificate = scene.ca.issue_ak_certificate(&other_machine, now(), 3600, &Rng).unwrap().der;
    scene.refuses(
        &TpmStatement { x5c: vec![others_certificate], ..scene.statement(by_other) },
        DeviceAttestError::AkMismatch,
    );
    let by_other = other.certify(&scene.key.public, &scene.extra_data());
    scene.refuses(&scene.statement(by_other), DeviceAttestError::Structure(TpmError::BadSignature));

    let foreign = issuer().issue_ak_certificate(&scene.machine, now(), 3600, &Rng).unwrap().der;
    scene.refuses(
        &TpmStatement { x5c: vec![foreign], ..scene.statement(scene.certified()) },
        DeviceAttestError::Chain(ChainError::Untrusted),
    );
    let expired =
        scene.ca.issue_ak_certificate(&scene.machine, now().plus_secs(-7200), 3600, &Rng).unwrap().der;
    scene.refuses(
        &TpmStatement { x5c: vec![expired], ..scene.statement(scene.certified()) },
        DeviceAttestError::Chain(ChainError::Time),
    );
    scene.refuses(
        &TpmStatement { x5c: vec![], ..scene.statement(scene.certified()) },
        DeviceAttestError::Chain(ChainError::Size),
    );
}

#[test]
fn an_ak_certificate_breaks_no_rule() {
    let scene = Scene::new();
    let facts = x509::parse_der(&scene.statement(scene.certified()).x5c[0]).unwrap();
    assert_eq!(check_ak_form(&facts), Ok(()));
    let check = |change: &dyn Fn(&mut CertFacts), rule: &'static str| {
        let mut facts = facts.clone();
        change(&mut facts);
        assert_eq!(check_ak_form(&facts), Err(DeviceAttestError::AkCertificate(rule)));
    };
    check(&|facts| facts.version = 1, "version");
    check(&|facts| facts.subject_empty = false, "subject");
    check(&|facts| facts.has_san_critical = false, "names");
    check(&|facts| facts.names = AlternativeNames::default(), "names");
    check(&|facts| facts.ekus.clear(), "extended key usage");
    check(&|facts| facts.ekus = vec!["2.23.133.8.1".to_owned()], "extended key usage");
    check(&|facts| facts.is_ca = true, "basic constraints");
    let signs = KeyUsageBits { key_cert_sign: true, ..facts.key_usage.unwrap() };
    check(&|facts| facts.key_usage = Some(signs), "basic constraints");
    // Among several usages the right one may stand anywhere.
    let mut several = facts.clone();
    several.ekus = vec!["1.2.3".to_owned(), EKU_AK.to_owned()];
    assert_eq!(check_ak_form(&several), Ok(()));
}

#[test]
fn a_tpm_that_went_back_in_time_cannot_attest() {
    let mut scene = Scene::new();
    scene.tpm.clock.reset_count -= 1;
    scene.refuses(&scene.statement(scene.certified()), DeviceAttestError::ClockRollback);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn one_changed_byte_never_attests_anything(part in 0_usize..4, at in 0_usize..10_000, flip in 1_u8..) {
        let scene = Scene::new();
        let mut statement = scene.statement(scene.certified());
        let bytes = match part {
            0 => &mut statement.x5c[0],
            1 => &mut statement.sig,
            2 => &mut statement.cert_info,
            _ => &mut statement.pub_area,
        };
        let at = at % bytes.len();
        bytes[at] ^= flip;
        prop_assert!(scene.verdict(&statement).is_err());
    }
}
