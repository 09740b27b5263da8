//! Decisions from real factors: a signed token, a DPoP proof, a machine certificate. What is stolen fails here.

use std::collections::BTreeMap;
use std::sync::Arc;

use countersign_audit::{Origin, Sequencer};
use countersign_identity::approval::GrantExpectation;
use countersign_identity::{
    AgentProof, Revoked, TokenExpectation, VerifiedAgent, authenticate, verify_grant, verify_token,
};
use countersign_proto::approval::ApprovalGrant;
use countersign_proto::digest::Sha256Digest;
use countersign_proto::dpop::{self, DpopExpectation};
use countersign_proto::id::{AgentId, ApprovalId, MachineId, PersonId, RunId, SpiffeId, TrustDomain};
use countersign_proto::jose::{JwsSigner, KeySet, SoftwareEd25519, SoftwareP256, sign_compact};
use countersign_proto::json::{self, Limits, Value};
use countersign_proto::snapshot::{
    AgentEntry, AgentState, MachineEntry, MachineState, PolicyBundle, ToolEntry, ToolState, UpstreamEntry,
};
use countersign_proto::token::{ACCESS_TOKEN_TYP, AccessTokenClaims};
use countersign_trust::{PeerCertificate, VerifiedMachine, appraise_peer};

use super::*;
use crate::countersigned::BindError;
use crate::decision::Verdict;

const NOW: i64 = 1_800_000_000;
const ISSUER: &str = "https://cs.example";
const RESOURCE: &str = "https://gw.example/mcp/tools";

const POLICIES: &str = r#"
    @id("builders") permit(principal in AgentGroup::"builders", action in Action::"call", resource in Upstream::"tools");
    @id("fresh") @requires("fresh_attestation") @max_age("60")
    forbid(principal, action == Action::"tools/restart", resource)
    when { context.machine.level < 3 || context.machine.attested_age > 60 };
    @id("person") @requires("approval")
    forbid(principal, action == Action::"tools/pay", resource) when { context.person.level < 3 };
    @id("budget") forbid(principal, action == Action::"tools/read", resource) when { context.task.calls_used >= 7 };
    @id("proofs") forbid(principal, action, resource in Upstream::"tools")
    unless { context.proof.agent == "dpop" && context.proof.machine == "mtls" && context.machine.id == "m-1" };
"#;

/// A server, a machine and an agent, each with its key.
struct World {
    server: SoftwareP256,
    machine: SoftwareP256,
    agent: SoftwareEd25519,
    pdp: Pdp,
}

fn domain() -> TrustDomain {
    TrustDomain::parse("td.example").unwrap()
}

fn spiffe(machine: &str) -> SpiffeId {
    SpiffeId::machine(&domain(), &MachineId::parse(machine).unwrap())
}

fn agent_entry() -> AgentEntry {
    AgentEntry {
        state: AgentState::Active,
        generation: 1,
        groups: vec!["builders".to_owned()],
        sponsor: PersonId::parse("ada").unwrap(),
    }
}

