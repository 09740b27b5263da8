//! What `x509` lets through and what it refuses.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use proptest::prelude::*;

use super::*;

fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let length = match body.len() {
        short @ 0..=127 => vec![u8::try_from(short).unwrap()],
        middle @ 128..=255 => vec![0x81, u8::try_from(middle).unwrap()],
        long => [&[0x82][..], &u16::try_from(long).unwrap().to_be_bytes()].concat(),
    };
    [&[tag][..], &length, &body].concat()
}

fn oid(dotted: &str) -> Vec<u8> {
    ObjectIdentifier::new_unwrap(dotted).to_der().unwrap()
}

fn extension(dotted: &str, critical: bool, value: &[u8]) -> Vec<u8> {
    let flag: &[u8] = if critical { &[0x01, 0x01, 0xff] } else { &[] };
    tlv(0x30, &[&oid(dotted), flag, &tlv(0x04, &[value])])
}

fn ecdsa_sha256() -> Vec<u8> {
    tlv(0x30, &[&oid("1.2.840.10045.4.3.2")])
}

struct Sketch {
    serial: Vec<u8>,
    outer_algorithm: Vec<u8>,
    extensions: Vec<Vec<u8>>,
    version: Vec<u8>,
}

impl Default for Sketch {
    fn default() -> Self {
        Self {
            serial: vec![0x42],
            outer_algorithm: ecdsa_sha256(),
            extensions: Vec::new(),
            version: vec![0xa0, 3, 2, 1, 2],
        }
    }
}

impl Sketch {
    fn with(extensions: Vec<Vec<u8>>) -> Self {
        Self { extensions, ..Self::default() }
    }

    fn der(&self) -> Vec<u8> {
        let name = tlv(0x30, &[&tlv(0x31, &[&tlv(0x30, &[&oid("2.5.4.3"), &tlv(0x0c, &[b"test"])])])]);
        let validity = tlv(0x30, &[&tlv(0x17, &[b"260101000000Z"]), &tlv(0x18, &[b"99991231235959Z"])]);
        let list: Vec<&[u8]> = self.extensions.iter().map(Vec::as_slice).collect();
        let extensions = if list.is_empty() { Vec::new() } else { tlv(0xa3, &[&tlv(0x30, &list)]) };
        let tbs = tlv(
            0x30,
            &[
                &self.version,
                &tlv(0x02, &[&self.serial]),
                &ecdsa_sha256(),
                &name,
                &validity,
                &tlv(0x30, &[]),
                &p256_spki_der(&[4; 65]),
                &extensions,
            ],
        );
        tlv(0x30, &[&tbs, &self.outer_algorithm, &tlv(0x03, &[&[0], &[1, 2, 3]])])
    }
}

#[test]
fn facts_are_what_the_certificate_says() {
    let uri = tlv(0x86, &[b"spiffe://td/machine/m-1"]);
    let facts = parse_der(
        &Sketch::with(vec![
            extension(OID_BASIC_CONSTRAINTS, true, &tlv(0x30, &[])),
            extension(OID_KEY_USAGE, true, &[0x03, 0x02, 0x07, 0x80]),
            extension(OID_EXTENDED_KEY_USAGE, false, &tlv(0x30, &[&oid(EKU_CLIENT_AUTH), &oid(EKU_AK)])),
            extension(OID_SUBJECT_ALT_NAME, true, &tlv(0x30, &[&uri])),
        ])
        .der(),
    )
    .unwrap();
    assert_eq!(
        (facts.version, facts.serial.as_str(), facts.subject_empty, facts.is_ca),
        (3, "42", true, false)
    );
    assert_eq!(facts.public, PublicKeyKind::P256([4; 65]));
    assert_eq!(facts.names.uris, ["spiffe://td/machine/m-1"]);
    assert!(facts.has_san_critical && facts.has_eku(EKU_AK) && !facts.has_eku(EKU_SERVER_AUTH));
    assert_eq!(
        facts.key_usage,
        Some(KeyUsageBits { critical: true, digital_signature: true, key_cert_sign: false, crl_sign: false })
    );
    assert_eq!(facts.not_before, Timestamp::from_unix_secs(1_767_225_600));
    assert_eq!(facts.not_after, Timestamp::from_unix_secs(253_402_300_799));
    assert!(facts.is_valid_at(facts.not_before) && !facts.is_valid_at(facts.not_before.plus_secs(-1)));
    assert!(facts.is_valid_at(facts.not_after) && !facts.is_valid_at(facts.not_after.plus_secs(1)));
}

fn check(sketch: &Sketch, expected: X509Error) {
    assert_eq!(parse_der(&sketch.der()).map(|_| ()), Err(expected));
}

#[test]
fn ambiguous_certificates_are_no_certificates() {
    let none = tlv(0x30, &[]);
    check(&Sketch::with(vec![extension("1.2.3.4", true, &none)]), X509Error::UnknownCritical);
    check(
        &Sketch::with(vec![extension("1.2.3.4", false, &none), extension("1.2.3.4", false, &none)]),
        X509Error::Extensions,
    );
    check(&Sketch { serial: vec![0xff], ..Sketch::default() }, X509Error::Serial);
    check(&Sketch { serial: vec![0], ..Sketch::default() }, X509Error::Serial);
    check(&Sketch { serial: vec![0x11; 21], ..Sketch::default() }, X509Error::Serial);
    check(
        &Sketch { outer_algorithm: tlv(0x30, &[&oid("1.2.840.10045.4.3.3")]), ..Sketch::default() },
        X509Error::AlgorithmMismatch,
    );
    let old = Sketch {
        version: Vec::new(),
        extensions: vec![extension("1.2.3.4", false, &none)],
        ..Sketch::default()
    };
    check(&old, X509Error::Extensions);
    let mut trailing = Sketch::default().der();
    trailing.push(0);
    assert_eq!(parse_der(&trailing), Err(X509Error::Malformed));
    assert_eq!(parse_der(&vec![0x30; MAX_DER + 1]), Err(X509Error::TooLarge));
}

