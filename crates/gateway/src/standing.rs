//! What the gateway decides by: the last verified snapshot, compiled, and how long it may be trusted.
//!
//! Snapshots are verified and compiled away from the requests and swapped in whole, so a request sees one
//! version from beginning to end. A lease that ran out means no standing at all: the gateway fails closed.
//! Nothing here fetches anything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arc_swap::ArcSwapOption;
use countersign_identity::Revoked;
use countersign_policy::{Code, Pdp, PolicyError};
use countersign_proto::digest::Sha256Digest;
use countersign_proto::id::{AgentId, MachineId, RunId, TaskId, UpstreamId};
use countersign_proto::jose::{KeySet, PublicJwk, Thumbprint};
use countersign_proto::snapshot::{
    self, AgentState, MachineEntry, MachineState, PolicyBundle, SignedSnapshot, SnapshotBody, SnapshotError,
    UpstreamEntry,
};
use countersign_proto::time::Timestamp;
use countersign_trust::PeerCertificate;
use tokio::sync::watch;

/// One snapshot, ready to decide by.
pub(crate) struct Standing {
    pub(crate) body: SnapshotBody,
    pub(crate) pdp: Arc<Pdp>,
    pub(crate) token_keys: KeySet,
    pub(crate) approval_keys: KeySet,
    pub(crate) revoked: Revoked,
    digest: Sha256Digest,
    basis: Arc<Basis>,
    lease_until: AtomicI64,
    issued_at: AtomicI64,
}

type Upstreams = BTreeMap<UpstreamId, UpstreamEntry>;

/// What the policies in force were compiled from; older than the body's where those do not compile.
struct Basis {
    policies: PolicyBundle,
    upstreams: Upstreams,
}

/// Policies ready to be asked, and whether they are the ones that came.
struct Compiled {
    pdp: Arc<Pdp>,
    basis: Arc<Basis>,
    accepted: Accepted,
}

/// Whom a stream or a long wait belongs to, to ask later whether that still stands.
#[derive(Clone, Debug)]
pub(crate) struct Bearer {
    pub(crate) agent: AgentId,
    pub(crate) generation: u64,
    pub(crate) run: RunId,
    pub(crate) task: TaskId,
    pub(crate) machine: MachineId,
    pub(crate) machine_jkt: Thumbprint,
    /// The second of the attestation that the token stands on.
    pub(crate) attested_at: i64,
    pub(crate) expires_at: Timestamp,
}

/// The holder of the one current [`Standing`].
pub(crate) struct Standings {
    current: ArcSwapOption<Standing>,
    changed: watch::Sender<u64>,
    key: PublicJwk,
    issuer: String,
}

/// What came of a snapshot.
#[derive(Debug)]
pub(crate) enum Accepted {
    /// The lease on what we hold was renewed.
    Renewed,
    /// A new version decides from now on.
    Replaced,
    /// As before, but its policies do not compile: the ones we had stay in force.
    PoliciesKept { revision: u64, why: String },
}

/// Why a snapshot is not used; what we hold stays for as long as its lease lasts.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotAccepted {
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error("the snapshot's keys cannot be used")]
    Keys,
    #[error("the policies do not compile and there are none to keep: {0}")]
    Policies(String),
}

impl Standings {
    pub(crate) fn new(key: PublicJwk, issuer: String) -> Self {
        Self { current: ArcSwapOption::empty(), changed: watch::Sender::new(0), key, issuer }
    }

    /// What to decide by now; `None` if there is nothing or its lease ran out.
    pub(crate) fn fresh(&self, now: Timestamp) -> Option<Arc<Standing>> {
        self.current.load_full().filter(|standing| standing.is_fresh(now))
    }

    /// What is held, fresh or not. Not to decide by.
    pub(crate) fn held(&self) -> Option<Arc<Standing>> {
        self.current.load_full()
    }

