//! `countersign run`: an unmodified agent behind the local signing proxy.

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use countersign_proto::id::{AgentId, IdError, TaskId, UpstreamId};
use countersign_runner::control_plane::ControlPlaneError;
use countersign_runner::http::HttpError;
use countersign_runner::proxy::ProofKind;
use countersign_runner::run::{
    DEFAULT_START_PATIENCE, RunConfig, RunError, refuse_borrowed_rights, run as run_agent,
};
use countersign_runner::session::SessionConfig;
use countersign_runner::state::StateDir;

use super::machine::{CA_FILE, open_tpm};
use crate::ambient::{SystemClock, SystemEntropy};
use crate::cli::Run;
use crate::exit::{Code, Failure};

/// Runs the agent and gives its exit code.
pub async fn run(command: &Run) -> Result<ExitCode, Failure> {
    refuse_borrowed_rights().map_err(|error| failure(&error))?;
    let named = |error: IdError| Failure::new(Code::Usage, error);
    let ca_file = command.state.join(CA_FILE);
    let ca_pem = std::fs::read(&ca_file).map_err(|error| {
        Failure::new(Code::Usage, format!("{}: {error}", ca_file.display()))
            .next("enroll this machine first: countersign machine enroll")
    })?;
    let session = SessionConfig {
        gateway: command.gateway.clone(),
        agent: AgentId::parse(&command.agent).map_err(named)?,
        task: command.task.as_deref().map(TaskId::parse).transpose().map_err(named)?,
        ca_pem,
        state: StateDir::open(&command.state).map_err(|error| Failure::chain(Code::Usage, &error))?,
        tpm: open_tpm(&command.tpm.tpm)?,
    };
    let config = RunConfig {
        session,
        upstreams: command
            .upstreams
            .iter()
            .map(|id| UpstreamId::parse(id))
            .collect::<Result<_, _>>()
            .map_err(named)?,
        proof: if command.proof_per_call { ProofKind::EveryCall } else { ProofKind::Channel },
        hold_limit: Duration::from_secs(u64::from(command.hold_secs)),
        start_patience: DEFAULT_START_PATIENCE,
    };
    let agent: Vec<OsString> = command.command.iter().map(OsString::from).collect();
    run_agent(config, &agent, Arc::new(SystemClock), Arc::new(SystemEntropy))
        .await
        .map(ExitCode::from)
        .map_err(|error| failure(&error))
}

/// Why there was no run, with the exit code that says which side to look at.
fn failure(error: &RunError) -> Failure {
    let code = match error {
        RunError::NoCommand
        | RunError::NoUpstream
        | RunError::UnknownPlaceholder(_)
        | RunError::BorrowedRights => Code::Usage,
        RunError::Spawn { .. } | RunError::System { .. } => Code::Failed,
        RunError::ControlPlane(error) => match error {
            ControlPlaneError::Http(error) => match error {
                HttpError::Url(_) | HttpError::Roots => Code::Usage,
                HttpError::Certificate(_) => Code::Denied,
                HttpError::Connect { .. }
                | HttpError::Tls { .. }
                | HttpError::TimedOut(_)
                | HttpError::Broken { .. }
                | HttpError::TooLarge(_) => Code::Network,
            },
            ControlPlaneError::Protocol { .. } => Code::Failed,
            ControlPlaneError::Refused { .. }
            | ControlPlaneError::Tpm(_)
            | ControlPlaneError::State(_)
            | ControlPlaneError::Key(_) => Code::Denied,
        },
    };
    Failure::chain(code, error)
}
