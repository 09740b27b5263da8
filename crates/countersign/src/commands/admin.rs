//! The nouns that are administered: each command is one request to the control plane's admin socket.

use std::path::Path;

use countersign_proto::json::{Limits, typed};
use countersign_server::admin::api::{ApiError, Upstreams};
use countersign_server::admin::client::{self, ClientError};
use serde_json::{Value, json};

use crate::cli::{Agent, Approval, Machine, Person, Policy, Task, Tool};
use crate::exit::{Code, Failure};

/// The control plane's admin socket.
#[derive(Clone, Copy, Debug)]
pub struct Admin<'a>(pub &'a Path);

impl Admin<'_> {
    fn get(self, path: &str) -> Result<Value, Failure> {
        self.send("GET", path, &json!({}))
    }

    fn post(self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.send("POST", path, body)
    }

    fn send(self, method: &str, path: &str, body: &Value) -> Result<Value, Failure> {
        client::call(self.0, method, path, body).map_err(|error| self.failure(path, &error))
    }

    fn failure(self, path: &str, error: &ClientError) -> Failure {
        match error {
            ClientError::Io(cause) => {
                Failure::new(Code::Network, format!("cannot reach {}: {cause}", self.0.display()))
                    .next("start the control plane (countersign dev), or name its socket with --admin")
            }
            ClientError::Refused { error: ApiError { error: code, message, details }, .. } => {
                let noun = path.trim_start_matches("/admin/v1/");
                let mut what = format!("{noun}: {message} ({code})");
                for detail in details {
                    what.push_str("\n  ");
                    what.push_str(detail);
                }
                Failure::new(if code == "unavailable" { Code::Audit } else { Code::Denied }, what)
            }
            ClientError::Request(_) | ClientError::Answer => Failure::chain(Code::Failed, error)
                .next("check that the command line and the control plane are of the same version"),
        }
    }

    /// `countersign status`.
    pub fn status(self) -> Result<Value, Failure> {
        self.get("/admin/v1/status")
    }

    /// `countersign audit tail`.
    pub fn records(self, from: u64, limit: u64) -> Result<Value, Failure> {
        self.get(&format!("/admin/v1/records?from={from}&limit={limit}"))
    }

    /// `countersign machine …`, except `enroll`, which is not administration.
    pub fn machine(self, command: &Machine) -> Result<Value, Failure> {
        let turn = |machine: &str, verb: &str| {
            self.post(&format!("/admin/v1/machines/{}/{verb}", name(machine)?), &json!({}))
        };
        match command {
            Machine::Token { machine, ttl_secs } => self.post(
                "/admin/v1/machines/tokens",
                &json!({ "machine": machine, "expires_in_secs": ttl_secs }),
            ),
            Machine::List => self.get("/admin/v1/machines"),
            Machine::Lock { machine } => turn(machine, "lock"),
            Machine::Unlock { machine } => turn(machine, "unlock"),
            Machine::Revoke { machine } => turn(machine, "revoke"),
            Machine::Enroll { .. } => Err(Failure::new(Code::Usage, "enrollment runs on the machine itself")),
        }
    }

    /// `countersign agent …`.
    pub fn agent(self, command: &Agent) -> Result<Value, Failure> {
        let turn = |agent: &str, verb: &str| {
            self.post(&format!("/admin/v1/agents/{}/{verb}", name(agent)?), &json!({}))
        };
        match command {
            Agent::Add { agent, sponsor, groups } => {
                self.post("/admin/v1/agents", &json!({ "id": agent, "sponsor": sponsor, "groups": groups }))
            }
            Agent::List => self.get("/admin/v1/agents"),
            Agent::Suspend { agent } => turn(agent, "suspend"),
            Agent::Resume { agent } => turn(agent, "resume"),
            Agent::Kill { agent } => turn(agent, "kill"),
            Agent::Retire { agent } => turn(agent, "retire"),
            Agent::EndRun { run } => self.post(&format!("/admin/v1/runs/{}/revoke", name(run)?), &json!({})),
        }
    }

    /// `countersign person …`.
    pub fn person(self, command: &Person) -> Result<Value, Failure> {
        match command {
            Person::Add { person, display_name } => {
                let display_name = display_name.as_deref().unwrap_or(person);
                self.post("/admin/v1/persons", &json!({ "id": person, "display_name": display_name }))
            }
            Person::List => self.get("/admin/v1/persons"),
            Person::Invite { person } => {
                self.post(&format!("/admin/v1/persons/{}/invite", name(person)?), &json!({}))
            }
            Person::Disable { person } => {
                self.post(&format!("/admin/v1/persons/{}/disable", name(person)?), &json!({}))
            }
        }
    }

    /// `countersign task …`.
    pub fn task(self, command: &Task) -> Result<Value, Failure> {
        match command {
            Task::Create { file } => {
                let text = read(file)?;
                // Strictly, so that what was meant with two equal keys is not guessed.
                let grant: Value = typed(text.as_bytes(), &Limits::DEFAULT).map_err(|error| {
                    Failure::new(Code::Usage, format!("{}: {error}", file.display()))
                        .next("write the grant as one JSON object; see docs/how-to/grant-a-task.md")
                })?;
                self.post("/admin/v1/tasks", &grant)
            }
            Task::List => self.get("/admin/v1/tasks"),
            Task::Revoke { task } => {
                self.post(&format!("/admin/v1/tasks/{}/revoke", name(task)?), &json!({}))
            }
        }
    }

    /// `countersign policy …`.
    pub fn policy(self, command: &Policy) -> Result<Value, Failure> {
        match command {
            Policy::Activate { file } => self.post("/admin/v1/policies", &json!({ "cedar": read(file)? })),
            Policy::Show => self.get("/admin/v1/policies"),
        }
    }

    /// `countersign tool …`.
    pub fn tool(self, command: &Tool) -> Result<Value, Failure> {
        match command {
            Tool::List => {
                let upstreams: Upstreams = client::call(self.0, "GET", "/admin/v1/upstreams", &json!({}))
                    .map_err(|error| self.failure("/admin/v1/upstreams", &error))?;
                let rows: Vec<Value> = upstreams
                    .upstreams
                    .iter()
                    .flat_map(|upstream| {
                        upstream.tools.iter().map(|tool| {
                            json!({ "upstream": upstream.id, "tool": tool.name, "state": tool.state,
                                    "digest": tool.digest, "pinned": tool.pinned })
                        })
                    })
                    .collect();
                Ok(json!({ "tools": rows }))
            }
            Tool::Approve { upstream, tool, digest } => {
                let path = format!("/admin/v1/upstreams/{}/tools/{}/approve", name(upstream)?, name(tool)?);
                self.post(&path, &json!({ "digest": digest }))
            }
        }
    }

    /// `countersign approval …`.
    pub fn approval(self, command: &Approval) -> Result<Value, Failure> {
        match command {
            Approval::List => self.get("/admin/v1/approvals"),
        }
    }
}

/// A name that goes into a path. The server checks it properly; here it only must not be two things.
fn name(text: &str) -> Result<&str, Failure> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        return Ok(text);
    }
    Err(Failure::new(Code::Usage, format!("{text:?} is not a name")).next("names are of a-z 0-9 - _ and ."))
}

fn read(file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file)
        .map_err(|error| Failure::new(Code::Usage, format!("cannot read {}: {error}", file.display())))
}
