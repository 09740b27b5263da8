//! The gateway under load: `countersign dev` in a process of its own, set up through its command line as a person would,
//! with one enrolled machine, one agent and one task that lasts.
//!
//! Nothing in it is made for measuring: limits, logging and policies are the product's own.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use countersign_testkit::insider::{Insider, PROTOCOL, tool_call};
use countersign_testkit::process::Talking;
use countersign_testkit::story::POLICY;
use countersign_testkit::swtpm::SimulatedTpm;
use countersign_testkit::world::{Machine, Ready, UPSTREAM};
use serde_json::{Value, json};

const AGENT: &str = "scribe";
const SPONSOR: &str = "sam";
const MACHINE: &str = "laptop";
/// How many policies the story has.
const STORY_POLICIES: usize = 3;
/// How often something is tried that needs the gateway to have heard of it, and the pause between.
const ATTEMPTS: u32 = 200;
const PAUSE: Duration = Duration::from_millis(100);

/// The running gateway and everything that may call it.
#[derive(Debug)]
pub(crate) struct Installation {
    dev: Talking,
    binary: PathBuf,
    pub(crate) ready: Ready,
    pub(crate) machine: Machine,
    /// Speaks for the agent: its key, and how it gets its tokens.
    pub(crate) insider: Insider,
    pub(crate) task: String,
}

/// What a run of the agent calls with.
#[derive(Debug)]
pub(crate) struct Credentials {
    pub(crate) token: String,
    pub(crate) session: String,
}

impl Installation {
    /// Brings the gateway up in `folder`, in front of the tool server on `upstream_port`.
    pub(crate) async fn start(
        folder: &Path,
        binary: &Path,
        upstream_port: u16,
        policies: usize,
    ) -> io::Result<Self> {
        let manufacturer = folder.join("manufacturer");
        let tpm = SimulatedTpm::manufacture_by(&folder.join("tpm"), &manufacturer)?;
        std::fs::create_dir_all(folder.join("ek-roots"))?;
        for name in ["swtpm-localca-rootca-cert.pem", "issuercert.pem"] {
            std::fs::copy(manufacturer.join(name), folder.join("ek-roots").join(name))?;
        }
        let (dev, ready) = start_dev(folder, binary, upstream_port)?;
        let control = Control { binary, ready: &ready };
        let machine = control.enroll(folder, tpm)?;
        control.ask(&["person", "add", SPONSOR])?;
        control.ask(&["agent", "add", AGENT, "--sponsor", SPONSOR, "--group", "builders"])?;
        control.activate(folder, policies).await?;
        let task = control.grant(folder)?;
        let insider = Insider::open(&ready, &machine, AGENT).await?;
        let installation = Self { dev, binary: binary.to_owned(), ready, machine, insider, task };
        installation.until_allowed().await?;
        Ok(installation)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.dev.pid()
    }

    /// A fresh token for a new run, and a session of this run.
    pub(crate) async fn credentials(&self) -> io::Result<Credentials> {
        let token = self.insider.token(&self.task).await?;
        let session = self.insider.initialize(&token).await?;
        Ok(Credentials { token, session })
    }

    /// How many records the log has.
    pub(crate) fn log_size(&self) -> io::Result<u64> {
        let status = Control { binary: &self.binary, ready: &self.ready }.ask(&["status"])?;
        status["log_size"].as_u64().ok_or_else(|| io::Error::other(format!("no log_size in {status}")))
    }

    /// The gateway learns of agent, task and policy with its next snapshot.
    async fn until_allowed(&self) -> io::Result<()> {
        let mut last = String::new();
        for _ in 0..ATTEMPTS {
            match self.try_one().await {
                Ok(()) => return Ok(()),
                Err(error) => last = error.to_string(),
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("the call is never allowed: {last}")))
    }

    async fn try_one(&self) -> io::Result<()> {
        let Credentials { token, session } = self.credentials().await?;
        let proof = self.insider.proof_for("POST", &self.insider.url(), Some(&token))?;
        let authorization = format!("DPoP {token}");
        let headers = [
            ("authorization", authorization.as_str()),
            ("dpop", &proof),
            ("mcp-session-id", &session),
            ("mcp-protocol-version", PROTOCOL),
        ];
        let body = tool_call(1, "notes.read", &json!({ "topic": "roadmap" }));
        let answer = self.insider.caller.call(&self.insider.url(), &headers, &body).await?;
        if answer.status == 200 && answer.json().get("result").is_some() {
            return Ok(());
        }
        Err(io::Error::other(format!("{} {}", answer.status, answer.json())))
    }
}

