//! The memory of proof ids: a proof of possession is good for one request.
//!
//! Keyed by agent key and `jti`, sharded, bounded, kept for at least the time a proof could be accepted.
//! Forgetting happens by generations, so remembering is constant work. A restart forgets everything, and a clock
//! that jumps ahead makes us forget early; proofs as old as what was forgotten are refused by
//! [`ProofMemory::admit`]. Callers' clocks may be ahead by the accepted skew, so after a restart that means every
//! proof made until the last recorded use and this skew, not just until the start.

use std::collections::HashSet;

use countersign_proto::digest::Sha256Digest;
use countersign_proto::jose::Thumbprint;
use countersign_proto::time::Timestamp;
use parking_lot::Mutex;

const SHARDS: usize = 32;

/// Why a proof is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotAdmitted {
    /// The same agent key used this `jti` before.
    Replayed,
    /// Made before this gateway started, or before what it remembers: whether it was used is not known.
    Forgotten,
    /// More proofs are outstanding than can be remembered.
    MemoryFull,
}

pub(crate) struct ProofMemory {
    shards: Vec<Mutex<Shard>>,
    per_generation: usize,
    window_secs: i64,
}

struct Shard {
    young: Generation,
    old: Generation,
    turned_at: Timestamp,
    /// The second up to which proofs may have been forgotten, so none made until then is new.
    horizon: i64,
}

/// Proofs admitted within one window, and the latest second any of them was made in.
#[derive(Default)]
struct Generation {
    names: HashSet<[u8; 16]>,
    latest: Option<i64>,
}

impl ProofMemory {
    /// A memory that holds a proof for at least `window_secs` after it was first seen, and holds no proof made in or
    /// before the second of `unknown_until`: whatever a gateway before this one may have accepted.
    pub(crate) fn new(
        capacity: usize,
        window_secs: i64,
        started_at: Timestamp,
        unknown_until: Timestamp,
    ) -> Self {
        let shard = || {
            Mutex::new(Shard {
                young: Generation::default(),
                old: Generation::default(),
                turned_at: started_at,
                horizon: unknown_until.unix_secs(),
            })
        };
        Self {
            shards: std::iter::repeat_with(shard).take(SHARDS).collect(),
            per_generation: (capacity / (2 * SHARDS)).max(1),
            window_secs,
        }
    }

    /// Remembers this proof, or says why the request that carries it is refused.
    pub(crate) fn admit(
        &self,
        key: &Thumbprint,
        jti: &str,
        issued_at: Timestamp,
        now: Timestamp,
    ) -> Result<(), NotAdmitted> {
        let name = name_of(key, jti);
        let mut shard = self.shards[usize::from(name[0]) % SHARDS].lock();
        shard.turn(now, self.window_secs);
        // `iat` counts whole seconds, so the horizon's own second is beyond it.
        let made_in = issued_at.unix_secs();
        if made_in <= shard.horizon {
            return Err(NotAdmitted::Forgotten);
        }
        if shard.young.names.contains(&name) || shard.old.names.contains(&name) {
            return Err(NotAdmitted::Replayed);
        }
        if shard.young.names.len() >= self.per_generation {
            return Err(NotAdmitted::MemoryFull);
        }
        shard.young.names.insert(name);
        shard.young.latest = shard.young.latest.max(Some(made_in));
        Ok(())
    }
}

impl Shard {
    // INVARIANT: an id stays for at least one whole window, because only what was already old is dropped; and
    // whatever the clock does, nothing as old as what was dropped is taken for new.
    fn turn(&mut self, now: Timestamp, window_secs: i64) {
        let age = now.secs_since(self.turned_at);
        if age >= window_secs {
            let young = std::mem::take(&mut self.young);
            self.drop_old(young);
            if age >= 2 * window_secs {
                self.drop_old(Generation::default());
            }
            self.turned_at = now;
        }
    }

    fn drop_old(&mut self, next: Generation) {
        let dropped = std::mem::replace(&mut self.old, next);
        self.horizon = self.horizon.max(dropped.latest.unwrap_or(i64::MIN));
    }
}

