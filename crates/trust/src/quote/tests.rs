//! What `quote` lets through and what it refuses.

use countersign_proto::tpm::HashAlg;
use proptest::prelude::*;

use super::*;
use crate::simulated::{BASELINE_PCRS, NONCE, SimulatedTpm, Statement, enrolled};

fn verdict(tpm: &SimulatedTpm, statement: &Statement) -> Result<VerifiedQuote, QuoteError> {
    verdict_with(tpm, statement, &tpm.pcrs, &NONCE)
}

fn verdict_with(
    tpm: &SimulatedTpm,
    statement: &Statement,
    pcr_values: &PcrValues,
    nonce: &[u8],
) -> Result<VerifiedQuote, QuoteError> {
    let machine = enrolled(tpm, "m-1");
    let evidence = QuoteEvidence { attest: &statement.attest, signature: &statement.signature, pcr_values };
    verify_quote(&evidence, &machine.ak, nonce, &machine.reference, &machine.clock)
}

#[test]
fn a_fresh_quote_of_the_expected_state_counts() {
    let tpm = SimulatedTpm::default();
    let quote = verdict(&tpm, &tpm.quote(&NONCE)).unwrap();
    assert_eq!((quote.reference(), quote.rebooted()), ("baseline@v1", false));
    assert_eq!(quote.ak_name(), tpm.ak.public.name());
}

#[test]
fn a_quote_answers_one_nonce_and_there_must_be_one() {
    let tpm = SimulatedTpm::default();
    let check = |signed: &[u8], expected: &[u8], error: QuoteError| {
        assert_eq!(verdict_with(&tpm, &tpm.quote(signed), &tpm.pcrs, expected), Err(error));
    };
    check(&[8; 32], &NONCE, QuoteError::StaleNonce);
    check(&NONCE[..31], &NONCE, QuoteError::StaleNonce);
    check(&[], &[], QuoteError::NoNonce);
    check(&NONCE[..15], &NONCE[..15], QuoteError::NoNonce);
}

#[test]
fn a_statement_of_another_kind_or_key_is_no_quote() {
    let tpm = SimulatedTpm::default();
    assert_eq!(verdict(&tpm, &tpm.certify(&tpm.ak.public, &NONCE)), Err(QuoteError::NotAQuote));
    let creation = tpm.certify_creation(&Sha256Digest::from_bytes(NONCE), b"");
    assert_eq!(verdict(&tpm, &creation), Err(QuoteError::NotAQuote));
    let other = SimulatedTpm::default();
    assert_eq!(verdict(&tpm, &other.quote(&NONCE)), Err(QuoteError::Structure(TpmError::BadSignature)));
    let mut attest = tpm.attest(&NONCE, tpm.quoted());
    attest.qualified_signer = vec![0; 34];
    assert_eq!(verdict(&tpm, &tpm.sign(&attest)), Err(QuoteError::SignerMismatch));
    // The AK signs anything in this simulation; a blob without the magic still is not a TPM's.
    let mut forged = tpm.quote(&NONCE).attest;
    forged[0] = 0;
    let forged = Statement { signature: tpm.ak.sign(&forged), attest: forged };
    assert_eq!(verdict(&tpm, &forged), Err(QuoteError::Structure(TpmError::NotGenerated)));
}

#[test]
fn exactly_the_expected_pcrs_are_selected_supplied_and_quoted() {
    let tpm = SimulatedTpm::default();
    let digest = |values: &PcrValues| {
        let values: Vec<&[u8]> = values.values().map(|value| value.as_bytes().as_slice()).collect();
        HashAlg::Sha256.digest(&values)
    };
    let quote = |pcr_select: Vec<PcrSelection>, pcr_digest: Vec<u8>| {
        tpm.sign(&tpm.attest(&NONCE, Attested::Quote { pcr_select, pcr_digest }))
    };
    let sha256 = |pcrs: &[u8]| PcrSelection::of(alg::SHA256, pcrs.iter().copied()).unwrap();
    let check = |select: Vec<PcrSelection>, supplied: &PcrValues, expected: QuoteError| {
        let statement = quote(select, digest(supplied));
        assert_eq!(verdict_with(&tpm, &statement, supplied, &NONCE), Err(expected));
    };
    let all = tpm.pcrs.clone();
    let mut without_seven = all.clone();
    without_seven.remove(&7);
    let mut with_eight = all.clone();
    with_eight.insert(8, Sha256Digest::of(b"extra"));

    check(vec![sha256(&BASELINE_PCRS[..7])], &all, QuoteError::PcrNotCovered);
    check(vec![sha256(&BASELINE_PCRS[..7])], &without_seven, QuoteError::PcrNotCovered);
    check(vec![sha256(&BASELINE_PCRS)], &without_seven, QuoteError::PcrNotCovered);
    check(vec![sha256(&[0, 1, 2, 3, 4, 5, 6, 7, 8])], &with_eight, QuoteError::PcrNotCovered);
    check(vec![sha256(&BASELINE_PCRS)], &with_eight, QuoteError::PcrNotCovered);
    check(vec![], &all, QuoteError::PcrNotCovered);
    check(vec![sha256(&[])], &PcrValues::new(), QuoteError::PcrNotCovered);
    check(vec![PcrSelection::of(alg::SHA1, BASELINE_PCRS).unwrap()], &all, QuoteError::PcrNotCovered);
    check(vec![sha256(&BASELINE_PCRS), sha256(&BASELINE_PCRS)], &all, QuoteError::PcrNotCovered);
    let mut lied = all.clone();
    lied.insert(7, Sha256Digest::of(b"what the attacker wishes"));
    let statement = tpm.quote(&NONCE);
    assert_eq!(verdict_with(&tpm, &statement, &lied, &NONCE), Err(QuoteError::DigestMismatch));
}

