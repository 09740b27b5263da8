//! What `authenticate` lets through and what it refuses.

use countersign_proto::channel;
use countersign_proto::jose::{JwsSigner as _, SoftwareEd25519};

use super::*;
use crate::fixture::{ISSUER, NOW, RESOURCE, World, proof, world};
use crate::token::{TokenExpectation, verify_token};

struct Shown {
    world: World,
    text: String,
    token: Arc<VerifiedToken>,
}

fn shown() -> Shown {
    shown_with(|_| {})
}

fn shown_with(change: impl FnOnce(&mut AccessTokenClaims)) -> Shown {
    let world = world();
    let mut claims = world.issue().unwrap();
    change(&mut claims);
    let text = world.sign(&claims);
    let expect = TokenExpectation {
        issuer: ISSUER,
        audience: RESOURCE,
        keys: &world.keys,
        now: NOW,
        max_lifetime_secs: 300,
    };
    let token = Arc::new(verify_token(&text, &expect).unwrap());
    Shown { world, text, token }
}

impl Shown {
    fn dpop(&self) -> AgentProof {
        AgentProof::Dpop(self.world.dpop(RESOURCE, Some(&self.text)))
    }

    fn check(
        &self,
        proof: AgentProof,
        entry: Option<&AgentEntry>,
        revoked: &Revoked,
        after_secs: i64,
        expected: Result<(), AuthenticationError>,
    ) {
        let outcome = authenticate(Arc::clone(&self.token), proof, entry, revoked, NOW.plus_secs(after_secs));
        assert_eq!(outcome.map(drop), expected);
    }
}

#[test]
fn whoever_holds_the_tokens_key_is_the_agent() {
    let shown = shown();
    let entry = shown.world.agent.entry().unwrap();
    let none = Revoked::default();
    let agent = authenticate(Arc::clone(&shown.token), shown.dpop(), Some(&entry), &none, NOW).unwrap();
    assert_eq!(agent.agent(), &shown.world.agent.id);
    assert_eq!((agent.run(), agent.proof_kind()), (&shown.world.run.id, "dpop"));
    assert_eq!(agent.task().task, shown.world.task.id);
    assert_eq!(agent.token_digest(), &Sha256Digest::of(shown.text.as_bytes()));

    let channel = |key: &SoftwareEd25519| {
        let text = channel::prove(key, &[7; 32], "https://gw.example", NOW).unwrap();
        AgentProof::Channel(channel::verify(&text, &[7; 32], "https://gw.example", NOW).unwrap())
    };
    let own = channel(&shown.world.agent_key);
    assert_eq!(own.kind(), "channel");
    shown.check(own, Some(&entry), &none, 0, Ok(()));
    let foreign = channel(&SoftwareEd25519::generate().unwrap());
    shown.check(foreign, Some(&entry), &none, 0, Err(AuthenticationError::Key));
}

#[test]
fn a_stolen_token_is_worthless_without_its_key_and_a_proof_without_its_token() {
    let shown = shown();
    let entry = shown.world.agent.entry().unwrap();
    let none = Revoked::default();
    let thief = SoftwareEd25519::generate().unwrap();
    assert_ne!(thief.public_jwk(), shown.world.agent_key.public_jwk());
    let check = |proof, expected| shown.check(AgentProof::Dpop(proof), Some(&entry), &none, 0, expected);
    check(proof(&thief, RESOURCE, Some(&shown.text)), Err(AuthenticationError::Key));
    // The right key, but the proof was made for another token, or for the token endpoint.
    check(shown.world.dpop(RESOURCE, Some("another.token.text")), Err(AuthenticationError::ProofToken));
    check(shown.world.dpop(RESOURCE, None), Err(AuthenticationError::ProofToken));
    // The machine's key is not the agent's.
    check(proof(&shown.world.machine_key, RESOURCE, Some(&shown.text)), Err(AuthenticationError::Key));
}

#[test]
fn agents_runs_and_tasks_stop_acting_when_they_are_stopped() {
    let shown = shown();
    let active = shown.world.agent.entry().unwrap();
    let none = Revoked::default();
    let check = |entry: Option<AgentEntry>, revoked: &Revoked, after_secs, expected| {
        shown.check(shown.dpop(), entry.as_ref(), revoked, after_secs, expected);
    };
    check(Some(active.clone()), &none, 299, Ok(()));
    check(Some(active.clone()), &none, 300, Err(AuthenticationError::Expired));
    check(None, &none, 0, Err(AuthenticationError::UnknownAgent));
    let state = |state| Some(AgentEntry { state, ..active.clone() });
    check(state(AgentState::Suspended), &none, 0, Err(AuthenticationError::Suspended));
    check(state(AgentState::Retired), &none, 0, Err(AuthenticationError::Retired));
    let generation = |generation| Some(AgentEntry { generation, ..active.clone() });
    check(generation(2), &none, 0, Err(AuthenticationError::Killed));
    check(generation(0), &none, 0, Err(AuthenticationError::Killed));
    let run = Revoked { runs: [shown.world.run.id.clone()].into(), ..Revoked::default() };
    check(Some(active.clone()), &run, 0, Err(AuthenticationError::RunRevoked));
    let task = Revoked { tasks: [shown.world.task.id.clone()].into(), ..Revoked::default() };
    check(Some(active), &task, 0, Err(AuthenticationError::TaskRevoked));
}

#[test]
fn a_task_that_is_over_ends_its_tokens_at_once() {
    let end = NOW.unix_secs() + 10;
    let shown = shown_with(|claims| claims.authorization_details[0].expires_at = Some(end));
    let entry = shown.world.agent.entry();
    shown.check(shown.dpop(), entry.as_ref(), &Revoked::default(), 9, Ok(()));
    shown.check(shown.dpop(), entry.as_ref(), &Revoked::default(), 10, Err(AuthenticationError::TaskExpired));
}

#[test]
fn killed_and_active_again_is_another_generation() {
    let shown = shown();
    let person = shown.world.sponsor.id.clone();
    let again = shown.world.agent.clone().kill(person, NOW).unwrap().activate().unwrap();
    shown.check(
        shown.dpop(),
        again.entry().as_ref(),
        &Revoked::default(),
        0,
        Err(AuthenticationError::Killed),
    );
}
