//! Nonces that cost nothing to give out: `{time, randomness}` under our MAC, stored only once spent.
//!
//! A nonce proves that we made it, for this purpose and this holder, and when. That it is spent once is the
//! store's `consume`, which the caller commits together with whatever the nonce allowed.

use aws_lc_rs::hmac;
use countersign_proto::b64;
use countersign_proto::time::{Entropy, Timestamp};

/// What a nonce is good for; one purpose's nonce is noise to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// ACME `Replay-Nonce` (RFC 8555 §6.5).
    Acme,
    /// The qualifying data of a quote.
    Quote,
    /// The attestation challenge of the token endpoint.
    AttestationChallenge,
}

impl Purpose {
    const fn label(self) -> &'static [u8] {
        match self {
            Self::Acme => b"acme-nonce",
            Self::Quote => b"quote-nonce",
            Self::AttestationChallenge => b"attestation-challenge",
        }
    }
}

/// Makes and recognizes nonces.
pub struct NonceMint {
    key: hmac::Key,
}

/// Milliseconds in 48 bits: good until the year 10889.
const TIME_BYTES: usize = 6;
const RANDOM_BYTES: usize = 16;
/// 80 bits are enough: a forger has to ask us for every guess, and a forged nonce is only an unused number.
const MAC_BYTES: usize = 10;
/// 32 bytes fit the qualifying data of every TPM.
const NONCE_BYTES: usize = TIME_BYTES + RANDOM_BYTES + MAC_BYTES;

impl NonceMint {
    /// A mint over a 32-byte secret.
    #[must_use]
    pub fn new(secret: &[u8; 32]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, secret) }
    }

    /// A fresh nonce of 32 bytes, base64url.
    #[must_use]
    pub fn mint(&self, purpose: Purpose, holder: &str, now: Timestamp, rng: &dyn Entropy) -> String {
        let mut nonce = Vec::with_capacity(NONCE_BYTES);
        nonce.extend_from_slice(&now.unix_millis().to_be_bytes()[8 - TIME_BYTES..]);
        let mut random = [0_u8; RANDOM_BYTES];
        rng.fill(&mut random);
        nonce.extend_from_slice(&random);
        let mac = self.mac(purpose, holder, &nonce);
        nonce.extend_from_slice(&mac);
        b64::url_encode(&nonce)
    }

    /// When this nonce ends, if we made it for `purpose` and `holder` and it has not ended yet.
    #[must_use]
    pub fn recognize(
        &self,
        purpose: Purpose,
        holder: &str,
        nonce: &str,
        lifetime_secs: i64,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let bytes = b64::url_decode(nonce).ok().filter(|bytes| bytes.len() == NONCE_BYTES)?;
        let (head, mac) = bytes.split_at(NONCE_BYTES - MAC_BYTES);
        let expected = self.mac(purpose, holder, head);
        aws_lc_rs::constant_time::verify_slices_are_equal(&expected, mac).ok()?;
        let mut time = [0_u8; 8];
        time[8 - TIME_BYTES..].copy_from_slice(head.first_chunk::<TIME_BYTES>()?);
        let made_at = i64::from_be_bytes(time);
        let made_at = Timestamp::from_unix_millis(made_at);
        let ends_at = made_at.plus_secs(lifetime_secs);
        // A nonce from the future means our clock stepped back: its memory of being spent would be shorter than its life.
        (made_at <= now && now < ends_at).then_some(ends_at)
    }

    fn mac(&self, purpose: Purpose, holder: &str, head: &[u8]) -> [u8; MAC_BYTES] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(purpose.label());
        context.update(&[0]);
        context.update(holder.as_bytes());
        context.update(&[0]);
        context.update(head);
        let tag = context.sign();
        let mut mac = [0_u8; MAC_BYTES];
        mac.copy_from_slice(&tag.as_ref()[..MAC_BYTES]);
        mac
    }
}

#[cfg(test)]
mod tests;
