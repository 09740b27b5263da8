//! What `acme` lets through and what it refuses.

use countersign_proto::x509::parse_csr_der;
use proptest::prelude::*;
use rcgen::{CertificateParams, CustomExtension, DnType, SanType};

use super::*;
use crate::device_attest::DeviceAttestError;
use crate::machine::Machine;
use crate::simulated::{Rng, SimulatedTpm, account, attested, enrolled, machine_key, now, software_key};

fn open(machine: &Machine) -> Order {
    Order::open(&account(machine), "ord-1".to_owned(), machine.permanent_identifier.clone(), now(), &Rng)
        .unwrap()
}

fn kind<T: std::fmt::Debug>(outcome: Result<T, Box<Refused>>) -> (AcmeProblem, &'static str) {
    let refused = outcome.unwrap_err();
    (refused.problem.kind, refused.order.status())
}

#[test]
fn an_order_walks_from_pending_to_valid() {
    let tpm = SimulatedTpm::default();
    let machine = enrolled(&tpm, "m-1");
    let key = machine_key();
    let order = open(&machine);
    assert_eq!(order.status(), "pending");
    let order = order.answered(Ok(attested(&tpm, &machine, &key)), now()).unwrap();
    assert_eq!(order.status(), "ready");
    let request = parse_csr_der(&key.request(|_| {})).unwrap();
    let (order, _issuance) = order.finalize(&request, now()).unwrap();
    assert_eq!(order.status(), "processing");
    assert_eq!(order.certificate_pem(), None);
    let order = order.complete("0a".to_owned(), &[vec![1], vec![2]], now()).unwrap();
    assert_eq!(order.status(), "valid");
    assert_eq!(order.certificate_pem().unwrap().matches("BEGIN CERTIFICATE").count(), 2);
    let stored: Order = serde_json::from_str(&serde_json::to_string(&order).unwrap()).unwrap();
    assert_eq!(stored, order);
}

#[test]
fn an_account_is_opened_once_per_key_and_orders_its_own_machine_only() {
    let machine = enrolled(&SimulatedTpm::default(), "m-1");
    let eab =
        EabKey::open("kid-1".to_owned(), machine.id.clone(), machine.permanent_identifier.clone(), now());
    let late = eab.clone().bind("acc-1".to_owned(), software_key(), now().plus_secs(EAB_LIFETIME_SECS + 1));
    assert_eq!(late.unwrap_err().kind, AcmeProblem::Unauthorized);
    let (eab, account) = eab.bind("acc-1".to_owned(), software_key(), now()).unwrap();
    let again = eab.bind("acc-2".to_owned(), software_key(), now());
    assert_eq!(again.unwrap_err().kind, AcmeProblem::Unauthorized);

    let order = |account: &Account, identifier: &str| {
        let identifier = PermanentIdentifier::parse(identifier).unwrap();
        Order::open(account, "ord-1".to_owned(), identifier, now(), &Rng)
    };
    for other in ["m-2", "M-1", "m-1x"] {
        assert_eq!(order(&account, other).unwrap_err().kind, AcmeProblem::RejectedIdentifier);
    }
    let ours = order(&account, "m-1").unwrap();
    assert_ne!(ours.token, order(&account, "m-1").unwrap().token);
    assert!(countersign_proto::b64::url_decode(&ours.token).unwrap().len() >= 16);
    assert_eq!(ours.belongs_to(&account), Ok(()));
    let stranger = Account { id: "acc-2".to_owned(), ..account.clone() };
    let refused = ours.belongs_to(&stranger).unwrap_err();
    for ended in [account.clone().deactivate(), account.clone().revoke(), account.deactivate().revoke()] {
        assert_eq!(ours.belongs_to(&ended), Err(refused.clone()));
        assert_eq!(order(&ended, "m-1").unwrap_err().kind, AcmeProblem::Unauthorized);
    }
}

#[test]
fn a_failed_attestation_ends_the_order_for_good() {
    let tpm = SimulatedTpm::default();
    let machine = enrolled(&tpm, "m-1");
    let order = open(&machine).answered(Err(DeviceAttestError::Stale), now()).unwrap();
    assert_eq!(
        (order.status(), order.challenge_resource("https://ca.example").status.as_str()),
        ("invalid", "invalid")
    );
    let error = order.challenge_resource("https://ca.example").error.unwrap();
    assert_eq!(error["type"], "urn:ietf:params:acme:error:badAttestationStatement");
    let again = order.answered(Ok(attested(&tpm, &machine, &machine_key())), now());
    assert_eq!(kind(again), (AcmeProblem::Malformed, "invalid"));
}

