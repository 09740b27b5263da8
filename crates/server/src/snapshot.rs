//! The snapshot publisher: what gateways need to decide, signed, numbered, and leased for ten seconds at a time.
//!
//! The body is rebuilt on every change and its version never repeats, also not after a restart; between changes
//! only the lease is renewed. While the published body lags behind the store, no lease is given: a kill that could not
//! be published stops the gateways instead of being ignored by them. Nor while the store does not take a write, or a
//! change waits for it for long: then nobody could be killed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use countersign_log::LogError;
use countersign_policy::Pdp;
use countersign_proto::b64;
use countersign_proto::digest::Sha256Digest;
use countersign_proto::id::{RunId, TaskId};
use countersign_proto::jose::KeySet;
use countersign_proto::json;
use countersign_proto::snapshot::{
    DEFAULT_LEASE_MILLIS, Lease, PolicyBundle, SignedSnapshot, SnapshotBody, ToolEntry, ToolState,
    UpstreamEntry,
};
use countersign_proto::time::Timestamp;
use countersign_store::StoreError;

use crate::keys::SigningKey;
use crate::listen::{Stopping, stopped};
use crate::plane::{Plane, Trouble};
use crate::rows::{
    AgentRow, MachineRow, PolicyRow, PolicyTextRow, PulseRow, RunRow, SnapshotVersionRow, TaskRow, ToolRow,
};

/// What is out.
#[derive(Default)]
pub(crate) struct Published {
    current: Option<Current>,
}

struct Current {
    version: u64,
    body: Arc<[u8]>,
    digest: Sha256Digest,
    /// Digest of the body with the version left out: tells whether anything changed.
    content: Sha256Digest,
}

impl Published {
    /// The version that is out.
    pub(crate) fn version(&self) -> Option<u64> {
        self.current.as_ref().map(|current| current.version)
    }
}

impl Plane {
    /// Publishes what ended changes changed. If that fails, leases stop until it succeeds.
    pub(crate) async fn publish_changes(&self) {
        let mut published = self.publishing.lock().await;
        self.publish(&mut published).await;
    }

    /// The first body after start, or an error that must stop the start.
    pub(crate) async fn publish_first(&self) -> Result<(), Trouble> {
        let mut published = self.publishing.lock().await;
        self.rebuild(&mut published).await?;
        self.lease(&published)
    }

    async fn publish(&self, published: &mut Published) {
        let outcome = async {
            if self.changes.take_lagging() {
                self.rebuild(published).await?;
            }
            self.could_stop_somebody().await?;
            self.lease(published)
        };
        if let Err(error) = outcome.await {
            self.changes.mark_lagging();
            metrics::counter!("cs_snapshot_failures_total").increment(1);
            tracing::error!(error = &error as &dyn std::error::Error, "snapshot not published");
        }
    }

    /// Builds the body; numbers and keeps it only if it says something new.
    async fn rebuild(&self, published: &mut Published) -> Result<(), Trouble> {
        let mut body = draft(self).await?;
        let content = Sha256Digest::of(&serialize(&body)?);
        if published.current.as_ref().is_some_and(|current| current.content == content) {
            return Ok(());
        }
        body.version = self.next_version().await?;
        let bytes = serialize(&body)?;
        metrics::gauge!("cs_snapshot_version").set(precise(body.version));
        published.current = Some(Current {
            version: body.version,
            digest: Sha256Digest::of(&bytes),
            body: bytes.into(),
            content,
        });
        Ok(())
    }

    /// Whether a kill given now would be recorded and stored. If not, gateways get no lease and stop within seconds:
    /// what cannot be stopped does not go on.
    async fn could_stop_somebody(&self) -> Result<(), Trouble> {
        let patience = Duration::from_millis(self.settings.limits.store_patience_millis);
        let stuck = || StoreError::Unavailable("the store takes too long".into());
        if self.changes.oldest().is_some_and(|waiting| waiting > patience) {
            return Err(stuck().into());
        }
        if !self.log.healthy() {
            return Err(LogError::Unavailable.into());
        }
        match tokio::time::timeout(patience, self.beat()).await {
            // A beat that was given up earlier came through after all: the store takes writes.
            Ok(Ok(()) | Err(StoreError::Conflict { .. } | StoreError::Exists { .. })) => Ok(()),
            Ok(Err(error)) => Err(error.into()),
            Err(_elapsed) => Err(stuck().into()),
        }
    }