#[test]
fn a_changed_state_is_named_by_its_register() {
    let mut tpm = SimulatedTpm::default();
    let machine = enrolled(&tpm, "m-1");
    tpm.pcrs.insert(4, Sha256Digest::of(b"another boot loader"));
    let statement = tpm.quote(&NONCE);
    let evidence =
        QuoteEvidence { attest: &statement.attest, signature: &statement.signature, pcr_values: &tpm.pcrs };
    let outcome = verify_quote(&evidence, &machine.ak, &NONCE, &machine.reference, &machine.clock);
    assert_eq!(outcome, Err(QuoteError::PcrMismatch(4)));
}

#[test]
fn clock_counters_and_firmware_never_go_back() {
    let check = |clock: u64,
                 reset_count: u32,
                 restart_count: u32,
                 safe: bool,
                 firmware_version: u64,
                 expected: bool| {
        let last = ClockState {
            clock_info: ClockInfo { clock: 1000, reset_count: 5, restart_count: 2, safe: true },
            firmware_version: 10,
        };
        let next = ClockState {
            clock_info: ClockInfo { clock, reset_count, restart_count, safe },
            firmware_version,
        };
        assert_eq!(last.is_followed_by(&next), expected, "{next:?}");
    };
    check(1000, 5, 2, true, 10, true);
    check(1001, 5, 3, true, 11, true);
    check(999, 5, 2, true, 10, false);
    check(999, 5, 2, false, 10, false);
    check(5000, 5, 1, true, 10, false);
    check(5000, 4, 9, true, 10, false);
    check(5000, 5, 2, true, 9, false);
    check(1000, 6, 0, true, 10, true);
    check(900, 6, 0, true, 10, false);
    check(900, 6, 0, false, 10, true);
}

#[test]
fn a_rollback_is_refused_and_a_reboot_is_told() {
    let mut tpm = SimulatedTpm::default();
    let machine = enrolled(&tpm, "m-1");
    let verdict = |tpm: &SimulatedTpm| {
        let statement = tpm.quote(&NONCE);
        let evidence = QuoteEvidence {
            attest: &statement.attest,
            signature: &statement.signature,
            pcr_values: &tpm.pcrs,
        };
        verify_quote(&evidence, &machine.ak, &NONCE, &machine.reference, &machine.clock)
    };
    tpm.clock.reset_count += 1;
    assert!(verdict(&tpm).unwrap().rebooted());
    tpm.clock.reset_count -= 2;
    assert_eq!(verdict(&tpm), Err(QuoteError::ClockRollback));
}

#[test]
fn reference_values_that_prove_nothing_do_not_exist() {
    let of = |pcrs: &[u8]| {
        ReferenceValues::new("x", pcrs.iter().map(|pcr| (*pcr, Sha256Digest::of(b""))).collect()).map(|_| ())
    };
    assert_eq!(of(&[0, 7]), Ok(()));
    assert_eq!(of(&[]), Err(ReferenceError::Empty));
    assert_eq!(of(&[0, 16]), Err(ReferenceError::Unsuitable(16)));
    assert_eq!(of(&[23]), Err(ReferenceError::Unsuitable(23)));
    assert_eq!(of(&[24]), Err(ReferenceError::Unsuitable(24)));
    assert!(serde_json::from_str::<ReferenceValues>(r#"{"name":"x","pcrs":{}}"#).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn one_changed_byte_of_a_quote_never_counts(at in 0_usize..10_000, flip in 1_u8..) {
        let tpm = SimulatedTpm::default();
        let mut statement = tpm.quote(&NONCE);
        let at = at % statement.attest.len();
        statement.attest[at] ^= flip;
        prop_assert!(verdict(&tpm, &statement).is_err());
    }
}