#[test]
fn an_order_is_finalized_once_and_not_before_it_is_ready() {
    let tpm = SimulatedTpm::default();
    let machine = enrolled(&tpm, "m-1");
    let key = machine_key();
    let request = parse_csr_der(&key.request(|_| {})).unwrap();
    assert_eq!(kind(open(&machine).finalize(&request, now())), (AcmeProblem::OrderNotReady, "pending"));
    let ready = open(&machine).answered(Ok(attested(&tpm, &machine, &key)), now()).unwrap();
    let (processing, _issuance) = ready.finalize(&request, now()).unwrap();
    assert_eq!(
        kind(processing.clone().finalize(&request, now())),
        (AcmeProblem::OrderNotReady, "processing")
    );
    let valid = processing.complete("0a".to_owned(), &[], now()).unwrap();
    assert_eq!(kind(valid.clone().finalize(&request, now())), (AcmeProblem::OrderNotReady, "valid"));
    assert_eq!(
        kind(valid.clone().complete("0b".to_owned(), &[], now())),
        (AcmeProblem::OrderNotReady, "valid")
    );
    assert_eq!(valid.abandon(now()).status(), "valid");
}

#[test]
fn a_request_for_another_key_than_the_attested_one_ends_the_order() {
    let tpm = SimulatedTpm::default();
    let machine = enrolled(&tpm, "m-1");
    let ready = open(&machine).answered(Ok(attested(&tpm, &machine, &machine_key())), now()).unwrap();
    let other = parse_csr_der(&machine_key().request(|_| {})).unwrap();
    assert_eq!(kind(ready.finalize(&other, now())), (AcmeProblem::BadCsr, "invalid"));
}

#[test]
fn a_request_may_name_the_ordered_device_and_nothing_else() {
    let tpm = SimulatedTpm::default();
    let machine = enrolled(&tpm, "m-1");
    let key = machine_key();
    let check = |change: &dyn Fn(&mut CertificateParams), expected: Option<&'static str>| {
        let ready = open(&machine).answered(Ok(attested(&tpm, &machine, &key)), now()).unwrap();
        let request = parse_csr_der(&key.request(change)).unwrap();
        match (ready.finalize(&request, now()), expected) {
            (Ok(_), None) => {}
            (outcome, Some(status)) => assert_eq!(kind(outcome), (AcmeProblem::BadCsr, status)),
            (outcome, None) => panic!("{outcome:?}"),
        }
    };
    let named = |value: &str| {
        let name = countersign_proto::x509::permanent_identifier_der(value).unwrap();
        CustomExtension::from_oid_content(&[2, 5, 29, 17], crate::der::tlv(crate::der::SEQUENCE, &[&name]))
    };
    let unchanged = Some("ready");
    check(&|_| {}, None);
    check(&|params| params.custom_extensions.push(named("m-1")), None);
    for other in ["M-1", "m-1 ", "m-2", "m\u{2d}1\u{301}"] {
        check(&|params| params.custom_extensions.push(named(other)), unchanged);
    }
    check(
        &|params| params.subject_alt_names = vec![SanType::DnsName("a.example".try_into().unwrap())],
        unchanged,
    );
    check(&|params| params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())], unchanged);
    check(
        &|params| params.subject_alt_names = vec![SanType::Rfc822Name("a@b.example".try_into().unwrap())],
        unchanged,
    );
    let spiffe = "spiffe://td.example/machine/m-2";
    check(&|params| params.subject_alt_names = vec![SanType::URI(spiffe.try_into().unwrap())], unchanged);
    check(&|params| params.distinguished_name.push(DnType::CommonName, "admin"), unchanged);
    check(&|params| params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign], unchanged);
}

#[test]
fn an_expired_order_comes_to_nothing() {
    let tpm = SimulatedTpm::default();
    let machine = enrolled(&tpm, "m-1");
    let key = machine_key();
    let late = now().plus_secs(ORDER_LIFETIME_SECS + 1);
    let answered = open(&machine).answered(Ok(attested(&tpm, &machine, &key)), late);
    assert_eq!(kind(answered), (AcmeProblem::Malformed, "invalid"));
    let ready = open(&machine).answered(Ok(attested(&tpm, &machine, &key)), now()).unwrap();
    let request = parse_csr_der(&key.request(|_| {})).unwrap();
    assert_eq!(kind(ready.finalize(&request, late)), (AcmeProblem::Malformed, "invalid"));
}

