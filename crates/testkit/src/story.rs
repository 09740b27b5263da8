//! The story that the demo plays and the end-to-end tests check: a machine enrolls, an agent works, a step-up, an
//! approval, a budget, and everything stolen. Each scene says what was sent, what was checked, the verdict and the
//! index of its record.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::channel;

use serde_json::{Value, json};

use crate::browser::Browser;
use crate::insider::now;
use crate::process::Talking;
use crate::theft::Stage;
use crate::world::{Client, Machine, World};

/// The policy of the story.
pub const POLICY: &str = include_str!("story.cedar");

/// How old an attestation may be for a deployment, in seconds; the policy says the same.
const DEPLOY_MAX_AGE_SECS: i64 = 3;

/// One scene and how it ended.
#[derive(Clone, Debug)]
pub struct Scene {
    /// What happens.
    pub name: String,
    /// What was sent.
    pub sent: String,
    /// What was checked.
    pub checked: String,
    /// What had to come of it.
    pub expected: String,
    /// What came of it.
    pub verdict: String,
    /// The index of the record that says so.
    pub record: Option<u64>,
}

impl Scene {
    /// Whether it ended as expected.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.verdict == self.expected
    }

    /// The scene as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "name": self.name, "sent": self.sent, "checked": self.checked, "expected": self.expected,
            "verdict": self.verdict, "record": self.record, "holds": self.holds(),
        })
    }
}

/// The story in progress.
pub struct Story<'a> {
    world: &'a World,
    tell: Box<dyn FnMut(&Scene) + 'a>,
    scenes: Vec<Scene>,
}

/// Who and what the story is about, once it is set up.
#[derive(Debug)]
pub struct Cast {
    /// The agent's machine.
    pub laptop: Machine,
    /// Another enrolled, healthy machine.
    pub other: Machine,
    /// The agent's task.
    pub task: String,
    /// A task of one call.
    pub tiny_task: String,
    /// Who answers for the agent.
    pub sponsor: Browser,
    /// Who may approve its calls.
    pub approver: Browser,
}

/// The story's agent.
pub const AGENT: &str = "scribe";

impl<'a> Story<'a> {
    /// A story in `world`; `tell` hears of every scene as it ends.
    pub fn new(world: &'a World, tell: impl FnMut(&Scene) + 'a) -> Self {
        Self { world, tell: Box::new(tell), scenes: Vec::new() }
    }

    /// All scenes so far.
    #[must_use]
    pub fn scenes(&self) -> &[Scene] {
        &self.scenes
    }

    fn end(&mut self, scene: Scene) {
        (self.tell)(&scene);
        self.scenes.push(scene);
    }

    fn scene(
        &mut self,
        name: &str,
        sent: &str,
        checked: &str,
        expected: &str,
        verdict: String,
        record: Option<u64>,
    ) {
        self.end(Scene {
            name: name.to_owned(),
            sent: sent.to_owned(),
            checked: checked.to_owned(),
            expected: expected.to_owned(),
            verdict,
            record,
        });
    }

    /// Enrollment, people, agent, tasks and policy.
    ///
    /// # Errors
    /// If the world does not answer.
    pub fn set_up(&mut self) -> io::Result<Cast> {
        let world = self.world;
        let laptop = world.enroll("laptop")?;
        let enrolled = self.last_of_kind("enroll")?;
        self.scene(
            "a machine enrolls with its TPM",
            "EK certificate, AK, activated secret, key M certified by the AK, ACME order, CSR by M",
            "EK chain, AK attributes, credential activation, TPM2_Certify, device-attest-01",
            "certificate issued",
            "certificate issued".to_owned(),
            enrolled,
        );
        let other = world.enroll("ci-7")?;
        let sponsor = Browser::new(world.repository(), &world.dir().join("passkey-sam.json"));
        sponsor.register(&world.add_person("sam")?)?;
        let approver = Browser::new(world.repository(), &world.dir().join("passkey-ada.json"));
        approver.register(&world.add_person("ada")?)?;
        world.add_agent(AGENT, "sam")?;
        world.activate_policy(POLICY)?;
        let tools = json!([
            { "name": "notes.read", "args": {} },
            { "name": "notes.write", "args": { "topic": { "eq": "roadmap" } } },
            { "name": "deploy.start", "args": { "environment": { "one_of": ["staging", "production"] } } },
            { "name": "payments.refund", "args": { "cents": { "max": 10_000 } } },
            { "name": "slow.count", "args": {} },
        ]);
        let task = world.add_task(AGENT, &tools, 200, 3600)?;
        let tiny_task = world.add_task(AGENT, &json!([{ "name": "notes.read", "args": {} }]), 1, 3600)?;
        let record = self.last_of_kind("admin")?;
        self.scene(
            "an agent gets a sponsor, a policy and a task",
            "agent scribe for sam; five tools with argument limits, 200 calls, one hour",
            "the sponsor exists; the policy passes strict validation",
            "granted",
            "granted".to_owned(),
            record,
        );
        Ok(Cast { laptop, other, task, tiny_task, sponsor, approver })
    }

