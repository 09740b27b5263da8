//! Who is looking: the cookie, sessions of people who logged in, and sealed values that need no memory.
//!
//! Visitors leave nothing behind: their CSRF token and their challenges are seals over their cookie, so opening a
//! page changes nothing and a flood of visitors fills nothing. Only a login makes a [`Session`].

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::{constant_time, hmac};
use countersign_proto::approval::ApprovalObject;
use countersign_proto::b64;
use countersign_proto::digest::Sha256Digest;
use countersign_proto::time::{Entropy, Timestamp, random_id};

use super::port::ConsolePerson;

/// Cookie of everybody. `__Host-` ties it to this origin: no domain, whole path, secure only.
pub const COOKIE: &str = "__Host-countersign";
/// Longest life of a challenge.
pub const CHALLENGE_SECS: i64 = 300;
/// A session ends after so long without a request.
const IDLE_SECS: i64 = 30 * 60;
/// And after so long in any case.
const LIFETIME_SECS: i64 = 8 * 3600;
/// Most sessions at a time; the longest unused gives way.
const MAX_SESSIONS: usize = 10_000;

/// A cookie's value: 130 unpredictable bits, unguessable but no proof of anything by itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Cookie(String);

impl Cookie {
    /// A new one.
    pub fn fresh(rng: &dyn Entropy) -> Self {
        Self(random_id(rng, ""))
    }

    /// From a `Cookie` header; `None` if there is none of ours, or more than one.
    pub fn find(header: &str) -> Option<Self> {
        let mut ours = header.split(';').filter_map(|pair| {
            let (name, value) = pair.trim().split_once('=')?;
            (name == COOKIE).then_some(value)
        });
        let value = ours.next()?;
        let well_formed =
            value.len() == 26 && value.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7'));
        (well_formed && ours.next().is_none()).then(|| Self(value.to_owned()))
    }

    /// The `Set-Cookie` header that gives it.
    pub fn to_header(&self) -> String {
        format!("{COOKIE}={}; Path=/; Secure; HttpOnly; SameSite=Strict", self.0)
    }

    /// The `Set-Cookie` header that takes it back.
    pub fn removal() -> String {
        format!("{COOKIE}=; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=0")
    }

    fn key(&self) -> Sha256Digest {
        Sha256Digest::of(self.0.as_bytes())
    }
}

/// What a challenge was given for; a challenge for one is none for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Logging in.
    Login,
    /// Registering a passkey.
    Register,
}

/// Seals over cookies. The key lives as long as the process: a restart asks people to start over.
pub struct Sealer(hmac::Key);

impl Sealer {
    /// With a key of its own.
    pub fn new(rng: &dyn Entropy) -> Self {
        let mut key = zeroize::Zeroizing::new([0_u8; 32]);
        rng.fill(&mut *key);
        Self(hmac::Key::new(hmac::HMAC_SHA256, &*key))
    }

    /// The CSRF token that goes with a cookie.
    pub fn csrf(&self, cookie: &Cookie) -> String {
        b64::url_encode(self.tag(&[b"csrf", cookie.0.as_bytes()]).as_ref())
    }

    /// Whether `token` goes with the cookie, compared in constant time.
    pub fn csrf_holds(&self, cookie: &Cookie, token: &str) -> bool {
        constant_time::verify_slices_are_equal(self.csrf(cookie).as_bytes(), token.as_bytes()).is_ok()
    }

    /// A challenge for one visitor and purpose: 6 bytes of time, 10 random, 16 of the seal over both.
    pub fn challenge(
        &self,
        cookie: &Cookie,
        purpose: Purpose,
        now: Timestamp,
        rng: &dyn Entropy,
    ) -> [u8; 32] {
        let mut challenge = [0_u8; 32];
        challenge[..6].copy_from_slice(&now.unix_millis().to_be_bytes()[2..]);
        rng.fill(&mut challenge[6..16]);
        let tag = self.challenge_tag(cookie, purpose, &challenge[..16]);
        challenge[16..].copy_from_slice(&tag.as_ref()[..16]);
        challenge
    }

