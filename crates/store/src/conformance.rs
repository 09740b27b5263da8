//! What every back end must do, as one suite. It is ordinary code so that a back end in another crate can run it.
//!
//! It panics at the first broken promise, naming it; it is meant for tests and nothing else.
#![expect(clippy::panic, clippy::expect_used, reason = "a test suite reports by panicking")]

use std::sync::Arc;

use countersign_proto::time::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::aggregate::{Aggregate, Store, Stored};
use crate::backend::{
    Backend, ConsumeKind, MAX_BODY_BYTES, MAX_KEY_BYTES, MAX_OPS, MAX_PAGE, Op, Page, Row, StoreError,
};

/// Many askers at one moment.
const CROWD: usize = 50;

/// Runs everything. `open(name)` opens the store called `name`, empty at first, and opens the same one
/// again after the last handle was dropped. Needs a multi-threaded tokio runtime to mean anything for the races.
///
/// # Panics
/// If the back end breaks a promise.
pub async fn suite<F: Fn(&str) -> Arc<dyn Backend>>(open: F) {
    rows_have_versions(open("versions")).await;
    a_stale_update_conflicts(open("conflicts")).await;
    a_transaction_is_all_or_nothing(open("atomic")).await;
    an_expectation_guards_a_transaction(open("expect")).await;
    unique_values_have_one_owner(open("unique")).await;
    indexes_follow_their_row(open("indexes")).await;
    lists_are_paged_in_order(open("pages")).await;
    limits_are_refused(open("limits")).await;
    names_are_used_once(open("consume")).await;
    one_of_a_crowd_consumes(open("crowd")).await;
    one_of_a_crowd_updates(open("update-crowd")).await;
    neighbours_in_a_commit_fail_alone(open("neighbours")).await;
    collecting_forgets_only_the_expired(open("collect")).await;
    collecting_opens_no_replay_window(open("horizon")).await;
    aggregates_come_back_as_they_were(open("aggregates")).await;
    what_was_answered_survives_a_restart(&open).await;
}

fn insert(kind: &str, id: &str, body: &[u8]) -> Op {
    let (kind, id, body) = (kind.to_owned(), id.to_owned(), body.to_vec());
    Op::Insert { kind, id, body, indexes: Vec::new(), unique: Vec::new() }
}

fn update(kind: &str, id: &str, expected_version: u64, body: &[u8]) -> Op {
    let (kind, id, body) = (kind.to_owned(), id.to_owned(), body.to_vec());
    Op::Update { kind, id, expected_version, body, indexes: Vec::new(), unique: Vec::new() }
}

fn delete(kind: &str, id: &str, expected_version: u64) -> Op {
    Op::Delete { kind: kind.to_owned(), id: id.to_owned(), expected_version }
}

fn expect_version(kind: &str, id: &str, version: u64) -> Op {
    Op::Expect { kind: kind.to_owned(), id: id.to_owned(), version }
}

fn consume(kind: ConsumeKind, id: &str, keep_until_secs: i64) -> Op {
    Op::Consume { kind, id: id.to_owned(), keep_until: Timestamp::from_unix_secs(keep_until_secs) }
}

fn with_keys(op: Op, new_indexes: &[(&str, &str)], new_unique: &[(&str, &str)]) -> Op {
    let owned = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>()
    };
    match op {
        Op::Insert { kind, id, body, .. } => {
            Op::Insert { kind, id, body, indexes: owned(new_indexes), unique: owned(new_unique) }
        }
        Op::Update { kind, id, expected_version, body, .. } => Op::Update {
            kind,
            id,
            expected_version,
            body,
            indexes: owned(new_indexes),
            unique: owned(new_unique),
        },
        Op::Delete { .. } | Op::Expect { .. } | Op::Consume { .. } => panic!("only rows have keys"),
    }
}

fn conflict(kind: &str, id: &str) -> Result<(), StoreError> {
    Err(StoreError::Conflict { kind: kind.to_owned(), id: id.to_owned() })
}

fn exists(kind: &str, id: &str, index: Option<&str>) -> Result<(), StoreError> {
    Err(StoreError::Exists { kind: kind.to_owned(), id: id.to_owned(), index: index.map(str::to_owned) })
}

