//! The command line: nouns, then verbs. Every command can answer in JSON.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// MFA for AI agents: no action takes effect unless agent, machine, policy and record vouch for it.
#[derive(Debug, Parser)]
#[command(name = "countersign", version, max_term_width = 100, disable_help_subcommand = true)]
pub struct Cli {
    /// Answer in JSON, one object on standard output.
    #[arg(long, global = true)]
    pub json: bool,

    /// The control plane's admin socket.
    #[arg(
        long,
        global = true,
        env = "COUNTERSIGN_ADMIN",
        value_name = "SOCKET",
        default_value = ".countersign/data/admin.sock"
    )]
    pub admin: PathBuf,

    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run everything in one process with embedded defaults, to try it out or to develop against.
    Dev(Dev),
    /// Run everything in one process as a configuration file says.
    Serve(Serve),
    /// Explain what is wrong with this machine or this installation.
    Doctor(Doctor),
    /// Say what the control plane is doing.
    Status,
    /// Machines: the "where" of every action.
    #[command(subcommand)]
    Machine(Machine),
    /// Agents: the "who" of every action.
    #[command(subcommand)]
    Agent(Agent),
    /// People: sponsors and approvers.
    #[command(subcommand)]
    Person(Person),
    /// Tasks: what an agent may do, for one purpose, until when.
    #[command(subcommand)]
    Task(Task),
    /// Cedar policies.
    #[command(subcommand)]
    Policy(Policy),
    /// Tools behind the gateway and the definitions that are pinned.
    #[command(subcommand)]
    Tool(Tool),
    /// Calls that wait for a person.
    #[command(subcommand)]
    Approval(Approval),
    /// Run an agent: unmodified, with a local MCP endpoint that proves agent and machine for it.
    Run(Run),
    /// The audit log: verify it, read it, prove one entry.
    #[command(subcommand)]
    Audit(Audit),
}

/// `countersign dev`.
#[derive(Debug, Args)]
pub struct Dev {
    /// Where everything lives.
    #[arg(long, default_value = ".countersign", value_name = "FOLDER")]
    pub dir: PathBuf,
    /// A tool server behind the gateway; may be given several times.
    #[arg(long = "upstream", value_name = "ID=URL")]
    pub upstreams: Vec<String>,
    /// The file with an upstream's credential, sent as its Authorization header.
    #[arg(long = "credential", value_name = "ID=FILE")]
    pub credentials: Vec<String>,
    /// A folder of PEM files with the TPM manufacturers' roots.
    #[arg(long, value_name = "FOLDER")]
    pub ek_roots: PathBuf,
    /// The control plane's port; 0 takes a free one.
    #[arg(long, default_value_t = 7443)]
    pub server_port: u16,
    /// The gateway's port; 0 takes a free one.
    #[arg(long, default_value_t = 7444)]
    pub gateway_port: u16,
    /// The console's port; 0 takes a free one.
    #[arg(long, default_value_t = 7480)]
    pub console_port: u16,
    /// The port of /healthz, /readyz and /metrics; 0 takes a free one.
    #[arg(long, default_value_t = 7481)]
    pub status_port: u16,
}

/// `countersign serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// `countersign doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// The configuration file of a server, to check that side too.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The state folder of an enrolled machine, to check that side too.
    #[arg(long, value_name = "FOLDER")]
    pub state: Option<PathBuf>,
    /// A folder with the TPM manufacturers' roots, to check that this TPM's certificate leads to one.
    #[arg(long, value_name = "FOLDER")]
    pub ek_roots: Option<PathBuf>,
    #[command(flatten)]
    pub tpm: Tpm,
}

/// Which TPM.
#[derive(Clone, Debug, Args)]
pub struct Tpm {
    /// The TPM: a device (/dev/tpmrm0) or the Unix socket of a software TPM (unix:PATH).
    #[arg(long, default_value = "/dev/tpmrm0", env = "COUNTERSIGN_TPM", value_name = "DEVICE")]
    pub tpm: String,
}

/// `countersign machine …`.
#[derive(Debug, Subcommand)]
pub enum Machine {
    /// Make a single-use enrollment token for a new machine.
    Token {
        /// The machine's name from now on; never reused.
        machine: String,
        /// How long the token is good for, in seconds.
        #[arg(long, default_value_t = 3600)]
        ttl_secs: u32,
    },
    /// Enroll this machine: prove its TPM to the control plane and get its certificate.
    Enroll {
        /// The control plane's URL.
        #[arg(long)]
        server: String,
        /// The control plane's root certificate (PEM).
        #[arg(long, value_name = "FILE")]
        ca: PathBuf,
        /// A file with the enrollment token.
        #[arg(long, value_name = "FILE")]
        token_file: PathBuf,
        /// Where this machine keeps what it needs; mode 0700.
        #[arg(long, value_name = "FOLDER")]
        state: PathBuf,
        #[command(flatten)]
        tpm: Tpm,
    },
    /// List the machines.
    List,
    /// Lock a machine: refused everywhere until unlocked.
    Lock {
        /// Its name.
        machine: String,
    },
    /// Unlock a machine.
    Unlock {
        /// Its name.
        machine: String,
    },
    /// Revoke a machine for good.
    Revoke {
        /// Its name.
        machine: String,
    },
}