    /// Whether we gave this challenge to this visitor for this purpose, and not too long ago.
    pub fn challenge_holds(
        &self,
        cookie: &Cookie,
        purpose: Purpose,
        challenge: &[u8; 32],
        now: Timestamp,
    ) -> bool {
        let (head, seal) = challenge.split_at(16);
        let tag = self.challenge_tag(cookie, purpose, head);
        let mut millis = [0_u8; 8];
        millis[2..].copy_from_slice(&head[..6]);
        let given_at = Timestamp::from_unix_millis(i64::from_be_bytes(millis));
        constant_time::verify_slices_are_equal(&tag.as_ref()[..16], seal).is_ok()
            && (0..=CHALLENGE_SECS).contains(&now.secs_since(given_at))
    }

    fn challenge_tag(&self, cookie: &Cookie, purpose: Purpose, head: &[u8]) -> hmac::Tag {
        let label: &[u8] = match purpose {
            Purpose::Login => b"challenge/login",
            Purpose::Register => b"challenge/register",
        };
        self.tag(&[label, cookie.0.as_bytes(), head])
    }

    fn tag(&self, parts: &[&[u8]]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        context.sign()
    }
}

/// An approval ceremony under way: what was offered to be signed, to whom, when.
#[derive(Clone, Debug)]
pub struct PendingApproval {
    /// The object.
    pub object: ApprovalObject,
    /// Its hash.
    pub challenge: [u8; 32],
    /// When it was offered.
    pub given_at: Timestamp,
}

/// Somebody who logged in.
struct Session {
    person: ConsolePerson,
    began_at: Timestamp,
    seen_at: Timestamp,
    /// At most one ceremony at a time: a new one forgets the old.
    pending: Option<PendingApproval>,
}

impl Session {
    fn live(&self, now: Timestamp) -> bool {
        // A clock that went back ends sessions rather than prolonging them.
        (0..LIFETIME_SECS).contains(&now.secs_since(self.began_at))
            && now.secs_since(self.seen_at) < IDLE_SECS
    }
}

/// The sessions, in memory: a restart logs everybody out.
#[derive(Default)]
pub struct Sessions(Mutex<HashMap<Sha256Digest, Session>>);

impl Sessions {
    /// Who is behind a cookie, if somebody logged in with it.
    pub fn person(&self, cookie: &Cookie, now: Timestamp) -> Option<ConsolePerson> {
        self.with(cookie, now, |session| session.person.clone())
    }

    /// Begins a session under a cookie that was never used before.
    pub fn begin(&self, person: ConsolePerson, now: Timestamp, rng: &dyn Entropy) -> Cookie {
        let cookie = Cookie::fresh(rng);
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if sessions.len() >= MAX_SESSIONS {
            sessions.retain(|_, session| session.live(now));
        }
        if sessions.len() >= MAX_SESSIONS
            && let Some(oldest) =
                sessions.iter().min_by_key(|(_, session)| session.seen_at).map(|(key, _)| *key)
        {
            sessions.remove(&oldest);
        }
        sessions.insert(cookie.key(), Session { person, began_at: now, seen_at: now, pending: None });
        cookie
    }

    /// Ends the session of a cookie, if there is one.
    pub fn end(&self, cookie: &Cookie) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&cookie.key());
    }

    /// Keeps what was offered to be signed.
    pub fn offer(&self, cookie: &Cookie, pending: PendingApproval, now: Timestamp) {
        self.with(cookie, now, |session| session.pending = Some(pending));
    }

    /// Takes what was offered under the signed challenge. Whatever comes of it, it is not there a second time.
    pub fn take(&self, cookie: &Cookie, challenge: &[u8; 32], now: Timestamp) -> Option<PendingApproval> {
        let pending = self.with(cookie, now, |session| session.pending.take())??;
        let fresh = (0..=CHALLENGE_SECS).contains(&now.secs_since(pending.given_at));
        (fresh && pending.challenge == *challenge).then_some(pending)
    }

    fn with<T>(&self, cookie: &Cookie, now: Timestamp, act: impl FnOnce(&mut Session) -> T) -> Option<T> {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = cookie.key();
        if !sessions.get(&key)?.live(now) {
            sessions.remove(&key);
            return None;
        }
        let session = sessions.get_mut(&key)?;
        session.seen_at = now.max(session.seen_at);
        Some(act(session))
    }
}
