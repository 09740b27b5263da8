//! What `grant` lets through and what it refuses.

use countersign_proto::jose::{JwsSigner as _, SoftwareEd25519};
use countersign_proto::token::Constraint;

use super::*;
use crate::agent::Standing;
use crate::fixture::{ISSUER, NOW, RESOURCE, TOKEN_URL, World, proof, tool, world};

fn request(body: &str) -> Result<TokenRequest, &'static str> {
    let form = Form::parse(body.as_bytes()).map_err(|error| error.to_oauth().error)?;
    TokenRequest::parse(&form).map_err(|error| error.error)
}

fn with_details(details: &str) -> Result<TokenRequest, &'static str> {
    let form = Form::encode(&[
        ("grant_type", "client_credentials"),
        ("client_id", "agent:build-bot"),
        ("resource", RESOURCE),
        ("authorization_details", details),
    ]);
    request(&form)
}

#[test]
fn requests_are_read_whole_or_refused() {
    const GOOD: &str = "grant_type=client_credentials&client_id=agent%3Abuild-bot&resource=https%3A%2F%2Fgw";
    let good = request(GOOD).unwrap();
    assert_eq!((good.client.as_str(), good.resource.as_str(), good.task), ("build-bot", "https://gw", None));
    let check = |body: &str, error: &str| assert_eq!(request(body).unwrap_err(), error, "{body}");
    check(&GOOD.replace("client_credentials", "password"), "unsupported_grant_type");
    check(&GOOD.replace("client_credentials", "refresh_token"), "unsupported_grant_type");
    check(&GOOD.replace("grant_type=client_credentials&", ""), "invalid_request");
    check(&GOOD.replace("client_id=agent%3Abuild-bot&", ""), "invalid_request");
    check(&GOOD.replace("agent%3A", ""), "invalid_client");
    check(&GOOD.replace("agent%3Abuild-bot", "agent%3ABuild-Bot"), "invalid_client");
    check(&GOOD.replace("agent%3Abuild-bot", "agent%3Abuild-bot+"), "invalid_client");
    check(&GOOD.replace("&resource=https%3A%2F%2Fgw", ""), "invalid_target");
    check(&GOOD.replace("https%3A%2F%2Fgw", ""), "invalid_target");
    check(&format!("{GOOD}&resource=https%3A%2F%2Fgw"), "invalid_target");
    check(&format!("{GOOD}&client_id=agent%3Aother"), "invalid_request");
    check(&format!("{GOOD}&scope=all"), "invalid_request");
    check(&format!("{GOOD}&client_secret=x"), "invalid_request");
}

#[test]
fn unknown_or_doubled_details_are_refused_and_nothing_is_dropped() {
    const GOOD: &str = r#"[{"type":"urn:countersign:task","task":"task_1"}]"#;
    assert_eq!(with_details(GOOD).unwrap().task.unwrap().task.as_str(), "task_1");
    let check = |details: &str| {
        assert_eq!(with_details(details), Err("invalid_authorization_details"), "{details}");
    };
    check(&GOOD.replace("urn:countersign:task", "urn:countersign:admin"));
    check(&GOOD.replace("\"type\":\"urn:countersign:task\",", ""));
    check(&GOOD.replace("\"task\":\"task_1\"", "\"task\":\"task_1\",\"extra\":1"));
    check(&GOOD.replace("\"task\":\"task_1\"", "\"task\":\"task_1\",\"purpose\":\"mine\""));
    check(&GOOD.replace("\"task\":\"task_1\"", "\"task\":\"task_1\",\"approval\":\"apr_1\""));
    check(&GOOD.replace("\"task\":\"task_1\"", "\"task\":\"task_1\",\"task\":\"task_2\""));
    check(&GOOD.replace("\"task\":\"task_1\"", "\"task\":\"task_1\",\"Task\":\"task_2\""));
    check(&GOOD.replace("\"task_1\"", "[\"task_1\"]"));
    check(&GOOD.replace("\"task_1\"", "\"1\""));
    check(&GOOD.replace("\"task\":\"task_1\"", "\"task\":\"task_1\",\"max_calls\":\"5\""));
    check(
        &GOOD.replace("\"task\":\"task_1\"", "\"task\":\"task_1\",\"tools\":[{\"name\":\"a\",\"all\":true}]"),
    );
    check(&format!("[{0},{0}]", GOOD.trim_matches(['[', ']'])));
    check("[]");
    check("{}");
    check(GOOD.trim_matches(['[', ']']));
    check("[{]");
    check(&format!("{GOOD} x"));
}