async fn check(backend: &Arc<dyn Backend>, claim: &str, ops: Vec<Op>, expected: Result<(), StoreError>) {
    assert_eq!(backend.transact(ops).await, expected, "{claim}");
}

async fn row(backend: &Arc<dyn Backend>, kind: &str, id: &str) -> Option<(u64, Vec<u8>)> {
    backend.get(kind, id).await.expect("a read works").map(|Row { version, body }| (version, body))
}

async fn rows_have_versions(backend: Arc<dyn Backend>) {
    let b = &backend;
    assert_eq!(row(b, "agent", "a").await, None, "nothing is there at first");
    check(b, "a new row", vec![insert("agent", "a", b"one")], Ok(())).await;
    assert_eq!(row(b, "agent", "a").await, Some((1, b"one".to_vec())), "inserted as version 1");
    check(b, "the same id again", vec![insert("agent", "a", b"x")], exists("agent", "a", None)).await;
    check(b, "the same id, another kind", vec![insert("machine", "a", b"m")], Ok(())).await;
    check(b, "an update", vec![update("agent", "a", 1, b"two")], Ok(())).await;
    assert_eq!(row(b, "agent", "a").await, Some((2, b"two".to_vec())), "updated to version 2");
    check(b, "a deletion", vec![delete("agent", "a", 2)], Ok(())).await;
    assert_eq!(row(b, "agent", "a").await, None, "deleted");
    assert_eq!(row(b, "machine", "a").await, Some((1, b"m".to_vec())), "the other kind is untouched");
    check(b, "update of nothing", vec![update("agent", "a", 2, b"x")], Err(StoreError::NotFound)).await;
    check(b, "deletion of nothing", vec![delete("agent", "a", 2)], Err(StoreError::NotFound)).await;
    check(b, "ids are bytes: A is not a", vec![insert("machine", "A", b"big")], Ok(())).await;
    check(b, "an empty transaction", Vec::new(), Ok(())).await;
}

async fn a_stale_update_conflicts(backend: Arc<dyn Backend>) {
    let b = &backend;
    check(b, "a row", vec![insert("k", "i", b"1")], Ok(())).await;
    check(b, "first writer", vec![update("k", "i", 1, b"2")], Ok(())).await;
    check(b, "second writer", vec![update("k", "i", 1, b"3")], conflict("k", "i")).await;
    check(b, "a version from the future", vec![update("k", "i", 7, b"3")], conflict("k", "i")).await;
    check(b, "a stale deletion", vec![delete("k", "i", 1)], conflict("k", "i")).await;
    assert_eq!(row(b, "k", "i").await, Some((2, b"2".to_vec())), "the first writer's change stands");
}

async fn a_transaction_is_all_or_nothing(backend: Arc<dyn Backend>) {
    let b = &backend;
    check(b, "a row", vec![insert("k", "old", b"1")], Ok(())).await;
    let steps = vec![
        insert("k", "new", b"n"),
        update("k", "old", 1, b"2"),
        consume(ConsumeKind::Invite, "invite", 100),
        delete("k", "absent", 1),
    ];
    check(b, "its last step fails", steps, Err(StoreError::NotFound)).await;
    assert_eq!(row(b, "k", "new").await, None, "its insertion did not happen");
    assert_eq!(row(b, "k", "old").await, Some((1, b"1".to_vec())), "its update did not happen");
    check(b, "its consumption did not happen", vec![consume(ConsumeKind::Invite, "invite", 100)], Ok(()))
        .await;
    let chain =
        vec![insert("k", "x", b"1"), update("k", "x", 1, b"2"), delete("k", "x", 2), insert("k", "x", b"3")];
    check(b, "steps see the ones before them", chain, Ok(())).await;
    assert_eq!(row(b, "k", "x").await, Some((1, b"3".to_vec())), "the end of the chain");
}

