//! A child process that talks in lines: it says one JSON line when it is ready, answers a line with a line, and is
//! ended by pid when dropped.
//!
//! Not a supervisor: a process that dies takes the test with it, and its standard error is the report.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use crate::insider::now;

/// How long any one answer may take before the test is called failed.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// A running child process.
#[derive(Debug)]
pub struct Talking {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    // Behind a lock only so that a world can be looked at from several threads.
    lines: Mutex<Receiver<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Talking {
    /// Starts `command` with its input and output connected; its standard error goes where ours goes.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(name: &str, command: &mut Command) -> io::Result<Self> {
        Self::start_with(name, command, None)
    }

    /// As [`Talking::start`], and everything it says, on either stream, is also kept at the end of `file`.
    ///
    /// # Errors
    /// If it cannot be started, or the file not be written.
    pub fn start_keeping(name: &str, command: &mut Command, file: &Path) -> io::Result<Self> {
        let kept = File::options().create(true).append(true).open(file)?;
        Self::start_with(name, command.stderr(kept.try_clone()?), Some(kept))
    }

    fn start_with(name: &str, command: &mut Command, mut keep: Option<File>) -> io::Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("{name}: {command:?}: {error}")))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().ok_or_else(|| io::Error::other("no standard output"))?;
        let (sender, lines) = channel();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let kept = keep.as_mut().map_or(Ok(()), |file| writeln!(file, "{line}"));
                if kept.is_err() || sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { name: name.to_owned(), child, stdin, lines: Mutex::new(lines), reader: Some(reader) })
    }

    /// The next line of its output that is a JSON value; other lines are passed over.
    ///
    /// # Errors
    /// If it ends or keeps silent for [`PATIENCE`].
    pub fn next_json(&mut self) -> io::Result<Value> {
        loop {
            let lines = self.lines.get_mut().map_err(|_| io::Error::other("its reader panicked"))?;
            match lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    if let Ok(value) = serde_json::from_str(&line) {
                        return Ok(value);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    return Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        format!("{} said nothing", self.name),
                    ));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait()?;
                    return Err(io::Error::other(format!("{} ended: {status}", self.name)));
                }
            }
        }
    }

    /// Writes one JSON line to its input.
    ///
    /// # Errors
    /// If it no longer listens.
    pub fn tell(&mut self, value: &Value) -> io::Result<()> {
        let stdin = self.stdin.as_mut().ok_or_else(|| io::Error::other("input is closed"))?;
        writeln!(stdin, "{value}")?;
        stdin.flush()
    }

    /// Writes one JSON line and waits for the answering one.
    ///
    /// # Errors
    /// As [`Talking::tell`] and [`Talking::next_json`].
    pub fn ask(&mut self, value: &Value) -> io::Result<Value> {
        self.tell(value)?;
        self.next_json()
    }

    /// Closes its input and waits for its end.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub fn finish(&mut self) -> io::Result<std::process::ExitStatus> {
        self.stdin = None;
        self.child.wait()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end (SIGTERM) and waits until it has, for as long as `within`. What it said is kept by then.
    ///
    /// # Errors
    /// If it does not end in time.
    pub fn terminate(&mut self, within: Duration) -> io::Result<ExitStatus> {
        signal(self.pid(), "TERM")?;
        let deadline = now().plus_millis(i64::try_from(within.as_millis()).unwrap_or(i64::MAX / 2));
        loop {
            if let Some(status) = self.child.try_wait()? {
                if let Some(reader) = self.reader.take() {
                    reader.join().map_err(|_| io::Error::other("its reader panicked"))?;
                }
                return Ok(status);
            }
            if now() > deadline {
                return Err(io::Error::new(io::ErrorKind::TimedOut, format!("{} does not end", self.name)));
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Ends it at once (SIGKILL) and waits until it is gone.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub fn kill(&mut self) -> io::Result<()> {
        // It may be gone already; then there is nothing to do.
        let _ = self.child.kill();
        self.child.wait().map(drop)
    }
}

/// Sends a signal, by its name without `SIG`.
///
/// # Errors
/// If there is no such process.
pub fn signal(pid: u32, name: &str) -> io::Result<()> {
    let sent = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status()?;
    if sent.success() { Ok(()) } else { Err(io::Error::other(format!("kill -{name} {pid}: {sent}"))) }
}

impl Drop for Talking {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}
