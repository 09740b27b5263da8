//! A disk in memory that can fail, fill up, hang, and be looked at as a crash would leave it.
//!
//! It writes down every operation it was asked for. [`Image`] replays a prefix of them under the rules of a power
//! failure: what was flushed is there; of everything else, any part may be.
#![allow(dead_code, reason = "each test binary uses its part of this")]

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use countersign_audit::{Kind, LogKey, LogVerifier, Origin, Record};
use countersign_log::storage::{Journal, Storage};
use countersign_log::{Log, LogError, LogLimits};
use countersign_proto::time::{Clock, Timestamp};

/// Files by path.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Something that was done to the disk.
#[derive(Clone, Debug)]
pub enum Op {
    /// The name of a journal is durable; the file may be new.
    Open(String),
    Write {
        path: String,
        offset: usize,
        bytes: Vec<u8>,
    },
    Truncate {
        path: String,
        length: usize,
    },
    /// Everything written to this file before is durable.
    Sync(String),
    /// Everything put or removed before is durable.
    SyncAll,
    Put {
        path: String,
        bytes: Vec<u8>,
        durable: bool,
    },
    Remove(String),
}

/// What goes wrong, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The n-th flush of a journal from now fails.
    SyncFails(usize),
    /// The n-th flush of a journal from now hangs until released.
    SyncHangs(usize),
    /// So many bytes fit, then the disk is full.
    Room(usize),
    /// Tiles cannot be put.
    PutFails,
    /// Tiles cannot be flushed.
    TileSyncFails,
}

#[derive(Default)]
struct State {
    files: Files,
    ops: Vec<Op>,
    locked: bool,
    fault: Option<Fault>,
    hanging: bool,
    taken_away: bool,
    reads: usize,
}

/// The disk.
#[derive(Clone, Default)]
pub struct Sim {
    state: Arc<(Mutex<State>, Condvar)>,
}

impl Sim {
    pub fn holding(files: Files) -> Self {
        let sim = Self::default();
        sim.state().files = files;
        sim
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.0.lock().unwrap()
    }

    pub fn set_fault(&self, fault: Option<Fault>) {
        self.state().fault = fault;
        self.state().hanging = false;
        self.state.1.notify_all();
    }

    /// The journal's file is deleted behind the log's back.
    pub fn take_journal_away(&self) {
        self.state().taken_away = true;
    }

    pub fn files(&self) -> Files {
        self.state().files.clone()
    }

    pub fn ops(&self) -> Vec<Op> {
        self.state().ops.clone()
    }

    pub fn op_count(&self) -> usize {
        self.state().ops.len()
    }

    /// Files that were read since the disk was made.
    pub fn reads(&self) -> usize {
        self.state().reads
    }
}

impl State {
    fn spend(&mut self, bytes: usize) -> io::Result<usize> {
        match &mut self.fault {
            Some(Fault::Room(room)) if *room < bytes => {
                let left = *room;
                *room = 0;
                Ok(left)
            }
            Some(Fault::Room(room)) => {
                *room -= bytes;
                Ok(bytes)
            }
            _ => Ok(bytes),
        }
    }

    fn write(&mut self, path: &str, offset: usize, bytes: &[u8]) {
        let op = Op::Write { path: path.to_owned(), offset, bytes: bytes.to_vec() };
        apply(&mut self.files, &op);
        self.ops.push(op);
    }
}

/// What an operation does when nothing goes wrong.
pub fn apply(files: &mut Files, op: &Op) {
    match op {
        Op::Open(path) => {
            files.entry(path.clone()).or_default();
        }
        Op::Write { path, offset, bytes } => {
            let file = files.entry(path.clone()).or_default();
            let end = offset + bytes.len();
            if file.len() < end {
                file.resize(end, 0);
            }
            file[*offset..end].copy_from_slice(bytes);
        }
        Op::Truncate { path, length } => {
            if let Some(file) = files.get_mut(path) {
                file.resize(*length, 0);
            }
        }
        Op::Sync(_) | Op::SyncAll => {}
        Op::Put { path, bytes, .. } => {
            files.insert(path.clone(), bytes.clone());
        }
        Op::Remove(path) => files.retain(|name, _| name != path && !name.starts_with(&format!("{path}/"))),
    }
}

struct Lock(Sim);

impl Drop for Lock {
    fn drop(&mut self) {
        self.0.state().locked = false;
    }
}

