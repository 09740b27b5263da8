//! Enrollment: how a machine becomes known. First its TPM proves itself to the attestation CA, then the machine key M is
//! attested for a certificate (ACME `device-attest-01`).
//!
//! What is reached is kept after each step, so that a broken-off enrollment goes on where it stopped. Nothing here decides
//! whether the machine is acceptable: the control plane does.

mod acme;
mod attest;

use std::sync::Arc;

use countersign_proto::b64;
use countersign_proto::jose::SoftwareP256;
use zeroize::Zeroizing;

pub(crate) use attest::quote_members;

use crate::control_plane::{ControlPlane, ControlPlaneError};
use crate::http::{Client, HttpError, MachineCertificate};
use crate::state::{AccountBinding, AccountSecret, EnrolledMachine, StateDir, StateError};
use crate::tpm::{MachineKey, Tpm, TpmError};

/// What enrolling needs.
#[derive(Debug)]
pub struct EnrollConfig {
    /// The control plane's public URL, `https://host[:port]`.
    pub server: String,
    /// The roots of the control plane's TLS certificate, in PEM.
    pub ca_pem: Vec<u8>,
    /// Where the machine's identity will live.
    pub state: StateDir,
    /// The machine's TPM.
    pub tpm: Tpm,
    /// The one-time permission of an administrator.
    pub token: EnrollmentToken,
}

/// The one-time permission to enroll one machine. Its `Debug` shows nothing, and it is wiped when dropped.
#[derive(Clone)]
pub struct EnrollmentToken(Zeroizing<String>);

impl EnrollmentToken {
    /// Takes the text over, without white space around it.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(Zeroizing::new(text.trim().to_owned()))
    }

    fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for EnrollmentToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EnrollmentToken")
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrollment {
    /// The machine's name at the control plane.
    pub machine_id: String,
    /// The certificate chain in PEM, leaf first.
    pub certificate_pem: Vec<u8>,
}

/// Why the machine is not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// There is an identity already.
    #[error(
        "this machine is already enrolled as {0}; remove its state folder first if it should become another machine"
    )]
    AlreadyEnrolled(String),
    /// The conversation with the control plane, or what it needs.
    #[error(transparent)]
    ControlPlane(#[from] ControlPlaneError),
}

impl From<StateError> for EnrollError {
    fn from(error: StateError) -> Self {
        Self::ControlPlane(error.into())
    }
}

impl From<HttpError> for EnrollError {
    fn from(error: HttpError) -> Self {
        Self::ControlPlane(error.into())
    }
}

impl From<TpmError> for EnrollError {
    fn from(error: TpmError) -> Self {
        Self::ControlPlane(error.into())
    }
}

/// Enrolls this machine, or finishes an enrollment that was broken off.
///
/// # Errors
/// [`EnrollError`].
pub async fn enroll(config: &EnrollConfig) -> Result<Enrollment, EnrollError> {
    let certificate = Arc::new(MachineCertificate::default());
    let server = ControlPlane::new(&config.server, Client::new(&config.ca_pem, certificate)?)?;
    let machine = match config.state.load_machine()? {
        Some(machine) if config.state.certificate().is_ok() => {
            return Err(EnrollError::AlreadyEnrolled(machine.machine_id));
        }
        Some(machine) => machine,
        None => {
            let machine = prove(config, &server).await?;
            config.state.save_machine(&machine)?;
            machine
        }
    };
    let key = machine_key(&config.tpm, &machine).await?;
    let certificate_pem = obtain_certificate(&server, &config.state, machine.clone(), &key).await?;
    Ok(Enrollment { machine_id: machine.machine_id, certificate_pem })
}

/// A new certificate for the same M, over a fresh statement of the TPM about it. Keeps and returns the chain in PEM.
///
/// # Errors
/// [`EnrollError`].
pub async fn renew_certificate(
    client: &Client,
    state: &StateDir,
    key: &MachineKey,
) -> Result<Vec<u8>, ControlPlaneError> {
    let machine = state.machine()?;
    let server = ControlPlane::new(&machine.server, client.clone())?;
    obtain_certificate(&server, state, machine, key).await
}

/// M, loaded into the TPM that made it.
///
/// # Errors
/// [`TpmError::ForeignKey`] if that is another TPM.
pub async fn machine_key(tpm: &Tpm, machine: &EnrolledMachine) -> Result<MachineKey, TpmError> {
    let blob = machine.machine_key.clone();
    tpm.run(move |tpm| tpm.machine_key(blob)).await
}

/// The TPM against the attestation CA: who are you, and is this attestation key yours?
async fn prove(config: &EnrollConfig, server: &ControlPlane) -> Result<EnrolledMachine, ControlPlaneError> {
    let known = attest::prove_machine(server, &config.tpm, &config.token).await?;
    let machine_key = config.tpm.run(|tpm| tpm.create_machine_key()).await?;
    let account_key = SoftwareP256::generate()
        .and_then(|key| key.to_pkcs8())
        .map_err(|error| ControlPlaneError::Key(error.to_string()))?;
    Ok(EnrolledMachine {
        version: 1,
        server: server.origin().as_str().to_owned(),
        machine_id: known.machine_id,
        permanent_identifier: known.permanent_identifier,
        machine_key,
        ak_certificates: known.ak_certificates,
        account_key: AccountSecret::new(b64::url_encode(&account_key)),
        account_url: None,
        pending_binding: Some(AccountBinding { kid: known.eab.kid, key: AccountSecret::new(known.eab.key) }),
    })
}

async fn obtain_certificate(
    server: &ControlPlane,
    state: &StateDir,
    mut machine: EnrolledMachine,
    key: &MachineKey,
) -> Result<Vec<u8>, ControlPlaneError> {
    let mut acme = acme::AcmeClient::open(server, &machine).await?;
    if machine.account_url.is_none() {
        machine.account_url = Some(acme.create_account(machine.pending_binding.as_ref()).await?);
        machine.pending_binding = None;
        state.save_machine(&machine)?;
    }
    let chain = acme.order_certificate(&machine, key).await?;
    // Refuses a certificate for another key before it replaces ours.
    MachineCertificate::default().replace(&chain, key)?;
    state.save_certificate(&chain)?;
    Ok(chain)
}

#[cfg(test)]
mod tests;