#[test]
fn a_token_says_who_where_what_and_for_how_long() {
    let world = world();
    let claims = world.issue().unwrap();
    assert_eq!((claims.iss.as_str(), claims.aud.as_str()), (ISSUER, RESOURCE));
    assert_eq!((claims.client_id.as_str(), claims.sub.as_str()), ("build-bot", "alice"));
    assert_eq!(claims.cnf.jkt, world.agent_key.public_jwk().thumbprint());
    assert_eq!(claims.env.jkt, world.machine_key.public_jwk().thumbprint());
    assert_eq!(claims.act.sub.as_str(), "spiffe://td/agent/build-bot/run/run_1");
    assert_eq!(claims.acr.short(), "e3u1");
    assert_eq!((claims.exp - claims.iat, claims.generation), (300, 1));
    assert_eq!(*claims.task(), world.task.details());
}

/// Changes the world, asks for a token and compares the outcome: `issued` or the error code.
fn check(change: impl FnOnce(&mut World), expected: &str) {
    let mut world = world();
    change(&mut world);
    assert_eq!(world.issue().map_or_else(|error| error, |_| "issued"), expected);
}

#[test]
fn whoever_may_not_act_gets_no_token() {
    let bob = || countersign_proto::id::PersonId::parse("bob").unwrap();
    check(|_| {}, "issued");
    check(|world| world.agent.standing = Standing::Pending, "invalid_grant");
    check(|world| world.agent.standing = Standing::Discovered, "invalid_grant");
    check(|world| world.agent.standing = Standing::Suspended { by: bob(), at: NOW }, "invalid_grant");
    check(|world| world.agent.standing = Standing::Retired { by: bob(), at: NOW }, "invalid_grant");
    check(|world| world.agent.id = AgentId::parse("other").unwrap(), "invalid_client");
    check(|world| world.agent.generation = 2, "invalid_grant");
    check(|world| world.sponsor = world.sponsor.clone().disable(), "invalid_grant");
    check(|world| world.sponsor.id = bob(), "invalid_authorization_details");
    check(|world| world.task.agent = AgentId::parse("other").unwrap(), "invalid_authorization_details");
    check(|world| world.task.revoked_at = Some(NOW), "invalid_grant");
    check(|world| world.task.expires_at = NOW, "invalid_grant");
    check(|world| world.run.ended_at = Some(NOW), "invalid_grant");
    check(
        |world| world.run.machine = countersign_proto::id::MachineId::parse("m-18").unwrap(),
        "invalid_grant",
    );
    check(|world| world.claim.lvl = 1, "use_fresh_attestation");
    check(|world| world.claim.lvl = 0, "use_fresh_attestation");
    check(|world| world.claim.lvl = 2, "issued");
    check(
        |world| world.claim.sub = SpiffeId::parse("spiffe://other/machine/m-17").unwrap(),
        "invalid_client_attestation",
    );
    check(
        |world| world.claim.sub = SpiffeId::parse("spiffe://td/machine/m-18").unwrap(),
        "invalid_client_attestation",
    );
    for resource in
        ["https://gw.example/mcp/other", "https://gw.example/mcp/github/", "https://gw.example/mcp/GitHub"]
    {
        check(|world| world.request.resource = resource.into(), "invalid_target");
    }
}

#[test]
fn a_token_is_never_bound_to_one_key_twice_or_to_a_stranger() {
    let world = world();
    let machine = world.machine();
    let check = |agent_proof: &VerifiedDpop, expected: &str| {
        let outcome = issue(&world.presented(&machine, agent_proof), &world.terms(), NOW);
        assert_eq!(outcome.unwrap_err().error, expected);
    };
    check(&proof(&world.machine_key, TOKEN_URL, None), "invalid_dpop_proof");
    check(&proof(&SoftwareEd25519::generate().unwrap(), TOKEN_URL, None), "invalid_grant");
    check(&world.dpop(RESOURCE, Some("a.b.c")), "invalid_dpop_proof");
    let mut other = crate::fixture::world();
    other.request.client = AgentId::parse("other").unwrap();
    let foreign = other.machine();
    let outcome = issue(&world.presented(&foreign, &world.dpop(TOKEN_URL, None)), &world.terms(), NOW);
    assert_eq!(outcome.unwrap_err().error, "invalid_client");
}

