//! What `session` lets through and what it refuses.

use std::sync::atomic::Ordering;

use super::*;
use crate::fake::{World, token_parts};

fn upstream(name: &str) -> UpstreamId {
    UpstreamId::parse(name).unwrap()
}

fn statement(token: &Token) -> String {
    token_parts(&format!("DPoP {}", token.expose())).1
}

fn counts(world: &World) -> (u64, u64) {
    (world.shared.tokens.load(Ordering::SeqCst), world.shared.attestations.load(Ordering::SeqCst))
}

#[tokio::test(flavor = "multi_thread")]
async fn many_callers_at_once_cause_one_request() {
    let world = World::start().await;
    let session = world.session().await;
    let callers: Vec<_> = (0..20)
        .map(|_| {
            let session = Arc::clone(&session);
            tokio::spawn(async move { session.token(&upstream("work")).await.unwrap().expose().to_owned() })
        })
        .collect();
    let mut tokens = std::collections::BTreeSet::new();
    for caller in callers {
        tokens.insert(caller.await.unwrap());
    }
    assert_eq!((tokens.len(), counts(&world)), (1, (1, 1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_callers_with_the_same_refused_token_cause_one_new_quote() {
    let world = World::start().await;
    let session = world.session().await;
    let refused = session.token(&upstream("work")).await.unwrap();
    let callers: Vec<_> = (0..20)
        .map(|_| {
            let (session, refused) = (Arc::clone(&session), Arc::clone(&refused));
            tokio::spawn(async move {
                statement(&session.replace(&upstream("work"), &refused, true).await.unwrap())
            })
        })
        .collect();
    for caller in callers {
        assert_eq!(caller.await.unwrap(), "statement 2");
    }
    assert_eq!(counts(&world), (2, 2));
}

#[tokio::test]
async fn a_token_is_renewed_before_it_expires_and_each_tool_server_has_its_own() {
    let world = World::start().await;
    let session = world.session().await;
    let first = session.token(&upstream("work")).await.unwrap();
    world.shared.clock.advance(300 - RENEWAL_MARGIN_SECS - 1);
    assert_eq!(session.token(&upstream("work")).await.unwrap().expose(), first.expose());
    world.shared.clock.advance(1);
    assert_ne!(session.token(&upstream("work")).await.unwrap().expose(), first.expose());
    session.token(&upstream("mail")).await.unwrap();
    // The first statement had run out with the first token.
    assert_eq!(counts(&world), (3, 2));
}

#[tokio::test]
async fn reattesting_on_demand_gives_later_tokens_a_newer_statement() {
    let world = World::start().await;
    let session = world.session().await;
    session.reattest().await.unwrap();
    session.reattest().await.unwrap();
    assert_eq!(statement(&session.token(&upstream("work")).await.unwrap()), "statement 2");
}

#[tokio::test]
async fn the_servers_corrections_are_followed_a_bounded_number_of_times() {
    let check = async |corrections: &[(&'static str, &'static str, &'static str)],
                       expected: Result<u64, &str>| {
        let world = World::start().await;
        world.shared.corrections.lock().extend(corrections);
        match (world.session().await.token(&upstream("work")).await, expected) {
            (Ok(_), Ok(attestations)) => assert_eq!(counts(&world).1, attestations, "{corrections:?}"),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{corrections:?}: {error}"),
            (token, expected) => panic!("{corrections:?}: {token:?} instead of {expected:?}"),
        }
    };
    let fresh = ("use_fresh_attestation", "x-none", "");
    let nonce = ("use_dpop_nonce", "dpop-nonce", "n");
    let challenge = ("use_attestation_challenge", "x-none", "");
    check(&[nonce, challenge], Ok(1)).await;
    check(&[fresh, fresh], Ok(3)).await;
    check(&[fresh, fresh, fresh], Err("too old even when new")).await;
    check(&[nonce, nonce, nonce, nonce, nonce], Err("one correction after the other")).await;
    check(&[("unauthorized_client", "x-none", "")], Err("countersign agent list")).await;
}

#[tokio::test]
async fn a_machine_that_is_not_enrolled_or_lost_its_tpm_has_no_session() {
    let world = World::start().await;
    let open = async |config: SessionConfig| {
        let clock = Arc::new(crate::fake::SharedClock(Arc::clone(&world.shared)));
        Session::open(config, clock, Arc::new(crate::fake::SystemEntropy)).await.unwrap_err()
    };
    let mut config = world.config();
    config.state = StateDir::open(&world.dir.path().join("empty")).unwrap();
    assert!(open(config).await.to_string().contains("not enrolled"));

    let other = crate::swtpm::SimulatedTpm::manufacture(&world.dir.path().join("other")).unwrap();
    let mut config = world.config();
    config.tpm = Tpm::open(crate::tpm::TpmLocation::Socket(other.socket())).unwrap();
    assert!(open(config).await.to_string().contains("does not belong to this TPM"));
}

#[tokio::test]
async fn a_server_under_another_root_learns_nothing() {
    let (world, other) = (World::start().await, World::start().await);
    let mut config = world.config();
    config.ca_pem = other.config().ca_pem;
    let clock = Arc::new(crate::fake::SharedClock(Arc::clone(&world.shared)));
    let session = Session::open(config, clock, Arc::new(crate::fake::SystemEntropy)).await.unwrap();
    let refused = session.token(&upstream("work")).await.unwrap_err();
    assert!(refused.to_string().contains("no trusted connection"), "{refused}");
    assert_eq!(counts(&world), (0, 0));
}

#[tokio::test]
async fn secrets_do_not_show_in_debug_output() {
    let world = World::start().await;
    let session = world.session().await;
    let token = session.token(&upstream("work")).await.unwrap();
    let shown = format!("{session:?} {token:?} {:?}", world.config());
    assert!(!shown.contains(token.expose()) && !shown.contains("private"), "{shown}");
}

/// Waits for what happens beside us.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        let mut step = tokio::time::interval(std::time::Duration::from_millis(5));
        while !holds() {
            step.tick().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), waiting).await.expect(what);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_in_use_is_renewed_beside_the_calls_and_one_that_nobody_uses_is_not() {
    let world = World::start().await;
    let session = world.session().await;
    let first = session.token(&upstream("work")).await.unwrap();
    world.shared.clock.advance(199);
    session.token(&upstream("work")).await.unwrap();
    world.shared.clock.advance(1);
    assert_eq!(counts(&world), (1, 1), "no call, no renewal");

    let again = session.token(&upstream("work")).await.unwrap();
    assert_eq!(again.expose(), first.expose(), "the call does not wait");
    for _ in 0..20 {
        session.token(&upstream("work")).await.unwrap();
    }
    let slot = session.slot(&upstream("work"));
    until("the token is renewed", || session.current(&slot).unwrap().expose() != first.expose()).await;
    let second = session.token(&upstream("work")).await.unwrap();
    assert_eq!(
        (counts(&world), statement(&second).as_str()),
        ((2, 2), "statement 2"),
        "one request, a whole life"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_in_the_background_that_fails_disturbs_no_call_and_is_not_tried_with_each() {
    let world = World::start().await;
    let session = world.session().await;
    let first = session.token(&upstream("work")).await.unwrap();
    world.shared.clock.advance(210);
    world.shared.corrections.lock().push_back(("unauthorized_client", "x-none", ""));
    for _ in 0..20 {
        assert_eq!(session.token(&upstream("work")).await.unwrap().expose(), first.expose());
    }
    let slot = session.slot(&upstream("work"));
    // Nobody renews any more, and when it may be tried again is noted.
    until("the renewal failed", || slot.renewal.try_lock().is_ok_and(|turn| turn.is_some())).await;
    session.token(&upstream("work")).await.unwrap();
    assert!(slot.renewal.try_lock().is_ok(), "not yet again");
    world.shared.clock.advance(RETRY_SECS);
    session.token(&upstream("work")).await.unwrap();
    until("it is tried again", || session.current(&slot).unwrap().expose() != first.expose()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_lived_certificate_is_renewed_in_time_while_the_agent_does_nothing() {
    let world = World::start().await;
    world.shared.authority.lock().certificate_secs = 60;
    let session = world.enrolled_session().await;
    session.token(&upstream("work")).await.unwrap();
    let kept = || session.state.certificate().unwrap();
    let first = kept();
    let keeping = tokio::spawn(Arc::clone(&session).keep_certificate(std::time::Duration::from_millis(5)));
    for round in 0..3 {
        let before = kept();
        world.shared.clock.advance(39);
        session.token(&upstream("work")).await.unwrap();
        assert!(round > 0 || kept() == first, "not before two thirds of its life");
        world.shared.clock.advance(2);
        until("the certificate is renewed", || kept() != before).await;
    }
    world.shared.clock.advance(5);
    session.reach_gateway().await.unwrap();
    session.token(&upstream("mail")).await.unwrap();
    keeping.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_slept_longer_than_its_certificate_lives_comes_back() {
    let world = World::start().await;
    let session = world.enrolled_session().await;
    session.token(&upstream("work")).await.unwrap();
    world.shared.clock.advance(7200);
    session.token(&upstream("work")).await.unwrap();

    // Also with the next run.
    world.shared.clock.advance(7200);
    let session = world.session_again().await;
    session.reattest().await.unwrap();
    session.token(&upstream("work")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_that_fails_is_tried_again_and_an_expired_certificate_is_an_error() {
    let world = World::start().await;
    let session = world.enrolled_session().await;
    let broken = || ("/acme/new-order", 503, serde_json::json!({"error": "audit_unavailable"}));
    let interrupt = || world.shared.authority.lock().interruptions.push_back(broken());
    let kept = || session.state.certificate().unwrap();
    let first = kept();
    world.shared.clock.advance(2500);
    interrupt();
    session.ensure_certificate().await.unwrap();
    session.ensure_certificate().await.unwrap();
    assert_eq!(kept(), first, "tried once, and not again at once");
    world.shared.clock.advance(60);
    session.ensure_certificate().await.unwrap();
    assert_ne!(kept(), first);

    world.shared.clock.advance(3601);
    interrupt();
    let error = session.token(&upstream("work")).await.unwrap_err();
    assert!(error.to_string().contains("audit_unavailable"), "{error}");
    session.token(&upstream("work")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_callers_with_a_refused_certificate_cause_one_new_one() {
    let world = World::start().await;
    let session = world.enrolled_session().await;
    // Time has to pass for the new one to be told from the old one.
    world.shared.clock.advance(1);
    let callers: Vec<_> = (0..5)
        .map(|_| {
            let session = Arc::clone(&session);
            tokio::spawn(async move { session.renew_certificate().await.unwrap() })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(world.shared.authority.lock().issued, 2, "enrollment's, and one more");
}