    /// A write that takes the way a kill would take.
    async fn beat(&self) -> Result<(), StoreError> {
        let beat = PulseRow { at: self.now() };
        match self.store.load::<PulseRow>(PulseRow::ID).await? {
            Some(last) => self.store.update(&last, &beat).await,
            None => self.store.insert(&beat).await,
        }
    }

    /// INVARIANT: durable before used, so that a version names one body for ever.
    async fn next_version(&self) -> Result<u64, Trouble> {
        let stored = self.store.load::<SnapshotVersionRow>(SnapshotVersionRow::ID).await?;
        let next =
            SnapshotVersionRow { version: stored.as_ref().map_or(0, |stored| stored.value.version) + 1 };
        match &stored {
            Some(stored) => self.store.update(stored, &next).await?,
            None => self.store.insert(&next).await?,
        }
        Ok(next.version)
    }

    fn lease(&self, published: &Published) -> Result<(), Trouble> {
        let Some(current) = &published.current else { return Ok(()) };
        let lease = Lease {
            version: current.version,
            issued_at: self.now(),
            lease_ms: DEFAULT_LEASE_MILLIS,
            body_sha256: current.digest,
            server: self.settings.issuer.clone(),
        };
        let lease = lease.sign(self.keys.snapshot.signer()).map_err(|_| Trouble::Form("lease"))?;
        self.snapshots.send_replace(Some(SignedSnapshot { body: Arc::clone(&current.body), lease }));
        Ok(())
    }
}

/// Renews the lease until told to stop; retries a publication that failed.
pub(crate) async fn keep_leasing(plane: Arc<Plane>, mut stopping: Stopping) {
    let every = Duration::from_millis(plane.settings.limits.renew_lease_millis.max(1));
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stopped(&mut stopping) => return,
            _ = ticks.tick() => {}
        }
        plane.publish_changes().await;
    }
}

/// What the store says now, as a body of version 0.
pub(crate) async fn draft(plane: &Plane) -> Result<SnapshotBody, Trouble> {
    let now = plane.now();
    let mut machines = BTreeMap::new();
    for stored in plane.store.all::<MachineRow>().await? {
        let machine = stored.value.0;
        if let Some(entry) = machine.entry() {
            machines.insert(machine.id, entry);
        }
    }
    let mut agents = BTreeMap::new();
    for stored in plane.store.all::<AgentRow>().await? {
        let agent = stored.value.0;
        if let Some(entry) = agent.entry() {
            agents.insert(agent.id, entry);
        }
    }
    let policies = active_policies(plane).await?;
    let mut body = SnapshotBody {
        version: 0,
        issuer: plane.settings.issuer.clone(),
        trust_domain: plane.settings.trust_domain.clone(),
        token_keys: key_set(&plane.keys.token)?,
        approval_keys: key_set(&plane.keys.approval)?,
        machine_roots: vec![b64::url_encode(plane.ca.certificate_der())],
        machines,
        agents,
        revoked_runs: revoked_runs(plane, now).await?,
        revoked_tasks: revoked_tasks(plane, now).await?,
        policies: PolicyBundle {
            revision: policies.revision,
            cedar: policies.cedar,
            digest: policies.digest,
        },
        upstreams: plane
            .settings
            .upstreams
            .iter()
            .map(|upstream| {
                let entry = UpstreamEntry { resource: upstream.resource.clone(), tools: BTreeMap::new() };
                (upstream.id.clone(), entry)
            })
            .collect(),
    };
    for stored in plane.store.all::<ToolRow>().await? {
        place_tool(&mut body, &stored.value);
    }
    Ok(body)
}