#[test]
fn an_endorsement_certificate_may_have_a_vendors_serial_and_extension() {
    let sketch = Sketch {
        serial: vec![0x80; 20],
        extensions: vec![extension("1.2.3.4", true, &tlv(0x30, &[]))],
        ..Sketch::default()
    };
    assert!(parse_endorsement_der(&sketch.der()).is_ok());
}

#[test]
fn an_empty_list_of_usages_is_no_usage_and_no_panic() {
    let facts =
        parse_der(&Sketch::with(vec![extension(OID_EXTENDED_KEY_USAGE, false, &tlv(0x30, &[]))]).der())
            .unwrap();
    assert!(facts.ekus.is_empty());
}

#[test]
fn a_permanent_identifier_reads_back_octet_for_octet_and_one_with_an_assigner_is_another_name() {
    let ours = permanent_identifier_der("m-1").unwrap();
    let assigned = tlv(
        0xa0,
        &[&oid("1.3.6.1.5.5.7.8.3"), &tlv(0xa0, &[&tlv(0x30, &[&tlv(0x0c, &[b"m-1"]), &oid("1.2.3")])])],
    );
    let names = AlternativeNames::parse(&tlv(0x30, &[&ours, &assigned])).unwrap();
    assert_eq!((names.permanent_identifiers, names.others), (vec!["m-1".to_owned()], 1));
}

#[test]
fn a_tpm_is_named_by_exactly_one_directory_name() {
    let attribute =
        |dotted: &str, text: &[u8]| tlv(0x31, &[&tlv(0x30, &[&oid(dotted), &tlv(0x0c, &[text])])]);
    let directory = |parts: &[&[u8]]| tlv(0xa4, &[&tlv(0x30, parts)]);
    let (maker, model, version) = (
        attribute("2.23.133.2.1", b"id:1"),
        attribute("2.23.133.2.2", b"swtpm"),
        attribute("2.23.133.2.3", b"id:2"),
    );
    let whole = directory(&[&maker, &model, &version]);
    let check = |parts: &[&[u8]], expected: Option<&str>| {
        let names = AlternativeNames::parse(&tlv(0x30, parts)).unwrap();
        assert_eq!(names.tpm_identity().map(|tpm| tpm.model).as_deref(), expected);
    };
    check(&[&whole], Some("swtpm"));
    check(&[&whole, &whole], None);
    check(&[&directory(&[&maker, &model])], None);
    check(&[&directory(&[&maker, &model, &model, &version])], None);
}

fn request(sign_with: &EcdsaKeyPair, claims: &EcdsaKeyPair, attributes: &[u8]) -> Vec<u8> {
    let point: [u8; 65] = claims.public_key().as_ref().try_into().unwrap();
    let info =
        tlv(0x30, &[&[0x02, 0x01, 0x00], &tlv(0x30, &[]), &p256_spki_der(&point), &tlv(0xa0, &[attributes])]);
    let signature = sign_with.sign(&SystemRandom::new(), &info).unwrap();
    tlv(0x30, &[&info, &ecdsa_sha256(), &tlv(0x03, &[&[0], signature.as_ref()])])
}

#[test]
fn a_request_counts_only_with_the_signature_of_its_own_key() {
    let key = || EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
    let (ours, theirs) = (key(), key());
    let facts = parse_csr_der(&request(&ours, &ours, &[])).unwrap();
    assert_eq!(facts.public.to_p256_uncompressed().unwrap().as_slice(), ours.public_key().as_ref());
    assert!(facts.subject_empty && facts.names.is_empty() && facts.others == 0);
    assert_eq!(parse_csr_der(&request(&ours, &theirs, &[])), Err(X509Error::BadSignature));

    let san = extension(OID_SUBJECT_ALT_NAME, false, &tlv(0x30, &[&tlv(0x82, &[b"evil.example"])]));
    let asked = tlv(0x30, &[&oid("1.2.840.113549.1.9.14"), &tlv(0x31, &[&tlv(0x30, &[&san])])]);
    let facts = parse_csr_der(&request(&ours, &ours, &asked)).unwrap();
    assert_eq!(facts.names.dns, ["evil.example"]);
}

proptest! {
    #[test]
    fn no_bytes_make_a_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = (parse_der(&bytes), parse_endorsement_der(&bytes), parse_csr_der(&bytes), AlternativeNames::parse(&bytes));
    }

    #[test]
    fn one_changed_byte_never_makes_a_parser_panic(at in 0_usize..10_000, to in any::<u8>()) {
        let uri = tlv(0x86, &[b"spiffe://td/machine/m-1"]);
        let names = tlv(0x30, &[&uri, &permanent_identifier_der("m-1").unwrap()]);
        let mut der = Sketch::with(vec![
            extension(OID_KEY_USAGE, true, &[0x03, 0x02, 0x07, 0x80]),
            extension(OID_EXTENDED_KEY_USAGE, false, &tlv(0x30, &[&oid(EKU_CLIENT_AUTH)])),
            extension(OID_SUBJECT_ALT_NAME, true, &names),
        ]).der();
        let at = at % der.len();
        der[at] = to;
        let _ = (parse_der(&der), parse_endorsement_der(&der));
    }
}
