//! A disk that can stop working, as real ones do.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use countersign_log::storage::{Disk, Journal, Storage};

#[derive(Clone)]
pub struct FailingDisk {
    disk: Arc<Disk>,
    pub broken: Arc<AtomicBool>,
}

impl FailingDisk {
    pub fn new(dir: &Path) -> Self {
        Self { disk: Arc::new(Disk::new(dir).unwrap()), broken: Arc::new(AtomicBool::new(false)) }
    }

    fn works(&self) -> io::Result<()> {
        if self.broken.load(Ordering::SeqCst) { Err(io::Error::other("input/output error")) } else { Ok(()) }
    }
}

struct FailingJournal {
    journal: Box<dyn Journal>,
    disk: FailingDisk,
}

impl Storage for FailingDisk {
    fn lock(&self) -> io::Result<Box<dyn Send>> {
        self.disk.lock()
    }

    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        self.disk.read(path)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn journal(&self, path: &str) -> io::Result<Box<dyn Journal>> {
        Ok(Box::new(FailingJournal { journal: self.disk.journal(path)?, disk: self.clone() }))
    }

    fn put(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.works().and_then(|()| self.disk.put(path, bytes))
    }

    fn put_durable(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.works().and_then(|()| self.disk.put_durable(path, bytes))
    }

    fn sync(&self) -> io::Result<()> {
        self.works().and_then(|()| self.disk.sync())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.disk.remove(path)
    }
}

impl Journal for FailingJournal {
    fn length(&self) -> io::Result<u64> {
        self.journal.length()
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.disk.works()?;
        self.journal.append(bytes)
    }

    fn rewrite(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.works()?;
        self.journal.rewrite(offset, bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.disk.works()?;
        self.journal.sync()
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.journal.truncate(length)
    }

    fn in_place(&self) -> io::Result<bool> {
        self.journal.in_place()
    }
}