impl Storage for Sim {
    fn lock(&self) -> io::Result<Box<dyn Send>> {
        let mut state = self.state();
        if std::mem::replace(&mut state.locked, true) {
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(Lock(self.clone())))
    }

    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        let mut state = self.state();
        state.reads += 1;
        Ok(state.files.get(path).cloned())
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let prefix = format!("{dir}/");
        let mut names: Vec<String> = self
            .state()
            .files
            .keys()
            .filter_map(|path| path.strip_prefix(&prefix)?.split('/').next().map(str::to_owned))
            .collect();
        names.dedup();
        Ok(names)
    }

    fn journal(&self, path: &str) -> io::Result<Box<dyn Journal>> {
        let mut state = self.state();
        let op = Op::Open(path.to_owned());
        apply(&mut state.files, &op);
        state.ops.push(op);
        Ok(Box::new(SimJournal { sim: self.clone(), path: path.to_owned() }))
    }

    fn put(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.put_with(path, bytes, false)
    }

    fn put_durable(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.put_with(path, bytes, true)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state();
        if state.fault == Some(Fault::TileSyncFails) {
            return Err(io::Error::from_raw_os_error(5));
        }
        state.ops.push(Op::SyncAll);
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut state = self.state();
        let op = Op::Remove(path.to_owned());
        apply(&mut state.files, &op);
        state.ops.push(op);
        Ok(())
    }
}

impl Sim {
    fn put_with(&self, path: &str, bytes: &[u8], durable: bool) -> io::Result<()> {
        let mut state = self.state();
        if state.fault == Some(Fault::PutFails) || state.spend(bytes.len())? < bytes.len() {
            return Err(ErrorKind::StorageFull.into());
        }
        let op = Op::Put { path: path.to_owned(), bytes: bytes.to_vec(), durable };
        apply(&mut state.files, &op);
        state.ops.push(op);
        Ok(())
    }
}

struct SimJournal {
    sim: Sim,
    path: String,
}

impl SimJournal {
    fn len(&self) -> usize {
        self.sim.state().files.get(&self.path).map_or(0, Vec::len)
    }
}

impl Journal for SimJournal {
    fn length(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let end = self.len();
        let mut state = self.sim.state();
        let fits = state.spend(bytes.len())?;
        state.write(&self.path, end, &bytes[..fits]);
        if fits < bytes.len() { Err(ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn rewrite(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.sim.state().write(&self.path, usize::try_from(offset).unwrap(), bytes);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.sim.state();
        match &mut state.fault {
            Some(Fault::SyncFails(0)) => return Err(io::Error::from_raw_os_error(5)),
            Some(Fault::SyncHangs(0)) => {
                state.hanging = true;
                self.sim.state.1.notify_all();
                state = self.sim.state.1.wait_while(state, |state| state.hanging).unwrap();
            }
            Some(Fault::SyncFails(left) | Fault::SyncHangs(left)) => *left -= 1,
            _ => {}
        }
        state.ops.push(Op::Sync(self.path.clone()));
        Ok(())
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        let mut state = self.sim.state();
        let op = Op::Truncate { path: self.path.clone(), length: usize::try_from(length).unwrap() };
        apply(&mut state.files, &op);
        state.ops.push(op);
        Ok(())
    }

    fn in_place(&self) -> io::Result<bool> {
        Ok(!self.sim.state().taken_away)
    }
}

pub struct Stopped;

impl Clock for Stopped {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_secs(1_800_000_000)
    }
}

pub fn origin() -> Origin {
    Origin::parse("test.example/log").unwrap()
}

pub fn key() -> LogKey {
    LogKey::from_seed(&[9; 32]).unwrap()
}

pub fn verifier() -> LogVerifier {
    key().verifier(&origin())
}

pub fn record(i: u64) -> Record {
    let nonce = u128::from(i).to_be_bytes();
    // Lengths differ, so that frames fall on all kinds of borders.
    let padding = "x".repeat(usize::try_from(i % 97).unwrap());
    Record::new(Kind::Access, Stopped.now(), nonce).with("n", padding).build().unwrap()
}

pub fn open(sim: &Sim, limits: LogLimits) -> Result<Log, LogError> {
    Log::open_on(Arc::new(sim.clone()), origin(), key(), limits, Arc::new(Stopped), None)
}

/// The entries of a published log that verifies.
pub fn verified_entries(files: &Files) -> Vec<Vec<u8>> {
    let mut entries = Vec::new();
    let read = |path: &str| files.get(path).cloned();
    countersign_audit::verify::verify_entries(&read, &verifier(), |_, entry| entries.push(entry.to_vec()))
        .unwrap();
    entries
}
