//! The memory of proof ids: a proof of possession is good for one request.
//!
//! Keyed by agent key and `jti`, sharded, bounded, kept for at least the time a proof could be accepted.
//! Forgetting happens by generations, so remembering is constant work. A restart forgets everything; proofs
//! made before the start are therefore refused by [`ProofMemory::admit`].

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
    /// Made before this gateway started, so whether it was used is not known.
    BeforeStart,
    /// More proofs are outstanding than can be remembered.
    MemoryFull,
}

pub(crate) struct ProofMemory {
    shards: Vec<Mutex<Shard>>,
    per_generation: usize,
    window_secs: i64,
    started_at: Timestamp,
}

struct Shard {
    young: HashSet<[u8; 16]>,
    old: HashSet<[u8; 16]>,
    turned_at: Timestamp,
}

impl ProofMemory {
    /// A memory that holds a proof for at least `window_secs` after it was first seen.
    pub(crate) fn new(capacity: usize, window_secs: i64, started_at: Timestamp) -> Self {
        let shard =
            || Mutex::new(Shard { young: HashSet::new(), old: HashSet::new(), turned_at: started_at });
        Self {
            shards: std::iter::repeat_with(shard).take(SHARDS).collect(),
            per_generation: (capacity / (2 * SHARDS)).max(1),
            window_secs,
            started_at,
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
        // `iat` counts whole seconds: one of the second we started in may have been used before it.
        if issued_at.unix_secs() <= self.started_at.unix_secs() {
            return Err(NotAdmitted::BeforeStart);
        }
        let name = name_of(key, jti);
        let mut shard = self.shards[usize::from(name[0]) % SHARDS].lock();
        shard.turn(now, self.window_secs);
        if shard.young.contains(&name) || shard.old.contains(&name) {
            return Err(NotAdmitted::Replayed);
        }
        if shard.young.len() >= self.per_generation {
            return Err(NotAdmitted::MemoryFull);
        }
        shard.young.insert(name);
        Ok(())
    }
}

impl Shard {
    // INVARIANT: an id stays for at least one whole window, because only what was already old is dropped.
    fn turn(&mut self, now: Timestamp, window_secs: i64) {
        let age = now.secs_since(self.turned_at);
        if age >= window_secs {
            self.old = std::mem::take(&mut self.young);
            if age >= 2 * window_secs {
                self.old.clear();
            }
            self.turned_at = now;
        }
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
        let memory = ProofMemory::new(1024, 70, START);
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
        let memory = ProofMemory::new(1024, 70, START);
        for age in [0, 1, 30] {
            let issued = START.plus_secs(-age);
            assert_eq!(memory.admit(&key(1), "a", issued, START.plus_secs(1)), Err(NotAdmitted::BeforeStart));
        }
    }

    #[test]
    fn a_full_memory_refuses_instead_of_forgetting() {
        let memory = ProofMemory::new(1, 70, START);
        let now = START.plus_secs(1);
        let results: Vec<_> = (0..200).map(|n| memory.admit(&key(1), &format!("p{n}"), now, now)).collect();
        assert!(results.contains(&Err(NotAdmitted::MemoryFull)));
        let first = results.iter().position(|result| *result == Ok(())).unwrap();
        assert_eq!(memory.admit(&key(1), &format!("p{first}"), now, now), Err(NotAdmitted::Replayed));
    }

    #[test]
    fn of_many_at_once_exactly_one_is_admitted() {
        let memory = ProofMemory::new(1024, 70, START);
        let now = START.plus_secs(1);
        let admitted = std::thread::scope(|scope| {
            let tries: Vec<_> =
                (0..8).map(|_| scope.spawn(|| memory.admit(&key(1), "same", now, now).is_ok())).collect();
            tries.into_iter().map(|handle| handle.join().unwrap()).filter(|won| *won).count()
        });
        assert_eq!(admitted, 1);
    }
}
