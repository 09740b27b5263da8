//! What `json` lets through and what it refuses.

use proptest::prelude::*;

use super::*;

fn read(text: &str) -> Result<Value, JsonErrorKind> {
    parse(text.as_bytes(), &Limits::DEFAULT).map_err(|error| error.kind)
}

fn canonical(text: &str) -> String {
    String::from_utf8(read(text).unwrap().to_jcs()).unwrap()
}

#[test]
fn what_two_parsers_could_read_differently_is_refused() {
    use JsonErrorKind as K;
    let check = |text: &str, expected: K| assert_eq!(read(text), Err(expected), "{text}");
    check(r#"{"name":"ok","name":"bad"}"#, K::DuplicateKey);
    check(r#"{"name":"ok","Name":"bad"}"#, K::DuplicateKey);
    check(r#"{"name":"ok","n\u0061me":"bad"}"#, K::DuplicateKey);
    check(r#"{"a":[{"deep":{"secret":1,"ſecret":2}}]}"#, K::DuplicateKey);
    check("{\"task\":1,\"tas\u{212a}\":2}", K::DuplicateKey);
    check(r#"{"a\u0000":1}"#, K::NulInKey);
    check("\u{feff}{}", K::ByteOrderMark);
    check(r#""\ud800""#, K::LoneSurrogate);
    check(r#""\ud800\u0041""#, K::LoneSurrogate);
    check(r#""\udc00\ud800""#, K::LoneSurrogate);
    check("\"\u{ffff}\"", K::Noncharacter);
    check(r#""\ufdd0""#, K::Noncharacter);
    check("NaN", K::Unexpected);
    check("Infinity", K::Unexpected);
    check("-Infinity", K::Number);
    check("[1,]", K::Unexpected);
    check("[1 2]", K::Unexpected);
    check(r#"{"a":1,}"#, K::Unexpected);
    check("{a:1}", K::Unexpected);
    check("{'a':1}", K::Unexpected);
    check("/* x */ {}", K::Unexpected);
    check("{} // x", K::Trailing);
    check("{}{}", K::Trailing);
    check("{}\u{0}", K::Trailing);
    check("\u{a0}{}", K::Unexpected);
    check("\"a\nb\"", K::Control);
    check(r#""\x41""#, K::Escape);
    check(r#""\u00g1""#, K::Escape);
    check(r#""\u00"#, K::End);
    check(r#""abc"#, K::End);
    check("", K::End);
    check("tru", K::Unexpected);
    check("truex", K::Trailing);
}

#[test]
fn bytes_that_are_not_utf8_are_refused() {
    for bytes in [&b"\"\xff\""[..], b"\"\xed\xa0\x80\"", b"\"\xc0\xaf\"", b"{\"a\":\"\xf4\x90\x80\x80\"}"] {
        assert_eq!(parse(bytes, &Limits::DEFAULT).unwrap_err().kind, JsonErrorKind::Utf8);
    }
}

#[test]
fn numbers_mean_what_a_double_means_or_nothing() {
    use JsonErrorKind as K;
    let check = |text: &str, expected: Result<&str, K>| {
        assert_eq!(
            read(text).map(|value| String::from_utf8(value.to_jcs()).unwrap()),
            expected.map(str::to_owned),
            "{text}"
        );
    };
    check("1e3", Ok("1000"));
    check("1000.0", Ok("1000"));
    check("-0", Ok("0"));
    check("-0.0", Ok("0"));
    check("0e9", Ok("0"));
    check("9007199254740991", Ok("9007199254740991"));
    check("-9007199254740991", Ok("-9007199254740991"));
    check("9007199254740992", Err(K::NumberRange));
    check("9007199254740993", Err(K::NumberRange));
    check("9007199254740993.0", Err(K::NumberRange));
    check("9223372036854775808", Err(K::NumberRange));
    check("99999999999999999999999", Err(K::NumberRange));
    check("1e20", Err(K::NumberRange));
    check("1e400", Err(K::NumberRange));
    check("-1e400", Err(K::NumberRange));
    check("0.30000000000000004", Ok("0.30000000000000004"));
    check("4.50", Ok("4.5"));
    check("2e-3", Ok("0.002"));
    check("0.000000000000000000000000001", Ok("1e-27"));
    check("01", Err(K::Number));
    check("-", Err(K::Number));
    check("1.", Err(K::Number));
    check("1e", Err(K::Number));
    check(".5", Err(K::Unexpected));
    check("+1", Err(K::Unexpected));
    check("0x10", Err(K::Trailing));
    check("1_000", Err(K::Trailing));
}

#[test]
fn every_limit_is_exact() {
    let limits = Limits { max_bytes: 40, max_depth: 3, max_members: 5 };
    let check = |text: &str, expected: Option<JsonErrorKind>| {
        assert_eq!(parse(text.as_bytes(), &limits).err().map(|error| error.kind), expected, "{text}");
    };
    check("[[[1]]]", None);
    check("[[[[1]]]]", Some(JsonErrorKind::TooDeep));
    check("[[],[],[],[],[]]", None);
    check("[[],[],[],[],[],[]]", Some(JsonErrorKind::TooManyMembers));
    check(r#"{"a":[1,2,3,4]}"#, None);
    check(r#"{"a":[1,2,3,4,5]}"#, Some(JsonErrorKind::TooManyMembers));
    check(&format!("\"{}\"", "x".repeat(38)), None);
    check(&format!("\"{}\"", "x".repeat(39)), Some(JsonErrorKind::TooLarge));
    let bottomless = Limits { max_bytes: usize::MAX, max_depth: usize::MAX, max_members: usize::MAX };
    assert_eq!(parse(&vec![b'['; 100_000], &bottomless).unwrap_err().kind, JsonErrorKind::TooDeep);
}

#[test]
fn large_objects_refuse_duplicates_too() {
    let members = |last: &str| {
        let mut text = String::from("{");
        for at in 0..5000 {
            text.push_str(&format!("\"key{at}\":{at},"));
        }
        text + last + "}"
    };
    assert!(read(&members("\"last\":0")).is_ok());
    assert_eq!(read(&members("\"key17\":0")), Err(JsonErrorKind::DuplicateKey));
    assert_eq!(read(&members("\"KEY17\":0")), Err(JsonErrorKind::DuplicateKey));
}

#[test]
fn canonical_form_follows_rfc_8785() {
    // RFC 8785 §3.2.2 and §3.2.3, with the numbers beyond 2^53 left out: those are refused here.
    let given = r#"{"numbers":[4.50,2e-3,0.000000000000000000000000001],
        "string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals":[null,true,false]}"#;
    let expected = "{\"literals\":[null,true,false],\"numbers\":[4.5,0.002,1e-27],\
        \"string\":\"€$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}";
    assert_eq!(canonical(given), expected);
    let given = r#"{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh",
        "1":"One","\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis"}"#;
    let Value::Object(sorted) = read(&canonical(given)).unwrap() else { panic!("an object") };
    let order: Vec<&str> = sorted.iter().map(|(_, value)| value.as_str().unwrap()).collect();
    assert_eq!(
        order,
        [
            "Carriage Return",
            "One",
            "Control",
            "Latin Small Letter O With Diaeresis",
            "Euro Sign",
            "Emoji: Grinning Face",
            "Hebrew Letter Dalet With Dagesh"
        ]
    );
}

#[test]
fn types_are_read_from_the_same_strict_reading() {
    #[derive(Debug, PartialEq, ::serde::Serialize, ::serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        id: u64,
        name: Option<String>,
        kind: Kind,
        extra: Value,
    }
    #[derive(Debug, PartialEq, ::serde::Serialize, ::serde::Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Kind {
        Plain,
        Prefix(String),
    }
    let read = |text: &str| typed::<Sample>(text.as_bytes(), &Limits::DEFAULT);
    let sample = read(r#"{"id":7,"kind":{"prefix":"x"},"extra":{"a":[1,2.5,null]}}"#).unwrap();
    assert_eq!((sample.id, &sample.name, &sample.kind), (7, &None, &Kind::Prefix("x".into())));
    assert_eq!(from_serde(&sample).unwrap().into_typed::<Sample>().unwrap(), sample);
    assert!(read(r#"{"id":7,"kind":"plain","extra":null}"#).is_ok());
    for refused in [
        r#"{"id":7,"id":7,"kind":"plain","extra":1}"#,
        r#"{"id":-7,"kind":"plain","extra":1}"#,
        r#"{"id":7.5,"kind":"plain","extra":1}"#,
        r#"{"id":"7","kind":"plain","extra":1}"#,
        r#"{"id":7,"kind":"plain","extra":1,"more":1}"#,
        r#"{"id":7,"kind":{"plain":null,"prefix":"x"},"extra":1}"#,
    ] {
        assert!(read(refused).is_err(), "{refused}");
    }
    let cased: std::collections::BTreeMap<String, u8> = typed(br#"{"a":1,"A":2}"#, &Limits::DEFAULT).unwrap();
    assert_eq!(cased.len(), 2);
}

#[test]
fn objects_are_equal_whatever_their_order() {
    assert_eq!(read(r#"{"a":1,"b":[2]}"#), read(r#"{"b":[2],"a":1}"#));
    assert_ne!(read(r#"{"a":1,"b":[2]}"#), read(r#"{"b":[2],"a":1,"c":null}"#));
}

fn any_value() -> impl Strategy<Value = Value> {
    let text = any::<String>().prop_map(|text| text.replace(is_refused, "?"));
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        (-MAX_SAFE_INTEGER..=MAX_SAFE_INTEGER).prop_map(Value::Int),
        any::<f64>().prop_map(|double| Value::double(double).unwrap_or(Value::Float(0.5))),
        text.clone().prop_map(Value::Text),
    ];
    leaf.prop_recursive(5, 64, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::List),
            prop::collection::vec((text.clone(), inner), 0..8).prop_map(|members| {
                let mut object = Object::new();
                for (key, value) in members {
                    // A twin or a nul: the member is left out.
                    let _ = object.insert(key, value);
                }
                Value::Object(object)
            }),
        ]
    })
}

fn is_refused(character: char) -> bool {
    let code = u32::from(character);
    code & 0xfffe == 0xfffe || (0xfdd0..=0xfdef).contains(&code)
}

proptest! {
    #[test]
    fn what_is_printed_reads_back_the_same(value in any_value()) {
        let printed = value.to_jcs();
        prop_assert_eq!(parse(&printed, &Limits::DEFAULT).unwrap(), value);
    }

    #[test]
    fn canonical_form_is_a_fixed_point(value in any_value()) {
        let once = value.to_jcs();
        let twice = parse(&once, &Limits::DEFAULT).unwrap().to_jcs();
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_serde_json_agrees_on_what_is_accepted(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if parse(&bytes, &Limits::DEFAULT).is_ok() {
            prop_assert!(serde_json::from_slice::<serde_json::Value>(&bytes).is_ok());
        }
    }

    #[test]
    fn near_json_never_panics_and_serde_json_agrees(text in "[\\[\\]{}:,\"a\\\\u0-9dDe.+ -]{0,40}") {
        if let Ok(value) = parse(text.as_bytes(), &Limits::DEFAULT) {
            let other: serde_json::Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(from_serde(&other).unwrap(), value);
        }
    }
}

#[test]
fn insert_refuses_exactly_the_keys_that_fold_alike() {
    // The long s, the Kelvin sign, sharp s and a ligature become ASCII letters; the others only look or fold oddly.
    const LETTERS: [char; 14] = ['s', 'S', 'k', 'K', '_', '[', '{', '@', 'ſ', '\u{212a}', 'ß', 'ﬁ', 'é', 'É'];
    let one = LETTERS.iter().map(char::to_string);
    let two = LETTERS.iter().flat_map(|first| LETTERS.iter().map(move |second| format!("{first}{second}")));
    let keys: Vec<String> =
        one.chain(two).chain(["".into(), "fi".into(), "FI".into(), "kS".into()]).collect();
    for first in &keys {
        for second in &keys {
            let mut object = Object::new();
            object.insert(first.as_str(), 1).unwrap();
            let refused = object.insert(second.as_str(), 2).is_err();
            assert_eq!(refused, folded(first) == folded(second), "{first:?} {second:?}");
        }
    }
}