fn name_of(key: &Thumbprint, jti: &str) -> [u8; 16] {
    let mut message = Vec::with_capacity(32 + jti.len());
    message.extend_from_slice(key.as_bytes());
    message.extend_from_slice(jti.as_bytes());
    let digest = *Sha256Digest::of(&message).as_bytes();
    let mut name = [0_u8; 16];
    name.copy_from_slice(&digest[..16]);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_unix_secs(1_000);

    fn key(byte: u8) -> Thumbprint {
        Thumbprint::from_bytes([byte; 32])
    }

    #[test]
    fn a_proof_is_good_for_one_request_until_it_could_no_longer_be_accepted() {
        let memory = ProofMemory::new(1024, 70, START, START);
        let at = |secs: i64| START.plus_secs(secs);
        assert_eq!(memory.admit(&key(1), "a", at(1), at(1)), Ok(()));
        assert_eq!(memory.admit(&key(1), "a", at(1), at(1)), Err(NotAdmitted::Replayed));
        assert_eq!(memory.admit(&key(2), "a", at(1), at(1)), Ok(()), "another agent may choose the same id");
        assert_eq!(memory.admit(&key(1), "a", at(1), at(70)), Err(NotAdmitted::Replayed));
        assert_eq!(memory.admit(&key(1), "b", at(69), at(69)), Ok(()));
        assert_eq!(memory.admit(&key(1), "b", at(69), at(138)), Err(NotAdmitted::Replayed));
    }

    #[test]
    fn a_restart_opens_no_window() {
        let memory = ProofMemory::new(1024, 70, START, START);
        for age in [0, 1, 30] {
            let issued = START.plus_secs(-age);
            assert_eq!(memory.admit(&key(1), "a", issued, START.plus_secs(1)), Err(NotAdmitted::Forgotten));
        }
    }

    #[test]
    fn a_proof_dated_ahead_is_not_good_again_after_a_restart() {
        let used_until = START.plus_secs(5);
        let memory = ProofMemory::new(1024, 70, START, used_until);
        let at = |secs: i64| START.plus_secs(secs);
        assert_eq!(memory.admit(&key(1), "a", at(5), at(5)), Err(NotAdmitted::Forgotten));
        assert_eq!(memory.admit(&key(1), "a", at(6), at(6)), Ok(()));
    }

    #[test]
    fn a_clock_that_jumps_there_and_back_opens_no_window() {
        let memory = ProofMemory::new(1 << 16, 70, START, START);
        let at = |secs: i64| START.plus_secs(secs);
        assert_eq!(memory.admit(&key(1), "a", at(1), at(1)), Ok(()));
        // Enough of them that every shard sees the jump.
        for n in 0..1000 {
            let _either = memory.admit(&key(2), &n.to_string(), at(3600), at(3600));
        }
        assert_eq!(memory.admit(&key(1), "a", at(1), at(1)), Err(NotAdmitted::Forgotten));
        assert_eq!(
            memory.admit(&key(1), "b", at(2), at(2)),
            Ok(()),
            "what was made later is known to be new"
        );
        assert_eq!(memory.admit(&key(1), "b", at(2), at(2)), Err(NotAdmitted::Replayed));
    }

    #[test]
    fn a_full_memory_refuses_instead_of_forgetting() {
        let memory = ProofMemory::new(1, 70, START, START);
        let now = START.plus_secs(1);
        let results: Vec<_> = (0..200).map(|n| memory.admit(&key(1), &format!("p{n}"), now, now)).collect();
        assert!(results.contains(&Err(NotAdmitted::MemoryFull)));
        let first = results.iter().position(|result| *result == Ok(())).unwrap();
        assert_eq!(memory.admit(&key(1), &format!("p{first}"), now, now), Err(NotAdmitted::Replayed));
    }

    #[test]
    fn of_many_at_once_exactly_one_is_admitted() {
        let memory = ProofMemory::new(1024, 70, START, START);
        let now = START.plus_secs(1);
        let admitted = std::thread::scope(|scope| {
            let tries: Vec<_> =
                (0..8).map(|_| scope.spawn(|| memory.admit(&key(1), "same", now, now).is_ok())).collect();
            tries.into_iter().map(|handle| handle.join().unwrap()).filter(|won| *won).count()
        });
        assert_eq!(admitted, 1);
    }
}