async fn an_expectation_guards_a_transaction(backend: Arc<dyn Backend>) {
    let b = &backend;
    check(b, "a policy", vec![insert("policy", "p", b"1")], Ok(())).await;
    let guarded = |version, id| vec![expect_version("policy", "p", version), insert("grant", id, b"g")];
    check(b, "as it was read", guarded(1, "first"), Ok(())).await;
    check(b, "the policy changes", vec![update("policy", "p", 1, b"2")], Ok(())).await;
    check(b, "no longer as it was read", guarded(1, "second"), conflict("policy", "p")).await;
    assert_eq!(row(b, "grant", "second").await, None, "nothing was granted");
    check(b, "absence as expected", vec![expect_version("policy", "none", 0)], Ok(())).await;
    check(
        b,
        "absence is not version 1",
        vec![expect_version("policy", "none", 1)],
        conflict("policy", "none"),
    )
    .await;
}

async fn unique_values_have_one_owner(backend: Arc<dyn Backend>) {
    let b = &backend;
    let named = |id, ek: &str| with_keys(insert("machine", id, b"m"), &[], &[("ek", ek)]);
    check(b, "first owner", vec![named("one", "EK1")], Ok(())).await;
    check(b, "second owner", vec![named("two", "EK1")], exists("machine", "two", Some("ek"))).await;
    assert_eq!(row(b, "machine", "two").await, None, "the second owner is not stored");
    check(b, "another value", vec![named("two", "EK2")], Ok(())).await;
    let take = with_keys(update("machine", "two", 1, b"m"), &[], &[("ek", "EK1")]);
    check(b, "taking it by update", vec![take], exists("machine", "two", Some("ek"))).await;
    let keep = with_keys(update("machine", "one", 1, b"m"), &[], &[("ek", "EK1")]);
    check(b, "keeping one's own", vec![keep], Ok(())).await;
    let other = with_keys(insert("other", "x", b"o"), &[], &[("ek", "EK1")]);
    check(b, "the same value in another kind", vec![other], Ok(())).await;
    check(b, "the owner goes", vec![delete("machine", "one", 2)], Ok(())).await;
    check(b, "the value is free again", vec![named("three", "EK1")], Ok(())).await;
    assert_eq!(b.find("machine", "ek", "EK1").await, Ok(vec!["three".to_owned()]), "unique values are found");

    let mut crowd = JoinSet::new();
    for number in 0..CROWD {
        let backend = Arc::clone(b);
        let op = with_keys(insert("machine", &format!("c{number}"), b"m"), &[], &[("ek", "EK9")]);
        crowd.spawn(async move { backend.transact(vec![op]).await.is_ok() });
    }
    let winners = crowd.join_all().await.into_iter().filter(|won| *won).count();
    assert_eq!(winners, 1, "of a crowd one owns a unique value");
}

async fn indexes_follow_their_row(backend: Arc<dyn Backend>) {
    let b = &backend;
    let of = |id, sponsor: &str| with_keys(insert("agent", id, b"a"), &[("sponsor", sponsor)], &[]);
    check(b, "three agents", vec![of("c", "ann"), of("a", "ann"), of("b", "bob")], Ok(())).await;
    let find =
        |value: &'static str| async move { b.find("agent", "sponsor", value).await.expect("a read works") };
    assert_eq!(find("ann").await, ["a", "c"], "found in order");
    let moved = with_keys(update("agent", "a", 1, b"a"), &[("sponsor", "bob"), ("sponsor", "bob")], &[]);
    check(b, "one changes sponsor", vec![moved], Ok(())).await;
    assert_eq!(find("ann").await, ["c"], "gone from the old value");
    assert_eq!(find("bob").await, ["a", "b"], "there under the new one");
    check(b, "one goes", vec![delete("agent", "b", 1)], Ok(())).await;
    assert_eq!(find("bob").await, ["a"], "gone with its row");
    assert_eq!(find("nobody").await, [""; 0], "an unknown value finds nothing");
    assert_eq!(b.find("machine", "sponsor", "ann").await, Ok(Vec::new()), "kinds have their own indexes");
}

