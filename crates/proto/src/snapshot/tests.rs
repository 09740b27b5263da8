//! What `snapshot` lets through and what it refuses.

use super::*;
use crate::jose::SoftwareEd25519;

const ISSUER: &str = "https://as.example";
const NOW: Timestamp = Timestamp::from_unix_secs(1_790_000_000);

fn body(version: u64) -> SnapshotBody {
    let machine = MachineEntry {
        spiffe: SpiffeId::parse("spiffe://td/machine/m-1").unwrap(),
        jkt: Thumbprint::from_bytes([1; 32]),
        state: MachineState::Active,
        generation: 3,
        changed_at: Timestamp::from_unix_millis(1_789_999_000_500),
    };
    let agent = AgentEntry {
        state: AgentState::Suspended,
        generation: 2,
        groups: vec!["ci".into()],
        sponsor: PersonId::parse("alice").unwrap(),
    };
    SnapshotBody {
        version,
        issuer: ISSUER.into(),
        trust_domain: TrustDomain::parse("td").unwrap(),
        token_keys: Value::Null,
        approval_keys: Value::Null,
        machine_roots: vec![],
        machines: [(MachineId::parse("m-1").unwrap(), machine)].into(),
        agents: [(AgentId::parse("bot").unwrap(), agent)].into(),
        revoked_runs: [RunId::parse("run_1").unwrap()].into(),
        revoked_tasks: BTreeSet::new(),
        policies: PolicyBundle { revision: 1, cedar: String::new(), digest: Sha256Digest::of(b"") },
        upstreams: BTreeMap::new(),
    }
}

#[test]
fn a_sealed_snapshot_opens_for_its_lease_and_not_longer() {
    let key = SoftwareEd25519::generate().unwrap();
    let sealed = SignedSnapshot::seal(&body(7), &key, NOW, DEFAULT_LEASE_MILLIS).unwrap();
    let check = |after_millis: i64, expected: Result<(), SnapshotError>| {
        let opened = open(&sealed, &key.public_jwk(), ISSUER, NOW.plus_millis(after_millis), 7);
        assert_eq!(opened.map(|opened| assert_eq!(opened, body(7))), expected, "{after_millis}");
    };
    check(0, Ok(()));
    check(9_999, Ok(()));
    check(10_000, Err(SnapshotError::Stale));
    check(-5_000, Ok(()));
    check(-5_001, Err(SnapshotError::Stale));
    for lease_ms in [0, -1, MAX_LEASE_MILLIS + 1] {
        let sealed = SignedSnapshot::seal(&body(7), &key, NOW, lease_ms).unwrap();
        assert_eq!(open(&sealed, &key.public_jwk(), ISSUER, NOW, 0).map(drop), Err(SnapshotError::Stale));
    }
}

#[test]
fn altered_foreign_or_older_snapshots_do_not_open() {
    let (key, other) = (SoftwareEd25519::generate().unwrap(), SoftwareEd25519::generate().unwrap());
    let sealed = SignedSnapshot::seal(&body(7), &key, NOW, 10_000).unwrap();
    let newer = SignedSnapshot::seal(&body(8), &key, NOW, 10_000).unwrap();
    let check = |snapshot: &SignedSnapshot, issuer: &str, not_before: u64, expected: SnapshotError| {
        let outcome = open(snapshot, &key.public_jwk(), issuer, NOW, not_before);
        assert_eq!(outcome.unwrap_err(), expected);
    };
    check(&sealed, ISSUER, 8, SnapshotError::Rollback { found: 7, known: 8 });
    check(&sealed, "https://other.example", 0, SnapshotError::Issuer);
    check(
        &SignedSnapshot { body: newer.body.clone(), lease: sealed.lease.clone() },
        ISSUER,
        0,
        SnapshotError::Body,
    );
    let mut altered = sealed.body.to_vec();
    let at = altered.len() / 2;
    altered[at] ^= 1;
    check(
        &SignedSnapshot { body: altered.into(), lease: sealed.lease.clone() },
        ISSUER,
        0,
        SnapshotError::Body,
    );
    let forged = SignedSnapshot::seal(&body(9), &other, NOW, 10_000).unwrap();
    check(&forged, ISSUER, 0, SnapshotError::Lease(JwsError::Signature));
    let lying = Lease { version: 99, ..Lease::on(&body(7), Sha256Digest::of(&sealed.body), NOW, 10_000) };
    let lying = SignedSnapshot { body: sealed.body.clone(), lease: lying.sign(&key).unwrap() };
    check(&lying, ISSUER, 0, SnapshotError::Body);
    let borrowed = Lease {
        server: "https://b".into(),
        ..Lease::on(&body(7), Sha256Digest::of(&sealed.body), NOW, 10_000)
    };
    let borrowed = SignedSnapshot { body: sealed.body.clone(), lease: borrowed.sign(&key).unwrap() };
    check(&borrowed, "https://b", 0, SnapshotError::Body);
}

#[test]
fn a_renewed_lease_is_on_the_body_we_hold() {
    let key = SoftwareEd25519::generate().unwrap();
    let digest = Sha256Digest::of(b"body");
    let lease = Lease::on(&body(7), digest, NOW, 10_000).sign(&key).unwrap();
    let check = |version: u64, digest: &Sha256Digest, expected: Result<(), SnapshotError>| {
        let outcome = check_lease(&lease, &key.public_jwk(), ISSUER, NOW, version, digest);
        assert_eq!(outcome.map(drop), expected);
    };
    check(7, &digest, Ok(()));
    check(6, &digest, Err(SnapshotError::Body));
    check(8, &digest, Err(SnapshotError::Rollback { found: 7, known: 8 }));
    check(7, &Sha256Digest::of(b"other"), Err(SnapshotError::Body));
}

#[test]
fn what_was_attested_before_a_machine_changed_counts_no_more() {
    let mut entry = body(1).machines.into_values().next().unwrap();
    let check = |entry: &MachineEntry, att_time: i64, outdated: bool| {
        assert_eq!(entry.outdates(att_time), outdated, "{att_time}");
    };
    check(&entry, 1_789_998_999, true);
    check(&entry, 1_789_999_000, true);
    check(&entry, 1_789_999_001, false);
    entry.changed_at = Timestamp::from_unix_millis(1_789_999_000_000);
    check(&entry, 1_789_999_000, false);
    // A snapshot of a server that does not say it.
    let mut text = serde_json::to_value(&entry).unwrap();
    text.as_object_mut().unwrap().remove("changed_at");
    let silent: MachineEntry = serde_json::from_value(text).unwrap();
    check(&silent, 0, false);
}