#[test]
fn resources_show_the_state_at_urls_of_the_origin() {
    let machine = enrolled(&SimulatedTpm::default(), "m-1");
    let order = open(&machine);
    let resource = order.resource("https://ca.example");
    assert_eq!(resource.finalize, "https://ca.example/acme/order/ord-1/finalize");
    assert_eq!(resource.authorizations, ["https://ca.example/acme/authz/ord-1"]);
    assert_eq!((resource.certificate, resource.expires.as_deref()), (None, Some("2026-06-01T00:10:00Z")));
    let authorization = order.authorization_resource("https://ca.example");
    assert_eq!(authorization.challenges[0].url, "https://ca.example/acme/challenge/ord-1");
    assert_eq!(authorization.identifier.value, "m-1");
}

#[test]
fn instants_are_written_as_rfc_3339() {
    for (secs, text) in [
        (0, "1970-01-01T00:00:00Z"),
        (951_782_400, "2000-02-29T00:00:00Z"),
        (1_709_164_799, "2024-02-28T23:59:59Z"),
        (1_780_272_000, "2026-06-01T00:00:00Z"),
        (253_402_300_799, "9999-12-31T23:59:59Z"),
    ] {
        assert_eq!(rfc3339(Timestamp::from_unix_secs(secs)), text);
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Attest,
    Fail,
    Finalize,
    FinalizeOtherKey,
    Complete,
    Abandon,
    Wait,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    use Step::{Abandon, Attest, Complete, Fail, Finalize, FinalizeOtherKey, Wait};
    prop::collection::vec(
        prop::sample::select(vec![
            Attest,
            Attest,
            Fail,
            Finalize,
            Finalize,
            FinalizeOtherKey,
            Complete,
            Abandon,
            Wait,
        ]),
        0..12,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Against a small model of RFC 8555 §7.1.6: whatever is tried in whatever order, at most one issuance, only for
    /// the attested key, and never a way out of valid or invalid.
    #[test]
    fn no_sequence_of_steps_issues_twice_or_leaves_a_final_state(steps in steps()) {
        let tpm = SimulatedTpm::default();
        let machine = enrolled(&tpm, "m-1");
        let key = machine_key();
        let (ours, theirs) =
            (parse_csr_der(&key.request(|_| {})).unwrap(), parse_csr_der(&machine_key().request(|_| {})).unwrap());
        let mut order = open(&machine);
        let (mut model, mut issued, mut at) = ("pending", 0, now());
        for step in steps {
            let expired = at > order.expires_at;
            let (next, expected) = match step {
                Step::Attest => {
                    let next = order.answered(Ok(attested(&tpm, &machine, &key)), at);
                    (next.unwrap_or_else(|refused| refused.order), match model {
                        "pending" if expired => "invalid", "ready" if expired => "invalid",
                        "pending" => "ready", same => same,
                    })
                }
                Step::Fail => {
                    let next = order.answered(Err(DeviceAttestError::Stale), at);
                    (next.unwrap_or_else(|refused| refused.order), match model {
                        "pending" => "invalid", "ready" if expired => "invalid", same => same,
                    })
                }
                Step::Finalize => {
                    let next = order.finalize(&ours, at);
                    issued += usize::from(next.is_ok());
                    (next.map_or_else(|refused| refused.order, |(order, _)| order), match model {
                        "pending" | "ready" if expired => "invalid", "ready" => "processing", same => same,
                    })
                }
                Step::FinalizeOtherKey => {
                    let next = order.finalize(&theirs, at);
                    prop_assert!(next.is_err());
                    (next.unwrap_err().order, match model {
                        "pending" if expired => "invalid", "ready" => "invalid", same => same,
                    })
                }
                Step::Complete => {
                    let next = order.complete("0a".to_owned(), &[vec![1]], at);
                    (next.unwrap_or_else(|refused| refused.order), if model == "processing" { "valid" } else { model })
                }
                Step::Abandon => (order.abandon(at), if model == "valid" { "valid" } else { "invalid" }),
                Step::Wait => {
                    at = at.plus_secs(ORDER_LIFETIME_SECS / 2 + 1);
                    (order, model)
                }
            };
            order = next;
            model = expected;
            prop_assert_eq!(order.status(), model);
        }
        prop_assert!(issued <= 1);
    }
}
