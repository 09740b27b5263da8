//! How much an upstream may write into our store and log by changing what it offers: bounded by the hour.

use std::collections::BTreeMap;

use countersign_proto::id::UpstreamId;
use countersign_proto::time::Timestamp;
use parking_lot::Mutex;

/// Most new or changed definitions taken from one upstream in an hour: all it may ever show, once.
const PER_HOUR: usize = super::MAX_TOOLS_EVER;

/// What each upstream wrote in this hour. As many entries as upstreams are configured.
#[derive(Debug, Default)]
pub(crate) struct Manifests(Mutex<BTreeMap<UpstreamId, Hour>>);

#[derive(Debug, Default)]
struct Hour {
    number: i64,
    written: usize,
    complained: bool,
}

impl Manifests {
    /// Whether one more may be written, which is then counted.
    pub(crate) fn admits(&self, upstream: &UpstreamId, now: Timestamp) -> bool {
        self.with(upstream, now, |hour| {
            hour.written += 1;
            hour.written <= PER_HOUR
        })
    }

    /// Whether nobody complained about this upstream in this hour; then somebody has.
    pub(crate) fn is_first_complaint(&self, upstream: &UpstreamId, now: Timestamp) -> bool {
        self.with(upstream, now, |hour| !std::mem::replace(&mut hour.complained, true))
    }

    fn with<T>(&self, upstream: &UpstreamId, now: Timestamp, act: impl FnOnce(&mut Hour) -> T) -> T {
        let number = now.unix_secs().div_euclid(3600);
        let mut hours = self.0.lock();
        let hour = hours.entry(upstream.clone()).or_default();
        if hour.number != number {
            *hour = Hour { number, ..Hour::default() };
        }
        act(hour)
    }
}
