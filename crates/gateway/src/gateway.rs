//! Starting and stopping: listeners, background work, and nothing that decides.
//!
//! In the background a gateway follows its snapshots, lists its upstreams' tools, forgets what is over and
//! keeps the count of budgets short to read. None of it is on a request's path.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use countersign_audit::{Kind, Record};
use countersign_log::{Log, LogError};
use countersign_proto::b64;
use countersign_proto::id::UpstreamId;
use countersign_proto::json::Value;
use countersign_proto::snapshot::SignedSnapshot;
use countersign_proto::time::{Clock, Entropy, Timestamp};
use quick_cache::sync::Cache;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::budget::{self, Budgets, FoldError};
use crate::config::{ConfigError, GatewayConfig, ServerIdentity};
use crate::connection::{self, PerMachine, Strangers};
use crate::control::ControlPlane;
use crate::gate::{Gate, Side};
use crate::replay::ProofMemory;
use crate::session::Sessions;
use crate::standing::{Accepted, Standings};
use crate::step_up::StepUps;
use crate::tls;
use crate::tools::Seen;
use crate::upstream::Upstream;

/// How often lapses are looked for; a kill by silence takes effect within the lease and this.
const TICK: Duration = Duration::from_millis(250);
/// How often what is over is forgotten and the budgets' file is brought up to date.
const HOUSEKEEPING: Duration = Duration::from_secs(60);
/// How soon an upstream that cannot be listed is tried again.
const LIST_RETRY: Duration = Duration::from_secs(2);
/// The least time between two listings that news asked for.
const LIST_PACE: Duration = Duration::from_millis(500);
/// How long a stop waits for open requests.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// Pause after the listener itself failed (no descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The policy enforcement point.
pub struct Gateway;

