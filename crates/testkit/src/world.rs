//! A whole countersign installation for a test or the demo: the real binary in a process of its own, software TPMs as
//! machines, an SDK-built tool server that counts what reaches it, and the command line as the only way to set it up.
//!
//! It is not a shortcut: nothing here reaches into the product. What a person would type, it runs.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::process::{Talking, signal};
use crate::swtpm::SimulatedTpm;

/// The name of the tool server in every world.
pub const UPSTREAM: &str = "work";
/// The bearer credential that only the gateway knows.
pub const CREDENTIAL: &str = "Bearer upstream-credential-7d1f2c";

/// A machine that went through enrollment.
#[derive(Debug)]
pub struct Machine {
    /// Its name.
    pub name: String,
    /// Its TPM.
    pub tpm: SimulatedTpm,
    /// The runner's state folder.
    pub state: PathBuf,
}

/// What `countersign dev` says when it is ready.
#[derive(Clone, Debug)]
pub struct Ready {
    /// The control plane's URL, which is also the issuer.
    pub server: String,
    /// The gateway's URL.
    pub gateway: String,
    /// The console's URL.
    pub console: String,
    /// The admin socket.
    pub admin: PathBuf,
    /// The control plane's root certificate.
    pub ca: PathBuf,
    /// The log's folder.
    pub log: PathBuf,
}

/// Which official SDK the tool server is built with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolServer {
    /// npm `@modelcontextprotocol/sdk`: sessions, revision 2025-11-25.
    TypeScript,
    /// PyPI `mcp`: stateless, revision 2026-07-28 and those before it.
    Python,
}

/// The installation.
#[derive(Debug)]
pub struct World {
    tool_server: ToolServer,
    dir: PathBuf,
    binary: PathBuf,
    repository: PathBuf,
    upstream: Talking,
    upstream_port: u64,
    stats_port: u64,
    dev: Option<Talking>,
    log_filter: Option<String>,
    ready: Ready,
}

impl Drop for World {
    #[expect(
        clippy::print_stderr,
        reason = "whoever reads why a test failed wants to know what the process said"
    )]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- countersign dev said:\n{}", self.said().unwrap_or_default());
        }
    }
}

impl World {
    /// Brings everything up in `dir` with the built `binary`.
    ///
    /// # Errors
    /// If any part does not come up; the message names it.
    pub fn start(dir: &Path, binary: &Path) -> io::Result<Self> {
        Self::start_with(dir, binary, ToolServer::TypeScript)
    }

    /// Brings everything up around another tool server.
    ///
    /// # Errors
    /// As [`World::start`].
    pub fn start_with(dir: &Path, binary: &Path, tool_server: ToolServer) -> io::Result<Self> {
        let repository = repository();
        std::fs::create_dir_all(dir.join("ek-roots"))?;
        std::fs::write(dir.join("upstream-credential"), CREDENTIAL)?;
        // The manufacturer exists before the control plane starts, so that its roots can be configured.
        let pilot = SimulatedTpm::manufacture_by(&dir.join("pilot-tpm"), &dir.join("manufacturer"))?;
        drop(pilot);
        for name in ["swtpm-localca-rootca-cert.pem", "issuercert.pem"] {
            std::fs::copy(dir.join("manufacturer").join(name), dir.join("ek-roots").join(name))?;
        }
        let (upstream, upstream_port, stats_port) = start_upstream(tool_server, dir, &repository, &[], 0)?;
        let mut world = Self {
            tool_server,
            dir: dir.to_owned(),
            binary: binary.to_owned(),
            repository,
            upstream,
            upstream_port,
            stats_port,
            dev: None,
            log_filter: None,
            ready: Ready {
                server: String::new(),
                gateway: String::new(),
                console: String::new(),
                admin: PathBuf::new(),
                ca: PathBuf::new(),
                log: PathBuf::new(),
            },
        };
        world.power_on()?;
        Ok(world)
    }

