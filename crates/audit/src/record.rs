//! One record: canonical JSON (RFC 8785) of at most 65,535 bytes, with a nonce nobody can guess.
//!
//! The envelope is fixed here (`v`, `kind`, `ts`, `nonce`, `dec`); what the other members mean is for those who
//! write and read them. Arguments and personal fields go in as digests.

use std::fmt;

use countersign_proto::b64;
use countersign_proto::id::DecisionId;
use countersign_proto::json::{self, Limits, Object, Value};
use countersign_proto::time::Timestamp;

use crate::tile::MAX_ENTRY_BYTES;
use crate::tree::{Hash, leaf_hash};

/// The version of the envelope.
pub const RECORD_VERSION: i64 = 1;

/// How much a record may hold when it is read back.
const LIMITS: Limits = Limits { max_bytes: MAX_ENTRY_BYTES, max_depth: 64, max_members: 10_000 };

/// What kind of thing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A call was permitted and is about to be forwarded.
    Intent,
    /// What came of an intent.
    Outcome,
    /// A request was refused.
    Denial,
    /// A request was refused with a way to go on.
    Challenge,
    /// An approval was asked, granted, refused or used.
    Approval,
    /// A credential was issued. Must name verified machine evidence; see [`crate::invariants`].
    Issue,
    /// A machine or agent was enrolled.
    Enroll,
    /// Something was revoked, suspended or killed.
    Revoke,
    /// An administrator changed something.
    Admin,
    /// Something that must not happen, did.
    Alarm,
    /// A process opened the log.
    Start,
    /// Someone read something that is worth a record.
    Access,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 12] = [
        Self::Intent,
        Self::Outcome,
        Self::Denial,
        Self::Challenge,
        Self::Approval,
        Self::Issue,
        Self::Enroll,
        Self::Revoke,
        Self::Admin,
        Self::Alarm,
        Self::Start,
        Self::Access,
    ];

    /// The word in the record.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Intent => "intent",
            Self::Outcome => "outcome",
            Self::Denial => "denial",
            Self::Challenge => "challenge",
            Self::Approval => "approval",
            Self::Issue => "issue",
            Self::Enroll => "enroll",
            Self::Revoke => "revoke",
            Self::Admin => "admin",
            Self::Alarm => "alarm",
            Self::Start => "start",
            Self::Access => "access",
        }
    }

    /// The kind of this word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a record cannot be made, or bytes are not a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Longer than 65,535 bytes as canonical JSON.
    #[error("record of {bytes} bytes is longer than 65535")]
    TooLong {
        /// Length it would have.
        bytes: usize,
    },
    /// A member was given twice, or has a name of the envelope.
    #[error("record member {name:?} is given twice")]
    Twice {
        /// The name.
        name: String,
    },
    /// A value has no canonical form, or the record nests too deeply or has too many members.
    #[error("record has a member without a canonical form")]
    NotCanonical,
    /// The bytes are not a record of version 1 in canonical form.
    #[error("not a record")]
    NotARecord,
}

/// A record, finished: its bytes are what is hashed, stored and proved.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    kind: Kind,
    at: Timestamp,
    decision: Option<DecisionId>,
    bytes: Vec<u8>,
    leaf: Hash,
}

impl Record {
    /// Begins a record. `nonce` must be fresh random bytes: leaf hashes are given to third parties, who must
    /// not be able to guess low-entropy records from them.
    #[expect(clippy::new_ret_no_self, reason = "a record is made in steps; `build` ends them")]
    #[must_use]
    pub fn new(kind: Kind, at: Timestamp, nonce: [u8; 16]) -> RecordBuilder {
        RecordBuilder { kind, at, nonce, decision: None, members: Object::new(), wrong: None }
    }

