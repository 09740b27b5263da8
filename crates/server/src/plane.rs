//! What every endpoint stands on: configuration, keys, store, log, clock, randomness. No endpoint's rules.

use std::sync::Arc;

use aws_lc_rs::hmac;
use countersign_audit::{Kind, Record};
use countersign_log::{Log, LogError};
use countersign_proto::b64;
use countersign_proto::id::{TrustDomain, UpstreamId};
use countersign_proto::jose::{JwsSigner as _, SoftwareP256};
use countersign_proto::json;
use countersign_proto::snapshot::SignedSnapshot;
use countersign_proto::time::{Clock, Entropy, Timestamp, random_id};
use countersign_store::{Store, StoreError, Tx};
use countersign_trust::Roots;
use countersign_trust::endorsement::EkAllowList;
use countersign_trust::issue::Issuer;
use tokio::sync::{Notify, watch};

use crate::activations::Activations;
use crate::changes::Changes;
use crate::config::{Lifetimes, Limits, UpstreamConfig};
use crate::control::Manifests;
use crate::keys::{SecretBytes, ServerKeys};
use crate::listen::Peer;
use crate::nonce::NonceMint;
use crate::server::{StartError, TlsIdentity};
use crate::strangers::Strangers;

/// The parsed configuration an endpoint may look at.
pub(crate) struct Settings {
    pub(crate) issuer: String,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) console_url: String,
    pub(crate) upstreams: Vec<UpstreamConfig>,
    pub(crate) lifetimes: Lifetimes,
    pub(crate) limits: Limits,
}

/// Shared by every endpoint.
pub(crate) struct Plane {
    pub(crate) settings: Settings,
    pub(crate) keys: ServerKeys,
    pub(crate) ca: Issuer,
    pub(crate) attestation_ca: Issuer,
    pub(crate) endorsement_roots: Roots,
    /// Endorsement keys admitted without a certificate.
    pub(crate) endorsement_listed: EkAllowList,
    /// Root of attestation key certificates: our own attestation CA.
    pub(crate) ak_roots: Roots,
    pub(crate) nonces: NonceMint,
    pub(crate) activations: Activations,
    pub(crate) store: Store,
    pub(crate) log: Log,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) rng: Arc<dyn Entropy>,
    pub(crate) snapshots: watch::Sender<Option<SignedSnapshot>>,
    /// Changes under way, and whether the published body may lag behind the store.
    pub(crate) changes: Arc<Changes>,
    /// How much of the log strangers may take.
    pub(crate) strangers: Strangers,
    /// What upstreams have been writing into our store and log.
    pub(crate) manifests: Manifests,
    /// Serializes building and publishing.
    pub(crate) publishing: tokio::sync::Mutex<crate::snapshot::Published>,
    /// Renders the metrics, if the wiring installed a recorder and gave us its handle.
    pub(crate) metrics: Option<metrics_exporter_prometheus::PrometheusHandle>,
    /// Rung on every change of an approval.
    pub(crate) approvals_changed: Notify,
}

