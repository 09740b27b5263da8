//! What `attestation_client` lets through and what it refuses.

use super::*;
use crate::jose::SoftwareP256;

const ATTESTER: &str = "https://as.example/attest";
const ISSUER: &str = "https://as.example";
const NOW: Timestamp = Timestamp::from_unix_secs(1_790_000_000);

struct Scene {
    attester: SoftwareP256,
    machine: SoftwareP256,
    keys: KeySet,
    client: AgentId,
}

fn scene() -> Scene {
    let attester = SoftwareP256::generate().unwrap();
    Scene {
        keys: KeySet::from_keys(vec![("att-1".into(), attester.public_jwk())]).unwrap(),
        machine: SoftwareP256::generate().unwrap(),
        client: AgentId::parse("build-bot").unwrap(),
        attester,
    }
}

fn claim() -> MachineClaim {
    MachineClaim {
        id: MachineId::parse("m-17").unwrap(),
        sub: SpiffeId::parse("spiffe://td/machine/m-17").unwrap(),
        lvl: 3,
        att_time: NOW.unix_secs() - 10,
        att_exp: NOW.unix_secs() + 290,
        reference: "pcr-policy@v12".into(),
        ev: Sha256Digest::of(b"evidence"),
    }
}

impl Scene {
    fn attestation(&self, claim: &MachineClaim, now: Timestamp, lifetime_secs: i64) -> String {
        let attestation = Attestation {
            issuer: ATTESTER,
            client: &self.client,
            machine_key: &self.machine.public_jwk(),
            machine: claim,
            now,
            expires_at: now.plus_secs(lifetime_secs),
        };
        prove_attestation(&self.attester, "att-1", &attestation).unwrap()
    }

    fn verify(&self, attestation: &str, now: Timestamp) -> Result<VerifiedAttestation, AttestationError> {
        let expectation =
            AttestationExpectation { attester: ATTESTER, keys: &self.keys, now, max_age_secs: 300 };
        verify_attestation(attestation, &expectation)
    }

    fn good(&self) -> VerifiedAttestation {
        self.verify(&self.attestation(&claim(), NOW, 300), NOW).unwrap()
    }
}

#[test]
fn a_machine_vouched_for_and_present_is_verified() {
    let scene = scene();
    let pop = prove_pop(&scene.machine, &scene.client, ISSUER, "c1", "j1", NOW).unwrap();
    let client = verify_pop(&pop, scene.good(), ISSUER, NOW).unwrap();
    assert_eq!((client.jti(), client.challenge()), ("j1", "c1"));
    assert_eq!(client.attestation().machine(), &claim());
    assert_eq!(*client.attestation().thumbprint(), scene.machine.public_jwk().thumbprint());
    assert_eq!(client.attestation().expires_at(), NOW.plus_secs(290));
}

#[test]
fn attestations_go_stale_and_implausible_ones_never_count() {
    let scene = scene();
    let check =
        |change: fn(&mut MachineClaim), lifetime: i64, at: i64, expected: Result<(), AttestationError>| {
            let mut claim = claim();
            change(&mut claim);
            let attestation = scene.attestation(&claim, NOW, lifetime);
            assert_eq!(scene.verify(&attestation, NOW.plus_secs(at)).map(drop), expected);
        };
    check(|_| {}, 300, 0, Ok(()));
    check(|_| {}, 300, 289, Ok(()));
    check(|_| {}, 300, 290, Err(AttestationError::Stale));
    check(|_| {}, 60, 60, Err(AttestationError::Stale));
    check(|claim| claim.att_exp += 9999, 900, 291, Err(AttestationError::Stale));
    check(|claim| claim.att_time += 16, 300, 0, Err(AttestationError::Times));
    check(|_| {}, 300, -6, Err(AttestationError::Times));
    check(|_| {}, 0, 0, Err(AttestationError::Times));
    check(|claim| claim.att_exp = claim.att_time, 300, 0, Err(AttestationError::Times));
    check(|_| {}, MAX_ATTESTATION_SECS + 1, 0, Err(AttestationError::Times));
    check(|claim| claim.lvl = 5, 300, 0, Err(AttestationError::Claim(MACHINE_CLAIM)));
    assert_eq!(AttestationError::Stale.code(), "use_fresh_attestation");
}

#[test]
fn nobody_else_vouches() {
    let scene = scene();
    let impostor = Scene { attester: SoftwareP256::generate().unwrap(), ..self::scene() };
    let forged = impostor.attestation(&claim(), NOW, 300);
    assert!(matches!(scene.verify(&forged, NOW), Err(AttestationError::Attestation(JwsError::Signature))));
    let other =
        AttestationExpectation { attester: "https://other", keys: &scene.keys, now: NOW, max_age_secs: 300 };
    let good = scene.attestation(&claim(), NOW, 300);
    assert_eq!(verify_attestation(&good, &other).map(drop), Err(AttestationError::Attester));
    // The machine cannot vouch for itself: its own proof is no attestation.
    let pop = prove_pop(&scene.machine, &scene.client, ISSUER, "c", "j", NOW).unwrap();
    assert_eq!(scene.verify(&pop, NOW).map(drop), Err(AttestationError::Attestation(JwsError::Typ)));
}

