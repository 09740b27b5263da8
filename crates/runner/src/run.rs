//! `run`: the agent as a child process, with the proxy beside it for exactly as long as it lives.
//!
//! The agent is unmodified and gets one thing, the URL of the proxy. It is a job like any other: it has the terminal,
//! it can be stopped and continued, its exit code is ours, and nothing of its process group survives it. It is not
//! confined: what it can reach without the proxy, it can still reach.

mod job;

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use countersign_proto::id::UpstreamId;
use countersign_proto::time::{Clock, Entropy};
use rustix::process::{DumpableBehavior, getegid, geteuid, getgid, getuid, set_dumpable_behavior};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::control_plane::ControlPlaneError;
use crate::proxy::{Notices, ProofKind, Proxy, ProxyConfig};
use crate::session::{Session, SessionConfig};
use job::Job;

/// Our variables start like this; none of the runner's own reaches the agent.
const VARIABLE_PREFIX: &str = "COUNTERSIGN_";

/// How often it is looked whether the machine certificate is to be renewed.
const CERTIFICATE_INTERVAL: Duration = Duration::from_secs(30);
/// The pause before control plane and gateway are tried again at the start, which doubles, and the longest one.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long the start waits for control plane and gateway by default.
pub const DEFAULT_START_PATIENCE: Duration = Duration::from_secs(10);

/// What a run needs.
#[derive(Debug)]
pub struct RunConfig {
    /// Whose run, on which machine, through which gateway.
    pub session: SessionConfig,
    /// The tool servers the agent may reach.
    pub upstreams: Vec<UpstreamId>,
    /// How A shows itself to the gateway.
    pub proof: ProofKind,
    /// How long a call is held while a person is asked.
    pub hold_limit: Duration,
    /// How long the start waits for a control plane or gateway that cannot be reached.
    pub start_patience: Duration,
}

/// Why there was no run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Nothing to run.
    #[error("no command given; say `countersign run … -- <program> [arguments]`")]
    NoCommand,
    /// No tool server to reach.
    #[error("no tool server given; name at least one with --upstream")]
    NoUpstream,
    /// A placeholder that stands for nothing.
    #[error("{{mcp:{0}}} in the command names no tool server of this run; name it with --upstream")]
    UnknownPlaceholder(String),
    /// The program does not start.
    #[error("cannot start {program}; check that it is installed and in PATH")]
    Spawn {
        /// What was to be started.
        program: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Somebody else's rights.
    #[error(
        "countersign runs as who calls it, but it was installed set-user-ID or set-group-ID; remove that bit"
    )]
    BorrowedRights,
    /// The machine or the agent has no standing.
    #[error(transparent)]
    ControlPlane(#[from] ControlPlaneError),
    /// The operating system.
    #[error("cannot {what}")]
    System {
        /// What was being done.
        what: &'static str,
        /// What the operating system said.
        source: std::io::Error,
    },
}

/// Runs `command` with access to the tool servers and returns its exit code (128 + signal if one ended it).
///
/// The machine is attested once and the gateway is reached before the program starts: no proof, no run.
///
/// # Errors
/// [`RunError`] if the program was not started.
pub async fn run(
    config: RunConfig,
    command: &[OsString],
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Entropy>,
) -> Result<u8, RunError> {
    refuse_borrowed_rights()?;
    if config.upstreams.is_empty() {
        return Err(RunError::NoUpstream);
    }
    // A is in our memory: no core dumps of it, and no debugger of the same user.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| RunError::System { what: "protect the runner's memory", source: error.into() })?;
    let session = Session::open(config.session, clock, Arc::clone(&rng)).await?;
    patiently(config.start_patience, &Terminal, async || session.reattest().await).await?;
    patiently(config.start_patience, &Terminal, async || session.reach_gateway().await).await?;
    let renewing = AbortOnDrop(tokio::spawn(Arc::clone(&session).keep_certificate(CERTIFICATE_INTERVAL)));
    let proxy = ProxyConfig {
        upstreams: config.upstreams.clone(),
        proof: config.proof,
        hold_limit: config.hold_limit,
        notices: Arc::new(Terminal),
    };
    let proxy = Proxy::start(session, proxy, &*rng)
        .await
        .map_err(|source| RunError::System { what: "open the local endpoint", source })?;
    let endpoints: Vec<_> =
        config.upstreams.iter().map(|upstream| (upstream.clone(), proxy.url(upstream))).collect();
    let mut child = prepare(command, &endpoints)?;
    let program = child.get_program().display().to_string();
    let job = Job::start(&mut child).map_err(|source| RunError::Spawn { program, source })?;
    let code = job.wait().await.map_err(|source| RunError::System { what: "wait for the agent", source })?;
    drop((proxy, renewing));
    Ok(code)
}

