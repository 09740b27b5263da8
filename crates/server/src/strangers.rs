//! Refusals of those who proved nothing: recorded one by one as long as they are few, counted when they are many.
//!
//! Without this bound anybody who can connect could fill the log, and a full log refuses everybody.

use countersign_proto::time::Timestamp;
use parking_lot::Mutex;

use crate::listen::Peer;

/// Records at once, after a quiet time.
const BURST: i64 = 100;
/// How long one record more takes to become free again, in milliseconds.
const EVERY_MILLIS: i64 = 1000;

/// How many records strangers may still cause, and how many they would have caused besides.
#[derive(Debug)]
pub(crate) struct Strangers(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Earlier by one step for each record that is free; never further back than the burst.
    free_from: Timestamp,
    uncounted: u64,
}

impl Default for Strangers {
    fn default() -> Self {
        Self(Mutex::new(State { free_from: Timestamp::from_unix_millis(0), uncounted: 0 }))
    }
}

impl Strangers {
    /// Whether this refusal gets a record of its own; if not, it is counted.
    pub(crate) fn admits(&self, now: Timestamp) -> bool {
        let mut state = self.0.lock();
        let next = state.free_from.max(now.plus_millis(-BURST * EVERY_MILLIS)).plus_millis(EVERY_MILLIS);
        if next > now {
            state.uncounted += 1;
            return false;
        }
        state.free_from = next;
        true
    }

    /// How many refusals have no record; from now on counted anew.
    pub(crate) fn take_uncounted(&self) -> u64 {
        std::mem::take(&mut self.0.lock().uncounted)
    }
}

impl Peer {
    /// Whether nothing about the connection says who is there.
    pub(crate) const fn is_stranger(&self) -> bool {
        match self {
            Self::Anonymous | Self::Loopback => true,
            Self::Certified(_) | Self::Local { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests;
