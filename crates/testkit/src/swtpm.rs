//! Simulated machines: a software TPM 2.0 (`swtpm`) in a process of its own, manufactured with its own certificate authority.
//!
//! It speaks the real protocol with real endorsement certificates, so nothing that talks to it needs a test mode.
//! It is not a fake: what it cannot show is a manufacturer anybody should trust, which is why no production bundle holds its roots.
//! Depends on nothing of ours, so that the crates below `testkit` can include this file in their own tests.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// How often a fresh simulator is asked whether it listens already.
const READINESS_ATTEMPTS: u32 = 2_000;
/// How long it may take to shut down in order.
const SHUTDOWN_LIMIT: Duration = Duration::from_millis(500);
/// The pause between two of these questions.
const READINESS_PAUSE: Duration = Duration::from_millis(5);

/// A running software TPM. Dropping it ends its process; its state stays in its folder.
#[derive(Debug)]
pub struct SimulatedTpm {
    dir: PathBuf,
    ca: PathBuf,
    process: Child,
}

impl SimulatedTpm {
    /// Manufactures a TPM in `dir` (created if absent) under a certificate authority of its own, and starts it.
    ///
    /// # Errors
    /// If `swtpm` is not installed or will not start; the message carries what it said.
    pub fn manufacture(dir: &Path) -> io::Result<Self> {
        Self::manufacture_by(dir, &dir.join("ca"))
    }

    /// As [`SimulatedTpm::manufacture`], under the authority in `ca`: several machines of one manufacturer.
    ///
    /// # Errors
    /// As [`SimulatedTpm::manufacture`].
    pub fn manufacture_by(dir: &Path, ca: &Path) -> io::Result<Self> {
        for folder in [dir, &dir.join("state"), ca] {
            fs::create_dir_all(folder)?;
            fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
        }
        let config = write_configuration(dir, ca)?;
        let made = Command::new("swtpm_setup")
            .args(["--tpm2", "--create-ek-cert", "--create-platform-cert", "--lock-nvram", "--tpm-state"])
            .arg(dir.join("state"))
            .arg("--config")
            .arg(config)
            .stdin(Stdio::null())
            .output()?;
        if !made.status.success() {
            let said =
                String::from_utf8_lossy(&made.stdout).into_owned() + &String::from_utf8_lossy(&made.stderr);
            return Err(io::Error::other(format!("swtpm_setup failed: {said}")));
        }
        Self::power_on(dir, ca)
    }

    /// Starts an already manufactured TPM: power on, `TPM2_Startup(CLEAR)`, PCRs back to their first values.
    ///
    /// # Errors
    /// If the process does not start or never listens.
    pub fn power_on(dir: &Path, ca: &Path) -> io::Result<Self> {
        let process = start(dir)?;
        let mut machine = Self { dir: dir.to_owned(), ca: ca.to_owned(), process };
        machine.wait_until_it_listens()?;
        Ok(machine)
    }

    /// Where it listens: raw TPM commands and responses, one client at a time.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join("tpm.sock")
    }

    /// Power off and on again: PCRs are reset, `resetCount` grows, loaded objects are gone.
    ///
    /// # Errors
    /// As [`SimulatedTpm::power_on`].
    pub fn reboot(&mut self) -> io::Result<()> {
        self.power_off();
        self.process = start(&self.dir)?;
        self.wait_until_it_listens()
    }

    /// Shuts down in order, as an operating system does, and leaves the state; every later command fails.
    ///
    /// Without the order the simulator forgets how far its clock had come, which a verifier rightly takes for a rollback.
    /// A client that still holds the conversation makes this a power cut.
    pub fn power_off(&mut self) {
        let _ = self.shut_down();
        self.cut_power();
    }

    /// Ends the simulator in the middle of whatever it does.
    pub fn cut_power(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_file(self.socket());
    }

    /// The manufacturer's certificates in DER, root first and then the issuer of the endorsement certificates.
    ///
    /// # Errors
    /// If the authority's files cannot be read.
    pub fn ek_roots(&self) -> io::Result<Vec<Vec<u8>>> {
        ["swtpm-localca-rootca-cert.pem", "issuercert.pem"]
            .iter()
            .map(|name| {
                CertificateDer::from_pem_file(self.ca.join(name))
                    .map(|certificate| certificate.to_vec())
                    .map_err(|error| io::Error::other(format!("{name}: {error}")))
            })
            .collect()
    }

    /// `TPM2_Shutdown(CLEAR)`.
    fn shut_down(&self) -> io::Result<()> {
        let mut stream = UnixStream::connect(self.socket())?;
        stream.set_read_timeout(Some(SHUTDOWN_LIMIT))?;
        stream.set_write_timeout(Some(SHUTDOWN_LIMIT))?;
        stream.write_all(&[0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x45, 0, 0])?;
        stream.read_exact(&mut [0; 10])
    }

    fn wait_until_it_listens(&mut self) -> io::Result<()> {
        for _ in 0..READINESS_ATTEMPTS {
            if UnixStream::connect(self.socket()).is_ok() {
                return Ok(());
            }
            if let Some(status) = self.process.try_wait()? {
                return Err(io::Error::other(format!("swtpm ended at once: {status}")));
            }
            std::thread::park_timeout(READINESS_PAUSE);
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "swtpm never listened"))
    }
}

impl Drop for SimulatedTpm {
    fn drop(&mut self) {
        self.cut_power();
    }
}

fn start(dir: &Path) -> io::Result<Child> {
    Command::new("swtpm")
        .args(["socket", "--tpm2", "--tpmstate"])
        .arg(format!("dir={}", dir.join("state").display()))
        .arg("--server")
        .arg(format!("type=unixio,path={}", dir.join("tpm.sock").display()))
        .args(["--flags", "not-need-init,startup-clear"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

/// Everything `swtpm_setup` needs stays in our folders, so neither root nor `/var` is involved.
fn write_configuration(dir: &Path, ca: &Path) -> io::Result<PathBuf> {
    let (dir_text, ca_text) = (dir.display(), ca.display());
    fs::write(
        dir.join("localca.conf"),
        format!(
            "statedir = {ca_text}\nsigningkey = {ca_text}/signkey.pem\nissuercert = {ca_text}/issuercert.pem\ncertserial = {ca_text}/certserial\n"
        ),
    )?;
    fs::write(
        dir.join("localca.options"),
        "--platform-manufacturer Countersign\n--platform-version 1.0\n--platform-model simulated\n",
    )?;
    let setup = dir.join("setup.conf");
    fs::write(
        &setup,
        format!(
            "create_certs_tool = swtpm_localca\ncreate_certs_tool_config = {dir_text}/localca.conf\ncreate_certs_tool_options = {dir_text}/localca.options\nactive_pcr_banks = sha256\n"
        ),
    )?;
    Ok(setup)
}
