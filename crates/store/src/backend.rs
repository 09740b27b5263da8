//! The contract of a back end: rows with versions, lookups, and transactions that are durable when answered.
//!
//! Object-safe, so that one binary can hold several. It says nothing of types; those are in [`crate::aggregate`].

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use countersign_proto::time::Timestamp;

/// A boxed future, so that [`Backend`] stays object-safe.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Longest identifier, index name or index value, in bytes.
pub const MAX_KEY_BYTES: usize = 1024;
/// Largest body of one row, in bytes: a policy set of 8 MiB as JSON, where every byte may need an escape.
pub const MAX_BODY_BYTES: usize = 17 << 20;
/// Most operations in one transaction.
pub const MAX_OPS: usize = 4096;
/// Most ids one [`Backend::find`] answers. More are refused, never cut off: who looks for all must not miss one.
pub const MAX_FOUND: usize = 100_000;
/// Most rows one [`Backend::list`] answers.
pub const MAX_PAGE: usize = 1000;

/// One stored row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// 1 at insertion, one more with each update.
    pub version: u64,
    /// What was stored, authenticated.
    pub body: Vec<u8>,
}

/// Which part of a list is wanted, in byte order of the ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Only ids after this one; `None` starts at the beginning.
    pub after: Option<String>,
    /// At most this many; capped at [`MAX_PAGE`].
    pub limit: usize,
}

/// The namespaces of single-use things. A name consumed in one is untouched in the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConsumeKind {
    /// ACME replay nonce (RFC 8555 §6.5).
    AcmeNonce,
    /// Nonce for fresh machine evidence.
    AttestationChallenge,
    /// `jti` of a client attestation proof of possession.
    PopJti,
    /// `jti` of a DPoP proof (RFC 9449 §11.1).
    DpopJti,
    /// `jti` of a client assertion (RFC 7523 §3).
    AssertionJti,
    /// Enrollment (join) token.
    EnrollmentToken,
    /// WebAuthn challenge (Web Authentication Level 3 §13.4.3).
    WebauthnChallenge,
    /// An approval spent on its one call.
    Approval,
    /// External account binding key (RFC 8555 §7.3.4).
    EabKey,
    /// Invitation of a person.
    Invite,
    /// Authorization code (RFC 6749 §4.1.2).
    AuthorizationCode,
    /// Session of credential activation.
    ActivationSession,
}

impl ConsumeKind {
    /// The stored name. Never changed once released: it separates the namespaces on disk.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AcmeNonce => "acme-nonce",
            Self::AttestationChallenge => "attestation-challenge",
            Self::PopJti => "pop-jti",
            Self::DpopJti => "dpop-jti",
            Self::AssertionJti => "assertion-jti",
            Self::EnrollmentToken => "enrollment-token",
            Self::WebauthnChallenge => "webauthn-challenge",
            Self::Approval => "approval",
            Self::EabKey => "eab-key",
            Self::Invite => "invite",
            Self::AuthorizationCode => "authorization-code",
            Self::ActivationSession => "activation-session",
        }
    }
}

impl fmt::Display for ConsumeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One step of a transaction. Steps run in order and see the ones before them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Stores a new row as version 1; [`StoreError::Exists`] if the id or a unique value is taken.
    Insert {
        /// Namespace of the row.
        kind: String,
        /// Name within the kind.
        id: String,
        /// What to store.
        body: Vec<u8>,
        /// `(index, value)` pairs under which [`Backend::find`] finds the row.
        indexes: Vec<(String, String)>,
        /// Pairs that may belong to one row of the kind only; found like the others.
        unique: Vec<(String, String)>,
    },
    /// Replaces a row, its indexes too; [`StoreError::Conflict`] unless it has `expected_version`.
    Update {
        /// Namespace of the row.
        kind: String,
        /// Name within the kind.
        id: String,
        /// The version that was read.
        expected_version: u64,
        /// What to store.
        body: Vec<u8>,
        /// See [`Op::Insert`].
        indexes: Vec<(String, String)>,
        /// See [`Op::Insert`].
        unique: Vec<(String, String)>,
    },
    /// Removes a row; [`StoreError::Conflict`] unless it has `expected_version`.
    Delete {
        /// Namespace of the row.
        kind: String,
        /// Name within the kind.
        id: String,
        /// The version that was read.
        expected_version: u64,
    },
    /// Changes nothing, but the transaction stands only if the row still has this version.
    Expect {
        /// Namespace of the row.
        kind: String,
        /// Name within the kind.
        id: String,
        /// The version that was read; 0 means that there was none.
        version: u64,
    },
    /// Uses up a single-use name; [`StoreError::Consumed`] if it was used before.
    Consume {
        /// Its namespace.
        kind: ConsumeKind,
        /// The name (a nonce, a `jti`, the digest of a token …).
        id: String,
        /// Remembered at least until then: the expiry of the thing plus every tolerated skew.
        keep_until: Timestamp,
    },
}

