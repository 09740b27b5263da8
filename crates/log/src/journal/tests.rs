//! Frames, whole and torn.

use countersign_audit::record::Kind;
use countersign_proto::time::Timestamp;

use super::*;

fn record(i: u8) -> Record {
    Record::new(Kind::Access, Timestamp::from_unix_secs(1), [i; 16]).build().unwrap()
}

#[test]
fn a_frame_reads_back() {
    let records: Vec<Record> = (0..5).map(record).collect();
    let bytes = frame(7, &records);
    let entries = records.iter().map(Record::bytes).collect();
    assert_eq!(next_frame(&bytes), Next::Frame(Frame { first: 7, entries, length: bytes.len() }));
    let empty = frame(9, &[]);
    assert_eq!(next_frame(&empty), Next::Frame(Frame { first: 9, entries: Vec::new(), length: empty.len() }));
    assert_eq!(next_frame(&[]), Next::End);
}

#[test]
fn every_cut_and_every_flipped_bit_is_a_torn_tail() {
    let bytes = frame(7, &[record(1), record(2)]);
    for end in 1..bytes.len() {
        assert_eq!(next_frame(&bytes[..end]), Next::TornTail, "cut at {end}");
        let mut zeros = bytes.clone();
        zeros[end..].fill(0);
        assert_eq!(next_frame(&zeros), Next::TornTail, "zeros from {end}");
    }
    for at in 0..bytes.len() {
        let mut wrong = bytes.clone();
        wrong[at] ^= 4;
        assert_eq!(next_frame(&wrong), Next::TornTail, "byte {at}");
    }
}

#[test]
fn damage_before_a_whole_frame_is_not_taken_for_a_torn_tail() {
    let first = frame(0, &[record(1)]);
    let mut bytes = first.clone();
    bytes.extend(frame(1, &[record(2)]));
    for at in 0..first.len() {
        let mut wrong = bytes.clone();
        wrong[at] ^= 1;
        assert_eq!(next_frame(&wrong), Next::Damaged, "byte {at}");
    }
}

#[test]
fn segment_names_have_one_spelling() {
    assert_eq!(segment_path(0xabc), "journal/0000000000000abc");
    assert_eq!(segment_first("0000000000000abc"), Some(0xabc));
    for wrong in ["abc", "0000000000000ABC", "+000000000000abc", "0000000000000abc.tmp", ""] {
        assert_eq!(segment_first(wrong), None, "{wrong}");
    }
}