/// A gateway at work. Dropping it without [`RunningGateway::shutdown`] stops it less politely.
pub struct RunningGateway {
    local_addr: SocketAddr,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
    background: Vec<JoinHandle<()>>,
    gate: Arc<Gate>,
}

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The listener cannot be used.
    #[error("the listener cannot be used")]
    Listener(#[source] std::io::Error),
    /// The log cannot be written or read back.
    #[error("the log cannot be used")]
    Log(#[from] LogError),
    /// The budgets cannot be counted from the log.
    #[error("the budgets cannot be counted from the log")]
    Budgets(#[from] FoldError),
}

impl Gateway {
    /// Starts serving. Requests are refused until the first snapshot is verified.
    ///
    /// # Errors
    /// [`StartError`] if the configuration, the listener or the log cannot be used.
    pub async fn start(
        config: GatewayConfig,
        control: Arc<dyn ControlPlane>,
        log: Log,
        clock: Arc<dyn Clock>,
        rng: Arc<dyn Entropy>,
    ) -> Result<RunningGateway, StartError> {
        let limits = config.limits.clone();
        let mut identity = config.server_identity;
        let shown = identity.borrow_and_update().clone();
        let tls = Arc::new(ArcSwap::new(tls::server_config(&shown, &config.machine_roots)?));
        config.listener.set_nonblocking(true).map_err(StartError::Listener)?;
        let listener = TcpListener::from_std(config.listener).map_err(StartError::Listener)?;
        let local_addr = listener.local_addr().map_err(StartError::Listener)?;

        let mut upstreams: HashMap<UpstreamId, Side> = HashMap::new();
        for upstream in config.upstreams {
            let metadata_url = config.public_origin.metadata_url(&upstream.id);
            let upstream = Upstream::new(upstream, &limits)?;
            let id = upstream.id.clone();
            let side = Side { upstream, seen: Seen::new(), metadata_url };
            if upstreams.insert(id.clone(), side).is_some() {
                return Err(ConfigError::UpstreamTwice(id).into());
            }
        }

        log.flush().await?;
        let now = clock.now();
        let budgets =
            Budgets::fold(&config.state_dir, log.published(), limits.counted_tasks, now, |index| {
                entries(&log, index)
            })?;
        let proofs_until = proofs_until(&log, now, limits.clock_skew_secs)?;
        let memory_secs = limits.proof_max_age_secs + 2 * limits.clock_skew_secs;
        let gate = Arc::new(Gate {
            origin: config.public_origin,
            issuer: config.issuer.clone(),
            standings: Arc::new(Standings::new(config.snapshot_key, config.issuer)),
            tokens: Cache::new(limits.cached_tokens),
            proofs: ProofMemory::new(limits.remembered_proofs, memory_secs, now, proofs_until),
            budgets,
            step_ups: StepUps::new(limits.cached_tokens),
            sessions: Sessions::new(limits.sessions, limits.session_idle_secs, rng.clone()),
            upstreams,
            control,
            log,
            clock,
            rng,
            limits,
        });

        let (stop, stopping) = watch::channel(false);
        let follower =
            Follower { gate: gate.clone(), tls: tls.clone(), identity, roots: config.machine_roots };
        let mut background =
            vec![tokio::spawn(follower.follow()), tokio::spawn(housekeep(gate.clone(), config.state_dir))];
        for id in gate.upstreams.keys().cloned().collect::<Vec<_>>() {
            background.push(tokio::spawn(keep_listed(gate.clone(), id)));
        }
        let serving = tokio::spawn(accept(gate.clone(), listener, tls, stopping));
        Ok(RunningGateway { local_addr, stop, serving, background, gate })
    }
}

impl RunningGateway {
    /// Where it listens.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Whether a request would be decided now: a snapshot within its lease and a log that can be written.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.gate.standings.fresh(self.gate.now()).is_some() && self.gate.log.healthy()
    }

    /// The version of the snapshot in force, if its lease lasts.
    #[must_use]
    pub fn snapshot_version(&self) -> Option<u64> {
        self.gate.standings.fresh(self.gate.now()).map(|standing| standing.body.version)
    }

    /// Waits until a snapshot of at least this version decides.
    pub async fn until_snapshot(&self, version: u64) {
        let mut changes = self.gate.standings.watch();
        loop {
            changes.mark_unchanged();
            let held = self.gate.standings.held();
            if held.is_some_and(|standing| standing.body.version >= version)
                || changes.changed().await.is_err()
            {
                return;
            }
        }
    }

    /// Whether the tools of this upstream have been listed since the start.
    #[must_use]
    pub fn has_listed(&self, upstream: &UpstreamId) -> bool {
        self.gate.upstreams.get(upstream).is_some_and(|side| side.seen.is_listed())
    }

    /// Stops accepting, lets open requests finish for a moment, and ends.
    pub async fn shutdown(mut self) {
        let _was = self.stop.send_replace(true);
        let stopped = tokio::time::timeout(STOP_WITHIN, &mut self.serving).await;
        if stopped.is_err() {
            tracing::warn!("requests were still open when the gateway stopped");
        }
    }
}

impl Drop for RunningGateway {
    fn drop(&mut self) {
        self.serving.abort();
        for task in &self.background {
            task.abort();
        }
    }
}

async fn accept(
    gate: Arc<Gate>,
    listener: TcpListener,
    tls: Arc<ArcSwap<ServerConfig>>,
    mut stopping: watch::Receiver<bool>,
) {
    let capacity = gate.limits.connections;
    let room = Arc::new(Semaphore::new(capacity));
    let (per_machine, strangers) = (PerMachine::default(), Strangers::default());
    loop {
        // With all places taken, callers wait in the kernel's queue instead of in our memory.
        let arriving = async {
            let place = room.clone().acquire_owned().await.ok()?;
            Some((place, listener.accept().await))
        };
        let (place, accepted) = tokio::select! {
            () = connection::stopped(&mut stopping) => break,
            arrived = arriving => match arrived {
                Some(arrived) => arrived,
                None => break,
            },
        };
        match accepted {
            Ok((tcp, _peer)) => {
                let acceptor = TlsAcceptor::from(tls.load_full());
                let serving = connection::serve(
                    gate.clone(),
                    acceptor,
                    tcp,
                    per_machine.clone(),
                    strangers.clone(),
                    stopping.clone(),
                );
                tokio::spawn(async move {
                    serving.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::error!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    // Every open connection holds a place; all of them free means that all are done.
    let _done = room.acquire_many(u32::try_from(capacity).unwrap_or(u32::MAX)).await;
}

/// Follows the control plane's snapshots.
struct Follower {
    gate: Arc<Gate>,
    tls: Arc<ArcSwap<ServerConfig>>,
    identity: watch::Receiver<Arc<ServerIdentity>>,
    roots: Vec<CertificateDer<'static>>,
}

impl Follower {
    async fn follow(mut self) {
        let mut snapshots = self.gate.control.snapshots();
        snapshots.mark_changed();
        let mut ticks = tokio::time::interval(TICK);
        let (mut was_fresh, mut followed, mut renewed) = (false, true, true);
        loop {
            tokio::select! {
                changed = snapshots.changed(), if followed => match changed {
                    Ok(()) => {
                        let offered = snapshots.borrow_and_update().clone();
                        if let Some(offered) = offered {
                            self.take(offered).await;
                        }
                    }
                    Err(_) => {
                        // Nobody will renew the lease any more; it runs out by itself.
                        tracing::error!("the control plane went away");
                        followed = false;
                    }
                },
                changed = self.identity.changed(), if renewed => match changed {
                    Ok(()) => {
                        let roots = self.roots.clone();
                        self.show(roots);
                    }
                    Err(_) => {
                        tracing::warn!("nobody renews the certificate");
                        renewed = false;
                    }
                },
                _ = ticks.tick() => {}
            }
            let now = self.gate.now();
            let fresh = self.gate.standings.fresh(now);
            if let Some(held) = self.gate.standings.held() {
                #[expect(clippy::cast_precision_loss, reason = "an age in milliseconds, shown")]
                metrics::gauge!("cs_snapshot_age_seconds").set(held.age_millis(now) as f64 / 1000.0);
            }
            if was_fresh && fresh.is_none() {
                tracing::error!("the snapshot's lease ran out: everything is refused");
                self.gate.standings.notify();
            }
            was_fresh = fresh.is_some();
        }
    }

    async fn take(&mut self, offered: SignedSnapshot) {
        let (standings, now) = (self.gate.standings.clone(), self.gate.now());
        let accepted = tokio::task::spawn_blocking(move || standings.accept(&offered, now)).await;
        match accepted {
            Ok(Ok(Accepted::Renewed)) => {}
            Ok(Ok(Accepted::Replaced)) => self.adopt(),
            Ok(Ok(Accepted::PoliciesKept { revision, why })) => {
                self.adopt();
                let record = Record::new(Kind::Alarm, self.gate.now(), self.gate.nonce())
                    .with("alarm", "policy.compile")
                    .with(
                        "revision",
                        Value::int(i64::try_from(revision).unwrap_or(i64::MAX)).unwrap_or(Value::Null),
                    )
                    .with("detail", why.chars().take(1000).collect::<String>());
                self.gate.raise("policy.compile", record).await;
            }
            Ok(Err(error)) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a snapshot was not accepted");
                let record = Record::new(Kind::Alarm, self.gate.now(), self.gate.nonce())
                    .with("alarm", "snapshot.refused")
                    .with("detail", error.to_string());
                self.gate.raise("snapshot.refused", record).await;
            }
            Err(error) => tracing::error!(%error, "a snapshot could not be opened"),
        }
    }

    /// What a new snapshot changes besides decisions: the machine roots.
    fn adopt(&mut self) {
        let Some(standing) = self.gate.standings.held() else { return };
        tracing::info!(version = standing.body.version, "a new snapshot decides");
        let roots: Option<Vec<CertificateDer<'static>>> = standing
            .body
            .machine_roots
            .iter()
            .map(|root| b64::url_decode(root).ok().map(CertificateDer::from))
            .collect();
        match roots {
            Some(roots) if !roots.is_empty() && roots != self.roots => {
                self.show(roots);
            }
            Some(_) => {}
            None => tracing::error!("the snapshot's machine roots cannot be read"),
        }
    }

    /// Uses the current certificate and these roots for handshakes from now on; connections that are open stay.
    fn show(&mut self, roots: Vec<CertificateDer<'static>>) {
        let identity = self.identity.borrow_and_update().clone();
        match tls::server_config(&identity, &roots) {
            Ok(config) => {
                self.tls.store(config);
                self.roots = roots;
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::error!(error, "a new certificate or new machine roots cannot be used");
            }
        }
    }
}

/// Keeps an upstream's tools listed: until it first answers, then at intervals and whenever a caller's listing
/// showed something new.
async fn keep_listed(gate: Arc<Gate>, id: UpstreamId) {
    let Some(side) = gate.upstreams.get(&id) else { return };
    loop {
        let pause = match gate.list_tools(side).await {
            Ok(()) => gate.limits.relist_interval,
            Err(error) => {
                tracing::warn!(upstream = %id, error = &error as &dyn std::error::Error, "tools cannot be listed");
                LIST_RETRY.min(gate.limits.relist_interval)
            }
        };
        let news = async {
            // An upstream that is different every time is still listed at a pace of ours.
            tokio::time::sleep(LIST_PACE).await;
            side.seen.news.notified().await;
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = news => {}
        }
    }
}

async fn housekeep(gate: Arc<Gate>, state_dir: PathBuf) {
    let mut ticks = tokio::time::interval(HOUSEKEEPING);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let now = gate.now();
        gate.sessions.prune(now);
        gate.budgets.prune(now);
        let (log, dir) = (gate.log.clone(), state_dir.clone());
        let folded = tokio::task::spawn_blocking(move || {
            budget::refold(&dir, log.published(), now, |index| entries(&log, index))
        })
        .await;
        match folded {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the budgets' file was not brought up to date"),
            Err(error) => tracing::warn!(%error, "the budgets' file was not brought up to date"),
        }
    }
}

/// The latest second that a proof accepted before this start may be dated: `skew_secs` after the last recorded
/// request that came with one, and not before `now`. Quick to find, because only the end of the log is that young.
fn proofs_until(log: &Log, now: Timestamp, skew_secs: i64) -> Result<Timestamp, FoldError> {
    const STEP: u64 = 1024;
    let (mut until, mut end) = (now, log.published());
    while end > 0 {
        let start = end.saturating_sub(STEP);
        let mut oldest = now;
        for entry in entries(log, start).take(usize::try_from(end - start).unwrap_or(usize::MAX)) {
            // What cannot be parsed is no record of ours; the counts pass over it, too.
            let Ok((record, members)) = Record::parse(&entry?) else { continue };
            oldest = oldest.min(record.at());
            if members.get("agent_proof").and_then(Value::as_str) == Some("dpop") {
                until = until.max(record.at().plus_secs(skew_secs));
            }
        }
        if oldest < now.plus_secs(-skew_secs) {
            break;
        }
        end = start;
    }
    Ok(until)
}

fn entries(log: &Log, from: u64) -> impl Iterator<Item = Result<Vec<u8>, FoldError>> + use<> {
    log.entries_from(from)
        .map(|entry| entry.map(|(_index, bytes)| bytes).map_err(|error| FoldError(error.to_string())))
}
