//! Nonces: only ours, only for their purpose and holder, only while they live.

use super::*;

struct Counter(std::sync::atomic::AtomicU8);
impl Entropy for Counter {
    fn fill(&self, out: &mut [u8]) {
        out.fill(self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    }
}

fn check(purpose: Purpose, holder: &str, at_secs: i64, mangle: impl Fn(String) -> String, good: bool) {
    let mint = NonceMint::new(&[7; 32]);
    let rng = Counter(0.into());
    let made_at = Timestamp::from_unix_secs(1_000);
    let nonce = mangle(mint.mint(Purpose::Acme, "h", made_at, &rng));
    let seen = mint.recognize(purpose, holder, &nonce, 60, Timestamp::from_unix_secs(at_secs));
    assert_eq!(seen.is_some(), good, "{purpose:?} {holder} at {at_secs}: {nonce}");
}

#[test]
fn a_nonce_is_good_only_for_its_purpose_its_holder_and_its_time() {
    let same = |nonce: String| nonce;
    check(Purpose::Acme, "h", 1_000, same, true);
    check(Purpose::Acme, "h", 1_059, same, true);
    check(Purpose::Acme, "h", 1_060, same, false);
    check(Purpose::Acme, "h", 999, same, false);
    check(Purpose::Acme, "other", 1_000, same, false);
    check(Purpose::Quote, "h", 1_000, same, false);
    check(Purpose::Acme, "h", 1_000, |nonce| nonce[..nonce.len() - 1].to_owned(), false);
    check(Purpose::Acme, "h", 1_000, |nonce| format!("B{}", &nonce[1..]), false);
    check(Purpose::Acme, "h", 1_000, |_| String::new(), false);
}

#[test]
fn nonces_differ_and_another_secret_makes_other_nonces() {
    let rng = Counter(0.into());
    let now = Timestamp::from_unix_secs(5);
    let ours = NonceMint::new(&[1; 32]);
    let theirs = NonceMint::new(&[2; 32]);
    let first = ours.mint(Purpose::Quote, "m", now, &rng);
    assert_ne!(first, ours.mint(Purpose::Quote, "m", now, &rng));
    assert!(theirs.recognize(Purpose::Quote, "m", &first, 60, now).is_none());
}
