//! Stolen, forged and replayed: tokens and proofs that do not belong to whoever sends them.

use std::time::Duration;

use countersign_proto::b64;
use countersign_proto::dpop;
use countersign_proto::jose::{JwsSigner, SoftwareEd25519, SoftwareP256};
use countersign_proto::json;

use crate::world::{Attempt, RESOURCE, World, text};

#[tokio::test]
async fn a_token_alone_is_worth_nothing() {
    let world = World::new().await;
    let call = || world.call("read", "{}");
    let token = world.token_with(|_| {});
    world.check(call().without("authorization"), "401 token.missing").await;
    world.check(call().header("authorization", "Basic eDp5"), "401 token.missing").await;
    world.check(call().header("authorization", &format!("Bearer {token}")), "401 pop.missing").await;
    world.check(call().without("dpop"), "401 pop.missing").await;

    let reply = world.send(call().without("authorization")).await;
    let challenge = reply.header("www-authenticate");
    assert!(challenge.starts_with("DPoP "), "{challenge}");
    assert!(!challenge.contains("error="), "RFC 6750 §3.1: {challenge}");
    assert!(challenge.contains("/.well-known/oauth-protected-resource/mcp/github"), "{challenge}");
    let reply = world.send(call().without("dpop")).await;
    assert!(reply.header("www-authenticate").contains(r#"error="invalid_dpop_proof""#));
}

#[tokio::test]
async fn a_token_of_anybody_else_is_refused() {
    let world = World::new().await;
    let good = world.claims();
    let with = |token: String| world.call_with(&token, "read", "{}");
    let stranger = SoftwareP256::generate().unwrap();
    world.check(with(world.sign(&good, &stranger)), "401 token.invalid").await;
    world.check(with(unsigned(&good)), "401 token.invalid").await;
    world.check(with(keyed_with_the_public_key(&good, &world.server_key)), "401 token.invalid").await;
    world
        .check(with(world.token_with(|claims| claims.iss = "https://evil.test".into())), "401 token.invalid")
        .await;
    world.check(with(world.token_with(|claims| claims.exp += 1)), "401 token.invalid").await;
    let elsewhere = world.token_with(|claims| {
        claims.aud = format!("{RESOURCE}/");
        claims.authorization_details[0].locations.push(format!("{RESOURCE}/"));
    });
    world.check(with(elsewhere), "401 token.audience").await;
    let token = world.token_with(|_| {});
    let mut flipped = token.clone().into_bytes();
    let last = flipped.len() - 10;
    flipped[last] = if flipped[last] == b'A' { b'B' } else { b'A' };
    world.check(with(String::from_utf8(flipped).unwrap()), "401 token.invalid").await;
}

#[tokio::test]
async fn a_token_ends_also_while_it_is_remembered() {
    let world = World::new().await;
    let token = world.token_with(|_| {});
    world.check_allowed(world.call_with(&token, "read", "{}")).await;
    world.clock.advance_secs(300);
    world.publish(|_| {}).await;
    world.check(world.call_with(&token, "read", "{}"), "401 token.expired").await;
}

#[tokio::test]
async fn a_proof_is_for_one_request_of_one_token_here_and_now() {
    let world = World::new().await;
    let token = world.token_with(|_| {});
    let other = world.token_with(|claims| claims.jti = "t2".to_owned());
    let with = |proof: String| world.call_with(&token, "read", "{}").header("dpop", &proof);
    let prove = |method: &str, url: &str, token: Option<&str>, age: i64, jti: &str| {
        dpop::prove(&world.agent_key, method, url, token, None, jti, world.now().plus_secs(-age)).unwrap()
    };
    world.check(with(prove("GET", RESOURCE, Some(&token), 0, "a")), "401 pop.invalid").await;
    for url in [
        format!("{RESOURCE}/"),
        RESOURCE.replace("8443", "8444"),
        RESOURCE.replace("github", "GitHub"),
        RESOURCE.replace("gw.test", "gw.test."),
        RESOURCE.replace("/mcp", "%2Fmcp"),
        format!("{RESOURCE}?x=1"),
    ] {
        world.check(with(prove("POST", &url, Some(&token), 0, "b")), "401 pop.invalid").await;
    }
    world.check(with(prove("POST", RESOURCE, Some(&other), 0, "c")), "401 pop.invalid").await;
    world.check(with(prove("POST", RESOURCE, None, 0, "d")), "401 pop.invalid").await;
    world.check(with(prove("POST", RESOURCE, Some(&token), 61, "e")), "401 pop.invalid").await;
    world.check(with(prove("POST", RESOURCE, Some(&token), -6, "f")), "401 pop.invalid").await;
    world.check(with("x.y.z".to_owned()), "401 pop.invalid").await;
    world.check_allowed(with(prove("POST", RESOURCE, Some(&token), 0, "g"))).await;
}

#[tokio::test]
async fn a_proof_works_once_also_when_sent_twice_at_once() {
    let world = World::new().await;
    let attempt = world.call("read", "{}");
    world.check_allowed(attempt.clone()).await;
    let before = world.log.size();
    world.check(attempt, "401 pop.replayed").await;
    let records = world.records_from(before).await;
    assert_eq!(text(&records[0], "alarm"), "replay");

    let attempt = world.call("read", "{}");
    let calls = world.calls();
    let tries = (0..8).map(|_| world.send(attempt.clone()));
    let replies = futures_util::future::join_all(tries).await;
    assert_eq!(replies.iter().filter(|reply| reply.status.is_success()).count(), 1);
    assert_eq!(world.calls(), calls + 1);
}

#[tokio::test]
async fn a_restart_forgets_proofs_and_therefore_refuses_those_made_before() {
    let mut world = World::new().await;
    let used = world.call("read", "{}");
    let unused = world.call("read", "{}");
    world.check_allowed(used.clone()).await;
    let token = world.token_with(|_| {});
    let ahead = dpop::prove(
        &world.agent_key,
        "POST",
        RESOURCE,
        Some(&token),
        None,
        "ahead",
        world.now().plus_secs(world.limits.clock_skew_secs),
    );
    let ahead = world.call_with(&token, "read", "{}").header("dpop", &ahead.unwrap());
    world.check_allowed(ahead.clone()).await;
    world.restart().await;
    world.check(used, "401 pop.invalid").await;
    world.check(ahead, "401 pop.invalid").await;
    world.check(unused, "401 pop.invalid").await;
    world.check_allowed(world.call("read", "{}")).await;
}

#[tokio::test]
async fn stolen_with_its_agent_key_a_token_is_worth_nothing_elsewhere() {
    let world = World::new().await;
    let theirs = world.authority.machine("m-2");
    world
        .publish(|body| {
            let mut entry = body.machines.values().next().unwrap().clone();
            entry.jkt = theirs.jkt;
            entry.spiffe = countersign_proto::id::SpiffeId::parse("spiffe://td.test/machine/m-2").unwrap();
            body.machines.insert(countersign_proto::id::MachineId::parse("m-2").unwrap(), entry);
        })
        .await;
    let stolen = world.call("read", "{}");
    let before = world.log.size();
    let mut wire = world.connect(Some(&theirs)).await;
    world.check_on(&mut wire, stolen, "401 bind.machine_key").await;
    let record = &world.records_from(before).await[0];
    assert_eq!(text(record, "alarm"), "theft");
    assert_eq!(text(record, "agent"), "build-bot");

    let before = world.log.size();
    let mut bare = world.connect(None).await;
    world.check_on(&mut bare, world.call("read", "{}"), "401 pop.no_machine").await;
    assert_eq!(text(&world.records_from(before).await[0], "alarm"), "theft");
}

#[tokio::test]
async fn a_token_with_another_agents_proof_is_refused_with_an_alarm() {
    let world = World::new().await;
    let thief = SoftwareEd25519::generate().unwrap();
    let token = world.token_with(|_| {});
    let proof = dpop::prove(&thief, "POST", RESOURCE, Some(&token), None, "p", world.now()).unwrap();
    let before = world.log.size();
    world.check(world.call_with(&token, "read", "{}").header("dpop", &proof), "401 bind.agent_key").await;
    assert_eq!(text(&world.records_from(before).await[0], "alarm"), "theft");
}

#[tokio::test]
async fn a_token_that_was_good_at_one_upstream_is_not_good_at_the_next() {
    const FILES: &str = "https://gw.test:8443/mcp/files";
    let mut world = World::new().await;
    world.serve_also("files", FILES).await;
    let for_audience = |audience: &str| {
        world.token_with(|claims| {
            claims.aud = audience.to_owned();
            claims.authorization_details[0].locations.push(FILES.to_owned());
        })
    };
    let at_files = |token: &str| {
        let proof = world.proof(token, "POST", FILES);
        world.call_with(token, "read", "{}").path("/mcp/files").header("dpop", &proof)
    };
    let token = for_audience(RESOURCE);
    world.check_allowed(world.call_with(&token, "read", "{}")).await;
    // Remembered as good by now; its task reaches there, too, and the proof is for there.
    world.check(at_files(&token), "401 token.audience").await;
    world.check_allowed(at_files(&for_audience(FILES))).await;
}

#[tokio::test]
async fn a_certificate_of_another_authority_does_not_even_connect() {
    let world = World::new().await;
    let stranger = crate::world::Authority::new().machine("m-1");
    let before = world.log.size();
    let reached = match world.tls(Some(&stranger)).await {
        Err(_) => false,
        // In TLS 1.3 the client learns of its refusal with the first read.
        Ok(mut tls) => {
            // Whoever is let in gets an answer to this, so that nobody waits for one that never comes.
            let request = b"GET /mcp/github HTTP/1.1\r\nhost: gw.test:8443\r\n\r\n";
            let _refused_already = tokio::io::AsyncWriteExt::write_all(&mut tls, request).await;
            let mut byte = [0_u8; 1];
            let read = tokio::io::AsyncReadExt::read(&mut tls, &mut byte);
            let read = tokio::time::timeout(Duration::from_secs(10), read).await;
            read.expect("the connection is refused, not left open").is_ok_and(|read| read > 0)
        }
    };
    assert!(!reached);
    assert_eq!(world.log.size(), before);
}

#[tokio::test]
async fn the_machine_key_is_not_also_the_agents() {
    let world = World::new().await;
    let one = world.token_with(|claims| claims.cnf.jkt = claims.env.jkt);
    world.check(world.call_with(&one, "read", "{}"), "401 token.invalid").await;
}

fn parts(claims: &countersign_proto::token::AccessTokenClaims, header: &str) -> String {
    let payload = json::from_serde(claims).unwrap().to_jcs();
    format!("{}.{}", b64::url_encode(header.as_bytes()), b64::url_encode(&payload))
}

fn unsigned(claims: &countersign_proto::token::AccessTokenClaims) -> String {
    format!("{}.", parts(claims, r#"{"alg":"none","typ":"at+jwt","kid":"k1"}"#))
}

/// The classic: the verifier's public key used as an HMAC secret.
fn keyed_with_the_public_key(
    claims: &countersign_proto::token::AccessTokenClaims,
    key: &dyn JwsSigner,
) -> String {
    let signed = parts(claims, r#"{"alg":"HS256","typ":"at+jwt","kid":"k1"}"#);
    let secret = key.public_jwk().to_value().to_jcs();
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &secret);
    let tag = aws_lc_rs::hmac::sign(&key, signed.as_bytes());
    format!("{signed}.{}", b64::url_encode(tag.as_ref()))
}

#[tokio::test]
async fn two_kinds_of_proof_at_once_are_refused() {
    let world = World::new().await;
    let mut wire = world.connect(Some(&world.ours)).await;
    let channel = countersign_proto::channel::prove(
        &world.agent_key,
        &wire.exporter,
        crate::world::ORIGIN,
        world.now(),
    )
    .unwrap();
    let both: Attempt = world.call("read", "{}").header("countersign-channel", &channel);
    world.check_on(&mut wire, both, "401 pop.invalid").await;
}
