//! A published log of 300 entries, and everything that can be done to it.

use std::collections::BTreeMap;

use countersign_proto::time::Timestamp;

use super::*;
use crate::note::{LogKey, Origin};
use crate::record::{Kind, Record};
use crate::sequencer::{Sequencer, Write};

type Files = BTreeMap<String, Vec<u8>>;

fn key() -> LogKey {
    LogKey::from_seed(&[3; 32]).unwrap()
}

fn origin() -> Origin {
    Origin::parse("test.example/log").unwrap()
}

fn verifier() -> LogVerifier {
    key().verifier(&origin())
}

fn record(i: u64, salt: u64) -> Record {
    let nonce = (u128::from(salt) << 64 | u128::from(i)).to_be_bytes();
    Record::new(Kind::Access, Timestamp::from_unix_secs(1), nonce).build().unwrap()
}

/// A published log of `size` entries; the newest `forged` of them are other entries.
fn published(size: u64, forged: u64) -> Files {
    let mut sequencer = Sequencer::new(origin());
    let records = (0..size).map(|i| record(i, u64::from(i >= size - forged))).collect();
    let _ = sequencer.stage(records).durable();
    let mut writes = sequencer.take_full();
    writes.extend(sequencer.partial());
    let file = |write: Write| (write.path.to_string(), write.bytes);
    let mut files: Files = writes.into_iter().map(file).collect();
    files.insert("checkpoint".to_owned(), key().sign(&sequencer.checkpoint()).into_bytes());
    files
}

fn verify(files: &Files) -> Result<Summary, VerifyError> {
    verify_log(&|path: &str| files.get(path).cloned(), &verifier())
}

/// The entries of a log of 300, changed by `change`, under the checkpoint and tiles of the unchanged log.
fn with_entries(change: impl FnOnce(&mut Vec<Vec<u8>>)) -> Files {
    let mut files = published(300, 0);
    let mut entries: Vec<Vec<u8>> = (0..300).map(|i| record(i, 0).into_bytes()).collect();
    change(&mut entries);
    for (path, range) in [("tile/entries/000", 0..256), ("tile/entries/001.p/44", 256..entries.len())] {
        let mut bundle = Vec::new();
        for entry in &entries[range] {
            tile::push_entry(&mut bundle, entry).unwrap();
        }
        files.insert(path.to_owned(), bundle);
    }
    files
}

#[test]
fn an_untouched_log_verifies_at_every_size() {
    for size in [0, 1, 255, 256, 257, 300, 512, 65_536, 65_793] {
        let summary = verify(&published(size, 0)).unwrap();
        assert_eq!(summary.checkpoint().size, size);
    }
}

#[test]
fn each_flipped_byte_of_each_file_is_noticed_and_its_entry_named() {
    let good = published(300, 0);
    assert_eq!(
        good.keys().collect::<Vec<_>>(),
        [
            "checkpoint",
            "tile/0/000",
            "tile/0/001.p/44",
            "tile/1/000.p/1",
            "tile/entries/000",
            "tile/entries/001.p/44"
        ]
    );
    let entry_bytes = 2 + record(0, 0).bytes().len();
    for (path, bytes) in &good {
        for at in 0..bytes.len() {
            let mut files = good.clone();
            files.get_mut(path).unwrap()[at] ^= 0x10;
            let error = verify(&files).expect_err(path);
            let expected = match path.as_str() {
                "checkpoint" => None,
                "tile/0/000" => Some(at / 32),
                "tile/0/001.p/44" => Some(256 + at / 32),
                "tile/1/000.p/1" => Some(0),
                "tile/entries/000" => Some(at / entry_bytes),
                _ => Some(256 + at / entry_bytes),
            };
            let in_length = path.starts_with("tile/entries/") && at % entry_bytes < 2;
            if in_length {
                // A length that lies moves everything behind it; the entry is not before the lie.
                assert!(error.index >= expected.map(|e| e as u64), "{path} byte {at}: {error:?}");
            } else {
                assert_eq!(error.index, expected.map(|e| e as u64), "{path} byte {at}: {error:?}");
            }
        }
    }
}

