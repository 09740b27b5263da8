//! The one writer: takes what waits, commits it once, answers each with its own result.
//!
//! After an I/O error at commit nobody knows what is on disk, so it stops acknowledging until the store is opened
//! again. A full disk is different: SQLite has rolled back, and writing resumes when there is room.

use std::thread::JoinHandle;

use countersign_proto::time::Timestamp;
use rusqlite::{Connection, ErrorCode};
use tokio::sync::{mpsc, oneshot};

use super::{ops, store_error};
use crate::backend::{Op, StoreError};
use crate::seal::Sealer;

/// Most transactions that wait; the next is refused at once.
const QUEUE: usize = 8192;
/// Most transactions in one commit, so that the first of them does not wait for long.
const BATCH: usize = 256;

enum Job {
    Transact { ops: Vec<Op>, answer: oneshot::Sender<Result<(), StoreError>> },
    Collect { now: Timestamp, answer: oneshot::Sender<Result<(u64, bool), StoreError>> },
}

/// The way to the writer thread.
pub struct Writer {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread that owns `connection`.
    pub fn start(connection: Connection, sealer: Sealer) -> Result<Self, StoreError> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let work = Work { connection, sealer, queue, broken: None };
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || work.run())
            .map_err(|error| StoreError::Unavailable(format!("writer thread: {error}")))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Durable when answered.
    pub async fn transact(&self, ops: Vec<Op>) -> Result<(), StoreError> {
        let (answer, answered) = oneshot::channel();
        self.send(Job::Transact { ops, answer })?;
        answered.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Forgets batch by batch, letting other writers in between.
    pub async fn collect(&self, now: Timestamp) -> Result<u64, StoreError> {
        let mut total = 0;
        loop {
            let (answer, answered) = oneshot::channel();
            self.send(Job::Collect { now, answer })?;
            let (gone, more) = answered.await.unwrap_or_else(|_| Err(self::gone()))?;
            total += gone;
            if !more {
                return Ok(total);
            }
        }
    }

    fn send(&self, job: Job) -> Result<(), StoreError> {
        let jobs = self.jobs.as_ref().ok_or_else(gone)?;
        jobs.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                StoreError::Unavailable("too many writes are waiting".to_owned())
            }
            mpsc::error::TrySendError::Closed(_) => gone(),
        })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Closing the queue lets the thread finish what it accepted and end.
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn gone() -> StoreError {
    StoreError::Unavailable("the writer has stopped".to_owned())
}

struct Work {
    connection: Connection,
    sealer: Sealer,
    queue: mpsc::Receiver<Job>,
    /// Set by an I/O error; then every write is refused with it.
    broken: Option<StoreError>,
}

/// A transaction that ran, and whom to tell.
enum Ran {
    Transact(oneshot::Sender<Result<(), StoreError>>, Result<(), StoreError>),
    Collect(oneshot::Sender<Result<(u64, bool), StoreError>>, Result<(u64, bool), StoreError>),
}

impl Work {
    fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        while let Some(job) = self.queue.blocking_recv() {
            batch.push(job);
            while batch.len() < BATCH
                && let Ok(job) = self.queue.try_recv()
            {
                batch.push(job);
            }
            metrics::histogram!("countersign_store_batch_size").record(batch.len() as f64);
            self.commit(batch.drain(..));
        }
        // A clean end leaves one file: nothing remains in the write-ahead log to lose.
        let truncated =
            self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
        if let Err(error) = truncated {
            tracing::warn!(%error, "store: last checkpoint failed; the write-ahead log is kept");
        }
    }

    fn commit(&mut self, jobs: impl Iterator<Item = Job>) {
        let mut ran = Vec::with_capacity(BATCH);
        let mut failed = self.broken.clone();
        if failed.is_none() {
            failed = self.connection.execute_batch("BEGIN IMMEDIATE").err().map(|error| self.note(&error));
        }
        for job in jobs {
            ran.push(self.run_one(job, &mut failed));
        }
        if failed.is_none() {
            failed = self.connection.execute_batch("COMMIT").err().map(|error| self.note(&error));
        }
        if failed.is_some() && !self.connection.is_autocommit() {
            // Whether this works or not, nothing was committed and nothing is acknowledged.
            let _ = self.connection.execute_batch("ROLLBACK");
        }
        for done in ran {
            // Somebody who stopped waiting loses only the answer.
            match done {
                Ran::Transact(answer, own) => drop(answer.send(whole(&failed, own))),
                Ran::Collect(answer, own) => drop(answer.send(whole(&failed, own))),
            }
        }
    }

    fn run_one(&mut self, job: Job, failed: &mut Option<StoreError>) -> Ran {
        match job {
            Job::Transact { ops, answer } => {
                let own = self.in_savepoint(failed, |work| ops::apply(&work.connection, &work.sealer, &ops));
                Ran::Transact(answer, own)
            }
            Job::Collect { now, answer } => {
                let own = self.in_savepoint(failed, |work| ops::collect(&work.connection, &work.sealer, now));
                Ran::Collect(answer, own)
            }
        }
    }

    /// Runs one transaction so that its failure undoes only itself. `failed` is set if the whole batch is lost.
    fn in_savepoint<T>(
        &mut self,
        failed: &mut Option<StoreError>,
        body: impl FnOnce(&Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if let Some(error) = failed {
            return Err(error.clone());
        }
        if let Err(error) = self.connection.execute_batch("SAVEPOINT one") {
            let error = self.note(&error);
            *failed = Some(error.clone());
            return Err(error);
        }
        let own = body(self);
        if self.connection.is_autocommit() {
            // A full disk or an I/O error made SQLite roll back everything, the savepoints of the others too.
            *failed = Some(own.as_ref().err().cloned().unwrap_or_else(gone));
            return own;
        }
        let end = if own.is_ok() { "RELEASE one" } else { "ROLLBACK TO one; RELEASE one" };
        if let Err(error) = self.connection.execute_batch(end) {
            *failed = Some(self.note(&error));
        }
        own
    }

    /// Takes note of an error of the file: after an I/O error it is over until the store is opened again.
    fn note(&mut self, error: &rusqlite::Error) -> StoreError {
        let seen = store_error(error);
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                tracing::error!(%error, "store: write refused");
            }
            _ => {
                tracing::error!(%error, "store: write failed; no more writes until it is opened again");
                self.broken = Some(seen.clone());
            }
        }
        seen
    }
}

/// What one asker hears: the batch's failure if it was lost, else their own result.
fn whole<T>(failed: &Option<StoreError>, own: Result<T, StoreError>) -> Result<T, StoreError> {
    match failed {
        Some(error) => Err(error.clone()),
        None => own,
    }
}
