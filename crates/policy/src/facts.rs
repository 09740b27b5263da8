//! What a record says about a request: only what was established, only as names and digests.
//!
//! No argument values, no tokens, no keys: arguments and the token are there as digests. Not here: the verdict.

use countersign_audit::RecordBuilder;
use countersign_proto::call::Call;
use countersign_proto::digest::Sha256Digest;
use countersign_proto::id::{ApprovalId, UpstreamId};
use countersign_proto::json::{Object, Value};

use crate::situation::Situation;

mod factors;

pub(crate) use factors::proof_kind;

/// The most policy names one record lists.
const MAX_NAMES: usize = 64;
/// The longest detail, in characters.
const MAX_DETAIL_CHARS: usize = 200;

/// What is established so far about a request.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    members: Vec<(&'static str, Value)>,
}

impl Facts {
    /// The call was parsed.
    #[must_use]
    pub fn call(self, call: &Call) -> Self {
        self.digested_call(call, &call.digest())
    }

    /// As [`Self::call`] for those who need its digest anyway.
    pub(crate) fn digested_call(self, call: &Call, digest: &Sha256Digest) -> Self {
        self.upstream(&call.upstream)
            .with("tool", call.tool.as_str())
            .with("args", Sha256Digest::of(&call.arguments.to_jcs()).b64())
            .with("call", digest.b64())
    }

    /// The upstream is known.
    #[must_use]
    pub fn upstream(self, upstream: &UpstreamId) -> Self {
        self.with("upstream", upstream.as_str())
    }

    /// The approval the request was presented with and which was genuine.
    #[must_use]
    pub fn approval(self, id: &ApprovalId) -> Self {
        self.with("approval", id.as_str())
    }

    /// More for whoever reads the log: an error with its causes. Cut to 200 characters; never a secret.
    #[must_use]
    pub fn detail(self, detail: &str) -> Self {
        self.with("detail", detail.chars().take(MAX_DETAIL_CHARS).collect::<String>())
    }

    /// A detail where there is one.
    pub(crate) fn explained(self, detail: Option<String>) -> Self {
        match detail {
            Some(detail) => self.detail(&detail),
            None => self,
        }
    }

    /// This refusal is also an alarm, of this kind (`theft`: two genuine proofs that do not belong together).
    #[must_use]
    pub fn alarm(self, what: &'static str) -> Self {
        self.with("alarm", what)
    }

    /// Which policies were in force.
    pub(crate) fn policy(self, revision: u64, digest: &Sha256Digest) -> Self {
        let facts = object([
            ("revision", int(i64::try_from(revision).unwrap_or(i64::MAX))),
            ("digest", digest.b64().into()),
        ]);
        self.with("policy", facts)
    }

    /// The state in which policy was asked.
    pub(crate) fn situation(self, situation: &Situation) -> Self {
        self.with("level", situation.level.short()).with("attested_age", int(situation.attested_age_secs))
    }

    /// The policies that decided.
    pub(crate) fn determining(self, names: &[String]) -> Self {
        self.with("policies", listed(names))
    }

    /// The policies that could not be evaluated.
    pub(crate) fn errors(self, names: &[String]) -> Self {
        if names.is_empty() { self } else { self.with("errors", listed(names)) }
    }

    fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        // The first to establish something is the one that counts; a record has each member once.
        if self.members.iter().all(|(known, _)| *known != name) {
            self.members.push((name, value.into()));
        }
        self
    }

    pub(crate) fn write(self, record: RecordBuilder) -> RecordBuilder {
        self.members.into_iter().fold(record, |record, (name, value)| record.with(name, value))
    }
}

fn object<const N: usize>(members: [(&str, Value); N]) -> Value {
    let mut object = Object::new();
    for (name, value) in members {
        // Each list above names every member once, so none is refused.
        let _ = object.insert(name, value);
    }
    Value::Object(object)
}

/// An integer, or its text where JSON integers end.
fn int(value: i64) -> Value {
    Value::int(value).unwrap_or_else(|_| Value::Text(value.to_string()))
}

fn listed(names: &[String]) -> Vec<Value> {
    names.iter().take(MAX_NAMES).map(|name| Value::from(name.as_str())).collect()
}
