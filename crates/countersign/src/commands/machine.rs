//! `countersign machine enroll`: runs on the machine itself and makes its TPM vouch for it.

use std::path::{Path, PathBuf};

use countersign_runner::enroll::{EnrollConfig, EnrollmentToken, enroll};
use countersign_runner::state::StateDir;
use countersign_runner::tpm::{Tpm, TpmLocation};
use serde_json::{Value, json};

use crate::exit::{Code, Failure};

/// Where the control plane's root certificate is kept in the state folder.
pub const CA_FILE: &str = "ca.pem";

/// What `machine enroll` was told.
#[derive(Debug)]
pub struct Enrolling<'a> {
    /// The control plane's URL.
    pub server: &'a str,
    /// Its root certificate.
    pub ca: &'a Path,
    /// The file with the enrollment token.
    pub token_file: &'a Path,
    /// Where the machine keeps what it needs.
    pub state: &'a Path,
    /// The TPM.
    pub tpm: &'a str,
}

/// Enrolls this machine.
pub async fn run(told: &Enrolling<'_>) -> Result<Value, Failure> {
    let usage = |path: &Path, error: &dyn std::fmt::Display| {
        Failure::new(Code::Usage, format!("{}: {error}", path.display()))
    };
    let ca_pem = std::fs::read(told.ca).map_err(|error| usage(told.ca, &error))?;
    let token = std::fs::read_to_string(told.token_file).map_err(|error| usage(told.token_file, &error))?;
    let state = StateDir::open(told.state).map_err(|error| Failure::chain(Code::Usage, &error))?;
    let tpm = open_tpm(told.tpm)?;
    let kept_ca: PathBuf = told.state.join(CA_FILE);
    let enrollment = enroll(&EnrollConfig {
        server: told.server.to_owned(),
        ca_pem: ca_pem.clone(),
        state,
        tpm,
        token: EnrollmentToken::new(token.trim()),
    })
    .await
    .map_err(|error| {
        Failure::chain(Code::Denied, &error)
            .next("run: countersign doctor; docs/how-to/enroll-a-machine.md explains each refusal")
    })?;
    std::fs::write(&kept_ca, ca_pem).map_err(|error| usage(&kept_ca, &error))?;
    Ok(json!({ "machine": enrollment.machine_id, "state": told.state }))
}

/// Opens the TPM, or says how to get one.
pub fn open_tpm(location: &str) -> Result<Tpm, Failure> {
    Tpm::open(TpmLocation::parse(location)).map_err(|error| {
        Failure::chain(Code::Failed, &error)
            .next("name the TPM with --tpm; countersign doctor says what is there")
    })
}
