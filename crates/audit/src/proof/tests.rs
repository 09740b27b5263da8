//! Proofs of single entries, and proofs of something else.

use std::collections::HashMap;

use countersign_proto::time::Timestamp;

use super::*;
use crate::note::{LogKey, Origin};
use crate::record::{Kind, Record};
use crate::sequencer::Sequencer;

const SIZE: u64 = 700;

fn key() -> LogKey {
    LogKey::from_seed(&[5; 32]).unwrap()
}

fn verifier() -> LogVerifier {
    key().verifier(&Origin::parse("test.example/log").unwrap())
}

fn entry(i: u64) -> Vec<u8> {
    let record = Record::new(Kind::Access, Timestamp::from_unix_secs(1), u128::from(i).to_be_bytes());
    record.build().unwrap().into_bytes()
}

fn log() -> HashMap<String, Vec<u8>> {
    let mut sequencer = Sequencer::new(Origin::parse("test.example/log").unwrap());
    (0..SIZE).for_each(|i| sequencer.replay(&entry(i)).unwrap());
    let mut writes = sequencer.take_full();
    writes.extend(sequencer.partial());
    let mut files: HashMap<_, _> =
        writes.into_iter().map(|write| (write.path.to_string(), write.bytes)).collect();
    files.insert("checkpoint".to_owned(), key().sign(&sequencer.checkpoint()).into_bytes());
    files
}

fn proof(files: &HashMap<String, Vec<u8>>, index: u64) -> Result<String, MakeError> {
    prove(&|path: &str| files.get(path).cloned(), &verifier(), index)
}

#[test]
fn every_entry_can_be_proved_and_only_that_entry() {
    let files = log();
    for index in [0, 1, 255, 256, 511, 512, SIZE - 1] {
        let text = proof(&files, index).unwrap();
        let proved = check(&text, &entry(index), &verifier()).unwrap();
        assert_eq!((proved.index(), proved.checkpoint().size), (index, SIZE));
        assert_eq!(check(&text, &entry(index + 1), &verifier()), Err(CheckError::NotThisEntry));
        assert_eq!(check(&text, b"", &verifier()), Err(CheckError::NotThisEntry));
    }
    assert_eq!(proof(&files, SIZE), Err(MakeError::Path(ProofError::OutOfRange)));
}

#[test]
fn a_changed_proof_proves_nothing() {
    let text = proof(&log(), 300).unwrap();
    for at in 0..text.len() {
        let mut bytes = text.clone().into_bytes();
        bytes[at] ^= 1;
        if let Ok(wrong) = String::from_utf8(bytes) {
            assert!(check(&wrong, &entry(300), &verifier()).is_err(), "byte {at}");
        }
        if text.is_char_boundary(at) {
            assert!(check(&text[..at], &entry(300), &verifier()).is_err(), "cut at {at}");
        }
    }
}

#[test]
fn a_proof_is_checked_against_the_right_log_and_key() {
    let text = proof(&log(), 3).unwrap();
    let other_key = LogKey::from_seed(&[6; 32]).unwrap();
    let other_log = Origin::parse("other.example/log").unwrap();
    for wrong in [other_key.verifier(verifier().origin()), key().verifier(&other_log)] {
        let error = check(&text, &entry(3), &wrong).unwrap_err();
        assert_eq!(error, CheckError::Checkpoint(NoteError::Unsigned));
    }
}

#[test]
fn an_extra_line_is_read_over_and_nothing_else_is() {
    let text = proof(&log(), 3).unwrap();
    let extra = text.replacen("\nindex", "\nextra aGVsbG8=\nindex", 1);
    assert!(check(&extra, &entry(3), &verifier()).is_ok());
    for (from, to) in [("@v1", "@v2"), ("index 3", "index 03"), ("index 3", "index +3"), ("index 3\n", "")] {
        let wrong = text.replacen(from, to, 1);
        assert_eq!(check(&wrong, &entry(3), &verifier()), Err(CheckError::Malformed), "{from} -> {to}");
    }
}

#[test]
fn damaged_tiles_make_no_proof() {
    let mut files = log();
    files.get_mut("tile/0/001").unwrap()[40] ^= 1;
    assert_eq!(proof(&files, 300), Err(MakeError::WrongTiles));
    files.remove("tile/0/001");
    assert!(matches!(proof(&files, 300), Err(MakeError::Path(ProofError::MissingNode { .. }))));
    files.remove("checkpoint");
    assert_eq!(proof(&files, 300), Err(MakeError::Checkpoint(NoteError::Malformed)));
}
