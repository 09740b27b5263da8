//! A child process as a job: its own process group, the terminal while it runs, our signals, and no survivors.
//!
//! Job control as shells do it (POSIX, "Terminal Access Control"), because agents are often interactive programs.

use std::io::{self, IsTerminal as _, Stdin};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use rustix::process::{
    Pid, Signal, WaitOptions, kill_process, kill_process_group, set_child_subreaper, waitpgid, waitpid,
};
use rustix::termios::tcsetpgrp;
use tokio::signal::unix::{Signal as Arrivals, SignalKind, signal};

/// How long what is left of the group may take to end after being asked.
const GRACE: Duration = Duration::from_secs(2);
/// How often we look whether it has.
const GRACE_STEP: Duration = Duration::from_millis(20);

/// A running child and its group.
#[derive(Debug)]
pub struct Job {
    group: Pid,
    interrupt: Arrivals,
    terminate: Arrivals,
    hang_up: Arrivals,
    quit: Arrivals,
}

/// What became of the child.
enum Change {
    Stopped,
    Ended(u8),
}

impl Job {
    /// Starts the child in a group of its own and gives it the terminal, if there is one.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        // What the child leaves behind becomes ours to end, not init's to keep.
        set_child_subreaper(Some(rustix::process::getpid()))?;
        // Handlers first: a signal between the two would end us and leave the child.
        let interrupt = signal(SignalKind::interrupt())?;
        let terminate = signal(SignalKind::terminate())?;
        let hang_up = signal(SignalKind::hangup())?;
        let quit = signal(SignalKind::quit())?;
        let child = command.process_group(0).spawn()?;
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let group = group.ok_or_else(|| io::Error::other("a process without a number"))?;
        give_terminal(&io::stdin(), group);
        Ok(Self { group, interrupt, terminate, hang_up, quit })
    }

    /// Waits for the end and returns the exit code. Signals that we get go to the group.
    pub async fn wait(mut self) -> io::Result<u8> {
        loop {
            let group = self.group;
            let mut change = tokio::task::spawn_blocking(move || next_change(group));
            let change = loop {
                tokio::select! {
                    change = &mut change => break change.map_err(io::Error::other)??,
                    Some(()) = self.interrupt.recv() => self.pass_on(Signal::INT),
                    Some(()) = self.terminate.recv() => self.pass_on(Signal::TERM),
                    Some(()) = self.hang_up.recv() => self.pass_on(Signal::HUP),
                    Some(()) = self.quit.recv() => self.pass_on(Signal::QUIT),
                }
            };
            match change {
                Change::Stopped => self.stop_with_it()?,
                Change::Ended(code) => {
                    self.end_what_is_left().await;
                    return Ok(code);
                }
            }
        }
    }

    fn pass_on(&self, signal: Signal) {
        let _ = kill_process_group(self.group, signal);
    }

    /// The child was stopped from the terminal: stop as well, so that the shell sees it; when the shell continues us,
    /// continue the child.
    fn stop_with_it(&self) -> io::Result<()> {
        if io::stdin().is_terminal() {
            kill_process(rustix::process::getpid(), Signal::STOP)?;
            give_terminal(&io::stdin(), self.group);
            self.pass_on(Signal::CONT);
        }
        Ok(())
    }

    /// The agent's own children end with it: asked first, then made to.
    async fn end_what_is_left(&self) {
        for signal in [Signal::TERM, Signal::KILL] {
            self.pass_on(signal);
            let mut step = tokio::time::interval(GRACE_STEP);
            let gone = async {
                while collect(self.group) {
                    step.tick().await;
                }
            };
            if tokio::time::timeout(GRACE, gone).await.is_ok() {
                return;
            }
        }
    }
}

/// Collects those of the group that have ended; whether some are left.
fn collect(group: Pid) -> bool {
    loop {
        match waitpgid(group, WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

impl Drop for Job {
    /// Also when waiting was given up: nothing of the group stays behind.
    fn drop(&mut self) {
        self.pass_on(Signal::KILL);
    }
}

/// We are in the foreground ourselves when this is called, so it does not stop us; without a terminal it does nothing.
fn give_terminal(terminal: &Stdin, group: Pid) {
    if terminal.is_terminal() {
        let _ = tcsetpgrp(terminal, group);
    }
}

/// Waits until the child stops or ends; in a thread, because the kernel has no other way to tell about stopping.
fn next_change(child: Pid) -> io::Result<Change> {
    loop {
        let waited = match waitpid(Some(child), WaitOptions::UNTRACED) {
            Err(rustix::io::Errno::INTR) => continue,
            waited => waited?,
        };
        let Some((_, status)) = waited else { continue };
        if status.stopped() {
            return Ok(Change::Stopped);
        }
        let signal = status.terminating_signal().map(|signal| signal.saturating_add(128));
        if let Some(code) = status.exit_status().or(signal) {
            return Ok(Change::Ended(u8::try_from(code).unwrap_or(u8::MAX)));
        }
    }
}
