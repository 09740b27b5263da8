//! How a command ends: stable exit codes, and errors that say what was wrong, why, and what to do next.

use std::fmt;
use std::process::ExitCode;

/// Stable exit codes. Scripts may rely on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Something went wrong that none of the others names.
    Failed = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// The answer is no.
    Denied = 3,
    /// The audit log cannot be written or does not verify.
    Audit = 6,
    /// The other side cannot be reached.
    Network = 7,
}

/// A failure as a person reads it.
#[derive(Debug)]
pub struct Failure {
    code: Code,
    what: String,
    next: Option<String>,
}

impl Failure {
    /// What went wrong, in a lower-case phrase.
    pub fn new(code: Code, what: impl fmt::Display) -> Self {
        Self { code, what: what.to_string(), next: None }
    }

    /// What to do next.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// From an error and all its causes.
    pub fn chain(code: Code, error: &dyn std::error::Error) -> Self {
        let mut what = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !what.contains(&text) {
                what = format!("{what}: {text}");
            }
            cause = error.source();
        }
        Self { code, what, next: None }
    }

    /// Prints the failure to standard error, as JSON if asked, and gives the exit code.
    #[expect(clippy::print_stderr, reason = "this is the command's own voice")]
    pub fn report(&self, json: bool) -> ExitCode {
        if json {
            let report = serde_json::json!({
                "error": { "code": format!("{:?}", self.code), "message": self.what, "next": self.next }
            });
            eprintln!("{report}");
        } else {
            eprintln!("error: {}", self.what);
            if let Some(next) = &self.next {
                eprintln!("  next: {next}");
            }
        }
        ExitCode::from(self.code as u8)
    }
}