/// Why nothing was stored or read. After an `Err` from [`Backend::transact`] nothing of it took effect, with one
/// exception that no store can avoid: after [`StoreError::Unavailable`] the outcome may be unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The id (`index` is `None`) or the unique value in `index` is taken.
    #[error("{kind} {id:?} exists already")]
    Exists {
        /// Kind of the row.
        kind: String,
        /// The id that was to be stored.
        id: String,
        /// The unique index whose value is taken by another row.
        index: Option<String>,
    },
    /// The row changed since it was read.
    #[error("{kind} {id:?} was changed in the meantime")]
    Conflict {
        /// Kind of the row.
        kind: String,
        /// Its id.
        id: String,
    },
    /// The single-use name was used before.
    #[error("this {kind} was used before")]
    Consumed {
        /// Its namespace.
        kind: ConsumeKind,
    },
    /// There is no such row to update or delete.
    #[error("no such row")]
    NotFound,
    /// A limit named in [`crate::backend`] is exceeded.
    #[error("over the limit: {0}")]
    TooLarge(&'static str),
    /// The store cannot answer now; the outcome of a write may be unknown.
    #[error("store unavailable: {0}")]
    Unavailable(String),
    /// What is stored is not what was stored: a failed check of structure or authenticity.
    #[error("store corrupt: {0}")]
    Corrupt(String),
    /// Another process holds the store.
    #[error("store in use by another process: {0}")]
    InUse(String),
    /// The store was written by a newer version; this one does not touch it.
    #[error("store has schema version {found}, this program knows up to {known}")]
    Newer {
        /// Version in the file.
        found: i64,
        /// Newest known here.
        known: i64,
    },
    /// The authentication key is not the one the store was made with.
    #[error("the store belongs to another authentication key")]
    WrongKey,
}

/// A place where rows live. Every implementation passes [`crate::conformance::suite`].
pub trait Backend: Send + Sync {
    /// The row, or `None`.
    fn get<'a>(&'a self, kind: &'a str, id: &'a str) -> BoxFuture<'a, Result<Option<Row>, StoreError>>;

    /// Rows of a kind in byte order of their ids.
    fn list<'a>(
        &'a self,
        kind: &'a str,
        page: &'a Page,
    ) -> BoxFuture<'a, Result<Vec<(String, Row)>, StoreError>>;

    /// Ids of the rows of `kind` with `(index, value)`, plain or unique, in byte order: all of them, or
    /// [`StoreError::TooLarge`] beyond [`MAX_FOUND`].
    fn find<'a>(
        &'a self,
        kind: &'a str,
        index: &'a str,
        value: &'a str,
    ) -> BoxFuture<'a, Result<Vec<String>, StoreError>>;

    /// All of it or nothing of it, on disk before the answer.
    fn transact(&self, ops: Vec<Op>) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Forgets single-use names whose `keep_until` is before `now`; answers how many.
    ///
    /// Never sooner, and the horizon is kept: a later [`Op::Consume`] with `keep_until` before a `now` given here
    /// is refused as [`StoreError::Unavailable`], because its first use may have been forgotten. So a clock that
    /// jumps ahead and comes back opens no replay window.
    fn collect(&self, now: Timestamp) -> BoxFuture<'_, Result<u64, StoreError>>;
}

/// Refuses transactions beyond the named limits, the same for every back end.
pub(crate) fn check_limits(ops: &[Op]) -> Result<(), StoreError> {
    if ops.len() > MAX_OPS {
        return Err(StoreError::TooLarge("operations in a transaction"));
    }
    for op in ops {
        match op {
            Op::Insert { kind, id, body, indexes, unique }
            | Op::Update { kind, id, body, indexes, unique, expected_version: _ } => {
                check_key(kind)?;
                check_key(id)?;
                if body.len() > MAX_BODY_BYTES {
                    return Err(StoreError::TooLarge("body"));
                }
                for (name, value) in indexes.iter().chain(unique) {
                    check_key(name)?;
                    check_key(value)?;
                }
            }
            Op::Delete { kind, id, expected_version: _ } | Op::Expect { kind, id, version: _ } => {
                check_key(kind)?;
                check_key(id)?;
            }
            Op::Consume { kind: _, id, keep_until: _ } => check_key(id)?,
        }
    }
    Ok(())
}

fn check_key(key: &str) -> Result<(), StoreError> {
    if key.len() > MAX_KEY_BYTES { Err(StoreError::TooLarge("key")) } else { Ok(()) }
}
