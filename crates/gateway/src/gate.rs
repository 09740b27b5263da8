//! Everything a walk may reach: one value, shared by all connections, without a single signing key.

use std::collections::HashMap;
use std::sync::Arc;

use countersign_audit::{Kind, Record};
use countersign_identity::VerifiedToken;
use countersign_log::Log;
use countersign_proto::digest::Sha256Digest;
use countersign_proto::id::{DecisionId, UpstreamId};
use countersign_proto::time::{Clock, Entropy, Timestamp, random_id};
use futures_util::future::BoxFuture;
use quick_cache::sync::Cache;

use crate::budget::Budgets;
use crate::config::{GatewayLimits, Origin};
use crate::control::ControlPlane;
use crate::outcome::Outcomes;
use crate::replay::ProofMemory;
use crate::session::Sessions;
use crate::standing::{Bearer, Standings};
use crate::step_up::StepUps;
use crate::tools::{self, Changed, ListError, Seen};
use crate::upstream::Upstream;

/// One gateway's shared state.
pub(crate) struct Gate {
    pub(crate) origin: Origin,
    pub(crate) issuer: String,
    pub(crate) limits: GatewayLimits,
    pub(crate) standings: Arc<Standings>,
    /// Verified tokens by the digest of their text, each with the snapshot version whose keys verified it.
    /// Expiry, audience and revocation are asked every time.
    pub(crate) tokens: Cache<Sha256Digest, (u64, Arc<VerifiedToken>)>,
    pub(crate) proofs: ProofMemory,
    pub(crate) budgets: Arc<Budgets>,
    pub(crate) step_ups: StepUps,
    pub(crate) sessions: Sessions,
    pub(crate) upstreams: HashMap<UpstreamId, Side>,
    pub(crate) control: Arc<dyn ControlPlane>,
    pub(crate) log: Log,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) rng: Arc<dyn Entropy>,
}

/// One upstream and what was seen of it.
pub(crate) struct Side {
    pub(crate) upstream: Upstream,
    pub(crate) seen: Seen,
    pub(crate) metadata_url: String,
}

impl Gate {
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn nonce(&self) -> [u8; 16] {
        let mut nonce = [0_u8; 16];
        self.rng.fill(&mut nonce);
        nonce
    }

    pub(crate) fn decision_id(&self) -> DecisionId {
        #[expect(clippy::expect_used, reason = "the prefix and 26 characters of a-z2-7 are a decision id")]
        DecisionId::parse(&random_id(self.rng.as_ref(), "dec_")).expect("a fresh decision id parses")
    }

    pub(crate) fn outcomes(&self) -> Outcomes {
        Outcomes { log: self.log.clone(), clock: self.clock.clone(), rng: self.rng.clone() }
    }

    /// Ready when whatever let `bearer` through no longer stands, or nobody can say.
    pub(crate) fn ended(&self, bearer: Bearer, also_at_expiry: bool) -> BoxFuture<'static, ()> {
        let (standings, clock) = (self.standings.clone(), self.clock.clone());
        let mut changes = standings.watch();
        Box::pin(async move {
            loop {
                changes.mark_unchanged();
                let now = clock.now();
                let stands =
                    standings.fresh(now).is_some_and(|standing| standing.still_bears(&bearer).is_ok());
                if !stands || (also_at_expiry && now >= bearer.expires_at) || changes.changed().await.is_err()
                {
                    return;
                }
            }
        })
    }

    /// Lists an upstream's tools, proposes what the snapshot does not know, and raises an alarm for changes.
    pub(crate) async fn list_tools(&self, side: &Side) -> Result<(), ListError> {
        let _turn = side.seen.turn.lock().await;
        self.list_in_turn(side).await
    }

    async fn list_in_turn(&self, side: &Side) -> Result<(), ListError> {
        // INVARIANT: the turn ends, whatever the upstream does; calls and the next listing wait for it.
        let listing = tools::list(&side.upstream, self.limits.listing_bytes);
        let (era, tools) = tokio::time::timeout(self.limits.listing_timeout, listing)
            .await
            .map_err(|_| ListError::Timeout)??;
        let held = self.standings.held();
        let entry = held.as_ref().and_then(|standing| standing.upstream(&side.upstream.id));
        let changed = side.seen.replace(era, &tools, entry);
        self.raise_changed(&side.upstream.id, changed).await;
        let unknown = tools.iter().any(|tool| {
            entry
                .and_then(|entry| entry.tools.get(&tool.name))
                .is_none_or(|known| !known.digest.ct_eq(&tool.digest))
        });
        if unknown && let Err(error) = self.control.propose_tools(side.upstream.id.clone(), tools).await {
            tracing::warn!(upstream = %side.upstream.id, %error, "tools could not be proposed");
        }
        Ok(())
    }

    /// Lists once if that was never done, so that no tool is called on the word of the snapshot alone.
    pub(crate) async fn ensure_listed(&self, side: &Side) -> Result<(), ListError> {
        if side.seen.is_listed() {
            return Ok(());
        }
        let waiting = tokio::time::timeout(self.limits.listing_timeout, side.seen.turn.lock());
        let _turn = waiting.await.map_err(|_| ListError::Timeout)?;
        if side.seen.is_listed() { Ok(()) } else { self.list_in_turn(side).await }
    }

    pub(crate) async fn raise_changed(&self, upstream: &UpstreamId, changed: Vec<Changed>) {
        for change in changed {
            let record = Record::new(Kind::Alarm, self.now(), self.nonce())
                .with("alarm", "tool.changed")
                .with("upstream", upstream.as_str())
                .with("tool", change.tool.as_str())
                .with("pinned", change.pinned.b64())
                .with("seen", change.seen.b64());
            self.raise("tool.changed", record).await;
        }
    }

    pub(crate) async fn raise(&self, kind: &'static str, record: countersign_audit::RecordBuilder) {
        metrics::counter!("cs_alarms_total", "kind" => kind).increment(1);
        let recorded = match record.build() {
            Ok(record) => self.log.append(record).await.map(|_receipt| ()).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match recorded {
            Ok(()) => tracing::warn!(kind, "alarm"),
            Err(error) => tracing::error!(kind, error, "alarm that could not be recorded"),
        }
    }
}
