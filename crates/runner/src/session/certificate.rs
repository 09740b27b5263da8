//! The machine certificate during a run: renewed when two thirds of its life are over, and not shown once it has run out.
//!
//! Certificates live for an hour and laptops sleep for longer. A server refuses the connection of whoever shows an expired
//! one, so renewal begins without it: the attestation of M is what the new one is given for.

use std::sync::Arc;
use std::time::Duration;

use countersign_proto::time::Timestamp;
use countersign_proto::x509;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::time::MissedTickBehavior;

use super::Session;
use crate::control_plane::ControlPlaneError;
use crate::enroll::renew_certificate;

/// How long a renewal that failed is not tried again, in seconds, as long as the certificate is valid.
const RETRY_SECS: i64 = 30;

/// From when to when a certificate is valid, and when the next one is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    begins_at: Timestamp,
    renew_at: Timestamp,
    ends_at: Timestamp,
}

impl Life {
    /// Of no certificate: over before it began.
    pub(super) const NONE: Self = Self {
        begins_at: Timestamp::from_unix_secs(0),
        renew_at: Timestamp::from_unix_secs(0),
        ends_at: Timestamp::from_unix_secs(0),
    };

    /// Of the leaf of a PEM chain.
    fn of(pem: &[u8]) -> Option<Self> {
        let leaf = x509::parse_der(&CertificateDer::from_pem_slice(pem).ok()?).ok()?;
        let renew_at = leaf.not_before.plus_secs(leaf.not_after.secs_since(leaf.not_before) / 3 * 2);
        Some(Self { begins_at: leaf.not_before, renew_at, ends_at: leaf.not_after })
    }

    fn is_valid_at(&self, now: Timestamp) -> bool {
        self.begins_at <= now && now < self.ends_at
    }
}

impl Session {
    /// Shows the certificate of the state directory, if it is valid.
    pub(super) fn use_kept_certificate(&self) -> Result<(), ControlPlaneError> {
        let pem = self.state.certificate()?;
        self.certificate.replace(&pem, &self.machine)?;
        let life = Life::of(&pem).unwrap_or(Life::NONE);
        if !life.is_valid_at(self.clock.now()) {
            self.certificate.withdraw();
        }
        *self.certificate_life.lock() = life;
        Ok(())
    }

    /// Renews the certificate if it is time. While one caller does that, the others go on with the old one if it is valid.
    pub(super) async fn ensure_certificate(&self) -> Result<(), ControlPlaneError> {
        let now = self.clock.now();
        let life = *self.certificate_life.lock();
        if now < life.renew_at {
            return Ok(());
        }
        let _turn = match self.certificate_renewal.try_lock() {
            Ok(turn) => turn,
            Err(_) if life.is_valid_at(now) => return Ok(()),
            Err(_) => self.certificate_renewal.lock().await,
        };
        if *self.certificate_life.lock() != life {
            return Ok(());
        }
        if !life.is_valid_at(now) {
            return self.obtain_certificate_without_one().await;
        }
        if let Err(error) = self.obtain_certificate().await {
            tracing::warn!(%error, "the machine certificate was not renewed yet");
            self.certificate_life.lock().renew_at = now.plus_secs(RETRY_SECS);
        }
        Ok(())
    }

    /// Renews the certificate because somebody did not take it. Many callers at once cause one renewal.
    ///
    /// # Errors
    /// [`ControlPlaneError`].
    pub async fn renew_certificate(&self) -> Result<(), ControlPlaneError> {
        let refused = *self.certificate_life.lock();
        let _turn = self.certificate_renewal.lock().await;
        if *self.certificate_life.lock() == refused {
            self.obtain_certificate_without_one().await?;
        }
        Ok(())
    }

    /// Renews the certificate in time, looking every so often, for as long as this is polled.
    pub async fn keep_certificate(self: Arc<Self>, every: Duration) {
        let mut interval = tokio::time::interval(every);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            if let Err(error) = self.ensure_certificate().await {
                tracing::warn!(%error, "this machine has no valid certificate");
            }
        }
    }

    async fn obtain_certificate_without_one(&self) -> Result<(), ControlPlaneError> {
        self.certificate.withdraw();
        self.client.start_over();
        self.obtain_certificate().await
    }

    async fn obtain_certificate(&self) -> Result<(), ControlPlaneError> {
        let pem = renew_certificate(&self.client, &self.state, &self.machine).await?;
        self.certificate.replace(&pem, &self.machine)?;
        *self.certificate_life.lock() = Life::of(&pem).unwrap_or(Life::NONE);
        self.client.start_over();
        Ok(())
    }
}
