//! `countersign audit`: reads a log from its files alone. It trusts nothing but the verification key.

use std::path::{Path, PathBuf};

use countersign_audit::invariants::Scan;
use countersign_audit::verify::{VerifyError, verify_entries};
use countersign_audit::{LogVerifier, proof};
use serde_json::{Value, json};

use crate::cli::Audit;
use crate::exit::{Code, Failure};

/// Does what the command says; `tail` is the control plane's and not handled here.
pub fn run(command: &Audit) -> Result<Value, Failure> {
    match command {
        Audit::Verify { log, key } => verify(log, key.as_deref()),
        Audit::Show { log, key, from, limit } => show(log, key.as_deref(), *from, *limit),
        Audit::Prove { log, key, index } => prove(log, key.as_deref(), *index),
        Audit::Invariants { log, key } => invariants(log, key.as_deref()),
        Audit::Tail { .. } => Err(Failure::new(Code::Usage, "tail asks the running control plane")),
    }
}

fn verify(log: &Path, key: Option<&Path>) -> Result<Value, Failure> {
    let verifier = verifier(log, key)?;
    let summary =
        countersign_audit::verify_log(&reader(log), &verifier).map_err(|error| broken(log, &error))?;
    Ok(json!({
        "origin": verifier.origin().as_str(),
        "entries": summary.checkpoint().size,
        "root": summary.checkpoint().root.to_string(),
        "bytes": summary.entry_bytes(),
        "verdict": "whole",
    }))
}

fn show(log: &Path, key: Option<&Path>, from: u64, limit: u64) -> Result<Value, Failure> {
    let until = from.saturating_add(limit);
    let mut records = Vec::new();
    verify_entries(&reader(log), &verifier(log, key)?, |index, entry| {
        if (from..until).contains(&index) {
            let record: Value = serde_json::from_slice(entry).unwrap_or(Value::Null);
            records.push(json!({ "index": index, "record": record }));
        }
    })
    .map_err(|error| broken(log, &error))?;
    Ok(json!({ "records": records }))
}

fn prove(log: &Path, key: Option<&Path>, index: u64) -> Result<Value, Failure> {
    let proof = proof::prove(&reader(log), &verifier(log, key)?, index)
        .map_err(|error| Failure::chain(Code::Audit, &error).next("run: countersign audit verify"))?;
    Ok(json!({ "proof": proof }))
}

fn invariants(log: &Path, key: Option<&Path>) -> Result<Value, Failure> {
    let mut scan = Scan::new();
    verify_entries(&reader(log), &verifier(log, key)?, |index, entry| scan.see(index, entry))
        .map_err(|error| broken(log, &error))?;
    let report = scan.finish();
    if let Some(first) = report.findings.first() {
        return Err(Failure::new(
            Code::Audit,
            format!(
                "{} invariants broken, first {} at entry {}",
                report.broken,
                first.broken.code(),
                first.index
            ),
        )
        .next("treat it as a breach: stop the gateway and look at that entry with countersign audit show"));
    }
    let unknown: Vec<Value> = report
        .unknown_outcomes
        .iter()
        .map(|(decision, index)| json!({ "decision": decision, "index": index }))
        .collect();
    Ok(json!({ "entries": report.entries, "verdict": "hold", "unknown_outcomes": unknown }))
}

/// Reads the log's files below its folder. The paths come from our own code, never from the log.
fn reader(log: &Path) -> impl Fn(&str) -> Option<Vec<u8>> {
    let log = log.to_owned();
    move |path: &str| std::fs::read(log.join(path)).ok()
}

fn verifier(log: &Path, key: Option<&Path>) -> Result<LogVerifier, Failure> {
    let file: PathBuf = key.map_or_else(|| log.join("key.pub"), Path::to_path_buf);
    let text = std::fs::read_to_string(&file).map_err(|error| {
        Failure::new(Code::Usage, format!("cannot read the verification key {}: {error}", file.display()))
            .next("name the log's folder, and the key with --key")
    })?;
    LogVerifier::parse(text.trim())
        .map_err(|error| Failure::new(Code::Usage, format!("{}: {error}", file.display())))
}

fn broken(log: &Path, error: &VerifyError) -> Failure {
    Failure::chain(Code::Audit, error).next(format!(
        "the log in {} is not what was signed; compare with a copy or a witness",
        log.display()
    ))
}
