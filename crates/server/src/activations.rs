//! Credential activations in flight: what we remember between the two steps of an AK's enrollment.
//!
//! Kept in memory on purpose: they live a minute, and after a restart a machine simply starts over with the same
//! enrollment token, which is spent only by the second step.

use std::collections::HashMap;

use countersign_proto::time::Timestamp;
use parking_lot::Mutex;

/// A bounded table of single-use sessions.
pub(crate) struct Sessions<T> {
    limit: usize,
    open: Mutex<HashMap<String, (Timestamp, T)>>,
}

/// The table that [`crate::attest`] keeps.
pub(crate) type Activations = Sessions<crate::attest::enroll::Activation>;

impl<T> Sessions<T> {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, open: Mutex::new(HashMap::new()) }
    }

    /// Remembers `session` until `expires_at`. Answers whether there was room.
    pub(crate) fn open(&self, id: String, session: T, expires_at: Timestamp, now: Timestamp) -> bool {
        let mut open = self.open.lock();
        open.retain(|_, (expires_at, _)| now < *expires_at);
        if open.len() >= self.limit {
            return false;
        }
        open.insert(id, (expires_at, session)).is_none()
    }

    /// Takes the session out, whatever comes of it: a second attempt finds nothing.
    pub(crate) fn take(&self, id: &str, now: Timestamp) -> Option<T> {
        let (expires_at, session) = self.open.lock().remove(id)?;
        (now < expires_at).then_some(session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_taken_once_in_time_and_the_table_is_bounded() {
        let at = Timestamp::from_unix_secs;
        let sessions = Sessions::new(2);
        assert!(sessions.open("a".into(), 1, at(60), at(0)));
        assert!(sessions.open("b".into(), 2, at(60), at(0)));
        assert!(!sessions.open("c".into(), 3, at(60), at(59)));
        assert_eq!(sessions.take("a", at(59)), Some(1));
        assert_eq!(sessions.take("a", at(59)), None);
        assert_eq!(sessions.take("b", at(60)), None);
        assert!(sessions.open("d".into(), 4, at(120), at(60)));
    }
}