async fn lists_are_paged_in_order(backend: Arc<dyn Backend>) {
    let b = &backend;
    let total = MAX_PAGE + 5;
    let ops = (0..total).map(|number| insert("k", &format!("{number:05}"), b"x")).collect();
    check(b, "many rows", ops, Ok(())).await;
    check(b, "a foreign row", vec![insert("l", "00000", b"x")], Ok(())).await;
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = b.list("k", &Page { after: after.clone(), limit: 300 }).await.expect("a read works");
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        seen.extend(page.into_iter().map(|(id, _)| id));
    }
    let all: Vec<String> = (0..total).map(|number| format!("{number:05}")).collect();
    assert_eq!(seen, all, "every row once, in order");
    let greedy = b.list("k", &Page { after: None, limit: usize::MAX }).await.expect("a read works");
    assert_eq!(greedy.len(), MAX_PAGE, "a page has a limit");
    let ops =
        (0..total).map(|number| with_keys(insert("m", &format!("{number:05}"), b"x"), &[("n", "v")], &[]));
    check(b, "many rows under one index value", ops.collect(), Ok(())).await;
    assert_eq!(b.find("m", "n", "v").await, Ok(all), "a find misses none");
}

async fn limits_are_refused(backend: Arc<dyn Backend>) {
    let b = &backend;
    let long = "x".repeat(MAX_KEY_BYTES + 1);
    let refused = |what| Err(StoreError::TooLarge(what));
    check(b, "a long id", vec![insert("k", &long, b"")], refused("key")).await;
    check(b, "a long value", vec![with_keys(insert("k", "i", b""), &[("n", &long)], &[])], refused("key"))
        .await;
    check(b, "a long nonce", vec![consume(ConsumeKind::AcmeNonce, &long, 1)], refused("key")).await;
    check(b, "a large body", vec![insert("k", "i", &vec![0; MAX_BODY_BYTES + 1])], refused("body")).await;
    let many = (0..=MAX_OPS).map(|_| expect_version("k", "i", 0)).collect();
    check(b, "many steps", many, refused("operations in a transaction")).await;
    check(b, "the largest body", vec![insert("k", "i", &vec![7; MAX_BODY_BYTES])], Ok(())).await;
    assert_eq!(row(b, "k", "i").await, Some((1, vec![7; MAX_BODY_BYTES])), "and it comes back");
}

async fn names_are_used_once(backend: Arc<dyn Backend>) {
    let b = &backend;
    let used = |kind| Err(StoreError::Consumed { kind });
    check(b, "first use", vec![consume(ConsumeKind::DpopJti, "j", 100)], Ok(())).await;
    check(b, "second use", vec![consume(ConsumeKind::DpopJti, "j", 100)], used(ConsumeKind::DpopJti)).await;
    let later = vec![consume(ConsumeKind::DpopJti, "j", 999)];
    check(b, "second use with a later end", later, used(ConsumeKind::DpopJti)).await;
    check(b, "another namespace", vec![consume(ConsumeKind::PopJti, "j", 100)], Ok(())).await;
    let twice = vec![consume(ConsumeKind::Invite, "i", 100), consume(ConsumeKind::Invite, "i", 100)];
    check(b, "twice in one transaction", twice, used(ConsumeKind::Invite)).await;
    check(b, "which used it not at all", vec![consume(ConsumeKind::Invite, "i", 100)], Ok(())).await;
}

async fn one_of_a_crowd_consumes(backend: Arc<dyn Backend>) {
    let mut crowd = JoinSet::new();
    for _ in 0..CROWD {
        let backend = Arc::clone(&backend);
        crowd.spawn(async move { backend.transact(vec![consume(ConsumeKind::Approval, "apr", 100)]).await });
    }
    let answers = crowd.join_all().await;
    let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1, "of {CROWD} at one moment exactly one succeeds");
    let used = Err(StoreError::Consumed { kind: ConsumeKind::Approval });
    assert!(lost.iter().all(|answer| *answer == used), "the others hear that it was used: {lost:?}");
}

