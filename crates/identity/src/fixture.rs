//! One small world for the tests: an agent, its machine, its sponsor, a task, a server.

use std::collections::{BTreeMap, BTreeSet};

use countersign_proto::attestation_client::{
    Attestation, AttestationExpectation, MachineClaim, VerifiedClient, prove_attestation, prove_pop,
    verify_attestation, verify_pop,
};
use countersign_proto::digest::Sha256Digest;
use countersign_proto::dpop::{self, DpopExpectation, VerifiedDpop};
use countersign_proto::id::{AgentId, MachineId, PersonId, RunId, SpiffeId, TaskId, ToolName, TrustDomain};
use countersign_proto::jose::{JwsSigner, KeySet, SoftwareEd25519, SoftwareP256, sign_compact};
use countersign_proto::json::{self, Value};
use countersign_proto::time::Timestamp;
use countersign_proto::token::{ACCESS_TOKEN_TYP, AccessTokenClaims, Constraint, ToolGrant};

use crate::agent::{Agent, Standing};
use crate::grant::{Presented, Terms, TokenRequest, issue};
use crate::person::{Person, Role};
use crate::run::Run;
use crate::task::TaskGrant;

pub(crate) const NOW: Timestamp = Timestamp::from_unix_secs(1_790_000_000);
pub(crate) const ISSUER: &str = "https://as.example";
pub(crate) const TOKEN_URL: &str = "https://as.example/oauth/token";
pub(crate) const RESOURCE: &str = "https://gw.example/mcp/github";
pub(crate) const ATTESTER: &str = "https://as.example/attest";

pub(crate) struct World {
    pub(crate) server: SoftwareP256,
    pub(crate) keys: KeySet,
    pub(crate) machine_key: SoftwareP256,
    pub(crate) agent_key: SoftwareEd25519,
    pub(crate) claim: MachineClaim,
    pub(crate) agent: Agent,
    pub(crate) sponsor: Person,
    pub(crate) task: TaskGrant,
    pub(crate) run: Run,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) request: TokenRequest,
}

pub(crate) fn person(id: &str, roles: &[Role]) -> Person {
    Person::new(PersonId::parse(id).unwrap(), id.to_owned(), roles.iter().copied().collect())
}

pub(crate) fn tool(name: &str, args: &[(&str, Constraint)]) -> ToolGrant {
    let args: BTreeMap<String, Constraint> =
        args.iter().map(|(name, constraint)| ((*name).to_owned(), constraint.clone())).collect();
    ToolGrant { name: ToolName::parse(name).unwrap(), args }
}

pub(crate) fn world() -> World {
    let server = SoftwareP256::generate().unwrap();
    let (machine_key, agent_key) = (SoftwareP256::generate().unwrap(), SoftwareEd25519::generate().unwrap());
    let agent = Agent::register(
        AgentId::parse("build-bot").unwrap(),
        PersonId::parse("alice").unwrap(),
        BTreeSet::from(["ci".to_owned()]),
        NOW,
    );
    let machine = MachineId::parse("m-17").unwrap();
    let trust_domain = TrustDomain::parse("td").unwrap();
    World {
        keys: KeySet::from_keys(vec![("k1".into(), server.public_jwk())]).unwrap(),
        claim: MachineClaim {
            sub: SpiffeId::machine(&trust_domain, &machine),
            id: machine.clone(),
            lvl: 3,
            att_time: NOW.unix_secs() - 10,
            att_exp: NOW.unix_secs() + 590,
            reference: "pcr-policy@v12".into(),
            ev: Sha256Digest::of(b"evidence"),
        },
        run: Run {
            id: RunId::parse("run_1").unwrap(),
            agent: agent.id.clone(),
            agent_jkt: agent_key.public_jwk().thumbprint(),
            machine,
            machine_jkt: machine_key.public_jwk().thumbprint(),
            generation: 1,
            started_at: NOW,
            ended_at: None,
        },
        agent: Agent { standing: Standing::Active, ..agent },
        sponsor: person("alice", &[Role::Sponsor]),
        task: TaskGrant {
            id: TaskId::parse("task_1").unwrap(),
            agent: AgentId::parse("build-bot").unwrap(),
            sponsor: PersonId::parse("alice").unwrap(),
            purpose: "triage issues".into(),
            locations: vec![RESOURCE.into()],
            tools: vec![
                tool("issues.list", &[]),
                tool(
                    "issues.create",
                    &[("repo", Constraint::Prefix("acme/".into())), ("n", Constraint::Max(5))],
                ),
            ],
            max_calls: 20,
            approval: None,
            granted_at: NOW,
            expires_at: NOW.plus_secs(3600),
            revoked_at: None,
        },
        request: TokenRequest {
            client: AgentId::parse("build-bot").unwrap(),
            resource: RESOURCE.into(),
            task: None,
        },
        server,
        machine_key,
        agent_key,
        trust_domain,
    }
}

