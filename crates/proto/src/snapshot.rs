//! What the control plane tells a gateway: a versioned body and a short signed lease on it.
//!
//! The body is what decisions are made from; the lease is why it may still be used. A gateway whose lease ran out
//! denies. Nothing here decides anything or talks to anyone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::digest::Sha256Digest;
use crate::id::{AgentId, MachineId, PersonId, RunId, SpiffeId, TaskId, ToolName, TrustDomain, UpstreamId};
use crate::jose::{
    Expected, JwsError, JwsSigner, KeySource, PublicJwk, SignError, Thumbprint, sign_compact, verify_compact,
};
use crate::json::{self, Limits, Value};
use crate::time::Timestamp;

/// The `typ` of a lease.
pub const LEASE_TYP: &str = "countersign-lease+jwt";
/// How long a lease lasts unless configured shorter, in milliseconds.
pub const DEFAULT_LEASE_MILLIS: i64 = 10_000;
/// No lease lasts longer than this, in milliseconds, whatever it says.
pub const MAX_LEASE_MILLIS: i64 = 60_000;
/// How far ahead the server's clock may be, in milliseconds.
pub const MAX_SKEW_MILLIS: i64 = 5_000;

/// A body and the lease on it, as they travel.
#[derive(Clone, Debug)]
pub struct SignedSnapshot {
    /// The body, JSON.
    pub body: Arc<[u8]>,
    /// The lease, a compact JWS.
    pub lease: String,
}

/// The payload of a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// The body's version.
    pub version: u64,
    /// When it was issued, in milliseconds since the epoch.
    pub issued_at: Timestamp,
    /// How long it lasts from then, in milliseconds.
    pub lease_ms: i64,
    /// The digest of the body's bytes.
    pub body_sha256: Sha256Digest,
    /// The issuer that signs.
    pub server: String,
}

/// Everything a gateway decides from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotBody {
    /// Grows with every change.
    pub version: u64,
    /// The authorization server whose tokens count.
    pub issuer: String,
    /// The trust domain of agents and machines.
    pub trust_domain: TrustDomain,
    /// The keys tokens are signed with: a JWK Set.
    pub token_keys: Value,
    /// The keys approval grants are signed with: a JWK Set.
    pub approval_keys: Value,
    /// The roots of machine certificates: DER, base64url.
    pub machine_roots: Vec<String>,
    /// Enrolled machines.
    pub machines: BTreeMap<MachineId, MachineEntry>,
    /// Registered agents.
    pub agents: BTreeMap<AgentId, AgentEntry>,
    /// Runs ended before their time.
    pub revoked_runs: BTreeSet<RunId>,
    /// Tasks ended before their time.
    pub revoked_tasks: BTreeSet<TaskId>,
    /// The policies in force.
    pub policies: PolicyBundle,
    /// The tool servers and their pinned tools.
    pub upstreams: BTreeMap<UpstreamId, UpstreamEntry>,
}

/// A machine as gateways need to know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineEntry {
    /// The machine's SPIFFE ID.
    pub spiffe: SpiffeId,
    /// The thumbprint of its attested key M.
    pub jkt: Thumbprint,
    /// Whether it may act.
    pub state: MachineState,
    /// Bumped by every change that must end what is open.
    pub generation: u64,
    /// When it last changed in a way that ends what was open before; see [`MachineEntry::outdates`].
    #[serde(default = "never")]
    pub changed_at: Timestamp,
}

const fn never() -> Timestamp {
    Timestamp::from_unix_millis(0)
}

impl MachineEntry {
    /// Whether an attestation made in that second (`env.att_time`) was made before the last change, and so counts no
    /// more. Within the second of the change it is taken as made before: a new attestation settles it.
    #[must_use]
    pub fn outdates(&self, att_time: i64) -> bool {
        Timestamp::from_unix_secs(att_time) < self.changed_at
    }
}

/// Whether a machine may act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MachineState {
    /// It may.
    Active,
    /// Not now (posture regressed, under investigation).
    Locked,
    /// Never again.
    Revoked,
}

/// An agent as gateways need to know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentEntry {
    /// Whether it may act.
    pub state: AgentState,
    /// Bumped by a kill; a token carries the generation it was issued in.
    pub generation: u64,
    /// The groups policies speak of.
    pub groups: Vec<String>,
    /// The person who answers for it.
    pub sponsor: PersonId,
}

/// Whether an agent may act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentState {
    /// It may.
    Active,
    /// Not now.
    Suspended,
    /// Never again.
    Retired,
}

/// The policies in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyBundle {
    /// Grows with every change of policy.
    pub revision: u64,
    /// Cedar source.
    pub cedar: String,
    /// The digest of `cedar`; approvals name it.
    pub digest: Sha256Digest,
}

/// A tool server behind the gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamEntry {
    /// Its public URL at the gateway: the audience of tokens for it.
    pub resource: String,
    /// Its tools.
    pub tools: BTreeMap<ToolName, ToolEntry>,
}

/// A tool as it was reviewed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolEntry {
    /// The digest of its definition.
    pub digest: Sha256Digest,
    /// Whether it was reviewed.
    pub state: ToolState,
    /// Its arguments' JSON Schema.
    pub input_schema: Value,
}

