//! What `machine` lets through and what it refuses.

use super::*;
use crate::quote::{QuoteEvidence, verify_quote};
use crate::simulated::{BASELINE_PCRS, NONCE, SimulatedTpm, activated, attested, enrolled, machine_key, now};

fn quote(tpm: &SimulatedTpm, machine: &Machine) -> VerifiedQuote {
    let statement = tpm.quote(&NONCE);
    let evidence =
        QuoteEvidence { attest: &statement.attest, signature: &statement.signature, pcr_values: &tpm.pcrs };
    verify_quote(&evidence, &machine.ak, &NONCE, &machine.reference, &machine.clock).unwrap()
}

#[test]
fn a_machine_is_stored_and_read_back_unchanged() {
    let tpm = SimulatedTpm::default();
    let machine = enrolled(&tpm, "m-1")
        .certify(&attested(&tpm, &enrolled(&tpm, "m-1"), &machine_key()), now())
        .unwrap();
    let text = serde_json::to_string(&machine).unwrap();
    assert_eq!(serde_json::from_str::<Machine>(&text).unwrap(), machine);
    assert_eq!(machine.reference.pcrs().len(), BASELINE_PCRS.len());
    assert!(serde_json::from_str::<Machine>(&text.replacen("\"id\"", "\"extra\":1,\"id\"", 1)).is_err());
}

#[test]
fn another_tpm_is_another_machine() {
    let tpm = SimulatedTpm::default();
    let machine = enrolled(&tpm, "m-1");
    assert_eq!(machine.recognizes(&activated(&tpm)), Ok(()));
    assert_eq!(
        machine.recognizes(&activated(&SimulatedTpm::default())),
        Err(MachineError::IdentityImmutable)
    );
    assert_eq!(machine.clone().lock(now()).recognizes(&activated(&tpm)), Err(MachineError::Locked));
    assert_eq!(machine.revoke(now()).recognizes(&activated(&tpm)), Err(MachineError::Revoked));
}

#[test]
fn a_new_key_ends_what_was_open_under_the_old_one() {
    let tpm = SimulatedTpm::default();
    let machine = enrolled(&tpm, "m-1");
    assert_eq!(machine.entry(), None);
    let (first, second) = (machine_key(), machine_key());
    let machine = machine.clone().certify(&attested(&tpm, &machine, &first), now()).unwrap();
    assert_eq!(machine.entry().unwrap().generation, 0);
    let machine = machine.clone().certify(&attested(&tpm, &machine, &first), now()).unwrap();
    assert_eq!(machine.entry().unwrap().generation, 0);
    let machine = machine.clone().certify(&attested(&tpm, &machine, &second), now()).unwrap();
    assert_eq!(machine.entry().unwrap().generation, 1);
    let other = SimulatedTpm::default();
    let foreign = attested(&other, &enrolled(&other, "m-1"), &machine_key());
    assert_eq!(machine.certify(&foreign, now()).unwrap_err(), MachineError::OtherMachine);
}

#[test]
fn a_claim_needs_a_certified_key_a_matching_quote_and_an_active_machine() {
    let tpm = SimulatedTpm::default();
    let machine = enrolled(&tpm, "m-1");
    let quote = quote(&tpm, &machine);
    assert_eq!(appraise_attestation(&machine, &quote, now()).unwrap_err(), MachineError::NoKey);
    let machine = machine.clone().certify(&attested(&tpm, &machine, &machine_key()), now()).unwrap();
    let claim = appraise_attestation(&machine, &quote, now()).unwrap();
    assert_eq!((claim.lvl, claim.reference.as_str()), (3, "baseline@v1"));
    assert_eq!((claim.att_time, claim.att_exp), (now().unix_secs(), now().unix_secs() + 300));
    assert_eq!(
        (claim.id, claim.sub, claim.ev),
        (machine.id.clone(), machine.spiffe.clone(), quote.evidence_hash())
    );

    let check = |machine: Machine, expected: MachineError| {
        assert_eq!(appraise_attestation(&machine, &quote, now()).unwrap_err(), expected);
        assert!(machine.attested(&quote, now()).is_err() || expected == MachineError::OtherMachine);
    };
    check(machine.clone().lock(now()), MachineError::Locked);
    check(machine.clone().revoke(now()), MachineError::Revoked);
    check(enrolled(&SimulatedTpm::default(), "m-1"), MachineError::OtherMachine);
    let newer = ReferenceValues::new("policy@v2", machine.reference.pcrs().clone()).unwrap();
    check(machine.with_reference(newer, now()), MachineError::OtherMachine);
}

#[test]
fn an_accepted_quote_moves_the_clock_forward() {
    let mut tpm = SimulatedTpm::default();
    let machine = enrolled(&tpm, "m-1");
    tpm.clock.clock += 500;
    let machine = machine.clone().attested(&quote(&tpm, &machine), now()).unwrap();
    assert_eq!((machine.clock.clock_info.clock, machine.attested_at), (1500, Some(now())));
}

#[test]
fn every_stop_and_start_bumps_the_generation_and_revoked_is_final() {
    let machine = enrolled(&SimulatedTpm::default(), "m-1");
    let locked = machine.lock(now());
    assert_eq!((locked.state, locked.generation), (MachineState::Locked, 1));
    let again = locked.clone().lock(now().plus_secs(1));
    assert_eq!(again, locked);
    let active = locked.unlock(now()).unwrap();
    assert_eq!((active.state, active.generation), (MachineState::Active, 2));
    let revoked = active.revoke(now());
    assert_eq!((revoked.state, revoked.generation), (MachineState::Revoked, 3));
    assert_eq!(revoked.clone().lock(now()), revoked);
    assert_eq!(revoked.clone().revoke(now().plus_secs(1)), revoked);
    assert_eq!(revoked.unlock(now()).unwrap_err(), MachineError::Revoked);
}

#[test]
fn what_was_attested_before_a_stop_is_outdated_by_it() {
    let (before, stop, start) = (now().plus_secs(-1), now(), now().plus_secs(5));
    let machine = enrolled(&SimulatedTpm::default(), "m-1");
    let check = |machine: &Machine, made_at: Timestamp, outdated: bool| {
        assert_eq!(machine.outdates(made_at), outdated, "{made_at:?} {:?}", machine.changed_at);
    };
    check(&machine, before, false);
    check(&machine.clone().lock(stop), before, true);
    let unlocked = machine.clone().lock(stop).unlock(start).unwrap();
    check(&unlocked, stop.plus_secs(1), true);
    check(&unlocked, start, false);
    // Not by an unlock that changed nothing, and not forgotten when the clock steps back.
    assert_eq!(machine.clone().unlock(start).unwrap(), machine);
    check(&unlocked.clone().lock(before), stop.plus_secs(1), true);
    check(&machine.clone().without_key(stop), before, true);
    assert_eq!(machine.clone().without_key(stop).key, None);
    check(&machine.with_reference(unlocked.reference, stop), before, true);
}