async fn one_of_a_crowd_updates(backend: Arc<dyn Backend>) {
    check(&backend, "a row", vec![insert("k", "i", b"0")], Ok(())).await;
    let mut crowd = JoinSet::new();
    for number in 0..CROWD {
        let backend = Arc::clone(&backend);
        let op = update("k", "i", 1, number.to_string().as_bytes());
        crowd.spawn(async move { (number, backend.transact(vec![op]).await) });
    }
    let answers = crowd.join_all().await;
    let winners: Vec<usize> =
        answers.iter().filter(|(_, answer)| answer.is_ok()).map(|(number, _)| *number).collect();
    let [winner] = winners[..] else { panic!("one update wins, not {winners:?}") };
    let conflicts = answers.iter().filter(|(_, answer)| *answer == conflict("k", "i")).count();
    assert_eq!(conflicts, CROWD - 1, "the others conflict");
    assert_eq!(
        row(&backend, "k", "i").await,
        Some((2, winner.to_string().into_bytes())),
        "the winner's change stands"
    );
}

async fn neighbours_in_a_commit_fail_alone(backend: Arc<dyn Backend>) {
    check(&backend, "a row", vec![insert("k", "taken", b"0")], Ok(())).await;
    let mut crowd = JoinSet::new();
    for number in 0..CROWD * 4 {
        let backend = Arc::clone(&backend);
        crowd.spawn(async move {
            let name = if number % 2 == 0 { format!("free{number}") } else { "taken".to_owned() };
            let first = insert("k", &format!("first{number}"), b"f");
            (number, backend.transact(vec![first, insert("k", &name, b"n")]).await)
        });
    }
    for (number, answer) in crowd.join_all().await {
        let first = row(&backend, "k", &format!("first{number}")).await.is_some();
        assert_eq!(answer.is_ok(), number % 2 == 0, "transaction {number} answers for itself: {answer:?}");
        assert_eq!(first, answer.is_ok(), "transaction {number} is whole or absent");
    }
}

async fn collecting_forgets_only_the_expired(backend: Arc<dyn Backend>) {
    let b = &backend;
    let names = |range: std::ops::Range<i64>| {
        range.map(|secs| consume(ConsumeKind::AcmeNonce, &format!("n{secs}"), secs)).collect::<Vec<_>>()
    };
    check(b, "nonces ending at 0 to 99 s", names(0..100), Ok(())).await;
    assert_eq!(b.collect(Timestamp::from_unix_secs(50)).await, Ok(50), "those before 50 s are forgotten");
    assert_eq!(b.collect(Timestamp::from_unix_secs(50)).await, Ok(0), "once");
    assert_eq!(b.collect(Timestamp::from_unix_secs(10)).await, Ok(0), "an earlier clock forgets nothing");
    for secs in [50, 51, 99] {
        let again = vec![consume(ConsumeKind::AcmeNonce, &format!("n{secs}"), secs)];
        let used = Err(StoreError::Consumed { kind: ConsumeKind::AcmeNonce });
        check(b, "an unexpired nonce stays used", again, used).await;
    }
}

