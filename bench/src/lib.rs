//! What the benchmarks measure with: one server, one machine and one agent with genuine keys, tokens and proofs.
//!
//! Not a test world: everything here is sound, and nothing is ever refused.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot be set up has nothing to measure")]
#![expect(clippy::missing_panics_doc, reason = "see above")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use countersign_audit::{Kind, Record};
use countersign_identity::{
    AgentProof, Revoked, TokenExpectation, VerifiedAgent, VerifiedToken, authenticate, verify_token,
};
use countersign_policy::{CallState, Countersigned, Pdp, ToolStanding};
use countersign_proto::call::Call;
use countersign_proto::digest::Sha256Digest;
use countersign_proto::dpop::{self, DpopExpectation, VerifiedDpop};
use countersign_proto::id::{
    AgentId, DecisionId, MachineId, PersonId, SpiffeId, ToolName, TrustDomain, UpstreamId,
};
use countersign_proto::jose::{JwsSigner, KeySet, SoftwareEd25519, SoftwareP256, sign_compact};
use countersign_proto::json::{self, Limits, Value};
use countersign_proto::snapshot::{
    AgentEntry, AgentState, MachineEntry, MachineState, PolicyBundle, ToolEntry, ToolState, UpstreamEntry,
};
use countersign_proto::time::{Clock, Timestamp};
use countersign_proto::token::ACCESS_TOKEN_TYP;
use countersign_trust::{PeerCertificate, VerifiedMachine, appraise_peer};

/// The time at which everything happens.
pub const NOW: Timestamp = Timestamp::from_unix_secs(1_800_000_000);
const ISSUER: &str = "https://cs.example";
const RESOURCE: &str = "https://gw.example/mcp/tools";

/// A clock that stands still.
pub struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        NOW
    }
}

/// A server, a machine and an agent.
pub struct World {
    keys: KeySet,
    machine: SoftwareP256,
    agent: Box<dyn JwsSigner>,
    /// The access token, bound to the agent's and the machine's key.
    pub token: String,
    /// A proof for one call with it.
    pub proof: String,
}

impl World {
    /// With an agent that signs with Ed25519, as ours do.
    #[must_use]
    pub fn ed25519() -> Self {
        Self::with(Box::new(SoftwareEd25519::generate().unwrap()))
    }

    /// With an agent that signs with P-256, as others may.
    #[must_use]
    pub fn p256() -> Self {
        Self::with(Box::new(SoftwareP256::generate().unwrap()))
    }

    fn with(agent: Box<dyn JwsSigner>) -> Self {
        let (server, machine) = (SoftwareP256::generate().unwrap(), SoftwareP256::generate().unwrap());
        let claims = claims(&*agent, &machine);
        let kid = [("kid", Value::from("k1"))];
        let token = sign_compact(&server, ACCESS_TOKEN_TYP, &kid, claims.as_bytes()).unwrap();
        let proof = dpop::prove(&*agent, "POST", RESOURCE, Some(&token), None, "j1", NOW).unwrap();
        let keys = KeySet::from_keys(vec![("k1".to_owned(), server.public_jwk())]).unwrap();
        Self { keys, machine, agent, token, proof }
    }

    /// A fresh proof, as the agent makes one for each call.
    #[must_use]
    pub fn prove(&self) -> String {
        dpop::prove(&*self.agent, "POST", RESOURCE, Some(&self.token), None, "j2", NOW).unwrap()
    }

    /// Verifies the proof.
    #[must_use]
    pub fn verify_proof(&self) -> VerifiedDpop {
        let expected = DpopExpectation {
            method: "POST",
            url: RESOURCE,
            now: NOW,
            max_age_secs: 60,
            max_skew_secs: 5,
            access_token: Some(&self.token),
            nonce: None,
        };
        dpop::verify(&self.proof, &expected).unwrap()
    }

    /// Verifies the token, signature and all.
    #[must_use]
    pub fn verify_token(&self) -> Arc<VerifiedToken> {
        let expected = TokenExpectation {
            issuer: ISSUER,
            audience: RESOURCE,
            keys: &self.keys,
            now: NOW,
            max_lifetime_secs: 300,
        };
        Arc::new(verify_token(&self.token, &expected).unwrap())
    }

    /// Authenticates the agent with a token that was verified before and a proof that was verified now.
    #[must_use]
    pub fn authenticate(&self, token: &Arc<VerifiedToken>, proof: VerifiedDpop) -> VerifiedAgent {
        let proof = AgentProof::Dpop(proof);
        authenticate(Arc::clone(token), proof, Some(&agent_entry()), &Revoked::default(), NOW).unwrap()
    }

    /// Both factors, bound.
    #[must_use]
    pub fn countersigned(&self) -> Countersigned {
        let agent = self.authenticate(&self.verify_token(), self.verify_proof());
        Countersigned::bind(agent, self.machine()).unwrap()
    }

