//! What `token` lets through and what it refuses.

use countersign_proto::jose::{JwsSigner as _, SoftwareP256, sign_compact};
use countersign_proto::json::Value;
use countersign_proto::oauth::Acr;

use super::*;
use crate::fixture::{ISSUER, NOW, RESOURCE, World, world};

fn expectation(world: &World) -> TokenExpectation<'_> {
    TokenExpectation {
        issuer: ISSUER,
        audience: RESOURCE,
        keys: &world.keys,
        now: NOW,
        max_lifetime_secs: 300,
    }
}

#[test]
fn a_token_we_issued_is_a_token_we_accept_until_it_ends() {
    let world = world();
    let claims = world.issue().unwrap();
    let token = world.sign(&claims);
    let at = |secs: i64| {
        let expect = TokenExpectation { now: NOW.plus_secs(secs), ..expectation(&world) };
        verify_token(&token, &expect).map(drop)
    };
    let verified = verify_token(&token, &expectation(&world)).unwrap();
    assert_eq!(*verified.claims(), claims);
    assert_eq!(verified.expires_at(), NOW.plus_secs(300));
    assert_eq!(*verified.digest(), Sha256Digest::of(token.as_bytes()));
    assert_eq!(at(299), Ok(()));
    assert_eq!(at(300), Err(TokenError::Expired));
    assert_eq!(at(-5), Ok(()));
    assert_eq!(at(-6), Err(TokenError::NotYetValid));
}

#[test]
fn audience_and_issuer_are_compared_byte_for_byte() {
    let world = world();
    let token = world.sign(&world.issue().unwrap());
    for audience in [
        "https://gw.example/mcp/github/",
        "https://gw.example/mcp/git",
        "https://gw.example/mcp/GitHub",
        "",
        "https://gw.example/mcp/github ",
    ] {
        let expect = TokenExpectation { audience, ..expectation(&world) };
        assert_eq!(verify_token(&token, &expect).map(drop), Err(TokenError::Audience), "{audience}");
    }
    let expect = TokenExpectation { issuer: "https://as.example/", ..expectation(&world) };
    assert_eq!(verify_token(&token, &expect).map(drop), Err(TokenError::Issuer));
}

#[test]
fn genuine_tokens_that_contradict_themselves_are_refused() {
    let world = world();
    let check = |change: &dyn Fn(&mut AccessTokenClaims), expected: Result<(), TokenError>| {
        let mut claims = world.issue().unwrap();
        change(&mut claims);
        assert_eq!(verify_token(&world.sign(&claims), &expectation(&world)).map(drop), expected);
    };
    let contradiction = |what| Err(TokenError::Contradiction(what));
    check(&|_| {}, Ok(()));
    check(&|claims| claims.exp = claims.iat + 301, Err(TokenError::Lifetime));
    check(&|claims| claims.iat = claims.exp, Err(TokenError::NotYetValid));
    check(&|claims| claims.iat -= 1, Err(TokenError::Lifetime));
    check(&|claims| claims.nbf += 6, Err(TokenError::NotYetValid));
    check(
        &|claims| (claims.iat, claims.exp) = (NOW.unix_secs() + 3, NOW.unix_secs() + 2),
        Err(TokenError::Lifetime),
    );
    check(&|claims| claims.txn = "task_2".parse_task(), contradiction("txn and task"));
    check(&|claims| claims.authorization_details[0].locations.clear(), contradiction("aud and locations"));
    check(
        &|claims| claims.act.sub = SpiffeId::parse("spiffe://td/agent/other/run/run_1").unwrap(),
        contradiction("act and client_id, sid"),
    );
    check(&|claims| claims.acr = Acr::new(4, 1).unwrap(), contradiction("env and acr"));
    check(&|claims| claims.env.min_lvl = 4, contradiction("lvl and min_lvl"));
    check(&|claims| claims.env.att_exp = claims.exp - 1, contradiction("exp and att_exp"));
    check(&|claims| claims.env.jkt = claims.cnf.jkt, contradiction("one key for both factors"));
}

trait ParseTask {
    fn parse_task(&self) -> countersign_proto::id::TaskId;
}

impl ParseTask for str {
    fn parse_task(&self) -> countersign_proto::id::TaskId {
        countersign_proto::id::TaskId::parse(self).unwrap()
    }
}

#[test]
fn nothing_else_we_sign_is_an_access_token() {
    let world = world();
    let payload = countersign_proto::json::from_serde(&world.issue().unwrap()).unwrap().to_jcs();
    let kid = [("kid", Value::from("k1"))];
    for typ in [
        "JWT",
        "jwt",
        "application/at+jwt",
        "dpop+jwt",
        "countersign-approval+jwt",
        "countersign-lease+jwt",
        "countersign-channel+jwt",
        "oauth-client-attestation+jwt",
        "oauth-client-attestation-pop+jwt",
        "txntoken+jwt",
        "logout+jwt",
    ] {
        let token = sign_compact(&world.server, typ, &kid, &payload).unwrap();
        assert_eq!(
            verify_token(&token, &expectation(&world)).map(drop),
            Err(TokenError::Jws(JwsError::Typ)),
            "{typ}"
        );
    }
    let stranger = SoftwareP256::generate().unwrap();
    let forged = sign_compact(&stranger, ACCESS_TOKEN_TYP, &kid, &payload).unwrap();
    assert_eq!(
        verify_token(&forged, &expectation(&world)).map(drop),
        Err(TokenError::Jws(JwsError::Signature))
    );
    let nameless = sign_compact(&world.server, ACCESS_TOKEN_TYP, &[], &payload).unwrap();
    assert_eq!(
        verify_token(&nameless, &expectation(&world)).map(drop),
        Err(TokenError::Jws(JwsError::UnknownKey))
    );
    assert_ne!(stranger.public_jwk(), world.server.public_jwk());
}
