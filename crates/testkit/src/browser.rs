//! A person: Chromium with a virtual authenticator, driven by `e2e/browser/approve.mjs`.
//!
//! The pages, the passkey ceremony and the browser are real; only the finger on the key is simulated.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// One person with one passkey, kept in a file between visits.
#[derive(Debug)]
pub struct Browser {
    script: PathBuf,
    passkey: PathBuf,
}

impl Browser {
    /// A person whose passkey is kept in `passkey`.
    #[must_use]
    pub fn new(repository: &Path, passkey: &Path) -> Self {
        Self { script: repository.join("e2e/browser/approve.mjs"), passkey: passkey.to_owned() }
    }

    /// Opens the invitation and registers a passkey.
    ///
    /// # Errors
    /// If a page does not do what it should; the message is what the driver said.
    pub fn register(&self, invite_url: &str) -> io::Result<Value> {
        self.drive("register", invite_url, &[])
    }

    /// Opens the approval, looks at it, and approves it with the passkey.
    ///
    /// # Errors
    /// As [`Browser::register`].
    pub fn approve(&self, approval_url: &str, screenshot: Option<&Path>) -> io::Result<Value> {
        let screenshot = screenshot.map(|path| path.display().to_string());
        match &screenshot {
            Some(path) => self.drive("approve", approval_url, &["--screenshot", path]),
            None => self.drive("approve", approval_url, &[]),
        }
    }

    /// Opens the approval and refuses it.
    ///
    /// # Errors
    /// As [`Browser::register`].
    pub fn refuse(&self, approval_url: &str) -> io::Result<Value> {
        self.drive("refuse", approval_url, &[])
    }

    /// Takes a picture of a page, signed in.
    ///
    /// # Errors
    /// As [`Browser::register`].
    pub fn screenshot(&self, url: &str, picture: &Path, extra: &[&str]) -> io::Result<Value> {
        let picture = picture.display().to_string();
        let mut arguments = vec![picture.as_str()];
        arguments.extend(extra);
        self.drive("screenshot", url, &arguments)
    }

    fn drive(&self, what: &str, url: &str, extra: &[&str]) -> io::Result<Value> {
        let output = Command::new("node")
            .arg(&self.script)
            .args([what, url])
            .arg(&self.passkey)
            .args(extra)
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            return Err(io::Error::other(format!("browser {what}: {}: {said}{errors}", output.status)));
        }
        said.lines()
            .rev()
            .find_map(|line| serde_json::from_str(line).ok())
            .ok_or_else(|| io::Error::other(format!("browser {what} said nothing: {said}")))
    }
}
