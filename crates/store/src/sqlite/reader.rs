//! The readers: threads with a read-only connection each, so that a slow disk holds up no executor.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::file;
use crate::backend::StoreError;
use crate::seal::Sealer;

/// Reading threads.
const READERS: usize = 3;
/// Most reads that wait at one thread; the next is refused at once.
const QUEUE: usize = 4096;

type Job = Box<dyn FnOnce(&Connection, &Sealer) + Send>;

/// The way to the reading threads, which take turns.
pub struct Readers {
    queues: Vec<mpsc::Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
    next: AtomicUsize,
}

impl Readers {
    /// Opens the connections and starts the threads.
    pub fn start(path: &Path, sealer: &Sealer) -> Result<Self, StoreError> {
        let mut readers = Self { queues: Vec::new(), threads: Vec::new(), next: AtomicUsize::new(0) };
        for number in 0..READERS {
            let connection = file::open_for_reading(path)?;
            let sealer = sealer.clone();
            let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE);
            let thread = std::thread::Builder::new()
                .name(format!("store-reader-{number}"))
                .spawn(move || {
                    while let Some(job) = queue.blocking_recv() {
                        job(&connection, &sealer);
                    }
                })
                .map_err(|error| StoreError::Unavailable(format!("reader thread: {error}")))?;
            readers.queues.push(jobs);
            readers.threads.push(thread);
        }
        Ok(readers)
    }

    /// Runs `read` on one of the threads.
    pub async fn run<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection, &Sealer) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |connection, sealer| drop(answer.send(read(connection, sealer))));
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.queues.len();
        self.queues[turn].try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                StoreError::Unavailable("too many reads are waiting".to_owned())
            }
            mpsc::error::TrySendError::Closed(_) => gone(),
        })?;
        answered.await.unwrap_or_else(|_| Err(gone()))
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.queues.clear();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn gone() -> StoreError {
    StoreError::Unavailable("the readers have stopped".to_owned())
}