/// Refuses to work with rights that the caller does not have: the state directory would be somebody else's, and the agent
/// would run as them.
///
/// # Errors
/// [`RunError::BorrowedRights`].
pub fn refuse_borrowed_rights() -> Result<(), RunError> {
    let user = (getuid().as_raw(), geteuid().as_raw());
    let group = (getgid().as_raw(), getegid().as_raw());
    if user.0 == user.1 && group.0 == group.1 { Ok(()) } else { Err(RunError::BorrowedRights) }
}

/// Tries again while the other side cannot be reached, as long as patience lasts. Every other answer is one.
async fn patiently<T>(
    patience: Duration,
    person: &dyn Notices,
    attempt: impl AsyncFn() -> Result<T, ControlPlaneError>,
) -> Result<T, ControlPlaneError> {
    let started = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        match attempt().await {
            Err(error) if error.is_unreachable() && started.elapsed() + pause < patience => {
                if pause == FIRST_PAUSE {
                    person.say(&format!("{error}; trying for {} more seconds", patience.as_secs()));
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            answer => return answer,
        }
    }
}

/// A task that ends with the run, however that ends.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The child's command line and environment. Its argument list is visible to other users of this machine, which is why
/// the proxy asks whose program is calling and not only for the path.
fn prepare(command: &[OsString], endpoints: &[(UpstreamId, String)]) -> Result<Command, RunError> {
    let (program, arguments) = command.split_first().ok_or(RunError::NoCommand)?;
    let mut child = Command::new(program);
    for argument in arguments {
        child.arg(substitute(argument, endpoints)?);
    }
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with(VARIABLE_PREFIX) {
            child.env_remove(name);
        }
    }
    for (upstream, url) in endpoints {
        child.env(variable(upstream), url);
    }
    if let [(_, url)] = endpoints {
        child.env("COUNTERSIGN_MCP_URL", url);
    }
    Ok(child)
}

fn variable(upstream: &UpstreamId) -> String {
    format!("COUNTERSIGN_MCP_URL_{}", upstream.as_str().to_ascii_uppercase().replace('-', "_"))
}

/// Replaces each `{mcp:<upstream>}`; one that names no tool server of this run is an error, not text.
fn substitute(argument: &OsStr, endpoints: &[(UpstreamId, String)]) -> Result<OsString, RunError> {
    let Some(mut rest) = argument.to_str() else { return Ok(argument.to_owned()) };
    let mut replaced = String::with_capacity(rest.len());
    while let Some((before, after)) = rest.split_once("{mcp:") {
        let Some((name, after)) = after.split_once('}') else { break };
        let url = endpoints.iter().find(|(upstream, _)| upstream.as_str() == name).map(|(_, url)| url);
        replaced.push_str(before);
        replaced.push_str(url.ok_or_else(|| RunError::UnknownPlaceholder(name.to_owned()))?);
        rest = after;
    }
    replaced.push_str(rest);
    Ok(replaced.into())
}

/// The person at the terminal that the agent runs in.
struct Terminal;

impl Notices for Terminal {
    fn say(&self, line: &str) {
        let _ = writeln!(std::io::stderr(), "countersign: {line}");
    }
}

#[cfg(test)]
mod tests;