fn pdp(policies: &str) -> Pdp {
    let tool = |schema: &str, state| ToolEntry {
        digest: Sha256Digest::of(schema.as_bytes()),
        state,
        input_schema: json::parse(schema.as_bytes(), &Limits::DEFAULT).unwrap(),
    };
    let tools: BTreeMap<_, _> = [
        ("read", tool(r#"{"type":"object","properties":{"path":{"type":"string"}}}"#, ToolState::Pinned)),
        ("restart", tool(r#"{"type":"object"}"#, ToolState::Pinned)),
        ("pay", tool(r#"{"type":"object","properties":{"amount":{"type":"number"}}}"#, ToolState::Pinned)),
        ("moved", tool(r#"{"type":"object"}"#, ToolState::Changed)),
        ("spare", tool(r#"{"type":"object"}"#, ToolState::Pinned)),
    ]
    .map(|(name, entry)| (ToolName::parse(name).unwrap(), entry))
    .into();
    let upstreams = ["tools", "others"].map(|id| {
        let entry = UpstreamEntry { resource: format!("https://gw.example/mcp/{id}"), tools: tools.clone() };
        (UpstreamId::parse(id).unwrap(), entry)
    });
    let bundle = PolicyBundle {
        revision: 3,
        cedar: policies.to_owned(),
        digest: Sha256Digest::of(policies.as_bytes()),
    };
    let agents = [(AgentId::parse("bob").unwrap(), agent_entry())].into();
    Pdp::compile(&bundle, &agents, &upstreams.into()).unwrap()
}

impl World {
    fn new() -> Self {
        Self {
            server: SoftwareP256::generate().unwrap(),
            machine: SoftwareP256::generate().unwrap(),
            agent: SoftwareEd25519::generate().unwrap(),
            pdp: pdp(POLICIES),
        }
    }

    fn keys(&self) -> KeySet {
        KeySet::from_keys(vec![("k1".to_owned(), self.server.public_jwk())]).unwrap()
    }

    fn claims(&self) -> AccessTokenClaims {
        let text = format!(
            r#"{{"iss":"{ISSUER}","aud":"{RESOURCE}","client_id":"agent:bob","sub":"user:ada","sid":"run_1","txn":"task_1",
            "jti":"t1","iat":{now},"nbf":{now},"exp":{exp},"act":{{"sub":"spiffe://td.example/agent/bob/run/run_1"}},
            "cnf":{{"jkt":"{agent}"}},
            "urn:countersign:env":{{"sub":"spiffe://td.example/machine/m-1","jkt":"{machine}","lvl":3,"min_lvl":3,
              "att_time":{att},"att_exp":{exp},"ref":"pcr@1","ev":"{digest}"}},
            "acr":"urn:countersign:acr:e3u1","auth_time":0,"urn:countersign:gen":1,
            "authorization_details":[{{"type":"urn:countersign:task","task":"task_1","purpose":"build",
              "locations":["{RESOURCE}"],"max_calls":20,"tools":[
                {{"name":"read","args":{{"path":{{"prefix":"/src/"}}}}}},{{"name":"restart"}},{{"name":"pay"}},{{"name":"moved"}}]}}]}}"#,
            now = NOW - 10,
            exp = NOW + 200,
            att = NOW - 10,
            agent = self.agent.public_jwk().thumbprint(),
            machine = self.machine.public_jwk().thumbprint(),
            digest = Sha256Digest::of(b"evidence"),
        );
        json::typed(text.as_bytes(), &Limits::DEFAULT).unwrap()
    }

    fn agent(&self, edit: impl FnOnce(&mut AccessTokenClaims)) -> VerifiedAgent {
        let mut claims = self.claims();
        edit(&mut claims);
        let payload = json::from_serde(&claims).unwrap().to_jcs();
        let token =
            sign_compact(&self.server, ACCESS_TOKEN_TYP, &[("kid", Value::from("k1"))], &payload).unwrap();
        let now = Timestamp::from_unix_secs(NOW);
        let expect = TokenExpectation {
            issuer: ISSUER,
            audience: RESOURCE,
            keys: &self.keys(),
            now,
            max_lifetime_secs: 300,
        };
        let verified = verify_token(&token, &expect).unwrap();
        let proof = dpop::prove(&self.agent, "POST", RESOURCE, Some(&token), None, "j1", now).unwrap();
        let expect = DpopExpectation {
            method: "POST",
            url: RESOURCE,
            now,
            max_age_secs: 60,
            max_skew_secs: 5,
            access_token: Some(&token),
            nonce: None,
        };
        let proof = AgentProof::Dpop(dpop::verify(&proof, &expect).unwrap());
        authenticate(Arc::new(verified), proof, Some(&agent_entry()), &Revoked::default(), now).unwrap()
    }

    fn bound(&self, edit: impl FnOnce(&mut AccessTokenClaims)) -> Countersigned {
        Countersigned::bind(self.agent(edit), machine("m-1", &self.machine)).unwrap()
    }

    fn approval(&self, call: &Call, edit: impl FnOnce(&mut ApprovalGrant)) -> GrantedApproval {
        let mut grant = ApprovalGrant {
            iss: ISSUER.to_owned(),
            apr: ApprovalId::parse("apr_1").unwrap(),
            call_digest: call.digest(),
            run: self.claims().sid,
            machine_jkt: self.machine.public_jwk().thumbprint(),
            agent: AgentId::parse("bob").unwrap(),
            policy: self.pdp.policy().1,
            approver: PersonId::parse("grace").unwrap(),
            exp: NOW + 60,
            jti: "g1".to_owned(),
        };
        edit(&mut grant);
        let expect = GrantExpectation {
            issuer: ISSUER,
            keys: &self.keys(),
            now: Timestamp::from_unix_secs(NOW - 100),
            call_digest: &grant.call_digest,
            agent: &grant.agent,
            run: &grant.run,
            machine_jkt: &grant.machine_jkt,
        };
        verify_grant(&grant.sign(&self.server, "k1").unwrap(), &expect).unwrap()
    }
}

/// A machine as the gateway's TLS shows it.
fn machine(id: &str, key: &SoftwareP256) -> VerifiedMachine {
    let pkcs8 = key.to_pkcs8().unwrap();
    let pair = rcgen::KeyPair::try_from(pkcs8.as_slice()).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2040, 1, 1);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.subject_alt_names = vec![rcgen::SanType::URI(spiffe(id).as_str().try_into().unwrap())];
    params.is_ca = rcgen::IsCa::ExplicitNoCa;
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.self_signed(&pair).unwrap();
    let peer = PeerCertificate::from_der(certificate.der()).unwrap();
    let entry = MachineEntry {
        spiffe: spiffe(id),
        jkt: key.public_jwk().thumbprint(),
        state: MachineState::Active,
        generation: 1,
        changed_at: Timestamp::from_unix_secs(0),
    };
    appraise_peer(&peer, Some(&entry), Timestamp::from_unix_secs(NOW)).unwrap()
}

fn call(upstream: &str, tool: &str, arguments: &str) -> Call {
    Call {
        upstream: UpstreamId::parse(upstream).unwrap(),
        tool: ToolName::parse(tool).unwrap(),
        arguments: json::parse_object(arguments.as_bytes(), &Limits::DEFAULT).unwrap(),
    }
}

fn state(approval: Option<&GrantedApproval>) -> CallState<'_> {
    CallState {
        now: Timestamp::from_unix_secs(NOW),
        calls_used: 0,
        approval,
        tool: ToolStanding::Pinned,
        decision_id: DecisionId::parse("dec_1").unwrap(),
        nonce: [9; 16],
    }
}

/// Decides, records, reveals; the verdict in a word and the record as text.
fn outcome(pdp: &Pdp, who: &Countersigned, call: &Call, state: &CallState<'_>) -> (String, String) {
    let decision = pdp.decide(who, call, state);
    let record = String::from_utf8(decision.record().bytes().to_vec()).unwrap();
    let mut log = Sequencer::new(Origin::parse("log.example").unwrap());
    let receipt = log.stage(vec![decision.record().clone()]).durable().pop().unwrap();
    let word = match decision.reveal(receipt).unwrap() {
        Verdict::Permit(permit) => {
            assert!(permit.covers(call));
            "permit".to_owned()
        }
        Verdict::Deny(denial) => denial.code.to_string(),
        Verdict::Challenge(challenge) => format!("? {}", challenge.needs),
    };
    (word, record)
}

#[track_caller]
fn check(
    edit: impl FnOnce(&mut AccessTokenClaims),
    call: &Call,
    adjust: impl FnOnce(&mut CallState<'_>),
    expected: &str,
) {
    let world = World::new();
    let mut state = state(None);
    adjust(&mut state);
    let (word, record) = outcome(&world.pdp, &world.bound(edit), call, &state);
    assert_eq!(word, expected, "{record}");
    if !expected.starts_with('?') && expected != "permit" {
        assert!(record.contains(&format!(r#""code":"{expected}""#)), "{record}");
    }
}

fn as_issued(_: &mut AccessTokenClaims) {}
fn as_usual(_: &mut CallState<'_>) {}

#[test]
fn a_token_works_only_on_the_machine_it_is_bound_to() {
    let (world, thief) = (World::new(), SoftwareP256::generate().unwrap());
    let bind = |machine| Countersigned::bind(world.agent(as_issued), machine).map(|_| ());
    assert_eq!(bind(machine("m-1", &world.machine)), Ok(()));
    assert_eq!(bind(machine("m-1", &thief)), Err(BindError::MachineKey));
    assert_eq!(bind(machine("m-2", &thief)), Err(BindError::MachineKey));
    assert_eq!(bind(machine("m-2", &world.machine)), Err(BindError::MachineName));
    assert_eq!(BindError::MachineKey.code(), Code::BindMachineKey);
}

#[test]
fn the_task_comes_before_policy() {
    let read = call("tools", "read", r#"{"path":"/src/a"}"#);
    check(as_issued, &read, as_usual, "permit");
    check(as_issued, &call("tools", "read", r#"{"path":"/etc/passwd"}"#), as_usual, "task.args");
    check(as_issued, &call("tools", "read", "{}"), as_usual, "task.args");
    check(as_issued, &call("tools", "spare", "{}"), as_usual, "task.tool");
    check(as_issued, &call("others", "read", r#"{"path":"/src/a"}"#), as_usual, "task.tool");
    check(as_issued, &read, |state| state.calls_used = 19, "policy.denied");
    check(as_issued, &read, |state| state.calls_used = 20, "task.budget");
    check(as_issued, &read, |state| state.calls_used = u64::MAX, "task.budget");
    check(as_issued, &read, |state| state.calls_used = 6, "permit");
    let ends_soon =
        |claims: &mut AccessTokenClaims| claims.authorization_details[0].expires_at = Some(NOW + 5);
    check(ends_soon, &read, |state| state.now = Timestamp::from_unix_secs(NOW + 5), "task.expired");
    check(as_issued, &read, |state| state.now = Timestamp::from_unix_secs(NOW + 200), "token.expired");
}

#[test]
fn a_tool_that_is_not_as_reviewed_is_not_called() {
    let read = call("tools", "read", r#"{"path":"/src/a"}"#);
    check(as_issued, &call("tools", "moved", "{}"), as_usual, "tool.changed");
    check(as_issued, &call("tools", "ghost", "{}"), as_usual, "tool.unknown");
    check(as_issued, &read, |state| state.tool = ToolStanding::Changed, "tool.changed");
    check(as_issued, &read, |state| state.tool = ToolStanding::Proposed, "tool.unknown");
    check(as_issued, &read, |state| state.tool = ToolStanding::Unknown, "tool.unknown");
}

#[test]
fn freshness_is_counted_from_the_attestation_to_the_call() {
    let restart = call("tools", "restart", "{}");
    let attested = |at: i64| move |claims: &mut AccessTokenClaims| claims.env.att_time = at;
    check(attested(NOW - 60), &restart, as_usual, "permit");
    check(attested(NOW - 61), &restart, as_usual, "? fresh_attestation:60");
    check(
        attested(NOW - 60),
        &restart,
        |state| state.now = Timestamp::from_unix_secs(NOW + 1),
        "? fresh_attestation:60",
    );
    check(attested(NOW + 5), &restart, as_usual, "permit");
    check(attested(NOW + 61), &restart, as_usual, "? fresh_attestation:60");
    check(attested(0), &restart, as_usual, "? fresh_attestation:60");
    check(|claims| claims.env.min_lvl = 2, &restart, as_usual, "? fresh_attestation:60");
}

#[test]
fn an_approval_counts_for_its_own_call_run_machine_and_policy() {
    let (world, pay) = (World::new(), call("tools", "pay", r#"{"amount":5}"#));
    let who = world.bound(as_issued);
    let decide =
        |call: &Call, approval: Option<&GrantedApproval>| outcome(&world.pdp, &who, call, &state(approval)).0;
    let approved = |edit: fn(&mut ApprovalGrant)| decide(&pay, Some(&world.approval(&pay, edit)));
    assert_eq!(decide(&pay, None), "? approval");
    assert_eq!(approved(|_| ()), "permit");
    let other = call("tools", "pay", r#"{"amount":6}"#);
    assert_eq!(decide(&other, Some(&world.approval(&pay, |_| ()))), "approval.digest");
    let same = call("tools", "pay", r#"{ "amount" : 5.0 }"#);
    assert_eq!(decide(&same, Some(&world.approval(&pay, |_| ()))), "permit");
    assert_eq!(approved(|grant| grant.run = RunId::parse("run_2").unwrap()), "approval.invalid");
    assert_eq!(approved(|grant| grant.agent = AgentId::parse("eve").unwrap()), "approval.invalid");
    assert_eq!(approved(|grant| grant.policy = Sha256Digest::of(b"older")), "approval.invalid");
    assert_eq!(approved(|grant| grant.exp = NOW), "approval.expired");
    let elsewhere = SoftwareP256::generate().unwrap().public_jwk().thumbprint();
    let elsewhere = world.approval(&pay, |grant| grant.machine_jkt = elsewhere);
    assert_eq!(decide(&pay, Some(&elsewhere)), "approval.invalid");
}

#[test]
fn a_token_cannot_claim_a_signature_over_a_call() {
    let signed = |claims: &mut AccessTokenClaims| claims.acr = Acr::new(3, 3).unwrap();
    check(signed, &call("tools", "pay", r#"{"amount":5}"#), as_usual, "? approval");
}

#[test]
fn the_record_names_what_the_decision_came_from_and_no_value() {
    let (world, pay) = (World::new(), call("tools", "pay", r#"{"amount":5,"note":"for-your-eyes"}"#));
    let approval = world.approval(&pay, |_| ());
    let (word, text) = outcome(&world.pdp, &world.bound(as_issued), &pay, &state(Some(&approval)));
    assert_eq!(word, "permit");
    assert!(!text.contains("for-your-eyes"), "{text}");
    for member in [
        r#""kind":"intent""#,
        r#""dec":"dec_1""#,
        r#""verdict":"permit""#,
        r#""agent":"bob""#,
        r#""run":"run_1""#,
        r#""sponsor":"ada""#,
        r#""task":"task_1""#,
        r#""upstream":"tools""#,
        r#""tool":"pay""#,
        r#""policies":["builders"]"#,
        r#""level":"e3u3""#,
        r#""attested_age":10"#,
        r#""approval":"apr_1""#,
        r#""agent_proof":"dpop""#,
        r#""machine_proof":"mtls""#,
        r#""id":"m-1""#,
        &format!(r#""jkt":"{}""#, world.machine.public_jwk().thumbprint()),
        &format!(r#""call":"{}""#, pay.digest()),
        &format!(r#""digest":"{}""#, world.pdp.policy().1),
    ] {
        assert!(text.contains(member), "{member} in {text}");
    }
}

#[test]
fn a_list_shows_what_task_and_policy_may_allow() {
    let world = World::new();
    let who = world.bound(as_issued);
    let listed = |upstream: &str| -> Vec<&str> {
        let upstream = UpstreamId::parse(upstream).unwrap();
        let names = ["read", "restart", "pay", "moved", "spare", "ghost"].into_iter();
        names.filter(|name| world.pdp.may_list(&who, &upstream, &ToolName::parse(name).unwrap())).collect()
    };
    assert_eq!(listed("tools"), ["read", "restart", "pay"]);
    assert_eq!(listed("others"), [""; 0]);
}
