//! What became of a permitted call: told to the log once, whichever way it ends.
//!
//! Dropping the value before it is finished means that the caller went away: the outcome is `cancelled`,
//! never `completed`.

use std::sync::Arc;

use countersign_audit::{Kind, Record};
use countersign_log::Log;
use countersign_proto::id::{DecisionId, UpstreamId};
use countersign_proto::json::Value;
use countersign_proto::time::{Clock, Entropy};

/// How a forwarded message ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The answer was read to its end.
    Completed,
    /// There was no usable answer, or it broke off.
    Failed,
    /// The permission ended first.
    Ended,
    /// The caller went away.
    Cancelled,
}

impl Ending {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Ended => "ended",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What is needed to write an outcome.
#[derive(Clone)]
pub(crate) struct Outcomes {
    pub(crate) log: Log,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) rng: Arc<dyn Entropy>,
}

pub(crate) struct OutcomeOnDrop {
    open: Option<Open>,
}

struct Open {
    outcomes: Outcomes,
    decision: DecisionId,
    upstream: UpstreamId,
    status: Option<u16>,
    bytes: i64,
    detail: Option<String>,
}

impl OutcomeOnDrop {
    /// The outcome of a decided call.
    pub(crate) fn of(outcomes: Outcomes, decision: DecisionId, upstream: UpstreamId) -> Self {
        Self { open: Some(Open { outcomes, decision, upstream, status: None, bytes: 0, detail: None }) }
    }

    /// For messages whose access record says all there is to say.
    pub(crate) const fn untold() -> Self {
        Self { open: None }
    }

    pub(crate) fn status(&mut self, status: u16) {
        if let Some(open) = &mut self.open {
            open.status = Some(status);
        }
    }

    pub(crate) fn detail(&mut self, detail: String) {
        if let Some(open) = &mut self.open {
            open.detail = Some(detail);
        }
    }

    pub(crate) fn count(&mut self, bytes: usize) {
        if let Some(open) = &mut self.open {
            open.bytes = open.bytes.saturating_add(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }

    pub(crate) fn finish(&mut self, ending: Ending) {
        if let Some(open) = self.open.take() {
            open.tell(ending);
        }
    }
}

impl Drop for OutcomeOnDrop {
    fn drop(&mut self) {
        self.finish(Ending::Cancelled);
    }
}

impl Open {
    fn tell(self, ending: Ending) {
        let mut nonce = [0_u8; 16];
        self.outcomes.rng.fill(&mut nonce);
        let record = Record::new(Kind::Outcome, self.outcomes.clock.now(), nonce)
            .decision(&self.decision)
            .with("outcome", ending.as_str())
            .with("upstream", self.upstream.as_str())
            .with("bytes", Value::int(self.bytes).unwrap_or(Value::Null))
            .with_some("status", self.status.map(|status| Value::from(u32::from(status))))
            .with_some("detail", self.detail)
            .build();
        let told = record
            .map_err(|error| error.to_string())
            .and_then(|record| self.outcomes.log.try_append(record).map_err(|error| error.to_string()));
        if let Err(error) = told {
            // The intent stays without an outcome, which the reconciler reports as unknown.
            metrics::counter!("cs_outcomes_lost_total").increment(1);
            tracing::error!(decision = %self.decision, error, "an outcome could not be recorded");
        }
    }
}