    /// Sees every replacement and every lapse.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Tells every watcher to look again.
    pub(crate) fn notify(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Verifies a snapshot and decides by it from now on. Slow; never called on a request's path.
    pub(crate) fn accept(&self, offered: &SignedSnapshot, now: Timestamp) -> Result<Accepted, NotAccepted> {
        let held = self.held();
        if let Some(held) = &held {
            let renewed = snapshot::check_lease(
                &offered.lease,
                &self.key,
                &self.issuer,
                now,
                held.body.version,
                &held.digest,
            );
            match renewed {
                Ok(lease) => {
                    held.lease_until.fetch_max(lease.expires_at().unix_millis(), Ordering::AcqRel);
                    held.issued_at.fetch_max(lease.issued_at.unix_millis(), Ordering::AcqRel);
                    return Ok(Accepted::Renewed);
                }
                // A genuine lease on another body: opened below.
                Err(SnapshotError::Body) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // INVARIANT: versions only go up; the same version with another body is refused too.
        let not_before = held.as_ref().map_or(0, |held| held.body.version.saturating_add(1));
        let body = snapshot::open(offered, &self.key, &self.issuer, now, not_before)?;
        let lease = snapshot::verify_lease(&offered.lease, &self.key, &self.issuer, now)?;
        let Compiled { pdp, basis, accepted } = compile(&body, held.as_deref())?;
        let standing = Standing {
            pdp,
            basis,
            token_keys: KeySet::parse_value(&body.token_keys).map_err(|_| NotAccepted::Keys)?,
            approval_keys: KeySet::parse_value(&body.approval_keys).map_err(|_| NotAccepted::Keys)?,
            revoked: Revoked::from(&body),
            digest: lease.body_sha256,
            lease_until: AtomicI64::new(lease.expires_at().unix_millis()),
            issued_at: AtomicI64::new(lease.issued_at.unix_millis()),
            body,
        };
        self.current.store(Some(Arc::new(standing)));
        self.notify();
        Ok(accepted)
    }
}

/// The new policies, or the ones in force where the new ones do not compile, over the new agents and, if that
/// is possible, the new tools: a broken bundle must not hold up a kill. (Tools that are gone from the snapshot
/// are refused before policy is asked.)
fn compile(body: &SnapshotBody, held: Option<&Standing>) -> Result<Compiled, NotAccepted> {
    // Kills and locks change nothing that policies are compiled from, and do not wait for a compiler.
    if let Some(held) = held.filter(|held| held.basis.fits(body) && same_principals(&held.body, body)) {
        return Ok(Compiled {
            pdp: held.pdp.clone(),
            basis: held.basis.clone(),
            accepted: Accepted::Replaced,
        });
    }
    let attempt = |policies: &PolicyBundle, upstreams: &Upstreams| {
        let pdp = Pdp::compile(policies, &body.agents, upstreams)?;
        let basis = Basis { policies: policies.clone(), upstreams: upstreams.clone() };
        Ok((Arc::new(pdp), Arc::new(basis)))
    };
    let why = match attempt(&body.policies, &body.upstreams) {
        Ok((pdp, basis)) => return Ok(Compiled { pdp, basis, accepted: Accepted::Replaced }),
        Err::<_, PolicyError>(error) => error.to_string(),
    };
    let Some(held) = held else { return Err(NotAccepted::Policies(why)) };
    let (pdp, basis) = attempt(&held.basis.policies, &body.upstreams)
        .or_else(|_| attempt(&held.basis.policies, &held.basis.upstreams))
        .map_err(|error| NotAccepted::Policies(error.to_string()))?;
    let accepted = Accepted::PoliciesKept { revision: body.policies.revision, why };
    Ok(Compiled { pdp, basis, accepted })
}

impl Basis {
    fn fits(&self, body: &SnapshotBody) -> bool {
        self.policies == body.policies && self.upstreams == body.upstreams
    }
}

/// Whether policies see the same agents: who there is, in which groups, for whom. Whether one may act at all is
/// asked of the snapshot itself, at every request.
fn same_principals(one: &SnapshotBody, other: &SnapshotBody) -> bool {
    one.agents.len() == other.agents.len()
        && one.agents.iter().zip(&other.agents).all(|((one_id, one), (other_id, other))| {
            one_id == other_id && one.groups == other.groups && one.sponsor == other.sponsor
        })
}

impl Standing {
    fn is_fresh(&self, now: Timestamp) -> bool {
        now.unix_millis() < self.lease_until.load(Ordering::Acquire)
    }

    /// Milliseconds since the control plane last confirmed this.
    pub(crate) fn age_millis(&self, now: Timestamp) -> i64 {
        now.unix_millis().saturating_sub(self.issued_at.load(Ordering::Acquire))
    }

    pub(crate) fn upstream(&self, upstream: &UpstreamId) -> Option<&UpstreamEntry> {
        self.body.upstreams.get(upstream)
    }

    /// The enrolled machine that a certificate names.
    pub(crate) fn machine_of(&self, peer: &PeerCertificate) -> Option<&MachineEntry> {
        self.body.machines.get(peer.machine_id())
    }

    /// The denial a killed, revoked or locked bearer gets; `Ok` while it stands.
    pub(crate) fn still_bears(&self, bearer: &Bearer) -> Result<(), Code> {
        let agent = self.body.agents.get(&bearer.agent).ok_or(Code::AgentUnknown)?;
        match agent.state {
            AgentState::Active => {}
            AgentState::Suspended => return Err(Code::AgentSuspended),
            AgentState::Retired => return Err(Code::AgentKilled),
        }
        if agent.generation != bearer.generation {
            return Err(Code::AgentKilled);
        }
        if self.body.revoked_runs.contains(&bearer.run) {
            return Err(Code::RunRevoked);
        }
        if self.body.revoked_tasks.contains(&bearer.task) {
            return Err(Code::TaskRevoked);
        }
        let machine = self.body.machines.get(&bearer.machine).ok_or(Code::MachineUnknown)?;
        match machine.state {
            MachineState::Active => {}
            MachineState::Locked => return Err(Code::MachineLocked),
            MachineState::Revoked => return Err(Code::MachineRevoked),
        }
        // A lock, a revocation or a new key ends what was attested before it, also when it is over.
        if machine.outdates(bearer.attested_at) {
            return Err(Code::MachineReattest);
        }
        if machine.jkt.ct_eq(&bearer.machine_jkt) { Ok(()) } else { Err(Code::BindMachineKey) }
    }
}