fn start_dev(folder: &Path, binary: &Path, upstream_port: u16) -> io::Result<(Talking, Ready)> {
    let mut command = Command::new(binary);
    command
        .args(["--json", "dev", "--dir"])
        .arg(folder.join("dev"))
        .args(["--upstream", &format!("{UPSTREAM}=http://127.0.0.1:{upstream_port}/mcp")])
        .arg("--ek-roots")
        .arg(folder.join("ek-roots"))
        .args(["--server-port", "0", "--gateway-port", "0", "--console-port", "0"]);
    let mut dev = Talking::start("countersign dev", &mut command)?;
    let said = dev.next_json()?;
    let text = |key: &str| {
        let value = said[key].as_str().map(str::to_owned);
        value.ok_or_else(|| io::Error::other(format!("countersign dev did not say {key:?}: {said}")))
    };
    let ready = Ready {
        server: text("server")?,
        gateway: text("gateway")?,
        console: text("console")?,
        admin: text("admin")?.into(),
        ca: text("ca")?.into(),
        log: text("log")?.into(),
    };
    Ok((dev, ready))
}

/// The command line, talking to the running control plane.
struct Control<'a> {
    binary: &'a Path,
    ready: &'a Ready,
}

impl Control<'_> {
    fn ask(&self, arguments: &[&str]) -> io::Result<Value> {
        let mut command = Command::new(self.binary);
        let output = command.arg("--json").arg("--admin").arg(&self.ready.admin).args(arguments).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(io::Error::other(format!("countersign {}: {said}", arguments.join(" "))));
        }
        if output.stdout.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&output.stdout).map_err(io::Error::other)
    }

    fn enroll(&self, folder: &Path, tpm: SimulatedTpm) -> io::Result<Machine> {
        let token = self.ask(&["machine", "token", MACHINE])?;
        let token_file = folder.join("enrollment-token");
        std::fs::write(&token_file, token["token"].as_str().unwrap_or_default())?;
        let state = folder.join("state");
        self.ask(&[
            "machine",
            "enroll",
            "--server",
            &self.ready.server,
            "--ca",
            &self.ready.ca.display().to_string(),
            "--token-file",
            &token_file.display().to_string(),
            "--state",
            &state.display().to_string(),
            "--tpm",
            &format!("unix:{}", tpm.socket().display()),
        ])?;
        Ok(Machine { name: MACHINE.to_owned(), tpm, state })
    }

    /// Puts the policies in force. They speak of tools, so the control plane must have heard of those.
    async fn activate(&self, folder: &Path, policies: usize) -> io::Result<()> {
        let file = folder.join("policy.cedar");
        std::fs::write(&file, policy_text(policies))?;
        let file = file.display().to_string();
        let mut refused = io::Error::other("never tried");
        for _ in 0..ATTEMPTS {
            match self.ask(&["policy", "activate", &file]) {
                Ok(_) => return Ok(()),
                Err(error) => refused = error,
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(refused)
    }

    fn grant(&self, folder: &Path) -> io::Result<String> {
        let file = folder.join("task.json");
        let grant = json!({
            "agent": AGENT,
            "purpose": "read the roadmap very often",
            "upstream": UPSTREAM,
            "tools": [{ "name": "notes.read", "args": {} }],
            "max_calls": 1_000_000_000,
            "expires_in_secs": 3600,
        });
        std::fs::write(&file, grant.to_string())?;
        let answer = self.ask(&["task", "create", &file.display().to_string()])?;
        let id = answer["id"].as_str().map(str::to_owned);
        id.ok_or_else(|| io::Error::other(format!("no task id in {answer}")))
    }
}

/// The story's policies, and as many about other teams as make `count`.
fn policy_text(count: usize) -> String {
    let mut text = POLICY.to_owned();
    for team in STORY_POLICIES..count {
        let _ = write!(
            text,
            "\n@id(\"team-{team}\")\npermit (principal in AgentGroup::\"team-{team}\", action in Action::\"call\", \
             resource in Upstream::\"{UPSTREAM}\")\nwhen {{ context.machine.level >= 3 }};\n"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_policies_as_asked_for() {
        for count in [3, 10, 100] {
            assert_eq!(policy_text(count).matches("@id(").count(), count);
        }
    }
}
