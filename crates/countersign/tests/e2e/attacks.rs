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

use countersign_testkit::drill::Watch;
use countersign_testkit::insider::{Answer, Insider, PROTOCOL};
use countersign_testkit::story::{AGENT, POLICY};
use countersign_testkit::world::Machine;
use serde_json::json;

use crate::{Stage, block_on};

/// A world with a machine, an agent and a task, and nobody at the TPM.
struct Ground {
    stage: Stage,
    laptop: Machine,
    task: String,
}

impl Ground {
    fn new() -> Self {
        let stage = Stage::new();
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
        let Ground { stage, laptop, task } = Ground::new();
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
}