#[test]
fn each_cut_and_each_extra_byte_is_noticed() {
    let good = published(300, 0);
    for (path, bytes) in &good {
        for end in 0..bytes.len() {
            let mut files = good.clone();
            files.get_mut(path).unwrap().truncate(end);
            assert!(verify(&files).is_err(), "{path} cut at {end}");
        }
        let mut files = good.clone();
        files.get_mut(path).unwrap().push(b'\n');
        assert!(verify(&files).is_err(), "{path} with a byte more");
        files.remove(path);
        assert!(verify(&files).is_err(), "{path} gone");
    }
}

#[test]
fn rearranged_entries_are_named() {
    #[track_caller]
    fn check(change: impl FnOnce(&mut Vec<Vec<u8>>), index: u64) {
        assert_eq!(verify(&with_entries(change)).unwrap_err().index, Some(index));
    }
    assert!(verify(&with_entries(|_| ())).is_ok());
    check(|entries| entries.swap(17, 18), 17);
    check(|entries| entries.swap(3, 299), 3);
    check(|entries| entries[200] = entries[199].clone(), 200);
    check(|entries| entries.insert(9, entries[8].clone()), 9);
    check(|entries| drop(entries.remove(270)), 270);
    check(|entries| drop(entries.pop()), 299);
    check(|entries| entries[299] = record(299, 1).into_bytes(), 299);
}

#[test]
fn a_tile_forged_together_with_its_entry_is_found_one_level_up() {
    let (good, forged) = (published(300, 0), published(300, 300));
    let mut files = good.clone();
    for path in ["tile/entries/000", "tile/0/000"] {
        files.insert(path.to_owned(), forged[path].clone());
    }
    let error = verify(&files).unwrap_err();
    assert_eq!((error.index, matches!(error.fault, Fault::Tile { .. })), (Some(0), true));

    let mut files = good;
    for path in ["tile/entries/001.p/44", "tile/0/001.p/44"] {
        files.insert(path.to_owned(), forged[path].clone());
    }
    assert_eq!(verify(&files), Err(VerifyError { index: None, fault: Fault::Root }));
}

#[test]
fn the_full_tile_stands_in_for_a_partial_one_that_was_tidied_away() {
    let mut files = published(512, 0);
    files.insert("checkpoint".to_owned(), published(300, 0).remove("checkpoint").unwrap());
    files.insert("tile/1/000.p/1".to_owned(), published(300, 0).remove("tile/1/000.p/1").unwrap());
    assert_eq!(verify(&files).unwrap().checkpoint().size, 300);
}

#[test]
fn a_log_put_back_to_yesterday_contradicts_what_was_remembered() {
    let remembered = verify(&published(300, 0)).unwrap().checkpoint().clone();
    let since = |files: Files| {
        verify_log_since(&|path: &str| files.get(path).cloned(), &verifier(), &remembered)
            .map_err(|error| error.fault)
    };
    assert!(since(published(300, 0)).is_ok());
    assert!(since(published(700, 0)).is_ok());
    assert_eq!(since(published(299, 0)), Err(Fault::RolledBack { remembered: 300 }));
    assert_eq!(since(published(300, 1)), Err(Fault::Forked));
    assert_eq!(since(published(700, 500)), Err(Fault::Forked));
}

#[test]
fn the_checkpoint_of_another_log_or_key_is_refused() {
    let files = published(3, 0);
    let read = |path: &str| files.get(path).cloned();
    let other = Origin::parse("other.example/log").unwrap();
    let other_key = LogKey::from_seed(&[4; 32]).unwrap();
    for verifier in [key().verifier(&other), other_key.verifier(&origin())] {
        let fault = verify_log(&read, &verifier).unwrap_err().fault;
        assert_eq!(fault, Fault::Checkpoint(NoteError::Unsigned));
    }
}

#[test]
fn entries_are_visited_once_in_order() {
    let files = published(600, 0);
    let mut seen = Vec::new();
    verify_entries(&|path: &str| files.get(path).cloned(), &verifier(), |index, entry| {
        assert_eq!(entry, record(index, 0).bytes());
        seen.push(index);
    })
    .unwrap();
    assert_eq!(seen, (0..600).collect::<Vec<_>>());
}