    /// Starts `countersign dev` (again); after the first time on the same ports.
    ///
    /// # Errors
    /// If it does not become ready.
    pub fn power_on(&mut self) -> io::Result<()> {
        let mut dev = Talking::start_keeping("countersign dev", &mut self.dev_command(), &self.said_file())?;
        let ready = dev.next_json().map_err(|error| {
            let said = self.said().unwrap_or_default();
            io::Error::new(error.kind(), format!("{error}: {}", said.lines().last().unwrap_or_default()))
        })?;
        let text =
            |key: &str| ready[key].as_str().map(str::to_owned).ok_or_else(|| missing("dev", key, &ready));
        self.ready = Ready {
            server: text("server")?,
            gateway: text("gateway")?,
            console: text("console")?,
            admin: text("admin")?.into(),
            ca: text("ca")?.into(),
            log: text("log")?.into(),
        };
        self.dev = Some(dev);
        Ok(())
    }

    /// The command that [`World::power_on`] runs.
    #[must_use]
    pub fn dev_command(&self) -> Command {
        let port_of =
            |url: &str| url.rsplit(':').next().and_then(|port| port.parse::<u16>().ok()).unwrap_or(0);
        let mut command = Command::new(&self.binary);
        if let Some(filter) = &self.log_filter {
            command.env("COUNTERSIGN_LOG", filter);
        }
        command
            .args(["--json", "dev", "--dir"])
            .arg(self.dir.join("dev"))
            .args(["--upstream", &format!("{UPSTREAM}=http://127.0.0.1:{}/mcp", self.upstream_port)])
            .args(["--credential", &format!("{UPSTREAM}={}", self.dir.join("upstream-credential").display())])
            .arg("--ek-roots")
            .arg(self.dir.join("ek-roots"))
            .args(["--server-port", &port_of(&self.ready.server).to_string()])
            .args(["--gateway-port", &port_of(&self.ready.gateway).to_string()])
            .args(["--status-port", "0"])
            .args(["--console-port", &port_of(&self.ready.console).to_string()]);
        command
    }

    /// From the next start on, `countersign dev` logs what `filter` lets through.
    pub fn set_log_filter(&mut self, filter: &str) {
        self.log_filter = Some(filter.to_owned());
    }