#[test]
fn the_proof_is_by_the_attested_key_for_us_now_with_a_challenge() {
    let scene = scene();
    let check = |pop: &str, expected: Result<(), AttestationError>| {
        assert_eq!(verify_pop(pop, scene.good(), ISSUER, NOW).map(drop), expected);
    };
    let pop = |signer: &SoftwareP256, issuer: &str, at: i64| {
        prove_pop(signer, &scene.client, issuer, "c", "j", NOW.plus_secs(at)).unwrap()
    };
    check(&pop(&scene.machine, ISSUER, 0), Ok(()));
    check(&pop(&scene.machine, ISSUER, -60), Ok(()));
    check(&pop(&scene.machine, ISSUER, -61), Err(AttestationError::ProofTime));
    check(&pop(&scene.machine, ISSUER, 6), Err(AttestationError::ProofTime));
    check(&pop(&scene.machine, "https://as.example/token", 0), Err(AttestationError::Audience));
    check(
        &pop(&SoftwareP256::generate().unwrap(), ISSUER, 0),
        Err(AttestationError::Proof(JwsError::Signature)),
    );
    let other = AgentId::parse("other").unwrap();
    let foreign = prove_pop(&scene.machine, &other, ISSUER, "c", "j", NOW).unwrap();
    check(&foreign, Err(AttestationError::Client));
    let raw = |claims: &str| sign_compact(&scene.machine, POP_TYP, &[], claims.as_bytes()).unwrap();
    let good = r#"{"aud":"https://as.example","iat":1790000000,"jti":"j","challenge":"c"}"#;
    check(&raw(good), Ok(()));
    check(
        &raw(&good.replace("\"https://as.example\"", "[\"https://as.example\"]")),
        Err(AttestationError::Audience),
    );
    check(&raw(&good.replace(",\"challenge\":\"c\"", "")), Err(AttestationError::Challenge));
    check(&raw(&good.replace("\"c\"", "\"\"")), Err(AttestationError::Claim("challenge")));
    check(&raw(&good.replace("\"j\"", "7")), Err(AttestationError::Claim("jti")));
    check(&raw(&good.replace("1790000000", "\"1790000000\"")), Err(AttestationError::Claim("iat")));
    assert_eq!(AttestationError::Challenge.code(), "use_attestation_challenge");
    assert_eq!(AttestationError::Audience.code(), "invalid_client_attestation");
}

#[test]
fn unknown_or_missing_machine_facts_are_refused() {
    let scene = scene();
    let good = json::from_serde(&claim()).unwrap();
    let jwk = scene.machine.public_jwk().to_value();
    let check = |change: &dyn Fn(&mut Object), expected: Result<(), AttestationError>| {
        let mut claims = Object::new();
        let mut cnf = Object::new();
        cnf.insert("jwk", jwk.clone()).unwrap();
        claims.insert("iss", ATTESTER).unwrap();
        claims.insert("sub", "agent:build-bot").unwrap();
        claims.insert("iat", Value::Int(1_790_000_000)).unwrap();
        claims.insert("exp", Value::Int(1_790_000_300)).unwrap();
        claims.insert("cnf", cnf).unwrap();
        claims.insert(MACHINE_CLAIM, good.clone()).unwrap();
        change(&mut claims);
        let header = [("kid", Value::from("att-1"))];
        let token = sign_compact(&scene.attester, ATTESTATION_TYP, &header, &claims.to_jcs()).unwrap();
        assert_eq!(scene.verify(&token, NOW).map(drop), expected);
    };
    check(&|_| {}, Ok(()));
    for member in ["iss", "sub", "iat", "exp", "cnf", MACHINE_CLAIM] {
        check(&|claims| drop(claims.remove(member)), Err(AttestationError::Claim(member)));
    }
    let replace = |claims: &mut Object, member: &str, value: Value| {
        claims.remove(member);
        claims.insert(member, value).unwrap();
    };
    check(&|claims| replace(claims, "sub", Value::from("build-bot")), Err(AttestationError::Claim("sub")));
    check(&|claims| replace(claims, "exp", Value::from("1790000300")), Err(AttestationError::Claim("exp")));
    let mut rsa = Object::new();
    rsa.insert("jwk", crate::jose::rsa_fixture::SoftwareRsa::generate().public_jwk().to_value()).unwrap();
    check(&|claims| replace(claims, "cnf", Value::Object(rsa.clone())), Err(AttestationError::Claim("cnf")));
    let Value::Object(mut more) = good.clone() else { panic!("an object") };
    more.insert("trusted", true).unwrap();
    check(
        &|claims| replace(claims, MACHINE_CLAIM, Value::Object(more.clone())),
        Err(AttestationError::Claim(MACHINE_CLAIM)),
    );
    let mut two = Object::new();
    two.insert("jwk", jwk.clone()).unwrap();
    two.insert("jkt", "x").unwrap();
    check(&|claims| replace(claims, "cnf", Value::Object(two.clone())), Err(AttestationError::Claim("cnf")));
}