async fn collecting_opens_no_replay_window(backend: Arc<dyn Backend>) {
    let b = &backend;
    check(b, "first use", vec![consume(ConsumeKind::DpopJti, "j", 1_000)], Ok(())).await;
    assert_eq!(b.collect(Timestamp::from_unix_secs(9_000)).await, Ok(1), "the clock jumped ahead");
    // The clock is right again; the proof is fresh by its own word, and its first use is forgotten.
    let replay = b.transact(vec![consume(ConsumeKind::DpopJti, "j", 1_000)]).await;
    assert!(matches!(replay, Err(StoreError::Unavailable(_))), "a replay is not taken for new: {replay:?}");
    check(b, "beyond the horizon all is well", vec![consume(ConsumeKind::DpopJti, "k", 9_000)], Ok(())).await;
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Ship {
    name: String,
    captain: String,
    call_sign: String,
}

impl Aggregate for Ship {
    const KIND: &'static str = "ship";
    fn id(&self) -> String {
        self.name.clone()
    }
    fn indexes(&self) -> Vec<(String, String)> {
        vec![("captain".to_owned(), self.captain.clone())]
    }
    fn unique(&self) -> Vec<(String, String)> {
        vec![("call-sign".to_owned(), self.call_sign.clone())]
    }
}

fn ship(name: &str, captain: &str, call_sign: &str) -> Ship {
    Ship { name: name.to_owned(), captain: captain.to_owned(), call_sign: call_sign.to_owned() }
}

async fn aggregates_come_back_as_they_were(backend: Arc<dyn Backend>) {
    let store = Store::new(Arc::clone(&backend));
    let beagle = ship("beagle", "fitzroy", "BGL");
    store.insert(&beagle).await.expect("stored");
    store.insert(&ship("endeavour", "cook", "EDV")).await.expect("stored");
    let taken = store.insert(&ship("resolution", "cook", "EDV")).await;
    assert_eq!(taken, exists("ship", "resolution", Some("call-sign")), "a unique value is refused");

    let read: Stored<Ship> = store.load("beagle").await.expect("a read works").expect("it is there");
    assert_eq!(read, Stored { version: 1, value: beagle.clone() }, "as it was");
    let new = Ship { captain: "stokes".to_owned(), ..beagle };
    store.update(&read, &new).await.expect("updated");
    assert_eq!(store.update(&read, &new).await, conflict("ship", "beagle"), "a second update from one read");
    let found = store.find::<Ship>("captain", "stokes").await.expect("a read works");
    assert_eq!(found, [Stored { version: 2, value: new.clone() }], "found by its new index");
    let one = store.find_one::<Ship>("call-sign", "EDV").await.expect("a read works");
    assert_eq!(
        one.map(|stored| stored.value.name).as_deref(),
        Some("endeavour"),
        "found by its unique value"
    );
    let names: Vec<String> = store
        .all::<Ship>()
        .await
        .expect("a read works")
        .into_iter()
        .map(|stored| stored.value.name)
        .collect();
    assert_eq!(names, ["beagle", "endeavour"], "all of them, in order");

    let renamed =
        store.update(&Stored { version: 2, value: new.clone() }, &ship("erebus", "ross", "X")).await;
    assert!(matches!(renamed, Err(StoreError::Corrupt(_))), "an update does not rename: {renamed:?}");
    let stale =
        store.transaction().consume(ConsumeKind::Invite, "i", Timestamp::from_unix_secs(9)).delete(&read);
    assert_eq!(stale.commit().await, conflict("ship", "beagle"), "a stale deletion");
    let spent = store.consume(ConsumeKind::Invite, "i", Timestamp::from_unix_secs(9)).await;
    assert_eq!(spent, Ok(()), "took nothing with it");

    check(&backend, "a row that is no ship", vec![insert("ship", "raft", b"{}")], Ok(())).await;
    let raft = store.load::<Ship>("raft").await;
    assert!(matches!(raft, Err(StoreError::Corrupt(_))), "what does not parse is not guessed at: {raft:?}");
}

async fn what_was_answered_survives_a_restart<F: Fn(&str) -> Arc<dyn Backend>>(open: &F) {
    let backend = open("restart");
    let first = with_keys(insert("k", "i", b"1"), &[("n", "v")], &[("u", "w")]);
    check(&backend, "a row", vec![first, consume(ConsumeKind::Approval, "apr", 100)], Ok(())).await;
    check(
        &backend,
        "its update",
        vec![with_keys(update("k", "i", 1, b"2"), &[("n", "v2")], &[("u", "w")])],
        Ok(()),
    )
    .await;
    assert_eq!(backend.collect(Timestamp::from_unix_secs(50)).await, Ok(0), "a horizon");
    drop(backend);

    let backend = open("restart");
    let b = &backend;
    assert_eq!(row(b, "k", "i").await, Some((2, b"2".to_vec())), "the row is as it was left");
    assert_eq!(b.find("k", "n", "v2").await, Ok(vec!["i".to_owned()]), "its index, too");
    assert_eq!(b.find("k", "n", "v").await, Ok(Vec::new()), "and only the last one");
    let again = vec![consume(ConsumeKind::Approval, "apr", 100)];
    check(b, "used stays used", again, Err(StoreError::Consumed { kind: ConsumeKind::Approval })).await;
    let thief = with_keys(insert("k", "j", b"1"), &[], &[("u", "w")]);
    check(b, "unique stays unique", vec![thief], exists("k", "j", Some("u"))).await;
    let old = b.transact(vec![consume(ConsumeKind::Approval, "old", 49)]).await;
    assert!(matches!(old, Err(StoreError::Unavailable(_))), "the horizon stays: {old:?}");
}
