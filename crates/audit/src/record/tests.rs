//! A record is what its bytes say, and there is one way to say it.

use super::*;

const AT: Timestamp = Timestamp::from_unix_millis(1_790_000_000_123);

fn begin() -> RecordBuilder {
    Record::new(Kind::Denial, AT, *b"0123456789abcdef")
}

#[test]
fn a_record_is_canonical_json_with_a_fixed_envelope() {
    let id = DecisionId::parse("dec_1").unwrap();
    let record =
        begin().decision(&id).with("reason", "pop.replayed").with("agent", "build-bot").build().unwrap();
    assert_eq!(
        std::str::from_utf8(record.bytes()).unwrap(),
        r#"{"agent":"build-bot","dec":"dec_1","kind":"denial","nonce":"MDEyMzQ1Njc4OWFiY2RlZg","reason":"pop.replayed","ts":1790000000123,"v":1}"#
    );
    assert_eq!(record.leaf_hash(), &leaf_hash(record.bytes()));
    let (again, members) = Record::parse(record.bytes()).unwrap();
    assert_eq!(again, record);
    assert_eq!(members.get("reason").and_then(Value::as_str), Some("pop.replayed"));
}

#[test]
fn a_record_cannot_speak_with_two_tongues() {
    #[track_caller]
    fn check(builder: RecordBuilder, name: &str) {
        assert_eq!(builder.build(), Err(RecordError::Twice { name: name.to_owned() }));
    }
    check(begin().with("a", "1").with("a", "2"), "a");
    check(begin().with("kind", "permit"), "kind");
    check(begin().with("v", "2"), "v");
    check(begin().with("KIND", "permit"), "kind");
    check(begin().with("dec", "dec_2"), "dec");
}

#[test]
fn a_value_without_a_canonical_form_is_refused() {
    let mut deep = Value::Null;
    for _ in 0..64 {
        deep = Value::List(vec![deep]);
    }
    for value in [Value::Float(f64::NAN), Value::Float(1.0), Value::Int(i64::MAX), deep] {
        assert_eq!(begin().with("x", value).build(), Err(RecordError::NotCanonical));
    }
}

#[test]
fn the_longest_record_fits_and_the_next_does_not() {
    let empty = begin().with("x", "").build().unwrap().bytes().len();
    let fits = "a".repeat(MAX_ENTRY_BYTES - empty);
    assert_eq!(begin().with("x", fits.as_str()).build().unwrap().bytes().len(), 65_535);
    assert_eq!(begin().with("x", fits + "a").build(), Err(RecordError::TooLong { bytes: 65_536 }));
}

#[test]
fn bytes_that_are_not_a_record_are_refused() {
    let good = begin().with("x", true).build().unwrap();
    let text = std::str::from_utf8(good.bytes()).unwrap();
    for wrong in [
        text.replace("\"v\":1", "\"v\":2"),
        text.replace("denial", "permit"),
        text.replace("MDEyMzQ1Njc4OWFiY2RlZg", "MDEyMzQ1Njc4OWFiY2Rl"),
        text.replace(":true", ": true"),
        text.replace("1790000000123", "1790000000123.0"),
        text.replace("1790000000123", "\"1790000000123\""),
        text.replacen('{', "{\"dec\":\"apr_1\",", 1),
        text.replacen('{', "{\"z\":1,", 1),
        format!("{text} "),
        String::new(),
    ] {
        assert_eq!(Record::parse(wrong.as_bytes()), Err(RecordError::NotARecord), "{wrong}");
    }
}

#[test]
fn every_kind_reads_back() {
    for kind in Kind::ALL {
        assert_eq!(Kind::parse(kind.as_str()), Some(kind));
    }
    assert_eq!(Kind::parse("Intent"), None);
}