impl World {
    pub(crate) fn machine(&self) -> VerifiedClient {
        let attestation = Attestation {
            issuer: ATTESTER,
            client: &self.request.client,
            machine_key: &self.machine_key.public_jwk(),
            machine: &self.claim,
            now: NOW,
            expires_at: NOW.plus_secs(600),
        };
        let attestation = prove_attestation(&self.server, "k1", &attestation).unwrap();
        let expectation =
            AttestationExpectation { attester: ATTESTER, keys: &self.keys, now: NOW, max_age_secs: 300 };
        let attestation = verify_attestation(&attestation, &expectation).unwrap();
        let pop = prove_pop(&self.machine_key, &self.request.client, ISSUER, "c", "j", NOW).unwrap();
        verify_pop(&pop, attestation, ISSUER, NOW).unwrap()
    }

    pub(crate) fn dpop(&self, url: &str, token: Option<&str>) -> VerifiedDpop {
        proof(&self.agent_key, url, token)
    }

    pub(crate) fn terms(&self) -> Terms<'_> {
        Terms {
            issuer: ISSUER,
            trust_domain: &self.trust_domain,
            jti: "t-1",
            lifetime_secs: 300,
            min_env_level: 2,
        }
    }

    pub(crate) fn issue(&self) -> Result<AccessTokenClaims, &'static str> {
        let (machine, agent_proof) = (self.machine(), self.dpop(TOKEN_URL, None));
        issue(&self.presented(&machine, &agent_proof), &self.terms(), NOW).map_err(|error| error.error)
    }

    pub(crate) fn presented<'a>(
        &'a self,
        machine: &'a VerifiedClient,
        agent_proof: &'a VerifiedDpop,
    ) -> Presented<'a> {
        Presented {
            request: &self.request,
            machine,
            agent_proof,
            agent: &self.agent,
            task: &self.task,
            sponsor: &self.sponsor,
            run: &self.run,
        }
    }

    pub(crate) fn sign(&self, claims: &AccessTokenClaims) -> String {
        let payload = json::from_serde(claims).unwrap().to_jcs();
        sign_compact(&self.server, ACCESS_TOKEN_TYP, &[("kid", Value::from("k1"))], &payload).unwrap()
    }
}

/// A verified proof by any key, for the token endpoint (`token: None`) or for a call with a token.
pub(crate) fn proof(key: &dyn JwsSigner, url: &str, token: Option<&str>) -> VerifiedDpop {
    let text = dpop::prove(key, "POST", url, token, None, "j1", NOW).unwrap();
    let expectation = DpopExpectation {
        method: "POST",
        url,
        now: NOW,
        max_age_secs: dpop::MAX_AGE_SECS,
        max_skew_secs: dpop::MAX_SKEW_SECS,
        access_token: token,
        nonce: None,
    };
    dpop::verify(&text, &expectation).unwrap()
}