    /// Reads an entry of a log as a record.
    ///
    /// # Errors
    /// [`RecordError::NotARecord`] unless it is a version 1 record in canonical form.
    pub fn parse(bytes: &[u8]) -> Result<(Self, Object), RecordError> {
        let object = json::parse_object(bytes, &LIMITS).map_err(|_| RecordError::NotARecord)?;
        let text = |name: &str| object.get(name).and_then(Value::as_str);
        let envelope = || {
            let kind = Kind::parse(text("kind")?)?;
            let at = Timestamp::from_unix_millis(object.get("ts")?.as_i64()?);
            let decision = match object.get("dec") {
                Some(value) => Some(DecisionId::parse(value.as_str()?).ok()?),
                None => None,
            };
            let nonce = b64::url_decode(text("nonce")?).ok()?;
            let sound = object.get("v")?.as_i64()? == RECORD_VERSION && nonce.len() == 16;
            (sound && object.to_jcs() == bytes).then_some((kind, at, decision))
        };
        let (kind, at, decision) = envelope().ok_or(RecordError::NotARecord)?;
        let record = Self { kind, at, decision, bytes: bytes.to_vec(), leaf: leaf_hash(bytes) };
        Ok((record, object))
    }

    /// What happened.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// When.
    #[must_use]
    pub const fn at(&self) -> Timestamp {
        self.at
    }

    /// The decision it belongs to.
    #[must_use]
    pub const fn decision(&self) -> Option<&DecisionId> {
        self.decision.as_ref()
    }

    /// The canonical bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The hash under which the record stands in the tree.
    #[must_use]
    pub const fn leaf_hash(&self) -> &Hash {
        &self.leaf
    }

    /// The canonical bytes, by value.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Records may hold names of people: only what identifies the record is shown.
impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Record({}, {} bytes, {})", self.kind, self.bytes.len(), self.leaf)
    }
}

/// A record in the making.
#[derive(Clone, Debug)]
pub struct RecordBuilder {
    kind: Kind,
    at: Timestamp,
    nonce: [u8; 16],
    decision: Option<DecisionId>,
    members: Object,
    wrong: Option<RecordError>,
}

impl RecordBuilder {
    /// Names the decision the record belongs to.
    #[must_use]
    pub fn decision(mut self, id: &DecisionId) -> Self {
        self.decision = Some(id.clone());
        self
    }

    /// Adds a member. A name given twice, or one of the envelope's, makes [`Self::build`] fail.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        let reserved = matches!(name, "v" | "kind" | "ts" | "nonce" | "dec");
        if !canonical(&value, LIMITS.max_depth - 1) {
            self.wrong.get_or_insert(RecordError::NotCanonical);
        } else if reserved || self.members.insert(name, value).is_err() {
            self.wrong.get_or_insert(RecordError::Twice { name: name.to_owned() });
        }
        self
    }

    /// Adds a member if there is a value.
    #[must_use]
    pub fn with_some(self, name: &str, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// Finishes the record.
    ///
    /// # Errors
    /// [`RecordError`] if a member was refused or the record is too long.
    pub fn build(self) -> Result<Record, RecordError> {
        let Self { kind, at, nonce, decision, mut members, wrong } = self;
        if let Some(wrong) = wrong {
            return Err(wrong);
        }
        let mut envelope = vec![
            ("v", Value::Int(RECORD_VERSION)),
            ("kind", Value::from(kind.as_str())),
            ("ts", Value::int(at.unix_millis()).map_err(|_| RecordError::NotCanonical)?),
            ("nonce", Value::from(b64::url_encode(&nonce))),
        ];
        if let Some(id) = &decision {
            envelope.push(("dec", Value::from(id.as_str())));
        }
        for (name, value) in envelope {
            // `with` refuses the exact names; a member that differs by case only is refused here.
            members.insert(name, value).map_err(|_| RecordError::Twice { name: name.to_owned() })?;
        }
        let bytes = members.to_jcs();
        if bytes.len() > MAX_ENTRY_BYTES {
            return Err(RecordError::TooLong { bytes: bytes.len() });
        }
        let leaf = leaf_hash(&bytes);
        Ok(Record { kind, at, decision, bytes, leaf })
    }
}

/// Would a strict reader read this value back as it is?
fn canonical(value: &Value, depth: usize) -> bool {
    match value {
        Value::Null | Value::Bool(_) | Value::Text(_) => true,
        Value::Int(int) => Value::int(*int).is_ok(),
        Value::Float(double) => double.is_finite() && double.fract() != 0.0,
        Value::List(list) => depth > 0 && list.iter().all(|item| canonical(item, depth - 1)),
        Value::Object(object) => depth > 0 && object.iter().all(|(_, item)| canonical(item, depth - 1)),
    }
}

#[cfg(test)]
mod tests;