    fn machine(&self) -> VerifiedMachine {
        let pair = rcgen::KeyPair::try_from(self.machine.to_pkcs8().unwrap().as_slice()).unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2040, 1, 1);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = vec![rcgen::SanType::URI(machine_id().as_str().try_into().unwrap())];
        params.is_ca = rcgen::IsCa::ExplicitNoCa;
        params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.self_signed(&pair).unwrap();
        let peer = PeerCertificate::from_der(certificate.der()).unwrap();
        let entry = MachineEntry {
            spiffe: machine_id(),
            jkt: self.machine.public_jwk().thumbprint(),
            state: MachineState::Active,
            generation: 1,
            changed_at: countersign_proto::time::Timestamp::from_unix_secs(0),
        };
        appraise_peer(&peer, Some(&entry), NOW).unwrap()
    }
}

fn machine_id() -> SpiffeId {
    SpiffeId::machine(&TrustDomain::parse("td.example").unwrap(), &MachineId::parse("m-1").unwrap())
}

fn claims(agent: &dyn JwsSigner, machine: &SoftwareP256) -> String {
    format!(
        r#"{{"iss":"{ISSUER}","aud":"{RESOURCE}","client_id":"agent:bob","sub":"user:ada","sid":"run_1","txn":"task_1","jti":"t1","iat":{now},"nbf":{now},"exp":{exp},"act":{{"sub":"spiffe://td.example/agent/bob/run/run_1"}},"cnf":{{"jkt":"{agent}"}},"urn:countersign:env":{{"sub":"spiffe://td.example/machine/m-1","jkt":"{machine}","lvl":3,"min_lvl":3,"att_time":{now},"att_exp":{exp},"ref":"pcr@1","ev":"{ev}"}},"acr":"urn:countersign:acr:e3u1","auth_time":0,"urn:countersign:gen":1,"authorization_details":[{{"type":"urn:countersign:task","task":"task_1","purpose":"build","locations":["{RESOURCE}"],"max_calls":1000000,"tools":[{{"name":"read","args":{{"path":{{"prefix":"/src/"}}}}}}]}}]}}"#,
        now = NOW.unix_secs() - 10,
        exp = NOW.unix_secs() + 200,
        agent = agent.public_jwk().thumbprint(),
        machine = machine.public_jwk().thumbprint(),
        ev = Sha256Digest::of(b"evidence"),
    )
}

fn agent_entry() -> AgentEntry {
    AgentEntry {
        state: AgentState::Active,
        generation: 1,
        groups: vec!["builders".to_owned()],
        sponsor: PersonId::parse("ada").unwrap(),
    }
}

/// A decision point with `count` policies: one permits the call, one forbids something about it, the rest are about
/// other groups and upstreams, as in an organization with many teams.
#[must_use]
pub fn pdp(count: usize) -> Pdp {
    let mut cedar = String::from(
        "@id(\"ours\") permit(principal in AgentGroup::\"builders\", action in Action::\"call\", resource in Upstream::\"tools\");\n\
         @id(\"not-secrets\") forbid(principal, action == Action::\"tools/read\", resource) when { context.args has path && context.args.path like \"*/secret/*\" };\n",
    );
    for other in 2..count {
        let _ = writeln!(
            cedar,
            "@id(\"other-{other}\") permit(principal in AgentGroup::\"team-{other}\", action in Action::\"call\", \
             resource in Upstream::\"others\") when {{ context.machine.level >= 3 }};"
        );
    }
    let schema = br#"{"type":"object","properties":{"path":{"type":"string"}}}"#;
    let tool = ToolEntry {
        digest: Sha256Digest::of(schema),
        state: ToolState::Pinned,
        input_schema: json::parse(schema, &Limits::DEFAULT).unwrap(),
    };
    let upstreams: BTreeMap<_, _> = ["tools", "others"]
        .map(|id| {
            let tools = [(ToolName::parse("read").unwrap(), tool.clone())].into();
            let entry = UpstreamEntry { resource: format!("https://gw.example/mcp/{id}"), tools };
            (UpstreamId::parse(id).unwrap(), entry)
        })
        .into();
    let digest = Sha256Digest::of(cedar.as_bytes());
    let agents = [(AgentId::parse("bob").unwrap(), agent_entry())].into();
    Pdp::compile(&PolicyBundle { revision: 1, cedar, digest }, &agents, &upstreams).unwrap()
}

/// The call.
#[must_use]
pub fn call() -> Call {
    Call {
        upstream: UpstreamId::parse("tools").unwrap(),
        tool: ToolName::parse("read").unwrap(),
        arguments: json::parse_object(br#"{"path":"/src/main.rs"}"#, &Limits::DEFAULT).unwrap(),
    }
}

/// The state of a call, with an id and a nonce as a gateway would have drawn them.
#[must_use]
pub fn call_state() -> CallState<'static> {
    CallState {
        now: NOW,
        calls_used: 1,
        approval: None,
        tool: ToolStanding::Pinned,
        decision_id: DecisionId::parse("dec_abcdefghijklmnopqrstuvwxyz").unwrap(),
        nonce: [9; 16],
    }
}

/// A record of the size of a decision's.
#[must_use]
pub fn record() -> Record {
    Record::new(Kind::Intent, NOW, [7; 16]).with("padding", "x".repeat(500)).build().unwrap()
}