/// `countersign agent …`.
#[derive(Debug, Subcommand)]
pub enum Agent {
    /// Register an agent with the person who answers for it.
    Add {
        /// Its name; never reused.
        agent: String,
        /// Its sponsor.
        #[arg(long)]
        sponsor: String,
        /// Groups that policies speak of; may be given several times.
        #[arg(long = "group")]
        groups: Vec<String>,
    },
    /// List the agents.
    List,
    /// Suspend an agent until it is resumed.
    Suspend {
        /// Its name.
        agent: String,
    },
    /// Let a suspended agent act again.
    Resume {
        /// Its name.
        agent: String,
    },
    /// End every run, token, open stream and pending approval of an agent, now.
    Kill {
        /// Its name.
        agent: String,
    },
    /// Retire an agent for good.
    Retire {
        /// Its name.
        agent: String,
    },
    /// End one run of an agent; its other runs go on.
    EndRun {
        /// The run's id, as records name it.
        run: String,
    },
}

/// `countersign person …`.
#[derive(Debug, Subcommand)]
pub enum Person {
    /// Add a person and print a single-use link to register their passkey.
    Add {
        /// Their name in records.
        person: String,
        /// Their name on pages.
        #[arg(long)]
        display_name: Option<String>,
    },
    /// List the people.
    List,
    /// Invite a person again: a new single-use link to register another passkey.
    Invite {
        /// Their name in records.
        person: String,
    },
    /// Disable a person: no session, no approval, from now on.
    Disable {
        /// Their name in records.
        person: String,
    },
}

/// `countersign task …`.
#[derive(Debug, Subcommand)]
pub enum Task {
    /// Create a task grant from a JSON file; see docs/how-to/grant-a-task.md.
    Create {
        /// The file.
        file: PathBuf,
    },
    /// List the tasks.
    List,
    /// Revoke a task.
    Revoke {
        /// Its id.
        task: String,
    },
}

/// `countersign policy …`.
#[derive(Debug, Subcommand)]
pub enum Policy {
    /// Check a policy file strictly and put it in force; a bad one changes nothing.
    Activate {
        /// The file.
        file: PathBuf,
    },
    /// Print the policies in force.
    Show,
}

/// `countersign tool …`.
#[derive(Debug, Subcommand)]
pub enum Tool {
    /// List the tools, their digests and whether they are pinned.
    List,
    /// Pin the definition that you reviewed.
    Approve {
        /// The upstream.
        upstream: String,
        /// The tool.
        tool: String,
        /// The digest of the definition that you reviewed, as `tool list` shows it.
        #[arg(long)]
        digest: String,
    },
}

/// `countersign approval …`.
#[derive(Debug, Subcommand)]
pub enum Approval {
    /// List the approvals.
    List,
}

/// `countersign run … -- command`.
#[derive(Debug, Args)]
pub struct Run {
    /// The agent.
    #[arg(long)]
    pub agent: String,
    /// The task; may be left out if the agent has just one.
    #[arg(long)]
    pub task: Option<String>,
    /// The upstreams to offer; may be given several times.
    #[arg(long = "upstream", required = true)]
    pub upstreams: Vec<String>,
    /// The gateway's URL.
    #[arg(long, env = "COUNTERSIGN_GATEWAY")]
    pub gateway: String,
    /// The state folder of the enrolled machine.
    #[arg(long, env = "COUNTERSIGN_STATE", value_name = "FOLDER")]
    pub state: PathBuf,
    #[command(flatten)]
    pub tpm: Tpm,
    /// Prove the agent on every call (DPoP) instead of once per connection.
    #[arg(long)]
    pub proof_per_call: bool,
    /// How long a call waits for a person, in seconds.
    #[arg(long, default_value_t = 300)]
    pub hold_secs: u32,
    /// The agent's command. `{mcp:<upstream>}` in an argument becomes the local endpoint's URL, which is also in
    /// COUNTERSIGN_MCP_URL.
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
}

/// `countersign audit …`.
#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Check the whole log offline: every entry, every hash, the signature.
    Verify {
        /// The log's folder.
        log: PathBuf,
        /// A file with the log's verification key; by default `<log>/key.pub`, which proves nothing to a third party.
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
    },
    /// Print the newest records of the running system.
    Tail {
        /// The first index.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// How many.
        #[arg(long, default_value_t = 1000)]
        limit: u64,
    },
    /// Print entries of a log on disk.
    Show {
        /// The log's folder.
        log: PathBuf,
        /// As for `verify`.
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
        /// The first index.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// How many.
        #[arg(long, default_value_t = 100)]
        limit: u64,
    },
    /// Print an offline proof (.tlog-proof) of one entry.
    Prove {
        /// The log's folder.
        log: PathBuf,
        /// As for `verify`.
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
        /// The entry's index.
        index: u64,
    },
    /// Check what must never be in the log, and what must always be.
    Invariants {
        /// The log's folder.
        log: PathBuf,
        /// As for `verify`.
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
    },
}