#[test]
fn tokens_end_with_the_first_of_their_reasons() {
    let lifetime = |change: &dyn Fn(&mut World)| {
        let mut world = world();
        change(&mut world);
        world.issue().map(|claims| claims.exp - claims.iat)
    };
    assert_eq!(lifetime(&|_| {}), Ok(300));
    assert_eq!(lifetime(&|world| world.task.expires_at = NOW.plus_secs(60)), Ok(60));
    assert_eq!(lifetime(&|world| world.claim.att_exp = NOW.unix_secs() + 30), Ok(30));
    let world = world();
    let (machine, agent_proof) = (world.machine(), world.dpop(TOKEN_URL, None));
    let presented = world.presented(&machine, &agent_proof);
    for (asked, got) in [(0, 1), (-5, 1), (120, 120), (301, 300), (i64::MAX, 300)] {
        let terms = Terms { lifetime_secs: asked, ..world.terms() };
        let claims = issue(&presented, &terms, NOW).unwrap();
        assert_eq!(claims.exp - claims.iat, got, "{asked}");
    }
    let late = issue(&presented, &world.terms(), NOW.plus_secs(600)).unwrap_err();
    assert_eq!(late.error, "use_fresh_attestation");
    let no_level = Terms { min_env_level: 0, ..world.terms() };
    let mut unproven = crate::fixture::world();
    unproven.claim.lvl = 0;
    let machine = unproven.machine();
    let agent_proof = unproven.dpop(TOKEN_URL, None);
    let outcome = issue(&unproven.presented(&machine, &agent_proof), &no_level, NOW);
    assert_eq!(
        outcome.unwrap_err().error,
        "use_fresh_attestation",
        "without a second factor nothing is issued"
    );
}

#[test]
fn less_may_be_asked_for_but_never_more() {
    let ask = |members: &str| {
        let details = format!(r#"[{{"type":"urn:countersign:task","task":"task_1"{members}}}]"#);
        let mut world = world();
        world.request = with_details(&details)?;
        world.issue().map(|claims| claims.task().clone())
    };
    let check =
        |members: &str| assert_eq!(ask(members).map(drop), Err("invalid_authorization_details"), "{members}");
    ask("").unwrap();
    assert_eq!(ask(r#","max_calls":5"#).unwrap().max_calls, 5);
    check(r#","max_calls":21"#);
    check(r#","max_calls":0"#);
    let expires_at = |secs: i64| format!(r#","expires_at":{}"#, NOW.unix_secs() + secs);
    assert_eq!(ask(&expires_at(60)).unwrap().expires_at, Some(NOW.unix_secs() + 60));
    check(&expires_at(3601));
    check(&expires_at(0));
    check(r#","locations":["https://evil.example"]"#);
    check(r#","locations":[]"#);
    let one = ask(r#","tools":[{"name":"issues.create","args":{"repo":{"eq":"acme/web"},"n":{"max":2}}}]"#)
        .unwrap();
    assert_eq!(
        one.tools,
        [tool("issues.create", &[("repo", Constraint::Eq("acme/web".into())), ("n", Constraint::Max(2))])]
    );
    check(r#","tools":[{"name":"issues.delete"}]"#);
    check(r#","tools":[{"name":"issues.create"}]"#);
    check(r#","tools":[{"name":"issues.create","args":{"repo":{"prefix":"acme/"},"n":{"max":6}}}]"#);
    check(r#","tools":[{"name":"issues.create","args":{"repo":{"prefix":""},"n":{"max":5}}}]"#);
    check(r#","tools":[{"name":"issues.create","args":{"repo":{"prefix":"acme/"}}}]"#);
    check(r#","tools":[]"#);
    let mut other = world();
    other.request = with_details(r#"[{"type":"urn:countersign:task","task":"task_2"}]"#).unwrap();
    assert_eq!(other.issue().map(drop), Err("invalid_authorization_details"));
}

#[test]
fn an_unnamed_task_is_the_only_one_or_none() {
    let world = world();
    let other = TaskGrant { id: TaskId::parse("task_2").unwrap(), ..world.task.clone() };
    let choose = |tasks: &[&TaskGrant], resource: &str| {
        choose_task(tasks.iter().copied(), &world.agent.id, resource, NOW)
            .map(|task| task.id.as_str().to_owned())
    };
    assert_eq!(choose(&[&world.task], RESOURCE).unwrap(), "task_1");
    assert!(choose(&[&world.task, &other], RESOURCE).is_err());
    assert!(choose(&[], RESOURCE).is_err());
    assert!(choose(&[&world.task], "https://gw.example/mcp/other").is_err());
    let revoked = other.clone().revoke(NOW);
    assert_eq!(choose(&[&world.task, &revoked], RESOURCE).unwrap(), "task_1");
    let foreign = TaskGrant { agent: AgentId::parse("other").unwrap(), ..other };
    assert_eq!(choose(&[&foreign, &world.task], RESOURCE).unwrap(), "task_1");
}