/// Why we could not find out or could not write down: the caller is refused and nothing is acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The store refused or is unavailable.
    #[error("store")]
    Store(#[from] StoreError),
    /// The record could not be made durable.
    #[error("audit log")]
    Log(#[from] LogError),
    /// A value could not be put into its wire form.
    #[error("cannot form {0}")]
    Form(&'static str),
}

impl Plane {
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A fresh name with `prefix`.
    pub(crate) fn name(&self, prefix: &str) -> String {
        random_id(self.rng.as_ref(), prefix)
    }

    /// 256 unpredictable bits for a link or a token that is itself the credential.
    pub(crate) fn secret_text(&self) -> String {
        let mut bytes = [0_u8; 32];
        self.rng.fill(&mut bytes);
        b64::url_encode(&bytes)
    }

    pub(crate) fn upstream(&self, id: &UpstreamId) -> Option<&UpstreamConfig> {
        self.settings.upstreams.iter().find(|upstream| upstream.id == *id)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.settings.issuer)
    }

    /// The MAC key of an external account, derived from its name: nothing to store, nothing to leak.
    pub(crate) fn eab_key(&self, kid: &str) -> Vec<u8> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.keys.sealing_secret.as_slice());
        let mut context = hmac::Context::with_key(&key);
        context.update(b"external-account-key\0");
        context.update(kid.as_bytes());
        context.sign().as_ref().to_vec()
    }

    /// A TLS certificate under our CA with a key made here.
    pub(crate) fn tls_identity(&self, names: &[String]) -> Result<TlsIdentity, StartError> {
        let failed = || StartError::Ca("tls certificate".into());
        let key = SoftwareP256::generate().map_err(|_| failed())?;
        let life = self.settings.lifetimes.server_certificate_secs;
        let issued = self
            .ca
            .issue_server_certificate(&key.public_jwk(), names, self.now(), life, self.rng.as_ref())
            .map_err(|error| StartError::Ca(error.to_string()))?;
        let pkcs8 = key.to_pkcs8().map_err(|_| failed())?;
        Ok(TlsIdentity { chain: vec![issued.der], key: SecretBytes::new(pkcs8.to_vec()) })
    }

    /// Commits something gateways must learn of, and publishes it. In a task of its own: once begun, neither a caller
    /// who leaves nor a time limit parts the commit from its publication. Published is on every outcome that may have
    /// changed something: after [`StoreError::Unavailable`] the change may be there although nobody heard of it.
    pub(crate) async fn commit_and_publish(self: &Arc<Self>, tx: Tx) -> Result<(), StoreError> {
        self.commit_then(tx, true).await
    }

    /// The same for one of several changes; the caller publishes after the last one. If it does not come to that, the
    /// next renewal of the lease does.
    pub(crate) async fn commit_to_publish(self: &Arc<Self>, tx: Tx) -> Result<(), StoreError> {
        self.commit_then(tx, false).await
    }

    async fn commit_then(self: &Arc<Self>, tx: Tx, publish: bool) -> Result<(), StoreError> {
        let plane = Arc::clone(self);
        let change = self.changes.begin();
        let carrying_out = tokio::spawn(async move {
            let committed = tx.commit().await;
            drop(change);
            match &committed {
                Ok(()) | Err(StoreError::Unavailable(_) | StoreError::Corrupt(_)) if publish => {
                    plane.publish_changes().await;
                }
                Ok(()) => {}
                // Nothing changed, or nothing is to be published yet: the next look at the store tells.
                Err(
                    StoreError::Unavailable(_)
                    | StoreError::Corrupt(_)
                    | StoreError::Exists { .. }
                    | StoreError::Conflict { .. }
                    | StoreError::Consumed { .. }
                    | StoreError::NotFound
                    | StoreError::TooLarge(_)
                    | StoreError::InUse(_)
                    | StoreError::Newer { .. }
                    | StoreError::WrongKey,
                ) => {}
            }
            committed
        });
        let lost = |_| StoreError::Unavailable("the commit was lost".into());
        carrying_out.await.map_err(lost)?
    }

    /// Writes one record and waits until it is durable. `members` is a JSON object.
    pub(crate) async fn record(&self, kind: Kind, members: serde_json::Value) -> Result<(), Trouble> {
        // The receipt is for whoever reveals a decision; here it only matters that there is one.
        drop(self.log.append(self.form_record(kind, &members)?).await?);
        Ok(())
    }

    /// Records a refusal. Those of strangers are bounded: beyond, they are counted, and the count is recorded.
    pub(crate) async fn record_refusal(
        &self,
        peer: &Peer,
        members: serde_json::Value,
    ) -> Result<(), Trouble> {
        if peer.is_stranger() && !self.strangers.admits(self.now()) {
            metrics::counter!("cs_refusals_unrecorded_total").increment(1);
            return Ok(());
        }
        self.record(Kind::Denial, members).await
    }

    /// Records how many refusals have no record of their own, if any.
    pub(crate) async fn sum_up_refusals(&self) {
        let count = self.strangers.take_uncounted();
        if count == 0 {
            return;
        }
        let members = serde_json::json!({"code": "refusals.summed", "what": "strangers", "count": count});
        if let Err(error) = self.record(Kind::Denial, members).await {
            tracing::error!(error = &error as &dyn std::error::Error, count, "refusals not summed up");
        }
    }

    fn form_record(&self, kind: Kind, members: &serde_json::Value) -> Result<Record, Trouble> {
        let mut nonce = [0_u8; 16];
        self.rng.fill(&mut nonce);
        let mut record = Record::new(kind, self.now(), nonce);
        for (name, member) in members.as_object().into_iter().flatten() {
            if member.is_null() {
                continue;
            }
            let member = json::from_serde(member).map_err(|_| Trouble::Form("record"))?;
            record = record.with(name, member);
        }
        record.build().map_err(|_| Trouble::Form("record"))
    }

    /// Raises an alarm: a metric at once, a record as soon as the log takes it.
    pub(crate) async fn alarm(&self, code: &'static str, members: serde_json::Value) {
        metrics::counter!("cs_alarms_total", "kind" => code).increment(1);
        tracing::error!(code, "alarm");
        let mut members = members;
        if let Some(object) = members.as_object_mut() {
            object.insert("code".into(), code.into());
        }
        if let Err(error) = self.record(Kind::Alarm, members).await {
            tracing::error!(%error, code, "alarm could not be recorded");
        }
    }
}
