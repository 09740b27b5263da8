//! Attacks on the running binary, by the areas of docs/conformance.md. The theft drills are in the story; these are
//! the ones besides. Each names the case it stands for.

mod approvals;
mod authorization_server;
mod canaries;
mod configuration;
mod full_disk;
mod gateway;
mod log_files;
mod names;
mod policies;
mod routes;
mod runner;
mod stopping;
mod streams;
mod token_kinds;
mod tools;
mod transport;

use std::collections::BTreeSet;

use countersign_proto as proto;
use countersign_proto::call::Call;
use countersign_proto::id::{ToolName, UpstreamId};
use countersign_proto::json::{Limits, parse};
use countersign_testkit::drill::Watch;
use countersign_testkit::insider::{Answer, Insider, PROTOCOL, now, tool_call};
use countersign_testkit::story::{AGENT, POLICY};
use countersign_testkit::world::{Machine, UPSTREAM, World};
use serde_json::{Value, json};

use crate::{Stage, block_on};

/// A world with a machine, an agent and a task, and nobody at the TPM.
struct Ground {
    stage: Stage,
    laptop: Machine,
    task: String,
}

impl Ground {
    fn new() -> Self {
        Self::on(Stage::new())
    }

    fn on(stage: Stage) -> Self {
        let world = &stage.world;
        let laptop = world.enroll("laptop").expect("enrollment");
        world.add_person("sam").expect("a person");
        world.add_agent(AGENT, "sam").expect("an agent");
        world.activate_policy(POLICY).expect("a policy");
        let tools = json!([
            { "name": "notes.read", "args": {} },
            { "name": "notes.write", "args": { "topic": { "eq": "roadmap" } } },
            { "name": "slow.count", "args": {} },
        ]);
        let task = world.add_task(AGENT, &tools, 10_000, 3600).expect("a task");
        Self { stage, laptop, task }
    }
}

/// A world with one run that works.
struct Scene {
    stage: Stage,
    task: String,
    insider: Insider,
    // Its TPM goes on until the scene ends.
    laptop: Machine,
    token: String,
    session: String,
}

impl Scene {
    fn new() -> Self {
        Self::on(Ground::new())
    }

    fn on(ground: Ground) -> Self {
        let Ground { stage, laptop, task } = ground;
        let world = &stage.world;
        let (insider, token, session) = block_on(async {
            let insider = Insider::open(world.ready(), &laptop, AGENT).await.expect("a run");
            let token = insider.token(&task).await.expect("a token");
            let session = insider.initialize(&token).await.expect("a session");
            (insider, token, session)
        });
        Self { stage, task, insider, laptop, token, session }
    }

    /// Sends `body` with everything right about it but what `change` changes in the headers.
    async fn post(&self, body: &[u8], change: impl FnOnce(&mut Vec<(String, String)>)) -> Answer {
        self.try_post(body, change).await.expect("an answer")
    }

    async fn try_post(
        &self,
        body: &[u8],
        change: impl FnOnce(&mut Vec<(String, String)>),
    ) -> std::io::Result<Answer> {
        let proof = self.insider.proof_for("POST", &self.insider.url(), Some(&self.token)).expect("a proof");
        let mut headers = vec![
            ("authorization".to_owned(), format!("DPoP {}", self.token)),
            ("dpop".to_owned(), proof),
            ("mcp-session-id".to_owned(), self.session.clone()),
            ("mcp-protocol-version".to_owned(), PROTOCOL.to_owned()),
        ];
        change(&mut headers);
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        self.insider.caller.post(&self.insider.url(), &headers, body.to_vec()).await
    }

    fn watch(&self) -> Watch<'_> {
        Watch::begin(&self.stage.world).expect("the world answers")
    }

    /// A new session after a restart.
    fn begin_again(&mut self) {
        self.session = session_after_start(&self.insider, &self.token);
    }

    /// The world, and apart from it the run, for threads that call while the world ends under them.
    fn split(self) -> (Stage, Machine, Run) {
        let Self { stage, task: _, insider, laptop, token, session } = self;
        (stage, laptop, Run { insider, token, session })
    }
}

/// A run in its session.
struct Run {
    insider: Insider,
    token: String,
    session: String,
}

impl Run {
    /// A new session after a restart.
    fn begin_again(&mut self) {
        self.session = session_after_start(&self.insider, &self.token);
    }

    /// One call with everything right about it.
    async fn call(&self, tool: &str, arguments: &Value) -> std::io::Result<Answer> {
        let proof = self.insider.proof_for("POST", &self.insider.url(), Some(&self.token))?;
        let authorization = format!("DPoP {}", self.token);
        let headers = [
            ("authorization", authorization.as_str()),
            ("dpop", proof.as_str()),
            ("mcp-session-id", self.session.as_str()),
            ("mcp-protocol-version", PROTOCOL),
        ];
        self.insider.caller.call(&self.insider.url(), &headers, &tool_call(1, tool, arguments)).await
    }
}

/// A session with a gateway that has just started: it takes no proof of the second it started in, because it no longer
/// knows which of them it has seen.
fn session_after_start(insider: &Insider, token: &str) -> String {
    let deadline = now().plus_secs(10);
    loop {
        match block_on(insider.initialize(token)) {
            Ok(session) => return session,
            Err(error) => assert!(now() < deadline, "no session after a restart: {error}"),
        }
    }
}

/// The digest that the record of a call carries.
fn digest_of(tool: &str, arguments: &Value) -> String {
    let arguments = parse(arguments.to_string().as_bytes(), &Limits::DEFAULT).expect("JSON");
    let proto::json::Value::Object(arguments) = arguments else { panic!("an object") };
    let upstream = UpstreamId::parse(UPSTREAM).expect("an id");
    Call { upstream, tool: ToolName::parse(tool).expect("a name"), arguments }.digest().b64()
}

/// Every record of the log on disk, verified while it is read.
fn records_on_disk(world: &World) -> Vec<Value> {
    let log = world.ready().log.display().to_string();
    let shown = world.cli(&["audit", "show", &log, "--limit", "1000000"]).expect("the log is whole");
    shown["records"].as_array().expect("records").iter().map(|entry| entry["record"].clone()).collect()
}

/// The digests of all calls that have an intent.
fn intended(records: &[Value]) -> BTreeSet<&str> {
    records
        .iter()
        .filter(|record| record["kind"] == "intent")
        .filter_map(|record| record["call"].as_str())
        .collect()
}
