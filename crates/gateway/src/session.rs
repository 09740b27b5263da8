//! Legacy MCP sessions: our own names for them, each usable only by the run that opened it.
//!
//! An upstream's session id never leaves the gateway and a caller's value never goes upstream. Unknown,
//! foreign and forgotten sessions look the same: there is no such session.

use std::collections::HashMap;
use std::sync::Arc;

use countersign_proto::id::{AgentId, RunId, UpstreamId};
use countersign_proto::time::{Entropy, Timestamp, random_id};
use http::HeaderValue;
use parking_lot::Mutex;

const PREFIX: &str = "mcps_";
/// Sessions of one run at one upstream; more are a client that forgets to end them.
const PER_OWNER: usize = 64;

/// Who a session belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) agent: AgentId,
    pub(crate) run: RunId,
    pub(crate) upstream: UpstreamId,
}

pub(crate) struct Sessions {
    open: Mutex<HashMap<String, Session>>,
    capacity: usize,
    idle_secs: i64,
    rng: Arc<dyn Entropy>,
}

struct Session {
    owner: Owner,
    upstream_session: HeaderValue,
    last_used: Timestamp,
}

impl Sessions {
    pub(crate) fn new(capacity: usize, idle_secs: i64, rng: Arc<dyn Entropy>) -> Self {
        Self { open: Mutex::new(HashMap::new()), capacity, idle_secs, rng }
    }

    /// A new name for the upstream's session. `None` if there is no room, also after forgetting idle ones.
    pub(crate) fn open(&self, owner: Owner, upstream_session: HeaderValue, now: Timestamp) -> Option<String> {
        let name = random_id(self.rng.as_ref(), PREFIX);
        let mut open = self.open.lock();
        if open.len() >= self.capacity {
            open.retain(|_, session| now.secs_since(session.last_used) < self.idle_secs);
        }
        let own = open.values().filter(|session| session.owner == owner).count();
        if open.len() >= self.capacity || own >= PER_OWNER {
            return None;
        }
        open.insert(name.clone(), Session { owner, upstream_session, last_used: now });
        Some(name)
    }

    /// The upstream's id of this session, if it exists and belongs to `owner`.
    pub(crate) fn resolve(&self, name: &str, owner: &Owner, now: Timestamp) -> Option<HeaderValue> {
        let mut open = self.open.lock();
        let session = open.get_mut(name)?;
        if session.owner != *owner || now.secs_since(session.last_used) >= self.idle_secs {
            return None;
        }
        session.last_used = now;
        Some(session.upstream_session.clone())
    }

    /// Ends the session, if it exists and belongs to `owner`, and says what the upstream called it.
    pub(crate) fn close(&self, name: &str, owner: &Owner, now: Timestamp) -> Option<HeaderValue> {
        let upstream_session = self.resolve(name, owner, now)?;
        self.open.lock().remove(name);
        Some(upstream_session)
    }

    /// Forgets sessions nobody used for the idle time.
    pub(crate) fn prune(&self, now: Timestamp) {
        self.open.lock().retain(|_, session| now.secs_since(session.last_used) < self.idle_secs);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::*;

    struct Counting(AtomicU8);

    impl Entropy for Counting {
        fn fill(&self, out: &mut [u8]) {
            let number = self.0.fetch_add(1, Ordering::Relaxed);
            out.fill(number);
            out[0] = number >> 5;
        }
    }

    const NOW: Timestamp = Timestamp::from_unix_secs(1_000);

    fn owner(agent: &str, run: &str, upstream: &str) -> Owner {
        Owner {
            agent: AgentId::parse(agent).unwrap(),
            run: RunId::parse(run).unwrap(),
            upstream: UpstreamId::parse(upstream).unwrap(),
        }
    }

    #[test]
    fn a_session_belongs_to_the_run_that_opened_it() {
        let sessions = Sessions::new(2, 60, Arc::new(Counting(AtomicU8::new(0))));
        let ours = owner("a", "run_1", "u");
        let name = sessions.open(ours.clone(), HeaderValue::from_static("inner"), NOW).unwrap();
        assert!(!name.contains("inner"));
        assert_eq!(sessions.resolve(&name, &ours, NOW).unwrap(), "inner");
        for foreign in [owner("b", "run_1", "u"), owner("a", "run_2", "u"), owner("a", "run_1", "v")] {
            assert!(sessions.resolve(&name, &foreign, NOW).is_none());
            assert!(sessions.close(&name, &foreign, NOW).is_none());
        }
        assert!(sessions.resolve("mcps_guess", &ours, NOW).is_none());
        assert!(sessions.close(&name, &ours, NOW).is_some());
        assert!(sessions.resolve(&name, &ours, NOW).is_none());
    }

    #[test]
    fn one_run_cannot_take_all_sessions() {
        let sessions = Sessions::new(1000, 60, Arc::new(Counting(AtomicU8::new(0))));
        let inner = || HeaderValue::from_static("inner");
        let opened =
            (0..100).filter(|_| sessions.open(owner("a", "run_1", "u"), inner(), NOW).is_some()).count();
        assert_eq!(opened, PER_OWNER);
        assert!(sessions.open(owner("b", "run_2", "u"), inner(), NOW).is_some());
    }

    #[test]
    fn idle_sessions_make_room_and_used_ones_do_not() {
        let sessions = Sessions::new(1, 60, Arc::new(Counting(AtomicU8::new(0))));
        let ours = owner("a", "run_1", "u");
        let inner = HeaderValue::from_static("inner");
        let first = sessions.open(ours.clone(), inner.clone(), NOW).unwrap();
        assert!(sessions.open(ours.clone(), inner.clone(), NOW.plus_secs(59)).is_none());
        assert!(sessions.open(ours.clone(), inner, NOW.plus_secs(60)).is_some());
        assert!(sessions.resolve(&first, &ours, NOW.plus_secs(60)).is_none());
    }
}
