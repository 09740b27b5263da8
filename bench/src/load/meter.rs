//! What a process used of the processors, as the kernel counts it, by thread.
//!
//! Reads `/proc`; knows nothing about what the process does.

use std::collections::BTreeMap;
use std::io;

/// What `/proc` counts processor time in, on every architecture we run on: hundredths of a second.
const TICK_MICROS: u64 = 10_000;

/// Processor time used so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Used {
    /// In user mode, in microseconds, ended threads included.
    pub(crate) user: u64,
    /// In the kernel, in microseconds, ended threads included.
    pub(crate) system: u64,
    /// Both, by the name of the thread, of threads that are still there.
    pub(crate) threads: BTreeMap<String, u64>,
    /// Memory in use, in KiB; for a difference, at its end.
    pub(crate) resident_kib: u64,
}

impl Used {
    /// What the process `pid` has used so far.
    pub(crate) fn by(pid: u32) -> io::Result<Self> {
        let whole = Stat::read(&format!("/proc/{pid}/stat"))?;
        let mut threads = BTreeMap::new();
        for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            // A thread may end while we look.
            if let Ok(stat) = Stat::read(&format!("{}/stat", thread?.path().display())) {
                *threads.entry(stat.name).or_insert(0) += stat.user + stat.system;
            }
        }
        Ok(Self { user: whole.user, system: whole.system, threads, resident_kib: resident_kib(pid)? })
    }

    /// What was used since `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let threads = self.threads.iter().map(|(name, now)| {
            (name.clone(), now.saturating_sub(before.threads.get(name).copied().unwrap_or(0)))
        });
        Self {
            user: self.user.saturating_sub(before.user),
            system: self.system.saturating_sub(before.system),
            threads: threads.collect(),
            resident_kib: self.resident_kib,
        }
    }

    /// User and kernel time together, in microseconds.
    pub(crate) fn total(&self) -> u64 {
        self.user + self.system
    }
}

struct Stat {
    name: String,
    user: u64,
    system: u64,
}

impl Stat {
    fn read(path: &str) -> io::Result<Self> {
        let text = std::fs::read_to_string(path)?;
        Self::parse(&text).ok_or_else(|| io::Error::other(format!("{path} has another form")))
    }

    /// proc(5): the name in brackets may contain anything; times are fields 14 and 15.
    fn parse(text: &str) -> Option<Self> {
        let (head, rest) = text.rsplit_once(") ")?;
        let (_, name) = head.split_once('(')?;
        let mut times = rest.split(' ').skip(11).map(str::parse::<u64>);
        let (user, system) = (times.next()?.ok()?, times.next()?.ok()?);
        Some(Self { name: name.to_owned(), user: user * TICK_MICROS, system: system * TICK_MICROS })
    }
}

/// proc(5): `VmRSS: 1234 kB`.
fn resident_kib(pid: u32) -> io::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.trim().split(' ').next()?.parse().ok());
    number.ok_or_else(|| io::Error::other("no VmRSS in the status of a process"))
}

/// How many tasks wanted a processor during the last minute: what else was going on.
pub(crate) fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("unknown").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_may_have_any_name() {
        let stat = Stat::parse("7 (a) b (c) S 1 7 7 0 -1 4 9 0 0 0 12 34 0 0 20 0 1 0 5 6 7").unwrap();
        assert_eq!((stat.name.as_str(), stat.user, stat.system), ("a) b (c", 120_000, 340_000));
        assert!(Stat::parse("7 (x) S 1").is_none());
    }
}