    /// Everything that `countersign dev` has written so far, on both streams, over all its lives.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn said(&self) -> io::Result<String> {
        std::fs::read(self.said_file()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    fn said_file(&self) -> PathBuf {
        self.dir.join("dev.said")
    }

    /// Asks `countersign dev` to end (SIGTERM) and waits for it, at most `within`.
    ///
    /// # Errors
    /// If it does not run, or does not end in time.
    pub fn terminate(&mut self, within: std::time::Duration) -> io::Result<std::process::ExitStatus> {
        let mut dev = self.dev.take().ok_or_else(|| io::Error::other("it does not run"))?;
        dev.terminate(within)
    }

    /// Stops the tool server in its tracks: it keeps its connections, and does nothing any more.
    ///
    /// # Errors
    /// If it does not run.
    pub fn freeze_upstream(&self) -> io::Result<()> {
        signal(self.upstream.pid(), "STOP")
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// If it does not run.
    pub fn thaw_upstream(&self) -> io::Result<()> {
        signal(self.upstream.pid(), "CONT")
    }

    /// `kill -9` on `countersign dev`.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub fn power_off(&mut self) -> io::Result<()> {
        match self.dev.take() {
            Some(mut dev) => dev.kill(),
            None => Ok(()),
        }
    }

    /// Replaces the tool server by one that describes `notes.read` differently, on the same port.
    ///
    /// # Errors
    /// If it does not start.
    pub fn change_tool_definitions(&mut self) -> io::Result<()> {
        self.upstream.kill()?;
        let (upstream, port, stats) = start_upstream(
            self.tool_server,
            &self.dir,
            &self.repository,
            &["--changed-tool"],
            self.upstream_port,
        )?;
        (self.upstream, self.upstream_port, self.stats_port) = (upstream, port, stats);
        Ok(())
    }

    /// Where everything is.
    #[must_use]
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// The world's folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The repository, for the clients under `e2e/`.
    #[must_use]
    pub fn repository(&self) -> &Path {
        &self.repository
    }

    /// The built binary.
    #[must_use]
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// The process id of `countersign dev`.
    #[must_use]
    pub fn dev_pid(&self) -> Option<u32> {
        self.dev.as_ref().map(Talking::pid)
    }

    /// Runs a command of the command line and gives its JSON answer.
    ///
    /// # Errors
    /// If it fails; the message is what it printed.
    pub fn cli(&self, arguments: &[&str]) -> io::Result<Value> {
        let output = self.cli_output(arguments)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(io::Error::other(format!(
                "countersign {}: {}: {said}",
                arguments.join(" "),
                output.status
            )));
        }
        if output.stdout.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&output.stdout).map_err(io::Error::other)
    }

    /// Runs a command of the command line, whatever comes of it.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn cli_output(&self, arguments: &[&str]) -> io::Result<std::process::Output> {
        Command::new(&self.binary)
            .arg("--json")
            .arg("--admin")
            .arg(&self.ready.admin)
            .args(arguments)
            .output()
    }

    /// Enrolls a new machine with a TPM of the world's manufacturer.
    ///
    /// # Errors
    /// If any step of enrollment is refused.
    pub fn enroll(&self, name: &str) -> io::Result<Machine> {
        let tpm = SimulatedTpm::manufacture_by(
            &self.dir.join(format!("tpm-{name}")),
            &self.dir.join("manufacturer"),
        )?;
        self.enroll_with(name, tpm)
    }

    /// Enrolls a new machine with a TPM that exists.
    ///
    /// # Errors
    /// If any step of enrollment is refused.
    pub fn enroll_with(&self, name: &str, tpm: SimulatedTpm) -> io::Result<Machine> {
        let token = self.cli(&["machine", "token", name])?;
        let token =
            token["token"].as_str().ok_or_else(|| missing("machine token", "token", &token))?.to_owned();
        let token_file = self.dir.join(format!("token-{name}"));
        std::fs::write(&token_file, token)?;
        let state = self.dir.join(format!("state-{name}"));
        self.cli(&[
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
        Ok(Machine { name: name.to_owned(), tpm, state })
    }

    /// Adds a person and gives their invitation link.
    ///
    /// # Errors
    /// If the control plane refuses.
    pub fn add_person(&self, person: &str) -> io::Result<String> {
        let answer = self.cli(&["person", "add", person])?;
        answer["url"].as_str().map(str::to_owned).ok_or_else(|| missing("person add", "url", &answer))
    }

    /// Registers an agent in the group `builders`.
    ///
    /// # Errors
    /// If the control plane refuses.
    pub fn add_agent(&self, agent: &str, sponsor: &str) -> io::Result<Value> {
        self.cli(&["agent", "add", agent, "--sponsor", sponsor, "--group", "builders"])
    }

    /// Grants a task and gives its id.
    ///
    /// # Errors
    /// If the control plane refuses.
    pub fn add_task(
        &self,
        agent: &str,
        tools: &Value,
        max_calls: u64,
        expires_in_secs: u64,
    ) -> io::Result<String> {
        let file = self.dir.join(format!("task-{agent}-{max_calls}.json"));
        let grant = json!({
            "agent": agent,
            "purpose": "keep the roadmap current",
            "upstream": UPSTREAM,
            "tools": tools,
            "max_calls": max_calls,
            "expires_in_secs": expires_in_secs,
        });
        std::fs::write(&file, grant.to_string())?;
        let answer = self.cli(&["task", "create", &file.display().to_string()])?;
        answer["id"].as_str().map(str::to_owned).ok_or_else(|| missing("task create", "id", &answer))
    }

    /// Puts a policy in force.
    ///
    /// # Errors
    /// If the control plane refuses it.
    pub fn activate_policy(&self, text: &str) -> io::Result<Value> {
        let file = self.dir.join("policy.cedar");
        std::fs::write(&file, text)?;
        self.cli(&["policy", "activate", &file.display().to_string()])
    }

    /// Starts an unmodified MCP client behind `countersign run`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn run_client(
        &self,
        machine: &Machine,
        agent: &str,
        task: &str,
        client: Client,
        extra: &[&str],
    ) -> io::Result<Talking> {
        let mut command = self.run_command(machine, agent, task, extra);
        match client {
            Client::TypeScript => command.arg("node").arg(self.repository.join("e2e/mcp/client.mjs")),
            Client::Python => command
                .arg(self.repository.join(".tools/venv/bin/python"))
                .arg(self.repository.join("e2e/python/client.py")),
        };
        Talking::start("countersign run", &mut command)
    }

    /// `countersign run … --`, to which the agent's own command is added.
    #[must_use]
    pub fn run_command(&self, machine: &Machine, agent: &str, task: &str, extra: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args([
                "run",
                "--agent",
                agent,
                "--task",
                task,
                "--upstream",
                UPSTREAM,
                "--gateway",
                &self.ready.gateway,
            ])
            .arg("--state")
            .arg(&machine.state)
            .arg("--tpm")
            .arg(format!("unix:{}", machine.tpm.socket().display()))
            .args(extra)
            .arg("--");
        command
    }

    /// What has reached the tool server so far.
    ///
    /// # Errors
    /// If the tool server does not answer.
    pub fn upstream_stats(&self) -> io::Result<Value> {
        use std::io::{Read as _, Write as _};
        let port = u16::try_from(self.stats_port).map_err(io::Error::other)?;
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let start = answer.find('{').ok_or_else(|| io::Error::other("no JSON in the counters"))?;
        let end = answer.rfind('}').ok_or_else(|| io::Error::other("no JSON in the counters"))?;
        serde_json::from_str(&answer[start..=end]).map_err(io::Error::other)
    }

    /// How many records the log has.
    ///
    /// # Errors
    /// If the control plane does not answer.
    pub fn log_size(&self) -> io::Result<u64> {
        let status = self.cli(&["status"])?;
        status["log_size"].as_u64().ok_or_else(|| missing("status", "log_size", &status))
    }

    /// Every record so far, each with its index, as the running system has them.
    ///
    /// # Errors
    /// If the control plane does not answer.
    pub fn records(&self, from: u64) -> io::Result<Vec<Value>> {
        let answer = self.cli(&["audit", "tail", "--from", &from.to_string()])?;
        answer["records"].as_array().cloned().ok_or_else(|| missing("audit tail", "records", &answer))
    }
}

/// Which official SDK plays the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// npm `@modelcontextprotocol/sdk`.
    TypeScript,
    /// PyPI `mcp`.
    Python,
}

fn start_upstream(
    tool_server: ToolServer,
    dir: &Path,
    repository: &Path,
    extra: &[&str],
    port: u64,
) -> io::Result<(Talking, u64, u64)> {
    let (program, script) = match tool_server {
        ToolServer::TypeScript => (PathBuf::from("node"), "e2e/mcp/upstream.mjs"),
        ToolServer::Python => (repository.join(".tools/venv/bin/python"), "e2e/python/upstream.py"),
    };
    let mut upstream = Talking::start(
        "tool server",
        Command::new(program)
            .arg(repository.join(script))
            .arg("--credential-file")
            .arg(dir.join("upstream-credential"))
            .args(["--port", &port.to_string()])
            .args(extra),
    )?;
    let listening = upstream.next_json()?;
    let number = |key: &str| listening[key].as_u64().ok_or_else(|| missing("tool server", key, &listening));
    Ok((upstream, number("port")?, number("stats_port")?))
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn missing(who: &str, key: &str, answer: &Value) -> io::Error {
    io::Error::other(format!("{who} did not say {key:?}: {answer}"))
}
