//! Changes that gateways must learn of: which are under way, and whether what is published may lag behind the store.
//!
//! A change that was begun counts as made, whatever became of whoever began it, until the store was looked at again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// What is under way, and whether anything ended since the store was last looked at.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    lagging: AtomicBool,
    under_way: Mutex<UnderWay>,
}

#[derive(Debug, Default)]
struct UnderWay {
    next: u64,
    since: BTreeMap<u64, Instant>,
}

/// One change, from before its commit until after. However it ends, the store is looked at again.
#[derive(Debug)]
pub(crate) struct Change {
    changes: Arc<Changes>,
    number: u64,
}

impl Changes {
    /// Before the commit.
    pub(crate) fn begin(self: &Arc<Self>) -> Change {
        let mut under_way = self.under_way.lock();
        let number = under_way.next;
        under_way.next += 1;
        under_way.since.insert(number, Instant::now());
        drop(under_way);
        Change { changes: Arc::clone(self), number }
    }

    /// How long the oldest change under way has been waiting for the store.
    pub(crate) fn oldest(&self) -> Option<Duration> {
        // Numbers grow with time, so the first is the oldest.
        self.under_way.lock().since.values().next().map(Instant::elapsed)
    }

    /// What is published may not be what is stored.
    pub(crate) fn mark_lagging(&self) {
        self.lagging.store(true, Ordering::SeqCst);
    }

    /// Whether what is published may not be what is stored; the next call tells only of what comes after this one. To
    /// be called before the store is read.
    pub(crate) fn take_lagging(&self) -> bool {
        self.lagging.swap(false, Ordering::SeqCst)
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        self.changes.mark_lagging();
        self.changes.under_way.lock().since.remove(&self.number);
    }
}

#[cfg(test)]
mod tests;