/// Whether gateways could use this body: its policies compile against its agents and tools. Otherwise the lines to show
/// whoever wrote them. Compiling may take seconds, so it has a thread of its own.
pub(crate) async fn compiles(body: SnapshotBody) -> Result<Result<(), Vec<String>>, Trouble> {
    let compiling = tokio::task::spawn_blocking(move || {
        Pdp::compile(&body.policies, &body.agents, &body.upstreams).map(drop).map_err(|error| lines(&error))
    });
    compiling.await.map_err(|_| Trouble::Form("policy"))
}

/// An error and its causes, one line each.
fn lines(error: &dyn std::error::Error) -> Vec<String> {
    let mut lines = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(error) = cause {
        lines.push(error.to_string());
        cause = error.source();
    }
    lines
}

/// Puts one tool where the body has its upstream; tools of upstreams no longer configured are left out.
pub(crate) fn place_tool(body: &mut SnapshotBody, tool: &ToolRow) {
    let Some(upstream) = body.upstreams.get_mut(&tool.upstream) else { return };
    let (definition, state) = match &tool.pinned {
        None => (&tool.seen, ToolState::Proposed),
        Some(pinned) if pinned.digest == tool.seen.digest => (pinned, ToolState::Pinned),
        Some(pinned) => (pinned, ToolState::Changed),
    };
    // A schema that is not strict JSON was refused when it was proposed; what is here was ours.
    let Ok(input_schema) = json::from_serde(&definition.input_schema) else { return };
    upstream.tools.insert(tool.name.clone(), ToolEntry { digest: definition.digest, state, input_schema });
}

/// The policy set in force, text included.
pub(crate) async fn active_policies(plane: &Plane) -> Result<PolicyTextRow, Trouble> {
    let Some(active) = plane.store.load::<PolicyRow>(PolicyRow::ID).await? else {
        return Ok(PolicyTextRow::none());
    };
    policies_of(plane, active.value.revision).await?.ok_or(Trouble::Form("active policies"))
}

/// A policy set that is or was in force.
pub(crate) async fn policies_of(plane: &Plane, revision: u64) -> Result<Option<PolicyTextRow>, Trouble> {
    let text = plane.store.load::<PolicyTextRow>(&PolicyTextRow::key(revision)).await?;
    Ok(text.map(|stored| stored.value))
}

/// How long a revoked run or task must stay in the table: no token outlives this.
const REVOKED_FOR_SECS: i64 = 2 * 3600;

/// The hour a revocation falls into: the index under which it is found while it matters.
pub(crate) fn hour(at: Timestamp) -> String {
    (at.unix_secs() / 3600).to_string()
}

fn hours_that_matter(now: Timestamp) -> impl Iterator<Item = String> {
    (0..=REVOKED_FOR_SECS / 3600).map(move |back| hour(now.plus_secs(-3600 * back)))
}

async fn revoked_runs(plane: &Plane, now: Timestamp) -> Result<BTreeSet<RunId>, Trouble> {
    let mut revoked = BTreeSet::new();
    for hour in hours_that_matter(now) {
        revoked.extend(
            plane.store.find::<RunRow>("revoked_in", &hour).await?.into_iter().map(|run| run.value.0.id),
        );
    }
    Ok(revoked)
}

async fn revoked_tasks(plane: &Plane, now: Timestamp) -> Result<BTreeSet<TaskId>, Trouble> {
    let mut revoked = BTreeSet::new();
    for hour in hours_that_matter(now) {
        revoked.extend(
            plane.store.find::<TaskRow>("revoked_in", &hour).await?.into_iter().map(|task| task.value.0.id),
        );
    }
    Ok(revoked)
}

fn key_set(key: &SigningKey) -> Result<json::Value, Trouble> {
    KeySet::from_keys(vec![(key.kid().to_owned(), key.signer().public_jwk())])
        .map(|keys| keys.to_value())
        .map_err(|_| Trouble::Form("key set"))
}

fn serialize(body: &SnapshotBody) -> Result<Vec<u8>, Trouble> {
    serde_json::to_vec(body).map_err(|_| Trouble::Form("snapshot"))
}

/// A version as a gauge value; versions stay far below 2^53.
#[expect(clippy::cast_precision_loss, reason = "only for display, and versions stay far below 2^53")]
const fn precise(version: u64) -> f64 {
    version as f64
}
