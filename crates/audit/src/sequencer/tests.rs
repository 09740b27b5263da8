//! The sequencer against the plain tree, at sizes around the tile borders.

use std::collections::HashMap;

use countersign_proto::time::Timestamp;

use super::*;
use crate::record::Kind;
use crate::tile::TiledTree;

fn origin() -> Origin {
    Origin::parse("test.example/log").unwrap()
}

fn record(i: u64) -> Record {
    let nonce = u128::from(i).to_be_bytes();
    Record::new(Kind::Access, Timestamp::from_unix_secs(1), nonce).build().unwrap()
}

fn store(files: &mut HashMap<String, Vec<u8>>, writes: Vec<Write>) {
    files.extend(writes.into_iter().map(|write| (write.path.to_string(), write.bytes)));
}

#[test]
fn a_dropped_batch_leaves_no_trace() {
    let mut sequencer = Sequencer::new(origin());
    let _ = sequencer.stage(vec![record(0)]).durable();
    let before = sequencer.checkpoint();
    drop(sequencer.stage(vec![record(1), record(2)]));
    assert_eq!(sequencer.checkpoint(), before);
    let receipt = sequencer.stage(vec![record(3)]).durable().remove(0);
    assert_eq!(receipt.index(), 1);
    assert!(receipt.is_for(&record(3)) && !receipt.is_for(&record(1)));
}

#[test]
fn receipts_name_place_and_size() {
    let mut sequencer = Sequencer::new(origin());
    let receipts = sequencer.stage((0..3).map(record).collect()).durable();
    let seen: Vec<_> = receipts.iter().map(|r| (r.index(), r.size())).collect();
    assert_eq!(seen, [(0, 3), (1, 3), (2, 3)]);
    assert_eq!(receipts[0].origin(), &origin());
}

#[test]
fn tiles_rebuild_the_tree_at_every_border() {
    for size in [0, 1, 255, 256, 257, 511, 512, 600, 65_535, 65_536, 65_537, 66_000] {
        let mut sequencer = Sequencer::new(origin());
        let mut files = HashMap::new();
        let mut plain = Frontier::default();
        for i in 0..size {
            let record = record(i);
            plain.push(*record.leaf_hash());
            let _ = sequencer.stage(vec![record]).durable();
            store(&mut files, sequencer.take_full());
        }
        store(&mut files, sequencer.partial());
        let read = |path: &str| files.get(path).cloned();
        assert_eq!(sequencer.checkpoint().root, plain.root(), "size {size}");
        assert_eq!(tree::root(&TiledTree::new(&read, size), size).unwrap(), plain.root(), "size {size}");

        // Resuming at the last full bundle and replaying the rest is the same log.
        let aligned = size / TILE_WIDTH * TILE_WIDTH;
        let full = |path: &str| read(path).filter(|_| !path.contains(".p/"));
        let mut resumed = Sequencer::resume(origin(), aligned, &full).unwrap();
        for i in aligned..size {
            resumed.replay(record(i).bytes()).unwrap();
        }
        assert_eq!(resumed.checkpoint(), sequencer.checkpoint(), "size {size}");
        assert_eq!(resumed.partial(), sequencer.partial(), "size {size}");
    }
}

#[test]
fn resuming_needs_whole_tiles() {
    let none = |_: &str| None;
    assert_eq!(Sequencer::resume(origin(), 255, &none).err(), Some(ResumeError::Unaligned { size: 255 }));
    let missing = ResumeError::BadTile { path: "tile/0/000".to_owned() };
    assert_eq!(Sequencer::resume(origin(), 256, &none).err(), Some(missing.clone()));
    let short = |_: &str| Some(vec![0; 8191]);
    assert_eq!(Sequencer::resume(origin(), 256, &short).err(), Some(missing));
}
