//! Paths as the specification's examples spell them, and tiles that lie about their length.

use proptest::prelude::*;

use super::*;

#[test]
fn paths_are_spelled_as_the_specification_does() {
    #[track_caller]
    fn check(path: TilePath, text: &str) {
        assert_eq!(path.to_string(), text);
        assert_eq!(TilePath::parse(text), Ok(path));
    }
    let partial = |kind, index, width| TilePath::with_width(kind, index, width).unwrap();
    check(TilePath::full(TileKind::Hashes(0), 0), "tile/0/000");
    check(TilePath::full(TileKind::Hashes(0), 1_234_067), "tile/0/x001/x234/067");
    check(TilePath::full(TileKind::Entries, 999), "tile/entries/999");
    check(TilePath::full(TileKind::Entries, 1000), "tile/entries/x001/000");
    check(partial(TileKind::Hashes(0), 273, 112), "tile/0/273.p/112");
    check(partial(TileKind::Hashes(1), 1, 17), "tile/1/001.p/17");
    check(partial(TileKind::Entries, 1_234_067, 1), "tile/entries/x001/x234/067.p/1");
    check(TilePath::full(TileKind::Hashes(63), u64::MAX), "tile/63/x018/x446/x744/x073/x709/x551/615");
}

#[test]
fn a_second_spelling_of_a_path_is_refused() {
    for text in [
        "",
        "tile/",
        "tile/0/",
        "tile/0/1",
        "tile/0/0001",
        "tile/0/x000/001",
        "tile/0/000/001",
        "tile/0/x001",
        "tile/00/001",
        "tile/64/001",
        "tile/-1/001",
        "tile/0/001.p/0",
        "tile/0/001.p/256",
        "tile/0/001.p/012",
        "tile/0/001.p/",
        "tile/data/001",
        "/tile/0/001",
        "tile/0/001/",
        "tile/0/x018/x446/x744/x073/x709/x551/616",
        "tile/0/+01",
        "tile/0/../001",
    ] {
        assert_eq!(TilePath::parse(text), Err(NotATilePath), "{text}");
    }
}

#[test]
fn a_bundle_gives_back_its_entries_and_refuses_any_other_count() {
    let mut bundle = Vec::new();
    for entry in [b"one".as_slice(), b"", &[0xff; 65_535]] {
        push_entry(&mut bundle, entry).unwrap();
    }
    assert_eq!(decode_entries(&bundle, 3).unwrap()[0], b"one");
    assert_eq!(decode_entries(&bundle, 2), Err(TileError::ExtraBytes));
    assert_eq!(decode_entries(&bundle, 4), Err(TileError::Truncated { at: 3 }));
    assert_eq!(decode_entries(&bundle[..bundle.len() - 1], 3), Err(TileError::Truncated { at: 2 }));
    assert_eq!(decode_entries(&bundle[..4], 3), Err(TileError::Truncated { at: 0 }));
    let before = bundle.clone();
    assert_eq!(push_entry(&mut bundle, &[0; 65_536]), Err(EntryTooLong));
    assert_eq!(bundle, before);
}

#[test]
fn a_hash_tile_is_exactly_as_long_as_its_width() {
    let hashes: Vec<Hash> = (0..3_u8).map(|i| Hash::of(&[i])).collect();
    let bytes = encode_hashes(&hashes);
    assert_eq!(decode_hashes(&bytes, 3), Ok(hashes));
    assert_eq!(decode_hashes(&bytes, 2), Err(TileError::ExtraBytes));
    assert_eq!(decode_hashes(&bytes, 4), Err(TileError::Truncated { at: 3 }));
    assert_eq!(decode_hashes(&bytes[..95], 3), Err(TileError::Truncated { at: 2 }));
}

#[test]
fn a_tile_is_as_wide_as_the_tree_allows() {
    #[track_caller]
    fn check(kind: TileKind, index: u64, size: u64, width: Option<u16>) {
        assert_eq!(TilePath::at_size(kind, index, size).map(|path| path.width()), width);
    }
    check(TileKind::Hashes(0), 0, 0, None);
    check(TileKind::Hashes(0), 0, 1, Some(1));
    check(TileKind::Hashes(0), 0, 300, Some(256));
    check(TileKind::Hashes(0), 1, 300, Some(44));
    check(TileKind::Hashes(1), 0, 300, Some(1));
    check(TileKind::Hashes(1), 0, 255, None);
    check(TileKind::Entries, 1, 300, Some(44));
    check(TileKind::Entries, 2, 300, None);
    check(TileKind::Hashes(63), 0, u64::MAX, None);
}

proptest! {
    #[test]
    fn every_path_reads_back(level in 0_u8..=63, index in any::<u64>(), width in 1_u16..=256, entries in any::<bool>()) {
        let kind = if entries { TileKind::Entries } else { TileKind::Hashes(level) };
        let path = TilePath::with_width(kind, index, width).unwrap();
        prop_assert_eq!(TilePath::parse(&path.to_string()), Ok(path));
    }

    #[test]
    fn bundles_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), width in 0_u16..300) {
        if let Ok(entries) = decode_entries(&bytes, width) {
            let mut again = Vec::new();
            for entry in entries {
                push_entry(&mut again, entry).unwrap();
            }
            prop_assert_eq!(again, bytes);
        }
    }
}