/// Whether a tool was reviewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolState {
    /// Reviewed, and this is what was reviewed.
    Pinned,
    /// Seen, not yet reviewed.
    Proposed,
    /// No longer what was reviewed.
    Changed,
}

/// Why a snapshot or lease is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// The lease is not signed by the server we follow.
    #[error("lease not verified")]
    Lease(#[from] JwsError),
    /// The lease is another server's.
    #[error("lease of another server")]
    Issuer,
    /// The lease ran out, lasts too long or comes from the future.
    #[error("lease is not current")]
    Stale,
    /// The body is not the one leased.
    #[error("body does not match the lease")]
    Body,
    /// The version went back.
    #[error("version {found} is older than {known}")]
    Rollback {
        /// The version offered.
        found: u64,
        /// The version already seen.
        known: u64,
    },
    /// Genuine, but not readable by this version of the gateway.
    #[error("unreadable snapshot: {0}")]
    Unreadable(String),
}

impl Lease {
    /// A lease on a body, from now.
    #[must_use]
    pub fn on(body: &SnapshotBody, body_sha256: Sha256Digest, now: Timestamp, lease_ms: i64) -> Self {
        Self { version: body.version, issued_at: now, lease_ms, body_sha256, server: body.issuer.clone() }
    }

    /// The lease as a compact JWS.
    ///
    /// # Errors
    /// [`SignError`] from the key.
    pub fn sign(&self, signer: &dyn JwsSigner) -> Result<String, SignError> {
        sign_compact(signer, LEASE_TYP, &[], &json::from_serde(self)?.to_jcs())
    }

    /// When this lease runs out.
    #[must_use]
    pub const fn expires_at(&self) -> Timestamp {
        self.issued_at.plus_millis(self.lease_ms)
    }
}

impl SignedSnapshot {
    /// Writes and leases a body.
    ///
    /// # Errors
    /// [`SignError`] from the key, or if the body has no JSON form.
    pub fn seal(
        body: &SnapshotBody,
        signer: &dyn JwsSigner,
        now: Timestamp,
        lease_ms: i64,
    ) -> Result<Self, SignError> {
        let bytes = serde_json::to_vec(body).map_err(|error| json::JsonError {
            offset: 0,
            kind: json::JsonErrorKind::Shape(error.to_string()),
        })?;
        let lease = Lease::on(body, Sha256Digest::of(&bytes), now, lease_ms).sign(signer)?;
        Ok(Self { body: bytes.into(), lease })
    }
}

/// Opens a snapshot: signature, issuer, freshness, digest, and that the version is not below `not_before_version`.
///
/// # Errors
/// [`SnapshotError`]; the gateway then keeps what it has, for as long as that one's lease lasts.
pub fn open(
    snapshot: &SignedSnapshot,
    key: &PublicJwk,
    issuer: &str,
    now: Timestamp,
    not_before_version: u64,
) -> Result<SnapshotBody, SnapshotError> {
    let lease = verify_lease(&snapshot.lease, key, issuer, now)?;
    if !Sha256Digest::of(&snapshot.body).ct_eq(&lease.body_sha256) {
        return Err(SnapshotError::Body);
    }
    if lease.version < not_before_version {
        return Err(SnapshotError::Rollback { found: lease.version, known: not_before_version });
    }
    // Plain serde_json: these bytes are our server's own, signed, and nobody else reads them.
    let body: SnapshotBody = serde_json::from_slice(&snapshot.body)
        .map_err(|error| SnapshotError::Unreadable(error.to_string()))?;
    if body.version != lease.version || body.issuer != lease.server {
        return Err(SnapshotError::Body);
    }
    Ok(body)
}

/// Checks a renewed lease on a body we already hold.
///
/// # Errors
/// [`SnapshotError::Body`] if the lease is on another body; otherwise as [`open`].
pub fn check_lease(
    lease: &str,
    key: &PublicJwk,
    issuer: &str,
    now: Timestamp,
    held_version: u64,
    held_digest: &Sha256Digest,
) -> Result<Lease, SnapshotError> {
    let lease = verify_lease(lease, key, issuer, now)?;
    if lease.version == held_version && lease.body_sha256.ct_eq(held_digest) {
        Ok(lease)
    } else if lease.version < held_version {
        Err(SnapshotError::Rollback { found: lease.version, known: held_version })
    } else {
        Err(SnapshotError::Body)
    }
}

/// Reads a genuine, current lease.
///
/// # Errors
/// As [`open`].
pub fn verify_lease(
    lease: &str,
    key: &PublicJwk,
    issuer: &str,
    now: Timestamp,
) -> Result<Lease, SnapshotError> {
    let expected = Expected { typ: &[LEASE_TYP], keys: KeySource::One(key), max_bytes: 4096 };
    let verified = verify_compact(lease, &expected)?;
    let lease: Lease = json::typed(&verified.payload, &Limits::DEFAULT)
        .map_err(|error| SnapshotError::Unreadable(error.to_string()))?;
    if lease.server != issuer {
        return Err(SnapshotError::Issuer);
    }
    let from_the_future = lease.issued_at > now.plus_millis(MAX_SKEW_MILLIS);
    if from_the_future || !(1..=MAX_LEASE_MILLIS).contains(&lease.lease_ms) || now >= lease.expires_at() {
        return Err(SnapshotError::Stale);
    }
    Ok(lease)
}

#[cfg(test)]
mod tests;
