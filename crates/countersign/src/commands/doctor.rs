//! `countersign doctor`: looks at a machine or an installation and says, check by check, what is right, what is
//! wrong, and what to do about it. It changes nothing but a scratch file that it removes.

use std::fs::File;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use countersign_proto::time::{Clock as _, Timestamp};
use countersign_runner::state::StateDir;
use countersign_runner::tpm::{Tpm, TpmLocation};
use countersign_trust::Roots;
use countersign_trust::endorsement::{EkAllowList, appraise_endorsement};
use serde_json::{Value, json};

use super::admin::Admin;
use crate::ambient::SystemClock;
use crate::cli::Doctor;
use crate::config::Config;
use crate::exit::{Code, Failure};

/// Writes that measure the disk's flush.
const FLUSHES: u32 = 16;
/// A flush slower than this keeps the log from its five milliseconds a decision.
const SLOW_FLUSH_MICROS: u128 = 20_000;
/// This program was made after this instant (2026-01-01); a clock before it is wrong.
const NOT_BEFORE: Timestamp = Timestamp::from_unix_secs(1_767_225_600);

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Ok,
    Warn,
    Fail,
}

/// One finding.
#[derive(Debug)]
struct Finding {
    check: &'static str,
    health: Health,
    what: String,
    next: Option<&'static str>,
}

impl Finding {
    fn ok(check: &'static str, what: impl Into<String>) -> Self {
        Self { check, health: Health::Ok, what: what.into(), next: None }
    }

    fn warn(check: &'static str, what: impl Into<String>, next: &'static str) -> Self {
        Self { check, health: Health::Warn, what: what.into(), next: Some(next) }
    }

    fn fail(check: &'static str, what: impl Into<String>, next: &'static str) -> Self {
        Self { check, health: Health::Fail, what: what.into(), next: Some(next) }
    }
}

/// Runs every check that applies.
pub fn run(command: &Doctor, admin: Admin<'_>) -> Result<Value, Failure> {
    let mut findings = vec![clock()];
    findings.extend(tpm(&command.tpm.tpm, command.ek_roots.as_deref()));
    findings.extend(control_plane(admin));
    if let Some(state) = &command.state {
        findings.extend(machine(state));
    }
    if let Some(file) = &command.config {
        findings.extend(installation(file));
    }
    let rows: Vec<Value> = findings
        .iter()
        .map(|finding| {
            json!({ "check": finding.check, "health": format!("{:?}", finding.health).to_lowercase(),
                    "what": finding.what, "next": finding.next })
        })
        .collect();
    let failed = findings.iter().filter(|finding| finding.health == Health::Fail).count();
    if failed == 0 {
        return Ok(json!({ "checks": rows }));
    }
    let lines: Vec<String> = findings
        .iter()
        .filter(|finding| finding.health == Health::Fail)
        .map(|finding| format!("{}: {} — {}", finding.check, finding.what, finding.next.unwrap_or_default()))
        .collect();
    crate::output::show(&json!({ "checks": rows }), false);
    Err(Failure::new(Code::Failed, format!("{failed} checks failed")).next(lines.join("\n        ")))
}

fn clock() -> Finding {
    let now = SystemClock.now();
    if now < NOT_BEFORE {
        return Finding::fail(
            "clock",
            "the clock stands before this program was made",
            "set the clock (chronyc makestep)",
        );
    }
    Finding::ok("clock", format!("{} seconds since 1970", now.unix_secs()))
}

fn tpm(location: &str, roots: Option<&Path>) -> Vec<Finding> {
    let tpm = match Tpm::open(TpmLocation::parse(location)) {
        Ok(tpm) => tpm,
        Err(error) => {
            return vec![Finding::fail(
                "tpm",
                format!("{location}: {error}"),
                "name the TPM with --tpm; on bare metal turn it on in the firmware and join group tss",
            )];
        }
    };
    let mut findings = vec![Finding::ok("tpm", format!("{location} answers"))];
    findings.push(match tpm.endorsement_certificates() {
        Ok(chain) if chain.is_empty() => Finding::warn(
            "endorsement",
            "the TPM carries no endorsement certificate",
            "put the endorsement key's digest on the control plane's allow-list",
        ),
        Ok(chain) => Finding::ok("endorsement", format!("{} certificate(s) in the TPM", chain.len())),
        Err(error) => Finding::fail(
            "endorsement",
            error.to_string(),
            "clear stale sessions or restart the TPM's resource manager",
        ),
    });
    findings.extend(roots.map(|roots| chain(&tpm, roots)));
    findings
}

/// Whether the control plane would accept this TPM's endorsement, said by the code that decides it.
fn chain(tpm: &Tpm, folder: &Path) -> Finding {
    let appraised = || -> Result<(), Box<dyn std::error::Error>> {
        let der = super::pem_certificates(folder)?;
        let roots = Roots::from_der(der.iter().map(Vec::as_slice))?;
        let certificates = tpm.endorsement_certificates()?;
        let public = tpm.endorsement_public()?;
        appraise_endorsement(&certificates, &public, &roots, &EkAllowList::default(), SystemClock.now())?;
        Ok(())
    };
    match appraised() {
        Ok(()) => Finding::ok("endorsement chain", format!("leads to a root in {}", folder.display())),
        Err(error) => Finding::fail(
            "endorsement chain",
            error.to_string(),
            "put the root (and intermediates) of this TPM's manufacturer into that folder",
        ),
    }
}

