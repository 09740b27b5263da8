//! The check of a large store in the background: what would hold up a start for seconds is read while others work.
//!
//! Nothing unchecked is ever believed meanwhile: every read checks the seals of what it answers. The scrub finds what
//! nobody reads, and then the whole store stops.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use rusqlite::InterruptHandle;

use super::file;
use crate::backend::StoreError;
use crate::seal::Sealer;

/// What the scrub found wrong, if anything; shared with whoever reads and writes.
#[derive(Clone, Debug, Default)]
pub struct Damage(Arc<OnceLock<StoreError>>);

impl Damage {
    /// # Errors
    /// What was found, from then on.
    pub fn none(&self) -> Result<(), StoreError> {
        self.0.get().map_or(Ok(()), |damage| Err(damage.clone()))
    }
}

/// A running scrub. Dropping it ends it.
pub struct Scrub {
    stop: Arc<AtomicBool>,
    interrupt: InterruptHandle,
    thread: Option<JoinHandle<()>>,
}

impl Scrub {
    /// Starts to read everything there is, once.
    pub fn start(path: &Path, sealer: Sealer, damage: Damage) -> Result<Self, StoreError> {
        let connection = file::open_for_reading(path)?;
        let interrupt = connection.get_interrupt_handle();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("store-scrub".to_owned())
            .spawn(move || {
                let go_on = || !stopped.load(Ordering::Acquire);
                match file::verify_contents(&connection, &sealer, &go_on) {
                    Ok(()) => tracing::info!("store: every row is as it was written"),
                    Err(error) if go_on() => {
                        metrics::counter!("cs_alarms_total", "kind" => "store.corrupt").increment(1);
                        tracing::error!(%error, "store: the check failed; nothing is read or written any more");
                        let _ = damage.0.set(error);
                    }
                    Err(_) => {}
                }
            })
            .map_err(|error| StoreError::Unavailable(format!("scrub thread: {error}")))?;
        Ok(Self { stop, interrupt, thread: Some(thread) })
    }

    /// Waits until everything was read.
    #[cfg(test)]
    pub fn finish(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Scrub {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.interrupt.interrupt();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