    /// An unmodified MCP client works: allowed, refused, stepped up, over budget.
    ///
    /// # Errors
    /// If the world does not answer.
    pub fn work(&mut self, cast: &Cast) -> io::Result<()> {
        let mut client = self.world.run_client(&cast.laptop, AGENT, &cast.task, Client::TypeScript, &[])?;
        let from = self.world.log_size()?;
        let listed = client.ask(&json!({ "list": true }))?;
        let begun = now();
        let names: Vec<&str> =
            listed["tools"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        self.scene(
            "the agent lists its tools",
            "tools/list, by the official TypeScript SDK behind `countersign run`",
            "agent, machine, binding, task, pins",
            "5 tools, secrets.dump hidden",
            format!(
                "{} tools, secrets.dump {}",
                names.len(),
                if names.contains(&"secrets.dump") { "shown" } else { "hidden" }
            ),
            self.last_verdict(from)?.0,
        );
        self.call(
            &mut client,
            "an allowed call",
            "notes.read",
            &json!({ "topic": "roadmap" }),
            "ship the gateway",
            "intent",
        )?;
        self.call(
            &mut client,
            "a call outside the task",
            "secrets.dump",
            &json!({}),
            "refused",
            "task.tool",
        )?;
        self.call(
            &mut client,
            "arguments outside the task",
            "notes.write",
            &json!({ "topic": "salaries", "text": "x" }),
            "refused",
            "task.args",
        )?;
        self.step_up(&mut client, begun)?;
        self.approval(&mut client, cast)?;
        client.finish()?;
        let mut client =
            self.world.run_client(&cast.laptop, AGENT, &cast.tiny_task, Client::TypeScript, &[])?;
        self.call(
            &mut client,
            "the last call of a budget",
            "notes.read",
            &json!({ "topic": "roadmap" }),
            "ship the gateway",
            "intent",
        )?;
        self.call(
            &mut client,
            "a call over the budget",
            "notes.read",
            &json!({ "topic": "roadmap" }),
            "refused",
            "task.budget",
        )?;
        client.finish()?;
        Ok(())
    }

    /// One call through the client; what the client got, and the last verdict in the log.
    fn call(
        &mut self,
        client: &mut Talking,
        name: &str,
        tool: &str,
        arguments: &Value,
        answer: &str,
        code: &str,
    ) -> io::Result<()> {
        let from = self.world.log_size()?;
        let got = client.ask(&json!({ "call": tool, "args": arguments }))?;
        let (record, seen) = self.last_verdict(from)?;
        self.scene(
            name,
            &format!("tools/call {tool} {arguments}"),
            "agent, machine, binding, task, budget, policy",
            &format!("{answer} ({code})"),
            format!("{} ({seen})", said(&got)),
            record,
        );
        Ok(())
    }

    /// Policy wants a fresh attestation: the runner answers by itself, the agent just gets its result.
    fn step_up(
        &mut self,
        client: &mut Talking,
        attested_after: countersign_proto::time::Timestamp,
    ) -> io::Result<()> {
        // The attestation has to be old enough to be refused: that it ages is what the scene is about.
        let old_enough = attested_after.plus_secs(DEPLOY_MAX_AGE_SECS + 1);
        let (_hold, aged) = channel::<()>();
        let left = u64::try_from(old_enough.unix_millis() - now().unix_millis()).unwrap_or(0);
        let _ = aged.recv_timeout(std::time::Duration::from_millis(left));
        let from = self.world.log_size()?;
        let arguments = json!({ "environment": "staging", "version": "1.4.2" });
        let got = client.ask(&json!({ "call": "deploy.start", "args": arguments }))?;
        let kinds = self.verdict_kinds(from)?;
        self.scene(
            "a call that needs a fresh attestation",
            &format!("tools/call deploy.start {arguments}"),
            "policy asks for an attestation of the last 3 s; the runner quotes again and retries",
            "deploying 1.4.2 to staging (challenge, intent)",
            format!("{} ({})", said(&got), kinds.join(", ")),
            self.last_verdict(from)?.0,
        );
        Ok(())
    }

    /// Policy wants a person: held, looked at, signed, done once; and the ways in which it is not.
    fn approval(&mut self, client: &mut Talking, cast: &Cast) -> io::Result<()> {
        let arguments = json!({ "account": "acme", "cents": 4200, "reason": "double charge" });
        let call = json!({ "call": "payments.refund", "args": arguments, "timeout_ms": 120_000 });
        let from = self.world.log_size()?;
        client.tell(&call)?;
        let (id, url) = self.waiting_approval(&[])?;
        let own = cast.sponsor.approve(&url, None);
        self.scene(
            "the sponsor tries to approve its own agent's call",
            &format!("passkey of sam over {id}"),
            "approver is not requester",
            "refused",
            if own.is_err() { "refused" } else { "approved" }.to_owned(),
            None,
        );
        let picture: PathBuf = self.world.dir().join("approval.png");
        cast.approver.approve(&url, Some(&picture))?;
        let got = client.next_json()?;
        self.scene(
            "a call that needs a person",
            &format!("tools/call payments.refund {arguments}"),
            "held; ada's passkey signs the hash of call, view, scope, policy and expiry; used once",
            "refunded 4200 cents to acme (challenge, intent)",
            format!("{} ({})", said(&got), unrepeated(self.verdict_kinds(from)?).join(", ")),
            self.last_verdict(from)?.0,
        );
        let from = self.world.log_size()?;
        client.tell(&call)?;
        let (again, url) = self.waiting_approval(&[&id])?;
        cast.approver.refuse(&url)?;
        let got = client.next_json()?;
        let (record, code) = self.last_verdict(from)?;
        self.scene(
            "the same call again, which asks again, and is refused",
            &format!("tools/call payments.refund {arguments}"),
            &format!("the first approval is spent; {again} is a new one; ada says no"),
            "refused (approval.refused)",
            format!("{} ({code})", said(&got)),
            record,
        );
        Ok(())
    }

    /// Everything stolen.
    ///
    /// # Errors
    /// If the world does not answer.
    pub async fn thefts(&mut self, cast: &Cast) -> io::Result<()> {
        let reading = json!([{ "name": "notes.read", "args": {} }]);
        let short_task = self.world.add_task(AGENT, &reading, 50, SHORT_TASK_SECS)?;
        let stage = Stage::set(self.world, &cast.laptop, &cast.other, AGENT, &cast.task, &short_task).await?;
        let control = stage.control().await?;
        self.scene(
            "control: the honest call of the drills",
            "token, fresh proof, right machine",
            "agent, machine, binding, task, budget, policy",
            "200 (intent)",
            format!(
                "{} ({})",
                control.status,
                if control.upstream_bytes > 0 { "intent" } else { "nothing upstream" }
            ),
            control.record,
        );
        let mut drills = stage.drills().await?;
        drills.extend(stage.last_drills("laptop", AGENT).await?);
        for drill in drills {
            let (expected, seen) = (&drill.expected, &drill.seen);
            let alarm = |raised: bool| if raised { ", alarm" } else { "" };
            self.scene(
                drill.name,
                drill.sent,
                "answer, tool server's byte counter, log",
                &format!(
                    "{} {} ({}{}), 1 record, 0 bytes upstream",
                    expected.status,
                    expected.error,
                    expected.code,
                    alarm(expected.alarm)
                ),
                format!(
                    "{} {} ({}{}), {} record, {} bytes upstream",
                    seen.status,
                    seen.error,
                    seen.code,
                    alarm(seen.alarm.is_some()),
                    seen.verdicts,
                    seen.upstream_bytes
                ),
                seen.record,
            );
        }
        Ok(())
    }

    /// The log is whole; one flipped bit and it is not.
    ///
    /// # Errors
    /// If the files cannot be read or copied.
    pub fn verify_log(&mut self) -> io::Result<()> {
        let log = self.world.ready().log.clone();
        let verified = self.world.cli(&["audit", "verify", &log.display().to_string()]);
        let verdict =
            verified.as_ref().map_or("broken", |answer| answer["verdict"].as_str().unwrap_or_default());
        self.scene(
            "the log is verified offline",
            "countersign audit verify",
            "every entry, every hash, the signature",
            "whole",
            verdict.to_owned(),
            None,
        );
        let copy = self.world.dir().join("log-copy");
        copy_folder(&log, &copy)?;
        let entries = first_bundle(&copy)?;
        let mut bytes = std::fs::read(&entries)?;
        // The 40th byte lies in the first entry: two bytes of length, then its text.
        bytes[40] ^= 1;
        std::fs::write(&entries, bytes)?;
        let output = self.world.cli_output(&["audit", "verify", &copy.display().to_string()])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let named = output.status.code() == Some(6) && said.contains("at entry 0");
        self.scene(
            "one bit of entry 0 is flipped",
            "countersign audit verify, on a copy",
            "the same",
            "fails at entry 0",
            if named { "fails at entry 0".to_owned() } else { format!("{}: {said}", output.status) },
            None,
        );
        Ok(())
    }

    /// The approval that waits and is none of `known`, with its page.
    fn waiting_approval(&self, known: &[&str]) -> io::Result<(String, String)> {
        let deadline = now().plus_secs(30);
        loop {
            let listed = self.world.cli(&["approval", "list"])?;
            let waiting = listed["approvals"].as_array().into_iter().flatten().find(|approval| {
                approval["state"] == "asked" && approval["id"].as_str().is_some_and(|id| !known.contains(&id))
            });
            if let Some(id) = waiting.and_then(|approval| approval["id"].as_str()) {
                return Ok((id.to_owned(), format!("{}/approvals/{id}", self.world.ready().console)));
            }
            if now() > deadline {
                return Err(io::Error::new(io::ErrorKind::TimedOut, format!("no approval waits: {listed}")));
            }
        }
    }

    fn last_of_kind(&self, kind: &str) -> io::Result<Option<u64>> {
        let records = self.world.records(0)?;
        Ok(records
            .iter()
            .rev()
            .find(|entry| entry["record"]["kind"] == kind)
            .and_then(|entry| entry["index"].as_u64()))
    }

    /// The last verdict since `from`: its index, and its code (or kind, if it has none).
    fn last_verdict(&self, from: u64) -> io::Result<(Option<u64>, String)> {
        let records = self.world.records(from)?;
        let last = records.iter().rev().find(|entry| verdict_kind(entry).is_some());
        let Some(entry) = last else { return Ok((None, "no record".to_owned())) };
        let kind = verdict_kind(entry).unwrap_or_default();
        let code = match kind {
            "denial" => entry["record"]["code"].as_str().unwrap_or(kind),
            other => other,
        };
        Ok((entry["index"].as_u64(), code.to_owned()))
    }

    fn verdict_kinds(&self, from: u64) -> io::Result<Vec<String>> {
        let records = self.world.records(from)?;
        Ok(records
            .iter()
            .filter_map(verdict_kind)
            .filter(|kind| *kind != "access")
            .map(str::to_owned)
            .collect())
    }
}

/// Life of the task whose token the drills let expire.
const SHORT_TASK_SECS: u64 = 8;

fn verdict_kind(entry: &Value) -> Option<&str> {
    entry["record"]["kind"].as_str().filter(|kind| ["intent", "denial", "challenge", "access"].contains(kind))
}

/// Runs of the same kind count once: a call that waits is asked about again and again.
fn unrepeated(mut kinds: Vec<String>) -> Vec<String> {
    kinds.dedup();
    kinds
}

/// What the client was told, in a word.
fn said(answer: &Value) -> String {
    match answer["text"].as_str() {
        Some(text) if answer["is_error"] == false => text.to_owned(),
        Some(_) | None => "refused".to_owned(),
    }
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// The file with the first entries: the full bundle, or the widest partial one.
fn first_bundle(log: &std::path::Path) -> io::Result<PathBuf> {
    let full = log.join("tile/entries/000");
    if full.is_file() {
        return Ok(full);
    }
    let mut partial: Vec<PathBuf> = std::fs::read_dir(log.join("tile/entries/000.p"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    partial.sort_by_key(|path| {
        path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<u32>().ok())
    });
    partial.pop().ok_or_else(|| io::Error::other("the log has no entries"))
}
