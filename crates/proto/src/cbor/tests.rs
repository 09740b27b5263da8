//! What `cbor` lets through and what it refuses.

use proptest::prelude::*;

use super::*;

fn check(bytes: &[u8], expected: Result<Item, CborError>) {
    assert_eq!(Item::parse(bytes), expected, "{bytes:02x?}");
}

#[test]
fn numbers_have_one_form_only() {
    check(&[0x17], Ok(Item::Uint(23)));
    check(&[0x18, 24], Ok(Item::Uint(24)));
    check(&[0x18, 23], Err(CborError::NotShortest));
    check(&[0x19, 0, 255], Err(CborError::NotShortest));
    check(&[0x1b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], Ok(Item::Uint(u64::MAX)));
    check(&[0x26], Ok(Item::Neg(-7)));
    check(&[0x39, 1, 0], Ok(Item::Neg(-257)));
    check(&[0x3b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], Ok(Item::Neg(i64::MIN)));
    check(&[0x3b, 0x80, 0, 0, 0, 0, 0, 0, 0], Err(CborError::Unsupported));
}

#[test]
fn whatever_could_be_read_in_two_ways_is_refused() {
    check(&[], Err(CborError::Truncated));
    check(&[0x00, 0x00], Err(CborError::TrailingBytes));
    check(&[0x5f, 0x41, 0, 0xff], Err(CborError::Indefinite));
    check(&[0x9f, 0xff], Err(CborError::Indefinite));
    check(&[0xbf, 0xff], Err(CborError::Indefinite));
    check(&[0xa2, 0x01, 0x02, 0x01, 0x03], Err(CborError::DuplicateKey));
    check(&[0xa1, 0x80, 0x00], Err(CborError::Unsupported)); // array as key
    check(&[0xc0, 0x00], Err(CborError::Unsupported)); // tag
    check(&[0xf7], Err(CborError::Unsupported)); // undefined
    check(&[0xf9, 0, 0], Err(CborError::Unsupported)); // half float
    check(&[0xf8, 0x20], Err(CborError::Unsupported)); // simple
    check(&[0x62, 0xc3, 0x28], Err(CborError::NotUtf8));
}

#[test]
fn claimed_lengths_and_depth_cost_nothing() {
    check(&[0x5a, 0xff, 0xff, 0xff, 0xff], Err(CborError::Truncated));
    check(&[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], Err(CborError::Truncated));
    check(&[0xba, 0xff, 0xff, 0xff, 0xff], Err(CborError::Truncated));
    check(&[0x81; 10_000], Err(CborError::TooLarge));
    let mut wide = vec![0x99, 0x20, 0x00];
    wide.extend([0; 0x2000]);
    check(&wide, Err(CborError::TooLarge));
    check(&vec![0; MAX_BYTES + 1], Err(CborError::TooLarge));
}

#[test]
fn a_prefix_leaves_what_follows() {
    let (item, rest) = Item::parse_prefix(&[0xa1, 0x01, 0x02, 0xff]).unwrap();
    assert_eq!(item.get_int(1), Some(&Item::Uint(2)));
    assert_eq!(rest, [0xff]);
}

fn items() -> impl Strategy<Value = Item> {
    let leaf = prop_oneof![
        any::<u64>().prop_map(Item::Uint),
        (i64::MIN..0).prop_map(Item::Neg),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(Item::Bytes),
        ".{0,40}".prop_map(Item::Text),
        any::<bool>().prop_map(Item::Bool),
        Just(Item::Null),
    ];
    leaf.prop_recursive(4, 32, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Item::Array),
            prop::collection::vec(inner, 0..8)
                .prop_map(|values| Item::Map((0..).map(Item::Uint).zip(values).collect())),
        ]
    })
}

proptest! {
    #[test]
    fn an_item_reads_back(item in items()) {
        prop_assert_eq!(Item::parse(&item.to_bytes()), Ok(item));
    }

    #[test]
    fn no_bytes_make_it_panic_and_accepted_bytes_encode_to_themselves(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(item) = Item::parse(&bytes) { prop_assert_eq!(item.to_bytes(), bytes); }
    }
}