/// What the running control plane says of itself; nothing if none runs here.
fn control_plane(admin: Admin<'_>) -> Vec<Finding> {
    let Ok(status) = admin.status() else {
        return vec![Finding::ok(
            "control plane",
            "none answers at the admin socket; its checks are left out",
        )];
    };
    let mut findings = vec![if status["ready"] == true {
        Finding::ok("control plane", "ready")
    } else {
        Finding::fail(
            "control plane",
            "not ready: it refuses everything",
            "see its log; the disk is the usual reason",
        )
    }];
    findings.push(match status["policy_revision"].as_u64() {
        Some(revision) if revision > 0 => Finding::ok("policy", format!("revision {revision} is in force")),
        Some(_) | None => Finding::warn(
            "policy",
            "none is in force: every call is denied",
            "run: countersign policy activate FILE; docs/how-to/write-policy.md",
        ),
    });
    findings
}

fn machine(state: &Path) -> Vec<Finding> {
    let opened = StateDir::open(state).and_then(|state| state.machine());
    match opened {
        Ok(machine) => vec![Finding::ok("machine", format!("enrolled as {}", machine.machine_id))],
        Err(error) => {
            vec![Finding::fail("machine", error.to_string(), "run: countersign machine enroll")]
        }
    }
}

fn installation(file: &Path) -> Vec<Finding> {
    let config = match Config::load(file) {
        Ok(config) => config,
        Err(error) => {
            return vec![Finding::fail("config", error.to_string(), "fix the file and run doctor again")];
        }
    };
    let mut findings = vec![Finding::ok("config", format!("{} is well formed", file.display()))];
    findings.push(data_dir(&config.data_dir));
    findings.push(flush(&config.data_dir));
    findings.push(ek_roots(&config.ek_roots));
    for (name, address) in [
        ("server port", config.server_listen),
        ("gateway port", config.gateway_listen),
        ("console port", config.console_listen),
    ] {
        findings.push(port(name, address));
    }
    for upstream in &config.upstreams {
        if let Some(file) = &upstream.credential_file {
            findings.push(credential(file));
        }
    }
    findings
}

fn data_dir(folder: &Path) -> Finding {
    match std::fs::metadata(folder) {
        Ok(metadata) if metadata.mode() & 0o077 != 0 => Finding::fail(
            "data folder",
            format!("{} is open to others", folder.display()),
            "run: chmod 700 on it",
        ),
        Ok(_) => Finding::ok("data folder", folder.display().to_string()),
        Err(error) => Finding::warn(
            "data folder",
            format!("{}: {error}", folder.display()),
            "it is made at the first start",
        ),
    }
}

/// Measures what every decision waits for.
fn flush(folder: &Path) -> Finding {
    let place = if folder.is_dir() { folder } else { Path::new(".") };
    match flush_micros(place) {
        Ok(median) if median > SLOW_FLUSH_MICROS => Finding::warn(
            "disk flush",
            format!("{median} microseconds a flush; decisions wait for it"),
            "put data_dir on a faster disk",
        ),
        Ok(median) => Finding::ok("disk flush", format!("{median} microseconds a flush")),
        Err(error) => Finding::fail(
            "disk flush",
            format!("{}: {error}", place.display()),
            "free space, or fix the disk",
        ),
    }
}

#[expect(clippy::disallowed_methods, reason = "a measurement of this machine is what was asked for")]
fn flush_micros(folder: &Path) -> std::io::Result<u128> {
    let path = folder.join(format!(".countersign-doctor-{}", std::process::id()));
    let mut file = File::create_new(&path)?;
    let mut took = Vec::new();
    let mut measure = || -> std::io::Result<()> {
        for _ in 0..FLUSHES {
            let begun = std::time::Instant::now();
            file.write_all(&[0; 512])?;
            file.sync_data()?;
            took.push(begun.elapsed().as_micros());
        }
        Ok(())
    };
    let measured = measure();
    std::fs::remove_file(&path)?;
    measured?;
    took.sort_unstable();
    Ok(took[took.len() / 2])
}

fn ek_roots(folder: &Path) -> Finding {
    match super::pem_certificates(folder) {
        Ok(roots) if roots.is_empty() => Finding::fail(
            "ek roots",
            format!("{} holds no certificate", folder.display()),
            "put the TPM manufacturers' roots there as PEM files",
        ),
        Ok(roots) => Finding::ok("ek roots", format!("{} certificate(s)", roots.len())),
        Err(error) => Finding::fail("ek roots", error.to_string(), "name the folder with server.ek_roots"),
    }
}

fn port(name: &'static str, address: SocketAddr) -> Finding {
    match TcpListener::bind(address) {
        Ok(_) => Finding::ok(name, format!("{address} is free")),
        Err(error) => Finding::warn(
            name,
            format!("{address}: {error}"),
            "fine if countersign is running; else choose another port",
        ),
    }
}

fn credential(file: &Path) -> Finding {
    match std::fs::metadata(file) {
        Ok(metadata) if metadata.mode() & 0o077 != 0 => Finding::fail(
            "credential",
            format!("{} can be read by others", file.display()),
            "run: chmod 600 on it",
        ),
        Ok(_) => Finding::ok("credential", file.display().to_string()),
        Err(error) => {
            Finding::fail("credential", format!("{}: {error}", file.display()), "name an existing file")
        }
    }
}
