//! What `endorsement` lets through and what it refuses.

use countersign_proto::tpm::{Unique, ek_rsa2048};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa};

use super::*;
use crate::simulated::{Manufacturer, SimulatedTpm, ek_spki, now, other_ek_modulus};

fn verdict(
    chain: &[Vec<u8>],
    ek: &TpmtPublic,
    roots: &Roots,
    listed: &EkAllowList,
) -> Result<Endorsement, EndorsementError> {
    appraise_endorsement(chain, &ek.to_bytes().unwrap(), roots, listed, now())
        .map(|key| key.endorsement().clone())
}

#[test]
fn an_endorsement_key_is_named_by_its_key_and_nothing_else() {
    let tpm = SimulatedTpm::default();
    assert_eq!(ek_digest(&tpm.ek_public), Some(Sha256Digest::of(&ek_spki())));
    let mut described_otherwise = tpm.ek_public;
    described_otherwise.auth_policy = vec![0; 32];
    assert_eq!(ek_digest(&described_otherwise), Some(Sha256Digest::of(&ek_spki())));
    assert_eq!(ek_digest(&ek_rsa2048()), None);
}

#[test]
fn a_certified_key_is_endorsed_only_by_a_configured_maker() {
    let tpm = SimulatedTpm::default();
    let (maker, stranger) = (Manufacturer::default(), Manufacturer::default());
    let chain = maker.endorse(&tpm.ek_public, |_| {});
    let check =
        |chain: &[Vec<u8>], roots: &Roots| verdict(chain, &tpm.ek_public, roots, &EkAllowList::default());
    assert_eq!(check(&chain, &maker.roots()), Ok(Endorsement::Certificate { tpm: None }));
    assert_eq!(check(&chain, &stranger.roots()), Err(ChainError::Untrusted.into()));
    assert_eq!(check(&chain, &Roots::default()), Err(ChainError::Untrusted.into()));
    assert_eq!(check(&chain[..1], &maker.roots()), Err(ChainError::Untrusted.into()));
    assert_eq!(check(&[], &maker.roots()), Err(EndorsementError::Unendorsed));
    assert_eq!(check(&vec![chain[0].clone(); 7], &maker.roots()), Err(ChainError::Size.into()));
    assert_eq!(check(&[vec![0x30, 0]], &maker.roots()), Err(ChainError::Malformed.into()));
}

#[test]
fn a_certificate_that_is_no_endorsement_certificate_endorses_nothing() {
    let (tpm, maker) = (SimulatedTpm::default(), Manufacturer::default());
    let check = |change: fn(&mut CertificateParams), expected: EndorsementError| {
        let chain = maker.endorse(&tpm.ek_public, change);
        assert_eq!(verdict(&chain, &tpm.ek_public, &maker.roots(), &EkAllowList::default()), Err(expected));
    };
    check(|leaf| leaf.extended_key_usages.clear(), EndorsementError::NotAnEndorsementCertificate);
    check(
        |leaf| leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
        EndorsementError::Chain(ChainError::Untrusted),
    );
    // An issuing authority with the same usage: `webpki` refuses it as an end entity.
    check(
        |leaf| leaf.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained),
        EndorsementError::Chain(ChainError::Untrusted),
    );
    check(
        |leaf| leaf.not_after = rcgen::date_time_ymd(2026, 5, 31),
        EndorsementError::Chain(ChainError::Time),
    );
}

#[test]
fn the_certificate_of_a_genuine_tpm_does_not_endorse_another_key() {
    let (tpm, maker) = (SimulatedTpm::default(), Manufacturer::default());
    let chain = maker.endorse(&tpm.ek_public, |_| {});
    let attacker = TpmtPublic { unique: Unique::Rsa(other_ek_modulus()), ..ek_rsa2048() };
    assert_eq!(
        verdict(&chain, &attacker, &maker.roots(), &EkAllowList::default()),
        Err(EndorsementError::KeyMismatch)
    );
}

#[test]
fn a_listed_key_needs_no_certificate_and_a_listed_key_only() {
    let tpm = SimulatedTpm::default();
    let listed: EkAllowList = [Sha256Digest::of(&ek_spki())].into_iter().collect();
    assert_eq!(verdict(&[], &tpm.ek_public, &Roots::default(), &listed), Ok(Endorsement::AllowList {}));
    let other = TpmtPublic { unique: Unique::Rsa(other_ek_modulus()), ..ek_rsa2048() };
    assert_eq!(verdict(&[], &other, &Roots::default(), &listed), Err(EndorsementError::Unendorsed));
}

#[test]
fn only_a_storage_key_made_by_a_tpm_can_be_an_endorsement_key() {
    let tpm = SimulatedTpm::default();
    let listed: EkAllowList = [Sha256Digest::of(&ek_spki())].into_iter().collect();
    for bits in [
        Attributes::resident(Attributes::DECRYPT),
        Attributes::resident(Attributes::RESTRICTED | Attributes::DECRYPT | Attributes::SIGN),
        Attributes::from_bits(Attributes::RESTRICTED | Attributes::DECRYPT).unwrap(),
    ] {
        let ek = TpmtPublic { attributes: bits, ..tpm.ek_public.clone() };
        assert_eq!(verdict(&[], &ek, &Roots::default(), &listed), Err(EndorsementError::Attributes));
    }
}
